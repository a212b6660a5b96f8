"""Reductions over dimensions, by NumPy."""

import numpy as np


def _numpy(function, **keywords):
    return lambda x, dim, keepdim: function(x, axis=dim, keepdims=keepdim, **keywords)


def _count(x, dim):
    return np.sum(np.ones_like(x), axis=dim, keepdims=True)


def mean(x, dim, keepdim):
    with np.errstate(all="ignore"):
        return np.sum(x, axis=dim, keepdims=keepdim) / _count(x, dim).max(initial=0)


def var(x, dim, keepdim):
    """The variance by its definition, with torch's correction of the divisor."""
    with np.errstate(all="ignore"):
        distances = x - mean(x, dim, True)
        return np.sum(distances**2, axis=dim, keepdims=keepdim) / max(_count(x, dim).max(initial=0) - 1, np.float64(0))


REDUCTIONS = {
    "amax": _numpy(np.max),
    "amin": _numpy(np.min),
    "mean": mean,
    "prod": _numpy(np.prod),
    "sum": _numpy(np.sum),
    "var": var,
}
