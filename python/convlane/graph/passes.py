"""Passes: each takes a graph and returns an equivalent one with fewer or cheaper operations.

A node that absorbs another keeps its own position and value, so its readers need not change; the absorbed node has no
readers left and is removed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane.functional._arguments import Array, Pair, Sides
from convlane.functional._op import ACTIVATIONS, Shape, Traits, operations, traits_named
from convlane.functional.conv import conv2d_geometry
from convlane.functional.pool import pool_geometry
from convlane.graph.reassemble import REASSEMBLING
from convlane.graph.trace import Graph, Node, Value
from convlane.graph.weights import Weight


class Joined(NamedTuple):
    """Operations that run as one step."""

    join: Callable[[Graph], Graph]
    """The pass that makes it."""
    traits: Traits
    rival: str = ""
    """What autotuning calls the step if it also times its operations apart; else it times the first's algorithms."""


def optimize(graph: Graph) -> Graph:
    """Run all passes in an order in which each finds what those before it have made."""
    return finish(simplify(graph))


def simplify(graph: Graph) -> Graph:
    """Run the passes that do not depend on how large images are, except through `sizes.pattern_of`."""
    for optimization in PASSES[:-_OF_SIZES]:
        graph = optimization(graph)
    return graph


def finish(graph: Graph) -> Graph:
    """Run the passes that do."""
    for optimization in PASSES[-_OF_SIZES:]:
        graph = optimization(graph)
    return graph


def remove_dead_code(graph: Graph) -> Graph:
    """Remove what the output does not depend on."""
    return graph.pruned()


def split_indices(graph: Graph) -> Graph:
    """Split a maximum that returns indices into two operations, if there is one that computes the indices alone."""

    def split(node: Node, nodes: dict[Value, Node], single: Callable[[Value], bool]) -> Node:
        if node.op != "item":
            return node
        both = graph.nodes[node.inputs["input"]]
        alone = f"{both.op}_indices"
        if alone not in operations():
            return node
        others = {name: value for name, value in both.attributes.items() if name != "return_indices"}
        if node.attributes["index"] == 0:
            return replace(both, attributes={**others, "return_indices": False}, shape=node.shape, results=())
        return Node(alone, both.inputs, others, node.shape, node.dtype)

    return _rewrite(graph, split)


def spell_out_infinite_norms(graph: Graph) -> Graph:
    """Replace pooling by the p-norm with infinite p by what it is: the maximum of absolute values."""
    free = itertools.count(max(graph.nodes) + 1)
    nodes: dict[Value, Node] = {}
    for value, node in graph.nodes.items():
        if node.op in ("lp_pool2d", "lp_pool3d") and math.isinf(node.attributes["norm_type"]):
            first = next(free)
            nodes[first] = Node("abs", node.inputs, {}, nodes[node.inputs["input"]].shape)
            window = {name: node.attributes[name] for name in ("kernel_size", "stride", "ceil_mode")}
            whole = {"padding": 0, "dilation": 1, "return_indices": False}
            node = Node(node.op.replace("lp", "max"), {"input": first}, {**window, **whole}, node.shape)
        nodes[value] = node
    return replace(graph, nodes=nodes)


def drop_identities(graph: Graph) -> Graph:
    """Remove operations that change neither numbers nor shape: dropout, layouts, pooling of single pixels and so on."""
    same: dict[Value, Value] = {}
    nodes = {}
    for value, node in graph.nodes.items():
        inputs = {name: same.get(source, source) for name, source in node.inputs.items()}
        if _is_identity(node, graph.nodes):
            same[value] = inputs["input"]
        else:
            nodes[value] = node.reading(inputs)
    return replace(graph, nodes=nodes, outputs=graph.renamed(same))


