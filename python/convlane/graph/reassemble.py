"""Passes that reassemble what other libraries' exporters take apart: activations, norms, padding, layouts.

Each takes a graph and returns an equivalent one, as do the passes of `convlane.graph.passes`, which run them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from convlane.functional._op import Shape, traits_named
from convlane.graph.trace import INPUT, Graph, Node, Value

Nodes: TypeAlias = Mapping[Value, Node]
Single: TypeAlias = Callable[[Value], bool]
"""Whether a value has only one reader."""

_NEAR = 1e-4  # relative: exporters round constants, to three digits of 1/6 and seven of the root of 2


def join_activations(graph: Graph) -> Graph:
    """Recognise ReLU6, hard-sigmoid, hard-swish, SiLU and the erf form of GELU in the operations they are made of."""

    def join(node: Node, nodes: Nodes, single: Single) -> Node:
        if node.op == "clamp":
            return _clamped(node, nodes)
        if node.op in ("maximum", "minimum"):
            return _bounded(node, nodes)
        if node.op not in ("mul", "div", "affine"):
            return node
        factor, values = _product(node, nodes, single)
        found = _activation(factor, values, nodes) if len(values) == 2 else None
        return node if found is None else Node(found[0], {"input": found[1]}, dict(found[2]), node.shape, node.dtype)

    return _each(graph, join)


def join_channel_factors(graph: Graph) -> Graph:
    """Make a batch norm of operations that scale and shift the channels of a convolution's result by constants.

    A mere addition becomes the convolution's bias at once.
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
    """Recognise layer norm: a difference from the mean, divided by the root of the mean of its square."""

    def join(node: Node, nodes: Nodes, single: Single) -> Node:
        found = _standardised(node, nodes)
        if found is not None:
            source, shape, eps = found
            attributes = {"normalized_shape": shape, "weight": None, "bias": None, "eps": eps}
            return Node("layer_norm", {"input": source}, attributes, node.shape, node.dtype)
        return _with_weight(node, nodes, single, "layer_norm", lambda before: before.attributes["normalized_shape"])

    return _each(graph, join)


def join_group_norm(graph: Graph) -> Graph:
    """Recognise group norm: an instance norm of channels that a reshape has put into groups."""

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
    """Let a convolution pad its images with zeros instead of a step before it."""

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


def join_linear_bias(graph: Graph) -> Graph:
    """Make a constant row that is added to the result of a linear layer without a bias its bias."""

    def join(node: Node, nodes: Nodes, single: Single) -> Node:
        if node.op != "add" or len(node.inputs) != 2 or node.attributes["activation"] != "none":
            return node
        for source, other in (tuple(node.inputs.values()), tuple(node.inputs.values())[::-1]):
            before, constant = nodes[source], nodes[other]
            if before.op != "linear" or constant.op != "constant" or not single(source) or before.shape != node.shape:
                continue
            at, array = before.attributes, constant.attributes["value"]
            plain = "bias" not in before.inputs and at["bias"] is None and at["activation"] == "none"
            if plain and array.dtype == np.float32 and array.shape[-1:] == (array.size,) == node.shape[-1:]:
                given = {**at, "bias": _frozen(array.reshape(-1))}
                return replace(before, attributes=given, fused=(*before.fused, node.op))
        return node

    return _each(graph, join)


def join_permutes(graph: Graph) -> Graph:
    """Move operations before a permutation of dimensions where possible, and merge permutations that become adjacent.

    So the transposes around each layer of a network from a channels-last library cancel out. Those of an input move
    first, before its elementwise operations.
    """
    if all(node.op != "permute" for node in graph.nodes.values()):
        return graph
    free = itertools.count(max(graph.nodes) + 1)
    same: dict[Value, Value] = {}
    nodes: dict[Value, Node] = {}
    for value, read in graph.nodes.items():
        node = read.reading({name: same.get(source, source) for name, source in read.inputs.items()})
        order = _common_order(node, nodes)
        moved = None if order is None else _moved(node, order, nodes)
        if node.op == "permute":
            dims = _positive(node)
            if order is not None:
                dims = tuple(order[dim] for dim in dims)
                node = node.reading(nodes[node.inputs["input"]].inputs)
            node = replace(node, attributes={"dims": dims})
            if dims == tuple(range(len(dims))):
                same[value] = node.inputs["input"]
                continue
        elif order is not None and moved is not None:
            attributes, left = moved
            inputs = {}
            for name, source in node.inputs.items():
                if nodes[source].op == "permute":
                    inputs[name] = nodes[source].inputs["input"]
                elif node.op == "index_select":
                    inputs[name] = source
                else:
                    inputs[name] = next(free)
                    nodes[inputs[name]] = _transposed(nodes[source], _inverse(order))
            shape = tuple(node.shape[left.index(dim)] for dim in range(len(left)))
            node = replace(node, inputs=inputs, attributes={**node.attributes, **attributes}, shape=shape)
            if left != tuple(range(len(left))):
                nodes[at := next(free)] = node
                node = Node("permute", {"input": at}, {"dims": left}, read.shape, node.dtype)
        nodes[value] = node
    return _permute_inputs(replace(graph, nodes=nodes, outputs=graph.renamed(same)).pruned(), free)


