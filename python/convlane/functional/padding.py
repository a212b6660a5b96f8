"""Padding and cropping of arrays of any rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, Tensor, as_float, as_int, as_tensor, operand_shape
from convlane.functional._op import Pullback, Shape, Traits, op, same_dtype
from convlane.functional._receptive import Axis

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""The modes, with NumPy's names for them."""


class Run(NamedTuple):
    """Indices of one dimension: `length` of them from `start` on, in steps of `step`; a step of 0 repeats the first."""

    start: int
    length: int
    step: int = 1

    @property
    def indices(self) -> slice:
        """Return the indices as a slice, which has one index if that is repeated."""
        end = self.start + (self.length * self.step if self.step else 1)
        return slice(self.start, end if end >= 0 else None, self.step or 1)


Region: TypeAlias = tuple[Run, ...]
"""A region of an array: one run for each dimension."""


def sides_of(shape: Shape, pad: Any) -> list[tuple[int, int]]:
    """Return how many indices are added before and after each dimension; negative counts are cut off."""
    if not isinstance(pad, (list, tuple)):
        raise TypeError(f"pad: pad must be a list or a tuple of integers, got {type(pad).__name__}")
    if len(pad) % 2 or len(pad) > 2 * len(shape):
        raise ValueError(
            f"pad: pad must be pairs (before, after), the last dimension's first, at most {len(shape)} for shape "
            f"{shape}, got {tuple(pad)!r}"
        )
    numbers = [as_int(side, "pad", "pad") for side in pad]
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return [(0, 0)] * (len(shape) - len(pairs)) + pairs[::-1]


def _checked(shape: Shape, pad: Any, mode: Any, value: Any) -> list[tuple[int, int]]:
    if mode not in _MODES:
        raise ValueError(f"pad: mode must be one of {', '.join(_MODES)}, got {mode!r}")
    if value is not None and as_float(value, "pad", "value") != 0 and mode != "constant":
        raise ValueError(f"pad: value is for mode 'constant', not for {mode!r}, got {value!r}")
    sides = sides_of(shape, pad)
    for axis, ((before, after), size) in enumerate(zip(sides, shape, strict=True)):
        left = size + min(before, 0) + min(after, 0)
        if left < 0:
            raise ValueError(f"pad: {(before, after)} cuts off more than dim {axis} of shape {shape} has")
        most = {"reflect": left - 1, "circular": left, "replicate": 0 if left == 0 else max(before, after)}
        if max(before, after, 0) > max(most.get(mode, max(before, after)), 0):
            raise ValueError(f"pad: mode {mode!r} cannot pad dim {axis} of shape {shape} by {(before, after)}")
    return sides


def _pad_shape(input: Any, pad: Any, mode: Any = "constant", value: Any = 0) -> Shape:
    shape = operand_shape(input, "pad", "input")
    sides = _checked(shape, pad, mode, value)
    return tuple(
        as_int(before + size + after, "pad", "pad") for (before, after), size in zip(sides, shape, strict=True)
    )


def inner_regions(shape: Shape, sides: Sequence[tuple[int, int]]) -> tuple[Region, Region]:
    """Return the regions of the argument and of the result that contain what is not cut off."""
    counts = [size + min(before, 0) + min(after, 0) for size, (before, after) in zip(shape, sides, strict=True)]
    source = tuple(Run(max(-before, 0), count) for count, (before, _) in zip(counts, sides, strict=True))
    return source, tuple(Run(max(before, 0), count) for count, (before, _) in zip(counts, sides, strict=True))


def outer_regions(inner: Region, sides: Sequence[tuple[int, int]], mode: str) -> Iterator[tuple[Region, Region | None]]:
    """Return the regions of the result around `inner`, in the order of filling, and the regions that they repeat.

    Each dimension is filled across the later dimensions including their padding, which has been filled before.
    """
    region = list(inner)
    for axis in reversed(range(len(inner))):
        first, count = inner[axis].start, inner[axis].length
        before, after = (max(side, 0) for side in sides[axis])
        end = first + count
        targets = (Run(0, before), Run(end, after))
        sources = {
            "reflect": (Run(2 * before, before, -1), Run(end - 2, after, -1)),
            "replicate": (Run(first, before, 0), Run(end - 1, after, 0)),
            "circular": (Run(count, before), Run(first, after)),
        }.get(mode, (None, None))
        for target, source in zip(targets, sources, strict=True):
            if target.length:
                yield _with(region, axis, target), None if source is None else _with(region, axis, source)
        region[axis] = Run(0, before + count + after)


