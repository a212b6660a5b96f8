"""Gradients by an operation's rule, as the tape calls it, and numerical ones to check the oracles."""

from functools import partial
from types import FunctionType, MethodType

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


def kept_arrays(pullback):
    """Return the arrays that a pullback keeps alive through its closures."""
    found, waiting, seen = {}, [pullback], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            found[item.ctypes.data] = item
        elif isinstance(item, FunctionType):
            waiting += [cell.cell_contents for cell in item.__closure__ or ()]
        elif isinstance(item, MethodType):
            waiting += vars(item.__self__).values()
        elif isinstance(item, partial):
            waiting += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
    return list(found.values())