def _permute_inputs(graph: Graph, free: Iterator[Value]) -> Graph:
    """Permute an input's dimensions at once, not after elementwise operations on it."""
    users = graph.users()
    nodes: dict[Value, Node] = {}
    for value, node in graph.nodes.items():
        chain = _from_input(node, graph.nodes, users) if node.op == "permute" else []
        if len(chain) < 2:
            nodes[value] = node
            continue
        order, source = node.attributes["dims"], graph.nodes[chain[0]]
        nodes[at := next(free)] = replace(
            node, inputs={"input": chain[0]}, shape=tuple(source.shape[dim] for dim in order), dtype=source.dtype
        )
        for each in chain[1:]:
            step, inputs = graph.nodes[each], {}
            for name, operand in step.inputs.items():
                inputs[name] = at
                if graph.nodes[operand].op == "constant":
                    inputs[name] = next(free)
                    nodes[inputs[name]] = _transposed(graph.nodes[operand], order)
            at = value if each == chain[-1] else next(free)
            nodes[at] = replace(step, inputs=inputs, shape=tuple(step.shape[dim] for dim in order))
    return replace(graph, nodes=nodes).pruned()


REASSEMBLING = (
    join_permutes,
    join_activations,
    join_layer_norm,
    join_group_norm,
    join_padding,
    join_linear_bias,
    join_channel_factors,
)
"""In an order in which each finds what those before it have made."""


def _each(graph: Graph, rule: Callable[[Node, Nodes, Single], Node]) -> Graph:
    """Ask what becomes of each node, given the nodes so far; remove unused ones."""
    users = graph.users()
    nodes = dict(graph.nodes)
    for value, node in graph.nodes.items():
        nodes[value] = rule(node, nodes, lambda source: len(users[source]) == 1)
    return replace(graph, nodes=nodes).pruned()


# Numbers and products


def _number(node: Node, name: str, nodes: Nodes) -> float | None:
    """Return an argument that is a single number."""
    if name in node.inputs:
        source = nodes[node.inputs[name]]
        value: Any = source.attributes["value"] if source.op == "constant" else None
        small = isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= len(node.shape)
        return float(value.reshape(-1)[0]) if small else None
    value = node.attributes.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _linear(node: Node, nodes: Nodes) -> tuple[Value, float, float] | None:
    """Return what a node scales and shifts by single numbers: source, factor and offset."""
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
    """Return a product as a number and at most a few values, looking through products that have no other readers."""
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
    """Return the activation that a clamp is, if it is one."""
    bounds = _bounds(node)
    if bounds == (0, 1):
        step = _linear(nodes[node.inputs["input"]], nodes)
        if step is not None and _is_near(step[1], 1 / 6) and _is_near(step[2], 0.5):
            return Node("hardsigmoid", {"input": step[0]}, {}, node.shape, node.dtype)
    names: dict[tuple[float, float], str] = {(0.0, 6.0): "relu6", (0.0, math.inf): "relu"}
    name = names.get(bounds)
    return node if name is None else Node(name, node.inputs, {}, node.shape, node.dtype)


def _bounded(node: Node, nodes: Nodes) -> Node:
    """Return a maximum with 0 as ReLU, and a minimum of that with 6 as ReLU6."""
    for name, other in (("input", "other"), ("other", "input")):
        bound = None if name not in node.inputs else _number(node, other, nodes)
        source = node.inputs.get(name, INPUT)
        if bound is None or nodes[source].shape != node.shape or nodes[source].dtype != np.float32:
            continue
        if node.op == "maximum" and bound == 0:
            return Node("relu", {"input": source}, {}, node.shape, node.dtype)
        if node.op == "minimum" and bound == 6 and nodes[source].op == "relu":
            return Node("relu6", nodes[source].inputs, {}, node.shape, node.dtype)
    return node


