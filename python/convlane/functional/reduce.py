"""Sums and means over dimensions, of which losses are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from convlane.functional._arguments import Array, as_array, as_dim
from convlane.functional._op import Pullback, Shape, op
from convlane.functional._receptive import Axis

Dims: TypeAlias = "int | tuple[int, ...] | None"


def _axes(name: str, ndim: int, dim: Any) -> tuple[int, ...]:
    """Return the dimensions to sum over, counted from the front."""
    if dim is None:
        return tuple(range(ndim))
    axes = tuple(as_dim(d, name, ndim) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: dim={dim!r} names a dimension twice")
    return axes


def _shape_rule(name: str) -> Callable[..., Shape]:
    def shape(input: Any, dim: Any = None) -> Shape:
        axes = _axes(name, len(input.shape), dim)
        return tuple(size for axis, size in enumerate(input.shape) if axis not in axes)

    return shape


def _receptive(axis: Axis, name: str, *, input: Any, dim: Any) -> Axis:
    if axis.dim is None:
        return axis
    gone = [each - len(input.shape) for each in _axes("sum", len(input.shape), dim)]
    return axis.everywhere() if axis.dim in gone else axis.moved(axis.dim + len([d for d in gone if d > axis.dim]))


def _rule(name: str) -> Callable[..., tuple[Array, Pullback]]:
    def vjp(wanted: frozenset[str], input: Any, dim: Any) -> tuple[Array, Pullback]:
        x = as_array(input, name, "input")
        axes, shape = _axes(name, x.ndim, dim), x.shape
        count = math.prod(shape[axis] for axis in axes) if name == "mean" else 1

        def pullback(gradient: Array) -> dict[str, Array]:
            share = np.expand_dims(gradient, axes) / np.float32(max(count, 1))
            return {"input": np.broadcast_to(share, shape)}

        return _reduced(x, axes, count), pullback

    return vjp


def _reduced(x: Array, axes: tuple[int, ...], count: int) -> Array:
    """Sum in float64 and divide; the copy makes the order of a sum independent of memory layout and batch."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    moved = x.transpose(*kept, *sorted(axes)).astype(np.float64, order="C")
    rows = moved.reshape(*moved.shape[: len(kept)], -1 if x.size else 0)
    with np.errstate(all="ignore"):
        return np.asarray(rows.sum(-1) / np.float64(count), np.float32)


@op(shape=_shape_rule("sum"), vjp=_rule("sum"), receptive=_receptive, compiles="plans have no step for it yet")
def sum(input: Array, dim: Dims = None) -> Array:
    """Add numbers up, over some dimensions or all.

    Parameters
    ----------
    input
        float32, any shape and strides.
    dim
        A dimension, several, or None for all of them. Negative ones count from the end.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input` without these dimensions: ``()`` for all. The sums are taken in float64, in an
        order that neither the memory layout nor the other sums change.

    Raises
    ------
    TypeError
        An argument of the wrong kind, for example float64 input.
    ValueError
        A dimension that does not exist, or is named twice.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sum
    >>> sum(np.array([[1, 2], [3, 4]], np.float32), 1)
    array([3., 7.], dtype=float32)
    """
    x = as_array(input, "sum", "input")
    return _reduced(x, _axes("sum", x.ndim, dim), 1)


@op(shape=_shape_rule("mean"), vjp=_rule("mean"), receptive=_receptive, compiles="plans have no step for it yet")
def mean(input: Array, dim: Dims = None) -> Array:
    """Average over some dimensions or all; otherwise as `sum`. The mean of nothing is NaN.

    Examples
    --------
    A loss of one's own, Charbonnier's:

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
    x = as_array(input, "mean", "input")
    axes = _axes("mean", x.ndim, dim)
    return _reduced(x, axes, math.prod(x.shape[axis] for axis in axes))
