"""Activations, softmax and dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, ParamSpec

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_dim, as_float, shape_of
from convlane.functional._broadcast import sum_to
from convlane.functional._gradient import activate, activation_gradient, follows_from_output
from convlane.functional._op import Applied, Pullback, Shape, Traits, op, same_shape
from convlane.functional._receptive import mixes, pointwise
from convlane.functional.compare import ge, gt, le, logical_or, where
from convlane.functional.elementwise import minimum, mul
from convlane.functional.reduce import in_memory_order
from convlane.functional.shape import narrow

P = ParamSpec("P")

_seeded: ContextVar[np.random.Generator | None] = ContextVar("_seeded", default=None)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Make `dropout`, and everything that uses it, draw the same random numbers whenever the block is entered.

    They follow from `numbers`, none of which may be negative: for example a seed and the number of the training step,
    so that training can be resumed without saving a generator's state.

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


def _rule(name: str, applied: Applied) -> Callable[..., tuple[Array, Pullback]]:
    """Return an activation's gradient rule. It saves the output if that suffices, as the next layer does anyway."""

    def vjp(wanted: frozenset[str], input: Any, **arguments: Any) -> tuple[Array, Pullback]:
        x, (kernel, slope) = as_array(input, name, "input"), applied(arguments)
        output = activate(x, kernel, slope)
        from_output = follows_from_output(kernel, slope)
        kept = output if from_output else x
        return output, lambda gradient: {
            "input": activation_gradient(kept, gradient, kernel, slope, from_output=from_output)
        }

    return vjp


_IN_PLACE = Traits(in_place=True)
_ELEMENTWISE = Traits(in_place=True, elementwise=True)


def _activation(
    name: str, applied: Applied | None = None, *, derivative_from_output: bool = False
) -> Callable[[Callable[P, Array]], Callable[P, Array]]:
    """Turn a function into an operation that others can apply to their results, without `applied` by its name alone."""
    by = applied or (lambda arguments: (name, 0.0))
    traits = Traits(in_place=True, elementwise=True, activation=by, derivative_from_output=derivative_from_output)
    return op(shape=same_shape, vjp=_rule(name, by), traits=traits, receptive=pointwise)


def _with(name: str, argument: str) -> Applied:
    """Return how an activation with one numeric argument is applied."""
    return lambda arguments: (name, as_float(arguments[argument], name, argument))


def _gelu_applied(arguments: Mapping[str, Any]) -> tuple[str, float]:
    approximate = arguments["approximate"]
    if not isinstance(approximate, str):
        raise TypeError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return "gelu" if approximate == "none" else "gelu_tanh", 0.0


def _celu_applied(arguments: Mapping[str, Any]) -> tuple[str, float]:
    alpha = as_float(arguments["alpha"], "celu", "alpha")
    if alpha == 0:
        raise ValueError("celu: alpha must not be 0")
    return "celu", alpha


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


@_activation("relu", derivative_from_output=True)
def relu(input: Array) -> Array:
    """Clamp below at zero: ``max(0, x)``. NaN stays NaN and -0.0 stays -0.0.

    Parameters
    ----------
    input
        float32, any shape and strides.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; channels last in memory if that has four dimensions, or has three or five and is
        channels last itself; else C-contiguous.

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


@_activation("relu6", derivative_from_output=True)
def relu6(input: Array) -> Array:
    """Clamp between zero and six; otherwise like `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import relu6
    >>> relu6(np.array([-1, 2, 8], np.float32))
    array([0., 2., 6.], dtype=float32)
    """
    return activate(input, "relu6")


@_activation("leaky_relu", _with("leaky_relu", "negative_slope"))
def leaky_relu(input: Array, negative_slope: float = 0.01) -> Array:
    """Multiply negative values by `negative_slope`; otherwise like `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import leaky_relu
    >>> leaky_relu(np.array([-1, 2], np.float32), 0.5)
    array([-0.5,  2. ], dtype=float32)
    """
    return activate(input, "leaky_relu", as_float(negative_slope, "leaky_relu", "negative_slope"))


@_activation("silu")
def silu(input: Array) -> Array:
    """Multiply by the sigmoid of the input: ``x / (1 + exp(-x))``, also known as swish; shapes as in `relu`.

    The error is at most 4 units in the last place where ``exp(x)`` is a normal number, that is, for x above -87.3;
    below that, the absolute error stays under 2e-43.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import silu
    >>> silu(np.array([0, 20], np.float32))
    array([ 0., 20.], dtype=float32)
    """
    return activate(input, "silu")


@_activation("gelu", _gelu_applied)
def gelu(input: Array, *, approximate: str = "none") -> Array:
    """Multiply by the normal distribution function: ``x * (1 + erf(x / sqrt(2))) / 2``; shapes as in `relu`.

    The error of the exact function is at most 6 units in the last place for results down to the smallest normal number;
    below that, at most 6 denormal numbers. Minus infinity becomes NaN, as in torch and ONNX Runtime.

    Parameters
    ----------
    input
        As in `relu`.
    approximate
        ``"none"``, or ``"tanh"`` for ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2``, with which some
        networks were trained.

    Raises
    ------
    ValueError
        If `approximate` is neither of these.

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
    return activate(as_array(input, "gelu", "input"), *_gelu_applied({"approximate": approximate}))


