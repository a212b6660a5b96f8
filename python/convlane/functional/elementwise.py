"""Arithmetic and functions of single numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_flat_image, as_float
from convlane.functional._gradient import activated
from convlane.functional._op import Pullback, Shape, Traits, op, same_shape
from convlane.functional._receptive import Axis, pointwise
from convlane.functional.shape import channels_last

_IN_PLACE = Traits(in_place=True)
_NO_STEP = "plans have no step for it yet"


def _scale_receptive(axis: Axis, name: str, *, scale: Any, **_: Any) -> Axis:
    return axis if name == "input" or len(scale.shape) == 4 else axis.everywhere()


def _same_shapes(op: str, input: Any, other: Any) -> Shape:
    if tuple(input.shape) != tuple(other.shape):
        raise ValueError(f"{op}: input has shape {tuple(input.shape)}, but other has {tuple(other.shape)}")
    return tuple(input.shape)


def _is_channel_vector(input_shape: Shape, shape: Shape) -> bool:
    """Whether `shape` is (N, C, 1, 1) or (1, C, 1, 1) for images (N, C, H, W)."""
    return (
        len(input_shape) == len(shape) == 4 and shape[0] in (1, input_shape[0]) and shape[1:] == (input_shape[1], 1, 1)
    )


def _add_shape(input: Any, other: Any, *args: Any, **kwargs: Any) -> Shape:
    return _same_shapes("add", input, other)


def _div_shape(input: Any, other: Any) -> Shape:
    return _same_shapes("div", input, other)


def _mul_shape(input: Any, other: Any) -> Shape:
    if _is_channel_vector(tuple(input.shape), tuple(other.shape)):
        return tuple(input.shape)
    return _same_shapes("mul", input, other)


def _scale_shape(input: Any, scale: Any) -> Shape:
    shape = tuple(scale.shape)
    if not _is_channel_vector(tuple(input.shape), shape if len(shape) == 4 else (*shape, 1, 1)):
        raise ValueError(
            f"scale: input has shape {tuple(input.shape)}, so scale must be (N, C, 1, 1) or (N, C), got {shape}"
        )
    return tuple(input.shape)


def _add_vjp(
    wanted: frozenset[str], input: Any, other: Any, activation: str, negative_slope: Any
) -> tuple[Array, Pullback]:
    slope = as_float(negative_slope, "add", "negative_slope")
    output, before = activated(partial(add, input, other), activation, slope)
    return output, lambda gradient: dict.fromkeys(wanted, before(gradient))


def _mul_vjp(wanted: frozenset[str], input: Any, other: Any) -> tuple[Array, Pullback]:
    output = mul(input, other)
    return output, _product_pullback(wanted, "other", as_array(input, "mul", "input"), as_array(other, "mul", "other"))


def _affine_vjp(wanted: frozenset[str], input: Any, factor: Any, offset: Any) -> tuple[Array, Pullback]:
    return affine(input, factor, offset), lambda gradient: {"input": affine(gradient, factor)}


def _div_vjp(wanted: frozenset[str], input: Any, other: Any) -> tuple[Array, Pullback]:
    output, divisor = div(input, other), as_array(other, "div", "other")
    quotient = output if "other" in wanted else None

    def pullback(gradient: Array) -> dict[str, Array]:
        of_input = div(gradient, divisor)
        found = {"input": of_input} if "input" in wanted else {}
        return found if quotient is None else found | {"other": affine(mul(of_input, quotient), -1)}

    return output, pullback


def _exp_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    output = exp(input)
    return output, lambda gradient: {"input": mul(gradient, output)}


def _log_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "log", "input")
    return log(x), lambda gradient: {"input": div(gradient, x)}


def _square_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "square", "input")
    return mul(x, x), lambda gradient: {"input": mul(gradient, affine(x, 2))}


def _abs_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "abs", "input")
    return abs(x), lambda gradient: {"input": mul(gradient, _mapped(np.sign, x))}


def _mapped(function: Callable[..., Any], *arrays: Array) -> Array:
    """Return what a NumPy function makes of each number; infinities and NaN are results like others."""
    with np.errstate(all="ignore"):
        return np.asarray(function(*(channels_last(a) if a.ndim == 4 else np.asarray(a, order="C") for a in arrays)))


def _scale_vjp(wanted: frozenset[str], input: Any, scale: Any) -> tuple[Array, Pullback]:
    x, factors = as_array(input, "scale", "input"), as_array(scale, "scale", "scale")
    _scale_shape(x, factors)
    pullback = _product_pullback(wanted, "scale", x, factors)
    return mul(x, factors if factors.ndim == 4 else factors[:, :, None, None]), pullback


def _product_pullback(wanted: frozenset[str], name: str, input: Array, factor: Array) -> Pullback:
    """Return the pullback of ``input * factor``, whose second argument is called `name`."""
    shape, like_input = factor.shape, factor.shape == input.shape
    a = input if name in wanted else None
    b = None if "input" not in wanted else factor if like_input or factor.ndim == 4 else factor[:, :, None, None]

    def pullback(gradient: Array) -> dict[str, Array]:
        found = {}
        if b is not None:
            found["input"] = mul(gradient, b)
        if a is not None and like_input:
            found[name] = mul(gradient, a)
        elif a is not None:
            shared = shape[0] == 1
            found[name] = _core.scale_scale_gradient(a, gradient, shared).reshape(shape)
        return found

    return pullback


@op(shape=_add_shape, vjp=_add_vjp, differentiable=("input", "other"), traits=_IN_PLACE, receptive=pointwise)
def add(input: Array, other: Array, *, activation: str = "none", negative_slope: float = 0.01) -> Array:
    """Add two arrays of the same shape, and apply an activation to the sum in the same pass.

    Parameters
    ----------
    input, other
        float32, any shape, both the same; any strides.
    activation, negative_slope
        As in `conv2d`.

    Returns
    -------
    numpy.ndarray
        float32, the same shape; channels last in memory where that has four dimensions, else C-contiguous.

    Raises
    ------
    TypeError
        If one is not a float32 array.
    ValueError
        If the shapes differ (nothing is broadcast), or for an unknown activation.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import add
    >>> add(np.array([1, 2], np.float32), np.array([3, -4], np.float32), activation="relu")
    array([4., 0.], dtype=float32)
    """
    a, b = as_array(input, "add", "input"), as_array(other, "add", "other")
    slope = as_float(negative_slope, "add", "negative_slope")
    _same_shapes("add", a, b)
    if a.ndim == 4:
        return _core.add(a, b, activation, slope)
    return _core.add(as_flat_image(a), as_flat_image(b), activation, slope).reshape(a.shape)


@op(shape=_mul_shape, vjp=_mul_vjp, differentiable=("input", "other"), traits=_IN_PLACE, receptive=pointwise)
def mul(input: Array, other: Array) -> Array:
    """Multiply two arrays of the same shape, or images (N, C, H, W) by one factor per channel.

    Parameters
    ----------
    input
        float32, any shape and strides.
    other
        float32, the same shape, or (N, C, 1, 1) or (1, C, 1, 1) for images.

    Returns
    -------
    numpy.ndarray
        As in `add`.

    Raises
    ------
    TypeError
        If one is not a float32 array.
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import mul
    >>> mul(np.array([1, 2], np.float32), np.array([3, 4], np.float32))
    array([3., 8.], dtype=float32)
    """
    a, b = as_array(input, "mul", "input"), as_array(other, "mul", "other")
    _mul_shape(a, b)
    if a.ndim != 4:
        return _core.mul(as_flat_image(a), as_flat_image(b)).reshape(a.shape)
    return _core.mul(a, b) if a.shape == b.shape else _core.scale(a, b)


@op(
    shape=_scale_shape,
    vjp=_scale_vjp,
    differentiable=("input", "scale"),
    traits=Traits(in_place=True, reads_any_layout=True),
    receptive=_scale_receptive,
)
def scale(input: Array, scale: Array) -> Array:
    """Multiply every channel of every image by a factor of its own, as squeeze-and-excitation does.

    Parameters
    ----------
    input
        float32, (N, C, H, W).
    scale
        float32, (N, C, 1, 1) or (N, C); N may be 1 for factors that all images share.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, H, W), channels last in memory.

    Raises
    ------
    TypeError
        If one is not a float32 array.
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import scale
    >>> scale(np.ones((1, 2, 1, 2), np.float32), np.array([[3, 4]], np.float32))
    array([[[[3., 3.]],
    <BLANKLINE>
            [[4., 4.]]]], dtype=float32)

    References
    ----------
    Hu, Shen, Sun, "Squeeze-and-excitation networks", CVPR 2018.
    """
    x, factors = as_array(input, "scale", "input"), as_array(scale, "scale", "scale")
    _scale_shape(x, factors)
    return _core.scale(x, factors if factors.ndim == 4 else factors[:, :, None, None])


@op(shape=same_shape, vjp=_affine_vjp, traits=_IN_PLACE, receptive=pointwise)
def affine(input: Array, factor: float = 1.0, offset: float = 0.0) -> Array:
    """Multiply by a number and add one: ``input * factor + offset``.

    Python's operators with a number do this while gradients are recorded or a network is traced: ``0.4 * loss``.

    Parameters
    ----------
    input
        float32, any shape and strides.
    factor, offset
        Numbers, rounded to float32.

    Returns
    -------
    numpy.ndarray
        float32, the same shape; channels last in memory where that has four dimensions, else C-contiguous.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, or one of the others no number.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import affine
    >>> affine(np.array([1, 2], np.float32), 10, 1)
    array([11., 21.], dtype=float32)
    """
    x = as_array(input, "affine", "input")
    a, b = (np.float32(as_float(value, "affine", name)) for value, name in ((factor, "factor"), (offset, "offset")))
    return _mapped(lambda x: x * a + b if b != 0 else x * a, x)


@op(
    shape=_div_shape,
    vjp=_div_vjp,
    differentiable=("input", "other"),
    traits=_IN_PLACE,
    receptive=pointwise,
    compiles=_NO_STEP,
)
def div(input: Array, other: Array) -> Array:
    """Divide by an array of the same shape.

    Parameters
    ----------
    input, other
        float32, any shape, both the same; any strides.

    Returns
    -------
    numpy.ndarray
        As in `affine`. Division by 0 gives an infinity, or NaN.

    Raises
    ------
    TypeError
        If one is not a float32 array.
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import div
    >>> div(np.array([1, 6], np.float32), np.array([2, 3], np.float32))
    array([0.5, 2. ], dtype=float32)
    """
    a, b = as_array(input, "div", "input"), as_array(other, "div", "other")
    _same_shapes("div", a, b)
    return _mapped(np.divide, a, b)


@op(shape=same_shape, vjp=_exp_vjp, traits=_IN_PLACE, receptive=pointwise, compiles=_NO_STEP)
def exp(input: Array) -> Array:
    """Compute ``e**x`` of every number; shapes as in `affine`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import exp
    >>> exp(np.array([0, -np.inf], np.float32))
    array([1., 0.], dtype=float32)
    """
    return _mapped(np.exp, as_array(input, "exp", "input"))


@op(shape=same_shape, vjp=_log_vjp, traits=_IN_PLACE, receptive=pointwise, compiles=_NO_STEP)
def log(input: Array) -> Array:
    """Compute the natural logarithm of every number, minus infinity of 0, NaN below; shapes as in `affine`.

    The logarithm of probabilities is better taken by `log_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import log
    >>> log(np.array([1, 0], np.float32))
    array([  0., -inf], dtype=float32)
    """
    return _mapped(np.log, as_array(input, "log", "input"))


@op(shape=same_shape, vjp=_square_vjp, traits=_IN_PLACE, receptive=pointwise, compiles=_NO_STEP)
def square(input: Array) -> Array:
    """Multiply every number by itself; shapes as in `affine`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import square
    >>> square(np.array([-3, 2], np.float32))
    array([9., 4.], dtype=float32)
    """
    x = as_array(input, "square", "input")
    return mul(x, x)


@op(shape=same_shape, vjp=_abs_vjp, traits=_IN_PLACE, receptive=pointwise, compiles=_NO_STEP)
def abs(input: Array) -> Array:
    """Drop the sign of every number; shapes as in `affine`. The gradient at 0 is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import abs
    >>> abs(np.array([-3, 2], np.float32))
    array([3., 2.], dtype=float32)
    """
    return _mapped(np.abs, as_array(input, "abs", "input"))