def sink_reshapes(graph: Graph) -> Graph:
    """Compute elementwise operations before a reshape instead of after it, and merge the reshapes that become adjacent.

    So a signal, which its operations see as an image of one row, stays an image from one operation to the next. Batch
    norm is computed before a reshape that keeps the channels.
    """
    if all(node.op != "reshape" for node in graph.nodes.values()):
        return graph
    free = itertools.count(max(graph.nodes) + 1)
    same: dict[Value, Value] = {}
    nodes: dict[Value, Node] = {}

    def reshaped_by(node: Node) -> dict[str, Value]:
        """Return the value before the reshapes that a node reads."""
        reshapes = {name: nodes[source] for name, source in node.inputs.items() if nodes[source].op == "reshape"}
        return {name: reshape.inputs["input"] for name, reshape in reshapes.items()}

    for value, read in graph.nodes.items():
        node = read.reading({name: same.get(source, source) for name, source in read.inputs.items()})
        before = reshaped_by(node)
        shapes = {nodes[source].shape for source in before.values()}
        behind = {nodes[source].shape for source in node.inputs.values()}
        if (
            before.keys() == node.inputs.keys()
            and len(shapes) == 1
            and behind == {node.shape}
            and (_is_elementwise(node) or _is_batch_norm_of(node, *shapes))
        ):
            first = next(free)
            nodes[first] = replace(node, inputs=before, shape=shapes.pop())
            node = Node("reshape", {"input": first}, {"shape": node.shape}, node.shape, node.dtype)
        elif node.op == "reshape":
            node = replace(node, inputs={**node.inputs, **before})
        if node.op == "reshape" and nodes[node.inputs["input"]].shape == node.shape:
            same[value] = node.inputs["input"]
        else:
            nodes[value] = node
    return remove_dead_code(replace(graph, nodes=nodes, outputs=graph.renamed(same)))


def read_joined_parts(graph: Graph) -> Graph:
    """Read concatenated images directly where exactly their channels are taken out again, as a channel shuffle does."""

    def shortcut(node: Node, nodes: Mapping[Value, Node]) -> Mapping[str, Value]:
        return {name: _joined_part(source, nodes) for name, source in node.inputs.items()}

    nodes = dict(graph.nodes)
    for value, node in graph.nodes.items():
        nodes[value] = node.reading(shortcut(node, nodes))
    outputs = {name: _joined_part(value, nodes) for name, value in graph.outputs.items()}
    return remove_dead_code(replace(graph, nodes=nodes, outputs=outputs))


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold batch norm into the weight and bias of the convolution before it, in float64.

    The convolution may be a transposed one.
    """

    def fold(node: Node, nodes: dict[Value, Node], single: Callable[[Value], bool]) -> Node:
        if node.op != "batch_norm" or node.attributes["training"]:
            return node
        source = node.inputs["input"]
        conv = nodes[source]
        if not (single(source) and _is_plain_convolution(conv) and _has_open_weight(conv)):
            return node
        groups = conv.attributes["groups"] if traits_of(conv).weight_channels == 1 else None
        weight, bias = _folded(conv.attributes["weight"], conv.attributes["bias"], node.attributes, groups)
        return _absorb(conv, node, weight=weight, bias=bias)

    return _rewrite(graph, fold)


def fuse_activation(graph: Graph) -> Graph:
    """Apply an activation where a convolution, a linear layer or a sum stores its result."""

    def fuse(node: Node, nodes: dict[Value, Node], single: Callable[[Value], bool]) -> Node:
        if node.op not in ACTIVATIONS:
            return node
        source = node.inputs["input"]
        before = nodes[source]
        if before.attributes.get("activation") != "none" or not single(source):
            return node  # it takes no activation, or has one
        name, slope = ACTIVATIONS[node.op](node.attributes)
        return _absorb(before, node, activation=name, negative_slope=slope)

    return _rewrite(graph, fuse)


def fuse_residual_add(graph: Graph) -> Graph:
    """Add a residual where a convolution stores its result: the later one, if both operands are convolutions."""

    def fuse(node: Node, nodes: dict[Value, Node], single: Callable[[Value], bool]) -> Node:
        if node.op != "add" or set(node.inputs) != {"input", "other"}:
            return node
        last, first = sorted(node.inputs.values(), reverse=True)
        if "constant" in (nodes[last].op, nodes[first].op):
            return node  # residuals are read from the arena only
        for source, residual in ((last, first), (first, last)):
            conv = nodes[source]
            if not (traits_of(conv).adds_residual and _is_plain_convolution(conv)):
                continue
            if single(source) and conv.shape == nodes[residual].shape:
                fused = _absorb(
                    conv,
                    node,
                    activation=node.attributes["activation"],
                    negative_slope=node.attributes["negative_slope"],
                )
                return replace(fused, inputs={**conv.inputs, "residual": residual})
        return node

    return _rewrite(graph, fuse)


def fold_flatten(graph: Graph) -> Graph:
    """Sort the columns of a linear layer's weight, so that it reads channels-last images in their memory order."""

    def fold(node: Node, nodes: dict[Value, Node], single: Callable[[Value], bool]) -> Node:
        if node.op != "linear" or not _has_open_weight(node):
            return node
        flatten = nodes[node.inputs["input"]]
        if flatten.op != "flatten" or not flattens_image(flatten, nodes):
            return node
        image = nodes[flatten.inputs["input"]].shape[1:]
        if 1 in (image[0], math.prod(image[1:])):
            return node  # the order is the same
        weight = Weight(node.attributes["weight"], image=image)
        source = rows[node.inputs["input"]]
        return replace(node, inputs={"input": source}, attributes={**node.attributes, "weight": weight})

    graph, rows = _with_rows(graph)
    return _rewrite(graph, fold)


