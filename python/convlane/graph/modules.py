"""Which module each operation belongs to: a network is traced with a record of when each of its modules is called.

It is traced through copies of its modules that share their arrays, are in eval mode and report when they are called;
the network itself is not changed. A module whose forward pass has named parts, as one from a file has nodes, computes
each by its method `_part`, and the copies report these, too.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from convlane.graph.trace import InputShape, Node, Nodes, Symbol, Value, call, make_inputs
from convlane.nn.module import Module


@dataclass(frozen=True)
class Call:
    """One call of a module, or a part of one."""

    name: str
    kind: str
    """The module's class, or the kind of the part."""
    is_layer: bool
    """Whether it contains no modules and no parts."""
    arrays: tuple[Any, ...]
    """Its own parameters; those of a part may be shared."""
    first: Value
    end: Value
    """The index after its last operation."""
    result: Value | None
    """None where it did not return a single array."""


def record_calls(model: Callable[..., Any], shape: InputShape) -> tuple[dict[Value, Node], Any, tuple[Call, ...]]:
    """Call a network on symbols; return the nodes, what it returned, and the calls of its modules as they began."""
    nodes = Nodes()
    log = _Log(nodes)
    watched = log.watched(model) if isinstance(model, Module) else model
    result = call(watched, shape, make_inputs(nodes, shape))
    return nodes, result, tuple(log.calls)


def innermost_calls(calls: Sequence[Call]) -> dict[Value, int]:
    """Return for each operation within a module the index of the innermost call around it."""
    innermost: dict[Value, int] = {}
    for i, each in enumerate(calls):  # a nested call comes later
        innermost.update(dict.fromkeys(range(each.first, each.end), i))
    return innermost


def module_names(model: Callable[..., Any], shape: InputShape) -> dict[Value, str]:
    """Return for each operation of a network the path of the module that called it; none for the network's own."""
    _, _, calls = record_calls(model, shape)
    return {value: calls[i].name for value, i in innermost_calls(calls).items() if calls[i].name}


class _Log:
    """Which modules were called while the nodes were recorded."""

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
                forward, path = getattr(twin, "forward", None), paths[id(module)]
                vars(twin).update({name: watch(child) for name, child in module.named_children()}, training=False)
                parts = hasattr(twin, "_part")
                if forward is not None:  # modules that only hold parameters have none
                    kind, is_layer = type(module).__name__, not (parts or any(True for _ in module.children()))
                    arrays = [vars(module)[name] for name in module._parameter_names]
                    vars(twin)["forward"] = partial(self._call, path, kind, is_layer, arrays, forward)
                if parts:
                    vars(twin)["_part"] = partial(self._part, path)
            return copies[id(module)]

        return watch(model)

    def _part(self, path: str, name: str, kind: str, arrays: Sequence[Any], compute: Callable[[], Any]) -> Any:
        return self._call(f"{path}.{name}" if path else name, kind, True, arrays, compute)

    def _call(
        self,
        path: str,
        kind: str,
        is_layer: bool,
        arrays: Sequence[Any],
        forward: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        index, name, first = len(self.calls), unique(path, self._names), len(self._nodes)
        held = tuple(array for array in arrays if array is not None)
        self.calls.append(Call(name, kind, is_layer, held, first, first, None))
        result = forward(*args, **kwargs)
        value = result.value if isinstance(result, Symbol) else None
        self.calls[index] = replace(self.calls[index], end=len(self._nodes), result=value)
        return result


def unique(name: str, seen: Counter[str]) -> str:
    """Return a name, numbered where it is not the first of its kind."""
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"
