"""Pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convlane.functional._axes import as_numbers
from convlane.onnx.writers._register import Call, writes


@writes("max_pool2d", "max_pool3d")
def _max_pool(call: Call) -> str:
    if call["return_indices"]:
        raise call.refuse("with return_indices: ONNX counts indices over the whole batch")
    axes = int(call.node.op[-2])
    dilation = as_numbers(call["dilation"], call.node.op, "dilation", axes)
    return _pooled(call, "MaxPool", _window(call, dilation), dilations=list(dilation))


@writes("avg_pool2d", "avg_pool3d")
def _avg_pool(call: Call) -> str:
    window = _window(call, None)
    divisor = call["divisor_override"]
    counted = bool(call["count_include_pad"])
    if divisor is None and counted and window["overhang"]:
        raise call.refuse("with ceil_mode and padding that counts, where windows hang over")
    result = _pooled(call, "AveragePool", window, count_include_pad=int(counted or divisor is not None))
    if divisor is None:
        return result
    return call.emit("Mul", result, call.floats(math.prod(window["kernel_shape"]) / divisor))


@writes("lp_pool2d", "lp_pool3d")
def _lp_pool(call: Call) -> str:
    """ONNX sums powers of absolute values, torch of the values themselves, which is the same for even powers."""
    power = float(call["norm_type"])
    if power % 2 or not 0 < power < 2**31:
        raise call.refuse(f"for powers that are not even integers ({power:g})")
    return _pooled(call, "LpPool", _window(call, None), p=int(power))


@writes("global_avg_pool2d")
def _global_avg_pool(call: Call) -> str:
    return call.unbatched(4, call.emit("GlobalAveragePool", call.batched(4)))


@writes("global_max_pool2d")
def _global_max_pool(call: Call) -> str:
    return call.unbatched(4, call.emit("GlobalMaxPool", call.batched(4)))


@writes("adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive_avg_pool(call: Call) -> str:
    axes = int(call.node.op[-2])
    before, after = call.shape()[-axes:], call.node.shape[-axes:]
    x = call.batched(axes + 2)
    if set(after) == {1}:
        x = call.emit("GlobalAveragePool", x)
    elif before != after:
        for axis, (size, wanted) in enumerate(zip(before, after, strict=True), start=2):
            x = _averaged(call, x, axis, axes + 2, _bins(size, wanted)) if size != wanted else x
    return call.unbatched(axes + 2, x)


@writes("adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(call: Call) -> str:
    axes = int(call.node.op[-2])
    before, after = call.shape()[-axes:], call.node.shape[-axes:]
    if call["return_indices"]:
        raise call.refuse("with return_indices")
    x = call.batched(axes + 2)
    if set(after) == {1}:
        return call.unbatched(axes + 2, call.emit("GlobalMaxPool", x))
    if any(size % wanted for size, wanted in zip(before, after, strict=True)):
        raise call.refuse(f"from {before} to {after}: windows would differ in size")
    step = [size // wanted for size, wanted in zip(before, after, strict=True)]
    return call.unbatched(axes + 2, call.emit("MaxPool", x, kernel_shape=step, strides=step))


def _window(call: Call, dilation: Any) -> dict[str, Any]:
    """Return the attributes of a window whose padding reaches as far as the last window does.

    So ceil_mode, whose rule for the last window differs between runtimes, is not needed.
    """
    op, axes = call.node.op, int(call.node.op[-2])
    kernel = as_numbers(call["kernel_size"], op, "kernel_size", axes)
    stride = kernel if call["stride"] is None else as_numbers(call["stride"], op, "stride", axes)
    apart = dilation or (1,) * axes
    padding = call.pads(op, kernel, stride, apart)
    window = {"kernel_shape": list(kernel), "strides": list(stride), "overhang": False, **padding}
    if not call["ceil_mode"] or "pads" not in padding:
        return window
    firsts, ends = padding["pads"][:axes], padding["pads"][axes:]
    sizes = zip(call.shape()[-axes:], call.node.shape[-axes:], stride, kernel, apart, firsts, ends, strict=True)
    reached = [max(end, (o - 1) * s + (k - 1) * d + 1 - size - first) for size, o, s, k, d, first, end in sizes]
    return {**window, "pads": [*firsts, *reached], "overhang": reached != ends}


def _pooled(call: Call, op: str, window: dict[str, Any], **attributes: Any) -> str:
    rank = len(window["kernel_shape"]) + 2
    given = {name: value for name, value in window.items() if name != "overhang"}
    return call.unbatched(rank, call.emit(op, call.batched(rank), **given, **attributes))


def _bins(size: int, wanted: int) -> Any:
    """Return the weights (wanted, size) of the means that adaptive pooling takes along an axis."""
    weights = np.zeros((wanted, size), np.float32)
    for i in range(wanted):
        start, end = i * size // wanted, -(-(i + 1) * size // wanted)
        weights[i, start:end] = 1 / (end - start)
    return weights


def _averaged(call: Call, x: str, axis: int, rank: int, weights: Any) -> str:
    """Multiply an axis by a matrix: the last but one from the left, others behind a transposition."""
    if axis == rank - 1:
        return call.emit("MatMul", x, call.nodes.constant(np.ascontiguousarray(weights.T)))
    order = [i for i in range(rank) if i != axis]
    order.insert(rank - 2, axis)
    moved = call.emit("Transpose", x, perm=order) if axis != rank - 2 else x
    product = call.emit("MatMul", call.nodes.constant(weights), moved)
    return call.emit("Transpose", product, perm=list(np.argsort(order))) if axis != rank - 2 else product
