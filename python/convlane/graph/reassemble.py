"""Passes that put together again what exporters of other libraries take apart: activations, norms, padding, layouts.

Each takes a graph and returns one that computes the same, as those of `convlane.graph.passes`, which run them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from convlane.functional._op import Shape, traits_named
from convlane.graph.trace import Graph, Node, Value

Nodes: TypeAlias = Mapping[Value, Node]
Single: TypeAlias = Callable[[Value], bool]
"""Whether a value has one reader only."""

_NEAR = 1e-4  # relative: exporters round numbers, to three digits of 1/6 and seven of the root of 2


def join_activations(graph: Graph) -> Graph:
    """Find ReLU6, hard-sigmoid, hard-swish, SiLU and the GELU of erf in what they are made of."""

    def join(node: Node, nodes: Nodes, single: Single) -> Node:
        if node.op == "clamp":
            return _clamped(node, nodes)
        if node.op not in ("mul", "div", "affine"):
            return node
        factor, values = _product(node, nodes, single)
        found = _activation(factor, values, nodes) if len(values) == 2 else None
        return node if found is None else Node(found[0], {"input": found[1]}, dict(found[2]), node.shape, node.dtype)

    return _each(graph, join)


def join_channel_factors(graph: Graph) -> Graph:
    """Make a batch norm of what multiplies and shifts the channels of a convolution's result by constants.

    Only a sum becomes the convolution's bias at once.
    """

    def join(node: Node, nodes: Nodes, single: Single) -> Node:
        found = _channel_step(node, nodes)
        if found is None:
            return node
        source, factor, shift = found
        before = nodes[source]
        if not single(source):
            return node
        if before.op == "batch_norm" and not before.attributes["training"] and before.attributes["eps"] == 0:
            at = before.attributes  # one that this pass has made
            shift = shift + factor * at["bias"].astype(np.float64)
            return _batch_norm(before, before.inputs["input"], factor * at["weight"].astype(np.float64), shift)
        if traits_named(before.op).weight_channels is None or before.attributes["activation"] != "none":
            return node
        if "residual" in before.inputs or before.attributes.get("residual") is not None:
            return node
        bias = before.attributes["bias"]
        if "bias" in before.inputs or not (bias is None or isinstance(bias, np.ndarray)):
            return node
        if not (factor == 1).all():
            return _batch_norm(node, source, factor, shift)
        with np.errstate(all="ignore"):
            moved = _frozen(shift if bias is None else shift + bias.astype(np.float64))
        return replace(before, attributes={**before.attributes, "bias": moved}, fused=(*before.fused, node.op))

    return _each(graph, join)


def join_layer_norm(graph: Graph) -> Graph:
    """Find layer norm in a difference from the mean, divided by the root of the mean of its square."""

    def join(node: Node, nodes: Nodes, single: Single) -> Node:
        found = _standardised(node, nodes)
        if found is not None:
            source, shape, eps = found
            attributes = {"normalized_shape": shape, "weight": None, "bias": None, "eps": eps}
            return Node("layer_norm", {"input": source}, attributes, node.shape, node.dtype)
        return _with_weight(node, nodes, single, "layer_norm", lambda before: before.attributes["normalized_shape"])

    return _each(graph, join)


def join_group_norm(graph: Graph) -> Graph:
    """Find group norm in an instance norm of channels that a reshape has put into groups."""

    def join(node: Node, nodes: Nodes, single: Single) -> Node:
        if node.op == "reshape" and single(node.inputs["input"]):
            norm = nodes[node.inputs["input"]]
            at = norm.attributes
            if norm.op == "instance_norm" and at["use_input_stats"] and single(norm.inputs["input"]):
                groups = nodes[norm.inputs["input"]]
                whole = groups.op == "reshape" and nodes[groups.inputs["input"]].shape == node.shape
                plain = _is_all(at["weight"], 1) and _is_all(at["bias"], 0)
                if whole and plain and len(norm.shape) == 3 and node.shape[1] % norm.shape[1] == 0:
                    attributes = {"num_groups": norm.shape[1], "weight": None, "bias": None, "eps": at["eps"]}
                    return Node("group_norm", {"input": groups.inputs["input"]}, attributes, node.shape, node.dtype)
        return _with_weight(node, nodes, single, "group_norm", lambda before: (before.shape[1],), channels=True)

    return _each(graph, join)


def join_padding(graph: Graph) -> Graph:
    """Let a convolution put the zeros around images that a step of their own had put there."""

    def join(node: Node, nodes: Nodes, single: Single) -> Node:
        if node.op != "conv2d":
            return node
        pad = nodes[node.inputs["input"]]
        if pad.op != "pad" or not single(node.inputs["input"]):
            return node
        at, sides = pad.attributes, pad.attributes["pad"]
        zeros = at["mode"] == "constant" and at["value"] in (0, None)
        own = node.attributes["padding"]
        numbers = own if isinstance(own, (list, tuple)) else (own,)
        if not zeros or min(sides) < 0 or any(sides[4:]) or any(isinstance(each, str) for each in numbers):
            return node
        left, right, top, bottom = (*sides, 0, 0, 0, 0)[:4]
        each = _four_sides(numbers)
        padding = (each[0] + top, each[1] + bottom, each[2] + left, each[3] + right)
        return replace(node, inputs={**node.inputs, **pad.inputs}, attributes={**node.attributes, "padding": padding})

    return _each(graph, join)


def join_permutes(graph: Graph) -> Graph:
    """Compute what is elementwise before a change of the order of dimensions, and join the changes that meet.

    So the transposes cancel out that stand around each layer of a network whose library has channels last.
    """
    if all(node.op != "permute" for node in graph.nodes.values()):
        return graph
    free = max(graph.nodes) + 1
    same: dict[Value, Value] = {}
    nodes: dict[Value, Node] = {}
    for value, read in graph.nodes.items():
        node = read.reading({name: same.get(source, source) for name, source in read.inputs.items()})
        before = [nodes[source] for source in node.inputs.values()]
        orders = {tuple(each.attributes["dims"]) if each.op == "permute" else None for each in before}
        order = orders.pop() if len(orders) == 1 else None
        if node.op == "permute" and order is not None:
            dims = tuple(order[dim] for dim in _positive(node))
            node = replace(node, inputs=before[0].inputs, attributes={"dims": dims})
            if dims == tuple(range(len(dims))):
                same[value] = node.inputs["input"]
                continue
        elif order is not None and _moves_past(node, before):
            inner = {name: nodes[source].inputs["input"] for name, source in node.inputs.items()}
            shape = nodes[next(iter(inner.values()))].shape
            nodes[free] = replace(node, inputs=inner, shape=shape)
            node = Node("permute", {"input": free}, {"dims": order}, node.shape, node.dtype)
            free += 1
        elif node.op == "permute":
            node = replace(node, attributes={"dims": _positive(node)})
        nodes[value] = node
    return replace(graph, nodes=nodes, outputs=graph.renamed(same)).pruned()


REASSEMBLING = (
    join_permutes,
    join_activations,
    join_layer_norm,
    join_group_norm,
    join_padding,
    join_channel_factors,
)
"""In an order in which each finds what those before it have made."""


def _each(graph: Graph, rule: Callable[[Node, Nodes, Single], Node]) -> Graph:
    """Ask what becomes of each node, given the nodes so far; remove what nobody reads any more."""
    users = graph.users()
    nodes = dict(graph.nodes)
    for value, node in graph.nodes.items():
        nodes[value] = rule(node, nodes, lambda source: len(users[source]) == 1)
    return replace(graph, nodes=nodes).pruned()


# Numbers and products


def _number(node: Node, name: str, nodes: Nodes) -> float | None:
    """Return an argument that is one number."""
    if name in node.inputs:
        source = nodes[node.inputs[name]]
        value: Any = source.attributes["value"] if source.op == "constant" else None
        small = isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= len(node.shape)
        return float(value.reshape(-1)[0]) if small else None
    value = node.attributes.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _linear(node: Node, nodes: Nodes) -> tuple[Value, float, float] | None:
    """Return what a node multiplies by a number and shifts by one: source, factor and offset."""
    if node.op == "affine":
        return node.inputs["input"], float(node.attributes["factor"]), float(node.attributes["offset"])
    if node.op not in ("add", "sub", "mul", "div") or node.attributes.get("activation", "none") != "none":
        return None
    first, second = _number(node, "input", nodes), _number(node, "other", nodes)
    if second is not None and first is None:
        source = node.inputs["input"]
        if node.op in ("add", "sub"):
            return source, 1.0, second if node.op == "add" else -second
        return (source, second if node.op == "mul" else 1 / second, 0.0) if second or node.op == "mul" else None
    if first is not None and second is None and node.op in ("add", "mul"):
        return node.inputs["other"], *((1.0, first) if node.op == "add" else (first, 0.0))
    return None


def _product(node: Node, nodes: Nodes, single: Single) -> tuple[float, list[Value]]:
    """Return a product as a number and at most a few values, through products that nobody else reads."""
    step = _linear(node, nodes)
    if step is not None:
        source, factor, offset = step
        if offset != 0:
            return 1.0, []
        inner, values = _factors(source, nodes, single)
        return factor * inner, values
    if node.op != "mul":
        return 1.0, []
    (a, first), (b, second) = (_factors(source, nodes, single) for source in node.inputs.values())
    return a * b, [*first, *second]


def _factors(value: Value, nodes: Nodes, single: Single) -> tuple[float, list[Value]]:
    node = nodes[value]
    if node.op in ("mul", "div", "affine") and single(value):
        factor, values = _product(node, nodes, single)
        if values:
            return factor, values
    return 1.0, [value]


def _is_near(number: float, other: float) -> bool:
    return math.isclose(number, other, rel_tol=_NEAR)


# Activations


def _bounds(node: Node) -> tuple[float, float]:
    low, high = node.attributes["min"], node.attributes["max"]
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _clamped(node: Node, nodes: Nodes) -> Node:
    """Return a clamp as the activation that it is, if it is one."""
    bounds = _bounds(node)
    if bounds == (0, 1):
        step = _linear(nodes[node.inputs["input"]], nodes)
        if step is not None and _is_near(step[1], 1 / 6) and _is_near(step[2], 0.5):
            return Node("hardsigmoid", {"input": step[0]}, {}, node.shape, node.dtype)
    names: dict[tuple[float, float], str] = {(0.0, 6.0): "relu6", (0.0, math.inf): "relu"}
    name = names.get(bounds)
    return node if name is None else Node(name, node.inputs, {}, node.shape, node.dtype)


def _activation(factor: float, values: list[Value], nodes: Nodes) -> tuple[str, Value, Mapping[str, Any]] | None:
    """Return the activation that a product of two is: its name, its input and its arguments."""
    for source, gate in (values, values[::-1]):
        node = nodes[gate]
        reads = node.inputs.get("input")
        if node.op == "sigmoid" and reads == source and factor == 1:
            return "silu", source, {}
        if node.op == "hardsigmoid" and reads == source and factor == 1:
            return "hardswish", source, {}
        shifted = _linear(nodes[reads], nodes) if node.op == "relu6" and reads is not None else None
        if shifted == (source, 1.0, 3.0) and _is_near(factor, 1 / 6):
            return "hardswish", source, {}
        step = _linear(node, nodes)
        if step is not None and step[1:] == (1.0, 1.0) and _is_near(factor, 0.5):
            inner = nodes[step[0]]
            scaled = _linear(nodes[inner.inputs["input"]], nodes) if inner.op == "erf" else None
            if scaled is not None and scaled[0] == source and scaled[2] == 0 and _is_near(scaled[1], math.sqrt(0.5)):
                return "gelu", source, {"approximate": "none"}
    return None


# Norms


def _frozen(array: Any) -> Any:
    values = np.ascontiguousarray(array, np.float32).copy()
    values.flags.writeable = False
    return values


def _batch_norm(node: Node, source: Value, factor: Any, shift: Any) -> Node:
    """Return a batch norm that does nothing but multiply and shift."""
    with np.errstate(all="ignore"):
        given = {"weight": _frozen(factor), "bias": _frozen(shift)}
    plain = {"running_mean": _frozen(np.zeros(len(factor))), "running_var": _frozen(np.ones(len(factor)))}
    attributes = {**plain, **given, "training": False, "momentum": 0.1, "eps": 0.0}
    return Node("batch_norm", {"input": source}, attributes, node.shape, node.dtype)


def _channel_step(node: Node, nodes: Nodes) -> tuple[Value, Any, Any] | None:
    """Return what a node does to channels with constants: source, factors and shifts in float64."""
    if node.op not in ("add", "sub", "mul", "div") or len(node.shape) < 4:
        return None
    if node.attributes.get("activation", "none") != "none":
        return None
    channels = node.shape[1]
    for name, other in (("input", "other"), ("other", "input")):
        source = node.inputs.get(name)
        if source is None or nodes[source].op == "constant" or nodes[source].shape != node.shape:
            continue
        vector = _channel_vector(node, other, nodes, channels)
        if vector is None or (name == "other" and node.op in ("sub", "div")):
            continue
        ones, zeros = np.ones(channels), np.zeros(channels)
        with np.errstate(all="ignore"):
            if node.op in ("add", "sub"):
                return source, ones, vector if node.op == "add" else -vector
            return source, vector if node.op == "mul" else 1 / vector, zeros
    return None


def _channel_vector(node: Node, name: str, nodes: Nodes, channels: int) -> Any:
    """Return an argument that is a constant for each channel, or one number, in float64."""
    one = _number(node, name, nodes)
    if one is not None:
        return np.full(channels, one)
    constant = nodes[node.inputs[name]] if name in node.inputs else None
    if constant is None or constant.op != "constant" or not isinstance(constant.attributes["value"], np.ndarray):
        return None
    array, behind = constant.attributes["value"], (1,) * (len(node.shape) - 2)
    if array.dtype != np.float32 or array.shape not in ((channels, *behind), (1, channels, *behind)):
        return None
    return array.reshape(-1).astype(np.float64)


def _standardised(node: Node, nodes: Nodes) -> tuple[Value, Shape, float] | None:
    """Return source, shape of a row, and what is added to the variance, of rows that are standardised."""
    if node.op != "div" or node.inputs.keys() != {"input", "other"}:
        return None
    centred, root = node.inputs["input"], nodes[node.inputs["other"]]
    inner = nodes[root.inputs["input"]] if root.op == "sqrt" else None
    step = None if inner is None else _linear(inner, nodes)
    if step is None or step[1] != 1 or step[2] <= 0:
        return None
    variance, difference = nodes[step[0]], nodes[centred]
    dims = _last_dims(variance, nodes)
    if dims is None or difference.op != "sub" or difference.inputs.keys() != {"input", "other"}:
        return None
    square, mean = nodes[variance.inputs["input"]], nodes[difference.inputs["other"]]
    squared = {*square.inputs.values()} if square.op in ("square", "mul") else set()
    if squared != {centred} or (square.op == "mul" and len(square.inputs) != 2):
        return None
    source = difference.inputs["input"]
    if _last_dims(mean, nodes) != dims or mean.inputs["input"] != source:
        return None
    return source, tuple(node.shape[-dims:]), step[2]


def _last_dims(node: Node, nodes: Nodes) -> int | None:
    """Return over how many of the last dimensions a mean is taken that keeps them."""
    if node.op != "mean" or not node.attributes["keepdim"] or node.attributes["dim"] is None:
        return None
    ndim, given = len(node.shape), node.attributes["dim"]
    dims = sorted(dim % ndim for dim in (given if isinstance(given, (list, tuple)) else (given,)))
    return len(dims) if dims == list(range(ndim - len(dims), ndim)) else None


def _with_weight(
    node: Node,
    nodes: Nodes,
    single: Single,
    norm: str,
    shape_of: Callable[[Node], Shape],
    *,
    channels: bool = False,
) -> Node:
    """Give a norm the weight or the bias by which a node multiplies or shifts its result."""
    if node.op not in ("add", "mul") or len(node.inputs) != 2 or node.attributes.get("activation", "none") != "none":
        return node
    for source, other in (tuple(node.inputs.values()), tuple(node.inputs.values())[::-1]):
        before, constant = nodes[source], nodes[other]
        name = "weight" if node.op == "mul" else "bias"
        if before.op != norm or constant.op != "constant" or not single(source) or before.shape != node.shape:
            continue
        array, shape = constant.attributes["value"], tuple(shape_of(before))
        free = before.attributes[name] is None and (name == "bias" or before.attributes["bias"] is None)
        behind = (1,) * (len(node.shape) - 2) if channels else ()
        fits = isinstance(array, np.ndarray) and array.shape in ((*shape, *behind), (1, *shape, *behind))
        if free and fits and (channels or array.shape == shape) and array.dtype == np.float32:
            return replace(before, attributes={**before.attributes, name: _frozen(array.reshape(shape))})
    return node


def _is_all(array: Any, value: float) -> bool:
    return array is None or (isinstance(array, np.ndarray) and bool((array == value).all()))


# Padding and orders


def _four_sides(padding: Any) -> tuple[int, int, int, int]:
    """Return padding as top, bottom, left and right."""
    if len(padding) == 4:
        return tuple(padding)
    height, width = padding if len(padding) == 2 else (padding[0], padding[0])
    return height, height, width, width


def _positive(node: Node) -> tuple[int, ...]:
    return tuple(dim % len(node.shape) for dim in node.attributes["dims"])


def _moves_past(node: Node, before: list[Node]) -> bool:
    """Whether a node computes the same before a permute, which all of its arguments come from."""
    if node.results or not before:
        return False
    pointwise = traits_named(node.op).elementwise or (node.op == "affine")
    plain = not any(isinstance(each, np.ndarray) for each in node.attributes.values())
    return pointwise and plain and all(each.shape == node.shape for each in before)
