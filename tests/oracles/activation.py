"""Activations by their formulas."""

import numpy as np


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


def hardswish(x):
    return x * np.clip(x + 3, 0, 6) / 6


BY_NAME = {
    "relu": relu,
    "relu6": relu6,
    "leaky_relu": leaky_relu,
    "silu": silu,
    "hardswish": hardswish,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
}
