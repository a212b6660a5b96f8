"""The same network for inputs of other sizes: its operations stay, their shapes are inferred again.

What a network computes from sizes (`Graph.computed`) is computed anew. What it does may depend on what it was told of
them (`Graph.known`: the outcome of a comparison, a size as a number), and what passes make of it on which shapes are
equal, which sizes are 1 and what was computed. Where all that is as it was, nothing is traced or simplified again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from convlane.functional._op import DType, Shape, none, operations, rules
from convlane.functional._size import Number, Term, computed
from convlane.graph.interpret import arguments
from convlane.graph.lower import check_supported
from convlane.graph.modules import module_names
from convlane.graph.passes import finish, results_between, simplify
from convlane.graph.trace import Graph, InputShape, Node, Value, trace

OpenShape: TypeAlias = tuple[int | None, ...]
"""A shape in which sizes may be open."""

_KEPT_PATTERNS = 8
_SOME_SIZE, _OFTEN_MORE = 224, 32  # which most networks take


class Network:
    """A network for inputs of any size: traced and simplified once, as far as that is the same for all sizes."""

    def __init__(self, model: Callable[..., Any] | None, named: bool, traced: Graph | None = None) -> None:
        """Take a model, or a trace without its model; `named` says whether its inputs are passed by name."""
        self._model, self.named = model, named
        self._traced = None if traced is None else _Traced(traced)
        self._differed = ""

    def at(self, shapes: Mapping[str, Shape]) -> Graph:
        """Return the graph for inputs of these shapes, as all passes leave it.

        Raises
        ------
        TypeError, ValueError
            As of `trace`; or there is no model, and what the network was told of sizes is not so here.
        """
        traced = self._traced
        if traced is not None:
            try:
                return traced.at(infer(traced.graph, shapes))
            except (TypeError, ValueError) as error:
                if self._model is None:
                    raise
                if isinstance(error, OtherwiseError):
                    self._differed = str(error)  # all other errors tracing tells better
        assert self._model is not None
        given = self._given(shapes)
        graph = trace(self._model, given, for_all=True)
        self._traced = traced = _Traced(graph, partial(module_names, self._model, given))
        return traced.at(infer(graph, shapes))

    def for_all(self, shapes: Mapping[str, OpenShape]) -> Graph:
        """Return the trace, possibly made for some sizes: what the network does wherever these shapes are open.

        Raises
        ------
        ValueError
            What it does may depend on a size that is open.
        """
        if self._traced is None:
            self.at({name: (1, *(size or _SOME_SIZE for size in shape[1:])) for name, shape in shapes.items()})
        graph = self._traced.graph  # type: ignore[union-attr]
        if self._differed:
            raise ValueError(self._differed)
        for others in _others(shapes, {name: graph.nodes[value].shape for name, value in graph.inputs.items()}):
            try:
                infer(graph, others)
            except OtherwiseError:
                raise
            except (TypeError, ValueError):  # these sizes are refused, which says nothing about all
                continue
        return graph

    def _given(self, shapes: Mapping[str, Shape]) -> InputShape:
        if self.named:
            return shapes
        return tuple(shapes.values()) if len(shapes) > 1 else next(iter(shapes.values()))


class OtherwiseError(ValueError):
    """What the network asked about sizes while it was traced has another answer for others."""

    def __init__(self, graph: Graph, term: Term, number: Number, shapes: Mapping[str, Shape]) -> None:
        def name_of(value: Value) -> str:
            node = graph.nodes[value]
            return str(node.attributes["name"]) if node.op == "input" else f"{node.op} (%{value})"

        condition = f"{term.as_python(name_of)} is {number}"
        sizes = ", ".join(map(str, shapes.values()))
        super().__init__(
            f"plan: the network depends on open sizes, and may behave differently than was saved for {sizes}: it was "
            f"traced where {condition}"
        )


def _others(shapes: Mapping[str, OpenShape], traced: Mapping[str, Shape]) -> Iterator[dict[str, Shape]]:
    """Yield shapes beside those that a network was traced for: what is open larger, in all dimensions or in one."""
    opened = [(name, dim) for name, shape in shapes.items() for dim in range(1, len(shape)) if shape[dim] is None]
    for more, wider in [(1, opened), (_OFTEN_MORE, opened), *((_OFTEN_MORE, [each]) for each in opened)]:
        yield {
            name: tuple(size + more * ((name, dim) in wider) for dim, size in enumerate(shape))
            for name, shape in traced.items()
        }


class _Traced:
    """The trace, and its simplified forms for the latest patterns of shapes."""

    def __init__(self, graph: Graph, modules: Callable[[], Mapping[Value, str]] = dict) -> None:
        self.graph = graph
        self._modules = modules
        self._simplified: dict[Hashable, Graph] = {}

    def at(self, known: Known) -> Graph:
        """Return the graph for shapes that `infer` has found."""
        pattern = pattern_of(known)
        simplified = self._simplified.get(pattern)
        if simplified is None:
            graph = simplified = simplify(sized(_with_computed(self.graph, known), known))
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
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of its operation, those that were computed from sizes."""


Known: TypeAlias = Mapping[Value, Computed]


def infer(graph: Graph, shapes: Mapping[str, Shape]) -> Known:
    """Return what is known of all results for inputs of other shapes.

    Raises
    ------
    OtherwiseError
        The network may do something else there.
    TypeError, ValueError
        An operation refuses the shape that reaches it, or a number cannot be computed from sizes.
    """
    noted: dict[Value, list[tuple[Term, Number]]] = {}  # by the last result that it depends on
    for term, number in graph.known.items():
        noted.setdefault(term.last(), []).append((term, number))
    templates: dict[Value, dict[str, Any]] = {}
    for (value, name), template in graph.computed.items():
        templates.setdefault(value, {})[name] = template
    known: dict[Value, Computed] = {}

    def now(template: Any) -> Any:
        try:
            return computed(template, lambda value, dim: known[value].shape[dim])
        except ArithmeticError as error:
            raise ValueError(f"plan: the network computes what cannot be: {error}") from None

    for value, node in graph.nodes.items():
        given = {name: now(template) for name, template in templates.get(value, {}).items()}
        known[value] = _inferred(_given(node, given), known, shapes)
        if given:
            known[value].arguments = given
        for term, number in noted.get(value, ()):
            if now(term) != number:
                raise OtherwiseError(graph, term, number, shapes)
    return known


def pattern_of(known: Known) -> Hashable:
    """Return what passes go by: which shapes are the same, their rank and channels, which sizes are 1, arguments."""
    numbers: dict[Shape, int] = {}
    same = [numbers.setdefault(each.shape, len(numbers)) for each in known.values()]
    given = [tuple(each.arguments.items()) for each in known.values() if each.arguments]
    return tuple(same), tuple((shape[:2], *[size == 1 for size in shape]) for shape in numbers), repr(given)


def _with_computed(graph: Graph, known: Known) -> Graph:
    """Return a traced graph with the arguments that were computed for what is known."""
    changed = {value: _given(graph.nodes[value], known[value].arguments) for value, _ in graph.computed}
    return replace(graph, nodes={**graph.nodes, **changed}) if changed else graph


def _given(node: Node, arguments: Mapping[str, Any]) -> Node:
    return replace(node, attributes={**node.attributes, **arguments}) if arguments else node


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
    adds = 0 if count is none else count(found.shape, **arguments(node, known.__getitem__))
    if (node.shape, node.results, node.multiply_adds) == (found.shape, found.results, adds):
        return node
    return replace(node, shape=found.shape, results=found.results, multiply_adds=adds)


_OPERATIONS = operations()
