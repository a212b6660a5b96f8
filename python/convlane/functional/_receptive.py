"""Receptive fields: which pixels of a picture each position of a result depends on, given those of its arguments.

A receptive rule is called for each argument that depends on the picture, once for the picture's rows and once for its
columns: ``rule(axis, name, **arguments)``. It returns the axis of the result, made by a method of `Axis`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Axis:
    """The first and the last row (or column) of a picture that each position along one dimension can depend on."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    stride: int | None
    """The distance from one position to the next, in pixels; None if it is not constant."""
    dim: int | None
    """The dimension of the array, counted from the end; None if all elements of the array see the same rows."""

    def windows(self, kernel: int, stride: int, before: int, dilation: int, count: int) -> Axis:
        """Return what windows over these positions see; positions in the padding continue at the same stride."""
        taps = np.arange(count)[:, None] * stride + dilation * np.arange(kernel) - before
        step = None if self.stride is None else self.stride * stride
        return replace(self, low=self._at(self.low, taps).min(1), high=self._at(self.high, taps).max(1), stride=step)

    def _at(self, seen: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        inside = positions.clip(0, len(seen) - 1)
        moves = self.stride is not None and (len(seen) == 1 or seen[0] != seen[-1])  # unless all see everything
        beyond = (positions - inside) * (self.stride or 0) * moves
        return np.asarray(seen[inside] + beyond, np.int64)

    def mixed(self) -> Axis:
        """Return as many positions as there are, each of which sees all that these see together."""
        return replace(
            self.whole(), low=np.full_like(self.low, self.low.min()), high=np.full_like(self.high, self.high.max())
        )

    def whole(self) -> Axis:
        """Return one position that sees all that these see together."""
        stride = None if self.stride is None else self.stride * len(self.low)
        return replace(self, low=self.low.min(keepdims=True), high=self.high.max(keepdims=True), stride=stride)

    def everywhere(self) -> Axis:
        """Return what an array sees if each of its elements depends on all of these positions."""
        return replace(self.whole(), dim=None)

    def part(self, positions: slice) -> Axis:
        """Return some of these positions."""
        step = None if self.stride is None else self.stride * (positions.step or 1)
        return replace(self, low=self.low[positions], high=self.high[positions], stride=step)

    def within(self, count: int, first: int) -> Axis:
        """Return `count` positions of which those from `first` on are these; the others see nothing."""
        low, high = np.full(count, _NOWHERE), np.full(count, -_NOWHERE)
        low[first : first + len(self.low)], high[first : first + len(self.high)] = self.low, self.high
        return replace(self, low=low, high=high, stride=None)

    def adaptive(self, count: int) -> Axis:
        """Return what the windows of adaptive pooling see."""
        size = len(self.low)
        starts = np.arange(count) * size // count
        ends = -(-(np.arange(1, count + 1) * size) // count)
        step = self.stride * size // count if self.stride is not None and size % count == 0 else None
        return replace(self, low=self.low[starts], high=self.high[ends - 1], stride=step)

    def gathered(self, positions: NDArray[np.int64], counted: NDArray[np.bool_]) -> Axis:
        """Return what positions see that each depend on several of these, given by indices and which of them count."""
        low = np.where(counted, self.low[positions], _NOWHERE).min(1)
        high = np.where(counted, self.high[positions], -_NOWHERE).max(1)
        steps = set(np.diff(low).tolist()) | set(np.diff(high).tolist())
        return replace(self, low=low, high=high, stride=steps.pop() if len(steps) == 1 else None)

    def moved(self, dim: int | None) -> Axis:
        """Return the same positions along another dimension."""
        return replace(self, dim=dim)


Receptive: TypeAlias = Callable[..., Axis]

ROWS_AND_COLUMNS = (-2, -1)
"""The dimensions of an image that windows move along."""

_NOWHERE = np.int64(1) << 62


def first_shape(shapes: Any) -> tuple[int, ...]:
    """Return the shape that a shape rule returned, or the first one if it returned several."""
    return shapes[0] if shapes and isinstance(shapes[0], tuple) else shapes


def pointwise(axis: Axis, name: str, **arguments: Any) -> Axis:
    """Receptive rule of element-wise operations, whose arguments may broadcast."""
    return axis


def everywhere(axis: Axis, name: str, **arguments: Any) -> Axis:
    """Receptive rule of operations in which every element depends on all of the argument."""
    return axis.everywhere()


def windows(geometry: Callable[..., tuple[Any, Any, Any, Any]], shape: Callable[..., Any]) -> Receptive:
    """Return the rule of windows over the last two dimensions of `input`, with a residual added element by element.

    Parameters
    ----------
    geometry
        Returns kernel, stride, padding (top, bottom, left, right) and dilation from the operation's arguments.
    shape
        The operation's shape rule.
    """

    def rule(axis: Axis, name: str, **arguments: Any) -> Axis:
        if name == "residual" or (name == "input" and axis.dim not in ROWS_AND_COLUMNS):
            return axis
        if name != "input":
            return axis.everywhere()
        kernel, stride, sides, dilation = geometry(**arguments)
        i = ROWS_AND_COLUMNS.index(axis.dim)
        count = first_shape(shape(**arguments))[i - 2]
        return axis.windows(kernel[i], stride[i], sides[2 * i], dilation[i], count)

    return rule


def mixes(dims: Callable[..., Any]) -> Receptive:
    """Return the rule of an operation that mixes all positions along the dimensions that `dims` returns."""

    def rule(axis: Axis, name: str, **arguments: Any) -> Axis:
        return axis.mixed() if axis.dim is not None and axis.dim in dims(**arguments) else axis

    return rule
