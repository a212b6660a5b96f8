"""Anchors, which are the boxes that detectors refine, and the encoding of the refinements that networks predict.

Ren, He, Girshick and Sun, Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from convlane._floats import quiet
from convlane.functional._arguments import Array, as_float, as_pair
from convlane.vision.boxes import as_boxes

_LARGEST_GROWTH = math.log(1000 / 16)  # as in torchvision's BoxCoder, so that exp does not overflow


@quiet
def anchor_boxes(
    feature_size: tuple[int, int],
    stride: int | tuple[int, int],
    sizes: Sequence[float],
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> Array:
    """Return the anchors of one feature map: at each position, boxes of all sizes and aspect ratios.

    The anchors are those of torchvision's ``AnchorGenerator``: an anchor of size s and aspect ratio r (height over
    width) is ``s * sqrt(r)`` high and ``s / sqrt(r)`` wide; halves of the sides are rounded to whole pixels.

    Parameters
    ----------
    feature_size
        The height and width of the feature map.
    stride
        The number of image pixels between positions of the map, vertically and horizontally.
    sizes
        Sizes in pixels, the square roots of the anchors' areas.
    aspect_ratios
        Height divided by width.

    Returns
    -------
    numpy.ndarray
        float32 (H * W * R * S, 4) for R ratios and S sizes: positions row by row, at each position the ratios, and for
        each ratio the sizes. A network's map for these anchors has its channels in that order.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number, or not positive.

    Examples
    --------
    >>> from convlane import vision
    >>> vision.anchor_boxes((1, 2), 16, sizes=[32], aspect_ratios=[1.0])
    array([[-16., -16.,  16.,  16.],
           [  0., -16.,  32.,  16.]], dtype=float32)
    """
    height, width = as_pair(feature_size, "anchor_boxes", "feature_size")
    down, right = as_pair(stride, "anchor_boxes", "stride")
    scales, ratios = _positive(sizes, "sizes"), _positive(aspect_ratios, "aspect_ratios")
    if min(height, width, down, right) < 1:
        raise ValueError(f"anchor_boxes: feature_size and stride must be at least 1, got {feature_size} and {stride}")
    heights = (np.sqrt(ratios)[:, None] * scales).reshape(-1)
    widths = (1 / np.sqrt(ratios)[:, None] * scales).reshape(-1)
    anchors = np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2)
    y, x = np.meshgrid(np.arange(height) * down, np.arange(width) * right, indexing="ij")
    shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (shifts + anchors).reshape(-1, 4).astype(np.float32)


@quiet
def encode_boxes(boxes: Array, anchors: Array, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Array:
    """Return how the anchors have to move and grow to become the boxes, which a network is trained to predict.

    For centres (x, y), widths w and heights h, these are ``(x - xa) / wa, (y - ya) / ha, log(w / wa), log(h / ha)``,
    times the weights.

    Parameters
    ----------
    boxes, anchors
        (N, 4), with positive widths and heights.
    weights
        One number for each column.

    Returns
    -------
    numpy.ndarray
        float32 (N, 4).

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import vision
    >>> anchors = np.array([[0, 0, 10, 10]], np.float32)
    >>> vision.encode_boxes(np.array([[5, 0, 15, 20]], np.float32), anchors).round(3)
    array([[0.5  , 0.5  , 0.   , 0.693]], dtype=float32)
    """
    boxes, anchors = _fitting(boxes, anchors, "encode_boxes", "boxes")
    centre, size = _centres(boxes)
    anchor_centre, anchor_size = _centres(anchors)
    with np.errstate(all="ignore"):
        moved = np.concatenate([(centre - anchor_centre) / anchor_size, np.log(size / anchor_size)], axis=1)
    return moved * _weights(weights, "encode_boxes")


@quiet
def decode_boxes(deltas: Array, anchors: Array, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Array:
    """Return the boxes that a network predicts: the inverse of `encode_boxes`.

    A box grows by a factor of at most 62.5, as in torchvision.

    Parameters
    ----------
    deltas
        (N, 4), as returned by `encode_boxes`.
    anchors, weights
        As for `encode_boxes`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import vision
    >>> anchors = np.array([[0, 0, 10, 10]], np.float32)
    >>> vision.decode_boxes(np.array([[0.5, 0.5, 0, np.log(2)]], np.float32), anchors)
    array([[ 5.,  0., 15., 20.]], dtype=float32)
    """
    deltas, anchors = _fitting(deltas, anchors, "decode_boxes", "deltas")
    centre, size = _centres(anchors)
    moves = deltas / _weights(weights, "decode_boxes")
    centre = centre + moves[:, :2] * size
    half = 0.5 * size * np.exp(np.minimum(moves[:, 2:], np.float32(_LARGEST_GROWTH)))
    return np.concatenate([centre - half, centre + half], axis=1)


def _centres(boxes: Array) -> tuple[Array, Array]:
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * size, size


def _fitting(boxes: Array, anchors: Array, op: str, name: str) -> tuple[Array, Array]:
    boxes, anchors = as_boxes(boxes, op, name), as_boxes(anchors, op, "anchors")
    if boxes.shape != anchors.shape:
        raise ValueError(f"{op}: there must be as many {name} as anchors, got {len(boxes)} and {len(anchors)}")
    return boxes, anchors


def _weights(weights: Sequence[float], op: str) -> Array:
    if len(weights) != 4:
        raise ValueError(f"{op}: weights must be four numbers, got {weights!r}")
    return np.array([as_float(weight, op, "weights") for weight in weights], np.float32)


def _positive(values: Sequence[float], name: str) -> Array:
    numbers = [as_float(value, "anchor_boxes", name) for value in values]
    if not numbers or not all(number > 0 for number in numbers):
        raise ValueError(f"anchor_boxes: {name} must be positive numbers, got {values!r}")
    return np.array(numbers, np.float32)
