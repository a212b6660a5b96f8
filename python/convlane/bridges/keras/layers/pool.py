"""Pooling. TensorFlow's averages leave the padding out."""

from __future__ import annotations

from functools import partial
from typing import Any

from convlane import functional as F
from convlane.bridges.keras.configuration import Config
from convlane.bridges.keras.layers.convolution import axes_of
from convlane.bridges.keras.network import Layer
from convlane.bridges.keras.registry import Arrays, converts
from convlane.bridges.keras.value import Value

_MAX: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@converts(*(f"{what}Pooling{axes}D" for what in ("Max", "Average") for axes in (1, 2, 3)))
def _pool(config: Config, arrays: Arrays) -> Layer:
    axes = axes_of(config)
    size = config.integers("pool_size" if "pool_size" in config else "pool_length", axes, 2)
    stride = size if config.get("strides") is None else config.integers("strides", axes)
    padding = "same_tf" if config.word("padding", ("valid", "same"), "valid") == "same" else 0
    average = config.kind.startswith("Average")
    run = partial(
        _run_pool,
        axes=axes,
        average=average,
        axis=config.channel_axis,
        settings={"kernel_size": size, "stride": stride, "padding": padding},
    )
    return Layer(config.kind, run, details=f"{size}, stride={stride}, padding={padding!r}")


def _run_pool(layer: Layer, value: Value, *, axes: int, average: bool, axis: int, settings: dict[str, Any]) -> Value:
    if value.rank != axes + 2:
        raise ValueError(f"the input has {value.rank} axes, not {axes + 2}")
    x, valued = value.second(axis)
    return valued(_AVERAGE[axes](x, **settings, count_include_pad=False) if average else _MAX[axes](x, **settings))


@converts(*(f"Global{what}Pooling{axes}D" for what in ("Max", "Average") for axes in (1, 2, 3)))
def _global_pool(config: Config, arrays: Arrays) -> Layer:
    average = "Average" in config.kind
    keep = config.flag("keepdims", False)
    return Layer(config.kind, partial(_run_global, average=average, keep=keep, axis=config.channel_axis))


def _run_global(layer: Layer, value: Value, *, average: bool, keep: bool, axis: int) -> Value:
    x, valued = value.second(axis)
    y = (F.mean if average else F.amax)(x, tuple(range(2, value.rank)), keep)
    return valued(y) if keep else Value(y)
