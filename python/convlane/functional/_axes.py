"""Arguments of windows over any number of axes: one number for all axes, or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from convlane.functional._arguments import Pair, as_int, as_sides

Padding1d: TypeAlias = "int | tuple[int] | tuple[int, int] | str"
Padding3d: TypeAlias = "int | tuple[int, int, int] | tuple[int, int, int, int, int, int] | str"


def as_numbers(value: Any, op: str, name: str, axes: int) -> tuple[int, ...]:
    """Return an integer for each axis, given one integer for all or one for each."""
    if not isinstance(value, (tuple, list)):
        return (as_int(value, op, name),) * axes
    if len(value) != axes:
        raise ValueError(f"{op}: {name} must be an integer or {_tuple_of(axes)}, got {value!r}")
    return tuple(as_int(number, op, name) for number in value)


def as_sides_of_axes(
    value: Any, op: str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Sequence[int]
) -> tuple[Pair, ...]:
    """Return the padding before and after each axis.

    Takes an integer, one for each axis, two for each axis (before and after) or a name, as `as_sides` does.
    """
    axes = len(kernel)
    if isinstance(value, str):
        each = zip(kernel, stride, dilation, sizes, strict=True)
        return tuple(as_sides(value, op, (k, 1), (s, 1), (d, 1), (size, 1))[:2] for k, s, d, size in each)
    if isinstance(value, (tuple, list)) and len(value) == 2 * axes:
        sides = [as_int(side, op, "padding") for side in value]
        return tuple(zip(sides[::2], sides[1::2], strict=True))
    if isinstance(value, (tuple, list)) and len(value) != axes:
        raise ValueError(
            f"{op}: padding must be an integer, {_tuple_of(axes)}, {_tuple_of(2 * axes)} (before and after each axis) "
            f"or a name, got {value!r}"
        )
    return tuple((side, side) for side in as_numbers(value, op, "padding", axes))


def _tuple_of(count: int) -> str:
    return f"a tuple of {count}"
