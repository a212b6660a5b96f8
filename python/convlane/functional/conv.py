"""Two-dimensional convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from convlane import _core
from convlane.functional._arguments import (
    Array,
    Padding,
    Pair,
    Sides,
    as_array,
    as_float,
    as_image,
    as_pair,
    as_positive,
    as_sides,
    as_window,
    check_ranks,
)
from convlane.functional._gradient import activated
from convlane.functional._op import Geometry, Pullback, Shape, Traits, check_vector, op
from convlane.functional._receptive import windows


def _weight_shape(weight: Any, groups: Any) -> tuple[Any, int]:
    """Return the shape and the groups of a weight, packed or not."""
    if isinstance(weight, _core.PackedWeight):
        return weight.shape, weight.groups
    return weight.shape, groups


def _shape(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    *,
    residual: Any = None,
    **_: Any,
) -> Shape:
    weight_shape, groups = _weight_shape(weight, groups)
    batch = (1,) if len(input.shape) == 3 else ()
    geometry = conv2d_geometry((*batch, *input.shape), weight_shape, stride, padding, dilation, groups)
    shape = _core.conv2d_shape(*geometry)[len(batch) :]
    check_vector("conv2d", "bias", bias, weight_shape[0])
    if residual is not None and tuple(residual.shape) != shape:
        raise ValueError(f"conv2d: residual has shape {tuple(residual.shape)}, but the output has {shape}")
    return shape


def _multiply_adds(output: Shape, input: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    return math.prod(output) * int(math.prod(_weight_shape(weight, 1)[0][1:]))


def _window(input: Any, weight: Any, stride: Any, padding: Padding, dilation: Any, **_: Any) -> Any:
    return as_window("conv2d", input.shape[-2:], tuple(weight.shape[2:]), stride, padding, dilation)


def _conv2d_vjp(
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
    """Convolve with the algorithm that the cost model chooses, as compiled networks do.

    The weight is packed for this call only, because it will have changed by the next call.
    """
    if isinstance(weight, _core.PackedWeight):
        raise TypeError("conv2d: neither a packed weight nor the input through it has a gradient; pass the array")
    x, single = as_image(input, "conv2d")
    filters = as_array(weight, "conv2d", "weight")
    shape, filters_shape, stride, padding, dilation, groups = conv2d_geometry(
        x.shape, filters.shape, stride, padding, dilation, groups
    )
    geometry = stride, padding, dilation, groups
    if algorithm == "auto":
        algorithm = _core.Conv2dGeometry(shape, filters_shape, *geometry).cheapest(True)
    packed = pack_conv2d(filters, groups, algorithm=algorithm)
    convolve = partial(conv2d, x, packed, bias, stride, padding, dilation, algorithm=algorithm, residual=residual)
    output, before = activated(convolve, activation, as_float(negative_slope, "conv2d", "negative_slope"))
    kept_input = x if "weight" in wanted else None
    kept_weight = filters if "input" in wanted else None
    of_bias, of_residual = "bias" in wanted, "residual" in wanted

    def pullback(gradient: Array) -> dict[str, Array]:
        images = before(gradient[None] if single else gradient)
        found: dict[str, Array] = {}
        if kept_weight is not None:
            dx = _core.conv2d_input_gradient(images, kept_weight, shape, *geometry)
            found["input"] = dx[0] if single else dx
        if kept_input is not None:
            found["weight"] = _core.conv2d_weight_gradient(images, kept_input, filters_shape, *geometry)
        if of_bias:
            found["bias"] = _core.conv2d_bias_gradient(images)
        if of_residual:
            found["residual"] = images[0] if single else images
        return found

    return output[0] if single else output, pullback


@op(
    shape=_shape,
    multiply_adds=_multiply_adds,
    vjp=_conv2d_vjp,
    differentiable=("input", "weight", "bias", "residual"),
    traits=Traits(
        parameters=frozenset({"weight", "bias"}),
        reads_any_layout=True,
        writes_slices=True,
        adds_residual=True,
        weight_channels=0,
        geometry=Geometry(lambda *sizes: conv2d_geometry(*sizes), _core.Conv2dGeometry),
    ),
    receptive=windows(_window, _shape),
)
def conv2d(
    input: Array,
    weight: Array | _core.PackedWeight,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    activation: str = "none",
    negative_slope: float = 0.01,
    residual: Array | None = None,
) -> Array:
    """Convolve images with filters (cross-correlation, as usual in deep learning).

    ``output[n, o, y, x] = bias[o] + sum over i, r, s of
    input[n, i, y * stride + r * dilation - top, x * stride + s * dilation - left] * weight[o, i, r, s]``

    Parameters
    ----------
    input
        float32, (N, C, H, W) or one image (C, H, W), any strides; channels last is read without a copy.
    weight
        float32, (O, C / groups, KH, KW), or such a weight packed by `pack_conv2d`, which saves packing it in every
        call.
    bias
        float32, (O,).
    stride, dilation
        An integer or a pair (height, width).
    padding
        An integer, a pair, four sides (top, bottom, left, right), ``"valid"``, ``"same"`` (torch's meaning, stride 1)
        or ``"same_tf"`` (TensorFlow's).
    groups
        The number of independent convolutions that the channels are divided among. Packed weights store it.
    algorithm
        ``"auto"``, or one of ``pointwise``, ``depthwise``, ``planes``, ``narrow``, ``grouped``, ``stem``,
        ``winograd4``, ``winograd2``, ``direct``, ``im2col``, ``reference``; see `explain`. ``im2col`` allocates
        KH * KW times the input. Winograd's algorithms are used only on request: their rounding error is up to
        2.5 times that of a direct sum (root mean square), and they spread a NaN or infinity over the whole tile of 4x4
        or 2x2 outputs.
    activation
        Applied before the result is stored: ``none``, ``relu``, ``relu6``, ``leaky_relu``, ``silu``, ``hardswish``,
        ``hardsigmoid``, ``gelu``, ``gelu_tanh``, ``elu``, ``celu``, ``selu``, ``mish``, ``softsign``, ``logsigmoid``,
        ``sigmoid`` or ``tanh``.
    negative_slope
        The slope of ``leaky_relu``; also the ``alpha`` of ``elu`` and ``celu``.
    residual
        float32, the output's shape; added before the activation.

    Returns
    -------
    numpy.ndarray
        float32, (N, O, OH, OW), channels last in memory. A window with a NaN or an infinity gives a
        non-finite result. Whether a non-finite weight over padding gives NaN or is ignored depends on the algorithm.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match, a value is out of range, or the algorithm does not support this.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import conv2d
    >>> image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> conv2d(image, np.ones((1, 1, 2, 2), np.float32), stride=2)
    array([[[[10., 18.],
             [42., 50.]]]], dtype=float32)
    """
    x, single = as_image(input, "conv2d")
    if isinstance(weight, _core.PackedWeight):
        packed = weight
    else:
        filters = as_array(weight, "conv2d", "weight")
        if algorithm == "auto" and filters.ndim == 4 and filters.size:
            geometry = conv2d_geometry(x.shape, filters.shape, stride, padding, dilation, groups)
            algorithm = _core.Conv2dGeometry(*geometry).cheapest(False)
        packed = pack_conv2d(filters, groups, algorithm=algorithm)
    if groups not in (1, packed.groups):
        raise ValueError(f"conv2d: groups={groups}, but the weight was packed for groups={packed.groups}")
    stride, dilation = as_pair(stride, "conv2d", "stride"), as_pair(dilation, "conv2d", "dilation")
    *_, kh, kw = packed.shape
    y = _core.conv2d(
        x,
        packed,
        None if bias is None else as_array(bias, "conv2d", "bias"),
        stride,
        as_sides(padding, "conv2d", (kh, kw), stride, dilation, x.shape[2:]),
        dilation,
        algorithm,
        activation,
        negative_slope,
        None if residual is None else as_image(residual, "conv2d", "residual")[0],
    )
    return y[0] if single else y


def pack_conv2d(weight: Array, groups: int = 1, *, algorithm: str = "auto") -> _core.PackedWeight:
    """Copy filters into the order in which the kernels read them, once for many calls of `conv2d`.

    The order is specific to the active instruction set and, if `algorithm` is given, to that algorithm.

    Parameters
    ----------
    weight
        float32, (O, C / groups, KH, KW). Later changes of the array do not affect the packed copy.
    groups
        As in `conv2d`.
    algorithm
        As in `conv2d`.

    Raises
    ------
    TypeError, ValueError
        As in `conv2d`.
    """
    array = as_array(weight, "conv2d", "weight")
    if array.ndim != 4:
        raise ValueError(f"conv2d: weight must be (O, C / groups, KH, KW), got shape {array.shape}")
    return _core.PackedWeight(array, as_positive(groups, "conv2d", "groups"), algorithm)


@dataclass(frozen=True)
class Explanation:
    """The algorithm that `conv2d` uses, and why none of those that come before it."""

    chosen: str
    refusals: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name}: no, {reason}" for name, reason in self.refusals.items()]
        return "\n".join([*lines, f"{self.chosen}: yes"])


def explain(
    input_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Explanation:
    """Return which algorithm `conv2d` would use for these shapes, and why none of those that it would prefer.

    Examples
    --------
    >>> import convlane
    >>> print(convlane.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1))
    pointwise: no, the kernel is (3, 3), not 1x1
    depthwise: no, groups (1) is not the number of input channels (64), or there is only one
    planes: no, there are 64 output channels, more than 4
    narrow: no, there are 64 output channels, more than 4
    grouped: no, there is only one group
    stem: no, there are 64 input channels, more than 4
    winograd4: no, it is taken only when asked for
    winograd2: no, it is taken only when asked for
    direct: yes
    """
    geometry = conv2d_geometry(input_shape, weight_shape, stride, padding, dilation, groups)
    *refused, (chosen, _) = _core.explain_conv2d(*geometry, algorithm)
    return Explanation(chosen, dict(refused))


def conv2d_geometry(
    input_shape: Any, weight_shape: Any, stride: Any, padding: Padding, dilation: Any, groups: Any
) -> tuple[Any, Any, Pair, Sides, Pair, int]:
    """Convert the arguments of `conv2d` to those of the shape rule in `_core`."""
    check_ranks("conv2d", 4, input_shape, weight_shape)
    stride, dilation = as_pair(stride, "conv2d", "stride"), as_pair(dilation, "conv2d", "dilation")
    sides = as_sides(padding, "conv2d", weight_shape[2:], stride, dilation, input_shape[2:])
    return input_shape, weight_shape, stride, sides, dilation, as_positive(groups, "conv2d", "groups")
