"""Filters of pictures: correlation with any kernel, Gaussian blur, Sobel's and Gabor's operators.

They take plain pictures, (H, W) or (H, W, C), of uint8, float32 or float64, and return the same as `scipy.ndimage` for
the same kernel and border. Channels are filtered separately. Sums are computed in float32 for uint8 and float32 pixels
and in float64 for float64, on all threads of `convlane.set_num_threads`.

>>> import numpy as np
>>> from convlane import filters
>>> picture = np.zeros((5, 5), np.float32)
>>> picture[2, 2] = 9
>>> filters.correlate(picture, np.full((3, 3), 1 / 9))[1:4, 1:4]
array([[1., 1., 1.],
       [1., 1., 1.],
       [1., 1., 1.]], dtype=float32)
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane.functional._arguments import as_dim, as_float
from convlane.runtime import get_num_threads

__all__ = ["correlate", "gabor", "gabor_kernel", "gaussian", "sobel"]

Picture: TypeAlias = NDArray[Any]
Kernel: TypeAlias = NDArray[np.float64]

_MODES = {
    "reflect": "reflect",
    "grid-mirror": "reflect",
    "constant": "constant",
    "grid-constant": "constant",
    "nearest": "nearest",
    "mirror": "mirror",
    "wrap": "wrap",
    "grid-wrap": "wrap",
}
"""SciPy's names for borders, and the name that is used here for each."""

_SEPARABLE = {"u": 1e-7, "f4": 1e-7, "f8": 1e-15}
"""The largest difference of a separable kernel from the product of a column and a row, relative to its largest
coefficient."""


def correlate(image: Picture, kernel: Any, mode: str = "reflect", cval: float = 0.0) -> Picture:
    """Correlate a picture with a kernel, whose centre is at ``(height // 2, width // 2)``.

    Parameters
    ----------
    image
        (H, W) or (H, W, C), of uint8, float32 or float64.
    kernel
        (height, width), of real numbers; it is applied to each channel. A kernel that is the product of a column and a
        row is applied as these two. Other large kernels are applied by Fourier transforms if the picture is finite; the
        rounding error is then relative to the largest pixel nearby.
    mode
        The pixels beyond the border: ``"reflect"`` (d c b a | a b c d | d c b a), ``"mirror"`` (d c b | a b c d | c b
        a), ``"nearest"``, ``"wrap"`` or ``"constant"``. SciPy's other names for these are also accepted.
    cval
        The constant of mode ``"constant"``.

    Returns
    -------
    numpy.ndarray
        An array of the picture's shape and type. For uint8, fractions are truncated, and sums outside 0 to 255 wrap
        around, as in SciPy; to avoid that, filter ``image.astype(np.float32)``.

    Raises
    ------
    TypeError
        If the picture has another type, or the kernel does not consist of real numbers.
    ValueError
        If the picture or the kernel has another number of dimensions, the kernel is empty, or there is no such mode.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import filters
    >>> filters.correlate(np.array([[1, 2, 4, 8]], np.uint8), [[1, 0, 2]])
    array([[ 5,  9, 18, 20]], dtype=uint8)
    """
    pixels, coefficients = _as_pixels(image, "correlate"), _as_kernel(kernel, "correlate")
    mode, cval = _as_mode(mode, "correlate"), as_float(cval, "correlate", "cval")
    kind = pixels.dtype.kind if pixels.dtype.kind == "u" else f"f{pixels.dtype.itemsize}"
    factors = _column_and_row(coefficients, _SEPARABLE[kind])
    if factors is None and coefficients.size >= _fourier_from(pixels.dtype) and np.isfinite(pixels).all():
        return _by_fourier(pixels, coefficients, mode, cval).reshape(np.shape(image))
    column, row = (coefficients, np.empty(0)) if factors is None else factors
    return _filtered(pixels, column, row, mode, cval).reshape(np.shape(image))


