"""The fully connected layer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_float
from convlane.functional._gradient import activated
from convlane.functional._op import Pullback, Shape, Traits, check_vector, op
from convlane.functional._receptive import Axis


def _shape(input: Any, weight: Any, bias: Any = None, **_: Any) -> Shape:
    _check_features(input.shape, weight.shape)
    check_vector("linear", "bias", bias, weight.shape[0])
    return (*input.shape[:-1], weight.shape[0])


def _multiply_adds(output: Shape, input: Any, *args: Any, **kwargs: Any) -> int:
    return math.prod(output) * int(input.shape[-1])


def _receptive(axis: Axis, name: str, **_: Any) -> Axis:
    return axis.everywhere() if name != "input" or axis.dim == -1 else axis


def _linear_vjp(
    wanted: frozenset[str], input: Any, weight: Any, bias: Any, activation: str, negative_slope: float
) -> tuple[Array, Pullback]:
    if isinstance(weight, _core.PackedWeight):
        raise TypeError("linear: neither a packed weight nor the input through it has a gradient; pass the array")
    x, matrix = as_array(input, "linear", "input"), _as_matrix(weight)
    slope = as_float(negative_slope, "linear", "negative_slope")
    output, before = activated(partial(linear, x, matrix, bias), activation, slope)
    shape, outputs = x.shape, matrix.shape[0]
    kept_rows = _as_rows(x) if "weight" in wanted else None
    kept_weight = matrix if "input" in wanted else None
    of_bias = "bias" in wanted

    def pullback(gradient: Array) -> dict[str, Array]:
        rows = _as_rows(before(gradient))
        found: dict[str, Array] = {}
        if kept_weight is not None:
            found["input"] = _core.linear_input_gradient(rows, kept_weight).reshape(shape)
        if kept_rows is not None:
            filters = (outputs, shape[-1], 1, 1)
            pixels, inputs = rows[:, :, None, None], kept_rows[:, :, None, None]
            dw = _core.conv2d_weight_gradient(pixels, inputs, filters, (1, 1), (0, 0, 0, 0), (1, 1), 1)
            found["weight"] = dw[:, :, 0, 0]
        if of_bias:
            found["bias"] = _core.conv2d_bias_gradient(rows[:, :, None, None])
        return found

    return output, pullback


@op(
    shape=_shape,
    multiply_adds=_multiply_adds,
    vjp=_linear_vjp,
    differentiable=("input", "weight", "bias"),
    traits=Traits(parameters=frozenset({"weight", "bias"})),
    receptive=_receptive,
)
def linear(
    input: Array,
    weight: Array | _core.PackedWeight,
    bias: Array | None = None,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Array:
    """Multiply by the transposed weight and add the bias: ``input @ weight.T + bias``.

    Parameters
    ----------
    input
        float32, (..., I).
    weight
        float32, (O, I), or such a weight packed by `pack_linear`.
    bias
        float32, (O,).
    activation, negative_slope
        As in `conv2d`.

    Returns
    -------
    numpy.ndarray
        float32, (..., O).

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import linear
    >>> linear(np.array([[1, 2]], np.float32), np.array([[3, 4], [5, 6]], np.float32))
    array([[11., 17.]], dtype=float32)
    """
    x = as_array(input, "linear", "input")
    matrix = weight if isinstance(weight, _core.PackedWeight) else _as_matrix(weight)
    _check_features(x.shape, matrix.shape)
    rows = _as_rows(x)
    bias = None if bias is None else as_array(bias, "linear", "bias")
    if isinstance(matrix, _core.PackedWeight):
        y = _core.linear(rows, matrix, bias, activation, negative_slope)
    else:
        y = _core.linear_unpacked(rows, matrix, bias, activation, negative_slope)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], matrix.shape[0])


def pack_linear(weight: Array) -> _core.PackedWeight:
    """Copy a weight (O, I) into the order in which the kernels read it, once for many calls of `linear`."""
    return _core.PackedWeight(_as_matrix(weight)[:, :, None, None], 1, "pointwise")


def _as_matrix(weight: Array) -> Array:
    array = as_array(weight, "linear", "weight")
    if array.ndim != 2:
        raise ValueError(f"linear: weight must be (O, I), got shape {array.shape}")
    return np.ascontiguousarray(array)


def _as_rows(array: Array) -> Array:
    """Return (..., I) as rows (N, I), each of them contiguous."""
    rows = array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
    return rows.copy() if array.shape[-1] > 1 and rows.strides[1] != 4 else rows


def _check_features(input_shape: Shape, weight_shape: Shape) -> None:
    features = weight_shape[1]
    if not input_shape or input_shape[-1] != features:
        raise ValueError(f"linear: weight {weight_shape[:2]} expects input (..., {features}), got shape {input_shape}")
