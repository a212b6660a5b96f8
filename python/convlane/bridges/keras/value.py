"""Arrays on their way through a Keras network: which of their dimensions is which of Keras's axes.

Keras counts axes as in its own arrays, mostly (N, H, W, C); convlane's operations take (N, C, H, W). Neither is
transposed more than necessary: an array keeps either order, and records which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convlane import functional as F


@dataclass(frozen=True)
class Value:
    """An array, or what stands for one."""

    array: Any
    moved: bool = False
    """Keras's last axis is second, where convlane has channels; for at least three dimensions."""

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.array.shape)

    def axis(self, axis: int) -> int:
        """Return one of Keras's axes, counted from the front."""
        if not -self.rank <= axis < self.rank:
            raise ValueError(f"there is no axis {axis} of {self.rank}")
        return axis % self.rank

    def dim(self, axis: int) -> int:
        """Return the array's dimension that is one of Keras's axes."""
        axis = self.axis(axis)
        if not self.moved or axis == 0:
            return axis
        return 1 if axis == self.rank - 1 else axis + 1

    @property
    def in_order(self) -> Any:
        """The array with its axes in Keras's order."""
        return F.permute(self.array, (0, *range(2, self.rank), 1)) if self.moved else self.array

    @property
    def last_second(self) -> Any:
        """The array with Keras's last axis second."""
        if self.moved or self.rank < 3:
            return self.array
        return F.permute(self.array, (0, self.rank - 1, *range(1, self.rank - 1)))

    def second(self, axis: int) -> tuple[Any, Callable[[Any], Value]]:
        """Return the array with an axis second, and a function that makes a value in the same order from a result."""
        axis = self.axis(axis)
        if axis == self.rank - 1:
            return self.last_second, last_second
        if axis == 1:
            return self.in_order, Value
        order = (0, axis, *(other for other in range(1, self.rank) if other != axis))
        back = tuple(order.index(dim) for dim in range(self.rank))
        return F.permute(self.in_order, order), lambda array: Value(F.permute(array, back))


def last_second(array: Any) -> Value:
    """Return the value of an array that has Keras's last axis second."""
    return Value(array, len(array.shape) > 2)


def alike(values: list[Value]) -> list[Value]:
    """Return values of one rank in one order."""
    if any(value.moved for value in values):
        return [last_second(value.last_second) for value in values]
    return values
