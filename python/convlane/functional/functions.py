"""Element-wise functions of one array."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_float
from convlane.functional._op import Pullback, Traits, op, same_shape
from convlane.functional._receptive import pointwise
from convlane.functional.compare import ge, le, logical_and, where
from convlane.functional.elementwise import affine, div, mul


def _function(
    pull: Callable[[Array, Array, Array], Array] | None,
) -> Callable[[Callable[[Array], Array]], Callable[[Array], Array]]:
    """Turn an element-wise function into an operation.

    `pull` returns the gradient of the input from that of the output, the input and the output; None if it is 0.
    """

    def decorate(forward: Callable[[Array], Array]) -> Callable[[Array], Array]:
        def vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
            x = as_array(input, forward.__name__, "input")
            output = forward(x)
            if pull is None:
                return output, lambda gradient: {"input": affine(gradient, 0)}
            return output, lambda gradient: {"input": pull(gradient, x, output)}

        return op(
            shape=same_shape,
            vjp=vjp,
            traits=Traits(in_place=True, elementwise=True),
            receptive=pointwise,
        )(forward)

    return decorate


def _run(name: str, input: Any) -> Array:
    return _core.unary(name, as_array(input, name, "input"))


@_function(lambda gradient, x, y: affine(gradient, -1))
def neg(input: Array) -> Array:
    """Reverse the sign of every number.

    Parameters
    ----------
    input
        float32, any shape of at most eight dimensions, any strides.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; order in memory as in `add`.

    Raises
    ------
    TypeError
        If `input` is not a float32 array.
    ValueError
        If `input` has more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import neg
    >>> neg(np.array([-3, 2], np.float32))
    array([ 3., -2.], dtype=float32)
    """
    return _run("neg", input)


@_function(lambda gradient, x, y: mul(gradient, _core.unary("sign", x)))
def abs(input: Array) -> Array:
    """Compute the absolute value of every number; otherwise like `neg`. The gradient at 0 is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import abs
    >>> abs(np.array([-3, 2], np.float32))
    array([3., 2.], dtype=float32)
    """
    return _run("abs", input)


@_function(None)
def sign(input: Array) -> Array:
    """Return 1 for positive numbers, -1 for negative ones and 0 for 0; otherwise like `neg`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sign
    >>> sign(np.array([-3, 2], np.float32))
    array([-1.,  1.], dtype=float32)
    """
    return _run("sign", input)


@_function(lambda gradient, x, y: mul(gradient, affine(x, 2)))
def square(input: Array) -> Array:
    """Multiply every number by itself; otherwise like `neg`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import square
    >>> square(np.array([-3, 2], np.float32))
    array([9., 4.], dtype=float32)
    """
    return _run("square", input)


@_function(lambda gradient, x, y: div(affine(gradient, 0.5), y))
def sqrt(input: Array) -> Array:
    """Take the square root of every number, NaN below 0; otherwise like `neg`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sqrt
    >>> sqrt(np.array([4, 9], np.float32))
    array([2., 3.], dtype=float32)
    """
    return _run("sqrt", input)


@_function(lambda gradient, x, y: mul(affine(gradient, -0.5), div(y, x)))
def rsqrt(input: Array) -> Array:
    """Take the reciprocal of the square root of every number; otherwise like `neg`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import rsqrt
    >>> rsqrt(np.array([4, 16], np.float32))
    array([0.5 , 0.25], dtype=float32)
    """
    return _run("rsqrt", input)


@_function(lambda gradient, x, y: affine(mul(gradient, mul(y, y)), -1))
def reciprocal(input: Array) -> Array:
    """Divide 1 by every number; otherwise like `neg`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import reciprocal
    >>> reciprocal(np.array([4, -2], np.float32))
    array([ 0.25, -0.5 ], dtype=float32)
    """
    return _run("reciprocal", input)


@_function(lambda gradient, x, y: mul(gradient, y))
def exp(input: Array) -> Array:
    """Compute ``e**x`` for every number; otherwise like `neg`. Accurate to 2 units in the last place.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import exp
    >>> exp(np.array([0, -np.inf], np.float32))
    array([1., 0.], dtype=float32)
    """
    return _run("exp", input)


@_function(lambda gradient, x, y: div(gradient, x))
def log(input: Array) -> Array:
    """Compute the natural logarithm of every number, minus infinity at 0 and NaN below; otherwise like `neg`.

    Accurate to 1 unit in the last place. For the logarithm of probabilities use `log_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import log
    >>> log(np.array([1, 0], np.float32))
    array([  0., -inf], dtype=float32)
    """
    return _run("log", input)


@_function(lambda gradient, x, y: div(gradient, affine(x, 1, 1)))
def log1p(input: Array) -> Array:
    """Compute the natural logarithm of 1 plus every number; otherwise like `neg`.

    Accurate to 2 units in the last place.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import log1p
    >>> log1p(np.array([0, 1e-10], np.float32))
    array([0.e+00, 1.e-10], dtype=float32)
    """
    return _run("log1p", input)


@_function(lambda gradient, x, y: mul(gradient, _core.unary("cos", x)))
def sin(input: Array) -> Array:
    """Compute the sine of every number, an angle in radians; otherwise like `neg`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sin
    >>> sin(np.array([0, np.pi / 2], np.float32))
    array([0., 1.], dtype=float32)
    """
    return _run("sin", input)


@_function(lambda gradient, x, y: mul(affine(gradient, -1), _core.unary("sin", x)))
def cos(input: Array) -> Array:
    """Compute the cosine of every number, an angle in radians; otherwise like `neg`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import cos
    >>> cos(np.array([0, np.pi], np.float32))
    array([ 1., -1.], dtype=float32)
    """
    return _run("cos", input)


@_function(
    lambda gradient, x, y: mul(gradient, affine(_core.unary("exp", affine(mul(x, x), -1)), 2 / math.sqrt(math.pi)))
)
def erf(input: Array) -> Array:
    """Compute ``2 / sqrt(pi)`` times the integral of ``exp(-t**2)`` from 0 to every number; otherwise like `neg`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import erf
    >>> erf(np.array([0, np.inf], np.float32))
    array([0., 1.], dtype=float32)
    """
    return _run("erf", input)


@_function(None)
def floor(input: Array) -> Array:
    """Round every number down; otherwise like `neg`. The gradient is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import floor
    >>> floor(np.array([-0.5, 1.5], np.float32))
    array([-1.,  1.], dtype=float32)
    """
    return _run("floor", input)


@_function(None)
def ceil(input: Array) -> Array:
    """Round every number up; otherwise like `neg`. The gradient is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import ceil
    >>> ceil(np.array([-0.5, 1.5], np.float32))
    array([-0.,  2.], dtype=float32)
    """
    return _run("ceil", input)


@_function(None)
def round(input: Array) -> Array:
    """Round every number to the nearest integer, halves to even; otherwise like `neg`. The gradient is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import round
    >>> round(np.array([0.5, 1.5, 2.6], np.float32))
    array([0., 2., 3.], dtype=float32)
    """
    return _run("round", input)


def _clamp_vjp(wanted: frozenset[str], input: Any, min: Any, max: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "clamp", "input")
    low, high = _bounds(min, max)

    def pullback(gradient: Array) -> dict[str, Array]:
        return {"input": where(logical_and(ge(x, low), le(x, high)), gradient, 0.0)}

    return clamp(x, min, max), pullback


def _bounds(min: Any, max: Any) -> tuple[float, float]:
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given")
    low = -math.inf if min is None else as_float(min, "clamp", "min")
    high = math.inf if max is None else as_float(max, "clamp", "max")
    if math.isnan(low) or math.isnan(high):
        raise ValueError("clamp: min and max must not be NaN")
    return low, high


@op(
    shape=same_shape,
    vjp=_clamp_vjp,
    traits=Traits(in_place=True, elementwise=True),
    receptive=pointwise,
)
def clamp(input: Array, min: float | None = None, max: float | None = None) -> Array:
    """Limit every number to a range; NaN stays NaN. Otherwise like `neg`.

    Parameters
    ----------
    input
        float32, any shape of at most eight dimensions, any strides.
    min, max
        The smallest and the largest number of the result, of which one may be None. Where `min` is above `max`, every
        number becomes `max`. For arrays as bounds use `maximum` and `minimum`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import clamp
    >>> clamp(np.array([-3, 0, 7], np.float32), -1, 1)
    array([-1.,  0.,  1.], dtype=float32)
    """
    return _core.unary("clamp", as_array(input, "clamp", "input"), *_bounds(min, max))
