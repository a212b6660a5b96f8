"""Transposed convolutions."""

from __future__ import annotations

from collections.abc import Mapping

from convlane import _core
from convlane.functional.conv_transpose import conv_transpose2d_geometry
from convlane.graph.lowering.context import Choice, Context, lowers
from convlane.graph.trace import Node, Value


def _refuse(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "" if len(node.shape) == 4 else "conv_transpose2d of one image without a batch"


@lowers("conv_transpose2d", refuse=_refuse)
def _conv_transpose2d(at: Context) -> Choice:
    geometry = _geometry(at, at.shape)
    choice = Choice(at["algorithm"], "asked for")
    if choice.algorithm == "auto":
        # Chosen by one image's shape, so that a result does not depend on the batch.
        name = _core.cheapest_conv_transpose2d(_geometry(at, (1, *at.shape[1:])), at.winograd)
        reasons = {"windows": "few output channels", "phases": f"stride {geometry.stride[0]}x{geometry.stride[1]}"}
        choice = Choice(name, reasons.get(name, "a convolution with the filters turned around"))
    stride, dilation, groups = geometry.stride, geometry.dilation, geometry.groups
    at.append(
        "conv_transpose2d",
        geometry=geometry,
        activation=at["activation"],
        negative_slope=float(at["negative_slope"]),
        weights={
            "weight": at.packer.pack_transposed(at["weight"], stride, dilation, groups, choice.algorithm),
            "bias": at["bias"],
        },
    )
    return choice


def _geometry(at: Context, image: tuple[int, ...]) -> _core.Conv2dGeometry:
    return conv_transpose2d_geometry(
        image, at["weight"].shape, at["stride"], at["padding"], at["output_padding"], at["groups"], at["dilation"]
    )
