"""Convolutions and linear layers whose weight is computed: plans compute them as matrix products.

The layers' own steps pack weights when a plan is made. A weight that is only known during a run, such as the filters of
a hypernetwork or the template of a tracker, is multiplied with the windows of the images instead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from convlane.functional._arguments import as_pair
from convlane.functional._op import operations
from convlane.functional.activation import leaky_relu
from convlane.functional.elementwise import add
from convlane.functional.matmul import matmul
from convlane.functional.rearrange import permute, reshape
from convlane.functional.unfold import col2im, im2col
from convlane.graph.trace import Graph, Node, Value, record


def as_products(graph: Graph) -> Graph:
    """Replace layers with a computed weight or bias by products. They mix examples, so a plan is for whole inputs."""
    free = itertools.count(max(graph.nodes) + 1)
    nodes: dict[Value, Node] = {}
    for value, node in graph.nodes.items():
        if not is_product(node, graph.nodes):
            nodes[value] = node
            continue
        small, result = record(_called(node), {name: graph.nodes[each].shape for name, each in node.inputs.items()})
        same: dict[Value, Value] = {}
        for each, part in small.items():
            if part.op == "input":
                same[each] = node.inputs[part.attributes["name"]]
                continue
            same[each] = value if each == result.value else next(free)
            nodes[same[each]] = part.reading({name: same[source] for name, source in part.inputs.items()})
    return replace(graph, nodes=nodes)


def is_product(node: Node, nodes: Mapping[Value, Node]) -> bool:
    """Whether products can compute the same as a node with a computed weight or bias."""
    if node.op not in _AS_PRODUCT or not node.inputs.keys() & {"weight", "bias"}:
        return False
    if "input" not in node.inputs or (node.op != "linear" and len(node.shape) != 4):
        return False
    # Fewer rows than the stride are cut off where windows do not fill an image, more never.
    more = as_pair(node.attributes.get("output_padding", 0), node.op, "output_padding")
    stride = as_pair(node.attributes.get("stride", 1), node.op, "stride")
    return all(one < other for one, other in zip(more, stride, strict=True))


def _called(node: Node) -> Callable[..., Any]:
    """Return the function of a node's inputs that computes it by products."""
    at = node.attributes

    def run(**inputs: Any) -> Any:
        given = {**at, **inputs}
        y = _AS_PRODUCT[node.op](node, given)
        if given["bias"] is not None:
            sizes = (1, -1, *(1,) * (len(node.shape) - 2)) if node.op != "linear" else (-1,)
            y = add(y, reshape(given["bias"], sizes))
        if given.get("residual") is not None:
            y = add(y, given["residual"])
        name = given["activation"]
        if name == "none":
            return y
        return leaky_relu(y, given["negative_slope"]) if name == "leaky_relu" else operations()[name](y)

    return run


def _linear(node: Node, given: Mapping[str, Any]) -> Any:
    return matmul(given["input"], permute(given["weight"], (1, 0)))


def _conv2d(node: Node, given: Mapping[str, Any]) -> Any:
    images, weight, groups = given["input"], given["weight"], given["groups"]
    kernel, (n, _, height, width) = tuple(weight.shape[2:]), node.shape
    columns = im2col(images, kernel, given["dilation"], given["padding"], given["stride"])
    filters, taps, pixels = weight.shape[0] // groups, math.prod(weight.shape[1:]), height * width
    return reshape(
        matmul(reshape(weight, (1, groups, filters, taps)), reshape(columns, (n, groups, taps, pixels))), node.shape
    )


def _conv_transpose2d(node: Node, given: Mapping[str, Any]) -> Any:
    images, weight, groups = given["input"], given["weight"], given["groups"]
    (n, channels, height, width), taps = images.shape, math.prod(weight.shape[1:])
    filters = permute(reshape(weight, (1, groups, channels // groups, taps)), (0, 1, 3, 2))
    rows = reshape(images, (n, groups, channels // groups, height * width))
    columns = reshape(matmul(filters, rows), (n, groups * taps, height * width))
    window = (tuple(weight.shape[2:]), given["dilation"], given["padding"], given["stride"])
    return col2im(columns, (node.shape[2], node.shape[3]), *window)


_AS_PRODUCT = {"conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "linear": _linear}
