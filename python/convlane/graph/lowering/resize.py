"""Resampling of signals, images and volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convlane.functional.resize import tables_of
from convlane.graph.lowering.context import Context, OfBatch, lowers
from convlane.graph.trace import Node, Value


@lowers("resize")
def _resize(at: Context) -> None:
    weights: dict[str, Any] = {}
    for name, (index, weight) in zip(
        ("depth", "height", "width"), tables_of(at.input, **at.node.attributes), strict=True
    ):
        weights |= {f"{name}_index": index, f"{name}_weight": weight}
    at.append("resize", weights=weights)


def _refuse_grid_sample(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "" if node.shape[0] == 1 else OfBatch("grid_sample of shapes whose batches do not broadcast")


@lowers("grid_sample", refuse=_refuse_grid_sample, any_argument=True)
def _grid_sample(at: Context) -> None:
    at.append(
        "grid_sample",
        [at.inputs["input"], at.inputs["grid"]],
        mode=at["mode"],
        padding_mode=at["padding_mode"],
        align_corners=bool(at["align_corners"]),
    )