@_activation("hardswish")
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


@_activation("hardsigmoid", derivative_from_output=True)
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


@_activation("sigmoid", derivative_from_output=True)
def sigmoid(input: Array) -> Array:
    """Compute ``1 / (1 + exp(-x))`` to within 3 units in the last place; shapes as in `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sigmoid
    >>> sigmoid(np.array([-np.inf, 0, np.inf], np.float32))
    array([0. , 0.5, 1. ], dtype=float32)
    """
    return activate(input, "sigmoid")


@_activation("tanh", derivative_from_output=True)
def tanh(input: Array) -> Array:
    """Compute the hyperbolic tangent to within 3 units in the last place; shapes as in `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import tanh
    >>> tanh(np.array([-np.inf, 0, np.inf], np.float32))
    array([-1.,  0.,  1.], dtype=float32)
    """
    return activate(input, "tanh")


@_activation("elu", _with("elu", "alpha"))
def elu(input: Array, alpha: float = 1.0) -> Array:
    """Replace negative values by ``alpha * (exp(x) - 1)``; shapes as in `relu`.

    The error is at most 3 units in the last place, also near zero.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import elu
    >>> elu(np.array([-np.inf, -1e-20, 2], np.float32))
    array([-1.e+00, -1.e-20,  2.e+00], dtype=float32)

    References
    ----------
    Clevert, Unterthiner, Hochreiter, "Fast and accurate deep network learning by exponential linear units (ELUs)",
    ICLR 2016.
    """
    return activate(input, "elu", as_float(alpha, "elu", "alpha"))


@_activation("celu", _celu_applied)
def celu(input: Array, alpha: float = 1.0) -> Array:
    """Replace negative values by ``alpha * (exp(x / alpha) - 1)``, which has slope 1 at zero; otherwise like `elu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import celu
    >>> celu(np.array([-np.inf, 0, 2], np.float32), 0.5)
    array([-0.5,  0. ,  2. ], dtype=float32)

    References
    ----------
    Barron, "Continuously differentiable exponential linear units", arXiv 1704.07483, 2017.
    """
    return activate(input, *_celu_applied({"alpha": alpha}))


@_activation("selu")
def selu(input: Array) -> Array:
    """Compute 1.0507010 times `elu` with ``alpha = 1.6732632``, which keep mean 0 and variance 1 from layer to layer.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import selu
    >>> selu(np.array([-np.inf, 0, 1], np.float32))
    array([-1.7580993,  0.       ,  1.050701 ], dtype=float32)

    References
    ----------
    Klambauer, Unterthiner, Mayr, Hochreiter, "Self-normalizing neural networks", NIPS 2017.
    """
    return activate(input, "selu")


@_activation("mish")
def mish(input: Array) -> Array:
    """Compute ``x * tanh(log(1 + exp(x)))``; shapes as in `relu`. Minus infinity becomes NaN, as in torch.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import mish
    >>> mish(np.array([-200, 0, 20], np.float32))
    array([-0.,  0., 20.], dtype=float32)

    References
    ----------
    Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020.
    """
    return activate(input, "mish")


@_activation("softsign")
def softsign(input: Array) -> Array:
    """Compute ``x / (1 + abs(x))``; shapes as in `relu`. Infinities become NaN, as in torch.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import softsign
    >>> softsign(np.array([-1, 0, 3], np.float32))
    array([-0.5 ,  0.  ,  0.75], dtype=float32)
    """
    return activate(input, "softsign")


