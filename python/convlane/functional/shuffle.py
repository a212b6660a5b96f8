"""Pixel shuffling: resolution is traded for channels and back, without loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_positive, operand_shape
from convlane.functional._op import Pullback, Shape, op
from convlane.functional._receptive import ROWS_AND_COLUMNS, Axis
from convlane.functional.shape import channels_last

_FLOAT32 = np.dtype(np.float32)


def _shuffle_shape(input: Any, upscale_factor: Any) -> Shape:
    shape = operand_shape(input, "pixel_shuffle", "input")
    factor = as_positive(upscale_factor, "pixel_shuffle", "upscale_factor")
    if len(shape) < 3 or shape[-3] % factor**2:
        raise ValueError(
            f"pixel_shuffle: input must be (..., C, H, W), and upscale_factor={factor} squared must divide C, got "
            f"shape {shape}"
        )
    *outer, channels, height, width = shape
    return (*outer, channels // factor**2, height * factor, width * factor)


def _unshuffle_shape(input: Any, downscale_factor: Any) -> Shape:
    shape = operand_shape(input, "pixel_unshuffle", "input")
    factor = as_positive(downscale_factor, "pixel_unshuffle", "downscale_factor")
    if len(shape) < 3 or shape[-2] % factor or shape[-1] % factor:
        raise ValueError(
            f"pixel_unshuffle: input must be (..., C, H, W), and downscale_factor={factor} must divide H and W, "
            f"got shape {shape}"
        )
    *outer, channels, height, width = shape
    return (*outer, channels * factor**2, height // factor, width // factor)


def _shuffle_vjp(wanted: frozenset[str], input: Any, upscale_factor: int) -> tuple[Array, Pullback]:
    return _shuffled(input, upscale_factor), lambda gradient: {"input": _unshuffled(gradient, upscale_factor)}


def _unshuffle_vjp(wanted: frozenset[str], input: Any, downscale_factor: int) -> tuple[Array, Pullback]:
    return _unshuffled(input, downscale_factor), lambda gradient: {"input": _shuffled(gradient, downscale_factor)}


def _shuffle_receptive(axis: Axis, name: str, *, input: Any, upscale_factor: int) -> Axis:
    if axis.dim == -3:
        return axis.everywhere()
    if axis.dim not in ROWS_AND_COLUMNS:
        return axis
    positions = np.arange(len(axis.low) * upscale_factor)[:, None] // upscale_factor
    return axis.gathered(positions, np.ones(positions.shape, np.bool_))


def _unshuffle_receptive(axis: Axis, name: str, *, input: Any, downscale_factor: int) -> Axis:
    if axis.dim == -3:
        return axis.everywhere()
    if axis.dim not in ROWS_AND_COLUMNS:
        return axis
    return axis.windows(downscale_factor, downscale_factor, 0, 1, len(axis.low) // downscale_factor)


@op(shape=_shuffle_shape, vjp=_shuffle_vjp, receptive=_shuffle_receptive)
def pixel_shuffle(input: Array, upscale_factor: int) -> Array:
    """Turn channels into rows and columns: each pixel becomes a square of pixels.

    Parameters
    ----------
    input
        float32, (..., C * upscale_factor**2, H, W), at least three and at most eight dimensions.
    upscale_factor
        At least 1.

    Returns
    -------
    numpy.ndarray
        float32, (..., C, H * upscale_factor, W * upscale_factor), channels last in memory if it has four dimensions,
        else in C order. Pixel (y, x) of channel c is the input's pixel (y // r, x // r) of channel
        ``c * r**2 + y % r * r + x % r``.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the square of the factor does not divide the channels, or the factor is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import pixel_shuffle
    >>> pixel_shuffle(np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1), 2)
    array([[[[0., 1.],
             [2., 3.]]]], dtype=float32)

    References
    ----------
    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
    Network", CVPR 2016.
    """
    return _shuffled(input, upscale_factor)


@op(shape=_unshuffle_shape, vjp=_unshuffle_vjp, receptive=_unshuffle_receptive)
def pixel_unshuffle(input: Array, downscale_factor: int) -> Array:
    """Turn rows and columns into channels: the inverse of `pixel_shuffle`.

    Parameters
    ----------
    input
        float32, (..., C, H * downscale_factor, W * downscale_factor), at least three and at most eight dimensions.
    downscale_factor
        At least 1.

    Returns
    -------
    numpy.ndarray
        float32, (..., C * downscale_factor**2, H, W), channels last in memory if it has four dimensions, else in
        C order.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the factor is not positive, or does not divide height and width.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import pixel_unshuffle
    >>> pixel_unshuffle(np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2), 2).ravel()
    array([0., 1., 2., 3.], dtype=float32)
    """
    return _unshuffled(input, downscale_factor)


def _shuffled(input: Any, factor: Any) -> Array:
    x = as_array(input, "pixel_shuffle", "input")
    shape = _shuffle_shape(x, factor)
    if x.ndim == 4 and x.transpose(0, 2, 3, 1).flags.c_contiguous:
        return _core.pixel_shuffle(x, factor)
    y = _empty(shape)
    _core.copy(_split_channels(x, factor), _split_pixels(y, factor))
    return y.reshape(shape)


def _unshuffled(input: Any, factor: Any) -> Array:
    x = as_array(input, "pixel_unshuffle", "input")
    shape = _unshuffle_shape(x, factor)
    if x.ndim == 4:
        return _core.pixel_unshuffle(channels_last(x), factor)
    y = _empty(shape)
    _core.copy(_split_pixels(x, factor), _split_channels(y, factor))
    return y.reshape(shape)


def _empty(shape: Shape) -> Array:
    """Return an empty array of the shape, with all dimensions in front of the channels joined into at most one."""
    if len(shape) > 4:
        return _core.empty((math.prod(shape[:-3]), *shape[-3:]), _FLOAT32)
    return _core.empty(shape, _FLOAT32, len(shape) == 4)


def _split_channels(x: Array, factor: int) -> Array:
    """Return (N, C * factor**2, H, W) as (N, C, row, column, H, W), a view if the dimensions before C are one."""
    *_, channels, height, width = x.shape
    return x.reshape(math.prod(x.shape[:-3]), channels // factor**2, factor, factor, height, width)


def _split_pixels(x: Array, factor: int) -> Array:
    """Return (N, C, H * factor, W * factor) in the same form as `_split_channels`."""
    *_, channels, height, width = x.shape
    split = x.reshape(math.prod(x.shape[:-3]), channels, height // factor, factor, width // factor, factor)
    return split.transpose(0, 1, 3, 5, 2, 4)
