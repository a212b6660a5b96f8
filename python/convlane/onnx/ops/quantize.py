"""Quantised numbers, read as the float32 numbers that they represent.

A QuantizeLinear and its DequantizeLinear round to what eight bits can represent; between them is an array of integers
or, while a network is compiled, the same values in float32.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from convlane import functional as F
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import is_array, known

_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}


def _along(value: Any, x: Any, call: Call) -> Any:
    """Return the factors of a dimension, or of blocks along it, in a shape that broadcasts."""
    array, axis, block = np.asarray(value), call.get("axis", 1) % max(len(x.shape), 1), call.get("block_size", 0)
    if block:
        return np.repeat(array, block, axis)[(slice(None),) * axis + (slice(x.shape[axis]),)]
    if array.ndim != 1 or array.size == 1:
        return array.reshape(()) if array.size == 1 else array
    return array.reshape(-1, *(1,) * (len(x.shape) - 1 - axis))


def _warn(call: Call) -> None:
    warnings.warn(
        f"{call.node}: quantised layers are computed in float32: the same numbers but for rounding, without the speed "
        "of integers",
        stacklevel=2,
    )


@converts("QuantizeLinear", since=10)
def _quantize(call: Call, x: Any, scale: Any, zero: Any = None) -> Any:
    steps = _along(known(scale, "the scale"), x, call).astype(np.float32)
    kind = np.dtype(np.uint8) if zero is None else known(zero, "the zero point").dtype
    low, high = _RANGES[kind.name]
    offset = np.float32(0) if zero is None else _along(zero, x, call).astype(np.float32)
    if is_array(x):
        with np.errstate(all="ignore"):
            return np.clip(np.round(x / steps) + offset, low, high).astype(kind)
    _warn(call)
    return F.clamp(F.add(F.round(F.div(x, _operand(steps))), _operand(offset)), low, high)


def _operand(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else np.asarray(value)


@converts("DequantizeLinear", since=10)
def _dequantize(call: Call, x: Any, scale: Any, zero: Any = None) -> Any:
    steps = _along(known(scale, "the scale"), x, call).astype(np.float32)
    offset = np.float32(0) if zero is None else _along(known(zero, "the zero point"), x, call)
    if is_array(x):
        return ((x.astype(np.float32) - offset.astype(np.float32)) * steps).astype(np.float32)
    if not np.any(offset):
        return F.mul(x, _operand(steps))
    return F.mul(F.sub(x, _operand(offset.astype(np.float32))), _operand(steps))
