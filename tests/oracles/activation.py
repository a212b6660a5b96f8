"""Activations and softmax by their formulas."""

import math
from functools import partial

import numpy as np

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def leaky_relu(x, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def hardsigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


def hardswish(x):
    return x * np.clip(x + 3, 0, 6) / 6


def gelu(x):
    return x * _erfc(-np.asarray(x) / np.sqrt(2)) / 2


def gelu_tanh(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def celu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def selu(x):
    return SELU_SCALE * elu(x, SELU_ALPHA)


def softplus(x, beta=1.0, threshold=20.0):
    return np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta)


def logsigmoid(x):
    return -np.logaddexp(0, -x)


def softsign(x):
    return x / (1 + np.abs(x))


def mish(x):
    return x * np.tanh(np.logaddexp(0, x))


def hardtanh(x, min_val=-1.0, max_val=1.0):
    return np.clip(x, min_val, max_val)


def threshold(x, threshold, value):
    return np.where(x <= threshold, value, x)


def prelu(x, weight):
    """PReLU with a weight that broadcasts."""
    return np.where(x > 0, x, weight * x)


def glu(x, dim=-1):
    a, b = np.split(x, 2, axis=dim)
    return a * sigmoid(b)


BY_NAME = {
    "celu": celu,
    "elu": elu,
    "logsigmoid": logsigmoid,
    "mish": mish,
    "selu": selu,
    "softsign": softsign,
    "gelu": gelu,
    "relu": relu,
    "relu6": relu6,
    "leaky_relu": leaky_relu,
    "silu": silu,
    "hardsigmoid": hardsigmoid,
    "hardswish": hardswish,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
}


def softmax(x, dim):
    """Softmax along `dim`, one row at a time."""
    rows = np.moveaxis(np.array(x, np.float64), dim, -1)
    for index in np.ndindex(rows.shape[:-1]):
        powers = np.exp(rows[index] - rows[index].max())
        rows[index] = powers / powers.sum()
    return np.moveaxis(rows, -1, dim)


def log_softmax(x, dim):
    rows = np.moveaxis(np.array(x, np.float64), dim, -1)
    for index in np.ndindex(rows.shape[:-1]):
        shifted = rows[index] - rows[index].max()
        rows[index] = shifted - np.log(np.exp(shifted).sum())
    return np.moveaxis(rows, -1, dim)


def _sigmoid_slope(x):
    return sigmoid(x) * (1 - sigmoid(x))


def _mish_slope(x):
    inner = np.tanh(np.logaddexp(0, x))
    return inner + x * sigmoid(x) * (1 - inner**2)


def gelu_tanh_slope(x):
    inner, rise = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3), np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return (1 + np.tanh(inner)) / 2 + x * rise / np.cosh(inner) ** 2 / 2


SLOPES = {
    "celu": lambda x, alpha=1.0: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0) / alpha)),
    "elu": lambda x, alpha=1.0: np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
    "logsigmoid": lambda x: sigmoid(-x),
    "mish": _mish_slope,
    "selu": lambda x: SELU_SCALE * np.where(x > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(x, 0))),
    "softsign": lambda x: 1 / (1 + np.abs(x)) ** 2,
    "none": lambda x: np.ones_like(x),
    "relu": lambda x: np.where(x > 0, 1.0, 0.0),
    "relu6": lambda x: np.where((x > 0) & (x < 6), 1.0, 0.0),
    "leaky_relu": lambda x, negative_slope=0.01: np.where(x > 0, 1.0, negative_slope),
    "gelu": lambda x: _erfc(-np.asarray(x) / np.sqrt(2)) / 2 + x * np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi),
    "silu": lambda x: sigmoid(x) + x * _sigmoid_slope(x),
    "hardsigmoid": lambda x: np.where((x > -3) & (x < 3), 1 / 6, 0.0),
    "hardswish": lambda x: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, x / 3 + 0.5)),
    "sigmoid": _sigmoid_slope,
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
}
"""Derivatives; at a corner, that of the flat side, except 1 at the upper corner of hardswish."""

ARGUMENTS = {"celu": "alpha", "elu": "alpha", "leaky_relu": "negative_slope"}
"""The names of the parameters of activations that have one beside x."""


def fused(name, number):
    """Return the arguments of an operation with an activation; `number` is the activation's parameter, if any."""
    return {"activation": name, **({"negative_slope": number} if name in ARGUMENTS else {})}


def with_number(name, number):
    """Return the activation, with its parameter if it has one."""
    return partial(BY_NAME[name], **({ARGUMENTS[name]: number} if name in ARGUMENTS else {}))


def softmax_gradient(x, gradient, dim, log=False):
    """Multiply each row's gradient by the Jacobian: y_i (delta_ij - y_j), or delta_ij - y_j for the logarithm."""
    rows = np.moveaxis(np.array(x, np.float64), dim, -1)
    gradients = np.moveaxis(np.array(gradient, np.float64), dim, -1)
    for index in np.ndindex(rows.shape[:-1]):
        y = softmax(rows[index], 0)
        jacobian = np.eye(len(y)) - y if log else y[:, None] * (np.eye(len(y)) - y)
        rows[index] = gradients[index] @ jacobian
    return np.moveaxis(rows, -1, dim)
