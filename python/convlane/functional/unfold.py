"""im2col, the windows of images as columns of a matrix, and its adjoint, col2im."""

from __future__ import annotations

from typing import Any

from convlane import _core
from convlane.functional._arguments import Array, Padding, Pair, as_array, as_image, as_pair, as_window
from convlane.functional._op import Pullback, Shape, op


def _im2col_shape(input: Any, kernel_size: Any, dilation: Any = 1, padding: Padding = 0, stride: Any = 1) -> Shape:
    batch = (1,) if len(input.shape) == 3 else ()
    geometry = as_window("im2col", input.shape[-2:], kernel_size, stride, padding, dilation)
    return _core.im2col_shape("im2col", (*batch, *input.shape), *geometry)[len(batch) :]


def _im2col_vjp(
    wanted: frozenset[str], input: Any, kernel_size: Any, dilation: Any, padding: Padding, stride: Any
) -> tuple[Array, Pullback]:
    size = input.shape[-2:]

    def pullback(gradient: Array) -> dict[str, Array]:
        return {"input": col2im(gradient, size, kernel_size, dilation, padding, stride)}

    return im2col(input, kernel_size, dilation, padding, stride), pullback


@op(
    shape=_im2col_shape,
    vjp=_im2col_vjp,
    receptive="its columns hold windows, not positions",
)
def im2col(
    input: Array,
    kernel_size: int | Pair,
    dilation: int | Pair = 1,
    padding: Padding = 0,
    stride: int | Pair = 1,
) -> Array:
    """Copy every window of an image to a column, so that convolution is a matrix product (torch's ``unfold``).

    ``weight.reshape(O, -1) @ im2col(input, (KH, KW))`` is the convolution of `input` with `weight`.

    Parameters
    ----------
    input
        float32, (N, C, H, W) or one image (C, H, W); any strides.
    kernel_size, dilation, stride
        An integer or a pair (height, width).
    padding
        As in `conv2d`; the padding is zeros.

    Returns
    -------
    numpy.ndarray
        float32, (N, C * KH * KW, L), C-contiguous: row ``(c * KH + r) * KW + s`` holds tap (r, s) of channel c, and
        column ``y * OW + x`` the window at (y, x).

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import im2col
    >>> im2col(np.arange(6, dtype=np.float32).reshape(1, 2, 3), 2)
    array([[0., 1.],
           [1., 2.],
           [3., 4.],
           [4., 5.]], dtype=float32)
    """
    x, single = as_image(input, "im2col")
    y = _core.im2col(x, *as_window("im2col", x.shape[2:], kernel_size, stride, padding, dilation))
    return y[0] if single else y


def _image_shape(columns: Any, output_size: Any, kernel: Pair) -> tuple[int, int, int, int]:
    """Return the shape (N, C, H, W) of the image that columns of this shape (N, C * KH * KW, L) came from."""
    height, width = as_pair(output_size, "col2im", "output_size")
    taps = kernel[0] * kernel[1]
    if taps < 1 or columns[1] % taps:
        raise ValueError(
            f"col2im: input {tuple(columns)} must have a multiple of KH * KW rows, got kernel_size={kernel}"
        )
    return columns[0], columns[1] // taps, height, width


def _col2im_shape(
    input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Padding = 0, stride: Any = 1
) -> Shape:
    batch = (1,) if len(input.shape) == 2 else ()
    columns = (*batch, *input.shape)
    image = _image_shape(columns, output_size, as_pair(kernel_size, "col2im", "kernel_size"))
    geometry = as_window("col2im", image[2:], kernel_size, stride, padding, dilation)
    expected = _core.im2col_shape("col2im", image, *geometry)
    if expected != columns:
        raise ValueError(f"col2im: an image {image} has columns {expected}, but input has {columns}")
    return image[len(batch) :]


def _col2im_vjp(
    wanted: frozenset[str],
    input: Any,
    output_size: Any,
    kernel_size: Any,
    dilation: Any,
    padding: Padding,
    stride: Any,
) -> tuple[Array, Pullback]:
    output = col2im(input, output_size, kernel_size, dilation, padding, stride)
    return output, lambda gradient: {"input": im2col(gradient, kernel_size, dilation, padding, stride)}


@op(
    shape=_col2im_shape,
    vjp=_col2im_vjp,
    receptive="its columns hold windows, not positions",
)
def col2im(
    input: Array,
    output_size: int | Pair,
    kernel_size: int | Pair,
    dilation: int | Pair = 1,
    padding: Padding = 0,
    stride: int | Pair = 1,
) -> Array:
    """Sum columns of windows into an image: the adjoint of `im2col` (torch's ``fold``).

    A pixel that several windows cover is the sum of their values, in the order of the rows.

    Parameters
    ----------
    input
        float32, (N, C * KH * KW, L) or one image's (C * KH * KW, L); any strides.
    output_size
        (H, W) of the image, an integer or a pair.
    kernel_size, dilation, padding, stride
        As in `im2col`; L must be the number of windows that they give.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, H, W), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import col2im, im2col
    >>> col2im(im2col(np.ones((1, 3, 3), np.float32), 2), 3, 2)
    array([[[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]]], dtype=float32)
    """
    columns = as_array(input, "col2im", "input")
    if columns.ndim not in (2, 3):
        raise ValueError(
            f"col2im: input must be (N, C * KH * KW, L) or one image's (C * KH * KW, L), got shape {columns.shape}"
        )
    single = columns.ndim == 2
    batch = columns[None] if single else columns
    image = _image_shape(batch.shape, output_size, as_pair(kernel_size, "col2im", "kernel_size"))
    geometry = as_window("col2im", image[2:], kernel_size, stride, padding, dilation)
    y = _core.col2im(batch[:, :, None, :], image, *geometry)
    return y[0] if single else y


unfold = im2col
fold = col2im
