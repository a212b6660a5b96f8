"""Where a tensor of a plan lies, in the form that `_core.Plan.append` takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from convlane.functional._op import Shape

FLOAT = 4  # bytes


def strides_of(shape: Shape, channels: int | None = None) -> Shape:
    """Return the strides, in elements, of a dense tensor: images and volumes are channels last, all others in C order.

    `channels` is given for images that are a slice of larger ones' channels: how many those have.
    """
    last = len(shape) in (4, 5)
    sizes = (shape[0], *shape[2:], channels or shape[1]) if last else shape
    steps = tuple(math.prod(sizes[i + 1 :]) for i in range(len(sizes)))
    return (steps[0], steps[-1], *steps[1:-1]) if last else steps


@dataclass(frozen=True)
class Operand:
    """A tensor in the arena, in an output, or an input, which has the strides of the caller's array.

    A staged input has the strides given here: it is copied into the arena where the caller's array has others.
    """

    location: Literal["arena", "input", "staged", "output"]
    index: int
    """Which input or output."""
    offset: int
    """In bytes, from the start of the arena, of the staged input or of the output."""
    shape: Shape
    strides: Shape
    dtype: str = "float32"

    def part(self, first: int, channels: int) -> Operand:
        """Return a slice of these images' channels."""
        n, _, h, w = self.shape
        return replace(self, offset=self.offset + FLOAT * first, shape=(n, channels, h, w))

    def along(self, axis: int, first: int, count: int) -> Operand:
        """Return a slice of a dimension."""
        offset = self.offset + np.dtype(self.dtype).itemsize * first * self.strides[axis]
        return replace(self, offset=offset, shape=(*self.shape[:axis], count, *self.shape[axis + 1 :]))

    def split(self, axis: int, *sizes: int) -> Operand:
        """Return a dimension split into several, whose sizes multiply to its own."""
        stride, strides = self.strides[axis], tuple(math.prod(sizes[i + 1 :]) for i in range(len(sizes)))
        return replace(
            self,
            shape=(*self.shape[:axis], *sizes, *self.shape[axis + 1 :]),
            strides=(*self.strides[:axis], *(stride * each for each in strides), *self.strides[axis + 1 :]),
        )

    def permuted(self, *order: int) -> Operand:
        """Return the dimensions in another order."""
        return replace(
            self, shape=tuple(self.shape[dim] for dim in order), strides=tuple(self.strides[dim] for dim in order)
        )

    def viewed(self, shape: Shape) -> Operand:
        """Return the same memory as a dense tensor of another shape."""
        return replace(self, shape=shape, strides=strides_of(shape))

    def pixels(self) -> Operand:
        """Return the same volumes as images, whose rows are those of all depth slices."""
        n, c, d, h, w = self.shape
        return self.viewed((n, c, d * h, w))

    def core(self) -> tuple[str, int, int, str, Shape, Shape]:
        """Return it in the form that `_core` takes."""
        return self.location, self.index, self.offset, self.dtype, self.shape, self.strides
