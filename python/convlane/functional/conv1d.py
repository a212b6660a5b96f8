"""One-dimensional convolution, computed as that of images one pixel high."""

from __future__ import annotations

from typing import Any

from convlane import _core
from convlane.functional._arguments import Array, Pair, as_array, as_positive, checking, shape_of, stands_for_array
from convlane.functional._axes import Padding1d, as_numbers, as_sides_of_axes
from convlane.functional._op import check_vector
from convlane.functional.conv import conv2d, pack_conv2d
from convlane.functional.rearrange import squeeze, unsqueeze


def conv1d(
    input: Array,
    weight: Array | _core.PackedWeight,
    bias: Array | None = None,
    stride: int | tuple[int] = 1,
    padding: Padding1d = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    activation: str = "none",
    negative_slope: float = 0.01,
    residual: Array | None = None,
) -> Array:
    """Convolve sequences with filters (cross-correlation); otherwise like `conv2d`, which does the computation.

    ``output[n, o, x] = bias[o] + sum over i, s of input[n, i, x * stride + s * dilation - left] * weight[o, i, s]``

    Parameters
    ----------
    input
        float32, (N, C, L) or one sequence (C, L), any strides.
    weight
        float32, (O, C / groups, K), or such a weight packed by `pack_conv1d`, which saves packing it in every call.
    bias
        float32, (O,).
    stride, dilation
        An integer, or a tuple of one.
    padding
        An integer, a pair (left, right), ``"valid"``, ``"same"`` (torch's meaning, stride 1) or ``"same_tf"``
        (TensorFlow's).
    groups, algorithm, activation, negative_slope
        As in `conv2d`.
    residual
        float32, the output's shape; added before the activation.

    Returns
    -------
    numpy.ndarray
        float32, (N, O, OL), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match, a value is out of range, or the algorithm does not support this.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import conv1d
    >>> signal = np.array([[[1, 2, 4, 8]]], np.float32)
    >>> conv1d(signal, np.array([[[-1, 1]]], np.float32), padding=(1, 0))
    array([[[1., 1., 2., 4.]]], dtype=float32)
    """
    if isinstance(weight, _core.PackedWeight):
        filters, groups = _without_height(weight.shape), weight.groups if groups == 1 else groups
    else:
        filters = shape_of(weight, "conv1d", "weight")
    (stride,), (dilation,) = as_numbers(stride, "conv1d", "stride", 1), as_numbers(dilation, "conv1d", "dilation", 1)
    with checking(input):
        size, of = shape_of(input, "conv1d"), as_positive(groups, "conv1d", "groups")
        ends, shape = conv1d_geometry(size, filters, stride, padding, dilation, of)
    check_vector("conv1d", "bias", None if bias is None else _checked(bias, "bias"), filters[0])
    if residual is not None and shape_of(residual, "conv1d", "residual") != shape:
        raise ValueError(
            f"conv1d: residual has shape {shape_of(residual, 'conv1d', 'residual')}, but the output has {shape}"
        )
    output = conv2d(
        _with_height(input, "input"),
        weight if isinstance(weight, _core.PackedWeight) else _with_height(weight, "weight"),
        bias,
        (1, stride),
        padding if isinstance(padding, str) else (0, 0, *ends),
        (1, dilation),
        groups,
        algorithm=algorithm,
        activation=activation,
        negative_slope=negative_slope,
        residual=None if residual is None else _with_height(residual, "residual"),
    )
    return squeeze(output, -2)


def pack_conv1d(weight: Array, groups: int = 1, *, algorithm: str = "auto") -> _core.PackedWeight:
    """Copy filters (O, C / groups, K) into the order in which the kernels read them; otherwise like `pack_conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import conv1d, pack_conv1d
    >>> packed = pack_conv1d(np.ones((1, 1, 2), np.float32))
    >>> conv1d(np.ones((1, 1, 3), np.float32), packed)
    array([[[2., 2.]]], dtype=float32)
    """
    array = as_array(weight, "conv1d", "weight")
    if array.ndim != 3:
        raise ValueError(f"conv1d: weight must be (O, C / groups, K), got shape {array.shape}")
    return pack_conv2d(array[:, :, None], groups, algorithm=algorithm)


def _without_height(shape: tuple[int, ...]) -> tuple[int, ...]:
    if shape[2] != 1:
        raise ValueError(f"conv1d: the weight was packed for images; its shape is {shape}")
    return (*shape[:2], shape[3])


def _checked(value: Any, name: str) -> Any:
    """Return an argument as an array, unless it is a placeholder for one."""
    return value if stands_for_array(value) else as_array(value, "conv1d", name)


def _with_height(value: Any, name: str) -> Any:
    return unsqueeze(_checked(value, name), -2)


def conv1d_geometry(
    size: tuple[int, ...], filters: tuple[int, ...], stride: int, padding: Padding1d, dilation: int, groups: int
) -> tuple[Pair, tuple[int, ...]]:
    """Return the padding at both ends and the shape of the output, if the arguments fit together."""
    if len(size) not in (2, 3):
        raise ValueError(f"conv1d: input must be (N, C, L) or one sequence (C, L), got shape {size}")
    if len(filters) != 3:
        raise ValueError(f"conv1d: weight must be (O, C / groups, K), got shape {filters}")
    (*batch, channels, length), (outputs, per_group, kernel) = size, filters
    for name, value in (
        ("stride", stride),
        ("dilation", dilation),
        ("kernel size", kernel),
        ("number of filters", outputs),
    ):
        as_positive(value, "conv1d", name)
    if outputs % groups:
        raise ValueError(
            f"conv1d: the {outputs} output channels of weight {filters} cannot be divided into groups={groups}"
        )
    if channels != per_group * groups:
        raise ValueError(
            f"conv1d: given groups={groups} and weight of shape {filters}, expected input {size} to have "
            f"{per_group * groups} channels, but got {channels}"
        )
    ((left, right),) = as_sides_of_axes(padding, "conv1d", (kernel,), (stride,), (dilation,), (length,))
    if left < 0 or right < 0:
        raise ValueError(f"conv1d: padding must not be negative, got (left, right) = {(left, right)}")
    span = length + left + right - (dilation * (kernel - 1) + 1)
    if length < 1 or span < 0:
        raise ValueError(
            f"conv1d: the padded input has a length of {length + left + right}, smaller than the kernel's reach "
            f"{dilation * (kernel - 1) + 1}"
        )
    return (left, right), (*batch, outputs, span // stride + 1)
