"""Broadcasting: NumPy's rule for operands of different shapes, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from convlane.functional._arguments import Array, operand_shape
from convlane.functional._op import Shape
from convlane.functional.reduce import sum


def broadcast_shape(op: str, **operands: Any) -> Shape:
    """Return the shape to which operands broadcast: shapes are aligned at the end, and sizes of 1 repeat."""
    shapes = [operand_shape(operand, op, name) for name, operand in operands.items()]
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{op}: shapes {' and '.join(map(str, shapes))} do not broadcast") from None


def sum_to(gradient: Array, shape: Shape) -> Array:
    """Return the gradient of a broadcast operand of this shape: the sum over the dimensions that were repeated."""
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    repeated = [i + added for i, size in enumerate(shape) if size == 1 and gradient.shape[i + added] != 1]
    return sum(gradient, (*range(added), *repeated)).reshape(shape)
