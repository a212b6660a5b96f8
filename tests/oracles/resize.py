"""Resampling by its definition: axis by axis, output by output."""

import math

import numpy as np


def resize(x, size, mode="linear", coordinates="half_pixel", *, scales=None, rounding="round_prefer_floor", **options):
    for axis, outputs in enumerate(size):
        inputs = x.shape[2 + axis]
        scale = scales[axis] if scales else outputs / inputs
        rows = np.moveaxis(x, 2 + axis, 0)
        result = np.zeros((outputs, *rows.shape[1:]))
        for i in range(outputs):
            for j, weight in weights(i, inputs, outputs, scale, mode, coordinates, rounding, **options):
                result[i] += weight * rows[j]
        x = np.moveaxis(result, 0, 2 + axis)
    return x


def weights(i, inputs, outputs, scale, mode, coordinates, rounding, cubic_a=-0.75, exclude_outside=False):
    """Return (input, weight) for output i."""
    if mode == "area":
        covered = range(math.floor(i * inputs / outputs), math.ceil((i + 1) * inputs / outputs))
        return [(j, 1 / len(covered)) for j in covered]
    at = {
        "half_pixel": (i + 0.5) / scale - 0.5,
        "pytorch_half_pixel": (i + 0.5) / scale - 0.5 if outputs > 1 else 0,
        "align_corners": i * (inputs - 1) / (outputs - 1) if outputs > 1 else 0,
        "asymmetric": i / scale,
    }[coordinates]
    if mode == "nearest":
        half = {"round_prefer_floor": math.ceil(at - 0.5), "round_prefer_ceil": math.floor(at + 0.5)}
        j = {**half, "floor": math.floor(at), "ceil": math.ceil(at)}[rounding]
        return [(min(max(j, 0), inputs - 1), 1)]
    reach = 1 if mode == "linear" else 2
    found = []
    for j in range(math.floor(at) - reach + 1, math.floor(at) + reach + 1):
        weight = max(1 - abs(at - j), 0) if mode == "linear" else cubic(abs(at - j), cubic_a)
        if 0 <= j < inputs or not exclude_outside:
            found.append((min(max(j, 0), inputs - 1), weight))
    total = sum(weight for _, weight in found)
    return [(j, weight / total) for j, weight in found]


def cubic(d, a):
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0
