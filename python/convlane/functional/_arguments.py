"""Conversion of arguments, common to all operations: arrays to aligned float32, an integer or a pair to a pair."""

from __future__ import annotations

import math
import operator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane.functional._size import Size

Array: TypeAlias = NDArray[np.float32]
Tensor: TypeAlias = NDArray[Any]  # of float32, int64 or bool
Bools: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.int64]
Pair: TypeAlias = tuple[int, int]
Sides: TypeAlias = tuple[int, int, int, int]  # top, bottom, left, right
Padding: TypeAlias = "int | tuple[int, int] | tuple[int, int, int, int] | str"
Triple: TypeAlias = tuple[int, int, int]  # depth, height, width
Faces: TypeAlias = tuple[int, int, int, int, int, int]  # front, back, top, bottom, left, right

_FLOAT32 = np.dtype(np.float32)
_COMPUTED = frozenset(map(np.dtype, (np.float32, np.int64, np.bool_)))
_LARGEST = 2**62  # adding to anything larger could overflow 64 bits


def as_array(value: Any, op: str, name: str) -> Array:
    """Return `value` as an aligned float32 array in native byte order, without a copy if it is one already.

    float16 is cast up, and big-endian or misaligned float32 is copied. Every array-like object (``__array__``,
    ``__array_interface__``, DLPack) is accepted; lists and scalars are not.
    """
    if type(value) is np.ndarray and value.dtype is _FLOAT32 and value.flags.aligned:
        return value
    return _convert(value, op, name)


def shape_of(value: Any, op: str, name: str = "input") -> tuple[int, ...]:
    """Return the shape of an array or of what stands for one in an operation."""
    if type(value) is np.ndarray and value.dtype is _FLOAT32:
        return tuple(value.shape)
    return tuple(value.shape if stands_for_array(value) else as_array(value, op, name).shape)


def checking(value: Any) -> AbstractContextManager[None]:
    """Return a context for shape checks that the operations called afterwards repeat.

    While a network is traced, sizes that are read in this context are not recorded, unless a check raises.
    """
    context = getattr(type(value), "__convlane_checks__", None)
    return nullcontext() if context is None else context(value)


def stands_for_array(value: Any) -> bool:
    """Return whether a value has an array's shape but no numbers, like the arguments of shape rules."""
    return hasattr(type(value), "__convlane_op__") or (hasattr(value, "shape") and not hasattr(value, "__array__"))


def as_tensor(value: Any, op: str, name: str) -> Tensor:
    """Return `value` as an aligned array of float32, int64 or bool in native byte order, otherwise like `as_array`."""
    if type(value) is np.ndarray and value.dtype in _COMPUTED and value.flags.aligned:
        return value
    array = _as_numpy(value, op, name)
    if array.dtype.kind == "f":
        return as_array(array, op, name)
    if array.dtype.kind != "b" and (array.dtype.kind, array.dtype.itemsize) != ("i", 8):
        raise TypeError(
            f"{op}: {name} must be float32, int64 or bool, got {array.dtype}; convert it, e.g. with .astype(np.int64)"
        )
    return np.require(array, array.dtype.newbyteorder("="), "A").view(np.ndarray)


def as_operand(value: Any, op: str, name: str) -> Array:
    """Return `value` as `as_array` does, but a number as an array without dimensions."""
    if type(value) is not np.ndarray and is_number(value):
        with np.errstate(over="ignore"):
            return np.asarray(value, np.float32)
    return as_array(value, op, name)


