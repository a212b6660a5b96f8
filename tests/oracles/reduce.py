"""Reductions over dimensions, as NumPy has them."""

import numpy as np


def _numpy(function, **keywords):
    return lambda x, dim, keepdim: function(x, axis=dim, keepdims=keepdim, **keywords)


def var(x, dim, keepdim):
    """By the definition, with torch's correction of the divisor."""
    with np.errstate(all="ignore"):
        distances = x - np.mean(x, axis=dim, keepdims=True)
        count = x.size // max(np.mean(x, axis=dim, keepdims=True).size, 1)
        return np.sum(distances**2, axis=dim, keepdims=keepdim) / np.float64(max(count - 1, 0))


def mean(x, dim, keepdim):
    with np.errstate(all="ignore"):
        total = np.sum(x, axis=dim, keepdims=keepdim)
        return total / np.float64(np.sum(np.ones_like(x), axis=dim, keepdims=keepdim))


REDUCTIONS = {
    "amax": _numpy(np.max),
    "amin": _numpy(np.min),
    "mean": mean,
    "prod": _numpy(np.prod),
    "sum": _numpy(np.sum),
    "var": var,
}
