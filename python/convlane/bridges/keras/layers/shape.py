"""Layers that rearrange or rescale numbers, and those that do nothing at inference."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import functional as F
from convlane.bridges.keras.configuration import Config, constant
from convlane.bridges.keras.network import Layer
from convlane.bridges.keras.registry import Arrays, converts
from convlane.bridges.keras.value import Value, last_second
from convlane.functional.shape import image_rows


@converts("Flatten")
def _flatten(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_flatten, axis=config.channel_axis))


def _run_flatten(layer: Layer, value: Value, *, axis: int) -> Value:
    """Flatten so that channels come last, which Keras does for both orders of axes."""
    if value.rank < 2:
        return Value(F.unsqueeze(value.array, -1))
    if value.rank == 2:
        return value
    second = value.second(axis)[0] if axis == 1 or value.moved else None
    if second is not None and value.rank == 4:
        return Value(image_rows(second))
    return Value(F.flatten(value.in_order if second is None else Value(second, True).in_order))


@converts("Reshape")
def _reshape(config: Config, arrays: Arrays) -> Layer:
    target = config.integers("target_shape", None, least=-1)
    if target.count(-1) > 1 or 0 in target:
        config.fail(f"target_shape must have at most one -1 and no 0, got {list(target)}")
    return Layer(config.kind, partial(_run_reshape, target=target), details=str(target))


def _run_reshape(layer: Layer, value: Value, *, target: tuple[int, ...]) -> Value:
    x = value.in_order
    if -1 in target:  # which is then not left for the batch
        known = -math.prod(target)
        target = tuple(math.prod(x.shape[1:]) // known if size == -1 else size for size in target)
    if math.prod(target) != math.prod(x.shape[1:]):
        raise ValueError(f"an array of shape {tuple(x.shape[1:])} cannot become {target}")
    return Value(F.reshape(x, (-1, *target)))


@converts("Permute")
def _permute(config: Config, arrays: Arrays) -> Layer:
    dims = config.integers("dims", None)
    if sorted(dims) != list(range(1, len(dims) + 1)):
        config.fail(f"dims must be an order of the axes from 1 on, got {list(dims)}")
    return Layer(config.kind, partial(_run_permute, order=(0, *dims)), details=str(dims))


def _run_permute(layer: Layer, value: Value, *, order: tuple[int, ...]) -> Value:
    return Value(F.permute(value.array, tuple(value.dim(axis) for axis in order)))


@converts("RepeatVector")
def _repeat(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_repeat, count=config.integer("n")))


def _run_repeat(layer: Layer, value: Value, *, count: int) -> Value:
    if value.rank != 2:
        raise ValueError(f"the input has {value.rank} axes, not 2")
    return Value(F.tile(F.unsqueeze(value.array, 1), (1, count, 1)))


@converts("Rescaling")
def _rescaling(config: Config, arrays: Arrays) -> Layer:
    scale, offset = _numbers(config, "scale"), _numbers(config, "offset")
    if scale.size == 1 and offset.size == 1:
        return Layer(config.kind, partial(_run_scalars, scale=float(scale.item()), offset=float(offset.item())))
    return Layer(config.kind, partial(_run_rescaling, scale=scale, offset=offset))


def _numbers(config: Config, key: str) -> NDArray[Any]:
    given: Any = config.get(key, 0.0)
    if isinstance(given, dict):
        inner = given.get("config")
        given = inner.get("value") if isinstance(inner, dict) else inner
    array = constant(given)
    if array.ndim > 1:
        config.fail(f"{key} must be a number or a list of one for each channel, got shape {array.shape}")
    array.flags.writeable = False
    return array  # type: ignore[no-any-return]


def _run_scalars(layer: Layer, value: Value, *, scale: float, offset: float) -> Value:
    return Value(F.affine(value.array, scale, offset), value.moved)


def _run_rescaling(layer: Layer, value: Value, *, scale: NDArray[Any], offset: NDArray[Any]) -> Value:
    x = value.last_second
    shape = (-1, *[1] * (value.rank - 2))
    factor, added = (each.reshape(shape if each.size > 1 else ()) for each in (scale, offset))
    return last_second(F.add(F.mul(x, factor), added))


# Dropout and noise, which only training has


@converts("Dropout")
def _dropout(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_dropout, rate=config.number("rate", 0.5)))


def _run_dropout(layer: Layer, value: Value, *, rate: float) -> Value:
    return Value(F.dropout(value.array, rate, True), value.moved) if layer.training else value


@converts("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
def _spatial_dropout(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_spatial, rate=config.number("rate", 0.5), axis=config.channel_axis))


def _run_spatial(layer: Layer, value: Value, *, rate: float, axis: int) -> Value:
    """Drop whole channels of an example."""
    if not layer.training:
        return value
    x, valued = value.second(axis)
    ones = np.ones((*x.shape[:2], *[1] * (value.rank - 2)), np.float32)
    return valued(F.mul(x, F.dropout(ones, rate, True)))


@converts(
    *("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity", "StochasticDepth"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness"),
)
def _identity(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, _run_identity)


def _run_identity(layer: Layer, value: Value) -> Value:
    return value
