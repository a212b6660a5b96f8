"""Fully connected layers."""

from __future__ import annotations

import math

from convlane.graph.lowering.context import Choice, Context, lowers


@lowers("linear")
def _linear(at: Context) -> Choice:
    """Lower to rows of a matrix; images and volumes, whose last dimension is not contiguous, to a matrix product."""
    activation, slope = at["activation"], float(at["negative_slope"])
    if len(at.shape) in (4, 5):
        return _product(at, activation, slope)
    rows = math.prod(at.shape[:-1])
    at.append(
        "linear",
        [at.input.viewed((rows, at.shape[-1]))],
        [at.output.viewed((rows, at.output.shape[-1]))],
        activation=activation,
        negative_slope=slope,
        weights={"weight": at.packer.pack(at["weight"]), "bias": at["bias"]},
    )
    return Choice("panels", "one pass over the weight")


def _product(at: Context, activation: str, slope: float) -> Choice:
    at.append("matmul", [at.input, at["weight"].T])
    if at["bias"] is not None:
        at.append("binary", [at.output, at["bias"]], name="add")
    if activation != "none":
        at.append("activation", [at.output], activation=activation, negative_slope=slope)
    return Choice("product", "the last dimension of an image is not contiguous")
