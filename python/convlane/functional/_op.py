"""One definition of an operation for all who call it.

An operation runs at once on arrays. Called on anything else that knows `__convlane_op__` (a symbol that only has a
shape, a variable on a tape), it hands itself over: ``dispatch(operation, input, *args, **kwargs)``. It hands itself
over to the `recorder` as well where there is one: on the way to a gradient the parameters are arrays too. What such
callers need to know about the operation stands beside it and is found by `rules`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

Shape = tuple[int, ...]


ACTIVATIONS = frozenset({"gelu", "hardsigmoid", "hardswish", "leaky_relu", "relu", "relu6", "sigmoid", "silu", "tanh"})
"""The operations that others can apply to their results by name."""

TOLD_BY_OUTPUT = ACTIVATIONS - {"gelu", "hardswish", "leaky_relu", "silu"}
"""Those whose derivative follows from the output."""

Pullback: TypeAlias = Callable[[Any], Mapping[str, Any]]
"""From the gradient of an output to those of the arguments that were wanted, by name.

The gradient may be shared, so it is never written to. For an argument that is a sequence, a list of gradients.
"""


class Recorder(Protocol):
    """Runs operations in their stead, to remember them."""

    def __call__(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an operation."""

    def wants(self, array: Any) -> bool:
        """Return whether gradients are wanted for this very array."""


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
"""Who runs operations on arrays in this thread, where somebody does."""


def is_recorded(input: Any, weight: Any) -> bool:
    """Return whether an operation on these is handed over, to somebody who needs the weight as it is."""
    record = recorder.get()
    return hasattr(type(input), "__convlane_op__") or (record is not None and record.wants(weight))


@dataclass(frozen=True)
class Rules:
    """What is known of an operation beside its result; all functions take the operation's own arguments.

    Whatever has a ``.shape`` stands for an array in `shape` and `multiply_adds`. `vjp` (vector-Jacobian product) is
    called with the set of the arguments' names whose gradients are wanted, then all arguments by name; it returns the
    output (an array, or a `Pending` one) and its pullback.
    """

    shape: Callable[..., Shape]
    multiply_adds: Callable[..., int]
    vjp: Callable[..., tuple[Any, Pullback]] | None


class Pending(ABC):
    """An output not yet computed, so that the next operation may be computed in the same pass over memory."""

    shape: Shape

    @abstractmethod
    def compute(self) -> Any:
        """Return the output as an array."""

    @abstractmethod
    def then(self, operation: str, arguments: Mapping[str, Any]) -> tuple[Any, Pullback] | None:
        """Return what `operation` makes of the output, or None if the two cannot be one.

        In `arguments` the pending output stands for itself. The pullback goes through both operations: its keys are
        those of this output's own pullback, and ``operation.name`` for the other arguments of the second.
        """


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
    *,
    shape: Callable[..., Shape],
    multiply_adds: Callable[..., int] = none,
    vjp: Callable[..., tuple[Any, Pullback]] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function an operation: the first argument's type and the thread's recorder decide who runs it."""

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
            record = recorder.get()
            return forward(*args, **kwargs) if record is None else record(operation, *args, **kwargs)

        _RULES[operation] = Rules(shape, multiply_adds, vjp)
        return operation

    return decorate


def rules(operation: Callable[..., Any]) -> Rules:
    """Return the rules of an operation of `convlane.functional`."""
    return _RULES[operation]


def operations() -> dict[str, Callable[..., Any]]:
    """Return all operations by their names, which are also those of nodes in a graph."""
    return {operation.__name__: operation for operation in _RULES}


@cache
def signature_of(operation: Callable[..., Any]) -> inspect.Signature:
    """Return the arguments of an operation."""
    return inspect.signature(operation)
