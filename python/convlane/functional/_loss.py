"""Helpers that losses share: the checks of their arguments, and the reduction of one loss per element."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane.functional._arguments import Array, as_array, stands_for_array
from convlane.functional._op import Shape
from convlane.functional.reduce import mean, sum

NO_STEP = "losses are not part of a plan"
_REDUCTIONS = ("mean", "sum", "none")


def check_reduction(op_name: str, reduction: Any, *more: str) -> None:
    """Raise a ValueError for an unknown reduction."""
    known = (*_REDUCTIONS, *more)
    if reduction not in known:
        raise ValueError(f"{op_name}: reduction must be one of {', '.join(known)}, got {reduction!r}")


def as_operands(op_name: str, **given: Any) -> tuple[Any, Any]:
    """Return an input and a target, given by name, as arrays or placeholders of one shape."""
    (name, input), (other, target) = (
        (name, value if stands_for_array(value) else as_array(value, op_name, name)) for name, value in given.items()
    )
    check_same_shape(op_name, tuple(input.shape), tuple(target.shape), name, other)
    return input, target


def check_same_shape(op_name: str, shape: Shape, given: Shape, name: str = "input", other: str = "target") -> None:
    """Raise a ValueError for a target whose shape differs from the input's."""
    if given != shape:
        raise ValueError(f"{op_name}: {name} has shape {shape}, but {other} has {given}")


def check_broadcast(op_name: str, name: str, given: Shape, shape: Shape) -> None:
    """Raise a ValueError for an argument that does not broadcast to the input's shape."""
    padded = (1,) * (len(shape) - len(given)) + given
    if len(padded) != len(shape) or any(size not in (1, whole) for size, whole in zip(padded, shape, strict=True)):
        raise ValueError(f"{op_name}: {name} must broadcast to the input's shape {shape}, got shape {given}")


def elementwise_shape(op_name: str, input: Any, target: Any, reduction: str) -> Shape:
    """Shape rule of losses that compare element by element."""
    shape = tuple(input.shape)
    check_same_shape(op_name, shape, tuple(target.shape))
    check_reduction(op_name, reduction)
    return shape if reduction == "none" else ()


def reduced(losses: Any, reduction: str) -> Any:
    """Reduce the losses with operations, so that the result has a gradient."""
    return losses if reduction == "none" else mean(losses) if reduction == "mean" else sum(losses)


def joined(losses: NDArray[Any], norm: float, reduction: str) -> Array:
    """Reduce the losses within an operation; the mean is their sum divided by `norm`."""
    if reduction == "none":
        return losses.astype(np.float32, copy=False)
    return np.asarray(losses.sum(dtype=np.float64) / np.float64(norm), np.float32)