def _activation(factor: float, values: list[Value], nodes: Nodes) -> tuple[str, Value, Mapping[str, Any]] | None:
    """Return the activation that a product of two values is: its name, its input and its arguments."""
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
    """Return a batch norm that only scales and shifts."""
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
    """Return an argument that is one constant per channel, or one number, in float64."""
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
    """Return source, shape of a row, and the term added to the variance, of rows that are standardised."""
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
    """Return over how many of the last dimensions a mean is taken, if it keeps them."""
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
    """Give a norm the weight or the bias by which a node scales or shifts its result."""
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


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(dim) for dim in range(len(order)))


def _transposed(constant: Node, order: Sequence[int]) -> Node:
    """Return a constant as it broadcasts after the dimensions are permuted."""
    array = constant.attributes["value"]
    if array.size == 1:
        return constant
    whole = array.reshape((1,) * (len(order) - array.ndim) + array.shape).transpose(order)
    ones = next(i for i, size in enumerate(whole.shape) if size != 1)
    kept = np.ascontiguousarray(whole.reshape(whole.shape[ones:] if array.ndim < len(order) else whole.shape))
    kept.flags.writeable = False
    return replace(constant, attributes={"value": kept}, shape=kept.shape)


def _common_order(node: Node, nodes: Nodes) -> tuple[int, ...] | None:
    """Return the order to which all arguments have been permuted, except for constants."""
    before = [nodes[source] for source in node.inputs.values() if nodes[source].op != "constant"]
    orders = {_positive(each) if each.op == "permute" else None for each in before}
    return orders.pop() if len(orders) == 1 else None


def _from_input(permute: Node, nodes: Nodes, users: Mapping[Value, list[Value]]) -> list[Value]:
    """Return an input and the elementwise operations on it that a permute reads, if it reads these."""
    chain = [permute.inputs["input"]]
    while nodes[chain[0]].op != "input":
        step = nodes[chain[0]]
        computed = [source for source in step.inputs.values() if nodes[source].op != "constant"]
        alone = len(computed) == 1 and len(users[chain[0]]) == 1 and nodes[computed[0]].shape == step.shape
        if not (alone and _is_plain(step)):
            return []
        chain.insert(0, computed[0])
    return chain


def _is_plain(node: Node) -> bool:
    """Whether a node is elementwise, whatever the order of dimensions."""
    arrays = any(isinstance(each, np.ndarray) for each in node.attributes.values())
    return (traits_named(node.op).elementwise or node.op in _OF_NUMBERS) and not arrays and not node.results


_OF_NUMBERS = frozenset(
    {"affine", "eq", "ge", "gt", "le", "lt", "ne", "where", "logical_and", "logical_or", "logical_not"}
)
_ALONG_ONE = frozenset({"cat", "narrow", "strided_slice", "softmax", "log_softmax", "cumsum"})
_REDUCE = frozenset({"mean", "sum", "amax", "amin", "prod", "var"})


def _moved(node: Node, order: tuple[int, ...], nodes: Nodes) -> tuple[dict[str, Any], tuple[int, ...]] | None:
    """Return a node as it runs before a permute of its arguments, and the order that its result then needs."""
    rank, at = len(order), node.attributes
    constants = [nodes[source].shape for source in node.inputs.values() if nodes[source].op == "constant"]
    if _is_plain(node):
        fits = len(node.shape) == rank and all(len(shape) <= rank for shape in constants)
        return ({}, order) if fits else None
    if node.op == "index_select":
        return ({"dim": order[at["dim"] % rank]}, order) if nodes[node.inputs["input"]].op == "permute" else None
    if node.op in _ALONG_ONE and all(len(shape) == rank for shape in constants):
        return {"dim": order[at["dim"] % rank]}, order
    if node.op in _REDUCE and at["dim"] is not None:
        given = at["dim"] if isinstance(at["dim"], (list, tuple)) else (at["dim"],)
        gone = {order[dim % rank] for dim in given}
        kept = [dim for dim in order if at["keepdim"] or dim not in gone]
        return {"dim": tuple(sorted(gone))}, tuple(sorted(kept).index(dim) for dim in kept)
    if node.op == "pad":
        sides = at["pad"]
        pairs = {order[rank - 1 - i]: sides[2 * i : 2 * i + 2] for i in range(len(sides) // 2)}
        few = rank - min(pairs, default=rank - 1)
        return {"pad": tuple(side for i in range(few) for side in pairs.get(rank - 1 - i, (0, 0)))}, order
    return None
