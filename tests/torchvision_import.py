"""torchvision beside the CPU build of torch."""

import functools
import importlib


@functools.cache
def import_torchvision():
    """Import torchvision, whose compiled operators do not load beside torch's CPU build.

    Its Python part only needs the schemas of two of them to exist.
    """
    import torch

    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
