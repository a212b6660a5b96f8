"""Resampling of images."""

from __future__ import annotations

from collections.abc import Mapping

from convlane.functional.resize import tables_of
from convlane.graph.lowering.context import Context, lowers
from convlane.graph.trace import Node, Value


def _refuse(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "" if len(node.shape) == 4 else f"resize of {len(node.shape)} dimensions"


@lowers("resize", refuse=_refuse)
def _resize(at: Context) -> None:
    _, height, width = tables_of(at.input, **at.node.attributes)
    weights = {
        "height_index": height[0],
        "height_weight": height[1],
        "width_index": width[0],
        "width_weight": width[1],
    }
    at.append("resize", weights=weights)
