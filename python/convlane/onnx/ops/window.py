"""Windows of convolutions and pooling as ONNX describes them: padding by numbers, or by a named rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convlane.onnx.registry import Call
from convlane.onnx.values import as_many


def sides_of(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the padding before and behind each axis."""
    axes, auto = len(sizes), call.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        given = as_many("pads", call.get("pads") or (0,) * 2 * axes, 2 * axes)
        return list(zip(given[:axes], given[axes:], strict=True))
    if auto == "VALID":
        return [(0, 0)] * axes
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad={auto!r} is not known")
    found = []
    for size, extent, step, apart in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // step) - 1) * step + apart * (extent - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return found


def flat(pads: Any) -> tuple[int, ...]:
    """Return padding as `convlane.functional` takes it: before and behind each axis in turn."""
    return tuple(side for pair in pads for side in pair)
