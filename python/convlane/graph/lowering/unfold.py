"""im2col and col2im."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convlane.functional._arguments import as_window
from convlane.graph.lowering.context import Context, lowers
from convlane.graph.trace import Node, Value


def _refuse(node: Node, nodes: Mapping[Value, Node]) -> str:
    ranks = {"im2col": 3, "col2im": 4}
    return "" if len(node.shape) == ranks[node.op] else f"{node.op} of one image without a batch"


@lowers("col2im", "im2col", refuse=_refuse)
def _unfold(at: Context) -> None:
    image: Any = at.shape if at.node.op == "im2col" else at.output.shape
    window = (at["kernel_size"], at["stride"], at["padding"], at["dilation"])
    kernel, stride, padding, dilation = map(list, as_window(at.node.op, image[2:], *window))
    at.append(at.node.op, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
