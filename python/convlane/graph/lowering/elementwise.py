"""Activations, and scaling of channels."""

from __future__ import annotations

from convlane.functional._arguments import as_array
from convlane.functional._op import ACTIVATIONS
from convlane.functional.activation import slopes
from convlane.graph.lowering.context import Context, lowers


@lowers("scale")
def _scale(at: Context) -> None:
    at.append("scale")


@lowers(*sorted(ACTIVATIONS))
def _activation(at: Context) -> None:
    name, slope = ACTIVATIONS[at.node.op](at.node.attributes)
    at.append("activation", activation=name, negative_slope=slope)


@lowers("hardtanh")
def _hardtanh(at: Context) -> None:
    at.append("unary", name="clamp", first=float(at["min_val"]), second=float(at["max_val"]))


@lowers("threshold")
def _threshold(at: Context) -> None:
    at.append("unary", name="threshold", first=float(at["threshold"]), second=float(at["value"]))


@lowers("softplus")
def _softplus(at: Context) -> None:
    at.append("unary", name="softplus", first=float(at["beta"]), second=float(at["threshold"]))


@lowers("prelu")
def _prelu(at: Context) -> None:
    at.append("binary", [at.input, slopes(as_array(at["weight"], "prelu", "weight"), len(at.shape))], name="prelu")
