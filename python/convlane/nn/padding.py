"""Padding layers for signals, images and volumes, one for each mode of `convlane.functional.pad`.

`padding` is an integer for all sides, or (left, right) for signals, (left, right, top, bottom) for images and (left,
right, top, bottom, front, back) for volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from convlane.functional import pad
from convlane.functional._arguments import Array, as_float, as_int, shape_of
from convlane.nn.module import Module


class _Pad(Module):
    axes: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: int | Sequence[int]) -> None:
        name, count = type(self).__name__, 2 * self.axes
        sides = tuple(padding) if isinstance(padding, (list, tuple)) else (padding,) * count
        if len(sides) != count:
            raise ValueError(f"{name}: padding must be an integer or {count} of them, got {padding!r}")
        self.padding = tuple(as_int(side, name, "padding") for side in sides)

    def forward(self, input: Array) -> Array:
        """Pad the last dimensions."""
        name, ranks = type(self).__name__, (self.axes + 1, self.axes + 2)
        shape = shape_of(input, name)
        if len(shape) not in ranks:
            raise ValueError(f"{name}: input must have {ranks[0]} or {ranks[1]} dimensions, got shape {shape}")
        return pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return str(self.padding)


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        as_float(value, type(self).__name__, "value")
        self.value = value

    def forward(self, input: Array) -> Array:
        """Pad the last dimensions."""
        return pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return str(self.padding)


class ConstantPad1d(_ConstantPad):
    """Pad signals (C, L) or (N, C, L) with one value."""

    axes = 1


class ConstantPad2d(_ConstantPad):
    """Pad images (C, H, W) or (N, C, H, W) with one value."""

    axes = 2


class ConstantPad3d(_ConstantPad):
    """Pad volumes (C, D, H, W) or (N, C, D, H, W) with one value."""

    axes = 3


class ZeroPad1d(_ZeroPad):
    """Pad signals (C, L) or (N, C, L) with zeros."""

    axes = 1


class ZeroPad2d(_ZeroPad):
    """Pad images (C, H, W) or (N, C, H, W) with zeros."""

    axes = 2


class ZeroPad3d(_ZeroPad):
    """Pad volumes (C, D, H, W) or (N, C, D, H, W) with zeros."""

    axes = 3


class ReflectionPad1d(_Pad):
    """Mirror signals (C, L) or (N, C, L) at their outermost elements."""

    axes = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """Mirror images (C, H, W) or (N, C, H, W) at their outermost elements."""

    axes = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """Mirror volumes (C, D, H, W) or (N, C, D, H, W) at their outermost elements."""

    axes = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """Repeat the outermost elements of signals (C, L) or (N, C, L)."""

    axes = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """Repeat the outermost elements of images (C, H, W) or (N, C, H, W)."""

    axes = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """Repeat the outermost elements of volumes (C, D, H, W) or (N, C, D, H, W)."""

    axes = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """Pad signals (C, L) or (N, C, L) with elements from their opposite end."""

    axes = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """Pad images (C, H, W) or (N, C, H, W) with elements from their opposite end."""

    axes = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """Pad volumes (C, D, H, W) or (N, C, D, H, W) with elements from their opposite end."""

    axes = 3
    mode = "circular"