def gaussian(
    image: Picture,
    sigma: float | tuple[float, float],
    mode: str = "reflect",
    cval: float = 0.0,
    truncate: float = 4.0,
) -> Picture:
    """Blur a picture with a Gaussian.

    Parameters
    ----------
    image, mode, cval
        As in `correlate`.
    sigma
        The standard deviation in pixels, or a pair (along the height, along the width); 0 leaves an axis unchanged.
    truncate
        The distance at which the Gaussian is truncated, in standard deviations.

    Raises
    ------
    TypeError, ValueError
        As in `correlate`, or if `sigma` or `truncate` is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import filters
    >>> edge = np.zeros((1, 6), np.float32)
    >>> edge[:, 3:] = 1
    >>> filters.gaussian(edge, 1).round(2)
    array([[0.  , 0.06, 0.3 , 0.7 , 0.94, 1.  ]], dtype=float32)
    """
    sigmas = tuple(sigma) if isinstance(sigma, (tuple, list)) else (sigma, sigma)
    if len(sigmas) != 2:
        raise ValueError(f"gaussian: sigma must be a number or a pair (along the height, the width), got {sigma!r}")
    limit = _not_negative(truncate, "truncate")
    column, row = (_bell(_not_negative(value, "sigma"), limit) for value in sigmas)
    return _separably(image, column, row, mode, cval, "gaussian")


def sobel(image: Picture, axis: int = 1, mode: str = "reflect", cval: float = 0.0) -> Picture:
    """Apply Sobel's operator: the difference of neighbours along an axis, smoothed by 1, 2, 1 along the other.

    Parameters
    ----------
    image, mode, cval
        As in `correlate`. Differences may be negative, so uint8 is rarely suitable.
    axis
        0 for horizontal edges, 1 for vertical ones.

    Raises
    ------
    TypeError, ValueError
        As in `correlate`, or if `axis` is not an axis of a picture's plane.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import filters
    >>> ramp = np.arange(5, dtype=np.float32) * np.ones((5, 1), np.float32)
    >>> filters.sobel(ramp)[2]
    array([4., 8., 8., 8., 4.], dtype=float32)
    """
    if as_dim(axis, "sobel", np.ndim(image), "axis") > 1:
        raise ValueError(f"sobel: axis must be 0 or 1, got {axis}, which is the axis of the channels")
    difference, smooth = np.array([-1.0, 0.0, 1.0]), np.array([1.0, 2.0, 1.0])
    vertical = as_dim(axis, "sobel", np.ndim(image), "axis") == 0
    column, row = (difference, smooth) if vertical else (smooth, difference)
    return _separably(image, column, row, mode, cval, "sobel")


def gabor(
    image: Picture,
    frequency: float,
    theta: float = 0.0,
    bandwidth: float = 1.0,
    sigma_x: float | None = None,
    sigma_y: float | None = None,
    n_stds: float = 3.0,
    offset: float = 0.0,
    mode: str = "reflect",
    cval: float = 0.0,
) -> tuple[Picture, Picture]:
    """Convolve a picture with the real and the imaginary part of a Gabor kernel.

    Parameters
    ----------
    image, mode, cval
        As in `correlate`.
    frequency, theta, bandwidth, sigma_x, sigma_y, n_stds, offset
        As in `gabor_kernel`.

    Returns
    -------
    real, imaginary : numpy.ndarray
        Arrays of the picture's shape and type.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import filters
    >>> stripes = np.tile(np.cos(2 * np.pi * np.arange(64) / 8), (64, 1))
    >>> along, across = (np.hypot(*filters.gabor(stripes, 1 / 8, theta))[32, 32] for theta in (0, np.pi / 2))
    >>> bool(along > 10 * across)
    True
    """
    kernel = gabor_kernel(frequency, theta, bandwidth, sigma_x, sigma_y, n_stds, offset)[::-1, ::-1]
    real, imaginary = (correlate(image, part, mode, cval) for part in (kernel.real, kernel.imag))
    return real, imaginary