@_activation("logsigmoid")
def logsigmoid(input: Array) -> Array:
    """Compute the logarithm of `sigmoid`, without taking the logarithm of small numbers; shapes as in `relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import logsigmoid
    >>> logsigmoid(np.array([-1000, 1000], np.float32))
    array([-1000.,     0.], dtype=float32)
    """
    return activate(input, "logsigmoid")


def _softplus_vjp(wanted: frozenset[str], input: Any, beta: Any, threshold: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "softplus", "input")
    output = softplus(x, beta, threshold)

    def pullback(gradient: Array) -> dict[str, Array]:
        return {"input": mul(gradient, _core.unary("softplus_slope", x, float(beta), float(threshold)))}

    return output, pullback


@op(shape=same_shape, vjp=_softplus_vjp, traits=_ELEMENTWISE, receptive=pointwise)
def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """Compute ``log(1 + exp(beta * x)) / beta``, a smooth `relu`, without overflow; shapes as in `relu`.

    The error is at most 4 units in the last place where ``exp(beta * x)`` is a normal number.

    Parameters
    ----------
    input
        As in `relu`.
    beta
        The larger it is, the sharper the bend at zero.
    threshold
        Above this, in units of ``beta * x``, the result is x itself.

    Raises
    ------
    TypeError
        If an argument has the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import softplus
    >>> softplus(np.array([-20, 0, 100], np.float32))
    array([2.0611537e-09, 6.9314718e-01, 1.0000000e+02], dtype=float32)
    """
    x, factor = as_array(input, "softplus", "input"), as_float(beta, "softplus", "beta")
    return _core.unary("softplus", x, factor, as_float(threshold, "softplus", "threshold"))


def _hardtanh_vjp(wanted: frozenset[str], input: Any, min_val: Any, max_val: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "hardtanh", "input")
    output = hardtanh(x, min_val, max_val)
    return output, lambda gradient: {
        "input": where(logical_or(le(x, float(min_val)), ge(x, float(max_val))), 0.0, gradient)
    }


