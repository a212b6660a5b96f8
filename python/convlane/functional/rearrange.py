"""Rearranging arrays of any rank: permuting, reshaping, slicing, joining and repeating."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import (
    Array,
    Tensor,
    as_dim,
    as_int,
    as_positive,
    as_tensor,
    checking,
    operand_shape,
)
from convlane.functional._broadcast import sum_to
from convlane.functional._op import Pullback, Shape, Traits, op, same_dtype, same_shape
from convlane.functional._receptive import Axis
from convlane.functional._size import Size
from convlane.functional.reduce import axes_of, dense
from convlane.functional.shape import cat, narrow

_MAX_DIMS = 8


def _sizes(op: str, name: str, sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, (list, tuple)):
        raise TypeError(f"{op}: {name} must be a list or a tuple of integers, got {type(sizes).__name__}")
    numbers = tuple(as_int(size, op, name) for size in sizes)
    if len(numbers) > _MAX_DIMS:
        raise ValueError(f"{op}: at most {_MAX_DIMS} dimensions, got {name}={numbers}")
    return numbers


def _order(input: Any, dims: Any) -> tuple[int, ...]:
    ndim = len(operand_shape(input, "permute", "input"))
    order = tuple(as_dim(dim, "permute", ndim, "dims") for dim in _sizes("permute", "dims", dims))
    if sorted(order) != list(range(ndim)):
        raise ValueError(f"permute: dims={tuple(dims)} must name each of the {ndim} dimensions once")
    return order


def _permute_shape(input: Any, dims: Any) -> Shape:
    shape = operand_shape(input, "permute", "input")
    return tuple(shape[dim] for dim in _order(input, dims))


def _permute_vjp(wanted: frozenset[str], input: Any, dims: Any) -> tuple[Array, Pullback]:
    back = np.argsort(_order(input, dims))
    return permute(input, dims), lambda gradient: {"input": gradient.transpose(back)}


def _permute_receptive(axis: Axis, name: str, *, input: Any, dims: Any) -> Axis:
    if axis.dim is None:
        return axis
    order = _order(input, dims)
    return axis.moved(order.index(axis.dim % len(order)) - len(order))


@op(
    shape=_permute_shape,
    dtype=same_dtype,
    vjp=_permute_vjp,
    receptive=_permute_receptive,
)
def permute(input: Tensor, dims: Sequence[int]) -> Tensor:
    """Permute the dimensions.

    Parameters
    ----------
    input
        float32, int64 or bool, at most eight dimensions.
    dims
        The dimensions in their new order; negative ones count from the end.

    Returns
    -------
    numpy.ndarray
        A view of `input`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `dims` does not name each dimension once.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import permute
    >>> permute(np.zeros((2, 3, 4), np.float32), (2, 0, 1)).shape
    (4, 2, 3)
    """
    x = as_tensor(input, "permute", "input")
    return x.transpose(_order(x, dims))


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Exchange two dimensions; otherwise like `permute`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import transpose
    >>> transpose(np.zeros((2, 3, 4), np.float32), -1, 0).shape
    (4, 3, 2)
    """
    ndim = len(operand_shape(input, "transpose", "input"))
    order = list(range(ndim))
    first, second = as_dim(dim0, "transpose", ndim, "dim0"), as_dim(dim1, "transpose", ndim, "dim1")
    order[first], order[second] = second, first
    return permute(input, order)


