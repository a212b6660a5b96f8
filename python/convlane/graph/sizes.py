"""The same network for inputs of other sizes: its operations stay, their shapes are inferred anew.

What a network does may depend on the sizes that it looks at (`Graph.seen`), and what passes make of it on which shapes
are equal and which sizes are 1. Where all that is as it was, nothing is traced or simplified again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from convlane.functional._op import DType, Shape, none, operations, rules
from convlane.graph.interpret import arguments
from convlane.graph.lower import check_supported
from convlane.graph.modules import module_names
from convlane.graph.passes import finish, results_between, simplify
from convlane.graph.trace import Graph, InputShape, Node, Value, trace

OpenShape: TypeAlias = tuple[int | None, ...]
"""A shape in which sizes may be open."""

_KEPT_PATTERNS = 8
_SOME_SIZE, _MORE = 224, 32  # which most networks take


class Network:
    """A network for inputs of any size: traced and simplified once, as far as that is the same for all."""

    def __init__(self, model: Callable[..., Any] | None, named: bool, traced: Graph | None = None) -> None:
        """Take a model, or what was traced of one that is not there; `named` tells that its inputs have names."""
        self._model, self.named = model, named
        self._traced = None if traced is None else _Traced(traced)

    def at(self, shapes: Mapping[str, Shape]) -> Graph:
        """Return the graph for inputs of these shapes, as all passes leave it.

        Raises
        ------
        TypeError, ValueError
            As of `trace`; or there is no model, and the network looks at sizes that are others here.
        """
        traced = self._traced
        with contextlib.suppress(*([] if self._model is None else [TypeError, ValueError])):  # tracing tells more
            if traced is not None and (known := infer(traced.graph, shapes)) is not None:
                return traced.at(known)
        if self._model is None:
            sizes = ", ".join(map(str, shapes.values()))
            raise ValueError(f"plan: the network looks at sizes, and may do something else than was saved for {sizes}")
        given = self._given(shapes)
        self._traced = traced = _Traced(trace(self._model, given), partial(module_names, self._model, given))
        return traced.at(infer(traced.graph, shapes) or {})

    def for_all(self, shapes: Mapping[str, OpenShape]) -> Graph:
        """Return what was traced, or is for some sizes: what the network does for all where these shapes are open.

        Raises
        ------
        ValueError
            It looks at a size that is open.
        """
        if self._traced is None:
            self.at({name: (1, *(size or _SOME_SIZE for size in shape[1:])) for name, shape in shapes.items()})
        graph = self._traced.graph  # type: ignore[union-attr]
        others = {}
        for name, value in graph.inputs.items():
            have = graph.nodes[value].shape[1:]
            others[name] = (1, *(size or got + _MORE for size, got in zip(shapes[name][1:], have, strict=True)))
        try:
            same = infer(graph, others) is not None
        except (TypeError, ValueError):  # these sizes are refused, which says nothing about all
            same = True
        if not same:
            raise ValueError("plan: the network looks at sizes that are open, and may do something else for others")
        return graph

    def _given(self, shapes: Mapping[str, Shape]) -> InputShape:
        if self.named:
            return shapes
        return tuple(shapes.values()) if len(shapes) > 1 else next(iter(shapes.values()))


class _Traced:
    """What was traced, and simplified for the patterns of shapes met lately."""

    def __init__(self, graph: Graph, modules: Callable[[], Mapping[Value, str]] = dict) -> None:
        self.graph = graph
        self._modules = modules
        self._simplified: dict[Hashable, Graph] = {}

    def at(self, known: Known) -> Graph:
        """Return the graph for shapes that `infer` has found."""
        pattern = pattern_of(known)
        simplified = self._simplified.get(pattern)
        if simplified is None:
            graph = simplified = simplify(sized(self.graph, known))
            # Of values that passes have made the shapes are not known, and rows that one has found are of these sizes.
            made = graph.nodes.keys() - known.keys()
            if not made and not _layer_norms(graph) - _layer_norms(self.graph):
                kept = list(self._simplified.items())[1 - _KEPT_PATTERNS :]
                self._simplified = {**dict(kept), pattern: graph}
        else:
            graph = sized(simplified, known)
        graph = finish(graph)
        check_supported(graph, self._modules)
        return graph


def _layer_norms(graph: Graph) -> set[Value]:
    return {value for value, node in graph.nodes.items() if node.op == "layer_norm"}


@dataclass(slots=True, eq=False)
class Computed:
    """Stands for a result of which only shape and type are known."""

    shape: Shape
    dtype: DType
    results: tuple[tuple[Shape, DType], ...] = ()
    """Of each, where there are several."""


Known: TypeAlias = Mapping[Value, Computed]


def infer(graph: Graph, shapes: Mapping[str, Shape]) -> Known | None:
    """Return what is known of all results for inputs of other shapes; None if the network looks at what has changed.

    Raises
    ------
    TypeError, ValueError
        An operation refuses the shape that reaches it.
    """
    seen: dict[Value, list[int]] = {}
    for value, dim in graph.seen:
        seen.setdefault(value, []).append(dim)
    known: dict[Value, Computed] = {}
    for value, node in graph.nodes.items():
        found = known[value] = _inferred(node, known, shapes)
        if value in seen and any(found.shape[dim] != node.shape[dim] for dim in seen[value]):
            return None
    return known


def pattern_of(known: Known) -> Hashable:
    """Return what passes go by: which shapes are the same, their rank and channels, and which sizes are 1."""
    numbers: dict[Shape, int] = {}
    same = [numbers.setdefault(each.shape, len(numbers)) for each in known.values()]
    return tuple(same), tuple((shape[:2], *[size == 1 for size in shape]) for shape in numbers)


def sized(graph: Graph, known: Known) -> Graph:
    """Return a graph, as traced or simplified, with the shapes that were inferred for the values of the traced one."""
    return replace(graph, nodes={value: _sized(value, node, known) for value, node in graph.nodes.items()})


def _inferred(node: Node, known: Known, shapes: Mapping[str, Shape]) -> Computed:
    if node.op == "input":
        return Computed(shapes[node.attributes["name"]], node.dtype)
    if node.op == "constant":
        return Computed(node.shape, node.dtype)
    if node.op == "item":
        return Computed(*known[node.inputs["input"]].results[node.attributes["index"]])
    shape = rules(_OPERATIONS[node.op]).shape(**arguments(node, known.__getitem__))
    if not node.results:
        return Computed(shape, node.dtype)
    return Computed((), node.dtype, tuple((each, dtype) for each, (_, dtype) in zip(shape, node.results, strict=True)))


def _sized(value: Value, node: Node, known: Known) -> Node:
    found = known[value]
    if "parts" in node.attributes:
        values = (*results_between(node), value)
        parts = tuple(_sized(each, part, known) for each, part in zip(values, node.attributes["parts"], strict=True))
        adds = sum(part.multiply_adds for part in parts)
        return replace(node, shape=found.shape, attributes={"parts": parts}, multiply_adds=adds)
    operation = _OPERATIONS.get(node.op)
    count = none if operation is None else rules(operation).multiply_adds
    adds = 0 if count is none else count(**arguments(node, known.__getitem__))
    if (node.shape, node.results, node.multiply_adds) == (found.shape, found.results, adds):
        return node
    return replace(node, shape=found.shape, results=found.results, multiply_adds=adds)


_OPERATIONS = operations()
