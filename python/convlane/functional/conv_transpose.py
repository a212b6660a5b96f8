"""Transposed convolution of sequences, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from convlane import _core
from convlane.functional._arguments import (
    Array,
    Pair,
    Sides,
    as_array,
    as_float,
    as_image,
    as_pair,
    as_positive,
    as_sides,
    check_ranks,
    checking,
    shape_of,
)
from convlane.functional._axes import as_numbers
from convlane.functional._gradient import activated
from convlane.functional._op import Pullback, Shape, Traits, check_vector, op
from convlane.functional._receptive import ROWS_AND_COLUMNS, Axis
from convlane.functional.padding import pad
from convlane.functional.rearrange import reshape, squeeze, stack, unsqueeze
from convlane.functional.shape import cat, narrow


def _shape(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Pair = 1,
    padding: int | Pair | Sides = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
    **_: Any,
) -> Shape:
    batch = (1,) if len(input.shape) == 3 else ()
    geometry = _geometry((*batch, *input.shape), weight, stride, padding, output_padding, groups, dilation)
    check_vector("conv_transpose2d", "bias", bias, geometry.input[1])
    return geometry.input[len(batch) :]


def _multiply_adds(
    output: Shape,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    **_: Any,
) -> int:
    shape = (1, *input.shape) if len(input.shape) == 3 else input.shape
    return _geometry(shape, weight, stride, padding, output_padding, groups, dilation).multiply_adds


def _receptive(
    axis: Axis,
    name: str,
    *,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    **_: Any,
) -> Axis:
    if name != "input":
        return axis.everywhere()
    if axis.dim is None or axis.dim not in ROWS_AND_COLUMNS:
        return axis
    count = _shape(input, weight, None, stride, padding, output_padding, groups, dilation)[axis.dim]
    i = ROWS_AND_COLUMNS.index(axis.dim)
    stride, dilation = (
        as_pair(stride, "conv_transpose2d", "stride")[i],
        as_pair(dilation, "conv_transpose2d", "dilation")[i],
    )
    taps = dilation * np.arange(weight.shape[2 + i])
    reached = np.arange(count)[:, None] + _as_sides(padding)[2 * i] - taps
    positions = reached // stride
    counted = (reached % stride == 0) & (positions >= 0) & (positions < len(axis.low))
    return axis.gathered(positions.clip(0, len(axis.low) - 1), counted)


def _conv_transpose2d_vjp(
    wanted: frozenset[str],
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    algorithm: str,
    activation: str,
    negative_slope: float,
) -> tuple[Array, Pullback]:
    """Compute as compiled networks do; the gradients are those of a convolution with input and output swapped."""
    if isinstance(weight, _core.TransposedWeight):
        raise TypeError(
            "conv_transpose2d: neither a packed weight nor the input through it has a gradient; pass the array"
        )
    x, single = as_image(input, "conv_transpose2d")
    filters = as_array(weight, "conv_transpose2d", "weight")
    geometry = _geometry(x.shape, filters, stride, padding, output_padding, groups, dilation)
    if algorithm == "auto":
        algorithm = _core.cheapest_conv_transpose2d(geometry, True)
    packed = pack_conv_transpose2d(filters, stride, groups, dilation, algorithm=algorithm)
    run = partial(conv_transpose2d, x, packed, bias, stride, padding, output_padding, groups, dilation)
    output, before = activated(run, activation, as_float(negative_slope, "conv_transpose2d", "negative_slope"))
    shape, filters_shape = x.shape, filters.shape
    kept_input = x if "weight" in wanted else None
    kept_weight = filters if "input" in wanted else None
    of_bias = "bias" in wanted

    def pullback(gradient: Array) -> dict[str, Array]:
        whole = before(gradient[None] if single else gradient)
        images, padding = _covered_by_windows(whole, geometry, shape)
        stride, dilation, groups = geometry.stride, geometry.dilation, geometry.groups
        found: dict[str, Array] = {}
        if kept_weight is not None:
            dx = _convolved(images, kept_weight, stride, padding, dilation, groups) if images.size else _zeros(shape)
            found["input"] = dx[0] if single else dx
        if kept_input is not None:
            found["weight"] = (
                _core.conv2d_weight_gradient(kept_input, images, filters_shape, stride, padding, dilation, groups)
                if images.size
                else _zeros(filters_shape)
            )
        if of_bias:
            found["bias"] = _core.conv2d_bias_gradient(whole)
        return found

    return output[0] if single else output, pullback


def _convolved(images: Array, weight: Array, stride: Pair, padding: Sides, dilation: Pair, groups: int) -> Array:
    """Convolve with the algorithm that the cost model chooses, as in training."""
    name = _core.Conv2dGeometry(images.shape, weight.shape, stride, padding, dilation, groups).cheapest(True)
    packed = _core.PackedWeight(weight, groups, name)
    return _core.conv2d(images, packed, None, stride, padding, dilation, name, "none", 0.0, None)


def _zeros(shape: Shape) -> Array:
    return np.zeros(shape, np.float32)


def _covered_by_windows(images: Array, geometry: _core.Conv2dGeometry, shape: Shape) -> tuple[Array, Sides]:
    """Return the part of the result that windows cover, and the padding with which no further windows fit.

    The part is empty if padding has cropped all of it. Output padding by a stride or more, which a dilation may allow,
    would otherwise make further windows fit.
    """
    kept, padding = [], []
    for axis, before in enumerate(geometry.padding[::2]):
        reach = geometry.dilation[axis] * (geometry.weight[2 + axis] - 1)
        end = max((shape[2 + axis] - 1) * geometry.stride[axis] + reach + 1 - before, 0)  # of the last window
        kept.append(slice(end))
        padding += [before, max(end - images.shape[2 + axis], 0)]
    return images[:, :, kept[0], kept[1]], (padding[0], padding[1], padding[2], padding[3])


@op(
    shape=_shape,
    multiply_adds=_multiply_adds,
    vjp=_conv_transpose2d_vjp,
    differentiable=("input", "weight", "bias"),
    traits=Traits(
        parameters=frozenset({"weight", "bias"}), reads_any_layout=True, writes_slices=True, weight_channels=1
    ),
    receptive=_receptive,
)
def conv_transpose2d(
    input: Array,
    weight: Array | _core.TransposedWeight,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | Sides = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
    *,
    algorithm: str = "auto",
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Array:
    """Transposed convolution: every pixel adds the filters, multiplied by its channels, to a window of the result.

    It is the gradient of `conv2d` with respect to its input, and enlarges images where `conv2d` shrinks them (M. Zeiler
    et al., "Deconvolutional networks", 2010). With stride 1 it is a convolution with the filters flipped. With larger
    strides, the outputs of each residue modulo the stride are such a convolution with every stride-th tap.

    Parameters
    ----------
    input
        float32, (N, C, H, W) or one image (C, H, W), any strides; channels last is read without a copy.
    weight
        float32, (C, O / groups, KH, KW), or such a weight packed by `pack_conv_transpose2d`.
    bias
        float32, (O,).
    stride, dilation
        An integer or a pair (height, width): the distance between windows, and between the taps of a window.
    padding
        An integer, a pair or four sides (top, bottom, left, right): how much the result is cropped.
    output_padding
        An integer or a pair: rows and columns added at the bottom and the right, fewer than the stride or the dilation.
        A convolution with a stride maps several sizes to one; this chooses among them.
    groups
        The number of independent convolutions that the channels are divided among.
    algorithm
        ``"auto"``, ``"phases"``, ``"windows"`` (one group), or with stride 1 one of `conv2d`'s.
    activation, negative_slope
        As in `conv2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, O, OH, OW), channels last in memory, where
        ``OH = (H - 1) * stride - top - bottom + dilation * (KH - 1) + output_padding + 1``.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match, a value is out of range, the result would be empty, or the algorithm does not
        support this.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import conv_transpose2d
    >>> image = np.array([[[[1, 2], [3, 4]]]], np.float32)
    >>> conv_transpose2d(image, np.ones((1, 1, 2, 2), np.float32), stride=2)
    array([[[[1., 1., 2., 2.],
             [1., 1., 2., 2.],
             [3., 3., 4., 4.],
             [3., 3., 4., 4.]]]], dtype=float32)
    """
    x, single = as_image(input, "conv_transpose2d")
    groups, stride, dilation = _groups_of(weight, groups), _pair(stride, "stride"), _pair(dilation, "dilation")
    if isinstance(weight, _core.TransposedWeight):
        packed = weight
    else:
        packed = pack_conv_transpose2d(weight, stride, groups, dilation, algorithm=algorithm)
    y = _core.conv_transpose2d(
        x,
        packed,
        None if bias is None else as_array(bias, "conv_transpose2d", "bias"),
        stride,
        _as_sides(padding),
        _pair(output_padding, "output_padding"),
        dilation,
        groups,
        activation,
        negative_slope,
    )
    return y[0] if single else y


def pack_conv_transpose2d(
    weight: Array,
    stride: int | Pair = 1,
    groups: int = 1,
    dilation: int | Pair = 1,
    *,
    algorithm: str = "auto",
) -> _core.TransposedWeight:
    """Copy filters into the order in which the kernels read them, once for many calls of `conv_transpose2d`.

    The order is specific to the active instruction set and to the arguments given here; images may have any size.

    Parameters
    ----------
    weight
        float32, (C, O / groups, KH, KW). Later changes of the array do not affect the packed copy.
    stride, groups, dilation, algorithm
        As in `conv_transpose2d`.

    Raises
    ------
    TypeError, ValueError
        As in `conv_transpose2d`.
    """
    array = as_array(weight, "conv_transpose2d", "weight")
    if array.ndim != 4:
        raise ValueError(f"conv_transpose2d: weight must be (C, O / groups, KH, KW), got shape {array.shape}")
    groups = as_positive(groups, "conv_transpose2d", "groups")
    return _core.TransposedWeight(array, _pair(stride, "stride"), _pair(dilation, "dilation"), groups, algorithm)


def conv_transpose1d(
    input: Array,
    weight: Array | _core.TransposedWeight,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Array:
    """Transposed convolution of sequences: `conv_transpose2d` of images of one row.

    Parameters
    ----------
    input
        float32, (N, C, L) or one sequence (C, L).
    weight
        float32, (C, O / groups, K), or (C, O / groups, 1, K) packed by `pack_conv_transpose2d`.
    bias
        float32, (O,).
    stride, padding, output_padding, groups, dilation
        As in `conv_transpose2d`; an integer or a tuple of one.
    activation, negative_slope
        As in `conv2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, O, OL) or (O, OL).

    Raises
    ------
    TypeError, ValueError
        As in `conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import conv_transpose1d
    >>> conv_transpose1d(np.array([[1, 2, 3]], np.float32), np.ones((1, 1, 3), np.float32), stride=2)
    array([[1., 1., 3., 2., 5., 3., 3.]], dtype=float32)
    """
    op = "conv_transpose1d"
    if isinstance(weight, _core.TransposedWeight):
        *channels, height, width = weight.shape
        if height != 1:
            raise ValueError(f"{op}: the weight was packed for images; its shape is {weight.shape}")
        filters: Shape = (*channels, width)
    else:
        filters = shape_of(weight, op, "weight")
    with checking(input):
        a = _arguments_of(
            op,
            shape_of(input, op),
            filters,
            None if bias is None else shape_of(bias, op, "bias"),
            (stride, padding, output_padding, dilation),
            _groups_of(weight, groups),
        )
    y = conv_transpose2d(
        unsqueeze(input, -2),
        weight if isinstance(weight, _core.TransposedWeight) else unsqueeze(weight, -2),
        bias,
        (1, *a.stride),
        (0, *a.padding),
        (0, *a.output_padding),
        a.groups,
        (1, *a.dilation),
        activation=activation,
        negative_slope=as_float(negative_slope, op, "negative_slope"),
    )
    return squeeze(y, -2)


def conv_transpose3d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Array:
    """Transposed convolution of volumes.

    Each slice of the result is a `conv_transpose2d` of the input slices that reach it, concatenated along their
    channels.

    Parameters
    ----------
    input
        float32, (N, C, D, H, W) or one volume (C, D, H, W).
    weight
        float32, (C, O / groups, KD, KH, KW).
    bias
        float32, (O,).
    stride, padding, output_padding, groups, dilation
        As in `conv_transpose2d`; an integer or a tuple (depth, height, width).
    activation, negative_slope
        As in `conv2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, O, OD, OH, OW) or (O, OD, OH, OW).

    Raises
    ------
    TypeError, ValueError
        As in `conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import conv_transpose3d
    >>> volume = np.ones((1, 4, 5, 6, 7), np.float32)
    >>> conv_transpose3d(volume, np.ones((4, 2, 2, 2, 2), np.float32), stride=2).shape
    (1, 2, 10, 12, 14)
    """
    op = "conv_transpose3d"
    if isinstance(weight, _core.TransposedWeight):
        raise TypeError(f"{op}: weight must be an array; packed weights are for images and sequences")
    shape, filters_shape = shape_of(input, op), shape_of(weight, op, "weight")
    a = _arguments_of(
        op,
        shape,
        filters_shape,
        None if bias is None else shape_of(bias, op, "bias"),
        (stride, padding, output_padding, dilation),
        groups,
    )
    single = len(shape) == 4
    if single:
        input, shape = unsqueeze(input, 0), (1, *shape)
    depth, channels = shape[2], shape[1] // a.groups
    joined: dict[tuple[int, ...], Any] = {}

    def of_groups(slices: Sequence[Any], axis: int) -> Any:
        """Concatenate slices along their channels, within each group."""
        if len(slices) == 1:
            return slices[0]
        return cat([narrow(each, axis, g * channels, channels) for g in range(a.groups) for each in slices], axis)

    def image(z: int) -> Any:
        return reshape(narrow(input, 2, z, 1), (*shape[:2], *shape[3:]))

    def filters(taps: tuple[int, ...]) -> Any:
        if taps not in joined:
            flat = (*filters_shape[:2], *filters_shape[3:])
            joined[taps] = of_groups([reshape(narrow(weight, 2, tap, 1), flat) for tap in taps], 0)
        return joined[taps]

    def result(z: int) -> Any:
        reached = [(tap, z + a.padding[0] - tap * a.dilation[0]) for tap in range(filters_shape[2])]
        stride = a.stride[0]
        pairs = [(tap, at // stride) for tap, at in reached if at % stride == 0 and 0 <= at // stride < depth]
        taps = tuple(tap for tap, _ in pairs)
        images = [image(at) for _, at in pairs]
        if not pairs:
            taps, images = (0,), [_zeros_like(image(0))]
        return conv_transpose2d(
            of_groups(images, 1),
            filters(taps),
            bias,
            a.stride[1:],
            a.padding[1:],
            a.output_padding[1:],
            a.groups,
            a.dilation[1:],
            activation=activation,
            negative_slope=as_float(negative_slope, op, "negative_slope"),
        )

    if type(input) is np.ndarray:  # a result too large for the memory is refused before slices of it have filled that
        np.empty((shape[0], filters_shape[1] * a.groups, *a.size), np.float32)
    volumes = stack([result(z) for z in range(a.size[0])], 2)
    return reshape(volumes, volumes.shape[1:]) if single else volumes


class _Arguments(NamedTuple):
    """The arguments of a transposed convolution over any number of axes, and the sizes of its result."""

    stride: tuple[Any, ...]
    padding: tuple[Any, ...]
    output_padding: tuple[Any, ...]
    dilation: tuple[Any, ...]
    groups: int
    size: tuple[int, ...]


def _arguments_of(
    op: str, shape: Shape, filters: Shape, bias: Shape | None, windows: tuple[Any, Any, Any, Any], groups: Any
) -> _Arguments:
    """Check the arguments for sequences and volumes, so that messages name the user's function and values.

    `windows` are stride, padding, output padding and dilation.
    """
    axes = int(op[-2])
    letters, kernels = ("L", "K") if axes == 1 else ("D, H, W", "KD, KH, KW")
    if len(shape) not in (axes + 1, axes + 2):
        raise ValueError(f"{op}: input must be (N, C, {letters}) or (C, {letters}), got shape {shape}")
    if len(filters) != axes + 2:
        raise ValueError(f"{op}: weight must be (C, O / groups, {kernels}), got shape {filters}")
    names = ("stride", "padding", "output_padding", "dilation")
    sizes = [as_numbers(value, op, name, axes) for name, value in zip(names, windows, strict=True)]
    stride, padding, added, dilation = sizes
    kernel, groups = filters[2:], as_positive(groups, op, "groups")
    for name, values, least in (
        ("kernel size", kernel, 1),
        ("number of filters", filters[:2], 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if min(values) < least:
            raise ValueError(f"{op}: {name} must be at least {least}, got {values}")
    channels = shape[-axes - 1]
    if channels != filters[0]:
        raise ValueError(f"{op}: weight of shape {filters} expects input {shape} to have {filters[0]} channels")
    if channels % groups:
        raise ValueError(f"{op}: the {channels} input channels of {shape} cannot be divided into groups={groups}")
    if bias is not None and bias != (filters[1] * groups,):
        raise ValueError(f"{op}: bias must have shape ({filters[1] * groups},), got {bias}")
    if any(not 0 <= a < max(s, d) for a, s, d in zip(added, stride, dilation, strict=True)):
        raise ValueError(
            f"{op}: output_padding must be at least 0 and smaller than stride or dilation, got {added} with "
            f"stride={stride} and dilation={dilation}"
        )
    each = zip(shape[-axes:], kernel, stride, padding, added, dilation, strict=True)
    size = tuple((n - 1) * s - 2 * p + d * (k - 1) + a + 1 for n, k, s, p, a, d in each)
    if min(shape[-axes:]) < 1 or min(size) < 1:
        raise ValueError(f"{op}: input {shape} with padding={padding} would give an output of size {size}")
    return _Arguments(stride, padding, added, dilation, groups, size)


def conv_transpose2d_geometry(
    input_shape: Any, weight_shape: Any, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any
) -> _core.Conv2dGeometry:
    """Return the geometry of the convolution whose input gradient this operation is; the result is its input."""
    check_ranks("conv_transpose2d", 4, input_shape, weight_shape)
    return _core.conv_transpose2d_geometry(
        input_shape,
        weight_shape,
        _pair(stride, "stride"),
        _as_sides(padding),
        _pair(output_padding, "output_padding"),
        _pair(dilation, "dilation"),
        as_positive(groups, "conv_transpose2d", "groups"),
    )


def _geometry(
    shape: Any, weight: Any, stride: Any, padding: Any, added: Any, groups: Any, dilation: Any
) -> _core.Conv2dGeometry:
    groups = _groups_of(weight, groups)
    return conv_transpose2d_geometry(shape, tuple(weight.shape), stride, padding, added, groups, dilation)


def _groups_of(weight: Any, groups: Any) -> Any:
    """Return the given number of groups, or that of a packed weight if it was left out."""
    return weight.groups if isinstance(weight, _core.TransposedWeight) and groups == 1 else groups


def _pair(value: Any, name: str) -> Pair:
    return as_pair(value, "conv_transpose2d", name)


def _as_sides(padding: Any) -> Sides:
    if isinstance(padding, str):
        raise TypeError(f"conv_transpose2d: padding must be an integer, a pair or four sides, got {padding!r}")
    return as_sides(padding, "conv_transpose2d", (1, 1), (1, 1), (1, 1), (1, 1))


def _zeros_like(image: Any) -> Any:
    """Return zeros of an image's shape, whatever it contains: rows that padding has added."""
    height = image.shape[2]
    return narrow(pad(image, (0, 0, height, 0)), 2, 0, height)
