"""Reductions over axes."""

from __future__ import annotations

import math

import numpy as np

from convlane.functional._arguments import as_dim
from convlane.onnx.writers._register import Call, writes

_REDUCTIONS = {"amax": "ReduceMax", "amin": "ReduceMin", "mean": "ReduceMean", "prod": "ReduceProd", "sum": "ReduceSum"}


@writes(*_REDUCTIONS)
def _reduced(call: Call) -> str:
    axes = call.integers(_dims(call))
    return call.emit(_REDUCTIONS[call.node.op], call.name("input"), axes, keepdims=int(bool(call["keepdim"])))


@writes("var")
def _var(call: Call) -> str:
    x, dims = call.name("input"), _dims(call)
    count = math.prod(call.shape()[dim] for dim in dims)
    axes = call.integers(dims)
    deviation = call.emit("Sub", x, call.emit("ReduceMean", x, axes, keepdims=1))
    squares = call.emit("Mul", deviation, deviation)
    total = call.emit("ReduceSum", squares, axes, keepdims=int(bool(call["keepdim"])))
    return call.emit("Div", total, call.floats(max(count - call["correction"], 0)))


@writes("argmax", "argmin")
def _arg(call: Call) -> str:
    op = "ArgMax" if call.node.op == "argmax" else "ArgMin"
    if call["dim"] is not None:
        return call.emit(op, call.name("input"), axis=call["dim"], keepdims=int(bool(call["keepdim"])))
    flat = call.emit("Reshape", call.name("input"), call.integers([-1]))
    index = call.emit(op, flat, axis=0, keepdims=0)
    return call.emit("Reshape", index, call.integers(call.node.shape)) if call["keepdim"] else index


@writes("cumsum")
def _cumsum(call: Call) -> str:
    return call.emit("CumSum", call.name("input"), call.nodes.constant(np.int64(call["dim"])))


def _dims(call: Call) -> list[int]:
    dim, rank = call["dim"], len(call.shape())
    given = range(rank) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    return [as_dim(each, call.node.op, rank) for each in given]
