"""Layers that change the size of pictures: padding, cropping, upsampling, resizing."""

from __future__ import annotations

from functools import partial
from typing import Any

from convlane import functional as F
from convlane.bridges.keras.configuration import Config
from convlane.bridges.keras.layers.convolution import axes_of
from convlane.bridges.keras.network import Layer
from convlane.bridges.keras.registry import Arrays, converts
from convlane.bridges.keras.value import Value


@converts("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D")
def _pad(config: Config, arrays: Arrays) -> Layer:
    cuts = config.kind.startswith("Cropping")
    sides = config.pairs("cropping" if cuts else "padding", axes_of(config), 1)
    pad = [-side if cuts else side for pair in reversed(sides) for side in pair]
    return Layer(config.kind, partial(_run_pad, pad=pad, axis=config.channel_axis), details=str(sides))


def _run_pad(layer: Layer, value: Value, *, pad: list[int], axis: int) -> Value:
    x, valued = value.second(axis)
    return valued(F.pad(x, pad))


@converts("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _enlarge(config: Config, arrays: Arrays) -> Layer:
    axes = axes_of(config)
    factors = config.integers("size" if "size" in config else "length", axes, 2)
    mode = config.word("interpolation", ("nearest", "bilinear"), "nearest")
    run = partial(_run_enlarge, factors=factors, mode=mode, axis=config.channel_axis)
    return Layer(config.kind, run, details=f"{factors}, {mode}")


def _run_enlarge(layer: Layer, value: Value, *, factors: tuple[int, ...], mode: str, axis: int) -> Value:
    x, valued = value.second(axis)
    size = [length * factor for length, factor in zip(x.shape[2:], factors, strict=True)]
    return valued(_resized(x, size, mode))


def _resized(x: Any, size: list[int], mode: str) -> Any:
    """Sample at the centres of pixels, as TensorFlow 2 does."""
    if mode == "nearest":
        return F.resize(x, size, "nearest", rounding="round_prefer_ceil")
    return F.resize(x, size, "linear")


@converts("Resizing")
def _resize(config: Config, arrays: Arrays) -> Layer:
    for key in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if config.get(key):
            config.fail(f"{key} is not computed")
    size = [config.integer("height"), config.integer("width")]
    mode = config.word("interpolation", ("nearest", "bilinear"), "bilinear")
    return Layer(config.kind, partial(_run_resize, size=size, mode=mode, axis=config.channel_axis), details=str(size))


def _run_resize(layer: Layer, value: Value, *, size: list[int], mode: str, axis: int) -> Value:
    x, valued = value.second(axis)
    return valued(_resized(x, size, mode))
