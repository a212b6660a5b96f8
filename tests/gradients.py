"""Gradients by an operation's rule, as the tape calls it, and without a rule, to check the oracles."""

import numpy as np

from convlane.functional._op import rules, signature_of


def by_rule(operation, gradient, *args, wanted=("input",), **kwargs):
    """Return the output and the gradients of the wanted arguments, by name."""
    bound = signature_of(operation).bind(*args, **kwargs)
    bound.apply_defaults()
    output, pullback = rules(operation).vjp(frozenset(wanted), **bound.arguments)
    before = gradient.tobytes()
    found = pullback(gradient)
    assert gradient.tobytes() == before, "the gradient may be shared, so it is only read"
    assert found.keys() == set(wanted)
    return output, found


def numeric_gradient(forward, x, gradient, step=1e-5):
    """Return the gradient of ``sum(forward(x) * gradient)`` by central differences, one value of `x` at a time."""
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
