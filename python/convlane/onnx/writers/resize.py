"""Resampling."""

from __future__ import annotations

from typing import Any

from convlane.onnx.writers._register import Call, writes


@writes("resize")
def _resize(call: Call) -> str:
    mode = call["mode"]
    if mode == "area":
        raise call.refuse("for mode 'area'")
    shape = call.shape()
    axes = list(range(2, len(shape)))
    attributes: dict[str, Any] = {
        "axes": axes,
        "mode": mode,
        "coordinate_transformation_mode": call["coordinates"],
        "nearest_mode": call["rounding"],
        "cubic_coeff_a": float(call["cubic_a"]),
        "exclude_outside": int(bool(call["exclude_outside"])),
        "antialias": int(bool(call["antialias"])),
    }
    if call["scales"] is not None:
        scales = [float(scale) for scale in call["scales"]]
        if tuple(int(shape[2 + i] * scale) for i, scale in enumerate(scales)) == tuple(call.node.shape[2:]):
            return call.emit("Resize", call.name("input"), "", call.floats(*scales), **attributes)
        raise call.refuse("where sizes do not follow from the scales")
    return call.emit("Resize", call.name("input"), "", "", call.integers(call.node.shape[2:]), **attributes)


@writes("grid_sample")
def _grid_sample(call: Call) -> str:
    attributes = {"padding_mode": call["padding_mode"], "align_corners": int(bool(call["align_corners"]))}
    return call.emit("GridSample", call.name("input"), call.name("grid"), mode=call["mode"], **attributes)
