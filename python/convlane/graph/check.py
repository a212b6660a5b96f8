"""Whether a graph keeps the rules of its operations: what tracing guarantees, for graphs that come from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np

from convlane.functional._op import Shape, hints_of, operations, rules, signature_of
from convlane.graph.passes import JOINED, unjoin
from convlane.graph.trace import INPUT, OUTPUTS, Graph, Node, Value
from convlane.graph.weights import Weight
from convlane.safetensors_file import shown

_OPERATIONS = operations()


def check_graph(graph: Graph) -> Graph:
    """Refuse a graph whose nodes do not fit together; return it with the multiply-adds counted.

    Raises
    ------
    TypeError
        An argument of a node is missing, unknown, or of another type than its operation takes.
    ValueError
        An unknown operation, a value that is read before it is computed, or a shape that is not what an operation
        makes of its arguments.
    """
    nodes: dict[Value, Node] = {}
    for value, node in graph.nodes.items():
        try:
            nodes[value] = node if value == INPUT else _checked(node, nodes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"node {value}: {error}") from None
    if any(node.op == OUTPUTS and value != graph.output for value, node in nodes.items()):
        raise ValueError(f"{OUTPUTS}: it must be the output")
    if nodes[graph.output].op == OUTPUTS:
        return Graph(nodes, graph.output, graph.output_shape)
    shape = nodes[graph.output].shape
    if graph.output_shape not in (shape, _flat(shape)):
        raise ValueError(f"the output has the shape {shape}, not {graph.output_shape}")
    return Graph(nodes, graph.output, graph.output_shape)


@dataclass(frozen=True)
class _Computed:
    """Stands for an argument that is computed, of which only the shape is known."""

    shape: Shape


def _checked(node: Node, nodes: Mapping[Value, Node]) -> Node:
    """Return the node with its multiply-adds; its arguments must stand in `nodes`."""
    if unknown := [source for source in node.inputs.values() if source not in nodes]:
        raise ValueError(f"{node.op}: it reads the value {unknown[0]} before that is computed")
    if any(nodes[source].op == OUTPUTS for source in node.inputs.values()):
        raise ValueError(f"{node.op}: it reads the outputs, which are several arrays")
    shapes = {name: nodes[source].shape for name, source in node.inputs.items()}
    if node.op == OUTPUTS:
        return _checked_outputs(node, shapes)
    rule = _infer_joined if node.op in JOINED else _infer_operation
    shape, multiply_adds = rule(node, shapes)
    if shape != node.shape:
        raise ValueError(f"{node.op}: its result has the shape {shape}, not {node.shape}")
    return replace(node, multiply_adds=multiply_adds)


def _checked_outputs(node: Node, shapes: Mapping[str, Shape]) -> Node:
    names, keys = ([f"{name}[{i}]" for i in range(len(shapes))] for name in (OUTPUTS, "shapes"))
    if list(shapes) != names or list(node.attributes) != keys:
        raise TypeError(f"{OUTPUTS}: it must have results and their shapes, in order")
    for shape, given in zip(shapes.values(), node.attributes.values(), strict=True):
        if given not in (shape, _flat(shape)):
            raise ValueError(f"{OUTPUTS}: a result has the shape {shape}, not {shown(given)}")
    if node.shape != node.attributes[keys[0]]:
        raise ValueError(f"{OUTPUTS}: its shape must be the first result's")
    return node


def _infer_operation(node: Node, shapes: Mapping[str, Shape]) -> tuple[Shape, int]:
    """Shape and multiply-adds by the rules of the node's operation."""
    operation = _OPERATIONS.get(node.op)
    if operation is None:
        raise ValueError(f"there is no operation {shown(node.op)}")
    if len(node.shape) == 2 and node.op != "flatten":
        # Passes drop a flattening that changes nothing in memory, and one before a linear layer, whose columns they
        # sort instead.
        shapes = {
            name: _flat(shape) if node.op == "linear" or 1 in (shape[1], math.prod(shape[2:])) else shape
            for name, shape in shapes.items()
        }
    arguments: dict[str, Any] = {name: value for name, value in node.attributes.items() if name not in shapes}
    for name, shape in shapes.items():
        sequence = name.partition("[")[0]
        if sequence == name:
            arguments[name] = _Computed(shape)
            continue
        items = arguments.setdefault(sequence, [])
        if not isinstance(items, list) or name != f"{sequence}[{len(items)}]":
            raise TypeError(f"{node.op}: {shown(name)} is out of order")
        items.append(_Computed(shape))
    _check_arguments(node.op, operation, arguments)
    known = rules(operation)
    return known.shape(**arguments), known.multiply_adds(**arguments)


def _infer_joined(node: Node, shapes: Mapping[str, Shape]) -> tuple[Shape, int]:
    """Shape and multiply-adds of operations one after the other, if the pass that joins them would do so."""
    parts: Any = node.attributes.get("parts")
    has_parts = isinstance(parts, (list, tuple)) and bool(parts) and all(isinstance(part, Node) for part in parts)
    if not has_parts or len(node.attributes) > 1 or not {"input"} <= shapes.keys() <= {"input", "residual"}:
        raise TypeError(f"{node.op}: it must have parts, an input and perhaps a residual")
    nodes = {value: Node("input", shape=shape) for value, shape in enumerate(shapes.values())}
    first = len(nodes)
    last = first + len(parts) - 1
    whole = replace(node, inputs=dict(zip(shapes, nodes, strict=True)))
    for value, part in unjoin(whole, last, range(first, last)):
        nodes[value] = _checked(part, nodes)
    joined = JOINED[node.op].join(Graph(nodes, last, nodes[last].shape)).nodes[last]
    if joined.op != node.op or len(joined.attributes["parts"]) != len(parts):
        raise ValueError(f"{node.op}: its parts cannot be joined")
    return joined.shape, joined.multiply_adds


def _check_arguments(op: str, operation: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Hold the arguments against the operation's signature, which is also what users are told."""
    names = signature_of(operation).parameters
    wrong = sorted(names.keys() ^ arguments.keys())
    if wrong:
        raise TypeError(f"{op}: {shown(wrong[0])} is {'missing' if wrong[0] in names else 'no argument of it'}")
    for name, hint in hints_of(operation).items():
        if name != "return" and not _fits(arguments[name], hint):
            raise TypeError(f"{op}: {name} is of the wrong type")


def _fits(value: Any, hint: Any) -> bool:
    origin, parameters = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, parameter) for parameter in parameters)
    if origin is np.ndarray:
        return isinstance(value, (np.ndarray, Weight, _Computed))
    if origin is tuple:
        return isinstance(value, (list, tuple)) and len(value) == len(parameters) and all(map(_fits, value, parameters))
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and all(_fits(item, parameters[0]) for item in value)
    return isinstance(value, (int, float) if hint is float else hint)


def _flat(shape: Shape) -> Shape:
    return (shape[0], math.prod(shape[1:]))
