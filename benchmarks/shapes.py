"""Compare single convolutions with torch's: ``python benchmarks/shapes.py --help``.

Each runtime is one process of benchmarks/shapes_worker.py, and they take turns: while one measures, the others wait for
their next task, without spinning. Filters of images of one channel are compared with SciPy and OpenCV as well. The
method is described in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import peers
from peer_worker import TOLERANCE, relative_error
from peers import Row, started

from convlane import _core
from convlane.cli._common import positive, thread_count

MODULES = {"convlane": "convlane", "torch": "torch", "scipy": "scipy", "opencv": "cv2"}
PACKAGES = {"convlane": (), "torch": ("torch",), "scipy": ("scipy",), "opencv": ("opencv-python-headless",)}
SHAPES = Path(__file__).parents[1] / "tests" / "shapes" / "conv2d.json"
NUMBERS = ("batch", "channels", "height", "width", "filters", "groups")
PAIRS = ("kernel", "stride", "padding", "dilation")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""The variables that limit torch: some pointwise convolutions are a matrix product of MKL, others are ATen's own."""
_LARGEST_OF_SMOKE = 100_000_000  # multiply-adds
_WORKER = Path(__file__).with_name("shapes_worker.py")


def main(argv=None):
    args = parse(argv)
    runtimes = [name for name in args.runtimes if importlib.util.find_spec(MODULES[name])]
    for name in args.runtimes:
        if name not in runtimes:
            print(f"{name} is left out: {MODULES[name]} is not installed", file=sys.stderr)
    rows, report = peers.timed(compare, args, runtimes, PACKAGES)
    report["instruction set"] = args.isa or report["instruction set"]
    for entry, row in zip(report["rows"], rows, strict=True):
        entry |= {"kind": row.kind, "shape": row.shape}
    kinds = by_kind(rows)
    report["kinds"] = kinds
    print("\n".join([*peers.summary(report), "", *kind_table(kinds)]))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "shapes.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any(row.problems for row in rows) else 0


def parse(argv):
    """Return the checked arguments, with the shapes instead of the name of their file."""
    parser = argparse.ArgumentParser(prog="shapes", description="Compare single convolutions with other runtimes.")
    add = parser.add_argument
    add("--shapes", type=Path, default=SHAPES, help="a JSON list of shapes, default: %(default)s")
    add("--kinds", type=peers.list_of(str), help="only these kinds, as the table names them")
    add("--runtimes", type=peers.list_of(peers.runtime_of(MODULES)), default=list(MODULES), help="default: all")
    add("--isa", choices=_core.supported_isas(), help="instruction set of convlane and oneDNN, default: the best")
    add("--threads", type=peers.list_of(thread_count), default=[1], help="default: one")
    add("--rounds", type=positive, default=3, help="turns of each runtime with a shape, default 3")
    add("--seconds", type=peers.seconds, default=0.1, help="timed calls in a turn, default 0.1")
    add("--seed", type=int, default=0, help="seed of the weights and images, default 0")
    add("--smoke", action="store_true", help="a small shape of each kind, once, to check that everything runs")
    add("--out", type=Path, default=Path("results"), help="folder of shapes.json")
    args = parser.parse_args(argv)
    if "convlane" not in args.runtimes:
        parser.error("argument --runtimes: convlane must be among them")
    if args.seed < 0:
        parser.error(f"argument --seed: must be at least 0, got {args.seed}")
    try:
        args.shapes = read_shapes(args.shapes)
    except (OSError, ValueError) as error:
        parser.error(f"argument --shapes: {error}")
    if args.kinds:
        unknown = set(args.kinds) - {kind_of(shape) for shape in args.shapes}
        if unknown:
            parser.error(f"argument --kinds: no shape is of the kind {', '.join(sorted(unknown))}")
        args.shapes = [shape for shape in args.shapes if kind_of(shape) in args.kinds]
    if args.smoke:
        args.rounds, args.seconds = 1, 0.0
        small = [shape for shape in args.shapes if multiply_adds(shape) <= _LARGEST_OF_SMOKE]
        args.shapes = list({kind_of(shape): shape for shape in small}.values())
    return args


def read_shapes(path):
    """Return the shapes in a file; ValueError says which one is invalid."""
    shapes = json.loads(path.read_text())
    if not isinstance(shapes, list) or not shapes:
        raise ValueError(f"{path} is not a list of shapes")
    for shape in shapes:
        if not isinstance(shape, dict) or shape.keys() != {*NUMBERS, *PAIRS}:
            raise ValueError(f"a shape has the entries {', '.join((*NUMBERS, *PAIRS))}, got {shape}")
        pairs = [shape[name] for name in PAIRS]
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"{', '.join(PAIRS)} are pairs, got {shape}")
        least = {**dict.fromkeys(NUMBERS, 1), **dict.fromkeys(PAIRS, 1), "padding": 0}
        for name, value in shape.items():
            if any(type(n) is not int or n < least[name] for n in (value if name in PAIRS else [value])):
                raise ValueError(f"{name} must be at least {least[name]}, got {shape}")
        if shape["channels"] % shape["groups"] or shape["filters"] % shape["groups"]:
            raise ValueError(f"groups must divide channels and filters, got {shape}")
        if min(output_size(shape)) < 1:
            raise ValueError(f"the result would be empty: {shape}")
    return shapes


def output_size(shape):
    """Return height and width of the result."""
    sizes = (shape["height"], shape["width"]), *(shape[name] for name in PAIRS)
    return tuple(
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(*sizes, strict=True)
    )


