"""Gradients without a rule: central differences in float64, against which the oracles' rules are checked."""

import numpy as np


def numeric_gradient(forward, x, gradient, step=1e-5):
    """Return the gradient of ``sum(forward(x) * gradient)``, one value of `x` at a time."""
    x = np.array(x, np.float64)
    out = np.empty_like(x)
    for index in np.ndindex(x.shape):
        value, sums = x[index], []
        for shifted in (value + step, value - step):
            x[index] = shifted
            sums.append((forward(x) * gradient).sum())
        x[index] = value
        out[index] = (sums[0] - sums[1]) / (2 * step)
    return out
