"""Resampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convlane import functional as F
from convlane.functional.resize import COORDINATES, nearest_inputs
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import Untraceable, as_many, axis_of, bounded, floats, ints, is_array, is_float

_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}


def _resampled(
    call: Call,
    x: Any,
    sizes: list[int],
    scales: list[float],
    coordinates: str,
    rounding: str,
    roi: tuple[float, ...] = (),
) -> Any:
    ndim = len(x.shape)
    mode = _MODES.get(call.get("mode", "nearest"))
    bounded(sizes)
    if mode is None:
        raise ValueError(f"mode={call.get('mode')!r} is not known")
    options = {
        "cubic_a": call.get("cubic_coeff_a", -0.75),
        "exclude_outside": bool(call.get("exclude_outside", 0)),
        "antialias": bool(call.get("antialias", 0)),
        "divide": True,
    }
    changed = [axis for axis in range(ndim) if sizes[axis] != x.shape[axis] or scales[axis] != 1]
    if not changed and coordinates != "tf_crop_and_resize":
        return x
    plain = coordinates in COORDINATES and 3 <= ndim <= 5 and not {0, 1} & {*changed} and is_float(x)
    if plain:
        return F.resize(x, sizes[2:], mode, coordinates, scales=scales[2:], rounding=rounding, **options)
    if is_float(x) and coordinates in COORDINATES and ndim >= 2:
        return _by_view(x, sizes, scales, changed, mode, coordinates, rounding, options)
    if not is_array(x):
        raise Untraceable(
            f"resizing with {coordinates} has no counterpart in plans, and what it resizes depends on the input"
        )
    return _in_numpy(call, x, sizes, scales, mode, coordinates, rounding, roi)


def _by_view(
    x: Any, sizes: Any, scales: Any, changed: Any, mode: str, coordinates: str, rounding: str, options: Any
) -> Any:
    """Resample axes of an array of any rank one by one, as signals."""
    for axis in changed:
        before, behind = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
        shape = (*x.shape[:axis], sizes[axis], *x.shape[axis + 1 :])
        rows = F.reshape(x, (before, x.shape[axis], behind))
        rows = F.permute(rows, (0, 2, 1))
        y = F.resize(rows, [sizes[axis]], mode, coordinates, scales=[scales[axis]], rounding=rounding, **options)
        x = F.reshape(F.permute(y, (0, 2, 1)), shape)
    return x


def _in_numpy(call: Call, x: Any, sizes: Any, scales: Any, mode: str, coordinates: str, rounding: str, roi: Any) -> Any:
    """Resample by each axis' matrix: integers, and parts of a picture that may reach beyond it."""
    y = x.astype(np.float64)
    outside = np.zeros(tuple(sizes), bool)
    for axis, (size, after, scale) in enumerate(zip(x.shape, sizes, scales, strict=True)):
        if coordinates == "tf_crop_and_resize":
            begin, end = roi[axis], roi[axis + x.ndim]
            step = (end - begin) * (size - 1) / (after - 1) if after > 1 else 0.0
            first = begin * (size - 1) if after > 1 else (begin + end) * (size - 1) / 2
            at = first + np.arange(after) * step
            beyond = (at < 0) | (at > size - 1)
            outside |= beyond.reshape(-1, *(1,) * (x.ndim - 1 - axis))
        elif mode == "nearest":
            y = np.take(y, nearest_inputs(size, after, scale, coordinates, rounding), axis) if scale != 1 else y
            continue
        else:
            at = _input_coordinates(coordinates, np.arange(after), size, after, scale)
        if size == after and np.array_equal(at, np.arange(size)):
            continue
        matrix = _matrix(
            mode, at, size, rounding, call.get("cubic_coeff_a", -0.75), bool(call.get("exclude_outside", 0))
        )
        y = np.moveaxis(np.tensordot(matrix, y, (1, axis)), 0, axis)
    if coordinates == "tf_crop_and_resize":
        y[outside] = call.get("extrapolation_value", 0.0)
    return (np.round(y) if x.dtype.kind in "iu" and mode != "nearest" else y).astype(x.dtype)


def _input_coordinates(coordinates: str, i: Any, size: int, after: int, scale: float) -> Any:
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "align_corners":
        return i * (size - 1) / (after - 1) if after > 1 else 0.0 * i
    if coordinates == "pytorch_half_pixel" and after == 1:
        return -0.5 + 0.0 * i
    if coordinates == "half_pixel_symmetric":
        adjust = after / (scale * size)
        return size / 2 * (1 - adjust) + (i + 0.5) / scale - 0.5
    if coordinates == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    return (i + 0.5) / scale - 0.5


def _matrix(mode: str, at: Any, size: int, rounding: str, a: float, exclude: bool) -> Any:
    """Return the weights of inputs (columns) in outputs (rows)."""
    matrix = np.zeros((len(at), size))
    rows = np.arange(len(at))
    if mode == "nearest":
        rule: Any = {
            "round_prefer_floor": lambda p: np.ceil(p - 0.5),
            "round_prefer_ceil": lambda p: np.floor(p + 0.5),
            "floor": np.floor,
            "ceil": np.ceil,
        }[rounding]
        matrix[rows, np.clip(rule(at), 0, size - 1).astype(int)] = 1
        return matrix
    reach = 1 if mode == "linear" else 2
    base = np.floor(at).astype(int)
    for offset in range(1 - reach, reach + 1):
        near = base + offset
        d = np.abs(at - near)
        if mode == "linear":
            weight = np.clip(1 - d, 0, None)
        else:
            inner = ((a + 2) * d - (a + 3)) * d * d + 1
            weight = np.where(d <= 1, inner, np.where(d < 2, (((d - 5) * d + 8) * d - 4) * a, 0))
        if exclude:
            weight = np.where((near < 0) | (near >= size), 0, weight)
        np.add.at(matrix, (rows, np.clip(near, 0, size - 1)), weight)
    return matrix / matrix.sum(1, keepdims=True) if exclude else matrix


