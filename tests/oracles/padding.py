"""Padding, number by number."""

import numpy as np


def pad(x, sides, mode="constant", value=0):
    """Pad `x` by `sides`, a pair (before, after) for each dimension; negative ones are cropped first."""
    x = x[tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(sides, x.shape, strict=True))]
    out = np.full([max(a, 0) + size + max(b, 0) for (a, b), size in zip(sides, x.shape, strict=True)], value, x.dtype)
    for index in np.ndindex(out.shape):
        indices = [
            source(i - max(before, 0), size, mode) for i, (before, _), size in zip(index, sides, x.shape, strict=True)
        ]
        if None not in indices:
            out[index] = x[tuple(indices)]
    return out


def source(i, size, mode):
    """Return the index of the number at position `i` of the padded axis, or None if there is none."""
    if 0 <= i < size:
        return i
    if mode == "constant":
        return None
    if mode == "reflect":
        return -i if i < 0 else 2 * (size - 1) - i
    return min(max(i, 0), size - 1) if mode == "replicate" else i % size
