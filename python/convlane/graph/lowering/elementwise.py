"""Activations, and channels times factors."""

from __future__ import annotations

from convlane.functional._op import ACTIVATIONS
from convlane.graph.lowering.context import Context, lowers


@lowers("scale")
def _scale(at: Context) -> None:
    at.append("scale")


@lowers(*sorted(ACTIVATIONS))
def _activation(at: Context) -> None:
    slope = float(at.node.attributes.get("negative_slope", 0.0))
    at.append("activation", activation=at.node.op, negative_slope=slope)
