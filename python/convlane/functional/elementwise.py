"""Arithmetic of two arrays that broadcast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_float, as_operand
from convlane.functional._broadcast import broadcast_shape, sum_to
from convlane.functional._gradient import activate, activated
from convlane.functional._op import Pullback, Shape, Traits, op, same_shape
from convlane.functional._receptive import Axis, pointwise
from convlane.functional.compare import eq, ge, gt, logical_and, lt, where

_IN_PLACE = Traits(in_place=True)
_ELEMENTWISE = Traits(in_place=True, elementwise=True)
_PAIR: dict[str, Any] = {"differentiable": ("input", "other"), "traits": _ELEMENTWISE, "receptive": pointwise}


def _scale_receptive(axis: Axis, name: str, *, scale: Any, **_: Any) -> Axis:
    return axis if name == "input" or len(scale.shape) == 4 else axis.everywhere()


def is_channel_vector(input_shape: Shape, shape: Shape) -> bool:
    """Return whether `shape` is (N, C, 1, 1) or (1, C, 1, 1) for images (N, C, H, W)."""
    return (
        len(input_shape) == len(shape) == 4 and shape[0] in (1, input_shape[0]) and shape[1:] == (input_shape[1], 1, 1)
    )


def _shape_rule(name: str) -> Callable[..., Shape]:
    def shape(input: Any, other: Any, *args: Any, **kwargs: Any) -> Shape:
        return broadcast_shape(name, input=input, other=other)

    return shape


def _scale_shape(input: Any, scale: Any) -> Shape:
    shape = tuple(scale.shape)
    if not is_channel_vector(tuple(input.shape), shape if len(shape) == 4 else (*shape, 1, 1)):
        raise ValueError(
            f"scale: input has shape {tuple(input.shape)}, so scale must be (N, C, 1, 1) or (N, C), got {shape}"
        )
    return tuple(input.shape)


def _summed(wanted: frozenset[str], input: Any, other: Any, *parts: Callable[[], Array]) -> dict[str, Array]:
    """Return the wanted gradients of two operands, from functions that compute them before broadcasting is undone."""
    pairs = zip((("input", input), ("other", other)), parts, strict=True)
    return {name: sum_to(part(), np.shape(operand)) for (name, operand), part in pairs if name in wanted}


def _add_vjp(
    wanted: frozenset[str], input: Any, other: Any, activation: str, negative_slope: Any
) -> tuple[Array, Pullback]:
    slope = as_float(negative_slope, "add", "negative_slope")
    output, before = activated(partial(add, input, other), activation, slope)

    def pullback(gradient: Array) -> dict[str, Array]:
        found = before(gradient)
        return _summed(wanted, input, other, lambda: found, lambda: found)

    return output, pullback


def _sub_vjp(wanted: frozenset[str], input: Any, other: Any) -> tuple[Array, Pullback]:
    return sub(input, other), lambda gradient: _summed(
        wanted, input, other, lambda: gradient, lambda: affine(gradient, -1)
    )


def _mul_vjp(wanted: frozenset[str], input: Any, other: Any) -> tuple[Array, Pullback]:
    output, a, b = mul(input, other), as_operand(input, "mul", "input"), as_operand(other, "mul", "other")
    if is_channel_vector(a.shape, b.shape):
        return output, _product_pullback(wanted, "other", a, b)
    return output, lambda gradient: _summed(wanted, a, b, lambda: mul(gradient, b), lambda: mul(gradient, a))


def _pow_vjp(wanted: frozenset[str], input: Any, exponent: Any) -> tuple[Array, Pullback]:
    output, x, p = pow(input, exponent), as_operand(input, "pow", "input"), as_operand(exponent, "pow", "exponent")

    def of_input(gradient: Array) -> Array:
        slope = mul(p, pow(x, sub(p, 1.0)))
        return mul(gradient, where(eq(p, 0.0), 0.0, slope))  # where 0 times infinity would give NaN

    def of_exponent(gradient: Array) -> Array:
        slope = mul(output, _core.unary("log", x))
        return mul(gradient, where(logical_and(eq(x, 0.0), ge(p, 0.0)), 0.0, slope))

    def pullback(gradient: Array) -> dict[str, Array]:
        found = {}
        if "input" in wanted:
            found["input"] = sum_to(of_input(gradient), x.shape)
        if "exponent" in wanted:
            found["exponent"] = sum_to(of_exponent(gradient), p.shape)
        return found

    return output, pullback


def _extreme_rule(name: str) -> Callable[..., tuple[Array, Pullback]]:
    """Return the rule of `maximum` or `minimum`: equal operands share the gradient, as in torch."""

    def vjp(wanted: frozenset[str], input: Any, other: Any) -> tuple[Array, Pullback]:
        a, b = as_operand(input, name, "input"), as_operand(other, name, "other")

        def share(gradient: Array, this: Array, that: Array) -> Array:
            loses = lt(this, that) if name == "maximum" else gt(this, that)
            return where(loses, 0.0, where(eq(this, that), affine(gradient, 0.5), gradient))

        return _core.binary(name, a, b), lambda gradient: _summed(
            wanted, a, b, lambda: share(gradient, a, b), lambda: share(gradient, b, a)
        )

    return vjp


def _affine_vjp(wanted: frozenset[str], input: Any, factor: Any, offset: Any) -> tuple[Array, Pullback]:
    return affine(input, factor, offset), lambda gradient: {"input": affine(gradient, factor)}


def _div_vjp(wanted: frozenset[str], input: Any, other: Any) -> tuple[Array, Pullback]:
    output, divisor = div(input, other), as_operand(other, "div", "other")
    quotient = output if "other" in wanted else None

    def pullback(gradient: Array) -> dict[str, Array]:
        of_input = div(gradient, divisor)
        found = {"input": sum_to(of_input, np.shape(input))} if "input" in wanted else {}
        if quotient is None:
            return found
        return found | {"other": sum_to(affine(mul(of_input, quotient), -1), divisor.shape)}

    return output, pullback


def _scale_vjp(wanted: frozenset[str], input: Any, scale: Any) -> tuple[Array, Pullback]:
    x, factors = as_array(input, "scale", "input"), as_array(scale, "scale", "scale")
    _scale_shape(x, factors)
    pullback = _product_pullback(wanted, "scale", x, factors)
    return mul(x, factors if factors.ndim == 4 else factors[:, :, None, None]), pullback


def _product_pullback(wanted: frozenset[str], name: str, input: Array, factor: Array) -> Pullback:
    """Return the pullback of images times a factor for each channel; `name` is the argument with the factors."""
    shape = factor.shape
    a = input if name in wanted else None
    b = None if "input" not in wanted else factor if factor.ndim == 4 else factor[:, :, None, None]

    def pullback(gradient: Array) -> dict[str, Array]:
        found = {}
        if b is not None:
            found["input"] = mul(gradient, b)
        if a is not None:
            found[name] = _core.scale_scale_gradient(a, gradient, shape[0] == 1).reshape(shape)
        return found

    return pullback


@op(shape=_shape_rule("add"), vjp=_add_vjp, **_PAIR)
def add(input: Array | float, other: Array | float, *, activation: str = "none", negative_slope: float = 0.01) -> Array:
    """Add two arrays, and optionally apply an activation to the sum in the same pass.

    Parameters
    ----------
    input, other
        float32, any strides, of shapes that broadcast as in NumPy; one of them may be a number.
    activation, negative_slope
        As in `conv2d`.

    Returns
    -------
    numpy.ndarray
        float32, in the memory order of the larger operand: channels last if it has four dimensions and is not
        C-contiguous, or has three or five and is channels last itself; else C order.

    Raises
    ------
    TypeError
        If an argument is neither a float32 array nor a number.
    ValueError
        If the shapes do not broadcast, there are more than eight dimensions, or the activation is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import add
    >>> add(np.array([1, 2], np.float32), np.array([3, -4], np.float32), activation="relu")
    array([4., 0.], dtype=float32)
    >>> add(np.array([[1], [2]], np.float32), np.array([10, 20], np.float32))
    array([[11., 21.],
           [12., 22.]], dtype=float32)
    """
    a, b = as_operand(input, "add", "input"), as_operand(other, "add", "other")
    slope = as_float(negative_slope, "add", "negative_slope")
    if activation == "none":
        return _core.binary("add", a, b)
    if a.ndim == 4 and a.shape == b.shape:
        return _core.add(a, b, activation, slope)
    return activate(_core.binary("add", a, b), activation, slope)


@op(shape=_shape_rule("sub"), vjp=_sub_vjp, **_PAIR)
def sub(input: Array | float, other: Array | float) -> Array:
    """Subtract the second from the first; otherwise like `add`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sub
    >>> sub(1.0, np.array([1, 2], np.float32))
    array([ 0., -1.], dtype=float32)
    """
    return _core.binary("sub", as_operand(input, "sub", "input"), as_operand(other, "sub", "other"))


@op(shape=_shape_rule("mul"), vjp=_mul_vjp, **{**_PAIR, "traits": replace(_ELEMENTWISE, factors="other")})
def mul(input: Array | float, other: Array | float) -> Array:
    """Multiply two arrays; otherwise like `add`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import mul
    >>> mul(np.array([1, 2], np.float32), np.array([3, 4], np.float32))
    array([3., 8.], dtype=float32)
    """
    return _core.binary("mul", as_operand(input, "mul", "input"), as_operand(other, "mul", "other"))


@op(shape=_shape_rule("div"), vjp=_div_vjp, **_PAIR)
def div(input: Array | float, other: Array | float) -> Array:
    """Divide the first by the second; otherwise like `add`. Division by 0 gives an infinity, or NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import div
    >>> div(np.array([1, 6], np.float32), np.array([2, 3], np.float32))
    array([0.5, 2. ], dtype=float32)
    """
    return _core.binary("div", as_operand(input, "div", "input"), as_operand(other, "div", "other"))


def _pow_shape(input: Any, exponent: Any) -> Shape:
    return broadcast_shape("pow", input=input, exponent=exponent)


@op(
    shape=_pow_shape,
    vjp=_pow_vjp,
    differentiable=("input", "exponent"),
    traits=_ELEMENTWISE,
    receptive=pointwise,
)
def pow(input: Array | float, exponent: Array | float) -> Array:
    """Raise the first to the power of the second, NaN where that is not a real number; otherwise like `add`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import pow
    >>> pow(np.array([2, 3], np.float32), 3)
    array([ 8., 27.], dtype=float32)
    """
    return _core.binary("pow", as_operand(input, "pow", "input"), as_operand(exponent, "pow", "exponent"))


@op(
    shape=_shape_rule("maximum"),
    vjp=_extreme_rule("maximum"),
    **_PAIR,
)
def maximum(input: Array | float, other: Array | float) -> Array:
    """Take the larger of two numbers, NaN if either is NaN; otherwise like `add`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import maximum
    >>> maximum(np.array([1, 5], np.float32), 2)
    array([2., 5.], dtype=float32)
    """
    return _core.binary("maximum", as_operand(input, "maximum", "input"), as_operand(other, "maximum", "other"))


@op(
    shape=_shape_rule("minimum"),
    vjp=_extreme_rule("minimum"),
    **_PAIR,
)
def minimum(input: Array | float, other: Array | float) -> Array:
    """Take the smaller of two numbers, NaN if either is NaN; otherwise like `add`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import minimum
    >>> minimum(np.array([1, 5], np.float32), 2)
    array([1., 2.], dtype=float32)
    """
    return _core.binary("minimum", as_operand(input, "minimum", "input"), as_operand(other, "minimum", "other"))


@op(
    shape=_scale_shape,
    vjp=_scale_vjp,
    differentiable=("input", "scale"),
    traits=Traits(in_place=True, factors="scale"),
    receptive=_scale_receptive,
)
def scale(input: Array, scale: Array) -> Array:
    """Multiply every channel of every image by its own factor, as squeeze-and-excitation does.

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
        If an argument is not a float32 array.
    ValueError
        If the shapes do not match.

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
    """Multiply by one number and add another: ``input * factor + offset``.

    Python's operators with a number call this while gradients are recorded or a network is traced: ``0.4 * loss``.

    Parameters
    ----------
    input
        float32, any shape and strides.
    factor, offset
        Numbers, rounded to float32.

    Returns
    -------
    numpy.ndarray
        float32, the same shape; order in memory as in `add`.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, or one of the others is not a number.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import affine
    >>> affine(np.array([1, 2], np.float32), 10, 1)
    array([11., 21.], dtype=float32)
    """
    x = as_array(input, "affine", "input")
    a, b = as_float(factor, "affine", "factor"), as_float(offset, "affine", "offset")
    return _core.unary("affine", x, a, b if b != 0 else -0.0)
