"""Runs a network on inputs of any shapes: with a plan wherever one is possible.

A plan computes the examples of a batch independently. Where the network mixes them, the plan is for the whole batch;
where there is something that no plan can compute, the plan ends there, and the rest is computed on arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import functional as F
from convlane.graph.plan import Plan, Shared, plan_of
from convlane.graph.reassemble import join_permutes
from convlane.graph.trace import Graph, Symbol, trace
from convlane.onnx.file import Node
from convlane.onnx.network import Network, as_value, reads, run_nodes

_KEPT = 8  # combinations of shapes
_MOST_SETTINGS = 256  # maximum size of an integer input that is treated as a setting, such as a size


@dataclass
class _Way:
    """How inputs of some shapes are computed."""

    plan: Plan | None = None
    known: dict[str, Any] = field(default_factory=dict)
    """Values that do not depend on the inputs."""
    rest: list[Node] = field(default_factory=list)
    """Nodes that the plan leaves out."""
    why: str = ""
    """Why there is no plan."""


class Runner:
    """A network compiled for the shapes that occur; the eight most recent are kept."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._shared = Shared()
        self._ways: dict[Any, _Way] = {}
        self._turned: frozenset[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"network": self.network}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # plans are made anew

    @property
    def memory_bytes(self) -> int:
        """Bytes that are kept for the intermediate results of future runs."""
        return self._shared.memory.nbytes

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Return all outputs by name."""
        values = {name: _as_value(value) for name, value in feeds.items()}
        way = self._way(values)
        if way.plan is None and not way.known:
            found = self.network(**values)
            return found if isinstance(found, dict) else {self.network.outputs[0].name: found}
        computed: dict[str, Any] = {}
        if way.plan is not None:
            pictures = {name: value for name, value in values.items() if _is_picture(value)}
            turned = {name: pictures[name].transpose(_TO_IMAGE) for name in self._turned or () if name in pictures}
            computed = way.plan(**pictures | turned)
        results = {**way.known, **values, **computed}
        if way.rest:
            run_nodes(way.rest, results)
        return {info.name: results[info.name] for info in self.network.outputs}

    def way(self, feeds: Mapping[str, Any]) -> str:
        """Say how such inputs are computed: ``"plan"``, or why there is none, or none for all of it."""
        way = self._way({name: _as_value(value) for name, value in feeds.items()})
        left = f"{len(way.rest)} nodes after a plan: {', '.join(map(str, way.rest))}" if way.rest else "plan"
        return way.why or left

    def _way(self, values: dict[str, Any]) -> _Way:
        settings = {name: value for name, value in values.items() if not _is_picture(value)}
        key = tuple(
            (name, value.shape, value.dtype.str, value.tobytes() if name in settings else b"")
            for name, value in values.items()
        )
        way = self._ways.pop(key, None)
        if way is None:
            way = self._found(values, settings)
        self._ways = {**dict(list(self._ways.items())[1 - _KEPT :]), key: way}
        plans = [each.plan for each in self._ways.values() if each.plan is not None]
        if plans:
            self._shared.memory.limit(max(plan.largest_run_bytes for plan in plans))
        return way

    def _found(self, values: dict[str, Any], settings: dict[str, Any]) -> _Way:
        """Find the best way to compute these shapes."""
        shapes = {name: value.shape for name, value in values.items() if name not in settings}
        if any(value.size > _MOST_SETTINGS for value in settings.values()):
            return _Way(why="plans take float32, but there is a large integer input")
        if not shapes:
            return _Way(why="there is no float32 input")
        whys = []
        for whole in self._orders(shapes, settings):
            try:
                return self._planned(shapes, settings, whole)
            except (TypeError, ValueError) as error:
                whys.append(str(error))
        return _Way(why=whys[-1])

    def _orders(self, shapes: Mapping[str, Any], settings: dict[str, Any]) -> tuple[bool, ...]:
        """Return what to try: example by example (False), or the whole batch (True)."""
        batches = {shape[0] for shape in shapes.values() if len(shape) > 1}
        if len(batches) != 1 or any(len(shape) < 2 or 0 in shape for shape in shapes.values()):
            return (True,)
        batch = batches.pop()
        if batch == 1:
            return (False, True)
        try:
            whole = _Traced(self.network, settings)
            graph = trace(whole, shapes)
        except _NothingToCompute:
            return (True,)
        except (TypeError, ValueError):
            return (False,)  # the file has a batch of one written into it
        try:
            one = trace(_Traced(self.network, settings), {name: (1, *shape[1:]) for name, shape in shapes.items()})
        except (TypeError, ValueError):
            return (True,)
        of_all = [graph.nodes[value].shape for value in graph.outputs.values()]
        of_one = [one.nodes[value].shape for value in one.outputs.values()]
        alike = _operations(graph) == _operations(one) and not whole.rest and not whole.known_outputs
        alike = alike and graph.outputs.keys() == one.outputs.keys()
        same = alike and of_all == [(batch, *shape[1:]) for shape in of_one if shape]
        return (False, True) if same else (True,)

    def _planned(self, shapes: Mapping[str, Any], settings: dict[str, Any], whole: bool) -> _Way:
        given = shapes if whole else {name: (1, *shape[1:]) for name, shape in shapes.items()}
        if any(0 in shape for shape in given.values()):
            raise ValueError("plans are for arrays that are not empty")
        if self._turned is None:
            with contextlib.suppress(_NothingToCompute):
                self._turned = _channels_last(trace(_Traced(self.network, settings), given))
        turned = self._turned or frozenset()
        traced = _Traced(self.network, settings, turned)
        images = {
            name: tuple(shape[dim] for dim in _TO_IMAGE) if name in turned else shape for name, shape in given.items()
        }
        try:
            plan = plan_of(traced, images, self._shared, whole=whole)
        except _NothingToCompute:
            return _Way(None, traced.known, traced.rest)
        return _Way(plan, traced.known, traced.rest)


_TO_IMAGE, _BACK = (0, 3, 1, 2), (0, 2, 3, 1)


def _channels_last(graph: Graph) -> frozenset[str]:
    """Return the inputs that the network takes as channels-last images, which a plan reads in place."""
    joined = join_permutes(graph)
    users = joined.users()
    images = {
        value
        for value, node in joined.nodes.items()
        if node.op == "permute" and tuple(node.attributes["dims"]) == _TO_IMAGE
    }
    return frozenset(name for name, value in joined.inputs.items() if users[value] and images >= {*users[value]})


_FEW = 16  # numbers in an array that may be a size, such as the batch, as a factor


def _operations(graph: Graph) -> list[Any]:
    """Return operations and the numbers they compute with: these may depend on the size of the batch."""

    def key_of(value: Any) -> Any:
        few = isinstance(value, np.ndarray) and value.size <= _FEW
        return value.tobytes() if few else repr(value) if isinstance(value, float) else ""

    return [(node.op, *map(key_of, node.attributes.values())) for node in graph.nodes.values()]


class _NothingToCompute(Exception):
    """No output depends on the inputs, except through their shapes."""


class _Traced:
    """The network as a function of its pictures, which records what it has found out about the rest."""

    def __init__(self, network: Network, settings: Mapping[str, Any], turned: frozenset[str] = frozenset()) -> None:
        """Take a network, its integer inputs, and which pictures come as images (N, C, H, W) instead."""
        self._network, self._settings, self._turned = network, settings, turned
        self.known: dict[str, Any] = {}
        self.rest: list[Node] = []

    @property
    def known_outputs(self) -> list[str]:
        """Return the outputs that depend on shapes alone."""
        return [info.name for info in self._network.outputs if info.name in self.known]

    def __call__(self, **pictures: Any) -> dict[str, Any]:
        given = {name: F.permute(each, _BACK) if name in self._turned else each for name, each in pictures.items()}
        values = self._network.bind((), {**self._settings, **given})
        self.rest = self._network.walk(values, defer=True)
        read = {name for node in self.rest for name in reads(node)}
        wanted = read | {info.name for info in self._network.outputs}
        self.known = {name: value for name, value in values.items() if isinstance(value, np.ndarray) and name in wanted}
        if self.rest:  # graphs in them may read anything
            self.known = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        found = {name: values[name] for name in values if name in wanted and isinstance(values[name], Symbol)}
        found = {name: value for name, value in found.items() if name not in pictures or name not in read - wanted}
        if not found:
            raise _NothingToCompute
        return found


def _as_value(value: Any) -> Any:
    """Return an input; pictures in float64 as float32."""
    array = as_value(value)
    return array.astype(np.float32) if array.dtype == np.float64 and array.size > _MOST_SETTINGS else array


def _is_picture(value: Any) -> bool:
    return bool(value.dtype == np.float32)
