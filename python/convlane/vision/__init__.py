"""Functions that detectors need besides their network, for boxes and features of boxes, on NumPy arrays.

Boxes are rows (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, in pixels, float32. Names, argument order and numerics are
those of ``torchvision.ops``.

>>> import numpy as np
>>> from convlane import vision
>>> boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], np.float32)
>>> vision.nms(boxes, np.array([0.9, 0.8, 0.7], np.float32), iou_threshold=0.5)
array([0, 2])
"""

from convlane.vision.anchors import anchor_boxes, decode_boxes, encode_boxes
from convlane.vision.boxes import batched_nms, box_area, box_iou, clip_boxes, nms
from convlane.vision.roi_align import roi_align

__all__ = [
    "anchor_boxes",
    "batched_nms",
    "box_area",
    "box_iou",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "nms",
    "roi_align",
]
