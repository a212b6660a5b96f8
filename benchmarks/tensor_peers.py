"""Compare operations on tensors with torch's, one thread each: ``python benchmarks/tensor_peers.py --help``.

For each operation and size it prints the time of an eager call, including Python's overhead, and torch's time divided
by it; and the same for a plan of the operation alone. Where a ratio is above 1, convlane is faster than torch. The
three alternate, call by call, and the best call of each counts.

``CONVLANE_ISA=avx2 ATEN_CPU_CAPABILITY=avx2`` compares the two libraries with AVX2.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import convlane
from convlane import functional as F
from convlane import machine, runtime

ROWS = {"64 KiB": (128, 128), "4 MiB": (1024, 1024), "32 MiB": (4096, 2048)}
IMAGES = {"64 KiB": (1, 16, 32, 32), "4 MiB": (4, 64, 64, 64), "32 MiB": (32, 64, 64, 64)}
_SECONDS = {"64 KiB": 0.03, "4 MiB": 0.1, "32 MiB": 0.3}  # for all calls of one row


def _dense(view):
    """Copy a view to an array of its own; the copy is what is timed."""
    return F.reshape(view, (-1,))


def _same(name):
    return getattr(F, name), getattr(torch, name)


ONE_OPERAND = {
    name: (*_same(name), ROWS)
    for name in ["neg", "abs", "sign", "floor", "round", "square", "sqrt", "rsqrt", "reciprocal"]
    + ["exp", "log", "log1p", "sin", "cos", "erf", "relu", "sigmoid", "tanh"]
} | {
    "clamp": (lambda x: F.clamp(x, -1, 1), lambda x: torch.clamp(x, -1, 1), ROWS),
    "silu": (F.silu, torch.nn.functional.silu, ROWS),
    "gelu": (F.gelu, torch.nn.functional.gelu, ROWS),
    "cube": (lambda x: F.pow(x, 3), lambda x: torch.pow(x, 3), ROWS),
    "greater than 0": (lambda x: F.gt(x, 0), lambda x: torch.gt(x, 0), ROWS),
    "sum of rows": (lambda x: F.sum(x, 1), lambda x: torch.sum(x, 1), ROWS),
    "sum of columns": (lambda x: F.sum(x, 0), lambda x: torch.sum(x, 0), ROWS),
    "mean of images": (lambda x: F.mean(x, (2, 3)), lambda x: torch.mean(x, (2, 3)), IMAGES),
    "mean of channels": (lambda x: F.mean(x, (0, 2, 3)), lambda x: torch.mean(x, (0, 2, 3)), IMAGES),
    "variance of rows": (lambda x: F.var(x, 1), lambda x: torch.var(x, 1), ROWS),
    "maximum of rows": (lambda x: F.amax(x, 1), lambda x: torch.amax(x, 1), ROWS),
    "maximum of columns": (lambda x: F.amax(x, 0), lambda x: torch.amax(x, 0), ROWS),
    "argmax of rows": (lambda x: F.argmax(x, 1), lambda x: torch.argmax(x, 1), ROWS),
    "argmax of columns": (lambda x: F.argmax(x, 0), lambda x: torch.argmax(x, 0), ROWS),
    "cumsum of rows": (lambda x: F.cumsum(x, 1), lambda x: torch.cumsum(x, 1), ROWS),
    "cumsum of columns": (lambda x: F.cumsum(x, 0), lambda x: torch.cumsum(x, 0), ROWS),
    "topk 5 of rows": (lambda x: F.topk(x, 5), lambda x: torch.topk(x, 5), ROWS),
    "softmax of rows": (lambda x: F.softmax(x, 1), lambda x: torch.softmax(x, 1), ROWS),
    "softmax of columns": (lambda x: F.softmax(x, 0), lambda x: torch.softmax(x, 0), ROWS),
    "log_softmax of rows": (lambda x: F.log_softmax(x, 1), lambda x: torch.log_softmax(x, 1), ROWS),
    "transpose": (lambda x: _dense(F.transpose(x, 0, 1)), lambda x: x.t().contiguous(), ROWS),
    "permute images": (
        lambda x: _dense(F.permute(x, (0, 2, 3, 1))),
        lambda x: x.permute(0, 2, 3, 1).contiguous(),
        IMAGES,
    ),
    "flip rows": (lambda x: _dense(F.flip(x, 1)), lambda x: torch.flip(x, (1,)), ROWS),
    "flip columns": (lambda x: _dense(F.flip(x, 0)), lambda x: torch.flip(x, (0,)), ROWS),
    "every other column": (
        lambda x: _dense(F.strided_slice(x, 1, step=2)),
        lambda x: x[:, ::2].contiguous(),
        ROWS,
    ),
}
TWO_OPERANDS = {
    name: (*_same(name), ROWS, None) for name in ["add", "sub", "mul", "div", "maximum", "minimum", "gt"]
} | {
    "add a row": (F.add, torch.add, ROWS, lambda shape: shape[1:]),
    "add a column": (F.add, torch.add, ROWS, lambda shape: (shape[0], 1)),
    "mul channels": (F.mul, torch.mul, IMAGES, lambda shape: (shape[1], 1, 1)),
    "cat rows": (lambda x, y: F.cat([x, y], 0), lambda x, y: torch.cat([x, y], 0), ROWS, None),
    "cat columns": (lambda x, y: F.cat([x, y], 1), lambda x, y: torch.cat([x, y], 1), ROWS, None),
    "where": (
        lambda x, y: F.where(F.gt(x, 0), x, y),
        lambda x, y: torch.where(torch.gt(x, 0), x, y),
        ROWS,
        None,
    ),
}
PRODUCTS = {
    "matmul 64": ((64, 64), (64, 64)),
    "matmul 512": ((512, 512), (512, 512)),
    "matmul 1024": ((1024, 1024), (1024, 1024)),
    "matmul by a vector": ((1024, 1024), (1024, 1)),
    "12 x matmul 197x64x197": ((12, 197, 64), (12, 64, 197)),
    "12 x matmul 197x197x64": ((12, 197, 197), (12, 197, 64)),
}
_POSITIVE = {"sqrt", "rsqrt", "log", "log1p"}


def rows():
    """Yield (name, size, ours, torch's, shapes)."""
    for name, (ours, theirs, sizes) in ONE_OPERAND.items():
        for size, shape in sizes.items():
            yield name, size, ours, theirs, [shape]
    for name, (ours, theirs, sizes, second) in TWO_OPERANDS.items():
        for size, shape in sizes.items():
            yield name, size, ours, theirs, [shape, shape if second is None else second(shape)]
    for name, shapes in PRODUCTS.items():
        yield name, "4 MiB", F.matmul, torch.matmul, list(shapes)


def compare(name, ours, theirs, shapes, seconds):
    """Return lists of seconds: the times of eager calls, of a plan and of torch."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape, np.float32) for shape in shapes]
    if name in _POSITIVE:
        arrays = [np.abs(array) + np.float32(0.1) for array in arrays]
    tensors = [torch.from_numpy(array) for array in arrays]
    plan = convlane.compile(ours, shapes[0] if len(shapes) == 1 else tuple(shapes), whole=True)
    calls = [lambda: ours(*arrays), lambda: plan(*arrays), lambda: theirs(*tensors)]
    times = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or (time.perf_counter() < end and len(times[0]) < 300):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            result = call()
            found.append(time.perf_counter() - start)
            del result
    return times


def main(argv=None):
    parser = argparse.ArgumentParser(prog="tensor_peers", description="Compare operations on tensors with torch's.")
    parser.add_argument("--sizes", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("-k", nargs="+", default=[""], metavar="WORD", help="only operations with WORD in the name")
    parser.add_argument("--behind", action="store_true", help="print only operations that are slower than torch's")
    parser.add_argument("--seconds", type=float, default=1.0, help="factor for the time of each row, default 1")
    parser.add_argument("--smoke", action="store_true", help="few calls on small arrays")
    args = parser.parse_args(argv)
    runtime.set_num_threads(1)
    torch.set_num_threads(1)
    isas = f"{runtime.config()['active']} and torch's {torch.backends.cpu.get_cpu_capability()}"
    print(f"One thread, {isas}, {machine.cpu_name()}\n")
    print("| operation | size | call, us | torch / call | plan, us | torch / plan |\n|---|---|--:|--:|--:|--:|")
    for name, size, ours, theirs, shapes in rows():
        if size not in (["64 KiB"] if args.smoke else args.sizes) or not any(word in name for word in args.k):
            continue
        with torch.inference_mode():
            times = compare(name, ours, theirs, shapes, 0 if args.smoke else args.seconds * _SECONDS[size])
        eager, plan, peer = map(min, times)
        if args.behind and min(peer / eager, peer / plan) >= 1:
            continue
        size = size if name not in PRODUCTS else ""
        print(f"| {name} | {size} | {1e6 * eager:.4g} | {peer / eager:.2f} | {1e6 * plan:.4g} | {peer / plan:.2f} |")


if __name__ == "__main__":
    main()
