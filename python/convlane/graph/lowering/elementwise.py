"""Sums, products, activations, and softmax over channels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from convlane.functional._op import ACTIVATIONS
from convlane.functional.elementwise import is_channel_vector
from convlane.graph.lowering.context import Context, lowers
from convlane.graph.trace import Node, Value


def _refuse_broadcast(node: Node, nodes: Mapping[Value, Node]) -> str:
    """Two arrays have one shape, or the second of a product has one factor for each channel of the first."""
    if set(node.inputs) == {"input", "other"}:
        shape, other = nodes[node.inputs["input"]].shape, nodes[node.inputs["other"]].shape
        if shape == other or (node.op == "mul" and is_channel_vector(shape, other)):
            return ""
    return f"{node.op} of other shapes than one"


@lowers("add", refuse=_refuse_broadcast)
def _add(at: Context) -> None:
    at.append("add", activation=at["activation"], negative_slope=float(at["negative_slope"]))


@lowers("mul", refuse=_refuse_broadcast)
def _mul(at: Context) -> None:
    at.append("multiply" if math.prod(at.inputs["other"].shape) == math.prod(at.shape) else "scale")


@lowers("scale")
def _scale(at: Context) -> None:
    at.append("scale")


@lowers(*sorted(ACTIVATIONS))
def _activation(at: Context) -> None:
    slope = float(at.node.attributes.get("negative_slope", 0.0))
    at.append("activation", activation=at.node.op, negative_slope=slope)


def _refuse_softmax(node: Node, nodes: Mapping[Value, Node]) -> str:
    over_channels = node.attributes["dim"] % len(node.shape) == 1
    return "" if over_channels else f"{node.op} over other dimensions than the channels"


@lowers("log_softmax", "softmax", refuse=_refuse_softmax)
def _softmax(at: Context) -> None:
    at.append("softmax", log=at.node.op == "log_softmax")
