"""Replays the operations of a graph one by one: on arrays, symbols or variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from convlane.functional._op import operations, split_name
from convlane.graph.trace import Node, Value


def arguments(node: Node, result_of: Callable[[Value], Any]) -> dict[str, Any]:
    """Return all arguments of a node's operation by name, given what stands for the result of another node."""
    given = dict(node.attributes)
    for name, source in node.inputs.items():
        argument, index = split_name(name)
        if index is None:
            given[argument] = result_of(source)
        else:
            given.setdefault(argument, []).append(result_of(source))
    return given


def run(node: Node, results: Mapping[Value, Any]) -> Any:
    """Compute a node's result."""
    if node.op == "constant":
        return node.attributes["value"]
    if node.op == "item":
        return results[node.inputs["input"]][node.attributes["index"]]
    return operations()[node.op](**arguments(node, results.__getitem__))


def interpret(nodes: Mapping[Value, Node], wanted: Iterable[Value], *inputs: Any) -> Iterator[tuple[Value, Any]]:
    """Run a network again and yield the wanted results as they are computed; each is dropped after its last reader."""
    asked = set(wanted)
    last = {value: value for value in asked}  # who reads it last
    for value in reversed(list(nodes)):
        if value in last:
            for source in nodes[value].inputs.values():
                last[source] = max(value, last.get(source, value))
    found: dict[Value, Any] = {}
    given = iter(inputs)
    for value, node in nodes.items():
        if node.op == "input":
            found[value] = next(given)
        elif value in last:
            found[value] = run(node, found)
        if value in asked:
            yield value, found[value]
        for source in {value, *node.inputs.values()}:
            if last.get(source) == value:
                del found[source]