def _with_rows(graph: Graph) -> tuple[Graph, dict[Value, Value]]:
    """Add to each flattening of images one in memory order; return also the values of the added ones."""
    free = itertools.count(max(graph.nodes) + 1)
    nodes: dict[Value, Node] = {}
    rows: dict[Value, Value] = {}
    for value, node in graph.nodes.items():
        nodes[value] = node
        if node.op == "flatten" and flattens_image(node, graph.nodes):
            rows[value] = next(free)
            nodes[rows[value]] = Node("image_rows", node.inputs, {}, node.shape, node.dtype)
    return replace(graph, nodes=nodes), rows


def fuse_depthwise_block(graph: Graph) -> Graph:
    """Join a depthwise convolution with the pointwise ones around it, so that the wide image stays in the cache.

    Squeeze-and-excitation between the depthwise and the last convolution is joined with them.
    """
    users = graph.users()

    def fuse(node: Node, nodes: dict[Value, Node], single: Callable[[Value], bool]) -> Node:
        if not _is_pointwise(node, nodes):
            return node
        hidden = node.inputs["input"]
        excitation = _excitation(hidden, nodes, users)
        if excitation:
            hidden = excitation[0].inputs["input"]
        elif not single(hidden):
            return node
        depthwise = nodes[hidden]
        if not _is_depthwise(depthwise, nodes):
            return node
        source = depthwise.inputs["input"]
        expand = nodes[source]
        parts: tuple[Node, ...] = (depthwise, *excitation, node)
        names = ["depthwise", *(["squeeze", "excite"] if excitation else []), "project"]
        if single(source) and _is_pointwise(expand, nodes) and _has_no_residual(expand):
            parts, names = (expand, *parts), ["expand", *names]
        inputs = {**node.inputs, "input": parts[0].inputs["input"]}
        adds = sum(part.multiply_adds for part in parts)
        fused = (*names, *(["add"] if "residual" in inputs else []))
        return Node("depthwise_block", inputs, {"parts": parts}, node.shape, multiply_adds=adds, fused=fused)

    return _rewrite(graph, fuse)


def fuse_pool(graph: Graph) -> Graph:
    """Join a convolution with the pooling after it, so that the image between stays in the cache or is never whole."""

    def fuse(node: Node, nodes: dict[Value, Node], single: Callable[[Value], bool]) -> Node:
        if node.op not in ("avg_pool2d", "max_pool2d") or node.results:
            return node
        source = node.inputs["input"]
        conv = nodes[source]
        if not (single(source) and conv.op == "conv2d" and conv.inputs.keys() == {"input"} and _has_no_residual(conv)):
            return node
        if not _has_open_weight(conv):
            return node
        geometry = _core.Conv2dGeometry(*conv2d_geometry_of(conv, nodes))
        if not _core.may_pool_in_cache(geometry, pool_geometry_of(node, conv.shape)):
            return node
        return Node("conv2d_pool", conv.inputs, {"parts": (conv, node)}, node.shape, multiply_adds=conv.multiply_adds)

    return _rewrite(graph, fuse)


