"""Comparisons, logic and selection; bools select numbers and have no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, Bools, Tensor, as_operand, as_tensor, operand_shape
from convlane.functional._broadcast import broadcast_shape, sum_to
from convlane.functional._op import DType, Pullback, Shape, Traits, boolean, op
from convlane.functional._receptive import pointwise

_NO_GRADIENT = "its result is not float32"
_FALSE, _TRUE = np.asarray(False), np.asarray(True)


def _shape_rule(name: str) -> Callable[..., Shape]:
    def shape(input: Any, other: Any) -> Shape:
        return broadcast_shape(name, input=input, other=other)

    return shape


def _comparison(name: str) -> Callable[[Callable[..., Bools]], Callable[..., Bools]]:
    """Turn a function into an operation on two arrays that returns bools."""
    return op(
        shape=_shape_rule(name),
        dtype=boolean,
        vjp=_NO_GRADIENT,
        differentiable=(),
        receptive=pointwise,
    )


def _compare(name: str, input: Any, other: Any) -> Bools:
    a, b = _typed(input, other, name, "input"), _typed(other, input, name, "other")
    if a.dtype != b.dtype:
        raise TypeError(f"{name}: input holds {a.dtype}, but other {b.dtype}; convert one with .astype")
    return _core.compare(name, a, b)


def _typed(value: Any, partner: Any, name: str, argument: str) -> Tensor:
    """Return an array as it is, or a number as an array of the type that it is compared with."""
    if isinstance(value, (bool, np.bool_)):
        return np.asarray(value)
    if isinstance(value, (int, np.integer)) and getattr(partner, "dtype", None) == np.int64:
        return np.asarray(value, np.int64)
    if isinstance(value, (int, float, np.integer, np.floating)):
        return as_operand(value, name, argument)
    return as_tensor(value, name, argument)


def _as_bools(value: Any, name: str, argument: str) -> Bools:
    bools = as_tensor(np.asarray(value) if isinstance(value, (bool, np.bool_)) else value, name, argument)
    if bools.dtype != np.bool_:
        raise TypeError(f"{name}: {argument} must hold bools, got {bools.dtype}; compare it with something, e.g. != 0")
    return bools


@_comparison("eq")
def eq(input: Tensor | float, other: Tensor | float) -> Bools:
    """Return where two arrays are equal; NaN equals nothing.

    Parameters
    ----------
    input, other
        Both float32, both int64 or both bool, any strides, of shapes that broadcast; or one of them a number.

    Returns
    -------
    numpy.ndarray
        bool; order in memory as in `add`.

    Raises
    ------
    TypeError
        If one is not such an array, or they hold different types.
    ValueError
        If the shapes do not broadcast, or there are more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import eq
    >>> eq(np.array([1, 2, np.nan], np.float32), 2)
    array([False,  True, False])
    """
    return _compare("eq", input, other)


@_comparison("ne")
def ne(input: Tensor | float, other: Tensor | float) -> Bools:
    """Return where two arrays differ, as NaN does from everything; otherwise like `eq`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import ne
    >>> ne(np.array([1, 2, np.nan], np.float32), 2)
    array([ True, False,  True])
    """
    return _compare("ne", input, other)


@_comparison("lt")
def lt(input: Tensor | float, other: Tensor | float) -> Bools:
    """Return where the first is less than the second; otherwise like `eq`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import lt
    >>> lt(np.array([1, 2], np.float32), 2)
    array([ True, False])
    """
    return _compare("lt", input, other)


@_comparison("le")
def le(input: Tensor | float, other: Tensor | float) -> Bools:
    """Return where the first is less than or equal to the second; otherwise like `eq`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import le
    >>> le(np.array([2, 3], np.float32), 2)
    array([ True, False])
    """
    return _compare("le", input, other)


@_comparison("gt")
def gt(input: Tensor | float, other: Tensor | float) -> Bools:
    """Return where the first is greater than the second; otherwise like `eq`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import gt
    >>> gt(np.array([2, 3], np.float32), 2)
    array([False,  True])
    """
    return _compare("gt", input, other)


@_comparison("ge")
def ge(input: Tensor | float, other: Tensor | float) -> Bools:
    """Return where the first is greater than or equal to the second; otherwise like `eq`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import ge
    >>> ge(np.array([1, 2], np.float32), 2)
    array([False,  True])
    """
    return _compare("ge", input, other)


@_comparison("logical_and")
def logical_and(input: Bools, other: Bools) -> Bools:
    """Return where both are true.

    Parameters
    ----------
    input, other
        bool, any strides, of shapes that broadcast.

    Returns
    -------
    numpy.ndarray
        bool; order in memory as in `add`.

    Raises
    ------
    TypeError
        If one does not hold bools.
    ValueError
        If the shapes do not broadcast, or there are more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import logical_and
    >>> logical_and(np.array([True, True, False]), np.array([True, False, False]))
    array([ True, False, False])
    """
    a, b = _as_bools(input, "logical_and", "input"), _as_bools(other, "logical_and", "other")
    return _core.where(a, b, _FALSE)


@_comparison("logical_or")
def logical_or(input: Bools, other: Bools) -> Bools:
    """Return where at least one of two is true; otherwise like `logical_and`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import logical_or
    >>> logical_or(np.array([True, True, False]), np.array([True, False, False]))
    array([ True,  True, False])
    """
    a, b = _as_bools(input, "logical_or", "input"), _as_bools(other, "logical_or", "other")
    return _core.where(a, _TRUE, b)


@op(
    shape=lambda input: operand_shape(input, "logical_not", "input"),
    dtype=boolean,
    vjp=_NO_GRADIENT,
    differentiable=(),
    receptive=pointwise,
)
def logical_not(input: Bools) -> Bools:
    """Return where an array is false; otherwise like `logical_and`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import logical_not
    >>> logical_not(np.array([True, False]))
    array([False,  True])
    """
    return _core.where(_as_bools(input, "logical_not", "input"), _FALSE, _TRUE)


def _where_shape(condition: Any, input: Any, other: Any) -> Shape:
    return broadcast_shape("where", condition=condition, input=input, other=other)


def _where_dtype(condition: Any, input: Any, other: Any) -> DType:
    return _typed_alike(input, other)


def _typed_alike(input: Any, other: Any) -> DType:
    for value in (input, other):
        dtype: DType | None = getattr(value, "dtype", None)
        if dtype is not None and dtype.kind in "ib":
            return dtype
    return np.dtype(np.float32)


def _where_vjp(wanted: frozenset[str], condition: Any, input: Any, other: Any) -> tuple[Tensor, Pullback]:
    kept, shapes = (
        _as_bools(condition, "where", "condition"),
        {name: operand_shape(value, "where", name) for name, value in (("input", input), ("other", other))},
    )

    def pullback(gradient: Array) -> dict[str, Array]:
        parts: dict[str, tuple[Any, Any]] = {"input": (gradient, 0.0), "other": (0.0, gradient)}
        return {name: sum_to(where(kept, *parts[name]), shapes[name]) for name in wanted}

    return where(kept, input, other), pullback


@op(
    shape=_where_shape,
    dtype=_where_dtype,
    vjp=_where_vjp,
    differentiable=("input", "other"),
    traits=Traits(in_place=True),
    receptive=pointwise,
)
def where(condition: Bools, input: Tensor | float, other: Tensor | float) -> Tensor:
    """Take each number from the first array where a condition is true, else from the second.

    Parameters
    ----------
    condition
        bool, any strides.
    input, other
        Both float32, both int64 or both bool, of shapes that broadcast with the condition's; or one of them a number.

    Returns
    -------
    numpy.ndarray
        The type of `input` and `other`; order in memory as in `add`.

    Raises
    ------
    TypeError
        If `condition` does not hold bools, or the others are not such arrays.
    ValueError
        If the shapes do not broadcast, or there are more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import where
    >>> where(np.array([True, False]), np.array([1, 2], np.float32), 0)
    array([1., 0.], dtype=float32)
    """
    which = _as_bools(condition, "where", "condition")
    a, b = _typed(input, other, "where", "input"), _typed(other, input, "where", "other")
    if a.dtype != b.dtype:
        raise TypeError(f"where: input holds {a.dtype}, but other {b.dtype}; convert one with .astype")
    return _core.where(which, a, b)
