"""Activations: functions by their names in settings, and layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from convlane import functional as F
from convlane.bridges.keras.configuration import Config
from convlane.bridges.keras.network import Layer
from convlane.bridges.keras.registry import Arrays, Variables, converts
from convlane.bridges.keras.value import Value

Activation: TypeAlias = Callable[[Any, int], Any]
"""A function of an array and of the dimension that is Keras's last axis."""


def activation_of(config: Config, key: str = "activation") -> Activation:
    """Return the activation that a setting names."""
    given = config.get(key)
    if given is None:
        return _linear
    if isinstance(given, dict):
        return _of_object(config, given)
    if not isinstance(given, str) or given not in _NAMED:
        config.fail(f"the activation {given!r} is unknown; there are {', '.join(sorted(_NAMED))}")
    if given == "hard_sigmoid" and config.version < 3:
        return _old_hard_sigmoid
    return _NAMED[given]


def _of_object(config: Config, given: dict[str, Any]) -> Activation:
    """Return an activation that is written as a function or as a layer."""
    kind, inner = given.get("class_name"), given.get("config")
    if kind == "function":
        return activation_of(Config(config.name, config.kind, {"activation": inner or ""}, config.version))
    if isinstance(kind, str) and kind in _SIMPLE and isinstance(inner, dict):
        return _SIMPLE[kind](Config(config.name, kind, inner, config.version))
    config.fail(f"the activation {kind!r} is unknown; functions by name and {', '.join(sorted(_SIMPLE))} are known")


def activated(value: Value, activation: Activation) -> Value:
    """Return the value of the activation."""
    return Value(activation(value.array, value.dim(-1) if value.rank else 0), value.moved)


def elementwise(function: Callable[[Any], Any]) -> Activation:
    """Return the activation that a function of one array is."""
    return partial(_applied, function)


def _applied(function: Callable[[Any], Any], x: Any, dim: int) -> Any:
    return function(x)


def _linear(x: Any, dim: int) -> Any:
    return x


def _old_hard_sigmoid(x: Any, dim: int) -> Any:
    """Keras 2's, which is steeper than Keras 3's and torch's."""
    return F.clamp(F.affine(x, 0.2, 0.5), 0, 1)


def _leaky_relu(x: Any, dim: int) -> Any:
    return F.leaky_relu(x, 0.2)


def _tanh_shrink(x: Any, dim: int) -> Any:
    return F.sub(x, F.tanh(x))


def _hard_shrink(x: Any, dim: int) -> Any:
    return F.where(F.gt(F.abs(x), 0.5), x, 0.0)


def _soft_shrink(x: Any, dim: int) -> Any:
    return F.sub(x, F.clamp(x, -0.5, 0.5))


def _squareplus(x: Any, dim: int) -> Any:
    return F.affine(F.add(x, F.sqrt(F.affine(F.square(x), 1.0, 4.0))), 0.5)


def _sparse_plus(x: Any, dim: int) -> Any:
    """0 below -1, x above 1, and a parabola between."""
    inner = F.clamp(x, -1, 1)
    return F.add(F.affine(F.square(F.affine(inner, 1.0, 1.0)), 0.25), F.relu(F.affine(x, 1.0, -1.0)))


def _sparse_sigmoid(x: Any, dim: int) -> Any:
    return F.affine(F.clamp(x, -1, 1), 0.5, 0.5)


def _glu(x: Any, dim: int) -> Any:
    return F.glu(x, dim)


def _softmax(x: Any, dim: int) -> Any:
    return F.softmax(x, dim)


def _log_softmax(x: Any, dim: int) -> Any:
    return F.log_softmax(x, dim)


_NAMED: dict[str, Activation] = {
    **{
        name: elementwise(function)
        for name, function in {
            **{name: getattr(F, name) for name in ("relu", "relu6", "elu", "selu", "celu", "softplus", "softsign")},
            **{name: getattr(F, name) for name in ("silu", "gelu", "tanh", "sigmoid", "mish")},
            "swish": F.silu,
            "exponential": F.exp,
            "hard_sigmoid": F.hardsigmoid,
            "hard_silu": F.hardswish,
            "hard_swish": F.hardswish,
            "hard_tanh": F.hardtanh,
            "log_sigmoid": F.logsigmoid,
        }.items()
    },
    "linear": _linear,
    "leaky_relu": _leaky_relu,
    "tanh_shrink": _tanh_shrink,
    "hard_shrink": _hard_shrink,
    "soft_shrink": _soft_shrink,
    "squareplus": _squareplus,
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": _sparse_sigmoid,
    "glu": _glu,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
}


