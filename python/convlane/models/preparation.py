"""How pictures are prepared for published weights: the types for declaring it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypedDict


class Preparation(TypedDict, total=False):
    """What differs from the defaults of `convlane.data.Preprocessing`."""

    crop: int | None
    resize: int | None
    interpolation: str
    divisor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool


Preparations: TypeAlias = Mapping[str, Preparation]
"""Preparations by the source of the weights; see `convlane.data.preprocessing`."""

# From torchvision 0.28: for IMAGENET1K_V1; also for IMAGENET1K_V2; for IMAGENET1K_SWAG_LINEAR_V1; and for
# COCO_WITH_VOC_LABELS_V1.
TORCHVISION: Preparations = {"torchvision": {}}
TORCHVISION_V2: Preparations = {"torchvision": {}, "torchvision_v2": {"resize": 232}}
TORCHVISION_SWAG: Preparations = {"torchvision_swag": {"resize": 224, "interpolation": "bicubic"}}
TORCHVISION_VOC: Preparations = {"torchvision_voc": {"resize": 520, "crop": None}}

# Keras resizes the whole picture in load_img, by default with the nearest pixel; the rest is its preprocess_input.
WHOLE: Preparation = {"resize": None, "interpolation": "nearest"}
CAFFE: Preparation = {**WHOLE, "divisor": 1.0, "mean": (103.939, 116.779, 123.68), "std": (1.0, 1.0, 1.0), "bgr": True}
BOTH_SIGNS: Preparation = {**WHOLE, "divisor": 127.5, "mean": (1.0, 1.0, 1.0), "std": (1.0, 1.0, 1.0)}
