"""Max unpooling: values put back at the positions of the maxima, among zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from convlane import _core
from convlane.functional._arguments import Array, Indices, Tensor, as_array, as_int, as_tensor, operand_shape, shape_of
from convlane.functional._axes import as_numbers
from convlane.functional._op import Pullback, Shape, op
from convlane.functional._receptive import Axis
from convlane.functional.rearrange import reshape
from convlane.functional.reduce import dense

Sizes: TypeAlias = "int | Sequence[int]"


def max_unpool1d(
    input: Array,
    indices: Indices,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """Put the results of `max_pool1d` back in position; otherwise like `max_unpool2d`, for (N, C, L) or (C, L).

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import max_pool1d, max_unpool1d
    >>> max_unpool1d(*max_pool1d(np.array([[1, 5, 2, 4]], np.float32), 2, return_indices=True), 2)
    array([[0., 5., 0., 4.]], dtype=float32)
    """
    return _unpooled("max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size)  # type: ignore[no-any-return]


def max_unpool2d(
    input: Array,
    indices: Indices,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """Put the results of `max_pool2d` back in position, among zeros.

    Parameters
    ----------
    input
        float32, (N, C, OH, OW) or one image (C, OH, OW).
    indices
        int64 of the same shape, as returned by `max_pool2d`. If several values have the same index, the last is kept.
    kernel_size, stride, padding
        Those of the pooling, integers or pairs. They determine the default size of the result.
    output_size
        The size of the result, (H, W), or its whole shape: pooling maps several sizes to one, and this chooses among
        them.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, H, W), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shapes do not match, an index is outside the result, or pooling would not reduce `output_size` to the
        size of `input`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import max_pool2d, max_unpool2d
    >>> image = np.array([[[1, 5, 2], [3, 0, 4]]], np.float32)
    >>> max_unpool2d(*max_pool2d(image, (2, 3), return_indices=True), (2, 3))
    array([[[0., 5., 0.],
            [0., 0., 0.]]], dtype=float32)

    References
    ----------
    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.
    """
    return _unpooled("max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size)  # type: ignore[no-any-return]


def max_unpool3d(
    input: Array,
    indices: Indices,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """Put the results of `max_pool3d` back in position; otherwise like `max_unpool2d`, for volumes.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import max_pool3d, max_unpool3d
    >>> volume = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    >>> max_unpool3d(*max_pool3d(volume, 2, return_indices=True), 2).ravel()
    array([0., 0., 0., 0., 0., 0., 0., 7.], dtype=float32)
    """
    return _unpooled("max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size)  # type: ignore[no-any-return]


def _unpooled(
    name: str, axes: int, input: Any, indices: Any, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Any:
    """Unpool signals as images of one row, and volumes as images of all their rows, to which their indices refer."""
    shape, found = shape_of(input, name), operand_shape(indices, name, "indices")
    if len(shape) not in (axes + 1, axes + 2):
        raise ValueError(f"{name}: input must have {axes + 2} dimensions, or {axes + 1} without a batch, got {shape}")
    if shape != found:
        raise ValueError(f"{name}: input {shape} and indices {found} must have the same shape")
    outer, pooled = shape[:-axes], shape[-axes:]
    sizes = _output_sizes(name, pooled, kernel_size, stride, padding, output_size)
    flat = ((1, *outer)[-2], outer[-1], math.prod(pooled[:-1]), pooled[-1])
    plane = (math.prod(sizes[:-1]), sizes[-1])
    whole = max_unpool(_reshaped(input, shape, flat), _reshaped(indices, shape, flat), plane)
    return _reshaped(whole, (*flat[:2], *plane), (*outer, *sizes))


def _reshaped(x: Any, shape: Shape, wanted: Shape) -> Any:
    """Reshape an array, unless it already has the shape, so that plans need no step for it."""
    return x if shape == wanted else reshape(x, wanted)


def _output_sizes(
    name: str, pooled: Shape, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> tuple[int, ...]:
    axes = len(pooled)
    kernel = as_numbers(kernel_size, name, "kernel_size", axes)
    stride = kernel if stride is None else as_numbers(stride, name, "stride", axes)
    padding = as_numbers(padding, name, "padding", axes)
    given = zip(pooled, kernel, stride, padding, strict=True)
    sizes = tuple((size - 1) * step + taps - 2 * side for size, taps, step, side in given)
    if output_size is None:
        if min(sizes) < 0:
            raise ValueError(f"{name}: kernel_size, stride and padding give a result of negative size {sizes}")
        return sizes
    if not isinstance(output_size, (tuple, list)) or len(output_size) < axes:
        raise ValueError(f"{name}: output_size must be a tuple of {axes} or a whole shape, got {output_size!r}")
    wanted = tuple(as_int(size, name, "output_size") for size in output_size[-axes:])
    for size, default, step in zip(wanted, sizes, stride, strict=True):
        if not max(default - step, -1) < size < default + step:
            raise ValueError(
                f"{name}: pooling does not reduce output_size {wanted} to {pooled}: each size may differ from "
                f"{sizes} by less than the stride"
            )
    return wanted


def _shape(input: Any, indices: Any, size: Any) -> Shape:
    return (*input.shape[:2], *size)


def _vjp(wanted: frozenset[str], input: Any, indices: Any, size: Any) -> tuple[Array, Pullback]:
    x, index_rows = as_array(input, "max_unpool", "input"), _rows(_indices(indices))
    shape = x.shape

    def pullback(gradient: Array) -> dict[str, Array]:
        return {"input": _image(_core.take_along(_rows(gradient), 1, index_rows), shape)}

    return max_unpool(x, indices, size), pullback


@op(
    shape=_shape,
    vjp=_vjp,
    receptive=lambda axis, name, **arguments: axis if _is_outer(axis) else axis.everywhere(),
)
def max_unpool(input: Array, indices: Indices, size: Sequence[int]) -> Array:
    """Put the values of images (N, C, H, W) at indices of planes of size `size`, among zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional.unpool import max_unpool
    >>> max_unpool(np.ones((1, 1, 1, 1), np.float32), np.full((1, 1, 1, 1), 2), (1, 3)).ravel()
    array([0., 0., 1.], dtype=float32)
    """
    x = as_array(input, "max_unpool", "input")
    rows = _core.put_along(_rows(x), 1, _rows(_indices(indices)), math.prod(size))
    return _image(rows, _shape(x, indices, size))


def _is_outer(axis: Axis) -> bool:
    return axis.dim is not None and axis.dim < -2


def _indices(indices: Any) -> Indices:
    array = as_tensor(indices, "max_unpool", "indices")
    if array.dtype.kind != "i":
        raise TypeError(f"max_unpool: indices must hold int64, got {array.dtype}; convert them with .astype(np.int64)")
    return array


def _rows(images: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N, H * W, C)."""
    n, c, h, w = images.shape
    return dense(images.transpose(0, 2, 3, 1)).reshape(n, h * w, c)


def _image(rows: Tensor, shape: Shape) -> Tensor:
    n, c, h, w = shape
    return rows.reshape(n, h, w, c).transpose(0, 3, 1, 2)
