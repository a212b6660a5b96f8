"""Features of boxes: He, Gkioxari, Dollar and Girshick, Mask R-CNN, 2017, section 3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convlane._floats import quiet
from convlane.functional._arguments import Array, as_array, as_float, as_int, as_pair
from convlane.functional.shape import channels_last

_MOST_SAMPLES = 4096  # in one direction of a bin; a larger box is a mistake


@quiet
def roi_align(
    input: Array,
    boxes: Array,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Array:
    """Resample each box of a feature map to a map of one size.

    A box is divided into bins; each bin is the mean of bilinearly interpolated points on a grid within it.

    Parameters
    ----------
    input
        (N, C, H, W).
    boxes
        (K, 5): the index of the image, then x1, y1, x2, y2 in pixels of the picture.
    output_size
        The height and width of the result.
    spatial_scale
        The factor of the coordinates: 1 / 16 if the map has a sixteenth of the picture's size.
    sampling_ratio
        The number of points of a bin in each direction; -1 means as many as a bin has pixels, rounded up.
    aligned
        Whether the centres of pixels are at half-integers (0.5, 1.5, ...), which is exact. False is as in older
        detectors, where every box is also at least one pixel large.

    Returns
    -------
    numpy.ndarray
        (K, C, height, width).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape, an image index does not exist, or a box is not finite or larger than
        4096 points in a bin.

    Notes
    -----
    The weights of bilinear interpolation are products of vertical and horizontal weights, and so are those of means
    over a grid: the result for a box is the map multiplied by two small matrices.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import vision
    >>> image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> vision.roi_align(image, np.array([[0, 0, 0, 4, 4]], np.float32), 2, aligned=True)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    input, boxes = as_array(input, "roi_align", "input"), as_array(boxes, "roi_align", "boxes")
    if input.ndim != 4:
        raise ValueError(f"roi_align: input must be (N, C, H, W), got shape {input.shape}")
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"roi_align: boxes must be (K, 5), rows (image, x1, y1, x2, y2), got shape {boxes.shape}")
    height, width = as_pair(output_size, "roi_align", "output_size")
    scale = as_float(spatial_scale, "roi_align", "spatial_scale")
    points = as_int(sampling_ratio, "roi_align", "sampling_ratio")
    if min(height, width) < 1:
        raise ValueError(f"roi_align: output_size must be at least 1, got {output_size}")
    if not np.isfinite(boxes).all():
        raise ValueError("roi_align: boxes must be finite")
    images = boxes[:, 0].astype(np.int64)
    if len(boxes) and (images.min() < 0 or images.max() >= len(input)):
        raise ValueError(
            f"roi_align: boxes refer to images {images.min()} to {images.max()}, but there are {len(input)}"
        )
    result = np.empty((len(boxes), height, width, input.shape[1]), np.float32)
    corners = boxes[:, 1:].astype(np.float64) * scale - (0.5 if aligned else 0.0)
    for k, (x1, y1, x2, y2) in enumerate(corners.tolist()):
        top, rows = _resampling(y1, y2, height, points, input.shape[2], aligned)
        left, columns = _resampling(x1, x2, width, points, input.shape[3], aligned)
        part = input[images[k], :, top : top + rows.shape[1], left : left + columns.shape[1]]
        result[k] = (rows @ part @ columns.T).transpose(1, 2, 0)
    return channels_last(result.transpose(0, 3, 1, 2))


def _resampling(start: float, stop: float, bins: int, points: int, size: int, aligned: bool) -> tuple[int, Any]:
    """Return the first pixel that a box reads in one direction, and the matrix (bins, pixels) of weights."""
    length = stop - start if aligned else max(stop - start, 1.0)
    count = points if points > 0 else max(math.ceil(length / bins), 0)
    if count > _MOST_SAMPLES:
        raise ValueError(f"roi_align: a box of {length:.4g} pixels is too large for {bins} bins")
    if count == 0:
        return 0, np.zeros((bins, 1), np.float32)
    at = start + (np.arange(bins)[:, None] + (np.arange(count) + 0.5) / count) * (length / bins)
    inside = (at >= -1) & (at <= size)
    at = np.clip(at, 0, size - 1)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    first = int(low.min())
    weights = np.zeros((bins, int(high.max()) - first + 1))
    rows = np.arange(bins)[:, None]
    np.add.at(weights, (rows, low - first), inside * (1 - (at - low)))
    np.add.at(weights, (rows, high - first), inside * (at - low))
    return first, (weights / count).astype(np.float32)
