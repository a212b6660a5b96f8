"""Activations and softmax by their formulas."""

import math

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


BY_NAME = {
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
    """Along `dim`, written for one row at a time."""
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


SLOPES = {
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
"""Derivatives; at a corner those of the flat side, and 1 at hardswish's upper one."""


def softmax_gradient(x, gradient, dim, log=False):
    """Of every row the gradient times the Jacobian: y_i (delta_ij - y_j), or delta_ij - y_j of the logarithm."""
    rows = np.moveaxis(np.array(x, np.float64), dim, -1)
    gradients = np.moveaxis(np.array(gradient, np.float64), dim, -1)
    for index in np.ndindex(rows.shape[:-1]):
        y = softmax(rows[index], 0)
        jacobian = np.eye(len(y)) - y if log else y[:, None] * (np.eye(len(y)) - y)
        rows[index] = gradients[index] @ jacobian
    return np.moveaxis(rows, -1, dim)
