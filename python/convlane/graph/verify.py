"""Checks that a graph follows the rules of its operations, as traced ones do: for graphs that come from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin

import numpy as np

from convlane.functional._op import DType, Shape, hints_of, operations, rules, signature_of, split_name
from convlane.graph.interpret import arguments
from convlane.graph.passes import JOINED, unjoin
from convlane.graph.trace import SOURCES, Graph, Node, Value
from convlane.graph.weights import Weight
from convlane.safetensors_file import shown

_OPERATIONS = operations()


def verify(graph: Graph) -> Graph:
    """Refuse a graph whose nodes do not fit together; return it with the multiply-adds counted.

    Raises
    ------
    TypeError
        An argument of a node is missing, unknown, or of another type than its operation takes.
    ValueError
        An unknown operation, a value that is read before it is computed, or a shape or type that is not what an
        operation makes of its arguments.
    """
    nodes: dict[Value, Node] = {}
    for value, node in graph.nodes.items():
        try:
            nodes[value] = _verified(node, nodes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"node {value}: {error}") from None
    if len(graph.inputs) < sum(node.op == "input" for node in nodes.values()):
        raise ValueError("two inputs have the same name")
    named = isinstance(graph.returns, (list, dict)) and sorted(_names_in(graph.returns)) == sorted(graph.outputs)
    if not (named or graph.returns in ("array", "tuple", "dict")) or not graph.outputs:
        raise ValueError(f"it must return an array, a tuple or a dict, not {shown(graph.returns)}")
    if graph.returns == "array" and len(graph.outputs) > 1:
        raise ValueError(f"{len(graph.outputs)} outputs are not an array")
    for name, value in graph.outputs.items():
        if type(value) is not int:
            raise TypeError(f"an output must be a value, got {shown(value)}")
        if value not in nodes or nodes[value].results:
            raise ValueError(f"the output {shown(name)} is the value {value}, which is not an array of the graph")
    return replace(graph, nodes=nodes)


def _names_in(container: Any) -> list[str]:
    """Return the names of outputs in containers, in which there may also be None."""
    if isinstance(container, (list, dict)):
        inner = container.values() if isinstance(container, dict) else container
        return [name for each in inner for name in _names_in(each)]
    if container is None:
        return []
    if not isinstance(container, str):
        raise TypeError(f"the name of an output must be a string, got {shown(container)}")
    return [container]


@dataclass(frozen=True)
class _Computed:
    """Stands for a computed argument of which only shape and type are known."""

    shape: Shape
    dtype: DType


def _verified(node: Node, nodes: Mapping[Value, Node]) -> Node:
    """Return the node with its multiply-adds; its arguments must be in `nodes`."""
    if unknown := [source for source in node.inputs.values() if source not in nodes]:
        raise ValueError(f"{node.op}: it reads the value {unknown[0]} before that is computed")
    if node.op in SOURCES:
        return _verified_source(node)
    if node.op == "item":
        return _verified_item(node, nodes)
    if any(nodes[source].results for source in node.inputs.values()):
        raise ValueError(f"{node.op}: it reads several arrays as one")
    given = {name: _Computed(nodes[source].shape, nodes[source].dtype) for name, source in node.inputs.items()}
    rule = _infer_joined if node.op in JOINED else _infer_operation
    results, multiply_adds = rule(node, given)
    have = node.results or ((node.shape, node.dtype),)
    for (shape, dtype), (claimed, claimed_dtype) in zip(results, have, strict=True):
        if shape != claimed:
            raise ValueError(f"{node.op}: its result has the shape {shape}, not {claimed}")
        if dtype != claimed_dtype:
            raise ValueError(f"{node.op}: its result is of the type {dtype}, not {claimed_dtype}")
    return replace(node, multiply_adds=multiply_adds)


def _verified_source(node: Node) -> Node:
    """Check a node that is given: an input has a name, a constant its value."""
    if node.inputs or node.results:
        raise TypeError(f"{node.op}: it is given and reads nothing")
    if node.op == "input":
        if node.attributes.keys() != {"name"} or not isinstance(node.attributes["name"], str):
            raise TypeError("input: it must have a name")
        return node
    value = node.attributes.get("value")
    if node.attributes.keys() != {"value"} or not isinstance(value, (np.ndarray, Weight)):
        raise TypeError("constant: it must have an array as its value")
    if (tuple(value.shape), value.dtype) != (node.shape, node.dtype):
        raise ValueError(f"constant: its value has the shape {tuple(value.shape)}, not {node.shape}")
    return node


def _verified_item(node: Node, nodes: Mapping[Value, Node]) -> Node:
    """Check one of several results."""
    index = node.attributes.get("index")
    if node.inputs.keys() != {"input"} or node.attributes.keys() != {"index"} or type(index) is not int:
        raise TypeError("item: it must have an input and an index")
    results = nodes[node.inputs["input"]].results
    if not 0 <= index < len(results) or results[index] != (node.shape, node.dtype):
        raise ValueError(f"item: there is no result {index} of shape {node.shape}")
    return node


_Results: TypeAlias = tuple[tuple[Shape, DType], ...]


def _infer_operation(node: Node, given: Mapping[str, _Computed]) -> tuple[_Results, int]:
    """Shapes, types and multiply-adds by the rules of the node's operation."""
    operation = _OPERATIONS.get(node.op)
    if operation is None:
        raise ValueError(f"there is no operation {shown(node.op)}")
    counts: Counter[str] = Counter()
    for name in node.inputs:
        argument, i = split_name(name)
        if i is not None and (i != counts[argument] or argument in node.attributes):
            raise TypeError(f"{node.op}: {shown(name)} is out of order")
        counts[argument] += 1
    named = arguments(replace(node, inputs={name: i for i, name in enumerate(given)}), list(given.values()).__getitem__)
    _check_arguments(node.op, operation, named)
    known = rules(operation)
    shape, dtype = known.shape(**named), known.dtype(**named)
    adds = known.multiply_adds(shape, **named)
    results = tuple(zip(shape, dtype, strict=True)) if isinstance(dtype, tuple) else ((shape, dtype),)
    if len(results) != max(len(node.results), 1) or isinstance(dtype, tuple) != bool(node.results):
        raise ValueError(f"{node.op}: it has {len(results)} results")
    return results, adds


