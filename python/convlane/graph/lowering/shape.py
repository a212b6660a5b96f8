"""What only moves numbers: concatenation, splitting and shuffling of channels, layouts, flattening."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convlane.graph.lowering.context import Choice, Context, lowers
from convlane.graph.passes import flattens_image, narrows_channels
from convlane.graph.trace import Node, Value


def _refuse_cat(node: Node, nodes: Mapping[Value, Node]) -> str:
    over_channels = len(node.shape) == 4 and node.attributes["dim"] % 4 == 1
    return "" if over_channels else "cat along other dimensions than the channels"


@lowers("cat", refuse=_refuse_cat)
def _cat(at: Context) -> Choice:
    """Copy what is not in its place already."""
    sources, targets, first = [], [], 0
    for name, source in at.inputs.items():
        channels = source.shape[1]
        if name not in at.in_place:
            sources.append(source)
            targets.append(at.output.part(first, channels))
        first += channels
    at.append("copy", sources, targets)
    count = len(at.in_place)
    return Choice("" if sources else "in place", f"{count} of {len(at.inputs)} are written here at once")


def _refuse_narrow(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "" if narrows_channels(node) else "narrow of other dimensions than the channels"


@lowers("narrow", refuse=_refuse_narrow)
def _narrow(at: Context) -> Choice:
    at.append("copy", [at.input.part(at["start"], at.output.shape[1])])
    return Choice("copy", "not all who read it can read it where it is")


@lowers("interleave")
def _interleave(at: Context) -> None:
    at.append("interleave")


@lowers("channels_last")
def _copy(at: Context) -> None:
    at.append("copy")


def _refuse_flatten(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "" if flattens_image(node, nodes) else "flatten of other dimensions than C, H and W"


@lowers("flatten", refuse=_refuse_flatten)
def _flatten(at: Context) -> None:
    """Copy to the order N, C, H, W."""
    _, c, h, w = at.shape
    at.append("copy", outputs=[replace(at.output, shape=at.shape, strides=(c * h * w, h * w, w, 1))])


@lowers("image_rows")
def _image_rows(at: Context) -> None:
    """Copy to the order N, H, W, C, where the result cannot be a view."""
    at.append("copy", outputs=[at.output.viewed(at.shape)])
