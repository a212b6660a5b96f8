"""Concatenation, splitting, shuffling of channels, flattening and conversion of memory layouts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import (
    Array,
    Tensor,
    as_array,
    as_dim,
    as_int,
    as_positive,
    as_tensor,
)
from convlane.functional._op import (
    Pullback,
    Shape,
    Traits,
    op,
    same_dtype,
    same_shape,
    split_name,
    unless_shape_changes,
)
from convlane.functional._receptive import Axis, everywhere, pointwise


def _cat_shape(tensors: Sequence[Any], dim: int = 1) -> Shape:
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"cat: tensors must be a list or a tuple of arrays, got {type(tensors).__name__}")
    if not tensors:
        raise ValueError("cat: tensors is empty")
    first = tuple(tensors[0].shape)
    axis = as_dim(dim, "cat", len(first))
    for i, tensor in enumerate(tensors):
        shape = tuple(tensor.shape)
        if len(shape) != len(first) or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ValueError(f"cat: arrays may differ in dim {axis} only, got {first} and, at index {i}, {shape}")
    return (*first[:axis], sum(tensor.shape[axis] for tensor in tensors), *first[axis + 1 :])


def _cat_receptive(axis: Axis, name: str, *, tensors: Sequence[Any], dim: int) -> Axis:
    ndim = len(tensors[0].shape)
    if axis.dim is None or axis.dim % ndim != dim % ndim:
        return axis
    sizes = [tensor.shape[dim] for tensor in tensors]
    return axis.within(sum(sizes), sum(sizes[: split_name(name)[1]]))


def _narrow_receptive(axis: Axis, name: str, *, input: Any, dim: int, start: int, length: int) -> Axis:
    ndim = len(input.shape)
    return axis.part(slice(start, start + length)) if axis.dim is not None and axis.dim % ndim == dim % ndim else axis


def _flatten_receptive(axis: Axis, name: str, *, input: Any, start_dim: int, end_dim: int) -> Axis:
    if axis.dim is None:
        return axis
    ndim, seen = len(input.shape), axis.dim % len(input.shape)
    start, end = start_dim % ndim, end_dim % ndim
    if seen > end:
        return axis
    joined = [size for d, size in enumerate(input.shape) if start <= d <= end and d != seen]
    if seen >= start and math.prod(joined) != 1:
        return axis.everywhere()
    return axis.moved(min(seen, start) - (ndim - (end - start)))


def _unflatten_receptive(axis: Axis, name: str, *, input: Any, dim: int, sizes: Sequence[int]) -> Axis:
    if axis.dim is None:
        return axis
    ndim, seen = len(input.shape), axis.dim % len(input.shape)
    if seen == dim % ndim:
        return axis.everywhere()
    return axis if seen > dim % ndim else axis.moved(axis.dim - len(sizes) + 1)


def _flatten_shape(input: Any, start_dim: int = 1, end_dim: int = -1) -> Shape:
    shape = tuple(input.shape)
    ndim = max(len(shape), 1)
    start, end = as_dim(start_dim, "flatten", ndim, "start_dim"), as_dim(end_dim, "flatten", ndim, "end_dim")
    if start > end:
        raise ValueError(f"flatten: start_dim={start_dim} comes after end_dim={end_dim} for shape {shape}")
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def _narrow_shape(input: Any, dim: int, start: int, length: int) -> Shape:
    shape = tuple(input.shape)
    axis = as_dim(dim, "narrow", len(shape))
    start, length = as_int(start, "narrow", "start"), as_positive(length, "narrow", "length")
    if not 0 <= start <= shape[axis] - length:
        raise ValueError(f"narrow: start={start} and length={length} are out of range for dim {axis} of shape {shape}")
    return (*shape[:axis], length, *shape[axis + 1 :])


def _interleave_shape(tensors: Sequence[Any]) -> Shape:
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"interleave: tensors must be a list or a tuple of images, got {type(tensors).__name__}")
    if not tensors:
        raise ValueError("interleave: tensors is empty")
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(shapes[0]) != 4 or len(set(shapes)) != 1:
        raise ValueError(f"interleave: tensors must be (N, C, H, W), all of one shape, got {shapes}")
    n, c, h, w = shapes[0]
    return (n, len(shapes) * c, h, w)


def _unflatten_shape(input: Any, dim: int, sizes: Sequence[int]) -> Shape:
    shape = tuple(input.shape)
    axis = as_dim(dim, "unflatten", len(shape))
    if not isinstance(sizes, (list, tuple)):
        raise TypeError(f"unflatten: sizes must be a list or a tuple of integers, got {type(sizes).__name__}")
    parts = tuple(as_positive(size, "unflatten", "sizes") for size in sizes)
    if math.prod(parts) != shape[axis]:
        raise ValueError(f"unflatten: sizes={parts} do not multiply to dim {axis} of shape {shape}")
    return (*shape[:axis], *parts, *shape[axis + 1 :])


def _narrow_vjp(wanted: frozenset[str], input: Any, dim: int, start: int, length: int) -> tuple[Array, Pullback]:
    x = as_array(input, "narrow", "input")
    output, axis, shape = narrow(x, dim, start, length), dim % x.ndim, x.shape

    def pullback(gradient: Array) -> dict[str, Array]:
        whole = _zeros(shape)
        narrow(whole, axis, start, length)[...] = gradient
        return {"input": whole}

    return output, pullback


def _zeros(shape: Shape) -> Array:
    """Return zeros, channels last for images."""
    if len(shape) != 4:
        return np.zeros(shape, np.float32)
    n, c, h, w = shape
    return np.zeros((n, h, w, c), np.float32).transpose(0, 3, 1, 2)


def _interleave_vjp(wanted: frozenset[str], tensors: Sequence[Any]) -> tuple[Array, Pullback]:
    count = len(tensors)
    return interleave(tensors), lambda gradient: {"tensors": [gradient[:, i::count] for i in range(count)]}


def _unflatten_vjp(wanted: frozenset[str], input: Any, dim: int, sizes: Any) -> tuple[Array, Pullback]:
    shape = input.shape
    return unflatten(input, dim, sizes), lambda gradient: {"input": gradient.reshape(shape)}


def _cat_vjp(wanted: frozenset[str], tensors: Sequence[Any], dim: int) -> tuple[Array, Pullback]:
    output = cat(tensors, dim)
    ends = list(accumulate(tensor.shape[dim] for tensor in tensors))[:-1]
    return output, lambda gradient: {"tensors": np.split(gradient, ends, dim)}


def _flatten_vjp(wanted: frozenset[str], input: Any, start_dim: int, end_dim: int) -> tuple[Array, Pullback]:
    shape = input.shape
    return flatten(input, start_dim, end_dim), lambda gradient: {"input": gradient.reshape(shape)}


def _channels_last_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    return channels_last(input), lambda gradient: {"input": gradient}


def _nchw_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    return nchw(input), lambda gradient: {"input": gradient}


@op(
    shape=_cat_shape,
    dtype=lambda tensors, dim: same_dtype(tensors),
    vjp=_cat_vjp,
    differentiable=("tensors",),
    traits=Traits(in_place=True, reads_slices=True),
    receptive=_cat_receptive,
)
def cat(tensors: Sequence[Tensor], dim: int = 1) -> Tensor:
    """Join arrays along a dimension.

    Parameters
    ----------
    tensors
        A list or tuple of arrays of one type, float32, int64 or bool, which may differ in size along `dim` only.
    dim
        The dimension; negative numbers count from the end.

    Returns
    -------
    numpy.ndarray
        Channels last in memory if it is float32 with four dimensions, else in C order.

    Raises
    ------
    TypeError
        If `tensors` is not a list or tuple of such arrays.
    ValueError
        If there are none, their shapes do not match, or `dim` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import cat
    >>> cat([np.zeros((1, 2, 4, 4), np.float32), np.zeros((1, 3, 4, 4), np.float32)]).shape
    (1, 5, 4, 4)
    """
    if isinstance(tensors, (list, tuple)):
        tensors = [as_tensor(tensor, "cat", f"tensors[{i}]") for i, tensor in enumerate(tensors)]
    shape = _cat_shape(tensors, dim)
    axis, dtype = dim % len(shape), tensors[0].dtype
    for i, tensor in enumerate(tensors):
        if tensor.dtype != dtype:
            raise TypeError(f"cat: tensors[0] holds {dtype}, but tensors[{i}] {tensor.dtype}; convert one with .astype")
    if len(shape) == 4 and dtype == np.float32:
        return _core.cat(list(tensors), axis, shape)
    return _core.join(list(tensors), axis, shape)


@op(
    shape=_narrow_shape,
    dtype=same_dtype,
    vjp=_narrow_vjp,
    traits=Traits(in_place=True, reads_slices=True, identity=unless_shape_changes),
    receptive=_narrow_receptive,
)
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """Take consecutive indices of a dimension.

    Parameters
    ----------
    input
        float32, int64 or bool, any shape.
    dim
        The dimension; negative numbers count from the end.
    start, length
        The first index, which may not count from the end, and the number of indices.

    Returns
    -------
    numpy.ndarray
        A view of `input`.

    Raises
    ------
    TypeError
        If `input` is not such an array, or a number is not an integer.
    ValueError
        If `length` is not positive, the indices leave the dimension, or `dim` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import narrow
    >>> narrow(np.array([1, 2, 3], np.float32), 0, 1, 2)
    array([2., 3.], dtype=float32)
    """
    x = as_tensor(input, "narrow", "input")
    _narrow_shape(x, dim, start, length)
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, start + length),)]


@op(
    shape=_interleave_shape,
    vjp=_interleave_vjp,
    differentiable=("tensors",),
    traits=Traits(in_place=True, reads_slices=True),
    receptive=pointwise,
)
def interleave(tensors: Sequence[Array]) -> Array:
    """Interleave the channels of images: the first channel of each, then the second of each, and so on.

    This is ``channel_shuffle(cat(tensors), len(tensors))`` in one pass.

    Parameters
    ----------
    tensors
        A list or tuple of float32 images (N, C, H, W), all of one shape.

    Returns
    -------
    numpy.ndarray
        float32, (N, C * len(tensors), H, W), channels last in memory.

    Raises
    ------
    TypeError
        If `tensors` is not a list or tuple of float32 arrays.
    ValueError
        If there are none, they are not images, or their shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import interleave
    >>> first, second = np.array([[1, 2], [10, 20]], np.float32).reshape(2, 1, 2, 1, 1)
    >>> interleave([first, second]).ravel()
    array([ 1., 10.,  2., 20.], dtype=float32)
    """
    if isinstance(tensors, (list, tuple)):
        tensors = [as_array(tensor, "interleave", f"tensors[{i}]") for i, tensor in enumerate(tensors)]
    _interleave_shape(tensors)
    return _core.interleave(tensors)


def channel_shuffle(input: Array, groups: int) -> Array:
    """Shuffle the channels of images between groups, in torch's order.

    Parameters
    ----------
    input
        float32, (N, C, H, W).
    groups
        The number of groups, which must divide C.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`, channels last in memory. Channel ``i * groups + j`` is the input's channel
        ``j * C / groups + i``.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, or `groups` is not an integer.
    ValueError
        If `input` is not an image, or `groups` is not positive or does not divide its channels.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import channel_shuffle
    >>> channel_shuffle(np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1), 2).ravel()
    array([0., 3., 1., 4., 2., 5.], dtype=float32)

    References
    ----------
    Zhang, Zhou, Lin, Sun, "ShuffleNet", CVPR 2018.
    """
    groups = as_positive(groups, "channel_shuffle", "groups")
    shape: Shape = tuple(getattr(input, "shape", ()))
    if len(shape) != 4 or shape[1] % groups:
        raise ValueError(f"channel_shuffle: groups={groups} must divide the channels of an image, got shape {shape}")
    length = shape[1] // groups
    return interleave([narrow(input, 1, i * length, length) for i in range(groups)])


@op(
    shape=_flatten_shape,
    vjp=_flatten_vjp,
    traits=Traits(in_place=True, reads_any_layout=True, identity=unless_shape_changes, keeps_order="indices"),
    receptive=_flatten_receptive,
)
def flatten(input: Array, start_dim: int = 1, end_dim: int = -1) -> Array:
    """Join neighbouring dimensions into one, in the order of indices (N, C, H, W), whatever the memory layout is.

    Parameters
    ----------
    input
        float32, any shape.
    start_dim, end_dim
        The first and the last dimension to join; negative numbers count from the end.

    Returns
    -------
    numpy.ndarray
        float32; a view if the memory layout allows it (C-contiguous arrays, images with one channel or one pixel),
        else a copy.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, or a dimension is not an integer.
    ValueError
        If a dimension is out of range, or `start_dim` comes after `end_dim`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import flatten
    >>> flatten(np.zeros((2, 3, 4, 5), np.float32)).shape
    (2, 60)
    """
    x = as_array(input, "flatten", "input")
    shape = _flatten_shape(x, start_dim, end_dim)
    return (_core.to_nchw(x) if x.ndim == 4 and not _joins_in_place(x, start_dim, end_dim) else x).reshape(shape)


def _image_rows_shape(input: Any) -> Shape:
    n, c, h, w = input.shape
    return (n, c * h * w)


def _image_rows_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    n, c, h, w = input.shape
    return image_rows(input), lambda gradient: {"input": gradient.reshape(n, h, w, c).transpose(0, 3, 1, 2)}


@op(
    shape=_image_rows_shape,
    vjp=_image_rows_vjp,
    traits=Traits(in_place=True, keeps_order="memory"),
    receptive=everywhere,
)
def image_rows(input: Array) -> Array:
    """Return images (N, C, H, W) as rows (N, H * W * C), in the order of channels last.

    The result is a view, so passes replace `flatten` by this and permute the weight of the linear layer to match.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional.shape import image_rows
    >>> image_rows(np.arange(4, dtype=np.float32).reshape(1, 2, 1, 2))
    array([[0., 2., 1., 3.]], dtype=float32)
    """
    x = _four_dimensions(input, "image_rows")
    return channels_last(x).transpose(0, 2, 3, 1).reshape(_image_rows_shape(x))


@op(
    shape=_unflatten_shape,
    vjp=_unflatten_vjp,
    traits=Traits(in_place=True, keeps_order="indices"),
    receptive=_unflatten_receptive,
)
def unflatten(input: Array, dim: int, sizes: Sequence[int]) -> Array:
    """Split a dimension into several, in the order of the indices.

    Parameters
    ----------
    input
        float32, any shape.
    dim
        The dimension; negative numbers count from the end.
    sizes
        The sizes that the dimension is split into; their product is its size.

    Returns
    -------
    numpy.ndarray
        float32; a view if the memory layout allows it.

    Raises
    ------
    TypeError
        If `input` is not a float32 array, or `sizes` is not a list or tuple of integers.
    ValueError
        If the product of the sizes is not the dimension's, or `dim` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import unflatten
    >>> unflatten(np.zeros((2, 12), np.float32), 1, (3, 4)).shape
    (2, 3, 4)
    """
    x = as_array(input, "unflatten", "input")
    return x.reshape(_unflatten_shape(x, dim, sizes))


def _always(arguments: Mapping[str, Any], same_shape: bool) -> bool:
    return True


@op(
    shape=same_shape,
    vjp=_channels_last_vjp,
    traits=Traits(in_place=True, reads_any_layout=True, identity=_always),
    receptive=pointwise,
)
def channels_last(input: Array) -> Array:
    """Return images (N, C, H, W) that are channels last in memory: `input` itself if it already is.

    Raises
    ------
    TypeError
        If `input` is not a float32 array.
    ValueError
        If `input` does not have four dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import channels_last
    >>> channels_last(np.zeros((1, 2, 4, 4), np.float32)).transpose(0, 2, 3, 1).flags.c_contiguous
    True
    """
    x = _four_dimensions(input, "channels_last")
    return x if x.transpose(0, 2, 3, 1).flags.c_contiguous else _core.to_channels_last(x)


@op(shape=same_shape, vjp=_nchw_vjp, traits=Traits(in_place=True, identity=_always), receptive=pointwise)
def nchw(input: Array) -> Array:
    """Return images (N, C, H, W) that are C-contiguous: `input` itself if it already is.

    Raises
    ------
    TypeError
        If `input` is not a float32 array.
    ValueError
        If `input` does not have four dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import channels_last, nchw
    >>> nchw(channels_last(np.zeros((1, 2, 4, 4), np.float32))).flags.c_contiguous
    True
    """
    x = _four_dimensions(input, "nchw")
    return x if x.flags.c_contiguous else _core.to_nchw(x)


def _four_dimensions(input: Any, op: str) -> Array:
    x = as_array(input, op, "input")
    if x.ndim != 4:
        raise ValueError(f"{op}: input must be (N, C, H, W), got shape {x.shape}")
    return x


def _joins_in_place(x: Array, start_dim: int, end_dim: int) -> bool:
    """Return whether one stride runs through all of these dimensions, so that they can be joined without a copy."""
    dims = [d for d in range(start_dim % x.ndim, end_dim % x.ndim + 1) if x.shape[d] != 1]
    return all(x.strides[outer] == x.shape[inner] * x.strides[inner] for outer, inner in pairwise(dims))