def _reshape_shape(input: Any, shape: Any) -> Shape:
    given, sizes = operand_shape(input, "reshape", "input"), _sizes("reshape", "shape", shape)
    count, known = math.prod(given), math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or any(size < -1 for size in sizes):
        raise ValueError(f"reshape: shape={sizes} may have one -1, for the remaining size, and no other below 0")
    if -1 in sizes and known > 0 and count % known == 0:
        return tuple(count // known if size == -1 else size for size in sizes)
    if -1 in sizes or known != count:
        raise ValueError(f"reshape: shape={sizes} does not have as many elements as shape {given}")
    return sizes


def _reshape_vjp(wanted: frozenset[str], input: Any, shape: Any) -> tuple[Array, Pullback]:
    before = operand_shape(input, "reshape", "input")
    return reshape(input, shape), lambda gradient: {"input": dense_unless_view(gradient, before)}


def _reshape_receptive(axis: Axis, name: str, *, input: Any, shape: Any) -> Axis:
    """Follow a dimension to the one of the same size and stride in C order."""
    if axis.dim is None:
        return axis
    before, after = operand_shape(input, "reshape", "input"), _reshape_shape(input, shape)
    old = axis.dim % len(before)
    for dim, size in enumerate(after):
        if size == before[old] and math.prod(after[dim + 1 :]) == math.prod(before[old + 1 :]):
            return axis.moved(dim - len(after))
    return axis.everywhere()


def dense_unless_view(x: Tensor, shape: Shape) -> Tensor:
    """Return an array in another shape, as a view if its strides allow it."""
    return (x if _is_view(x, shape) else dense(x)).reshape(shape)


def _is_view(x: Tensor, shape: Shape) -> bool:
    """Return whether an array can be reshaped without a copy, which NumPy only reveals by making one."""
    if x.flags.c_contiguous or x.size == 0:
        return True
    runs: list[int] = []  # sizes of dimensions merged because one stride runs through them
    before = 0
    for size, stride in zip(x.shape, x.strides, strict=True):
        if size == 1:
            continue
        if runs and before == size * stride:
            runs[-1] *= size
        else:
            runs.append(size)
        before = stride
    sizes = (size for size in shape if size != 1)
    for run in runs:
        product = 1
        while product < run:
            product *= next(sizes)
        if product != run:
            return False
    return True


@op(
    shape=_reshape_shape,
    dtype=same_dtype,
    vjp=_reshape_vjp,
    traits=Traits(reads_any_layout=True, keeps_order="indices"),
    receptive=_reshape_receptive,
)
def reshape(input: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the same elements, in the order of their indices, in another shape.

    Parameters
    ----------
    input
        float32, int64 or bool, at most eight dimensions.
    shape
        A shape with as many elements; one size may be -1, which stands for what remains.

    Returns
    -------
    numpy.ndarray
        A view of `input` if its strides allow it, else in C order.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `shape` has another number of elements.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import reshape
    >>> reshape(np.arange(6, dtype=np.float32), (2, -1))
    array([[0., 1., 2.],
           [3., 4., 5.]], dtype=float32)
    """
    x = as_tensor(input, "reshape", "input")
    return dense_unless_view(x, _reshape_shape(x, shape))


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Drop dimensions of size 1: all of them, or those in `dim`; otherwise like `reshape`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import squeeze
    >>> squeeze(np.zeros((1, 3, 1), np.float32), -1).shape
    (1, 3)
    """
    shape = _noted_shape(input, "squeeze")
    dropped = {axis for axis in axes_of("squeeze", len(shape), dim) if shape[axis] == 1}
    return reshape(input, _of_dims(shape, [axis for axis in range(len(shape)) if axis not in dropped]))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Insert a dimension of size 1; otherwise like `reshape`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import unsqueeze
    >>> unsqueeze(np.zeros((2, 3), np.float32), -1).shape
    (2, 3, 1)
    """
    shape = _noted_shape(input, "unsqueeze")
    at = as_dim(dim, "unsqueeze", len(shape) + 1)
    return reshape(input, _of_dims(shape, [*range(at), None, *range(at, len(shape))]))


def _noted_shape(input: Any, op: str) -> tuple[int, ...]:
    """Return the shape, which notes which of its sizes are read while a network is traced."""
    return input.shape if hasattr(type(input), "__convlane_op__") else operand_shape(input, op, "input")


def _of_dims(shape: tuple[int, ...], dims: Sequence[int | None]) -> list[int]:
    """Return the sizes of these dimensions, which are all but those of size 1, with 1 for None.

    The last is -1 if the size follows from the others, so that a traced network does not depend on it.
    """
    last = max((dim for dim in dims if dim is not None), default=None)
    sizes = [1 if dim is None else -1 if dim == last else shape[dim] for dim in dims]
    if last is not None and 0 in sizes:
        sizes[dims.index(last)] = shape[last]
    return sizes


def _expand_shape(input: Any, size: Any) -> Shape:
    given, sizes = operand_shape(input, "expand", "input"), _sizes("expand", "size", size)
    added = len(sizes) - len(given)
    if added < 0 or any(each < 0 and (each != -1 or i < added) for i, each in enumerate(sizes)):
        raise ValueError(f"expand: size={sizes} does not fit shape {given}; -1 keeps a size that exists")
    found = tuple(given[i - added] if each == -1 else each for i, each in enumerate(sizes))
    if any(old not in (1, new) for old, new in zip(given, found[added:], strict=True)):
        raise ValueError(f"expand: shape {given} cannot become {found}: only sizes of 1 repeat")
    return found


def _expand_vjp(wanted: frozenset[str], input: Any, size: Any) -> tuple[Array, Pullback]:
    before = operand_shape(input, "expand", "input")
    return expand(input, size), lambda gradient: {"input": sum_to(gradient, before)}


@op(
    shape=_expand_shape,
    dtype=same_dtype,
    vjp=_expand_vjp,
    receptive=lambda axis, name, **arguments: axis,
)
def expand(input: Tensor, size: Sequence[int]) -> Tensor:
    """Repeat along dimensions of size 1, and along new ones in front.

    Parameters
    ----------
    input
        float32, int64 or bool, at most eight dimensions.
    size
        The shape of the result; -1 keeps a size.

    Returns
    -------
    numpy.ndarray
        A view of `input`, read-only.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a size other than 1 would change.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import expand
    >>> expand(np.array([[1], [2]], np.float32), (-1, 3))
    array([[1., 1., 1.],
           [2., 2., 2.]], dtype=float32)
    """
    x = as_tensor(input, "expand", "input")
    return np.broadcast_to(x, _expand_shape(x, size))


def _flip_dims(input: Any, dims: Any) -> tuple[int, ...]:
    return axes_of("flip", len(operand_shape(input, "flip", "input")), dims)


def _flip_vjp(wanted: frozenset[str], input: Any, dims: Any) -> tuple[Array, Pullback]:
    axes = _flip_dims(input, dims)
    return flip(input, dims), lambda gradient: {"input": np.flip(gradient, axes)}


def _flip_receptive(axis: Axis, name: str, *, input: Any, dims: Any) -> Axis:
    ndim = len(operand_shape(input, "flip", "input"))
    flipped = axis.dim is not None and axis.dim % ndim in _flip_dims(input, dims)
    return axis.part(slice(None, None, -1)) if flipped else axis


@op(
    shape=same_shape,
    dtype=same_dtype,
    vjp=_flip_vjp,
    receptive=_flip_receptive,
)
def flip(input: Tensor, dims: int | Sequence[int]) -> Tensor:
    """Reverse the order along dimensions.

    Parameters
    ----------
    input
        float32, int64 or bool, at most eight dimensions.
    dims
        One dimension or several; negative numbers count from the end.

    Returns
    -------
    numpy.ndarray
        A view of `input`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a dimension does not exist, or is named twice.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import flip
    >>> flip(np.array([1, 2, 3], np.float32), 0)
    array([3., 2., 1.], dtype=float32)
    """
    x = as_tensor(input, "flip", "input")
    axes = _flip_dims(x, dims)
    return x[tuple(_BACKWARDS if axis in axes else slice(None) for axis in range(x.ndim))]


_BACKWARDS = slice(None, None, -1)


def sliced(input: Any, dim: Any, start: Any, end: Any, step: Any) -> tuple[int, slice]:
    """Return the dimension to slice, and the slice."""
    shape = operand_shape(input, "strided_slice", "input")
    axis = as_dim(dim, "strided_slice", len(shape))
    stride = as_int(step, "strided_slice", "step")
    if stride == 0:
        raise ValueError("strided_slice: step must not be 0")
    return axis, slice(_bound(start, "start"), _bound(end, "end"), stride)


def _bound(value: Any, name: str) -> int | None:
    return None if value is None else as_int(value, "strided_slice", name)


def _slice_shape(input: Any, dim: Any, start: Any = None, end: Any = None, step: Any = 1) -> Shape:
    shape = operand_shape(input, "strided_slice", "input")
    axis, part = sliced(input, dim, start, end, step)
    return (*shape[:axis], len(range(*part.indices(shape[axis]))), *shape[axis + 1 :])


def _slice_vjp(wanted: frozenset[str], input: Any, dim: Any, start: Any, end: Any, step: Any) -> tuple[Array, Pullback]:
    axis, part = sliced(input, dim, start, end, step)
    shape = operand_shape(input, "strided_slice", "input")

    def pullback(gradient: Array) -> dict[str, Array]:
        whole = np.zeros(shape, np.float32)
        whole[(slice(None),) * axis + (part,)] = gradient
        return {"input": whole}

    return strided_slice(input, dim, start, end, step), pullback


def _slice_receptive(axis: Axis, name: str, *, input: Any, dim: Any, start: Any, end: Any, step: Any) -> Axis:
    at, part = sliced(input, dim, start, end, step)
    return axis.part(part) if axis.dim is not None and axis.dim % len(input.shape) == at else axis


@op(
    shape=_slice_shape,
    dtype=same_dtype,
    vjp=_slice_vjp,
    receptive=_slice_receptive,
)
def strided_slice(input: Tensor, dim: int, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    """Take indices along a dimension as Python's slices do: ``input[start:end:step]``.

    Indexing with slices calls this while gradients are recorded or a network is traced: ``x[:, ::2]``.

    Parameters
    ----------
    input
        float32, int64 or bool, at most eight dimensions.
    dim
        The dimension; negative numbers count from the end.
    start, end, step
        Negative bounds count from the end, bounds beyond the dimension are clipped, and None means its start or end; a
        negative step goes backwards.

    Returns
    -------
    numpy.ndarray
        A view of `input`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the dimension does not exist, or the step is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import strided_slice
    >>> strided_slice(np.arange(6, dtype=np.float32), 0, 1, None, 2)
    array([1., 3., 5.], dtype=float32)
    """
    x = as_tensor(input, "strided_slice", "input")
    axis, part = sliced(x, dim, start, end, step)
    return x[(slice(None),) * axis + (part,)]


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join arrays of one shape along a new dimension; otherwise like `cat`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import stack
    >>> stack([np.array([1, 2], np.float32), np.array([3, 4], np.float32)], dim=1)
    array([[1., 3.],
           [2., 4.]], dtype=float32)
    """
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"stack: tensors must be a list or a tuple of arrays, got {type(tensors).__name__}")
    shapes = [operand_shape(tensor, "stack", f"tensors[{i}]") for i, tensor in enumerate(tensors)]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"stack: the arrays must have one shape, got {' and '.join(map(str, shapes))}")
    return cat([unsqueeze(tensor, dim) for tensor in tensors], dim)


