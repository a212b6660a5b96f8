"""Areas and overlaps of boxes, and the suppression of boxes of the same object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane._floats import quiet
from convlane.functional._arguments import Array, as_array, as_float, as_pair


@quiet
def box_area(boxes: Array) -> Array:
    """Return the area of each box.

    Parameters
    ----------
    boxes
        (N, 4).

    Returns
    -------
    numpy.ndarray
        (N,), in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import vision
    >>> vision.box_area(np.array([[0, 0, 2, 3]], np.float32))
    array([6.], dtype=float32)
    """
    boxes = as_boxes(boxes, "box_area", "boxes")
    area: Array = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


@quiet
def box_iou(boxes1: Array, boxes2: Array) -> Array:
    """Return the intersection over union for each pair of boxes.

    Parameters
    ----------
    boxes1, boxes2
        (N, 4) and (M, 4).

    Returns
    -------
    numpy.ndarray
        (N, M), from 0 to 1; NaN for two boxes without an area.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import vision
    >>> one, two = np.array([[0, 0, 2, 2]], np.float32), np.array([[1, 0, 3, 2], [5, 5, 6, 6]], np.float32)
    >>> vision.box_iou(one, two).round(3)
    array([[0.333, 0.   ]], dtype=float32)
    """
    boxes1, boxes2 = as_boxes(boxes1, "box_iou", "boxes1"), as_boxes(boxes2, "box_iou", "boxes2")
    return _iou(boxes1, boxes2, box_area(boxes1), box_area(boxes2))


@quiet
def clip_boxes(boxes: Array, size: tuple[int, int]) -> Array:
    """Return the boxes cut off at the borders of an image.

    Parameters
    ----------
    boxes
        (N, 4).
    size
        The height and width of the image.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import vision
    >>> vision.clip_boxes(np.array([[-3, 2, 70, 9]], np.float32), (8, 64))
    array([[ 0.,  2., 64.,  8.]], dtype=float32)
    """
    height, width = as_pair(size, "clip_boxes", "size")
    largest = np.array([width, height, width, height], np.float32)
    return np.clip(as_boxes(boxes, "clip_boxes", "boxes"), np.float32(0), largest)


@quiet
def nms(boxes: Array, scores: Array, iou_threshold: float) -> NDArray[np.int64]:
    """Drop the boxes that overlap a better box (non-maximum suppression) and return the indices of the others.

    The best box is kept, all boxes that overlap it by more than the threshold are dropped, and so on with the remaining
    boxes. Boxes with equal scores are taken in their order.

    Parameters
    ----------
    boxes
        (N, 4).
    scores
        (N,).
    iou_threshold
        The largest `box_iou` of two boxes that are both kept.

    Returns
    -------
    numpy.ndarray
        int64 (K,): the indices of the boxes that are kept, the best first.

    Raises
    ------
    TypeError
        If an argument is not such an array, or the threshold is not a number.
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import vision
    >>> boxes = np.array([[0, 0, 9, 10], [0, 0, 10, 10], [40, 0, 50, 10]], np.float32)
    >>> vision.nms(boxes, np.array([0.5, 0.6, 0.1], np.float32), 0.5)
    array([1, 2])
    """
    boxes, scores = _scored(boxes, scores, "nms")
    return _nms(boxes, scores, as_float(iou_threshold, "nms", "iou_threshold"))


@quiet
def batched_nms(boxes: Array, scores: Array, idxs: Any, iou_threshold: float) -> NDArray[np.int64]:
    """Apply `nms` to each class of boxes separately, so that boxes of different classes do not compete.

    Parameters
    ----------
    boxes, scores, iou_threshold
        As for `nms`.
    idxs
        Integers (N,): the class of each box.

    Returns
    -------
    numpy.ndarray
        int64 (K,): the indices of the boxes that are kept, the best first.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import vision
    >>> boxes = np.array([[0, 0, 9, 10], [0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    >>> vision.batched_nms(boxes, np.array([0.5, 0.6, 0.1], np.float32), [0, 0, 1], 0.5)
    array([1, 2])
    """
    boxes, scores = _scored(boxes, scores, "batched_nms")
    classes = np.asarray(idxs)
    if classes.dtype.kind not in "iu" and classes.size:
        raise TypeError(f"batched_nms: idxs must be integers, got {classes.dtype}")
    if classes.shape != scores.shape:
        raise ValueError(f"batched_nms: idxs must have shape {scores.shape}, got {classes.shape}")
    threshold = as_float(iou_threshold, "batched_nms", "iou_threshold")
    kept = [members[_nms(boxes[members], scores[members], threshold)] for members in _members(classes)]
    together = np.sort(np.concatenate([*kept, np.empty(0, np.int64)]))
    return together[np.argsort(-scores[together], kind="stable")]


def as_boxes(value: Any, op: str, name: str) -> Array:
    """Return boxes as float32 (N, 4)."""
    boxes = as_array(value, op, name)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{op}: {name} must be (N, 4), rows (x1, y1, x2, y2), got shape {boxes.shape}")
    return boxes


def _scored(boxes: Any, scores: Any, op: str) -> tuple[Array, Array]:
    boxes, scores = as_boxes(boxes, op, "boxes"), as_array(scores, op, "scores")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"{op}: scores must have shape {boxes.shape[:1]}, got {scores.shape}")
    return boxes, scores


def _members(classes: NDArray[np.integer[Any]]) -> list[NDArray[np.int64]]:
    """Return the indices of each class's members, in order."""
    order = np.argsort(classes, kind="stable")
    borders = np.flatnonzero(np.diff(classes[order])) + 1
    return [np.asarray(members, np.int64) for members in np.split(order, borders) if len(members)]


def _nms(boxes: Array, scores: Array, threshold: float) -> NDArray[np.int64]:
    order = np.argsort(-scores, kind="stable")
    areas = box_area(boxes)
    kept = []
    while len(order):
        best, others = order[0], order[1:]
        kept.append(best)
        overlap = _iou(boxes[best : best + 1], boxes[others], areas[best : best + 1], areas[others])[0]
        order = others[~(overlap > threshold)]
    return np.array(kept, np.int64)


def _iou(boxes1: Array, boxes2: Array, areas1: Array, areas2: Array) -> Array:
    with np.errstate(all="ignore"):  # 0 / 0 for empty boxes is NaN, which suppresses nothing
        first, last = np.maximum(boxes1[:, None, :2], boxes2[:, :2]), np.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
        shared = np.prod(np.maximum(last - first, 0), axis=2)
        ratio: Array = shared / (areas1[:, None] + areas2 - shared)
    return ratio