def _with(region: Sequence[Run], axis: int, run: Run) -> Region:
    return (*region[:axis], run, *region[axis + 1 :])


def _slices(region: Region) -> tuple[Any, ...]:
    """Return an index that gives a view even of an array without dimensions."""
    return (..., *(run.indices for run in region))


def filling(value: Any, dtype: Any) -> Tensor:
    """Return the value that `pad` fills in, as an array without dimensions."""
    with np.errstate(over="ignore"):
        return np.asarray(0 if value is None else value).astype(dtype)


def _pad_vjp(wanted: frozenset[str], input: Any, pad: Any, mode: str, value: Any) -> tuple[Array, Pullback]:
    shape = operand_shape(input, "pad", "input")
    sides = sides_of(shape, pad)
    source, inner = inner_regions(shape, sides)

    def pullback(gradient: Array) -> dict[str, Array]:
        if mode != "constant":
            gradient = gradient.copy()
            for region, repeated in reversed(list(outer_regions(inner, sides, mode))):
                assert repeated is not None
                still = tuple(axis for axis, run in enumerate(repeated) if run.step == 0)
                gradient[_slices(repeated)] += gradient[_slices(region)].sum(still, keepdims=True)
        within = gradient[_slices(inner)]
        if within.shape == shape:
            return {"input": within}
        whole = np.zeros(shape, np.float32)
        whole[_slices(source)] = within
        return {"input": whole}

    return _padded(input, pad, mode, value), pullback


def _pad_receptive(axis: Axis, name: str, *, input: Any, pad: Any, mode: str, value: Any) -> Axis:
    if axis.dim is None:
        return axis
    before, after = sides_of(tuple(input.shape), pad)[axis.dim]
    if mode == "constant":
        return axis.windows(1, 1, before, 1, before + len(axis.low) + after)
    kept = np.arange(len(axis.low))[max(-before, 0) : len(axis.low) - max(-after, 0)]
    positions = np.pad(kept, (max(before, 0), max(after, 0)), _MODES[mode])  # type: ignore[call-overload]
    return axis.gathered(positions[:, None], np.ones((len(positions), 1), np.bool_))


@op(
    shape=_pad_shape,
    dtype=same_dtype,
    vjp=_pad_vjp,
    traits=Traits(reads_slices=True, writes_slices=True),
    receptive=_pad_receptive,
)
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = 0) -> Tensor:
    """Pad arrays, or crop them.

    Parameters
    ----------
    input
        float32, int64 or bool, at most eight dimensions.
    pad
        Pairs (before, after), the last dimension's first: (left, right, top, bottom) for images. Negative sides are
        cut off before anything is added on the other side.
    mode
        ``"constant"``; ``"reflect"``, which mirrors at the outermost elements without repeating them; ``"replicate"``,
        which repeats the outermost elements; ``"circular"``, which continues at the opposite end.
    value
        The value to fill in with mode ``"constant"``; None means 0.

    Returns
    -------
    numpy.ndarray
        Channels last in memory if it is float32 with four dimensions, else in C order.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `pad` is not in pairs or has more pairs than there are dimensions, more is cut off than there is, a dimension
        has too few elements for the mode, the mode does not exist, or a value is given for a mode that takes none.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import pad
    >>> pad(np.ones((1, 1, 1, 1), np.float32), (1, 0, 0, 1))
    array([[[[0., 1.],
             [0., 0.]]]], dtype=float32)
    >>> pad(np.arange(4, dtype=np.float32), (2, -1), "reflect")
    array([2., 1., 0., 1., 2.], dtype=float32)
    """
    return _padded(input, pad, mode, value)


def _padded(input: Any, pad: Any, mode: Any, value: Any) -> Tensor:
    x = as_tensor(input, "pad", "input")
    shape = _pad_shape(x, pad, mode, value)
    sides = sides_of(x.shape, pad)
    source, inner = inner_regions(x.shape, sides)
    y = _core.empty(shape, x.dtype, x.ndim == 4 and x.dtype == np.float32)
    _core.copy(x[_slices(source)], y[_slices(inner)])
    for region, repeated in outer_regions(inner, sides, mode):
        target = y[_slices(region)]
        part = filling(value, x.dtype) if repeated is None else y[_slices(repeated)]
        _core.copy(np.broadcast_to(part, target.shape), target)
    return y