def gabor_kernel(
    frequency: float,
    theta: float = 0.0,
    bandwidth: float = 1.0,
    sigma_x: float | None = None,
    sigma_y: float | None = None,
    n_stds: float = 3.0,
    offset: float = 0.0,
) -> NDArray[np.complex128]:
    """Return a Gabor kernel, which is a complex wave multiplied by a Gaussian, as defined in scikit-image.

    Parameters
    ----------
    frequency
        The frequency of the wave, in periods per pixel.
    theta
        The direction of the wave, in radians; 0 is along the rows.
    bandwidth
        The bandwidth in octaves, which together with the frequency determines standard deviations that are not given.
    sigma_x, sigma_y
        The standard deviations of the Gaussian in the direction of the wave and across it, in pixels.
    n_stds
        The distance at which the kernel is truncated, in standard deviations.
    offset
        The wave's phase, in radians.

    Raises
    ------
    ValueError
        If `frequency`, `bandwidth`, `n_stds` or a standard deviation is not positive and finite.

    Examples
    --------
    >>> from convlane import filters
    >>> filters.gabor_kernel(0.25).shape
    (15, 15)
    """
    factor = math.sqrt(math.log(2) / 2) / math.pi
    given = {"frequency": frequency, "bandwidth": bandwidth, "n_stds": n_stds}
    given |= {name: value for name, value in (("sigma_x", sigma_x), ("sigma_y", sigma_y)) if value is not None}
    for name, value in given.items():
        if not 0 < as_float(value, "gabor", name) < math.inf:
            raise ValueError(f"gabor: {name} must be positive and finite, got {value!r}")
    default = factor * (2.0**bandwidth + 1) / (2.0**bandwidth - 1) / frequency
    deviation_x, deviation_y = (default if value is None else float(value) for value in (sigma_x, sigma_y))
    cosine, sine = math.cos(as_float(theta, "gabor", "theta")), math.sin(theta)
    width = math.ceil(max(abs(n_stds * deviation_x * cosine), abs(n_stds * deviation_y * sine), 1))
    height = math.ceil(max(abs(n_stds * deviation_y * cosine), abs(n_stds * deviation_x * sine), 1))
    y, x = np.mgrid[-height : height + 1, -width : width + 1]
    along, across = x * cosine + y * sine, y * cosine - x * sine
    bell = np.exp(-0.5 * ((along / deviation_x) ** 2 + (across / deviation_y) ** 2))
    wave = np.exp(1j * (2 * np.pi * frequency * along + as_float(offset, "gabor", "offset")))
    return np.asarray(bell / (2 * np.pi * deviation_x * deviation_y) * wave)


def _as_pixels(image: Any, op: str) -> Picture:
    """Return a picture as (H, W, C), C-contiguous."""
    if isinstance(image, np.ma.MaskedArray):
        raise TypeError(f"{op}: image is a masked array, whose mask would be lost; fill it first, e.g. .filled(0)")
    array = np.asarray(image)
    if array.dtype.type not in (np.uint8, np.float32, np.float64):
        raise TypeError(
            f"{op}: image must be uint8, float32 or float64, got {array.dtype}; convert it with .astype(np.float32)"
        )
    if array.ndim not in (2, 3):
        raise ValueError(f"{op}: image must be (H, W) or (H, W, C), got shape {array.shape}")
    array = np.require(array, array.dtype.newbyteorder("="), ("C", "A"))
    return array[..., None] if array.ndim == 2 else array


def _as_kernel(kernel: Any, op: str) -> Kernel:
    array = np.asarray(kernel)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{op}: kernel must hold real numbers, got {array.dtype}")
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{op}: kernel must be (height, width), at least (1, 1), got shape {array.shape}")
    return array.astype(np.float64)


def _as_mode(mode: Any, op: str) -> str:
    if mode not in _MODES:
        raise ValueError(f"{op}: mode must be one of {', '.join(_MODES)}, got {mode!r}")
    return _MODES[mode]


def _not_negative(value: Any, name: str) -> float:
    number = as_float(value, "gaussian", name)
    if not 0 <= number < math.inf:
        raise ValueError(f"gaussian: {name} must be finite and not negative, got {value!r}")
    return number


def _bell(sigma: float, truncate: float) -> Kernel:
    """Return the coefficients of a Gaussian, whose sum is 1."""
    radius = int(truncate * sigma + 0.5)
    if sigma == 0:
        return np.ones(1)
    bell = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(bell / bell.sum())


def _separably(image: Any, column: Kernel, row: Kernel, mode: str, cval: Any, op: str) -> Picture:
    pixels = _as_pixels(image, op)
    result = _filtered(pixels, column[:, None], row, _as_mode(mode, op), as_float(cval, op, "cval"))
    return result.reshape(np.shape(image))


def _column_and_row(kernel: Kernel, tolerance: float) -> tuple[Kernel, Kernel] | None:
    """Return the column, as a kernel, and the row whose product a kernel is; None if there are none."""
    if 1 in kernel.shape:
        return None
    y, x = np.unravel_index(np.abs(kernel).argmax(), kernel.shape)
    largest = kernel[y, x]
    if largest == 0 or not np.isfinite(kernel).all():
        return None
    column, row = kernel[:, x], kernel[y] / largest
    if np.abs(np.outer(column, row) - kernel).max() > tolerance * abs(largest):
        return None
    return column[:, None], row


