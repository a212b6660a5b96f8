"""Normalisations."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import functional as F
from convlane.bridges.keras.configuration import Config, constant
from convlane.bridges.keras.network import Layer
from convlane.bridges.keras.registry import Arrays, Variables, converts
from convlane.bridges.keras.value import Value

_SMALLEST = 1e-7  # Keras's epsilon, the least deviation that it divides by


def _scale_and_shift(config: Config) -> tuple[str, ...]:
    return (("gamma",) if config.flag("scale", True) else ()) + (("beta",) if config.flag("center", True) else ())


def _learned(config: Config) -> Variables:
    return Variables(_scale_and_shift(config))


def _learned_and_measured(config: Config) -> Variables:
    return Variables(_scale_and_shift(config), ("moving_mean", "moving_variance"))


def _axis(config: Config) -> int:
    """Return the only axis of a setting that may be a list."""
    axis = config.get("axis", -1)
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if type(axis) is not int or not -8 <= axis < 8:
        config.fail(f"axis must be an integer, got {axis!r}")
    return axis


def _axes(config: Config) -> tuple[int, ...]:
    axes = config.get("axis", -1)
    axes = axes if isinstance(axes, list) else [axes]
    if not axes or any(type(axis) is not int or not -8 <= axis < 8 for axis in axes):
        config.fail(f"axis must be an integer or several, got {config.get('axis')!r}")
    return tuple(axes)


@converts("BatchNormalization", variables=_learned_and_measured)
def _batch_norm(config: Config, arrays: Arrays) -> Layer:
    if config.get("renorm"):
        config.fail("renorm is not computed")
    momentum, eps = config.number("momentum", 0.99), config.number("epsilon", 1e-3)
    return Layer(
        config.kind,
        partial(_run_batch_norm, axis=_axis(config), momentum=1 - momentum, eps=eps),
        {"weight": arrays.get("gamma"), "bias": arrays.get("beta")},
        {"running_mean": arrays["moving_mean"], "running_var": arrays["moving_variance"]},
        details=f"{arrays['moving_mean'].size}, eps={eps}",
    )


def _run_batch_norm(layer: Layer, value: Value, *, axis: int, momentum: float, eps: float) -> Value:
    x, valued = value.second(axis)
    mean, var = layer.running_mean, layer.running_var
    return valued(F.batch_norm(x, mean, var, layer.weight, layer.bias, layer.training, momentum, eps))


@converts("LayerNormalization", variables=_learned)
def _layer_norm(config: Config, arrays: Arrays) -> Layer:
    if config.get("rms_scaling"):
        config.fail("rms_scaling is not computed")
    run = partial(_run_layer_norm, axes=_axes(config), eps=config.number("epsilon", 1e-3))
    return Layer(config.kind, run, {"weight": arrays.get("gamma"), "bias": arrays.get("beta")})


def _run_layer_norm(layer: Layer, value: Value, *, axes: tuple[int, ...], eps: float) -> Value:
    if value.moved and value.rank == 4 and {value.axis(axis) for axis in axes} == {3}:
        return Value(F.channel_norm(value.array, layer.weight, layer.bias, eps), True)
    return _over_last(value, axes, lambda x, sizes: F.layer_norm(x, sizes, layer.weight, layer.bias, eps))


def _over_last(value: Value, axes: tuple[int, ...], run: Any) -> Value:
    """Run an operation on the last axes on other axes."""
    chosen = [value.axis(axis) for axis in axes]
    order = (*(axis for axis in range(value.rank) if axis not in chosen), *chosen)
    x = value.in_order
    sizes = [x.shape[axis] for axis in chosen]
    if order == tuple(range(value.rank)):
        return Value(run(x, sizes))
    y = run(F.permute(x, order), sizes)
    return Value(F.permute(y, tuple(order.index(axis) for axis in range(value.rank))))


@converts("GroupNormalization", variables=_learned)
def _group_norm(config: Config, arrays: Arrays) -> Layer:
    groups = config.get("groups", 32)
    groups = -1 if groups == -1 else config.integer("groups", 32)
    run = partial(_run_group_norm, axis=_axis(config), groups=groups, eps=config.number("epsilon", 1e-3))
    return Layer(config.kind, run, {"weight": arrays.get("gamma"), "bias": arrays.get("beta")})


def _run_group_norm(layer: Layer, value: Value, *, axis: int, groups: int, eps: float) -> Value:
    x, valued = value.second(axis)
    return valued(F.group_norm(x, x.shape[1] if groups == -1 else groups, layer.weight, layer.bias, eps))


@converts("UnitNormalization")
def _unit_norm(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_unit_norm, axes=_axes(config)))


def _run_unit_norm(layer: Layer, value: Value, *, axes: tuple[int, ...]) -> Value:
    dims = tuple(value.dim(axis) for axis in axes)
    squares = F.sum(F.square(value.array), dims, True)
    return Value(F.mul(value.array, F.rsqrt(F.clamp(squares, 1e-12))), value.moved)


def _measured(config: Config) -> Variables:
    return Variables() if config.get("mean") is not None else Variables((), ("mean", "variance", "count"))


@converts("Normalization", variables=_measured)
def _normalization(config: Config, arrays: Arrays) -> Layer:
    """Normalise by the mean and variance of the data, for each index along some axes."""
    if "mean" in arrays:
        mean, variance = arrays["mean"], arrays["variance"]
    else:
        mean, variance = constant(config.get("mean")), constant(config.get("variance"))
    axes = () if config.get("axis", -1) in (None, []) else _axes(config)
    squeezed = [np.asarray(each, np.float32) for each in (mean, variance)]
    deviation = np.maximum(np.sqrt(np.maximum(squeezed[1], 0)), np.float32(_SMALLEST))
    run = partial(_run_normalization, axes=axes, invert=config.flag("invert", False))
    return Layer(config.kind, run, None, {"mean": squeezed[0], "deviation": deviation})


def _run_normalization(layer: Layer, value: Value, *, axes: tuple[int, ...], invert: bool) -> Value:
    mean, deviation = (_spread(each, value, axes) for each in (layer.mean, layer.deviation))
    if invert:
        return Value(F.add(F.mul(value.array, deviation), mean), value.moved)
    return Value(F.div(F.sub(value.array, mean), deviation), value.moved)


def _spread(array: NDArray[Any], value: Value, axes: tuple[int, ...]) -> Any:
    """Return an array of one number, or of one for each index along some axes, so that it broadcasts with a value."""
    if array.size == 1:
        return array.reshape(())
    shape = [1] * value.rank
    sizes = [size for size in array.shape if size > 1]
    chosen = [axis for axis in sorted(map(value.axis, axes)) if value.array.shape[value.dim(axis)] > 1]
    if len(sizes) != len(chosen):
        raise ValueError(f"mean and variance of shape {array.shape} do not fit the axes {axes}")
    for axis, size in zip(chosen, sizes, strict=True):
        shape[axis] = size
    spread = array.reshape(shape)
    return np.moveaxis(spread, -1, 1) if value.moved else spread


def _gamma(config: Config) -> Variables:
    return Variables(("gamma",))


@converts("LayerScale", variables=_gamma)
def _layer_scale(config: Config, arrays: Arrays) -> Layer:
    """Scale each channel, as Keras's ConvNeXt does."""
    return Layer(config.kind, _run_layer_scale, {"weight": arrays["gamma"].reshape(-1)})


def _run_layer_scale(layer: Layer, value: Value) -> Value:
    x, valued = value.second(-1)
    return valued(F.mul(x, F.reshape(layer.weight, (-1, *[1] * (value.rank - 2)))))
