"""Activations, softmax and dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_dim, as_float
from convlane.functional._gradient import activate, activation_gradient, follows_from_output
from convlane.functional._op import Pullback, Shape, Traits, op, same_shape
from convlane.functional._receptive import mixes, pointwise
from convlane.functional.elementwise import mul
from convlane.functional.reduce import in_memory_order

_seeded: ContextVar[np.random.Generator | None] = ContextVar("_seeded", default=None)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Let `dropout`, and what is made of it, draw the same random numbers whenever the block is entered.

    They follow from `numbers`, none negative: a seed and the number of the step, say, so that training can be resumed
    without a state to be kept.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import dropout, seeded
    >>> def draw():
    ...     with seeded(1, 2):
    ...         return dropout(np.ones(1000, np.float32))
    >>> bool((draw() == draw()).all())
    True
    """
    token = _seeded.set(np.random.default_rng(numbers))
    try:
        yield
    finally:
        _seeded.reset(token)


def _rng() -> np.random.Generator:
    return _seeded.get() or _default_rng()


@cache
def _default_rng() -> np.random.Generator:
    return np.random.default_rng()


def _rule(name: str) -> Callable[..., tuple[Array, Pullback]]:
    """Return the gradient rule of an activation: it keeps the output where that is enough, as the next layer does."""

    def vjp(wanted: frozenset[str], input: Any, negative_slope: Any = 0.0) -> tuple[Array, Pullback]:
        x, slope = as_array(input, name, "input"), as_float(negative_slope, name, "negative_slope")
        output = activate(x, name, slope)
        from_output = follows_from_output(name, slope)
        kept = output if from_output else x
        return output, lambda gradient: {
            "input": activation_gradient(kept, gradient, name, slope, from_output=from_output)
        }

    return vjp


_IN_PLACE = Traits(in_place=True)
_ACTIVATION = Traits(in_place=True, elementwise=True, activation=True)
_TOLD_BY_OUTPUT = replace(_ACTIVATION, told_by_output=True)


def _softmax_dims(input: Any, dim: int) -> tuple[int]:
    return (as_dim(dim, "softmax", len(input.shape)) - len(input.shape),)


def _softmax_rule(name: str) -> Callable[..., tuple[Array, Pullback]]:
    def vjp(wanted: frozenset[str], input: Any, dim: Any) -> tuple[Array, Pullback]:
        output = _softmax(input, dim, name)
        axis, log = as_dim(dim, name, max(output.ndim, 1)), name == "log_softmax"

        def pullback(gradient: Array) -> dict[str, Array]:
            run = partial(_core.softmax_gradient, log=log)
            return {"input": _along(axis, run, output, gradient)}

        return output, pullback

    return vjp


def _dropout_vjp(
    wanted: frozenset[str], input: Any, p: Any, training: Any, rng: np.random.Generator | None
) -> tuple[Array, Pullback]:
    x = as_array(input, "dropout", "input")
    factors = _dropout_factors(x.shape, p, training, rng)
    if factors is None:
        return x, lambda gradient: {"input": gradient}
    return mul(factors, x), lambda gradient: {"input": mul(factors, gradient)}


@op(shape=same_shape, vjp=_rule("relu"), traits=_TOLD_BY_OUTPUT, receptive=pointwise)
def relu(input: Array) -> Array:
    """Clamp below at zero: ``max(0, x)``. NaN stays NaN and -0.0 stays -0.0.

    Parameters
    ----------
    input
        float32, any shape and strides.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; channels last in memory where that has four dimensions, or has three or five
        and is so itself; else C-contiguous.

    Raises
    ------
    TypeError
        If `input` is not a float32 array.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import relu
    >>> relu(np.array([-1, 2], np.float32))
    array([0., 2.], dtype=float32)
    """
    return activate(input, "relu")


