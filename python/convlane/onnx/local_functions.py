"""Functions that a file defines, put where they are called, if what comes of it is no larger than a file may be."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from convlane.onnx._package import LoadError

_DEEPEST = 100  # calls within calls
_LARGEST = 1 << 28  # bytes of all nodes, once they are read
_A_NODE = 1 << 11  # of these, what each takes beside what stands in the file
_Key: TypeAlias = "tuple[str, str]"


def inlined(model: Any) -> Any:
    """Return a `ModelProto` in which no function of its own is called.

    Raises
    ------
    LoadError
        They call themselves or each other without end, or would make the file too large: a few that call each other
        twice grow without bound.
    """
    functions = {(each.domain, each.name): each for each in model.functions}
    sizes: dict[_Key, int] = {}
    for key in functions:
        _measure(functions, key, sizes, ())
    if _size(model.graph.node, sizes) > _LARGEST:
        raise LoadError(f"its functions make it larger than {_LARGEST >> 20} MB")
    return importlib.import_module("onnx.inliner").inline_local_functions(model)


def _measure(functions: Mapping[_Key, Any], key: _Key, sizes: dict[_Key, int], callers: tuple[_Key, ...]) -> None:
    """Find out how many bytes a function takes with those that it calls."""
    if key in sizes:
        return
    if key in callers:
        raise LoadError(f"its function {key[1][:80]!r} calls itself")
    if len(callers) == _DEEPEST:
        raise LoadError(f"its functions call each other more than {_DEEPEST} deep")
    for node in _nodes(functions[key].node):
        if (called := (node.domain, node.op_type)) in functions:
            _measure(functions, called, sizes, (*callers, key))
    sizes[key] = _size(functions[key].node, sizes)


def _size(nodes: Iterable[Any], sizes: Mapping[_Key, int]) -> int:
    return sum(_A_NODE + node.ByteSize() + sizes.get((node.domain, node.op_type), 0) for node in _nodes(nodes))


def _nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes, and those of graphs in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)
