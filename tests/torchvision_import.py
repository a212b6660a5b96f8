"""Import torchvision with the CPU build of torch."""

import functools
import importlib


@functools.cache
def import_torchvision():
    """Import torchvision, whose compiled operators cannot be loaded with torch's CPU build.

    Its Python part needs only the schemas of two of them.
    """
    import torch

    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