PASSES = (
    remove_dead_code,
    split_indices,
    spell_out_infinite_norms,
    drop_identities,
    sink_reshapes,
    read_joined_parts,
    *REASSEMBLING,
    fold_flatten,
    fold_batch_norm,
    fuse_activation,
    fuse_residual_add,
    fuse_depthwise_block,
    fuse_pool,
)

_OF_SIZES = 1
"""The number of last passes that depend on sizes."""


JOINED = {
    "conv2d_pool": Joined(fuse_pool, Traits(reads_any_layout=True, writes_slices=True)),
    "depthwise_block": Joined(fuse_depthwise_block, Traits(reads_slices=True), "row bands"),
}
"""The operations that passes join several others into; the attribute `parts` holds those."""


def traits_of(node: Node) -> Traits:
    """Return the traits of a node's operation."""
    joined = JOINED.get(node.op)
    return traits_named(node.op) if joined is None else joined.traits


def unjoin(joined: Node, value: Value, between: Sequence[Value]) -> list[tuple[Value, Node]]:
    """Return the operations that a node joins, each as a node of its own; the last one has the node's value.

    Parameters
    ----------
    joined, value
        A node with parts, and its value.
    between
        Values for the results of all parts but the last.
    """
    nodes: list[tuple[Value, Node]] = []
    source = image = joined.inputs["input"]
    for part, result in zip(joined.attributes["parts"], (*between, value), strict=True):
        inputs = {"input": source}
        traits = traits_of(part)
        if traits.factors:
            inputs = {"input": image, traits.factors: source}
        elif traits.averages:
            image = source
        nodes.append((result, replace(part, inputs=inputs)))
        source = result
    *others, (_, last) = nodes
    return [*others, (value, replace(last, inputs={**joined.inputs, **last.inputs}))]


def results_between(joined: Node) -> list[Value]:
    """Return the values that the results of all parts but the last had before they were joined."""
    _, *others = joined.attributes["parts"]
    return [part.inputs[traits_of(part).factors or "input"] for part in others]


def conv2d_geometry_of(node: Node, nodes: Mapping[Value, Node]) -> tuple[Any, Any, Pair, Sides, Pair, int]:
    """Input shape, weight shape, stride, padding, dilation and groups of a convolution, with defaults filled in."""
    at = node.attributes
    image = nodes[node.inputs["input"]].shape
    return conv2d_geometry(image, at["weight"].shape, at["stride"], at["padding"], at["dilation"], at["groups"])


def pool_geometry_of(node: Node, image: Any) -> _core.PoolGeometry:
    """Return the geometry of a pooling of images of this shape."""
    return pool_geometry(node.op, "plan", image, node.attributes)


def flattens_image(node: Node, nodes: Mapping[Value, Node]) -> bool:
    """Whether a flatten joins C, H and W, and nothing else."""
    shape = nodes[node.inputs["input"]].shape
    return len(shape) == 4 and (node.attributes["start_dim"] % 4, node.attributes["end_dim"] % 4) == (1, 3)


def _rewrite(graph: Graph, rule: Callable[[Node, dict[Value, Node], Callable[[Value], bool]], Node]) -> Graph:
    """Ask `rule` what becomes of each node, given the nodes so far and which have one reader; remove dead code."""
    users = graph.users()
    nodes = dict(graph.nodes)
    for value, node in graph.nodes.items():
        nodes[value] = rule(node, nodes, lambda source: len(users[source]) == 1)
    return remove_dead_code(replace(graph, nodes=nodes))


def _absorb(first: Node, second: Node, **attributes: Any) -> Node:
    """Return the first node with the second fused into it."""
    return replace(first, attributes={**first.attributes, **attributes}, fused=(*first.fused, second.op, *second.fused))


def _is_elementwise(node: Node) -> bool:
    """Whether its result depends only on its inputs' numbers, wherever they are."""
    return traits_of(node).elementwise and not any(isinstance(each, np.ndarray) for each in node.attributes.values())


def _is_batch_norm_of(node: Node, shape: Shape) -> bool:
    """Whether it normalises what are channels in this shape as well."""
    return node.op == "batch_norm" and not node.attributes["training"] and shape[:2] == node.shape[:2]


def _is_plain_convolution(node: Node) -> bool:
    convolves = traits_of(node).weight_channels is not None
    return convolves and node.attributes["activation"] == "none" and _has_no_residual(node)


