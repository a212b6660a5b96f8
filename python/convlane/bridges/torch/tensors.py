"""Tensors to arrays and back, in the same memory where that is possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_AS_INT64 = (torch.int32, torch.int16, torch.int8, torch.uint8)

INTEGERS = (torch.int64, *_AS_INT64)


def to_numpy(tensor: Any) -> Any:
    """Return a tensor as an array of float32, int64 or bool: in the same memory where it is of one of these."""
    tensor = tensor.detach()
    if tensor.dtype in _AS_INT64:
        tensor = tensor.to(torch.int64)
    elif tensor.dtype.is_floating_point and tensor.dtype != torch.float32:
        tensor = tensor.float()
    return tensor.cpu().resolve_neg().numpy()


def to_tensor(array: Any) -> Any:
    """Return an array as a tensor: in the same memory where torch can have it, strides and all."""
    array = np.asarray(array)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)
