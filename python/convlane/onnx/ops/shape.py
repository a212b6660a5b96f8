"""Operators that move, join, cut and repeat numbers, and that return shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convlane import functional as F
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import (
    Untraceable,
    as_many,
    axis_of,
    bounded,
    in_numpy,
    integer,
    ints,
    is_array,
    is_float,
    known,
    number,
)

_DTYPES: dict[int, Any] = {
    **dict.fromkeys((1, 10, 11, 16), np.float32),  # float, float16, double, bfloat16
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    12: np.uint32,
    13: np.uint64,
}
"""By TensorProto.DataType; floats of every size are float32."""

_NAMES = {"FLOAT": 1, "FLOAT16": 10, "DOUBLE": 11, "INT32": 6, "INT64": 7, "BOOL": 9, "UINT8": 2, "INT8": 3}


def cast(x: Any, dtype: Any) -> Any:
    """Return numbers as another type."""
    if is_array(x):
        with np.errstate(all="ignore"):
            return x if x.dtype == dtype else x.astype(dtype)
    if x.dtype == dtype or (x.dtype == np.int64 and dtype == np.int32):
        return x
    if dtype == np.float32 and x.dtype == np.bool_:
        return F.where(x, 1.0, 0.0)
    if dtype == np.bool_ and x.dtype in (np.float32, np.int64):
        return F.ne(x, 0 if x.dtype == np.int64 else 0.0)
    raise Untraceable(
        f"a cast from {x.dtype} to {np.dtype(dtype)} has no counterpart in plans, and its argument depends on the input"
    )


@converts("Cast", wide=True)
def _cast(call: Call, x: Any) -> Any:
    to = call.get("to")
    kind = _NAMES.get(to.upper()) if isinstance(to, str) else to
    if kind not in _DTYPES:
        raise ValueError(f"a cast to the type {to} is not computed")
    return cast(x, _DTYPES[kind])


@converts("CastLike", since=15)
def _cast_like(call: Call, x: Any, like: Any) -> Any:
    return cast(x, like.dtype)


@converts("Identity", wide=True)
def _identity(call: Call, x: Any) -> Any:
    return x


@converts("Shape", wide=True)
def _shape(call: Call, x: Any) -> Any:
    return np.array(x.shape[slice(call.get("start", 0), call.get("end"))], np.int64)


@converts("Size", wide=True)
def _size(call: Call, x: Any) -> Any:
    return np.array(math.prod(x.shape), np.int64)


@converts("Constant")
def _constant(call: Call) -> Any:
    for name, value in call.node.attributes.items():
        if name == "value":
            return value
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
    raise ValueError("it has no value that is read")


@converts("ConstantOfShape", since=9)
def _constant_of_shape(call: Call, shape: Any) -> Any:
    value = call.get("value", np.zeros(1, np.float32))
    return np.broadcast_to(value.reshape(()), bounded(ints(shape, "its shape")))


@converts("EyeLike", since=9)
def _eye_like(call: Call, x: Any) -> Any:
    rows, columns = bounded(x.shape)
    dtype = _DTYPES[call.get("dtype")] if call.get("dtype") else x.dtype
    return np.eye(rows, columns, call.get("k", 0), dtype)


@converts("Range", since=11)
def _range(call: Call, start: Any, limit: Any, delta: Any) -> Any:
    first, last, step = (known(value, "a bound").reshape(-1)[0] for value in (start, limit, delta))
    (count,) = bounded([max(math.ceil((last - first) / step), 0)])
    return (first + np.arange(count) * step).astype(first.dtype)


@converts("OneHot", since=9)
def _one_hot(call: Call, indices: Any, depth: Any, values: Any) -> Any:
    count = integer(depth, "depth")
    axis = call.get("axis", -1)
    off, on = known(values, "its values")
    at = known(indices, "its argument indices")
    at = np.where(at < 0, at + count, at)
    axis = axis % (at.ndim + 1)
    bounded((*at.shape, count))
    shape = tuple(count if i == axis else 1 for i in range(at.ndim + 1))
    chosen = np.expand_dims(at, axis) == np.arange(count).reshape(shape)
    return np.where(chosen, on, off).astype(values.dtype)


# Other shapes


def _reshaped(x: Any, shape: Any) -> Any:
    return x.reshape(shape) if in_numpy(x) else F.reshape(x, tuple(shape))


def _to_shape(call: Call, x: Any, asked: tuple[int, ...]) -> Any:
    zero = call.get("allowzero", 0)
    sizes = [x.shape[i] if size == 0 and not zero else size for i, size in enumerate(asked)]
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(x.shape) // rest if rest else 0
    if math.prod(sizes) != math.prod(x.shape):
        raise ValueError(f"shape {tuple(x.shape)} cannot become {asked}")
    return _reshaped(x, sizes)


@converts("Reshape", wide=True)
def _reshape_by_attribute(call: Call, x: Any) -> Any:
    return _to_shape(call, x, call.get("shape", ()))


@converts("Reshape", since=5, wide=True)
def _reshape(call: Call, x: Any, shape: Any) -> Any:
    return _to_shape(call, x, ints(shape, "its shape"))


@converts("Flatten", wide=True)
def _flatten(call: Call, x: Any) -> Any:
    ndim, axis = len(x.shape), call.get("axis", 1)
    if not -ndim <= axis <= ndim:
        raise ValueError(f"axis={axis} is out of range for {ndim} dimensions")
    at = axis % ndim if axis < 0 else axis
    if at == 1 and ndim == 4 and not in_numpy(x):
        return F.flatten(x)
    return _reshaped(x, (math.prod(x.shape[:at]), math.prod(x.shape[at:])))


def _squeezed(x: Any, axes: tuple[int, ...] | None) -> Any:
    ndim = len(x.shape)
    gone = {axis_of(axis, ndim) for axis in axes} if axes else {i for i, size in enumerate(x.shape) if size == 1}
    if any(x.shape[axis] != 1 for axis in gone):
        raise ValueError(f"dimensions {sorted(gone)} of shape {tuple(x.shape)} are not all of size 1")
    return _reshaped(x, tuple(size for i, size in enumerate(x.shape) if i not in gone))


@converts("Squeeze", wide=True)
def _squeeze_by_attribute(call: Call, x: Any) -> Any:
    return _squeezed(x, call.get("axes"))


@converts("Squeeze", since=13, wide=True)
def _squeeze(call: Call, x: Any, axes: Any = None) -> Any:
    return _squeezed(x, None if axes is None else ints(axes, "axes"))


def _unsqueezed(x: Any, axes: tuple[int, ...]) -> Any:
    ndim = len(x.shape) + len(axes)
    new = {axis_of(axis, ndim) for axis in axes}
    if len(new) != len(axes):
        raise ValueError(f"axes={axes} name a dimension twice")
    sizes = iter(x.shape)
    return _reshaped(x, tuple(1 if i in new else next(sizes) for i in range(ndim)))


@converts("Unsqueeze", wide=True)
def _unsqueeze_by_attribute(call: Call, x: Any) -> Any:
    return _unsqueezed(x, call.get("axes"))


@converts("Unsqueeze", since=13, wide=True)
def _unsqueeze(call: Call, x: Any, axes: Any) -> Any:
    return _unsqueezed(x, ints(axes, "axes"))


@converts("Transpose", wide=True)
def _transpose(call: Call, x: Any) -> Any:
    order = call.get("perm") or tuple(range(len(x.shape)))[::-1]
    if in_numpy(x):
        return x.transpose(order)
    return x if tuple(order) == tuple(range(len(x.shape))) else F.permute(x, order)


@converts("DepthToSpace")
def _depth_to_space(call: Call, x: Any) -> Any:
    size = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD" and not in_numpy(x):
        return F.pixel_shuffle(x, size)
    n, c, h, w = x.shape
    few = c // size**2
    if call.get("mode", "DCR") == "CRD":
        y = _permuted(_reshaped(x, (n, few, size, size, h, w)), (0, 1, 4, 2, 5, 3))
    else:
        y = _permuted(_reshaped(x, (n, size, size, few, h, w)), (0, 3, 4, 1, 5, 2))
    return _reshaped(y, (n, few, h * size, w * size))


@converts("SpaceToDepth")
def _space_to_depth(call: Call, x: Any) -> Any:
    size = call.get("blocksize")
    n, c, h, w = x.shape
    order = (0, 1, 3, 5, 2, 4) if call.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    y = _permuted(_reshaped(x, (n, c, h // size, size, w // size, size)), order)
    return _reshaped(y, (n, c * size**2, h // size, w // size))


def _permuted(x: Any, order: tuple[int, ...]) -> Any:
    return x.transpose(order) if in_numpy(x) else F.permute(x, order)


# Joining, cutting, repeating


@converts("Concat", wide=True)
def _concat(call: Call, *values: Any) -> Any:
    axis = call.get("axis", 1)
    if in_numpy(*values):
        return np.concatenate([each.astype(np.result_type(*values)) for each in values], axis)
    axis = axis_of(axis, len(values[0].shape))
    full = [each for each in values if each.shape[axis]] or values[:1]
    if len(full) == 1:
        return full[0]
    if not is_float(full[0]):
        full = [each.astype(np.int64) if is_array(each) and each.dtype.kind in "iu" else each for each in full]
    return F.cat(full, axis)


def _split_into(call: Call, x: Any, sizes: tuple[int, ...] | None, count: int) -> Any:
    axis = axis_of(call.get("axis", 0), len(x.shape))
    whole = x.shape[axis]
    if sizes is None:
        each = -(-whole // count)
        sizes = tuple(min(each, max(whole - i * each, 0)) for i in range(count))
    if sum(sizes) != whole or len(sizes) != call.outputs:
        raise ValueError(f"parts of {sizes} do not make up dimension {axis} of shape {tuple(x.shape)}")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(_part(x, axis, start, start + size, 1) for start, size in zip(starts, sizes, strict=True))


@converts("Split", wide=True)
def _split_1(call: Call, x: Any, sizes: Any = None) -> Any:
    given = call.get("split") if sizes is None else ints(sizes, "split")
    return _split_into(call, x, given, call.outputs)


@converts("Split", since=2, wide=True)
def _split_by_attribute(call: Call, x: Any) -> Any:
    return _split_into(call, x, call.get("split"), call.outputs)


@converts("Split", since=13, wide=True)
def _split(call: Call, x: Any, sizes: Any = None) -> Any:
    count = call.get("num_outputs", call.outputs)
    return _split_into(call, x, None if sizes is None else ints(sizes, "split"), count)


def _part(x: Any, axis: int, start: int | None, end: int | None, step: int) -> Any:
    """Take indices along a dimension as Python's slices do."""
    if in_numpy(x):
        return x[(slice(None),) * axis + (slice(start, end, step),)]
    chosen = range(*slice(start, end, step).indices(x.shape[axis]))
    if step == 1 and len(chosen) == x.shape[axis]:
        return x
    if step == 1 and len(chosen):
        return F.narrow(x, axis, chosen.start, len(chosen))
    return F.strided_slice(x, axis, start, end, step)