def multiply_adds(shape):
    """Return the multiply-adds of a direct convolution, including those with padding."""
    pixels, taps = math.prod(output_size(shape)), math.prod(shape["kernel"])
    return shape["batch"] * pixels * taps * shape["filters"] * shape["channels"] // shape["groups"]


def kind_of(shape):
    """Return the kind to which a shape belongs."""
    channels, filters, groups = shape["channels"], shape["filters"], shape["groups"]
    kernel, stride = tuple(shape["kernel"]), max(shape["stride"])
    if groups > 1:
        return "depthwise" if channels == groups else "grouped"
    if channels == filters == 1:
        return "image filter"
    if channels <= 4:
        return "few input channels"
    if filters <= 4:
        return "few output channels"
    if 1 in (shape["height"], shape["width"]) and kernel != (1, 1):
        return "1-D"
    if shape["dilation"] != [1, 1]:
        return "dilated"
    if kernel in ((1, 1), (3, 3)):
        return f"{kernel[0]}x{kernel[1]}" + (f" stride {stride}" if stride > 1 else "")
    return "other dense kernels"


def label_of(shape):
    """Return a short description of a shape, without default settings."""
    n, c, h, w = (shape[name] for name in ("batch", "channels", "height", "width"))
    text = f"{n}x" * (n > 1) + f"{c}x{h}x{w} to {shape['filters']} by {shape['kernel'][0]}x{shape['kernel'][1]}"
    for name, usual in {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}.items():
        a, b = shape[name]
        if shape[name] != usual:
            text += f" {name[0]}{a}" + (f"x{b}" if a != b else "")
    return text + (f" g{shape['groups']}" if shape["groups"] > 1 else "")


class ShapeRow(Row):
    """One convolution in one setting."""

    def __init__(self, shape, threads, runtimes):
        super().__init__(label_of(shape), threads, shape["batch"], {name: [] for name in runtimes})
        self.shape, self.kind = shape, kind_of(shape)


def compare(args, runtimes):
    """Measure every row."""
    rows = []
    for threads in args.threads:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convlane-shapes-"))
            ask = {name: stack.enter_context(worker(name, threads, args.isa)) for name in runtimes}
            for shape in args.shapes:
                row = ShapeRow(shape, threads, runtimes)
                task = {"shape": shape, "seed": args.seed, "seconds": args.seconds}
                for number in range(args.rounds):
                    first = number % len(runtimes)  # each round begins with another runtime
                    for name in runtimes[first:] + runtimes[:first]:
                        measure(row, name, ask[name], task, folder)
                check(row, folder)
                rows.append(row)
                print(line_of(row), file=sys.stderr, flush=True)
    return rows


@contextlib.contextmanager
def worker(name, threads, isa):
    """Start a runtime's process; yield a function that makes it do a task."""
    environment = dict(os.environ)
    if isa:
        environment |= {"CONVLANE_ISA": isa}
        environment |= AVX2 if isa == "avx2" else {}
    command = [sys.executable, str(_WORKER), json.dumps({"runtime": name, "threads": threads})]
    pipe = subprocess.PIPE
    with started(command, stdin=pipe, stdout=pipe, env=environment) as process:

        def ask(task):
            try:
                print(json.dumps(task), file=process.stdin, flush=True)
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            return json.loads(answer) if answer else {"problem": "the process has ended"}

        yield ask


def measure(row, name, ask, task, folder):
    """Add one turn's times to the row, or the reason why there are none."""
    if name in row.problems:
        return
    answer = ask({**task, "file": str(Path(folder) / f"{name}.npy")})
    if "problem" in answer:
        row.problems[name] = answer["problem"]
    else:
        row.ms[name] += answer["ms"]


def check(row, folder):
    """Compare the others' results with convlane's."""
    measured = {name for name in row.ms if row.ms[name] and name not in row.problems}
    if "convlane" not in measured:
        return
    ours = np.load(Path(folder) / "convlane.npy")
    for name in measured - {"convlane"}:
        error = relative_error(np.load(Path(folder) / f"{name}.npy"), ours)
        if not error <= TOLERANCE:
            row.problems[name] = f"the result differs from convlane's by {error:.1e} of the largest"


# report


def line_of(row):
    """Return the line that is printed as soon as a row has been measured."""
    times = "  ".join(f"{name} {time:.4f}" for name in row.ms if (time := row.figure(name, min)) is not None)
    ratio = row.ratio(min)
    problems = "; ".join(f"{name}: {problem}" for name, problem in row.problems.items())
    return f"{'-' if ratio is None else f'{ratio:.2f}':>6}  {row.kind}: {row.model}  ms {times}  {problems}".rstrip()


def by_kind(rows):
    """Return statistics of the ratios of the best times, for each kind and for all kinds together."""
    figures = {}
    for kind in [*sorted({row.kind for row in rows}), "all"]:
        ratios = [ratio for row in rows if kind in (row.kind, "all") and (ratio := row.ratio(min)) is not None]
        if ratios:
            figures[kind] = {
                "shapes": len(ratios),
                "geometric mean": math.exp(statistics.fmean(map(math.log, ratios))),
                "worst": min(ratios),
                "below 1": sum(ratio < 1 for ratio in ratios),
            }
    return figures


def kind_table(kinds):
    """Return a Markdown table of the kinds."""
    lines = ["| kind | shapes | geometric mean | worst | below 1 |", "|---|--:|--:|--:|--:|"]
    for kind, f in kinds.items():
        share = f"{f['below 1']} ({100 * f['below 1'] / f['shapes']:.0f} %)"
        lines.append(f"| {kind} | {f['shapes']} | {f['geometric mean']:.2f} | {f['worst']:.2f} | {share} |")
    return lines


if __name__ == "__main__":
    peers.handle_signals()
    sys.exit(main())