@op(shape=same_shape, vjp=_rule("relu6"), traits=_TOLD_BY_OUTPUT, receptive=pointwise)
def relu6(input: Array) -> Array:
    """Clamp between zero and six; otherwise as `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import relu6
    >>> relu6(np.array([-1, 2, 8], np.float32))
    array([0., 2., 6.], dtype=float32)
    """
    return activate(input, "relu6")


@op(shape=same_shape, vjp=_rule("leaky_relu"), traits=_ACTIVATION, receptive=pointwise)
def leaky_relu(input: Array, negative_slope: float = 0.01) -> Array:
    """Multiply what is below zero by `negative_slope`; otherwise as `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import leaky_relu
    >>> leaky_relu(np.array([-1, 2], np.float32), 0.5)
    array([-0.5,  2. ], dtype=float32)
    """
    return activate(input, "leaky_relu", as_float(negative_slope, "leaky_relu", "negative_slope"))


@op(shape=same_shape, vjp=_rule("silu"), traits=_ACTIVATION, receptive=pointwise)
def silu(input: Array) -> Array:
    """Multiply by the own sigmoid: ``x / (1 + exp(-x))``, also known as swish; shapes as in `relu`.

    Within 4 units in the last place where ``exp(x)`` is a normal number, that is above -87.3; below, the absolute
    error stays under 2e-43.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import silu
    >>> silu(np.array([0, 20], np.float32))
    array([ 0., 20.], dtype=float32)
    """
    return activate(input, "silu")


@op(shape=same_shape, vjp=_rule("gelu"), traits=_ACTIVATION, receptive=pointwise)
def gelu(input: Array) -> Array:
    """Multiply by the share of the normal distribution below: ``x * (1 + erf(x / sqrt(2))) / 2``; shapes as in `relu`.

    This is the exact function, torch's ``approximate="none"``. Within 6 units in the last place for all numbers down to
    the smallest normal one; below, within 6 denormal ones. Minus infinity becomes -0.0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import gelu
    >>> gelu(np.array([-20, 0, 20], np.float32))
    array([-0.,  0., 20.], dtype=float32)

    References
    ----------
    Hendrycks, Gimpel, "Gaussian error linear units (GELUs)", arXiv 1606.08415, 2016.
    """
    return activate(input, "gelu")


@op(shape=same_shape, vjp=_rule("hardswish"), traits=_ACTIVATION, receptive=pointwise)
def hardswish(input: Array) -> Array:
    """Multiply by a piecewise linear sigmoid: ``x * min(max(x + 3, 0), 6) / 6`` (MobileNet v3); shapes as in `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import hardswish
    >>> hardswish(np.array([-4, 0, 4], np.float32))
    array([-0.,  0.,  4.], dtype=float32)
    """
    return activate(input, "hardswish")


@op(shape=same_shape, vjp=_rule("hardsigmoid"), traits=_TOLD_BY_OUTPUT, receptive=pointwise)
def hardsigmoid(input: Array) -> Array:
    """Clamp a line to a sigmoid's range: ``min(max(x + 3, 0), 6) / 6`` (MobileNet v3); shapes as in `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import hardsigmoid
    >>> hardsigmoid(np.array([-4, 0, 4], np.float32))
    array([0. , 0.5, 1. ], dtype=float32)
    """
    return activate(input, "hardsigmoid")


@op(shape=same_shape, vjp=_rule("sigmoid"), traits=_TOLD_BY_OUTPUT, receptive=pointwise)
def sigmoid(input: Array) -> Array:
    """Compute ``1 / (1 + exp(-x))`` within 3 units in the last place; shapes as in `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sigmoid
    >>> sigmoid(np.array([-np.inf, 0, np.inf], np.float32))
    array([0. , 0.5, 1. ], dtype=float32)
    """
    return activate(input, "sigmoid")


@op(shape=same_shape, vjp=_rule("tanh"), traits=_TOLD_BY_OUTPUT, receptive=pointwise)
def tanh(input: Array) -> Array:
    """Compute the hyperbolic tangent within 3 units in the last place; shapes as in `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import tanh
    >>> tanh(np.array([-np.inf, 0, np.inf], np.float32))
    array([-1.,  0.,  1.], dtype=float32)
    """
    return activate(input, "tanh")


