"""Convolutions and dense layers. Keras has kernels as (H, W, in, out)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from convlane import functional as F
from convlane.bridges.keras.configuration import Config
from convlane.bridges.keras.layers.activation import Activation, activated, activation_of
from convlane.bridges.keras.network import Layer
from convlane.bridges.keras.registry import Arrays, Variables, converts
from convlane.bridges.keras.value import Value

_CONV: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_PACK: Any = {1: F.pack_conv1d, 2: F.pack_conv2d, 3: F.pack_conv3d}
_TRANSPOSED: Any = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MOST_SLICES = 4096  # of a volume that a transposed convolution makes: each is an operation of its own


def axes_of(config: Config) -> int:
    """Return how many axes the windows of a layer have, by its class: ``Conv2D``."""
    return int(next(letter for letter in config.kind if letter in "123"))


def _with_bias(config: Config, *names: str) -> Variables:
    return Variables((*names, "bias") if config.flag("use_bias", True) else names)


def _kernel(config: Config) -> Variables:
    return _with_bias(config, "kernel")


def _shaped(config: Config, arrays: Arrays, name: str, *expected: int | None) -> NDArray[Any]:
    """Return an array that has some sizes; None stands for any."""
    array = arrays[name]
    fits = array.ndim == len(expected) and all(b in (None, a) for a, b in zip(array.shape, expected, strict=True))
    if not fits or 0 in array.shape:
        text = ", ".join("any" if size is None else str(size) for size in expected)
        config.fail(f"{name} has the shape {array.shape}, not ({text})")
    return array


def _out_in_first(kernel: NDArray[Any]) -> NDArray[Any]:
    """Return (O, I, H, W) of (H, W, I, O)."""
    return kernel.transpose(kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))


def _windows(config: Config, axes: int) -> dict[str, Any]:
    """Return stride, dilation and padding of a convolution."""
    stride, dilation = config.integers("strides", axes, 1), config.integers("dilation_rate", axes, 1)
    size = config.integers("kernel_size", axes)
    padding: Any = config.word("padding", ("valid", "same", "causal"), "valid")
    if padding == "causal":
        if axes != 1:
            config.fail("causal padding is for one axis")
        return {"stride": stride, "padding": (dilation[0] * (size[0] - 1), 0), "dilation": dilation}
    padding = {"same": "same_tf", "valid": 0}[padding]
    return {"stride": stride, "padding": padding, "dilation": dilation}


def _details(weight: NDArray[Any], settings: dict[str, Any]) -> str:
    """Return what `repr` shows of a convolution in brackets."""
    size = "x".join(map(str, weight.shape[2:]))
    return f"{size} to {weight.shape[0]}, " + ", ".join(f"{name}={value!r}" for name, value in settings.items())


@converts("Conv1D", "Conv2D", "Conv3D", "Convolution1D", "Convolution2D", "Convolution3D", variables=_kernel)
def _conv(config: Config, arrays: Arrays) -> Layer:
    axes = axes_of(config)
    groups, filters = config.integer("groups", 1), config.integer("filters")
    kernel = _shaped(config, arrays, "kernel", *config.integers("kernel_size", axes), None, filters)
    return _convolution(config, axes, _out_in_first(kernel), arrays, groups)


@converts("DepthwiseConv1D", "DepthwiseConv2D", variables=_kernel)
def _depthwise(config: Config, arrays: Arrays) -> Layer:
    axes = axes_of(config)
    sizes = (*config.integers("kernel_size", axes), None, config.integer("depth_multiplier", 1))
    weight, groups = _of_channels(_shaped(config, arrays, "kernel", *sizes))
    return _convolution(config, axes, weight, arrays, groups)


def _of_channels(kernel: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return (C * M, 1, H, W) of (H, W, C, M), and C."""
    *size, channels, multiplier = kernel.shape
    moved = kernel.transpose(kernel.ndim - 2, kernel.ndim - 1, *range(len(size)))
    return moved.reshape(channels * multiplier, 1, *size), channels


def _convolution(config: Config, axes: int, weight: NDArray[Any], arrays: Arrays, groups: int) -> Layer:
    settings = {**_windows(config, axes), "groups": groups}
    run = partial(_run_conv, axes=axes, axis=config.channel_axis, activation=activation_of(config), settings=settings)
    if len(weight) % groups:
        config.fail(f"{groups} groups do not divide {len(weight)} filters")
    return Layer(
        config.kind,
        run,
        {"weight": weight, "bias": _bias(config, arrays, len(weight))},
        packing=partial(_PACK[axes], groups=groups),
        details=_details(weight, settings),
    )


def _bias(config: Config, arrays: Arrays, size: int) -> NDArray[Any] | None:
    return _shaped(config, arrays, "bias", size) if "bias" in arrays else None


def _run_conv(
    layer: Layer, value: Value, *, axes: int, axis: int, activation: Activation, settings: dict[str, Any]
) -> Value:
    _check_rank(value, axes)
    x, valued = value.second(axis)
    return activated(valued(_CONV[axes](x, layer.weight_for(x), layer.bias, **settings)), activation)


