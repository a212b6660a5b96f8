"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Mapping

from convlane.graph.lowering.context import Choice, Context, lowers
from convlane.graph.trace import Node, Value


def _refuse(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "" if len(node.shape) == 2 else f"linear on {len(node.shape)} dimensions"


@lowers("linear", refuse=_refuse)
def _linear(at: Context) -> Choice:
    at.append(
        "linear",
        activation=at["activation"],
        negative_slope=float(at["negative_slope"]),
        weights={"weight": at.packer.pack(at["weight"]), "bias": at["bias"]},
    )
    return Choice("panels", "one pass over the weight")
