"""One definition of an operation for all who call it.

An operation runs at once on arrays. Called on anything else that knows `__convlane_op__` (a symbol that only has a
shape, a variable that records), it hands itself over: ``dispatch(operation, input, *args, **kwargs)``. What such a
caller needs to know about the operation without running it stands beside the operation and is found by `rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rules:
    """What is known of an operation without running it; both functions take the operation's own arguments.

    Whatever has a ``.shape`` stands for an array in them.
    """

    shape: Callable[..., Shape]
    multiply_adds: Callable[..., int]


_RULES: dict[Callable[..., Any], Rules] = {}


def same_shape(input: Any, *args: Any, **kwargs: Any) -> Shape:
    """Shape rule of an element-wise operation."""
    return tuple(input.shape)


def check_vector(op: str, name: str, vector: Any, size: int) -> None:
    """Refuse an argument of one number per channel that has another shape; None passes."""
    if vector is not None and tuple(vector.shape) != (size,):
        raise ValueError(f"{op}: {name} must have shape ({size},), got {tuple(vector.shape)}")


def none(*args: Any, **kwargs: Any) -> int:
    """Cost rule of an operation without multiply-adds worth counting."""
    return 0


def op(
    *, shape: Callable[..., Shape], multiply_adds: Callable[..., int] = none
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function an operation: the first argument's type decides who runs it."""

    def decorate(forward: Callable[P, R]) -> Callable[P, R]:
        @wraps(forward)
        def operation(*args: P.args, **kwargs: P.kwargs) -> R:
            if args and type(args[0]) is not np.ndarray:
                first: Any = args[0]
                if type(first) in (list, tuple) and first:
                    first = first[0]
                dispatch = getattr(type(first), "__convlane_op__", None)
                if dispatch is not None:
                    return dispatch(operation, *args, **kwargs)  # type: ignore[no-any-return]
            return forward(*args, **kwargs)

        _RULES[operation] = Rules(shape, multiply_adds)
        return operation

    return decorate


def rules(operation: Callable[..., Any]) -> Rules:
    """Return the rules of an operation of `convlane.functional`."""
    return _RULES[operation]


def operations() -> dict[str, Callable[..., Any]]:
    """Return all operations by their names, which are also those of nodes in a graph."""
    return {operation.__name__: operation for operation in _RULES}