def _is_pointwise(node: Node, nodes: Mapping[Value, Node]) -> bool:
    if not _is_free_conv2d(node):
        return False
    image, weight, *geometry = conv2d_geometry_of(node, nodes)
    return weight[1:] == (image[1], 1, 1) and geometry == [(1, 1), (0, 0, 0, 0), (1, 1), 1]


def _is_depthwise(node: Node, nodes: Mapping[Value, Node]) -> bool:
    if not (_is_free_conv2d(node) and _has_no_residual(node)):
        return False
    image, weight, *_, groups = conv2d_geometry_of(node, nodes)
    return bool(groups == image[1] == weight[0] > 1)


def _excitation(scaled: Value, nodes: Mapping[Value, Node], users: Mapping[Value, Sequence[Value]]) -> tuple[Node, ...]:
    """Return the nodes of squeeze-and-excitation from pooling to scaling, if nothing else reads a value in between."""
    scale = nodes[scaled]
    factors = traits_of(scale).factors
    if not factors or scale.inputs.keys() != {"input", factors}:
        return ()
    image, values = scale.inputs["input"], [scaled, scale.inputs[factors]]
    while len(values) < 4:
        layer = nodes[values[-1]]
        if not (_is_pointwise(layer, nodes) and _has_no_residual(layer)):
            return ()
        values.append(layer.inputs["input"])
    pool = nodes[values[-1]]
    if not traits_of(pool).averages or pool.shape[2:] != (1, 1) or pool.inputs["input"] != image:
        return ()
    if len(users[image]) != 2 or any(len(users[value]) != 1 for value in values):
        return ()
    return tuple(nodes[value] for value in reversed(values))


def _is_free_conv2d(node: Node) -> bool:
    """Whether it is a convolution without settings that a block could not keep."""
    at = node.attributes
    return node.op == "conv2d" and _has_open_weight(node) and at["algorithm"] == "auto" and at.get("residual") is None


def _has_open_weight(node: Node) -> bool:
    """Whether a pass may change the weight: it is neither packed nor computed by another node."""
    return isinstance(node.attributes.get("weight"), (np.ndarray, Weight))


def _has_no_residual(node: Node) -> bool:
    return "residual" not in node.inputs and node.attributes.get("residual") is None


def _joined_part(value: Value, nodes: Mapping[Value, Node]) -> Value:
    """Return the concatenated image that these channels of a concatenation form, else the value itself."""
    node = nodes[value]
    if node.op != "narrow" or not narrows_channels(node):
        return value
    whole, first = nodes[node.inputs["input"]], 0
    if whole.op == "cat" and len(whole.shape) == 4 and whole.attributes["dim"] % 4 == 1:
        for source in whole.inputs.values():
            if (first, nodes[source].shape[1]) == (node.attributes["start"], node.attributes["length"]):
                return source
            first += nodes[source].shape[1]
    return value


def narrows_channels(node: Node) -> bool:
    """Whether a narrow takes a slice of images' channels."""
    return len(node.shape) == 4 and node.attributes["dim"] % 4 == 1


def _is_identity(node: Node, nodes: Mapping[Value, Node]) -> bool:
    identity = traits_of(node).identity
    if identity is None or node.results:
        return False
    return identity(node.attributes, nodes[node.inputs["input"]].shape == node.shape)


def _folded(weight: Array | Weight, bias: Array | None, norm: Any, transposed: int | None) -> tuple[Weight, Array]:
    """Weight and bias of a convolution with its batch norm folded in; `transposed`: the groups of a transposed one."""
    channels = weight.shape[0] if transposed is None else weight.shape[1] * transposed

    def wide(array: Array | None, default: float) -> NDArray[np.float64]:
        return np.full(channels, default) if array is None else array.astype(np.float64)

    with np.errstate(all="ignore"):  # a negative variance gives NaN, as it does when batch norm runs itself
        factor = wide(norm["weight"], 1) / np.sqrt(wide(norm["running_var"], 1) + norm["eps"])
        shift = (wide(bias, 0) - wide(norm["running_mean"], 0)) * factor + wide(norm["bias"], 0)
        whole = weight if isinstance(weight, Weight) else Weight(weight)
        whole = replace(whole, transposed=transposed)
        return whole.times(factor), shift.astype(np.float32)