@op(shape=same_shape, vjp=_hardtanh_vjp, traits=_ELEMENTWISE, receptive=pointwise)
def hardtanh(input: Array, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """Limit every number to a range; NaN stays NaN. At the limits the gradient is 0, unlike that of `clamp`.

    Parameters
    ----------
    input
        As in `relu`.
    min_val, max_val
        The smallest and the largest number of the result.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `min_val` is above `max_val`, or one is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import hardtanh
    >>> hardtanh(np.array([-3, 0.5, 7], np.float32))
    array([-1. ,  0.5,  1. ], dtype=float32)
    """
    x = as_array(input, "hardtanh", "input")
    low, high = as_float(min_val, "hardtanh", "min_val"), as_float(max_val, "hardtanh", "max_val")
    if not low <= high:
        raise ValueError(f"hardtanh: min_val must not be above max_val, got {low} and {high}")
    return _core.unary("clamp", x, low, high)


def _threshold_vjp(wanted: frozenset[str], input: Any, threshold: Any, value: Any) -> tuple[Array, Pullback]:
    x, limit = as_array(input, "threshold", "input"), as_float(threshold, "threshold", "threshold")
    output = _core.unary("threshold", x, limit, as_float(value, "threshold", "value"))
    return output, lambda gradient: {"input": where(le(x, limit), 0.0, gradient)}


@op(shape=same_shape, vjp=_threshold_vjp, traits=_ELEMENTWISE, receptive=pointwise)
def threshold(input: Array, threshold: float, value: float) -> Array:
    """Replace every number that is not above a threshold; NaN stays NaN; shapes as in `relu`.

    Parameters
    ----------
    input
        As in `relu`.
    threshold
        The number that a value must exceed to be kept.
    value
        The number that replaces all others.

    Raises
    ------
    TypeError
        If an argument has the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import threshold
    >>> threshold(np.array([1, 2, 3], np.float32), 2, -5)
    array([-5., -5.,  3.], dtype=float32)
    """
    limit = as_float(threshold, "threshold", "threshold")
    x = as_array(input, "threshold", "input")
    return _core.unary("threshold", x, limit, as_float(value, "threshold", "value"))


def _prelu_shape(input: Any, weight: Any) -> Shape:
    shape, given = tuple(input.shape), tuple(weight.shape)
    channels = shape[1] if len(shape) > 1 else 1
    if given not in ((), (1,), (channels,)):
        fitting = f"(1,) or ({channels},)"
        raise ValueError(f"prelu: input has shape {shape}, so weight must have shape {fitting}, got {given}")
    return shape


def slopes(weight: Array, ndim: int) -> Array:
    """Return the weight of `prelu` in a shape that broadcasts with arrays of `ndim` dimensions."""
    return weight.reshape(()) if weight.size == 1 else weight.reshape(1, -1, *(1,) * (ndim - 2))


def _prelu_vjp(wanted: frozenset[str], input: Any, weight: Any) -> tuple[Array, Pullback]:
    output = prelu(input, weight)
    x, given = as_array(input, "prelu", "input"), as_array(weight, "prelu", "weight")
    factors = slopes(given, x.ndim)

    def pullback(gradient: Array) -> dict[str, Array]:
        found = {}
        if "input" in wanted:
            found["input"] = where(gt(x, 0.0), gradient, mul(gradient, factors))
        if "weight" in wanted:
            found["weight"] = sum_to(mul(gradient, minimum(x, 0.0)), factors.shape).reshape(given.shape)
        return found

    return output, pullback


@op(
    shape=_prelu_shape,
    vjp=_prelu_vjp,
    differentiable=("input", "weight"),
    traits=Traits(in_place=True, parameters=frozenset({"weight"})),
    receptive=pointwise,
)
def prelu(input: Array, weight: Array) -> Array:
    """Multiply negative values by a learned slope, one for all channels or one for each.

    Parameters
    ----------
    input
        float32, at most eight dimensions, the second of which is that of the channels.
    weight
        float32, (1,) or (C,).

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; order in memory as in `add`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shape of `weight` does not match.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import prelu
    >>> prelu(np.array([[-2, -2, 3]], np.float32), np.array([0.5, 1, 2], np.float32))
    array([[-1., -2.,  3.]], dtype=float32)

    References
    ----------
    He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015.
    """
    x, factors = as_array(input, "prelu", "input"), as_array(weight, "prelu", "weight")
    _prelu_shape(x, factors)
    return _core.binary("prelu", x, slopes(factors, x.ndim))


def glu(input: Array, dim: int = -1) -> Array:
    """Multiply the first half along a dimension by the `sigmoid` of the second.

    Parameters
    ----------
    input
        float32, any shape with an even size along `dim`.
    dim
        The dimension to halve; negative numbers count from the end.

    Returns
    -------
    numpy.ndarray
        float32, half as large along `dim`; order in memory as in `mul`.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, or `dim` is not an integer.
    ValueError
        If `dim` is out of range, or the size along it is odd.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import glu
    >>> glu(np.array([2, 4, 0, 100], np.float32))
    array([1., 4.], dtype=float32)

    References
    ----------
    Dauphin, Fan, Auli, Grangier, "Language modeling with gated convolutional networks", ICML 2017.
    """
    shape = shape_of(input, "glu")
    axis = as_dim(dim, "glu", len(shape))
    half, odd = divmod(shape[axis], 2)
    if odd:
        raise ValueError(f"glu: the size along dim must be even, got {shape[axis]} of shape {shape}")
    return mul(narrow(input, axis, 0, half), sigmoid(narrow(input, axis, half, half)))


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
        float32, the shape of `input`; channels last in memory if that is an image not in C order, else in C order.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, or `dim` is not an integer.
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


@op(
    shape=same_shape,
    vjp=_dropout_vjp,
    traits=Traits(in_place=True, identity=lambda arguments, same: not arguments["training"] or arguments["p"] == 0),
    receptive=pointwise,
)
def dropout(input: Array, p: float = 0.5, training: bool = True, *, rng: np.random.Generator | None = None) -> Array:
    """Zero each value with probability `p` and divide the others by ``1 - p``; do nothing when not training.

    Parameters
    ----------
    input
        float32, any shape.
    p
        Between 0 and 1.
    training
        If false, `input` itself is returned.
    rng
        The random number generator; by default that of a surrounding `seeded` block, or else one that is seeded by the
        operating system.

    Returns
    -------
    numpy.ndarray
        As in `relu`.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, `p` is not a number, or `rng` is not a generator.
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
    """Return 0 or 1 / (1 - p) for each value, channels last for images; None if dropout does nothing."""
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
    """Call a kernel along one axis of C-ordered arrays of one shape; the result has the memory order of the first."""
    if arrays[0].ndim == 0:
        return run(*(array.reshape(1) for array in arrays), axis).reshape(())
    return in_memory_order(run, arrays, axis)
