"""Pooling over windows and over everything."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convlane import functional as F
from convlane.onnx.file import Node
from convlane.onnx.ops.window import flat, sides_of
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import Untraceable, bounded, ints, is_array, known
from convlane.vision import roi_align

_AVERAGE: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_CONV: dict[int, Callable[..., Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _window(call: Call, x: Any) -> tuple[Any, Any, list[tuple[int, int]], Any, bool]:
    kernel = tuple(call.get("kernel_shape", ()))
    axes = len(x.shape) - 2
    if len(kernel) != axes or axes not in _AVERAGE:
        raise ValueError(f"kernel_shape={kernel} does not fit the input's shape {tuple(x.shape)}")
    stride = tuple(call.get("strides") or (1,) * axes)
    dilation = tuple(call.get("dilations") or (1,) * axes)
    ceil = bool(call.get("ceil_mode", 0))
    return kernel, stride, sides_of(call, x.shape[2:], kernel, stride, dilation), dilation, ceil


def _outputs(size: int, pads: tuple[int, int], kernel: int, stride: int, dilation: int, ceil: bool) -> int:
    """Return the number of windows; none begins beyond the input and the padding before it."""
    room = size + sum(pads) - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if ceil else room // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + pads[0] else count


def _overhang(x: Any, kernel: Any, stride: Any, pads: Any, dilation: Any, ceil: bool) -> list[tuple[int, int]]:
    """Return the padding with which the last, overhanging windows are complete."""
    found = []
    for i, (before, behind) in enumerate(pads):
        size = x.shape[2 + i]
        count = _outputs(size, (before, behind), kernel[i], stride[i], dilation[i], ceil)
        reach = (count - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        found.append((before, reach - size - before))
    return found


def _window_sums(x: Any, kernel: Any, stride: Any, sides: Any, dilation: Any) -> Any:
    """Sum each window of each channel: a convolution with ones."""
    channels = x.shape[1]
    ones = np.ones((channels, 1, *kernel), np.float32)
    cut = [(min(a, 0), min(b, 0)) for a, b in sides]
    if any(map(any, cut)):
        x = F.pad(x, [side for pair in reversed(cut) for side in pair])
    return _CONV[len(kernel)](
        x, ones, None, stride, flat([(max(a, 0), max(b, 0)) for a, b in sides]), dilation, channels
    )


def _is_torch_like(kernel: Any, pads: Any, dilation: Any) -> bool:
    return all(d == 1 for d in dilation) and all(0 <= max(pair) <= k // 2 for pair, k in zip(pads, kernel, strict=True))


@converts("AveragePool")
def _average_pool(call: Call, x: Any) -> Any:
    kernel, stride, pads, dilation, ceil = _window(call, x)
    counted = bool(call.get("count_include_pad", 0))
    if _is_torch_like(kernel, pads, dilation):
        return _AVERAGE[len(kernel)](x, kernel, stride, flat(pads), ceil, counted)
    sides = _overhang(x, kernel, stride, pads, dilation, ceil)
    sums = _window_sums(x, kernel, stride, sides, dilation)
    inside = np.ones((1, 1, *x.shape[2:]), np.float32)
    if counted:  # what hangs over the padding counts nothing
        inside = np.pad(inside, [(0, 0), (0, 0), *pads], constant_values=1)
        sides = [(0, behind - pad[1]) for (_, behind), pad in zip(sides, pads, strict=True)]
    counts = np.ascontiguousarray(_window_sums(inside, kernel, stride, sides, dilation))
    return F.div(sums, counts)


@converts("LpPool")
def _lp_pool(call: Call, x: Any) -> Any:
    kernel, stride, pads, dilation, ceil = _window(call, x)
    p = float(call.get("p", 2))
    sides = _overhang(x, kernel, stride, pads, dilation, ceil)
    powers = F.square(x) if p == 2 else F.abs(x) if p == 1 else F.pow(F.abs(x), p)
    sums = _window_sums(powers, kernel, stride, sides, dilation)
    return sums if p == 1 else F.sqrt(sums) if p == 2 else F.pow(sums, 1 / p)


@converts("MaxPool")
def _max_pool(call: Call, x: Any) -> Any:
    if is_array(x) and x.dtype != np.float32:
        return _max_pool(call, x.astype(np.float32)).astype(x.dtype)
    kernel, stride, pads, dilation, ceil = _window(call, x)
    pool = _MAXIMUM[len(kernel)]
    if not all(max(pair) <= k // 2 for pair, k in zip(pads, kernel, strict=True)):
        x = F.pad(x, [side for pair in reversed(pads) for side in pair], value=-math.inf)
        pads = [(0, 0)] * len(kernel)
    if call.outputs < 2:
        return pool(x, kernel, stride, flat(pads), dilation, ceil)
    values, indices = pool(x, kernel, stride, flat(pads), dilation, ceil, True)
    if not is_array(indices):
        raise Untraceable("the maxima's indices in the whole batch depend on the input")
    return values, _in_whole(indices, x.shape, bool(call.get("storage_order", 0)))


def _in_whole(indices: Any, shape: Any, columns_first: bool) -> Any:
    """Return indices into all planes together, given those into each."""
    if columns_first:
        at = np.unravel_index(indices, shape[2:])
        indices = np.ravel_multi_index(at[::-1], shape[:1:-1])
    planes = np.arange(math.prod(shape[:2])).reshape(*shape[:2], *(1,) * (len(shape) - 2))
    return indices + planes * math.prod(shape[2:])


@converts("MaxUnpool", since=9)
def _max_unpool(call: Call, x: Any, indices: Any, shape: Any = None) -> Any:
    kernel = call.get("kernel_shape")
    stride = call.get("strides") or (1,) * len(kernel)
    pads = call.get("pads") or (0,) * 2 * len(kernel)
    axes = len(kernel)
    natural = [(x.shape[2 + i] - 1) * stride[i] + kernel[i] - pads[i] - pads[axes + i] for i in range(axes)]
    values, at = known(x, "its input"), known(indices, "its argument I")
    y = np.zeros(bounded((*x.shape[:2], *natural) if shape is None else ints(shape, "output_shape")), np.float32)
    y.reshape(-1)[at.reshape(-1)] = values.reshape(-1)
    return y


def _rest(x: Any) -> tuple[int, ...]:
    return tuple(range(2, len(x.shape)))


@converts("GlobalAveragePool")
def _global_average_pool(call: Call, x: Any) -> Any:
    return F.adaptive_avg_pool2d(x, 1) if len(x.shape) == 4 else F.mean(x, _rest(x), True)


@converts("GlobalMaxPool")
def _global_max_pool(call: Call, x: Any) -> Any:
    return F.adaptive_max_pool2d(x, 1) if len(x.shape) == 4 else F.amax(x, _rest(x), True)


@converts("GlobalLpPool")
def _global_lp_pool(call: Call, x: Any) -> Any:
    p = float(call.get("p", 2))
    sums = F.sum(F.pow(F.abs(x), p), _rest(x), True)
    return F.pow(sums, 1 / p)


def _rounded(number: float) -> int:
    """Round as C does: halves away from zero."""
    return int(math.copysign(math.floor(abs(number) + 0.5), number))


def _refuse_roi_align(node: Node) -> str:
    return "mode=max is not computed" if node.attributes.get("mode", "avg") != "avg" else ""


@converts("RoiAlign", since=10, refuse=_refuse_roi_align)
def _roi_align(call: Call, x: Any, rois: Any, images: Any) -> Any:
    values, boxes = known(x, "its input"), known(rois, "the boxes")
    default = "half_pixel" if call.node.opset >= 16 else "output_half_pixel"
    rows = np.column_stack([known(images, "the boxes").astype(np.float32), boxes])
    size = (call.get("output_height", 1), call.get("output_width", 1))
    scale, points = call.get("spatial_scale", 1.0), call.get("sampling_ratio", 0)
    aligned = call.get("coordinate_transformation_mode", default) == "half_pixel"
    return roi_align(values, rows, size, scale, points, aligned)


@converts("MaxRoiPool")
def _max_roi_pool(call: Call, x: Any, rois: Any) -> Any:
    values, boxes = known(x, "its input"), known(rois, "the boxes")
    height, width = call.get("pooled_shape")
    scale = call.get("spatial_scale", 1.0)
    y = np.zeros((len(boxes), values.shape[1], height, width), np.float32)
    for i, (image, *corners) in enumerate(boxes):
        left, top, right, bottom = (_rounded(corner * np.float32(scale)) for corner in corners)
        tall, wide = max(bottom - top + 1, 1) / height, max(right - left + 1, 1) / width
        for r in range(height):
            for c in range(width):
                rows = [
                    min(max(edge + top, 0), values.shape[2])
                    for edge in (math.floor(r * tall), math.ceil((r + 1) * tall))
                ]
                columns = [
                    min(max(edge + left, 0), values.shape[3])
                    for edge in (math.floor(c * wide), math.ceil((c + 1) * wide))
                ]
                part = values[int(image), :, rows[0] : rows[1], columns[0] : columns[1]]
                if part.size:
                    y[i, :, r, c] = part.max((1, 2))
    return y
