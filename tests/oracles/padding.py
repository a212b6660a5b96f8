"""Padding, number by number."""

import numpy as np


def pad(x, sides, mode="constant", value=0):
    """Put `sides`, a pair (before, behind) for each dimension, around `x`; what is below 0 is cut off first."""
    x = x[tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(sides, x.shape, strict=True))]
    out = np.full([max(a, 0) + size + max(b, 0) for (a, b), size in zip(sides, x.shape, strict=True)], value, x.dtype)
    for index in np.ndindex(out.shape):
        places = [
            place(i - max(before, 0), size, mode) for i, (before, _), size in zip(index, sides, x.shape, strict=True)
        ]
        if None not in places:
            out[index] = x[tuple(places)]
    return out


def place(i, size, mode):
    """Return which of `size` numbers stands at place `i`; None where none does."""
    if 0 <= i < size:
        return i
    if mode == "constant":
        return None
    if mode == "reflect":
        return -i if i < 0 else 2 * (size - 1) - i
    return min(max(i, 0), size - 1) if mode == "replicate" else i % size