def _check_rank(value: Value, axes: int) -> None:
    if value.rank != axes + 2:
        raise ValueError(f"the input has {value.rank} axes, not {axes + 2}")


def _separable_kernels(config: Config) -> Variables:
    return _with_bias(config, "depthwise_kernel", "pointwise_kernel")


@converts("SeparableConv1D", "SeparableConv2D", variables=_separable_kernels)
def _separable(config: Config, arrays: Arrays) -> Layer:
    axes, filters = axes_of(config), config.integer("filters")
    sizes = (*config.integers("kernel_size", axes), None, config.integer("depth_multiplier", 1))
    depthwise, groups = _of_channels(_shaped(config, arrays, "depthwise_kernel", *sizes))
    pointwise = _shaped(config, arrays, "pointwise_kernel", *(1,) * axes, len(depthwise), filters)
    settings = {**_windows(config, axes), "groups": groups}
    run = partial(
        _run_separable, axes=axes, axis=config.channel_axis, activation=activation_of(config), settings=settings
    )
    parameters = {
        "depthwise_weight": depthwise,
        "pointwise_weight": _out_in_first(pointwise),
        "bias": _bias(config, arrays, filters),
    }
    return Layer(config.kind, run, parameters, details=_details(depthwise, settings))


def _run_separable(
    layer: Layer, value: Value, *, axes: int, axis: int, activation: Activation, settings: dict[str, Any]
) -> Value:
    _check_rank(value, axes)
    x, valued = value.second(axis)
    spread = _CONV[axes](x, layer.depthwise_weight, None, **settings)
    return activated(valued(_CONV[axes](spread, layer.pointwise_weight, layer.bias)), activation)


@converts("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", variables=_kernel)
def _transposed(config: Config, arrays: Arrays) -> Layer:
    axes, filters = axes_of(config), config.integer("filters")
    size = config.integers("kernel_size", axes)
    kernel = _shaped(config, arrays, "kernel", *size, filters, None)
    stride, dilation = config.integers("strides", axes, 1), config.integers("dilation_rate", axes, 1)
    padding = config.word("padding", ("valid", "same"), "valid")
    more: Sequence[int | None] = (None,) * axes
    if config.get("output_padding") is not None:
        more = config.integers("output_padding", axes, least=0)
    crops = tuple(_cropped(*each, padding) for each in zip(size, stride, dilation, more, strict=True))
    run = partial(
        _run_transposed,
        axes=axes,
        axis=config.channel_axis,
        activation=activation_of(config),
        stride=stride,
        dilation=dilation,
        crops=crops,
    )
    return Layer(
        config.kind,
        run,
        {"weight": _out_in_first(kernel), "bias": _bias(config, arrays, filters)},
        details=f"{'x'.join(map(str, size))} to {filters}, stride={stride}, {padding}",
    )


def _cropped(size: int, stride: int, dilation: int, more: int | None, padding: str) -> tuple[int, int]:
    """Return what is cropped before and after the range that the windows cover; a negative number pads.

    TensorFlow's transposed convolution is the gradient of one with "same" padding on an input as large as the stride
    times the output, with the larger half of the padding at the end.
    """
    reach = (size - 1) * dilation + 1
    if padding == "valid":
        return 0, -(max(reach, stride) - reach if more is None else more)
    kept = stride + reach - 2 if more is None else reach + reach % 2 - 2 + more
    before = min((kept + 1) // 2, reach - 1)
    return reach - 1 - before, reach - 1 - (kept - before)


def _run_transposed(
    layer: Layer,
    value: Value,
    *,
    axes: int,
    axis: int,
    activation: Activation,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    crops: tuple[tuple[int, int], ...],
) -> Value:
    _check_rank(value, axes)
    x, valued = value.second(axis)
    if axes == 3 and x.shape[2] * stride[0] > _MOST_SLICES:
        raise ValueError(f"the volume would have more than {_MOST_SLICES} slices")
    before = tuple(first for first, _ in crops)
    added = tuple(max(first - last, 0) for first, last in crops)
    y = _TRANSPOSED[axes](x, layer.weight, layer.bias, stride, before, added, 1, dilation)
    surplus = [max(last - first, 0) for first, last in crops]
    if any(surplus):
        y = F.pad(y, [side for each in reversed(surplus) for side in (0, -each)])
    return activated(valued(y), activation)


@converts("Dense", variables=_kernel)
def _dense(config: Config, arrays: Arrays) -> Layer:
    units = config.integer("units")
    kernel = _shaped(config, arrays, "kernel", None, units)
    return Layer(
        config.kind,
        partial(_run_dense, activation=activation_of(config)),
        {"weight": kernel.T, "bias": _bias(config, arrays, units)},
        packing=F.pack_linear,
        details=f"{len(kernel)} to {units}",
    )


def _run_dense(layer: Layer, value: Value, *, activation: Activation) -> Value:
    x = value.in_order
    return activated(Value(F.linear(x, layer.weight_for(x), layer.bias)), activation)
