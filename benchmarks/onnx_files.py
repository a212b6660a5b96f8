"""Compare convlane with ONNX Runtime and OpenVINO on ONNX files: ``python benchmarks/onnx_files.py FILE[:SHAPE]...``.

A shape is written as 1x3x640x640; the default is the shape that the file declares, with ``--batch`` and ``--size`` for
dimensions that are open. Each measurement is one process of benchmarks/onnx_files_worker.py, and the runtimes take
turns over several rounds. If a shape differs from the sizes that the file declares, those are replaced by open ones.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import peers
from peers import Row, WorkerError, run_worker

from convlane.cli._common import positive, thread_count

RUNTIMES = {"convlane": ("onnx",), "onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
BEGIN, END = "<!-- onnx_files: begin -->", "<!-- onnx_files: end -->"
_WORKER = Path(__file__).with_name("onnx_files_worker.py")


@dataclass(frozen=True)
class File:
    """A network, and the shape of its input if it was given."""

    path: Path
    shape: tuple[int, ...] | None

    def __str__(self):
        size = " " + "x".join(map(str, self.shape)) if self.shape else ""
        return self.path.stem + size


def main(argv=None):
    args = parse(argv)
    if args.smoke:
        with tempfile.TemporaryDirectory(prefix="convlane-onnx-") as folder:
            args.files = [_small(Path(folder))]
            return run(args)
    return run(args)


def run(args):
    """Measure and report."""
    rows, report = peers.timed(compare, args, args.runtimes, RUNTIMES)
    text = "\n".join([*peers.summary(report), "", *peers.table(rows, args.runtimes)])
    peers.publish(args, "onnx_files", report, text, BEGIN, END)
    return peers.exit_status(rows)


def parse(argv):
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(prog="onnx_files", description="Compare runtimes on ONNX files.")
    cpus = sorted({1, len(os.sched_getaffinity(0))})
    add = parser.add_argument
    add("files", nargs="*", type=_file, metavar="FILE[:SHAPE]", help="a network, and the shape of its input")
    add("--runtimes", type=peers.list_of(peers.runtime_of(RUNTIMES)), default=list(RUNTIMES), help="default: all")
    add("--threads", type=peers.list_of(thread_count), default=cpus, help="default: one and all")
    add("--batch", type=positive, default=1, help="images per call where the file leaves it open, default 1")
    add("--size", type=positive, default=224, help="size of dimensions that the file leaves open, default 224")
    add("--rounds", type=positive, default=5, help="processes per runtime and row, default 5")
    add("--seconds", type=peers.seconds, default=1.0, help="timed calls per process, default 1")
    add("--out", type=Path, default=Path("results"), help="folder of onnx_files.json")
    add("--markdown", type=Path, help="also rewrite the results in this file, between its markers")
    add("--smoke", action="store_true", help="a few calls of a small network, to check that everything runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.rounds, args.seconds, args.threads = 1, 0.0, [1]
    elif not args.files:
        parser.error("the following arguments are required: FILE")
    return args


def compare(args, runtimes):
    """Measure every row."""
    rows = []
    for file, threads in product(args.files, args.threads):
        row = Row(str(file), threads, file.shape[0] if file.shape else args.batch, {name: [] for name in runtimes})
        peers.take_turns(row, args.rounds, partial(measure, row, file=file, args=args))
        rows.append(row)
    return rows


def measure(row, name, file, args):
    """Add one process's times to the row, or the reason why there are none."""
    task = {"path": str(file.path), "shape": file.shape, "batch": args.batch, "size": args.size}
    try:
        row.ms[name] += run_worker(_WORKER, **task, runtime=name, threads=row.threads, seconds=args.seconds)
    except WorkerError as error:
        row.problems[name] = str(error)


def _file(text):
    """Argument type: a path, optionally followed by a colon and a shape."""
    found = re.fullmatch(r"(.+?)(?::(\d+(?:x\d+)*))?", text)
    if found is None or not Path(found[1]).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return File(Path(found[1]), tuple(map(int, found[2].split("x"))) if found[2] else None)


def _small(folder):
    """Write a small network."""
    import convlane
    from convlane import nn

    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    convlane.onnx.export(network, folder / "small.onnx", (None, 3, None, None))
    return File(folder / "small.onnx", (1, 3, 32, 32))


if __name__ == "__main__":
    peers.handle_signals()
    sys.exit(main())
