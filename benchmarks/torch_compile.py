"""Compare torch.compile's backends and torch itself on torchvision's networks.

``python benchmarks/torch_compile.py --help`` lists the options. Each measurement is one process of
benchmarks/torch_compile_worker.py; the backends alternate over several rounds. torch.compile's own backend (inductor)
may freeze the weights, as convlane does; it caches what it has compiled in files, so a second run starts sooner.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from itertools import product
from pathlib import Path

import peers
from peers import Row, WorkerError, run_worker

from convlane.cli._common import positive, thread_count

_TORCH = ("torch", "torchvision")
RUNTIMES = {"convlane": _TORCH, "inductor": _TORCH, "eager": _TORCH}
NETWORKS = (
    *("resnet50", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny"),
    "deeplabv3_resnet50",
)
BEGIN, END = "<!-- torch_compile: begin -->", "<!-- torch_compile: end -->"
_WORKER = Path(__file__).with_name("torch_compile_worker.py")


def main(argv=None):
    args = parse(argv)
    rows, report = peers.timed(compare, args, args.runtimes, RUNTIMES)
    report["size"] = args.size
    text = "\n".join([*peers.summary(report), "", *peers.table(rows, args.runtimes)])
    peers.publish(args, "torch_compile", report, text, BEGIN, END)
    return peers.exit_status(rows)


def parse(argv):
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(prog="torch_compile", description="Compare torch.compile's backends.")
    cpus = sorted({1, len(os.sched_getaffinity(0))})
    add = parser.add_argument
    add("--models", type=peers.list_of(str), default=list(NETWORKS), help="default: %(default)s")
    add("--runtimes", type=peers.list_of(peers.runtime_of(RUNTIMES)), default=list(RUNTIMES), help="default: all")
    add("--threads", type=peers.list_of(thread_count), default=cpus, help="default: one and all")
    add("--batch", type=peers.list_of(positive), default=[1, 8], help="images per call, default 1,8")
    add("--size", type=positive, default=224, help="height and width of an image, default 224")
    add("--rounds", type=positive, default=3, help="processes per runtime and row, default 3")
    add("--seconds", type=peers.seconds, default=1.0, help="timed calls per process, default 1")
    add("--out", type=Path, default=Path("results"), help="folder of torch_compile.json")
    add("--markdown", type=Path, help="also rewrite the results in this file, between its markers")
    return parser.parse_args(argv)


def compare(args, runtimes):
    """Measure every row."""
    rows = []
    for model, threads, batch in product(args.models, args.threads, args.batch):
        row = Row(model, threads, batch, {name: [] for name in runtimes})
        peers.take_turns(row, args.rounds, partial(measure, row, args=args))
        rows.append(row)
    return rows


def measure(row, name, args):
    """Add one process's times to the row, or the reason why there are none."""
    task = {"model": row.model, "runtime": name, "threads": row.threads, "batch": row.batch}
    try:
        row.ms[name] += run_worker(_WORKER, **task, size=args.size, seconds=args.seconds)
    except WorkerError as error:
        row.problems[name] = str(error)


if __name__ == "__main__":
    peers.handle_signals()
    sys.exit(main())