@op(shape=same_shape, vjp=_softmax_rule("softmax"), traits=_IN_PLACE, receptive=mixes(_softmax_dims))
def softmax(input: Array, dim: int) -> Array:
    """Turn scores along `dim` into probabilities: ``exp(x) / sum(exp(x))``.

    The largest score is subtracted first, so that large ones do not overflow. Rows that hold a NaN, +inf, or nothing
    but -inf become NaN.

    Parameters
    ----------
    input
        float32, any shape.
    dim
        The dimension that sums to one; negative numbers count from the end.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; channels last in memory where that is an image in no C order, else in C order.

    Raises
    ------
    TypeError
        If `input` is not a float32 array or `dim` not an integer.
    ValueError
        If `dim` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import softmax
    >>> softmax(np.array([[1e4, 0], [1, 1]], np.float32), dim=1)
    array([[1. , 0. ],
           [0.5, 0.5]], dtype=float32)
    """
    return _softmax(input, dim, "softmax")


@op(shape=same_shape, vjp=_softmax_rule("log_softmax"), traits=_IN_PLACE, receptive=mixes(_softmax_dims))
def log_softmax(input: Array, dim: int) -> Array:
    """Compute the logarithm of `softmax`, without taking the logarithm of small probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import log_softmax
    >>> log_softmax(np.array([1000, 0], np.float32), dim=0)
    array([    0., -1000.], dtype=float32)
    """
    return _softmax(input, dim, "log_softmax")


@op(shape=same_shape, vjp=_dropout_vjp, traits=_IN_PLACE, receptive=pointwise)
def dropout(input: Array, p: float = 0.5, training: bool = True, *, rng: np.random.Generator | None = None) -> Array:
    """Zero each value with probability `p` and divide the others by ``1 - p``; nothing when not training.

    Parameters
    ----------
    input
        float32, any shape.
    p
        Between 0 and 1.
    training
        Where false, `input` is returned itself.
    rng
        Where the random numbers come from. Where none is given, that of `seeded` around the call; else one of this
        module, seeded by the system.

    Returns
    -------
    numpy.ndarray
        As in `relu`.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, `p` not a number, or `rng` not a generator.
    ValueError
        If `p` is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import dropout
    >>> sorted({float(y) for y in dropout(np.ones(100, np.float32), 0.5)})
    [0.0, 2.0]

    References
    ----------
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.
    """
    x = as_array(input, "dropout", "input")
    factors = _dropout_factors(x.shape, p, training, rng)
    return x if factors is None else mul(factors, x)


def _dropout_factors(shape: Shape, p: Any, training: Any, rng: np.random.Generator | None) -> Array | None:
    """0 or 1 / (1 - p) for each value, channels last for images; None where dropout does nothing."""
    p = as_float(p, "dropout", "p")
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be between 0 and 1, got {p}")
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"dropout: rng must be a numpy.random.Generator, got {type(rng).__name__}")
    if not training or p == 0:
        return None
    images = len(shape) == 4
    drawn = (shape[0], shape[2], shape[3], shape[1]) if images else shape
    kept = (rng or _rng()).random(drawn, np.float32) >= p
    factors: Array = np.multiply(kept, 1 / (1 - p) if p < 1 else 0.0, dtype=np.float32)
    return factors.transpose(0, 3, 1, 2) if images else factors


def _softmax(input: Any, dim: int, name: str) -> Array:
    x = as_array(input, name, "input")
    return _along(as_dim(dim, name, max(x.ndim, 1)), partial(_core.softmax, log=name == "log_softmax"), x)


def _along(axis: int, run: Callable[..., Array], *arrays: Array) -> Array:
    """Call a kernel that works along one axis of arrays of one shape in C order; the result is ordered as the first."""
    if arrays[0].ndim == 0:
        return run(*(array.reshape(1) for array in arrays), axis).reshape(())
    return in_memory_order(run, arrays, axis)
