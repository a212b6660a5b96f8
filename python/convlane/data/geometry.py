"""Geometric transformations of pictures by bilinear resampling in C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, Pair, as_array, as_float, as_int, as_pair

__all__ = ["as_picture", "resample"]


def resample(
    image: Array,
    matrix: Sequence[Sequence[float]] | np.ndarray[Any, Any],
    size: int | Pair | None = None,
    *,
    field: Array | None = None,
    border: str = "constant",
    fill: float = 0.0,
    samples: int = 1,
) -> Array:
    """Resample a picture bilinearly at transformed coordinates.

    The output's pixel at (x, y) is read at ``matrix @ (x, y, 1)``, both in pixels from the centres of the pictures. The
    matrix is thus the inverse of the transformation of the picture. The identity keeps a picture (and crops its centre
    for a smaller `size`), and a rotation turns it around its centre.

    Parameters
    ----------
    image
        float32 (C, H, W), or uint8, which is divided by 255.
    matrix
        An affine map, (2, 3).
    size
        The size of the output (height, width); by default that of the image.
    field
        float32 (2, height, width), added to the x and the y at which each pixel is read.
    border
        What is read beyond the picture: ``"constant"`` (the value `fill`), ``"edge"`` (the nearest pixel) or
        ``"reflect"`` (the picture mirrored in its outermost pixels).
    fill
        The value of all channels beyond the picture.
    samples
        Each pixel is the mean of ``samples * samples`` points spread over its area. More than 1 avoids aliasing when a
        picture is reduced by more than a factor of 2.

    Returns
    -------
    numpy.ndarray
        float32 (C, height, width), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument has the wrong shape or is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.data import resample
    >>> image = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    >>> resample(image, [[-1, 0, 0], [0, -1, 0]])  # turned by 180 degrees
    array([[[3., 2.],
            [1., 0.]]], dtype=float32)

    Notes
    -----
    It runs in the calling thread without the GIL, so several threads can resample several pictures at once.
    """
    picture = as_picture(image, "resample")
    numbers = np.asarray(matrix, np.float64)
    if numbers.shape != (2, 3):
        raise ValueError(f"resample: matrix must have the shape (2, 3), got {numbers.shape}")
    height, width = picture.shape[1:] if size is None else as_pair(size, "resample", "size")
    if field is not None:
        field = as_array(field, "resample", "field")
        if field.shape != (2, height, width):
            raise ValueError(f"resample: field must have the shape {(2, height, width)}, got {field.shape}")
        field = field[None]
    try:
        result = _core.resample(
            picture[None],
            numbers.ravel().tolist(),
            (height, width),
            field,
            border,
            as_float(fill, "resample", "fill"),
            as_int(samples, "resample", "samples"),
        )
    except ValueError as error:
        raise ValueError(f"resample: {error}") from None
    return result[0]  # type: ignore[no-any-return]


def as_picture(image: Any, caller: str) -> Array:
    """Return a picture as float32 (C, H, W), without a copy if it already is; uint8 is divided by 255."""
    array = np.asarray(image) if isinstance(image, np.ndarray) else image
    if getattr(array, "dtype", None) == np.uint8:
        array = np.divide(array, np.float32(255), dtype=np.float32)
    array = as_array(array, caller, "image")
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"{caller}: the image must be (C, H, W) without an empty side, got the shape {array.shape}")
    return array
