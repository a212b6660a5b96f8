"""Operations that only move numbers: concatenation, splitting and shuffling of channels, layouts, flattening."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convlane.graph.lowering.context import Choice, Context, OfBatch, lowers
from convlane.graph.trace import Node, Value


def _refuse_cat(node: Node, nodes: Mapping[Value, Node]) -> str:
    return OfBatch("cat along the batch") if node.attributes["dim"] % len(node.shape) == 0 else ""


@lowers("cat", refuse=_refuse_cat, any_argument=True)
def _cat(at: Context) -> Choice:
    """Copy what is not already in place."""
    sources, targets, first = [], [], 0
    axis = at["dim"] % len(at.output.shape)
    for name, source in at.inputs.items():
        if name not in at.in_place:
            constant = isinstance(source, np.ndarray)  # one for all examples of a batch
            sources.append(
                np.broadcast_to(source, (at.output.shape[0], *source.shape[1:])) if constant and axis else source
            )
            targets.append(at.output.along(axis, first, source.shape[axis]))
        first += source.shape[axis]
    at.append("copy", sources, targets)
    count = len(at.in_place)
    return Choice("" if sources else "in place", f"{count} of {len(at.inputs)} are written here at once")


def _refuse_narrow(node: Node, nodes: Mapping[Value, Node]) -> str:
    return OfBatch("narrow along the batch") if node.attributes["dim"] % len(node.shape) == 0 else ""


@lowers("narrow", refuse=_refuse_narrow)
def _narrow(at: Context) -> Choice:
    axis = at["dim"] % len(at.shape)
    at.append("copy", [at.input.along(axis, at["start"], at.output.shape[axis])])
    return Choice("copy", "not all of its readers can read it in place")


@lowers("interleave")
def _interleave(at: Context) -> None:
    at.append("interleave")


@lowers("channels_last")
def _copy(at: Context) -> None:
    at.append("copy")


def _refuse_flatten(node: Node, nodes: Mapping[Value, Node]) -> str:
    whole = node.attributes["start_dim"] % len(nodes[node.inputs["input"]].shape) == 0
    return OfBatch("flatten of the batch") if whole else ""


@lowers("flatten", refuse=_refuse_flatten)
def _flatten(at: Context) -> None:
    at.append("reshape")


@lowers("image_rows")
def _image_rows(at: Context) -> None:
    """Copy to the order N, H, W, C, where the result cannot be a view."""
    at.append("copy", outputs=[at.output.viewed(at.shape)])
