"""The layers of a network: modules without children, and operations in the code of modules with children."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from convlane.graph.interpret import interpret
from convlane.graph.modules import Call, innermost_calls, record_calls, unique
from convlane.graph.trace import SOURCES, InputShape, Node, Symbol, Value
from convlane.models.registry import architecture, input_shape
from convlane.nn.module import Module


@dataclass(frozen=True)
class Layer:
    """A module without children that was called, or an operation in the code of a module with children.

    `name` is the module's dotted path; for an operation, the path of its module and its own name. A second call is
    ``name#2``.
    """

    name: str
    kind: str
    """The module's class or the operation."""
    values: tuple[Value, ...]
    """The results of its operations; the last one is the layer's result."""


@dataclass(frozen=True)
class Anatomy:
    """A traced network."""

    nodes: Mapping[Value, Node]
    layers: tuple[Layer, ...]
    """The layers in the order in which they run; every node except inputs and constants belongs to one."""
    calls: tuple[Call, ...]
    output: Value | None

    def names(self) -> dict[str, Value]:
        """Return the results of layers and of the modules that contain them, by name."""
        named = {layer.name: layer.values[-1] for layer in self.layers}
        return named | {call.name: call.result for call in self.calls if call.name and call.result is not None}

    def find(self, name: str, caller: str) -> Value:
        """Return the result of a layer, or of a module with layers, by name.

        Raises
        ------
        ValueError
            If there is none; the message suggests similar names.
        """
        named = self.names()
        if name not in named:
            raise ValueError(f"{caller}: {unknown('layer', name, named)}")
        return named[name]


def anatomy(model: Callable[..., Any], shape: InputShape) -> Anatomy:
    """Trace a network for inputs of this shape and divide it into layers."""
    nodes, result, calls = record_calls(model, shape)
    return Anatomy(nodes, _layers(nodes, calls), calls, result.value if isinstance(result, Symbol) else None)


def unknown(what: str, name: str, names: Iterable[str]) -> str:
    """Return the message that nothing has this name, with similar names."""
    names = list(names)
    near = get_close_matches(str(name), names, n=3, cutoff=0.5) or names[:3]
    return f"there is no {what} {name!r}; did you mean {' or '.join(near)}?"


def until(network: Anatomy, value: Value) -> Callable[[Any], Any]:
    """Return a function that computes one result from the input array; it can be recorded on a tape."""

    def run(input: Any) -> Any:
        ((_, result),) = interpret(network.nodes, [value], input)
        return result

    return run


def checked_shape(model: Any, shape: InputShape | None, caller: str) -> Any:
    """Return the given shape, or by default that of one image for a network from `models.create`."""
    if shape is not None:
        return shape if isinstance(shape, Mapping) else tuple(shape)
    made = architecture(model) if isinstance(model, Module) else None
    if made is None:
        raise ValueError(f"{caller}: input_shape must be given for a network that models.create has not built")
    return 1, *input_shape(made.name)


def _layers(nodes: Mapping[Value, Node], calls: Sequence[Call]) -> tuple[Layer, ...]:
    innermost = innermost_calls(calls)
    names = Counter(call.name for call in calls if call.name)
    layers: dict[int | str, Layer] = {}
    layer_of: dict[Value, int | str] = {}
    for value, node in nodes.items():
        if node.op in SOURCES:
            continue
        if node.op == "item":  # an item belongs to the layer whose result it is an item of
            name = layer_of[node.inputs["input"]]
            layers[name] = replace(layers[name], values=(*layers[name].values, value))
            continue
        call = innermost.get(value)
        within = None if call is None else calls[call]
        if call is None or within is None or not within.is_layer:
            name = unique(f"{within.name}.{node.op}" if within and within.name else node.op, names)
            layers[name] = Layer(name, node.op, (value,))
            layer_of[value] = name
        else:
            values = layers[call].values if call in layers else ()
            layers[call] = Layer(within.name or within.kind, within.kind, (*values, value))
            layer_of[value] = call
    return tuple(layers.values())