def _sliced(x: Any, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
    ndim = len(x.shape)
    axes = range(len(starts)) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    for what, each in (("ends", ends), ("axes", axes), ("steps", steps)):
        as_many(what, each, len(starts))
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        at = axis_of(axis, ndim)
        start, end, step = slice(start, end, step).indices(x.shape[at])
        if not range(start, end, step):
            x = _part(x, at, 0, 0, 1)
        else:
            x = _part(x, at, start, None if end < 0 else end, step)  # -1 would count from the end
    return x


@converts("Slice", wide=True)
def _slice_by_attributes(call: Call, x: Any) -> Any:
    return _sliced(x, call.get("starts"), call.get("ends"), call.get("axes"), None)


@converts("Slice", since=10, wide=True)
def _slice(call: Call, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    optional = (None if each is None else ints(each, "where it cuts") for each in (axes, steps))
    return _sliced(x, ints(starts, "starts"), ints(ends, "ends"), *optional)


@converts("Gather", wide=True)
def _gather(call: Call, x: Any, indices: Any) -> Any:
    return _taken(x, axis_of(call.get("axis", 0), len(x.shape)), indices)


def _taken(x: Any, axis: int, indices: Any) -> Any:
    size = x.shape[axis]
    if is_array(indices):
        at = indices.astype(np.int64)
        if at.size and not (-size <= at.min() and at.max() < size):
            raise ValueError(f"indices out of range for dimension {axis} of shape {tuple(x.shape)}")
        at = np.where(at < 0, at + size, at)
        if in_numpy(x):
            bounded((*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]))
            return np.take(x, at, axis)
        if at.size == 1:
            y = F.narrow(x, axis, int(at.reshape(-1)[0]), 1)
        else:
            y = F.index_select(x, axis, at.reshape(-1))
        return F.reshape(y, (*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]))
    if indices.dtype != np.int64:
        raise Untraceable("its indices depend on the input and are not int64")
    if is_array(x) and x.dtype.kind in "iu":
        x = x.astype(np.int64)
    y = F.index_select(x, axis, F.reshape(indices, (-1,)))
    return F.reshape(y, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@converts("GatherElements", since=11)
def _gather_elements(call: Call, x: Any, indices: Any) -> Any:
    axis = axis_of(call.get("axis", 0), len(x.shape))
    if is_array(indices):
        indices = np.where(indices < 0, indices + x.shape[axis], indices).astype(np.int64)
    for other in range(len(x.shape)):
        if other != axis:
            x = _part(x, other, 0, indices.shape[other], 1)
    return np.take_along_axis(x, indices, axis) if is_array(x) and is_array(indices) else F.gather(x, axis, indices)


@converts("Compress", since=9)
def _compress(call: Call, x: Any, condition: Any) -> Any:
    chosen = known(condition, "which of them it keeps").reshape(-1)
    if call.get("axis") is None:
        return _taken(_reshaped(x, (math.prod(x.shape),)), 0, np.flatnonzero(chosen))
    return _taken(x, axis_of(call.get("axis"), len(x.shape)), np.flatnonzero(chosen))


@converts("GatherND", since=11)
def _gather_nd(call: Call, x: Any, indices: Any) -> Any:
    at, shared = known(indices, "its argument indices"), call.get("batch_dims", 0)
    if not is_array(x) and not shared:
        return _gathered(x, at)
    values = known(x, "what it gathers")
    batch = values.shape[:shared]
    rows = values.reshape(-1, *values.shape[shared:])
    each = at.reshape(len(rows), -1, at.shape[-1])
    found = [part[tuple(index.T)] for part, index in zip(rows, each, strict=True)]
    return np.stack(found).reshape(*batch, *at.shape[shared:-1], *values.shape[shared + at.shape[-1] :])


def _gathered(x: Any, at: Any) -> Any:
    """Gather from the first dimensions: along one after the other where the indices are a grid, as in resampling."""
    depth = at.shape[-1]
    at = _from_front(at.reshape(-1, depth), x.shape).reshape(at.shape)
    if at.ndim == depth + 1 and at.size:
        lines = [np.moveaxis(at[..., axis], axis, 0).reshape(at.shape[axis], -1)[:, 0] for axis in range(depth)]
        if (np.stack(np.meshgrid(*lines, indexing="ij"), -1) == at).all():
            for axis, line in enumerate(lines):
                x = _taken(x, axis, line)
            return x
    rows, each = math.prod(x.shape[:depth]), math.prod(x.shape[depth:])
    sources = np.ravel_multi_index(tuple(np.moveaxis(at, -1, 0)), x.shape[:depth])
    return F.reshape(_taken(F.reshape(x, (rows, each)), 0, sources.reshape(-1)), (*at.shape[:-1], *x.shape[depth:]))


@converts("ScatterND", since=11)
def _scatter_nd(call: Call, x: Any, indices: Any, updates: Any) -> Any:
    at, kind = known(indices, "its argument indices"), call.get("reduction", "none")
    if kind == "none" and is_float(x) and not (is_array(x) and is_array(updates)):
        return _written(x, _from_front(at.reshape(-1, at.shape[-1]), x.shape), updates)
    y, new = known(x, "what it writes to").copy(), known(updates, "what it writes")
    index = tuple(np.moveaxis(at, -1, 0))
    if kind == "none":
        y[index] = new
    else:
        {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[kind].at(y, index, new)
    return y


def _from_front(at: Any, shape: Any) -> Any:
    """Return indices, one per row, none of them negative."""
    sizes = np.array(shape[: at.shape[1]], np.int64)
    if len(at) and not ((-sizes <= at) & (at < sizes)).all():
        raise ValueError(f"indices out of range for shape {tuple(shape)}")
    return np.where(at < 0, at + sizes, at)


def _written(x: Any, at: Any, updates: Any) -> Any:
    """Write at the indices: to a block, as assignments to slices are exported, or to rows in any order."""
    count, depth = at.shape
    if not count:
        return x
    first = at.min(0)
    block = at.max(0) - first + 1
    if math.prod(block.tolist()) == count and (np.indices(block).reshape(depth, -1).T + first == at).all():
        shape = (*block.tolist(), *x.shape[depth:])
        return _with_block(x, 0, first.tolist(), F.reshape(updates, shape))
    rows, each = math.prod(x.shape[:depth]), math.prod(x.shape[depth:])
    sources = np.arange(rows)
    sources[np.ravel_multi_index(tuple(at.T), x.shape[:depth])] = rows + np.arange(count)
    both = F.cat([F.reshape(x, (rows, each)), F.reshape(updates, (count, each))], 0)
    return F.reshape(F.index_select(both, 0, sources), x.shape)


def _with_block(x: Any, axis: int, first: list[int], block: Any) -> Any:
    """Replace the block of `x` that begins at the indices `first`."""
    if tuple(block.shape) == tuple(x.shape):
        return block
    start, end = (first[axis], first[axis] + block.shape[axis]) if axis < len(first) else (0, x.shape[axis])
    parts = [_part(x, axis, 0, start, 1), _part(x, axis, start, end, 1), _part(x, axis, end, x.shape[axis], 1)]
    parts[1] = _with_block(parts[1], axis + 1, first, block)
    parts = [part for part in parts if part.shape[axis]]
    return parts[0] if len(parts) == 1 else F.cat(parts, axis)


@converts("Scatter", since=9)
@converts("ScatterElements", since=11)
def _scatter_elements(call: Call, x: Any, indices: Any, updates: Any) -> Any:
    at, kind = known(indices, "its argument indices"), call.get("reduction", "none")
    axis = axis_of(call.get("axis", 0), len(x.shape))
    index: list[Any] = list(np.indices(at.shape, sparse=True))
    index[axis] = np.where(at < 0, at + x.shape[axis], at)
    if kind == "none" and is_float(x) and not (is_array(x) and is_array(updates)):
        each = np.stack([np.broadcast_to(line, at.shape) for line in index], -1).reshape(-1, at.ndim)
        return _written(x, _from_front(each, x.shape), updates)
    y, new = known(x, "what it writes to").copy(), known(updates, "what it writes")
    if kind == "none":
        y[tuple(index)] = new
    else:
        {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[kind].at(y, tuple(index), new)
    return y


@converts("Trilu", since=14)
def _trilu(call: Call, x: Any, k: Any = None) -> Any:
    offset = 0 if k is None else integer(k, "k")
    keep = np.tri(x.shape[-2], x.shape[-1], offset - bool(call.get("upper", 1)), dtype=bool)
    keep = ~keep if call.get("upper", 1) else keep
    if in_numpy(x):
        return np.where(keep, x, np.zeros((), x.dtype))
    return F.where(np.broadcast_to(keep, x.shape).copy(), x, 0.0)


@converts("ReverseSequence", since=10)
def _reverse_sequence(call: Call, x: Any, lengths: Any) -> Any:
    values = known(x, "its input").copy()
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    view = np.moveaxis(values, (batch, time), (0, 1))
    for row, length in zip(view, ints(lengths, "the lengths"), strict=True):
        row[:length] = row[:length][::-1].copy()
    return values


@converts("Expand", since=8, wide=True)
def _expand(call: Call, x: Any, shape: Any) -> Any:
    size = bounded(np.broadcast_shapes(tuple(x.shape), ints(shape, "its shape")))
    if in_numpy(x):
        return np.broadcast_to(x, size)
    return x if size == tuple(x.shape) else F.expand(x, size)


@converts("Tile", wide=True)
def _tile_along(call: Call, x: Any, tiles: Any, axis: Any) -> Any:
    dims = [1] * len(x.shape)
    dims[axis_of(integer(axis, "axis"), len(dims))] = integer(tiles, "tiles")
    return _tiled(x, dims)


@converts("Tile", since=6, wide=True)
def _tile(call: Call, x: Any, repeats: Any) -> Any:
    return _tiled(x, ints(repeats, "repeats"))


def _tiled(x: Any, dims: Any) -> Any:
    as_many("repeats", dims, len(x.shape))
    bounded([size * repeat for size, repeat in zip(x.shape, dims, strict=True)])
    return np.tile(x, dims) if in_numpy(x) else F.tile(x, dims)


_MODES = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}


def _padded(call: Call, x: Any, pads: Any, value: Any, axes: Any = None) -> Any:
    ndim, mode = len(x.shape), call.get("mode", "constant")
    axes = range(ndim) if axes is None else [axis_of(axis, ndim) for axis in axes]
    if len(pads) != 2 * len(axes) or mode not in _MODES:
        raise ValueError(f"pads={tuple(pads)} with mode={mode!r} do not fit shape {tuple(x.shape)}")
    sides = {axis: (pads[i], pads[len(axes) + i]) for i, axis in enumerate(axes)}
    pairs = [sides.get(axis, (0, 0)) for axis in range(ndim)]
    bounded([size + a + b for size, (a, b) in zip(x.shape, pairs, strict=True)])
    if not any(map(any, pairs)):
        return x
    if in_numpy(x):
        inner = x[tuple(slice(max(-a, 0), size - max(-b, 0)) for size, (a, b) in zip(x.shape, pairs, strict=True))]
        grown = [(max(a, 0), max(b, 0)) for a, b in pairs]
        if mode == "constant":
            return np.pad(inner, grown, constant_values=value)
        return np.pad(inner, grown, mode=mode)
    first = next(axis for axis, pair in enumerate(pairs) if any(pair))  # those before it are left alone
    flat = [side for pair in reversed(pairs[first:]) for side in pair]
    return F.pad(x, flat, _MODES[mode], value if mode == "constant" else 0)


@converts("Pad", wide=True)
def _pad_by_attributes(call: Call, x: Any) -> Any:
    return _padded(call, x, call.get("pads") or call.get("paddings"), call.get("value", 0.0))


@converts("Pad", since=11, wide=True)
def _pad(call: Call, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    filling = 0 if value is None or known(value, "its value").size == 0 else number(value, "its value")
    if not is_float(x):
        filling = int(filling or 0)
    return _padded(call, x, ints(pads, "pads"), filling, None if axes is None else ints(axes, "axes"))


@converts("CenterCropPad", since=18)
def _center_crop_pad(call: Call, x: Any, shape: Any) -> Any:
    axes = call.get("axes", tuple(range(len(x.shape))))
    for axis, size in zip(axes, ints(shape, "its shape"), strict=True):
        at = axis_of(axis, len(x.shape))
        have = x.shape[at]
        if size < have:
            start = (have - size) // 2
            x = _part(x, at, start, start + size, 1)
        elif size > have:
            before = (size - have) // 2
            pads = [0] * 2 * len(x.shape)
            pads[at], pads[len(x.shape) + at] = before, size - have - before
            x = _padded(call, x, pads, 0)
    return x
