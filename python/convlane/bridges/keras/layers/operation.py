"""Functions of `keras.ops` between layers, as Keras 3 writes them into functional models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from convlane import functional as F
from convlane.bridges.keras.configuration import Config
from convlane.bridges.keras.layers.activation import Activation, activated, activation_names, activation_of, relu_of
from convlane.bridges.keras.layers.merge import joined
from convlane.bridges.keras.network import Layer, flat
from convlane.bridges.keras.registry import Arrays, converts_operations
from convlane.bridges.keras.value import Value, alike

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": F.add,
    "Subtract": F.sub,
    "Multiply": F.mul,
    "Divide": F.div,
    "TrueDivide": F.div,
    "Maximum": F.maximum,
    "Minimum": F.minimum,
    "Power": F.pow,
}


@converts_operations(*_BINARY)
def _binary(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_binary, kind=config.kind))


def _run_binary(layer: Layer, x1: Any, x2: Any, *, kind: str) -> Value:
    """Broadcast as NumPy does, from the last axis on."""
    values = [each for each in (x1, x2) if isinstance(each, Value)]
    for each in (x1, x2):
        if not isinstance(each, Value) and (isinstance(each, bool) or not isinstance(each, (int, float))):
            raise ValueError("operands are results of layers and numbers")
    if len(values) == 1:
        a, b = (each.array if isinstance(each, Value) else each for each in (x1, x2))
        return Value(_BINARY[kind](a, b), values[0].moved)
    if x1.rank == x2.rank:
        first, second = alike(values)
        return Value(_BINARY[kind](first.array, second.array), first.moved)
    return Value(_BINARY[kind](x1.in_order, x2.in_order))


_UNARY: dict[str, Callable[[Any], Any]] = {
    **{name.capitalize(): getattr(F, name) for name in ("square", "sqrt", "rsqrt", "exp", "log", "log1p", "sign")},
    **{name.capitalize(): getattr(F, name) for name in ("floor", "ceil", "sin", "cos", "erf", "reciprocal")},
    "Absolute": F.abs,
    "Abs": F.abs,
    "Negative": F.neg,
}


@converts_operations(*_UNARY)
def _unary(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_unary, kind=config.kind))


def _run_unary(layer: Layer, x: Value, *, kind: str) -> Value:
    return Value(_UNARY[kind](x.array), x.moved)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


_OTHER_NAMES = ("linear", "exponential", "swish", "hard_swish")  # of functions that have one here, or of none
_ACTIVATIONS = {_camel(name): name for name in activation_names() if name not in _OTHER_NAMES}


@converts_operations(*_ACTIVATIONS)
def _activation(config: Config, arrays: Arrays) -> Layer:
    """Take the activation of this name, with the settings that differ for an operation."""
    name = _ACTIVATIONS[config.kind]
    if config.get("axis", -1) != -1:
        config.fail("it is computed along the last axis only")
    activation = activation_of(Config(config.name, config.kind, {"activation": name}, config.version))
    if name == "leaky_relu" and "negative_slope" in config:
        activation = partial(_leaky, slope=config.number("negative_slope"))
    elif name == "gelu" and config.flag("approximate", True):  # the default of keras.ops, not that of the activation
        activation = _gelu_tanh
    elif any(config.get(key, default) != default for key, default in _DEFAULTS.items()):
        config.fail("it is computed with its usual settings only")
    return Layer(config.kind, partial(_run_activation, activation=activation))


@converts_operations("ReLU")
def _relu(config: Config, arrays: Arrays) -> Layer:
    """Take what `keras.activations.relu` leaves in a model, which has the layer's settings."""
    return Layer(config.kind, partial(_run_activation, activation=relu_of(config)))


_DEFAULTS = {"alpha": 1.0, "threshold": 0.5, "b": 4}


def _leaky(x: Any, dim: int, *, slope: float) -> Any:
    return F.leaky_relu(x, slope)


def _gelu_tanh(x: Any, dim: int) -> Any:
    return F.gelu(x, approximate="tanh")


