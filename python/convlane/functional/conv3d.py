"""Three-dimensional convolution."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from convlane import _core
from convlane._floats import quiet
from convlane.functional._arguments import Array, Faces, Triple, as_array, as_float, as_pixels, as_positive, check_ranks
from convlane.functional._axes import Padding3d, as_numbers, as_sides_of_axes
from convlane.functional._gradient import activated
from convlane.functional._op import Geometry, Pullback, Shape, Traits, check_vector, op
from convlane.functional._receptive import Axis
from convlane.functional.conv import Explanation


def _shape(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Triple = 1,
    padding: Padding3d = 0,
    dilation: int | Triple = 1,
    groups: int = 1,
    *,
    residual: Any = None,
    **_: Any,
) -> Shape:
    batch = (1,) if len(input.shape) == 4 else ()
    groups = _groups_of(weight, groups)
    geometry = conv3d_geometry((*batch, *input.shape), weight.shape, stride, padding, dilation, groups)
    shape: Shape = _core.Conv3dGeometry(*geometry).shape[len(batch) :]
    check_vector("conv3d", "bias", bias, weight.shape[0])
    if residual is not None and tuple(residual.shape) != shape:
        raise ValueError(f"conv3d: residual has shape {tuple(residual.shape)}, but the output has {shape}")
    return shape


def _multiply_adds(output: Shape, input: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    return math.prod(output) * int(math.prod(weight.shape[1:]))


def _receptive(axis: Axis, name: str, **arguments: Any) -> Axis:
    if name == "residual" or (name == "input" and axis.dim not in (-3, -2, -1)):
        return axis
    if name != "input" or axis.dim is None:
        return axis.everywhere()
    size, weight = arguments["input"].shape[-3:], arguments["weight"].shape
    stride, padding, dilation = _windows(
        size, weight[2:], *(arguments[each] for each in ("stride", "padding", "dilation"))
    )
    i = axis.dim + 3
    return axis.windows(weight[2 + i], stride[i], padding[2 * i], dilation[i], _shape(**arguments)[axis.dim])


def _conv3d_vjp(
    wanted: frozenset[str],
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    algorithm: str,
    activation: str,
    negative_slope: float,
    residual: Any,
) -> tuple[Array, Pullback]:
    """Convolve volumes; the gradients are sums of those of 2D convolutions, one for each slice of the kernel."""
    if isinstance(weight, _core.PackedWeight):
        raise TypeError("conv3d: neither a packed weight nor the input through it has a gradient; pass the array")
    x, single = _as_volume(input, "input")
    filters = as_array(weight, "conv3d", "weight")
    arguments = conv3d_geometry(x.shape, filters.shape, stride, padding, dilation, groups)
    convolve = partial(
        conv3d,
        x,
        filters,
        bias,
        stride,
        padding,
        dilation,
        groups,
        algorithm=algorithm,
        residual=_batched(residual, single),
    )
    output, before = activated(convolve, activation, as_float(negative_slope, "conv3d", "negative_slope"))
    kept_input = x if "weight" in wanted else None
    kept_weight = filters if "input" in wanted else None
    of_bias, of_residual = "bias" in wanted, "residual" in wanted

    def pullback(gradient: Array) -> dict[str, Array]:
        volumes = before(gradient[None] if single else gradient)
        found: dict[str, Array] = {}
        if kept_weight is not None:
            dx = _input_gradient(volumes, kept_weight, *arguments)
            found["input"] = dx[0] if single else dx
        if kept_input is not None:
            found["weight"] = _weight_gradient(volumes, kept_input, *arguments)
        if of_bias:
            found["bias"] = _core.conv2d_bias_gradient(as_pixels(volumes))
        if of_residual:
            found["residual"] = volumes[0] if single else volumes
        return found

    return output[0] if single else output, pullback


@op(
    shape=_shape,
    multiply_adds=_multiply_adds,
    vjp=_conv3d_vjp,
    differentiable=("input", "weight", "bias", "residual"),
    traits=Traits(
        parameters=frozenset({"weight", "bias"}),
        adds_residual=True,
        weight_channels=0,
        geometry=Geometry(lambda *sizes: conv3d_geometry(*sizes), _core.Conv3dGeometry),
    ),
    receptive=_receptive,
)
def conv3d(
    input: Array,
    weight: Array | _core.PackedWeight,
    bias: Array | None = None,
    stride: int | Triple = 1,
    padding: Padding3d = 0,
    dilation: int | Triple = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    activation: str = "none",
    negative_slope: float = 0.01,
    residual: Array | None = None,
) -> Array:
    """Convolve volumes, or the frames of videos, with filters (cross-correlation).

    ``output[n, o, z, y, x] = bias[o] + sum over i, q, r, s of input[n, i, z * stride + q * dilation - front,
    y * stride + r * dilation - top, x * stride + s * dilation - left] * weight[o, i, q, r, s]``

    Kernels of one slice, (1, KH, KW), or of one row and column, (KD, 1, 1), run as two-dimensional convolutions. All
    others sum over the slices of the kernel in order, as if these were additional rows of the kernel.

    Parameters
    ----------
    input
        float32, (N, C, D, H, W) or one volume (C, D, H, W), any strides; channels last is read without a copy.
    weight
        float32, (O, C / groups, KD, KH, KW), or such a weight packed by `pack_conv3d`, which saves packing it in every
        call.
    bias
        float32, (O,).
    stride, dilation
        An integer or three integers (depth, height, width).
    padding
        An integer, three integers, six sides (front, back, top, bottom, left, right), ``"valid"``, ``"same"`` (torch's
        meaning, stride 1) or ``"same_tf"`` (TensorFlow's).
    groups
        The number of independent convolutions that the channels are divided among. Packed weights store it.
    algorithm
        ``"auto"``; for kernels of one slice, or of one row and column, one of `conv2d`'s; for others ``depthwise``,
        ``stem``, ``direct``, or ``winograd4`` and ``winograd2``, which sum convolutions of slices and are used only
        on request, as in `conv2d`. See `explain_conv3d`.
    activation, negative_slope
        As in `conv2d`.
    residual
        float32, the output's shape; added before the activation.

    Returns
    -------
    numpy.ndarray
        float32, (N, O, OD, OH, OW), channels last in memory. A window with a NaN or an infinity
        gives a non-finite result.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match, a value is out of range, or the algorithm does not support this.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import conv3d
    >>> volume = np.arange(8, dtype=np.float32).reshape(1, 1, 2, 2, 2)
    >>> conv3d(volume, np.ones((1, 1, 2, 1, 2), np.float32))
    array([[[[[10.],
              [18.]]]]], dtype=float32)
    """
    x, single = _as_volume(input, "input")
    filters = weight if isinstance(weight, _core.PackedWeight) else as_array(weight, "conv3d", "weight")
    groups = _groups_of(filters, groups)
    geometry = _core.Conv3dGeometry(*conv3d_geometry(x.shape, filters.shape, stride, padding, dilation, groups))
    if algorithm != "auto":
        geometry.explain(algorithm)  # raises if the algorithm does not support this, before weights are packed
    added = None if residual is None else _batched(as_array(residual, "conv3d", "residual"), single)
    if added is not None and added.shape != geometry.shape:
        raise ValueError(f"conv3d: residual has shape {added.shape}, but the output has {geometry.shape}")
    y = _core.conv3d(
        as_pixels(x),
        geometry,
        [filters] if isinstance(filters, _core.PackedWeight) else _packed(filters, groups, algorithm),
        None if bias is None else as_array(bias, "conv3d", "bias"),
        algorithm,
        activation,
        negative_slope,
        None if added is None else as_pixels(added),
    ).reshape(geometry.shape)
    return y[0] if single else y


def pack_conv3d(weight: Array, groups: int = 1, *, algorithm: str = "auto") -> _core.PackedWeight:
    """Copy filters into the order in which the kernels read them, once for many calls of `conv3d`.

    Parameters
    ----------
    weight
        float32, (O, C / groups, KD, KH, KW). Later changes of the array do not affect the packed copy.
    groups, algorithm
        As in `conv3d`. Winograd's algorithms do not take packed weights, unless the kernel has one slice.

    Raises
    ------
    TypeError, ValueError
        As in `conv3d`.
    """
    packed = _packed(as_array(weight, "conv3d", "weight"), groups, algorithm)
    if len(packed) > 1:
        raise ValueError(
            f"conv3d: algorithm={algorithm!r} does not take packed weights, as it packs each slice separately"
        )
    return packed[0]


def _packed(weight: Array, groups: Any, algorithm: str) -> list[_core.PackedWeight]:
    """Return a weight packed for an algorithm, or one for each slice of the kernel."""
    if weight.ndim != 5:
        raise ValueError(f"conv3d: weight must be (O, C / groups, KD, KH, KW), got shape {weight.shape}")
    groups = as_positive(groups, "conv3d", "groups")
    slices = weight.shape[2]
    if algorithm.startswith("winograd") and slices > 1:
        return [_core.PackedWeight(weight[:, :, i], groups, algorithm) for i in range(slices)]
    if algorithm == "auto" and weight.shape[0] != groups:
        algorithm = "direct"
    return [_core.PackedWeight(as_rows(weight), groups, algorithm, slices=slices)]


def explain_conv3d(
    input_shape: Any,
    weight_shape: Any,
    stride: int | Triple = 1,
    padding: Padding3d = 0,
    dilation: int | Triple = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Explanation:
    """Return which algorithm `conv3d` would use for these shapes, and why none of those that it would prefer.

    Examples
    --------
    >>> from convlane.functional import explain_conv3d
    >>> print(explain_conv3d((1, 64, 16, 56, 56), (64, 64, 3, 3, 3), padding=1))
    depthwise: no, groups (1) is not the number of input channels (64), or there is only one
    stem: no, there are 64 input channels, more than 4
    winograd4: no, it is taken only when asked for
    winograd2: no, it is taken only when asked for
    direct: yes
    """
    geometry = _core.Conv3dGeometry(*conv3d_geometry(input_shape, weight_shape, stride, padding, dilation, groups))
    *refused, (chosen, _) = geometry.explain(algorithm)
    return Explanation(chosen, dict(refused))


def conv3d_geometry(
    input_shape: Any, weight_shape: Any, stride: Any, padding: Padding3d, dilation: Any, groups: Any
) -> tuple[Any, Any, Triple, Faces, Triple, int]:
    """Convert the arguments of `conv3d` to those of `_core.Conv3dGeometry`."""
    check_ranks("conv3d", 5, input_shape, weight_shape)
    stride, padding, dilation = _windows(input_shape[2:], weight_shape[2:], stride, padding, dilation)
    return input_shape, weight_shape, stride, padding, dilation, as_positive(groups, "conv3d", "groups")


def as_rows(weight: Array) -> Array:
    """View filters of volumes as filters (O, C / groups, KD * KH, KW), the rows of the slices one after the other."""
    o, i, kd, kh, kw = weight.shape
    return weight.reshape(o, i, kd * kh, kw)


def _windows(size: Any, kernel: Any, stride: Any, padding: Padding3d, dilation: Any) -> tuple[Triple, Faces, Triple]:
    stride = as_numbers(stride, "conv3d", "stride", 3)
    dilation = as_numbers(dilation, "conv3d", "dilation", 3)
    sides = as_sides_of_axes(padding, "conv3d", kernel, stride, dilation, size)
    return stride, tuple(side for pair in sides for side in pair), dilation  # type: ignore[return-value]


def _groups_of(weight: Any, groups: Any) -> Any:
    if not isinstance(weight, _core.PackedWeight):
        return groups
    if groups not in (1, weight.groups):
        raise ValueError(f"conv3d: groups={groups}, but the weight was packed for groups={weight.groups}")
    return weight.groups


def _as_volume(value: Any, name: str) -> tuple[Array, bool]:
    """Return a batch of volumes and whether the batch dimension was added to a single one."""
    array = as_array(value, "conv3d", name)
    if array.ndim not in (4, 5):
        raise ValueError(
            f"conv3d: {name} must be (N, C, D, H, W) or one volume (C, D, H, W), got {array.ndim} dimensions, "
            f"shape {array.shape}"
        )
    return (array[None], True) if array.ndim == 4 else (array, False)


def _batched(value: Any, single: bool) -> Any:
    return value[None] if single and value is not None else value


def _slices(volumes: Array, part: slice) -> Array:
    """Return some depth slices of volumes as images."""
    chosen = np.moveaxis(volumes[:, :, part], 1, -1)
    return np.moveaxis(chosen.reshape(-1, *chosen.shape[2:]), -1, 1)


def _overlap(i: int, depth: int, outputs: int, stride: int, dilation: int, front: int) -> tuple[slice, slice]:
    """Return the output slices that slice `i` of the kernel contributes to, and the input slices that it reads."""
    offset = i * dilation - front
    begin = max(-(offset // stride), 0)
    end = min((depth - 1 - offset) // stride + 1, outputs)
    first = begin * stride + offset
    return slice(begin, end), slice(first, first + max(end - begin, 0) * stride, stride)


@quiet
def _input_gradient(
    gradient: Array,
    weight: Array,
    shape: Shape,
    _: Shape,
    stride: Triple,
    padding: Faces,
    dilation: Triple,
    groups: int,
) -> Array:
    n, c, d, h, w = shape
    out = np.zeros((n, d, h, w, c), np.float32)
    for i in range(weight.shape[2]):
        outputs, inputs = _overlap(i, d, gradient.shape[2], stride[0], dilation[0], padding[0])
        if outputs.start >= outputs.stop:
            continue
        images = _slices(gradient, outputs)
        part = _core.conv2d_input_gradient(
            images, weight[:, :, i], (len(images), c, h, w), stride[1:], padding[2:], dilation[1:], groups
        )
        out[:, inputs] += np.moveaxis(part, 1, -1).reshape(n, outputs.stop - outputs.start, h, w, c)
    return np.moveaxis(out, -1, 1)


def _weight_gradient(
    gradient: Array,
    input: Array,
    _: Shape,
    shape: Shape,
    stride: Triple,
    padding: Faces,
    dilation: Triple,
    groups: int,
) -> Array:
    o, c, kd, kh, kw = shape
    out = np.zeros(shape, np.float32)
    for i in range(kd):
        outputs, inputs = _overlap(i, input.shape[2], gradient.shape[2], stride[0], dilation[0], padding[0])
        if outputs.start >= outputs.stop:
            continue
        images, sources = _slices(gradient, outputs), _slices(input, inputs)
        out[:, :, i] = _core.conv2d_weight_gradient(
            images, sources, (o, c, kh, kw), stride[1:], padding[2:], dilation[1:], groups
        )
    return out
