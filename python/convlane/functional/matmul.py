"""Products of stacks of matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, shape_of
from convlane.functional._broadcast import sum_to
from convlane.functional._op import Pullback, Shape, op
from convlane.functional._receptive import Axis


def _as_matrices(input: Shape, other: Shape) -> tuple[Shape, Shape]:
    """Return the shapes of two operands as matrices: a vector on the left is a row, one on the right a column."""
    if not input or not other:
        raise ValueError(f"matmul: both arrays must have a dimension, got shapes {input} and {other}")
    a = (1, *input) if len(input) == 1 else input
    b = (*other, 1) if len(other) == 1 else other
    if a[-1] != b[-2]:
        raise ValueError(f"matmul: shapes {input} and {other} do not fit: {a[-1]} columns but {b[-2]} rows")
    return a, b


def _matmul_shape(input: Any, other: Any) -> Shape:
    first, second = shape_of(input, "matmul", "input"), shape_of(other, "matmul", "other")
    a, b = _as_matrices(first, second)
    try:
        stack = a[:-2] if a[:-2] == b[:-2] else np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise ValueError(f"matmul: the stacks of shapes {first} and {second} do not broadcast") from None
    return (*stack, *(a[-2:-1] if len(first) > 1 else ()), *(b[-1:] if len(second) > 1 else ()))


def _matmul_adds(output: Shape, input: Any, other: Any) -> int:
    return math.prod(output) * int(shape_of(input, "matmul")[-1])


def _matmul_vjp(wanted: frozenset[str], input: Any, other: Any) -> tuple[Array, Pullback]:
    x, y = as_array(input, "matmul", "input"), as_array(other, "matmul", "other")
    output = matmul(x, y)
    shapes = _as_matrices(x.shape, y.shape)
    a, b = x.reshape(shapes[0]), y.reshape(shapes[1])

    def pullback(gradient: Array) -> dict[str, Array]:
        stack = gradient.shape[: gradient.ndim - (x.ndim > 1) - (y.ndim > 1)]
        g, found = gradient.reshape(*stack, a.shape[-2], b.shape[-1]), {}
        if "input" in wanted:
            found["input"] = sum_to(_core.matmul(g, b.swapaxes(-1, -2)), a.shape).reshape(x.shape)
        if "other" in wanted:
            found["other"] = sum_to(_core.matmul(a.swapaxes(-1, -2), g), b.shape).reshape(y.shape)
        return found

    return output, pullback


def _receptive(axis: Axis, name: str, *, input: Any, other: Any) -> Axis:
    kept = -2 if name == "input" else -1
    vectors = {len(input.shape), len(other.shape)} & {1}
    if axis.dim is None or (axis.dim <= -2 and not vectors and axis.dim != (-2 if name == "other" else None)):
        return axis
    return axis if axis.dim == kept and not vectors else axis.everywhere()


@op(
    shape=_matmul_shape,
    multiply_adds=_matmul_adds,
    vjp=_matmul_vjp,
    differentiable=("input", "other"),
    receptive=_receptive,
)
def matmul(input: Array, other: Array) -> Array:
    """Multiply matrices, or stacks of them that broadcast.

    Parameters
    ----------
    input
        float32, (..., M, K), or a vector (K,), which is a row.
    other
        float32, (..., K, N), or a vector (K,), which is a column.

    Returns
    -------
    numpy.ndarray
        float32, (..., M, N) in C order, without M or N if that operand is a vector.

    Raises
    ------
    TypeError
        If an argument is not a float32 array.
    ValueError
        If the shapes do not match, or there are more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import matmul
    >>> matmul(np.array([[1, 2], [3, 4]], np.float32), np.array([10, 1], np.float32))
    array([12., 34.], dtype=float32)
    """
    x, y = as_array(input, "matmul", "input"), as_array(other, "matmul", "other")
    shape = _matmul_shape(x, y)
    if x.ndim > 1 and y.ndim > 1:
        return _core.matmul(x, y)
    a, b = _as_matrices(x.shape, y.shape)
    return _core.matmul(x.reshape(a), y.reshape(b)).reshape(shape)