def split(input: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Split a dimension into parts of one size, of which the last may be smaller, or of given sizes.

    Returns
    -------
    tuple of numpy.ndarray
        Views of `input`, as returned by `narrow`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import split
    >>> [part.shape for part in split(np.zeros((2, 5), np.float32), 2, dim=1)]
    [(2, 2), (2, 2), (2, 1)]
    """
    shape = operand_shape(input, "split", "input")
    size = shape[as_dim(dim, "split", len(shape))]
    if isinstance(split_size_or_sections, (list, tuple)):
        parts = [as_int(part, "split", "split_size_or_sections") for part in split_size_or_sections]
        if min(parts, default=0) < 0:
            raise ValueError(f"split: split_size_or_sections must not be negative, got {parts}")
        if sum(parts) != size:
            raise ValueError(f"split: {parts} do not add up to dim {dim} of shape {shape}")
    else:
        step = as_positive(split_size_or_sections, "split", "split_size_or_sections")
        count = max(-(-size // step), 1)  # of an empty dimension one part, which is empty
        parts = [step] * (count - 1) + [size - step * (count - 1)]
    starts = accumulate(parts, initial=0)
    return tuple(
        narrow(input, dim, start, part) if part else strided_slice(input, dim, start, start)
        for start, part in zip(starts, parts, strict=False)
    )


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Split a dimension into at most `chunks` parts of one size, the last possibly smaller; otherwise like `split`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import chunk
    >>> [part.shape for part in chunk(np.zeros((2, 5), np.float32), 3, dim=1)]
    [(2, 2), (2, 2), (2, 1)]
    """
    shape = operand_shape(input, "chunk", "input")
    size, parts = shape[as_dim(dim, "chunk", len(shape))], as_positive(chunks, "chunk", "chunks")
    return split(input, -(-size // parts) or [0] * parts, dim)


def _repeats(input: Any, dims: Any) -> tuple[Shape, tuple[int, ...]]:
    """Return the shape and the repeats, both with as many dimensions as the longer one."""
    shape, repeats = operand_shape(input, "tile", "input"), _sizes("tile", "dims", dims)
    if any(repeat < 0 for repeat in repeats):
        raise ValueError(f"tile: dims={repeats} must not be negative")
    ndim = max(len(shape), len(repeats))
    return (1,) * (ndim - len(shape)) + shape, (1,) * (ndim - len(repeats)) + repeats


def _tile_shape(input: Any, dims: Any) -> Shape:
    return tuple(size * repeat for size, repeat in zip(*_repeats(input, dims), strict=True))


def _tile_vjp(wanted: frozenset[str], input: Any, dims: Any) -> tuple[Array, Pullback]:
    shape, repeats = _repeats(input, dims)
    before = operand_shape(input, "tile", "input")

    def pullback(gradient: Array) -> dict[str, Array]:
        sums = gradient
        for axis, repeat in enumerate(repeats):
            if repeat != 1:
                inner = math.prod(shape[axis:]) * math.prod(repeats[axis + 1 :])
                sums = _core.reduce("sum", sums.reshape(math.prod(shape[:axis]), repeat, inner), (1,))
        return {"input": sums.reshape(before)}

    return tile(input, dims), pullback


def _tile_receptive(axis: Axis, name: str, *, input: Any, dims: Any) -> Axis:
    return axis if axis.dim is None or _repeats(input, dims)[1][axis.dim] == 1 else axis.everywhere()


@op(
    shape=_tile_shape,
    dtype=same_dtype,
    vjp=_tile_vjp,
    receptive=_tile_receptive,
)
def tile(input: Tensor, dims: Sequence[int]) -> Tensor:
    """Repeat an array along its dimensions.

    Parameters
    ----------
    input
        float32, int64 or bool, at most eight dimensions.
    dims
        The number of repeats along each dimension: the last dimensions if there are fewer numbers, new dimensions in
        front if there are more.

    Returns
    -------
    numpy.ndarray
        In C order.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a number is negative, or there are more than eight dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import tile
    >>> tile(np.array([1, 2], np.float32), (2, 2))
    array([[1., 2., 1., 2.],
           [1., 2., 1., 2.]], dtype=float32)
    """
    shape, repeats = _repeats(input, dims)
    y = dense(as_tensor(input, "tile", "input"))
    for axis in reversed(range(len(shape))):
        if repeats[axis] != 1:  # the copied blocks grow, so that most of the data is copied in large ones
            count = math.prod(shape[:axis])
            once = y.reshape(count, 1, y.size // max(count, 1))
            y = _core.empty((count, repeats[axis], once.shape[2]), y.dtype)
            _core.copy(np.broadcast_to(once, y.shape), y)
    return y.reshape(_tile_shape(input, dims))


def getitem(input: Tensor, key: Any) -> Tensor:
    """Index with integers, slices, None and an ellipsis, as in NumPy."""
    keys = key if isinstance(key, tuple) else (key,)
    shape = _noted_shape(input, "indexing")
    taken = sum(each is not None and each is not Ellipsis for each in keys)
    if sum(each is Ellipsis for each in keys) > 1 or taken > len(shape):
        raise IndexError(f"indexing: too many indices or ellipses for shape {tuple(shape)}")
    if not any(each is Ellipsis for each in keys):
        keys = (*keys, Ellipsis)
    dims: list[int | None] = []
    axis = 0
    for each in keys:
        if each is None:
            dims.append(None)
        elif each is Ellipsis:
            dims += range(axis, axis + len(shape) - taken)
            axis += len(shape) - taken
        elif isinstance(each, slice):
            input = _indexed_by_slice(input, axis, each)
            dims.append(axis)
            axis += 1
        else:
            input = _indexed_by_integer(input, axis, as_int(each, "indexing", "index"))
            axis += 1
    if dims == list(range(len(shape))):
        return input
    return reshape(input, _of_dims(_noted_shape(input, "indexing"), dims))


def _indexed_by_slice(input: Tensor, axis: int, each: slice) -> Tensor:
    """Slice with `strided_slice`, but use `narrow` for batches and channels, which plans read without a copy."""
    step = 1 if each.step is None else each.step
    if each.start in (None, 0) and each.stop is None and step == 1:
        return input
    shape = _noted_shape(input, "indexing")
    if step == 1 and len(shape) == 4 and axis < 2:
        bounds = range(*each.indices(shape[axis]))
        if len(bounds) == shape[axis]:
            return input
        if len(bounds) > 0:
            return narrow(input, axis, bounds.start, len(bounds))
    return strided_slice(input, axis, each.start, each.stop, step)


def _indexed_by_integer(input: Tensor, axis: int, at: int) -> Tensor:
    with nullcontext() if isinstance(at, Size) else checking(input):
        shape = operand_shape(input, "indexing", "input")
        if not -shape[axis] <= at < shape[axis]:
            raise IndexError(f"indexing: index {at} is out of range for dim {axis} of shape {shape}")
    if at >= 0:
        return narrow(input, axis, at, 1)
    if len(shape) == 4 and axis < 2:
        return narrow(input, axis, at + shape[axis], 1)
    return strided_slice(input, axis, at, at + 1 or None)
