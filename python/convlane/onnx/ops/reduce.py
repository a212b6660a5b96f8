"""Reductions along dimensions, and operators that search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convlane import functional as F
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import Untraceable, axis_of, in_numpy, integer, ints, is_array, known, number


def _reduction(op: str, numpy: Callable[..., Any], function: Callable[..., Any], inputs_since: int) -> None:
    """Register a reduction whose axes were an attribute at first, and are an input since a version."""

    def reduced(call: Call, x: Any, axes: tuple[int, ...] | None) -> Any:
        keep = bool(call.get("keepdims", 1))
        if not axes and call.get("noop_with_empty_axes", 0):
            if op in _WITH_A_FUNCTION:
                return _WITH_A_FUNCTION[op](x)
            return x
        dims = tuple(axis_of(axis, len(x.shape)) for axis in axes) if axes else tuple(range(len(x.shape)))
        if is_array(x) and (x.dtype != np.float32 or (x.size == 0 and op in ("ReduceMax", "ReduceMin"))):
            return _in_numpy(op, numpy, x, dims, keep)
        if op == "ReduceMean" and dims == (2, 3) and keep and len(x.shape) == 4:
            return F.adaptive_avg_pool2d(x, 1)
        return function(x, dims, keep) if dims else function(F.reshape(x, (1,)), (0,), False)

    @converts(op)
    def by_attribute(call: Call, x: Any) -> Any:
        return reduced(call, x, call.get("axes"))

    @converts(op, since=inputs_since)
    def by_input(call: Call, x: Any, axes: Any = None) -> Any:
        return reduced(call, x, None if axes is None else ints(axes, "axes"))


def _in_numpy(op: str, numpy: Callable[..., Any], x: Any, dims: tuple[int, ...], keep: bool) -> Any:
    with np.errstate(all="ignore"):
        if x.size == 0 and op in ("ReduceMax", "ReduceMin"):
            kind = x.dtype
            worst = (op == "ReduceMax") == (kind.kind != "b")
            if kind.kind == "f":
                worst = -np.inf if op == "ReduceMax" else np.inf
            elif kind.kind in "iu":
                worst = np.iinfo(kind).min if op == "ReduceMax" else np.iinfo(kind).max
            else:
                worst = op != "ReduceMax"
            return numpy(x, axis=dims, keepdims=keep, initial=worst)
        return np.asarray(numpy(x, axis=dims, keepdims=keep)).astype(x.dtype)


def _of_integers(before: Any, after: Any = None) -> Callable[..., Any]:
    """Return a sum of integers, with a function applied to the terms and one to the sum."""

    def reduced(x: Any, axis: Any, keepdims: bool) -> Any:
        total = np.sum(x if before is None else before(x), axis=axis, keepdims=keepdims)
        return total if after is None else after(total)

    return reduced


def _log_sum_exp(x: Any, dims: Any, keep: bool) -> Any:
    if 0 in x.shape:
        return F.log(F.sum(x, dims, keep))
    top = F.amax(x, dims, True)
    top = F.where(F.gt(F.abs(top), 3e38), 0.0, top)  # infinities stay what they are
    total = F.add(F.log(F.sum(F.exp(F.sub(x, top)), dims, True)), top)
    if keep:
        return total
    return F.reshape(total, tuple(size for axis, size in enumerate(x.shape) if axis not in dims))


_reduction("ReduceMax", np.max, F.amax, 18)
_reduction("ReduceMin", np.min, F.amin, 18)
_reduction("ReduceMean", np.mean, F.mean, 18)
_reduction("ReduceProd", np.prod, F.prod, 18)
_reduction("ReduceSum", np.sum, F.sum, 13)
_reduction("ReduceL1", _of_integers(np.abs), lambda x, dims, keep: F.sum(F.abs(x), dims, keep), 18)
_reduction(
    "ReduceL2", _of_integers(np.square, np.sqrt), lambda x, dims, keep: F.sqrt(F.sum(F.square(x), dims, keep)), 18
)
_reduction("ReduceLogSum", _of_integers(None, np.log), lambda x, dims, keep: F.log(F.sum(x, dims, keep)), 18)
_reduction("ReduceLogSumExp", _of_integers(np.exp, np.log), _log_sum_exp, 18)
_reduction("ReduceSumSquare", _of_integers(np.square), lambda x, dims, keep: F.sum(F.square(x), dims, keep), 18)

_WITH_A_FUNCTION: dict[str, Callable[[Any], Any]] = {
    "ReduceL1": F.abs,
    "ReduceL2": F.abs,
    "ReduceLogSum": F.log,
    "ReduceSumSquare": F.square,
}
"""Applied to each number where there are no axes and that means no reduction."""


def _arg_reduction(op: str, function: Callable[..., Any], numpy: Callable[..., Any]) -> None:
    @converts(op)
    def convert(call: Call, x: Any) -> Any:
        axis, keep = axis_of(call.get("axis", 0), len(x.shape)), bool(call.get("keepdims", 1))
        last = bool(call.get("select_last_index", 0))
        if in_numpy(x):
            turned = np.flip(x, axis) if last else x
            indices = numpy(turned, axis=axis, keepdims=keep)
            return x.shape[axis] - 1 - indices if last else indices
        if not last:
            return function(x, axis, keep)
        if is_array(x):
            return x.shape[axis] - 1 - function(F.flip(x, axis), axis, keep)
        turned = np.arange(x.shape[axis])[::-1].copy()
        indices = F.unsqueeze(function(F.flip(x, axis), axis, True), -1)
        ones = np.broadcast_to(turned, (*indices.shape[:-1], len(turned)))
        found = F.gather(ones, -1, indices)
        found = F.squeeze(found, -1)
        return found if keep else F.squeeze(found, axis)


_arg_reduction("ArgMax", F.argmax, np.argmax)
_arg_reduction("ArgMin", F.argmin, np.argmin)


def _top(call: Call, x: Any, k: int) -> Any:
    axis = axis_of(call.get("axis", -1), len(x.shape))
    largest = bool(call.get("largest", 1))
    if in_numpy(x):
        if k > x.shape[axis]:
            raise ValueError(f"k={k} is more than there are along dimension {axis} of shape {x.shape}")
        turned = np.flip(x, axis) if largest else x  # of equal ones the first comes first in both orders
        order = np.argsort(turned, axis=axis, kind="stable")
        order = x.shape[axis] - 1 - np.flip(order, axis) if largest else order
        indices = np.take(order, np.arange(k), axis=axis)
        return np.take_along_axis(x, indices, axis), indices.astype(np.int64)
    return F.topk(x, k, axis, largest)


@converts("TopK")
def _topk_by_attribute(call: Call, x: Any) -> Any:
    return _top(call, x, call.get("k"))


@converts("TopK", since=10)
def _topk(call: Call, x: Any, k: Any) -> Any:
    return _top(call, x, integer(k, "k"))


@converts("CumSum", since=11)
def _cumsum(call: Call, x: Any, axis: Any) -> Any:
    dim = axis_of(integer(axis, "axis"), len(x.shape))
    if in_numpy(x):
        turned = np.flip(x, dim) if call.get("reverse", 0) else x
        sums = np.cumsum(turned, dim, dtype=x.dtype)
        sums = sums - turned if call.get("exclusive", 0) else sums
        return np.flip(sums, dim) if call.get("reverse", 0) else sums
    turned = F.flip(x, dim) if call.get("reverse", 0) else x
    sums = F.cumsum(turned, dim)
    if call.get("exclusive", 0):
        before = F.narrow(sums, dim, 0, x.shape[dim] - 1)
        sums = F.pad(before, (*(0, 0) * (len(x.shape) - 1 - dim), 1, 0))
    return F.flip(sums, dim) if call.get("reverse", 0) else sums


@converts("CumProd", since=26)
def _cumprod(call: Call, x: Any, axis: Any) -> Any:
    dim = axis_of(integer(axis, "axis"), len(x.shape))
    turned = np.flip(known(x, "what it multiplies"), dim) if call.get("reverse", 0) else known(x, "what it multiplies")
    if call.get("exclusive", 0):
        turned = np.roll(turned, 1, dim)
        turned[(slice(None),) * dim + (slice(0, 1),)] = 1
    products = np.cumprod(turned, dim, dtype=x.dtype)
    return np.flip(products, dim) if call.get("reverse", 0) else products


@converts("NonZero", since=9)
def _nonzero(call: Call, x: Any) -> Any:
    if not is_array(x):
        raise Untraceable("how many numbers are not zero depends on the input")
    return np.array(np.nonzero(x), np.int64).reshape(x.ndim, -1)


@converts("Unique", since=11)
def _unique(call: Call, x: Any) -> Any:
    if not is_array(x):
        raise Untraceable("how many different numbers there are depends on the input")
    axis = call.get("axis")
    values, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not call.get("sorted", 1):
        order = np.argsort(first)
        values, first, counts = np.take(values, order, axis or 0), first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    return (values, first, inverse, counts)[: call.outputs]


@converts("NonMaxSuppression", since=10)
def _non_max_suppression(
    call: Call, boxes: Any, scores: Any, most: Any = None, overlap: Any = None, least: Any = None
) -> Any:
    if not (is_array(boxes) and is_array(scores)):
        raise Untraceable("how many boxes are left depends on the input")
    limit = 0 if most is None else integer(most, "max_output_boxes_per_class")
    threshold, floor = number(overlap, "iou_threshold", 0.0), number(least, "score_threshold")
    found = []
    for image, classes in enumerate(scores):
        corners = _corners(boxes[image].astype(np.float64), bool(call.get("center_point_box", 0)))
        for kind, values in enumerate(classes):
            found += [(image, kind, i) for i in _kept(corners, values, limit, threshold or 0.0, floor)]
    return np.array(found, np.int64).reshape(-1, 3)


def _corners(boxes: Any, centred: bool) -> Any:
    if centred:
        half = boxes[:, 2:] / 2
        return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _kept(corners: Any, scores: Any, limit: int, threshold: float, floor: float | None) -> list[int]:
    """Return the boxes that no better one overlaps too much, best first."""
    order = np.argsort(-scores, kind="stable")
    if floor is not None:
        order = order[scores[order] > floor]
    areas = np.prod(corners[:, 2:] - corners[:, :2], 1)
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        shared = np.minimum(corners[order, 2:], corners[best, 2:]) - np.maximum(corners[order, :2], corners[best, :2])
        common = np.prod(np.clip(shared, 0, None), 1)
        union = areas[order] + areas[best] - common
        with np.errstate(all="ignore"):
            order = order[~(common / union > threshold)]
    return kept