def is_number(value: Any) -> bool:
    """Return whether a value is a Python or NumPy number, but not a bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def operand_shape(value: Any, op: str, name: str) -> tuple[int, ...]:
    """Return the shape of an array or of what stands for one; that of a number is ()."""
    if type(value) is np.ndarray and value.dtype is _FLOAT32:
        return tuple(value.shape)
    if stands_for_array(value):
        return tuple(value.shape)
    return () if is_number(value) or isinstance(value, (bool, np.bool_)) else tuple(as_tensor(value, op, name).shape)


def as_image(value: Any, op: str, name: str = "input") -> tuple[Array, bool]:
    """Return `value` as a batch of images and whether the batch dimension was added to a single one."""
    return as_batch(value, op, 4, name)


def as_batch(value: Any, op: str, rank: int, name: str = "input") -> tuple[Array, bool]:
    """Return `value` with `rank` dimensions, the batch first, and whether the batch was added to a single example."""
    array = as_array(value, op, name)
    if array.ndim == rank:
        return array, False
    if array.ndim == rank - 1:
        return array[None], True
    expected = (
        "(N, C, H, W) or one image (C, H, W)"
        if rank == 4
        else f"a batch of {rank} dimensions or one example without the first"
    )
    raise ValueError(f"{op}: {name} must be {expected}, got {array.ndim} dimensions, shape {array.shape}")


def check_ranks(op: str, rank: int, input_shape: Any, weight_shape: Any) -> None:
    """Raise a ValueError unless a batch and a weight both have `rank` dimensions."""
    if len(input_shape) == rank == len(weight_shape):
        return
    single = len(input_shape) == rank - 1 and len(weight_shape) == rank
    hint = f"; a single example needs a batch in front: {(1, *input_shape)}" if single else ""
    raise ValueError(
        f"{op}: input and weight must have {rank} dimensions, got shapes {tuple(input_shape)} and "
        f"{tuple(weight_shape)}{hint}"
    )


def as_pixels(array: Array) -> Array:
    """View an array (N, C, ...) of up to five dimensions as an image (N, C, H, W).

    The depth slices of a volume become consecutive rows. The array is copied if no view is possible.
    """
    n, c, *size = array.shape
    return array if len(size) == 2 else array.reshape(n, c, math.prod(size[:-1]), *(size[-1:] or [1]))


def is_channels_last(array: Array) -> bool:
    """Whether sequences (N, C, L) or volumes (N, C, D, H, W) are channels last in memory, and not in C order."""
    if array.ndim not in (3, 5) or array.flags.c_contiguous:
        return False
    return np.moveaxis(array, 1, -1).flags.c_contiguous


def as_int(value: Any, op: str, name: str) -> int:
    """Return an integer, refusing floats and integers too large for the kernels' 64-bit arithmetic.

    An integer that a traced network has computed from sizes is returned as it is: the operation's rules see its value.
    """
    if isinstance(value, Size) and isinstance(value.number, int):
        return value  # type: ignore[return-value]
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}") from None
    if not -_LARGEST < number < _LARGEST:
        raise ValueError(f"{op}: {name} is out of range: {number}")
    return number


def as_float(value: Any, op: str, name: str) -> float:
    """Return a Python float, refusing what only looks like a number (strings, arrays); sizes as in `as_int`."""
    if isinstance(value, Size):
        return value  # type: ignore[return-value]
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}")
    return float(value)


def as_dim(value: Any, op: str, ndim: int, name: str = "dim") -> int:
    """Return the index of a dimension, counted from the end when it is negative."""
    dim = as_int(value, op, name)
    if not -ndim <= dim < ndim:
        raise ValueError(f"{op}: {name}={dim} is out of range for {ndim} dimensions")
    return dim % ndim


def as_flat_image(array: Array) -> Array:
    """View an array of any rank as an image, for element-wise kernels; copies if it is not C-contiguous."""
    return np.ascontiguousarray(array).reshape(1, array.size, 1, 1)


def as_positive(value: Any, op: str, name: str) -> int:
    """Return an integer that is at least 1."""
    number = as_int(value, op, name)
    if number < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {number}")
    return number


def as_pair(value: Any, op: str, name: str) -> Pair:
    """Return (height, width) from an integer or a pair of them."""
    if type(value) is int and -_LARGEST < value < _LARGEST:
        return value, value
    if not isinstance(value, (tuple, list)):
        number = as_int(value, op, name)
        return number, number
    if len(value) != 2:
        raise ValueError(f"{op}: {name} must be an integer or a pair (height, width), got {value!r}")
    if type(value) is tuple and type(value[0]) is type(value[1]) is int and max(map(abs, value)) < _LARGEST:
        return value  # the most frequent case
    return as_int(value[0], op, name), as_int(value[1], op, name)


def as_sides(value: Padding, op: str, kernel: Pair, stride: Pair, dilation: Pair, size: Pair) -> Sides:
    """Return padding as (top, bottom, left, right).

    Takes an integer, a pair (height, width), four sides, ``"valid"``, ``"same"`` (torch's: stride 1 only, an odd
    pixel goes to the bottom and right) or ``"same_tf"`` (TensorFlow's: output = ceil(input / stride), the total
    padding depends on the input's size).
    """
    if isinstance(value, str):
        return _named_sides(value, op, kernel, stride, dilation, size)
    if isinstance(value, (tuple, list)) and len(value) == 4:
        top, bottom, left, right = (as_int(side, op, "padding") for side in value)
        return top, bottom, left, right
    if isinstance(value, (tuple, list)) and len(value) != 2:
        raise ValueError(
            f"{op}: padding must be an integer, a pair, four sides (top, bottom, left, right) or a name, got {value!r}"
        )
    height, width = as_pair(value, op, "padding")
    return height, height, width, width


def as_window(
    op: str, size: Pair, kernel_size: Any, stride: Any, padding: Padding, dilation: Any
) -> tuple[Pair, Pair, Sides, Pair]:
    """Return kernel, stride (the kernel's size when None), padding and dilation of a window over (H, W)."""
    kernel, dilation = as_pair(kernel_size, op, "kernel_size"), as_pair(dilation, op, "dilation")
    stride = kernel if stride is None else as_pair(stride, op, "stride")
    return kernel, stride, as_sides(padding, op, kernel, stride, dilation, size), dilation


def _named_sides(value: str, op: str, kernel: Pair, stride: Pair, dilation: Pair, size: Pair) -> Sides:
    if value == "valid":
        return 0, 0, 0, 0
    if value == "same":
        if stride != (1, 1):
            raise ValueError(
                f"{op}: padding='same' needs stride 1, got {stride}; TensorFlow's rule for strides is 'same_tf'"
            )
        totals = [dilation[i] * (kernel[i] - 1) for i in range(2)]
    elif value == "same_tf":
        totals = [
            max((-(-size[i] // max(stride[i], 1)) - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - size[i], 0)
            for i in range(2)
        ]
    else:
        raise ValueError(f"{op}: padding must be 'same', 'same_tf' or 'valid' when it is a name, got {value!r}")
    (top, left) = (total // 2 for total in totals)
    return top, totals[0] - top, left, totals[1] - left


def _convert(value: Any, op: str, name: str) -> Array:
    array = _as_numpy(value, op, name)
    if array.dtype.kind != "f" or array.dtype.itemsize > 4:
        raise TypeError(f"{op}: {name} must be float32, got {array.dtype}; convert it with .astype(np.float32)")
    array = np.require(array, np.float32, "A")
    return array if type(array) is np.ndarray else array.view(np.ndarray)


def _as_numpy(value: Any, op: str, name: str) -> Tensor:
    """Return any array-like object as a NumPy array of whatever type it holds."""
    if not isinstance(value, np.ndarray):
        by_numpy = any(hasattr(value, way) for way in ("__array__", "__array_interface__"))
        if not (by_numpy or hasattr(value, "__dlpack__")) or isinstance(value, np.generic):
            raise TypeError(f"{op}: {name} must be a NumPy array, got {type(value).__name__}")
        value = np.asarray(value) if by_numpy else np.from_dlpack(value)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{op}: {name} is a masked array, whose mask would be lost; fill it first, e.g. .filled(0)")
    return value  # type: ignore[no-any-return]
