"""Reductions over any dimensions, and cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from convlane import _core
from convlane._floats import quiet
from convlane.functional._arguments import Array, Indices, Tensor, as_array, as_dim, as_float
from convlane.functional._op import Pullback, Shape, int64, op, same_shape
from convlane.functional._receptive import Axis, mixes

Dims: TypeAlias = "int | tuple[int, ...] | None"


def axes_of(name: str, ndim: int, dim: Any) -> tuple[int, ...]:
    """Return the dimensions to reduce, counted from the front."""
    if dim is None:
        return tuple(range(ndim))
    if type(dim) is int:
        return (as_dim(dim, name, ndim),)
    axes = tuple(as_dim(d, name, ndim) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: dim={dim!r} names a dimension twice")
    return axes


def dense(x: Tensor) -> Tensor:
    """Return an array in C order: the array itself if it already is."""
    if x.flags.c_contiguous:
        return x
    copy = _core.empty(x.shape, x.dtype)
    _core.copy(x, copy)
    return copy


def in_memory_order(run: Callable[..., Tensor], arrays: tuple[Array, ...], axis: int) -> Tensor:
    """Call a kernel that works along one axis of arrays of one shape in C order.

    Images that are not in C order are passed, and returned, in the memory order of channels last.
    """
    if arrays[0].ndim != 4 or arrays[0].flags.c_contiguous:
        return run(*map(dense, arrays), axis)
    images = (dense(array.transpose(0, 2, 3, 1)) for array in arrays)
    return run(*images, (0, 3, 1, 2)[axis]).transpose(0, 3, 1, 2)


def _shape_rule(name: str, *, several: bool = True) -> Callable[..., Shape]:
    def shape(input: Any, dim: Any = None, keepdim: bool = False, **others: Any) -> Shape:
        if not several and isinstance(dim, (tuple, list)):
            raise TypeError(f"{name}: dim must be an integer or None, got {dim!r}")
        axes = axes_of(name, len(input.shape), dim)
        if name in _NONEMPTY and math.prod(input.shape[axis] for axis in axes) == 0:
            raise ValueError(f"{name}: input of shape {tuple(input.shape)} has no elements along dim={dim}")
        if keepdim:
            return tuple(1 if axis in axes else size for axis, size in enumerate(input.shape))
        return tuple(size for axis, size in enumerate(input.shape) if axis not in axes)

    return shape


_NONEMPTY = {"amax", "amin", "argmax", "argmin"}


def _receptive(axis: Axis, name: str, *, input: Any, dim: Any, keepdim: bool, **others: Any) -> Axis:
    if axis.dim is None:
        return axis
    gone = [each - len(input.shape) for each in axes_of("sum", len(input.shape), dim)]
    if axis.dim in gone:
        return axis.everywhere()
    return axis if keepdim else axis.moved(axis.dim + len([d for d in gone if d > axis.dim]))


Spread: TypeAlias = Callable[[Array, Array, Array, "tuple[int, ...]"], Array]
"""Maps the gradient of a reduction's result, the input, the result and the reduced dimensions to the gradient of the
input; the gradient and the result keep all dimensions."""


def _rule(name: str, spread: Spread) -> Callable[..., tuple[Array, Pullback]]:
    def vjp(wanted: frozenset[str], input: Any, dim: Any, keepdim: Any) -> tuple[Array, Pullback]:
        x = as_array(input, name, "input")
        output, axes = _reduce(name, x, dim, keepdim), axes_of(name, x.ndim, dim)

        @quiet
        def pullback(gradient: Array) -> dict[str, Array]:
            whole = _shape_rule(name)(x, dim, True)
            return {"input": spread(gradient.reshape(whole), x, output.reshape(whole), axes)}

        return output, pullback

    return vjp


def _reduce(name: str, x: Array, dim: Any, keepdim: Any, correction: float = 0.0) -> Array:
    axes = axes_of(name, x.ndim, dim)
    if x.size == 0:
        _shape_rule(name)(x, dim)  # raises for the extremes of no elements
    return _core.reduce(name, x, axes, bool(keepdim), correction)


def _count(x: Array, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


def _spread_sum(gradient: Array, x: Array, output: Array, axes: tuple[int, ...]) -> Array:
    return np.broadcast_to(gradient, x.shape)


def _spread_mean(gradient: Array, x: Array, output: Array, axes: tuple[int, ...]) -> Array:
    return np.broadcast_to(gradient / np.float32(max(_count(x, axes), 1)), x.shape)


def _spread_extreme(gradient: Array, x: Array, output: Array, axes: tuple[int, ...]) -> Array:
    """Share the gradient among equal numbers, as in torch."""
    chosen = _core.where(_core.compare("eq", x, output), np.ones((), np.float32), np.zeros((), np.float32))
    return _core.binary("mul", chosen, _core.binary("div", gradient, _core.reduce("sum", chosen, axes, True)))


def _spread_prod(gradient: Array, x: Array, output: Array, axes: tuple[int, ...]) -> Array:
    """Multiply by the product of the numbers before and that of the numbers after each, because a factor may be 0."""
    order = (*(axis for axis in range(x.ndim) if axis not in axes), *axes)
    moved = x.transpose(order)
    rows = moved.reshape(*moved.shape[: x.ndim - len(axes)], -1 if x.size else 0).astype(np.float64)
    ones = np.ones((*rows.shape[:-1], 1))
    with np.errstate(all="ignore"):
        before = np.cumprod(np.concatenate([ones, rows[..., :-1]], -1), -1) if rows.size else rows
        after = np.cumprod(np.concatenate([ones, rows[..., :0:-1]], -1), -1)[..., ::-1] if rows.size else rows
        others = (before * after).astype(np.float32).reshape(moved.shape)
    return _core.binary("mul", others.transpose(np.argsort(order)), gradient)


def _var_vjp(wanted: frozenset[str], input: Any, dim: Any, correction: Any, keepdim: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "var", "input")
    axes = axes_of("var", x.ndim, dim)

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        mean = _core.reduce("mean", x, axes, True)
        divisor = max(_count(x, axes) - as_float(correction, "var", "correction"), 0.0)
        factor = np.float32(2) / np.float32(divisor)
        share = np.asarray(gradient.reshape(mean.shape) * factor)
        return {"input": _core.binary("mul", _core.binary("sub", x, mean), share)}

    return var(x, dim, correction=correction, keepdim=keepdim), pullback


def _cumsum_vjp(wanted: frozenset[str], input: Any, dim: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "cumsum", "input")
    axis = as_dim(dim, "cumsum", x.ndim)
    return cumsum(x, dim), lambda gradient: {"input": _core.cumsum(dense(gradient), axis, True)}


@op(shape=_shape_rule("sum"), vjp=_rule("sum", _spread_sum), receptive=_receptive)
def sum(input: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    """Sum over some dimensions or all.

    Parameters
    ----------
    input
        float32, any shape of at most eight dimensions, any strides.
    dim
        One dimension, several, or None for all. Negative numbers count from the end.
    keepdim
        Whether to keep these dimensions, with size 1.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input` without these dimensions, ``()`` for all; in C order. Numbers are added in trees
        of eight in float32, and the sums of the trees in float64, in memory order; neither the number of threads nor
        other elements of the result change the sum.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If a dimension does not exist or is named twice, or there are more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sum
    >>> sum(np.array([[1, 2], [3, 4]], np.float32), 1)
    array([3., 7.], dtype=float32)
    """
    return _reduce("sum", as_array(input, "sum", "input"), dim, keepdim)


@op(shape=_shape_rule("mean"), vjp=_rule("mean", _spread_mean), receptive=_receptive)
def mean(input: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    """Average over some dimensions or all; otherwise like `sum`. The mean of nothing is NaN.

    Examples
    --------
    A custom loss, Charbonnier's:

    >>> import convlane, numpy as np
    >>> from convlane import nn
    >>> from convlane.functional import exp, log, mean, square
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.weight = np.array([[1, 2]], np.float32)
    >>> def loss(x, y):
    ...     return mean(exp(0.5 * log(1 + square(layer(x) - y))))
    >>> x, y = np.ones((1, 2), np.float32), np.ones((1, 1), np.float32)
    >>> value, gradients = convlane.value_and_grad(loss, layer)(x, y)
    >>> round(value, 4), gradients["weight"].round(4)
    (2.2361, array([[0.8944, 0.8944]], dtype=float32))
    """
    return _reduce("mean", as_array(input, "mean", "input"), dim, keepdim)


@op(shape=_shape_rule("prod"), vjp=_rule("prod", _spread_prod), receptive=_receptive)
def prod(input: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    """Multiply numbers, in float64; otherwise like `sum`. The product of nothing is 1.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import prod
    >>> prod(np.array([[1, 5], [7, 3]], np.float32), 1)
    array([ 5., 21.], dtype=float32)
    """
    return _reduce("prod", as_array(input, "prod", "input"), dim, keepdim)


@op(shape=_shape_rule("amax"), vjp=_rule("amax", _spread_extreme), receptive=_receptive)
def amax(input: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    """Find the largest number, or NaN if there is one; otherwise like `sum`, but raise a ValueError for no elements.

    Equal numbers share the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import amax
    >>> amax(np.array([[1, 5], [7, 3]], np.float32), 1)
    array([5., 7.], dtype=float32)
    """
    return _reduce("amax", as_array(input, "amax", "input"), dim, keepdim)


@op(shape=_shape_rule("amin"), vjp=_rule("amin", _spread_extreme), receptive=_receptive)
def amin(input: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    """Find the smallest number, or NaN if there is one; otherwise like `amax`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import amin
    >>> amin(np.array([[1, 5], [7, 3]], np.float32), 1)
    array([1., 3.], dtype=float32)
    """
    return _reduce("amin", as_array(input, "amin", "input"), dim, keepdim)


@op(shape=_shape_rule("var"), vjp=_var_vjp, receptive=_receptive)
def var(input: Array, dim: Dims = None, *, correction: float = 1, keepdim: bool = False) -> Array:
    """Compute the variance: the sum of squared deviations from the mean, divided by ``count - correction``.

    Otherwise like `sum`. The mean is computed first, so that a large mean costs no precision. The result is NaN if the
    divisor is 0.

    Parameters
    ----------
    input, dim, keepdim
        As in `sum`.
    correction
        1 for an estimate from a sample (torch's default), 0 for the numbers as they are (NumPy's).

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import var
    >>> var(np.array([1, 2, 3], np.float32))
    array(1., dtype=float32)
    """
    x = as_array(input, "var", "input")
    return _reduce("var", x, dim, keepdim, as_float(correction, "var", "correction"))


def _extreme_index(name: str, input: Any, dim: Any, keepdim: Any) -> Indices:
    x = as_array(input, name, "input")
    shape = _shape_rule(name, several=False)(x, dim, keepdim)
    flat = dense(x).reshape(-1) if dim is None or x.ndim == 0 else x
    axis = 0 if flat.ndim == 1 else as_dim(dim, name, x.ndim)
    found = in_memory_order(lambda *arguments: _core.arg(name == "argmax", *arguments), (flat,), axis)
    return found.reshape(shape)


@op(
    shape=_shape_rule("argmax", several=False),
    dtype=int64,
    vjp="it returns indices",
    differentiable=(),
    receptive=_receptive,
)
def argmax(input: Array, dim: int | None = None, keepdim: bool = False) -> Indices:
    """Find the index of the largest number, the first of equal ones; of the first NaN if there is one.

    Parameters
    ----------
    input
        float32, any shape of at most eight dimensions, any strides.
    dim
        The dimension to search along, or None for all numbers in C order. Negative numbers count from the end.
    keepdim
        Whether to keep the dimension, with size 1.

    Returns
    -------
    numpy.ndarray
        int64, the shape of `input` without the dimension, ``()`` for all.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the dimension does not exist or is empty, or there are more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import argmax
    >>> argmax(np.array([[1, 5], [7, 3]], np.float32), 1)
    array([1, 0])
    """
    return _extreme_index("argmax", input, dim, keepdim)


@op(
    shape=_shape_rule("argmin", several=False),
    dtype=int64,
    vjp="it returns indices",
    differentiable=(),
    receptive=_receptive,
)
def argmin(input: Array, dim: int | None = None, keepdim: bool = False) -> Indices:
    """Find the index of the smallest number; otherwise like `argmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import argmin
    >>> argmin(np.array([[1, 5], [7, 3]], np.float32), 1)
    array([0, 1])
    """
    return _extreme_index("argmin", input, dim, keepdim)


@op(
    shape=same_shape,
    vjp=_cumsum_vjp,
    receptive=mixes(lambda input, dim: (as_dim(dim, "cumsum", len(input.shape)) - len(input.shape),)),
)
def cumsum(input: Array, dim: int) -> Array:
    """Replace every number by the sum of those up to it along a dimension, added in float64.

    Parameters
    ----------
    input
        float32, at least one and at most eight dimensions, any strides.
    dim
        The dimension; negative numbers count from the end.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; channels last if that is an image not in C order, else in C order.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the dimension does not exist, or there are more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import cumsum
    >>> cumsum(np.array([1, 2, 3], np.float32), 0)
    array([1., 3., 6.], dtype=float32)
    """
    x = as_array(input, "cumsum", "input")
    return in_memory_order(_core.cumsum, (x,), as_dim(dim, "cumsum", x.ndim))