def _by_factors(x: Any, scales: Any) -> list[int]:
    """Return the sizes that scales give; the product is float32, in which 0.7 times 10 is 7 and not less."""
    as_many("scales", scales, len(x.shape))
    if not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must be positive numbers, got {tuple(scales)}")
    return [math.floor(np.float32(size) * np.float32(scale)) for size, scale in zip(x.shape, scales, strict=True)]


def _float32(scales: Any) -> list[float]:
    return [float(np.float32(scale)) for scale in scales]


@converts("Upsample")
def _upsample_1(call: Call, x: Any) -> Any:
    scales = (1.0, 1.0, call.get("height_scale", 1.0), call.get("width_scale", 1.0))
    return _upsampled(call, x, scales)


@converts("Upsample", since=7)
def _upsample_by_attribute(call: Call, x: Any) -> Any:
    return _upsampled(call, x, call.get("scales"))


@converts("Upsample", since=9)
def _upsample(call: Call, x: Any, scales: Any) -> Any:
    return _upsampled(call, x, floats(scales, "its scales"))


def _upsampled(call: Call, x: Any, scales: Any) -> Any:
    scales = _float32(scales)
    return _resampled(call, x, _by_factors(x, scales), scales, "asymmetric", "floor")


@converts("Resize", since=10)
def _resize_10(call: Call, x: Any, scales: Any) -> Any:
    factors = _float32(floats(scales, "its scales"))
    if call.get("mode", "nearest") != "nearest":
        return _resampled(call, x, _by_factors(x, factors), factors, "asymmetric", "floor")
    # This version does not say which input is the nearest; its tests, and ONNX Runtime, round up where axes shrink.
    shrinking, growing = [min(each, 1.0) for each in factors], [max(each, 1.0) for each in factors]
    for part, rounding in ((shrinking, "ceil"), (growing, "floor")):
        x = _resampled(call, x, _by_factors(x, part), part, "asymmetric", rounding)
    return x


@converts("Resize", since=11)
def _resize(call: Call, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    ndim = len(x.shape)
    axes = [axis_of(axis, ndim) for axis in call.get("axes") or range(ndim)]
    whole: list[float] = [1.0] * ndim
    wanted = list(x.shape)
    if scales is not None and math.prod(scales.shape):
        for axis, factor in zip(axes, _float32(as_many("scales", floats(scales, "scales"), len(axes))), strict=True):
            whole[axis] = factor
        wanted = _by_factors(x, whole)
    elif sizes is not None and math.prod(sizes.shape):
        given = dict(zip(axes, as_many("sizes", ints(sizes, "sizes"), len(axes)), strict=True))
        whole, wanted = _by_sizes(x, given, call.get("keep_aspect_ratio_policy", "stretch"))
    else:
        raise ValueError("it has neither scales nor sizes")
    coordinates = call.get("coordinate_transformation_mode", "half_pixel")
    region = [0.0] * ndim + [1.0] * ndim
    if coordinates == "tf_crop_and_resize" and roi is not None:
        bounds = floats(roi, "roi")
        for i, axis in enumerate(axes):
            region[axis], region[ndim + axis] = bounds[i], bounds[len(axes) + i]
    rounding = call.get("nearest_mode", "round_prefer_floor")
    return _resampled(call, x, wanted, whole, coordinates, rounding, tuple(region))


def _by_sizes(x: Any, given: dict[int, int], policy: str) -> tuple[list[float], list[int]]:
    """Return scales and sizes, where the sizes may be bounds of a picture that keeps its proportions."""
    if any(x.shape[axis] == 0 != size for axis, size in given.items()):
        raise ValueError(f"shape {tuple(x.shape)} is empty where it is to have the sizes {tuple(given.values())}")
    factors = {axis: size / x.shape[axis] if size else 1.0 for axis, size in given.items()}
    if policy != "stretch":
        one = (min if policy == "not_larger" else max)(factors.values())
        factors = dict.fromkeys(given, one)
        given = {axis: math.floor(x.shape[axis] * one + 0.5) for axis in given}
    whole = [factors.get(axis, 1.0) for axis in range(len(x.shape))]
    return whole, [given.get(axis, size) for axis, size in enumerate(x.shape)]


@converts("AffineGrid", since=20)
def _affine_grid(call: Call, theta: Any, size: Any) -> Any:
    return F.affine_grid(theta, bounded(ints(size, "its size")), bool(call.get("align_corners", 0)))


@converts("GridSample", since=16)
def _grid_sample(call: Call, x: Any, grid: Any) -> Any:
    mode = call.get("mode", "linear" if call.node.opset >= 20 else "bilinear")
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    padding, corners = call.get("padding_mode", "zeros"), bool(call.get("align_corners", 0))
    return F.grid_sample(x, grid, modes.get(mode, mode), padding, corners)
