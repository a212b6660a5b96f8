"""Whose operation is whose: a network is traced with a note of which of its modules is called when.

It is traced through copies of its modules that share their arrays, are in eval mode and tell when they are called; the
network itself is left as it is.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convlane.graph.trace import InputShape, Node, Nodes, Symbol, Value, call, make_inputs
from convlane.nn.module import Module


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    name: str
    module: Module
    first: Value
    end: Value
    """One past its last operation."""
    result: Value | None
    """None where it did not return one array."""


def record_calls(model: Callable[..., Any], shape: InputShape) -> tuple[dict[Value, Node], Any, tuple[Call, ...]]:
    """Call a network on symbols; return the nodes, what it returned, and the calls of its modules as they began."""
    nodes = Nodes()
    log = _Log(nodes)
    watched = log.watched(model) if isinstance(model, Module) else model
    result = call(watched, shape, make_inputs(nodes, shape))
    return nodes, result, tuple(log.calls)


def innermost_calls(calls: Sequence[Call]) -> dict[Value, int]:
    """Return for each operation within a module the place of the innermost call around it."""
    innermost: dict[Value, int] = {}
    for i, each in enumerate(calls):  # a call within another comes later
        innermost.update(dict.fromkeys(range(each.first, each.end), i))
    return innermost


def module_names(model: Callable[..., Any], shape: InputShape) -> dict[Value, str]:
    """Return for each operation of a network the path of the module in whose code it is; none for the network's own."""
    _, _, calls = record_calls(model, shape)
    return {value: calls[i].name for value, i in innermost_calls(calls).items() if calls[i].name}


class _Log:
    """Who was called while the nodes were written."""

    def __init__(self, nodes: Mapping[Value, Node]) -> None:
        self.calls: list[Call] = []  # in the order in which they began
        self._nodes = nodes
        self._names: Counter[str] = Counter()

    def watched(self, model: Module) -> Module:
        paths = {id(module): path for path, module in model.named_modules()}
        copies: dict[int, Module] = {}

        def watch(module: Module) -> Module:
            if id(module) not in copies:
                twin = copies[id(module)] = copy.copy(module)
                forward, path = twin.forward, paths[id(module)]
                vars(twin).update({name: watch(child) for name, child in module.named_children()}, training=False)
                vars(twin)["forward"] = lambda *args, **kwargs: self._call(path, module, forward, args, kwargs)
            return copies[id(module)]

        return watch(model)

    def _call(
        self, path: str, module: Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        place, name, first = len(self.calls), unique(path, self._names), len(self._nodes)
        self.calls.append(Call(name, module, first, first, None))
        result = forward(*args, **kwargs)
        value = result.value if isinstance(result, Symbol) else None
        self.calls[place] = Call(name, module, first, len(self._nodes), value)
        return result


def unique(name: str, seen: Counter[str]) -> str:
    """Return a name, with its number where it is not the first of these."""
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"