def _filtered(pixels: Picture, kernel: Kernel, row: Kernel, mode: str, cval: float) -> Picture:
    """Correlate (H, W, C) with a kernel, and then with a row unless that is empty."""
    if pixels.size == 0:
        return pixels.copy()
    rows = _sources(pixels.shape[0], kernel.shape[0], mode)
    columns, width = _sources(pixels.shape[1], row.size or kernel.shape[1], mode), pixels.shape[1]
    before = (row.size or kernel.shape[1]) // 2
    return _core.filter_picture(pixels, kernel, row, rows, columns[:before], columns[before + width :], cval)


def _sources(size: int, length: int, mode: str) -> NDArray[np.int64]:
    """Return the source of each pixel of an axis padded for `length` coefficients; -1 stands for a constant.

    The first pixel is ``length // 2`` before the axis.
    """
    indices = np.arange(size + length - 1) - length // 2
    if mode == "constant":
        return np.where((indices < 0) | (indices >= size), -1, indices)
    if mode == "nearest":
        return indices.clip(0, size - 1)
    if mode == "wrap":
        return indices % size
    period = 2 * size if mode == "reflect" else max(2 * size - 2, 1)
    indices %= period
    return np.where(indices < size, indices, (2 * size - 1 if mode == "reflect" else 2 * size - 2) - indices)


def _fourier_from(dtype: np.dtype[Any]) -> int:
    """Return the number of coefficients from which a kernel is applied faster by Fourier transforms."""
    lanes = {"generic": 4, "avx2": 8, "avx512": 16}.get(_core.active_isa(), 4)
    return lanes * (_FOURIER_PER_LANE_DOUBLE if dtype.itemsize == 8 else _FOURIER_PER_LANE)


# Two threads of a Xeon with AVX-512, 2026-11-26, 2000x3000 pixels. With float32, 25x25 coefficients take 86 ms directly
# and 90 ms by Fourier transforms, 33x33 take 159 and 98 ms; with float64 (2026-11-27), 19x19 take 109 and 123 ms, 21x21
# take 127 and 119 ms.
_FOURIER_PER_LANE, _FOURIER_PER_LANE_DOUBLE = 44, 25
_SMALLEST_TILE, _TILE_PER_KERNEL = 256, 4


def _by_fourier(pixels: Picture, kernel: Kernel, mode: str, cval: float) -> Picture:
    """Correlate (H, W, C) tile by tile in float64, each tile padded by the kernel's extent (overlap-save)."""
    size = tuple(max(_SMALLEST_TILE, 2 ** math.ceil(math.log2(_TILE_PER_KERNEL * side))) for side in kernel.shape)
    height, width = (whole - side + 1 for whole, side in zip(size, kernel.shape, strict=True))
    rows, columns = (_sources(n, side, mode) for n, side in zip(pixels.shape[:2], kernel.shape, strict=True))
    spectrum = np.fft.rfft2(kernel, size).conj()
    result = np.empty_like(pixels)

    def fill(corner: tuple[int, int, int]) -> None:
        y, x, channel = corner
        from_rows, from_columns = rows[y : y + size[0]], columns[x : x + size[1]]
        tile = pixels[..., channel][from_rows[:, None], from_columns].astype(np.float64)
        if mode == "constant":
            tile[from_rows < 0] = cval
            tile[:, from_columns < 0] = cval
        sums = np.fft.irfft2(np.fft.rfft2(tile, size) * spectrum, size)
        to = result[y : y + height, x : x + width, channel]
        sums = sums[: to.shape[0], : to.shape[1]]
        if pixels.dtype == np.uint8:  # a sum that rounding has left just below an integer is that integer
            sums = (sums + np.copysign(1e-9 * np.abs(kernel).sum(), sums)).astype(np.int64) % 256
        to[...] = sums

    corners = product(range(0, pixels.shape[0], height), range(0, pixels.shape[1], width), range(pixels.shape[2]))
    with ThreadPoolExecutor(get_num_threads()) as pool:
        list(pool.map(fill, corners))
    return result
