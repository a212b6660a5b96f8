"""Activations."""

from __future__ import annotations

import math
from collections.abc import Callable

from convlane.onnx.writers._register import Call, writes


def activated(call: Call, name: str) -> str:
    """Return a result after the activation that an operation's own arguments ask for."""
    return by_name(call, name, call["activation"], call["negative_slope"])


def by_name(call: Call, name: str, kind: str, number: float) -> str:
    """Write an activation given by a name and a number, as convolutions take it."""
    return name if kind == "none" else _ACTIVATIONS[kind](call, name, number)


def _gelu(call: Call, x: str, _: float) -> str:
    cdf = call.emit("Add", call.emit("Erf", call.emit("Mul", x, call.floats(math.sqrt(0.5)))), call.floats(1))
    return call.emit("Mul", call.emit("Mul", x, cdf), call.floats(0.5))


def _gelu_tanh(call: Call, x: str, _: float) -> str:
    cube = call.emit("Mul", call.emit("Mul", x, x), x)
    inner = call.emit("Add", x, call.emit("Mul", cube, call.floats(0.044715)))
    cdf = call.emit(
        "Add", call.emit("Tanh", call.emit("Mul", inner, call.floats(math.sqrt(2 / math.pi)))), call.floats(1)
    )
    return call.emit("Mul", call.emit("Mul", x, cdf), call.floats(0.5))


def _celu(call: Call, x: str, alpha: float) -> str:
    return call.emit("Celu", x, alpha=float(alpha))


_ACTIVATIONS: dict[str, Callable[[Call, str, float], str]] = {
    "relu": lambda call, x, _: call.emit("Relu", x),
    "relu6": lambda call, x, _: call.emit("Clip", x, call.floats(0), call.floats(6)),
    "leaky_relu": lambda call, x, slope: call.emit("LeakyRelu", x, alpha=float(slope)),
    "silu": lambda call, x, _: call.emit("Mul", x, call.emit("Sigmoid", x)),
    "hardswish": lambda call, x, _: call.emit("HardSwish", x),
    "hardsigmoid": lambda call, x, _: call.emit("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "elu": lambda call, x, alpha: call.emit("Elu", x, alpha=float(alpha)),
    "celu": _celu,
    "selu": lambda call, x, _: call.emit("Selu", x),
    "mish": lambda call, x, _: call.emit("Mish", x),
    "softsign": lambda call, x, _: call.emit("Softsign", x),
    "logsigmoid": lambda call, x, _: call.emit("Neg", call.emit("Softplus", call.emit("Neg", x))),
    "sigmoid": lambda call, x, _: call.emit("Sigmoid", x),
    "tanh": lambda call, x, _: call.emit("Tanh", x),
}
"""As the argument `activation` of convolutions names them."""


@writes(*(name for name in _ACTIVATIONS if name not in ("gelu", "gelu_tanh", "leaky_relu", "elu", "celu")))
def _plain(call: Call) -> str:
    return by_name(call, call.name("input"), call.node.op, 0)


@writes("gelu")
def _gelu_of(call: Call) -> str:
    return by_name(call, call.name("input"), "gelu_tanh" if call["approximate"] == "tanh" else "gelu", 0)


@writes("leaky_relu")
def _leaky_relu(call: Call) -> str:
    return by_name(call, call.name("input"), "leaky_relu", call["negative_slope"])


@writes("elu", "celu")
def _with_alpha(call: Call) -> str:
    return by_name(call, call.name("input"), call.node.op, call["alpha"])


@writes("hardtanh")
def _hardtanh(call: Call) -> str:
    return call.emit("Clip", call.name("input"), call.floats(call["min_val"]), call.floats(call["max_val"]))


@writes("clamp")
def _clamp(call: Call) -> str:
    bounds = [call.name(bound) for bound in ("min", "max")]
    x = call.name("input")
    if all(call.shape(bound) == () for bound in ("min", "max") if call.node.attributes.get(bound) is not None):
        return call.emit("Clip", x, *bounds)
    for op, bound in zip(("Max", "Min"), bounds, strict=True):
        x = call.emit(op, x, bound) if bound else x
    return x


@writes("softplus")
def _softplus(call: Call) -> str:
    """Without torch's threshold, beyond which softplus is the identity to float32's last bit or two."""
    beta = call.floats(call["beta"])
    return call.emit("Div", call.emit("Softplus", call.emit("Mul", call.name("input"), beta)), beta)


@writes("threshold")
def _threshold(call: Call) -> str:
    x = call.name("input")
    above = call.emit("Greater", x, call.floats(call["threshold"]))
    return call.emit("Where", above, x, call.floats(call["value"]))


@writes("prelu")
def _prelu(call: Call) -> str:
    slope, size, rank = call.name("weight"), call.shape("weight")[0], len(call.shape())
    if size > 1 and rank > 2:
        slope = call.emit("Reshape", slope, call.integers([size] + [1] * (rank - 2)))
    return call.emit("PRelu", call.name("input"), slope)


@writes("softmax", "log_softmax")
def _softmax(call: Call) -> str:
    return call.emit("Softmax" if call.node.op == "softmax" else "LogSoftmax", call.name("input"), axis=call["dim"])