def _infer_joined(node: Node, given: Mapping[str, _Computed]) -> tuple[_Results, int]:
    """Check operations one after the other, and that the pass that joins them would do so."""
    parts: Any = node.attributes.get("parts")
    has_parts = isinstance(parts, (list, tuple)) and bool(parts) and all(isinstance(part, Node) for part in parts)
    if not has_parts or len(node.attributes) > 1 or not {"input"} <= given.keys() <= {"input", "residual"}:
        raise TypeError(f"{node.op}: it must have parts, an input and perhaps a residual")
    nodes = {value: Node("input", {}, {"name": name}, each.shape) for value, (name, each) in enumerate(given.items())}
    first = len(nodes)
    last = first + len(parts) - 1
    whole = replace(node, inputs=dict(zip(given, nodes, strict=True)))
    for value, part in unjoin(whole, last, range(first, last)):
        nodes[value] = _verified(part, nodes)
    joined = JOINED[node.op].join(Graph(nodes, {"output": last})).nodes[last]
    if joined.op != node.op or len(joined.attributes["parts"]) != len(parts):
        raise ValueError(f"{node.op}: its parts cannot be joined")
    return ((joined.shape, joined.dtype),), joined.multiply_adds


def _check_arguments(op: str, operation: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check the arguments against the operation's signature, which is also the users' documentation."""
    names = signature_of(operation).parameters
    wrong = sorted(names.keys() ^ arguments.keys())
    if wrong:
        raise TypeError(f"{op}: {shown(wrong[0])} is {'missing' if wrong[0] in names else 'not an argument of it'}")
    for name, hint in hints_of(operation).items():
        if name != "return" and not _fits(arguments[name], hint):
            raise TypeError(f"{op}: {name} is of the wrong type")


def _fits(value: Any, hint: Any) -> bool:
    origin, parameters = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, parameter) for parameter in parameters)
    if origin is np.ndarray:
        return isinstance(value, (np.ndarray, Weight, _Computed))
    if origin is tuple and parameters[-1] is not ...:
        return isinstance(value, (list, tuple)) and len(value) == len(parameters) and all(map(_fits, value, parameters))
    if origin is not None and issubclass(origin, (Sequence, tuple)):
        return isinstance(value, (list, tuple)) and all(_fits(item, parameters[0]) for item in value)
    return isinstance(value, (int, float) if hint is float else hint)