def activation_names() -> list[str]:
    """Return the names of all activations."""
    return sorted(_NAMED)


# Layers


def _run(layer: Layer, value: Value, *, activation: Activation) -> Value:
    return activated(value, activation)


@converts("Activation")
def _activation(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run, activation=activation_of(config)), details=str(config.get("activation")))


def relu_of(config: Config) -> Activation:
    """Return the activation that the settings of a `ReLU` describe."""
    slope = 0.0 if config.get("negative_slope") is None else config.number("negative_slope")
    threshold = 0.0 if config.get("threshold") is None else config.number("threshold")
    most = None if config.get("max_value") is None else config.number("max_value")
    if most is not None and most < threshold:
        config.fail(f"max_value {most} is below threshold {threshold}")
    if (slope, threshold, most) == (0, 0, None):
        return _NAMED["relu"]
    if (slope, threshold, most) == (0, 0, 6):
        return _NAMED["relu6"]
    return partial(_general_relu, slope=slope, threshold=threshold, most=most)


def _general_relu(x: Any, dim: int, *, slope: float, threshold: float, most: float | None) -> Any:
    kept = x if most is None else F.clamp(x, max=most)
    if threshold == 0:
        return F.leaky_relu(kept, slope) if slope else F.relu(kept)
    below = F.affine(x, slope, -slope * threshold) if slope else 0.0
    return F.where(F.ge(x, threshold), kept, below)


def _leaky_of(config: Config) -> Activation:
    key = next((key for key in ("negative_slope", "alpha") if key in config), "negative_slope")
    return partial(_leaky, slope=config.number(key, 0.3))


def _leaky(x: Any, dim: int, *, slope: float) -> Any:
    return F.leaky_relu(x, slope)


def _elu_of(config: Config) -> Activation:
    return partial(_elu, alpha=config.number("alpha", 1.0))


def _elu(x: Any, dim: int, *, alpha: float) -> Any:
    return F.elu(x, alpha)


def _thresholded_of(config: Config) -> Activation:
    return partial(_thresholded, threshold=config.number("theta", 1.0))


def _thresholded(x: Any, dim: int, *, threshold: float) -> Any:
    return F.where(F.gt(x, threshold), x, 0.0)


_SIMPLE: dict[str, Callable[[Config], Activation]] = {
    "ReLU": relu_of,
    "LeakyReLU": _leaky_of,
    "ELU": _elu_of,
    "ThresholdedReLU": _thresholded_of,
}


@converts(*_SIMPLE)
def _simple(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run, activation=_SIMPLE[config.kind](config)))


@converts("Softmax")
def _softmax_layer(config: Config, arrays: Arrays) -> Layer:
    axes = config.get("axis", -1)
    if not isinstance(axes, int):
        config.fail(f"a softmax over the axes {axes!r} is not computed, only over one")
    return Layer(config.kind, partial(_run_softmax, axis=axes))


def _run_softmax(layer: Layer, value: Value, *, axis: int) -> Value:
    return Value(F.softmax(value.array, value.dim(axis)), value.moved)


def _alpha(config: Config) -> Variables:
    return Variables(("alpha",))


@converts("PReLU", variables=_alpha)
def _prelu(config: Config, arrays: Arrays) -> Layer:
    """One slope for each number, except along the shared axes."""
    alpha = arrays["alpha"]
    if alpha.ndim and alpha.size == alpha.shape[-1]:
        return Layer(config.kind, _run_prelu, {"weight": alpha.reshape(-1)})
    return Layer(config.kind, _run_general_prelu, {"weight": alpha})


def _run_prelu(layer: Layer, value: Value) -> Value:
    x, valued = value.second(-1)
    return valued(F.prelu(x, layer.weight))


def _run_general_prelu(layer: Layer, value: Value) -> Value:
    x = value.in_order
    above = F.relu(x)
    return Value(F.add(above, F.mul(F.sub(x, above), F.unsqueeze(layer.weight, 0))))