def _run_activation(layer: Layer, x: Value, *, activation: Activation) -> Value:
    return activated(x, activation)


_REDUCTIONS: dict[str, Callable[..., Any]] = {"Mean": F.mean, "Sum": F.sum, "Max": F.amax, "Min": F.amin}


@converts_operations(*_REDUCTIONS)
def _reduction(config: Config, arrays: Arrays) -> Layer:
    axes = config.get("axis")
    axes = axes if axes is None or isinstance(axes, list) else [axes]
    if axes is None or any(type(axis) is not int for axis in axes) or config.get("initial") is not None:
        config.fail("it is computed along given axes only")
    return Layer(config.kind, partial(_run_reduction, kind=config.kind, axes=axes, keep=config.flag("keepdims", False)))


def _run_reduction(layer: Layer, x: Value, *, kind: str, axes: list[int], keep: bool) -> Value:
    dims = tuple(x.dim(axis) for axis in axes)
    if 0 in dims:
        raise ValueError("it is not computed along the batch")
    reduced = _REDUCTIONS[kind](x.array, dims, keep)
    return Value(reduced, x.moved and (keep or (1 not in dims and len(reduced.shape) > 2)))


@converts_operations("Reshape")
def _reshape(config: Config, arrays: Arrays) -> Layer:
    """Give an array a shape, the batch among its sizes."""
    target = config.integers("newshape", None, least=-1)
    if not target or target.count(-1) > 1 or 0 in target:
        config.fail(f"newshape must have at most one -1 and no 0, got {list(target)}")
    return Layer(config.kind, partial(_run_reshape, target=target))


def _run_reshape(layer: Layer, x: Value, *, target: tuple[int, ...]) -> Value:
    return Value(F.reshape(x.in_order, target))


@converts_operations("Transpose")
def _transpose(config: Config, arrays: Arrays) -> Layer:
    axes = config.integers("axes", None, least=0)
    if sorted(axes) != list(range(len(axes))):
        config.fail(f"axes must be an order of the axes, got {list(axes)}")
    return Layer(config.kind, partial(_run_transpose, axes=axes))


def _run_transpose(layer: Layer, x: Value, *, axes: tuple[int, ...]) -> Value:
    return Value(F.permute(x.array, tuple(x.dim(axis) for axis in axes)))


@converts_operations("Concatenate")
def _concatenate(config: Config, arrays: Arrays) -> Layer:
    axis = config.get("axis", 0)
    if type(axis) is not int:
        config.fail(f"axis must be an integer, got {axis!r}")
    return Layer(config.kind, partial(_run_concatenate, axis=axis))


def _run_concatenate(layer: Layer, *args: Any, axis: int) -> Value:
    return joined(flat(args), axis)


@converts_operations("Clip")
def _clip(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_clip, least=config.number("x_min"), most=config.number("x_max")))


def _run_clip(layer: Layer, x: Value, *, least: float, most: float) -> Value:
    return Value(F.clamp(x.array, least, most), x.moved)


@converts_operations("ExpandDims")
def _expand(config: Config, arrays: Arrays) -> Layer:
    axis = config.get("axis")
    if type(axis) is not int:
        config.fail(f"axis must be an integer, got {axis!r}")
    return Layer(config.kind, partial(_run_expand, axis=axis))


def _run_expand(layer: Layer, x: Value, *, axis: int) -> Value:
    return Value(F.unsqueeze(x.in_order, axis))


@converts_operations("Squeeze")
def _squeeze(config: Config, arrays: Arrays) -> Layer:
    axis = config.get("axis")
    if type(axis) is not int:
        config.fail("it is computed along one given axis only")
    return Layer(config.kind, partial(_run_squeeze, axis=axis))


def _run_squeeze(layer: Layer, x: Value, *, axis: int) -> Value:
    return Value(F.squeeze(x.in_order, axis))


@converts_operations("Matmul")
def _matmul(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, _run_matmul)


def _run_matmul(layer: Layer, x1: Value, x2: Value) -> Value:
    return Value(F.matmul(x1.in_order, x2.in_order))
