"""Autotuning: each layer that several algorithms can compute is timed with all of them, and takes the fastest.

`tune` does that to a graph. A layer is timed by itself, with weights that are in no cache, as in a network whose other
layers ran in between, and with everything else in the cache, as the layers before leave it. The candidates take turns,
so that a slow spell of the machine hits all of them.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from convlane import _core, functional, machine
from convlane._files import open_regular
from convlane._version import __version__
from convlane.functional._arguments import Array
from convlane.functional._op import Geometry, Shape
from convlane.graph.arena import ALIGNMENT, assign_slots, plan_arena
from convlane.graph.lower import append_step, batched, images_at_once
from convlane.graph.lowering import Context, Operand, strides_of
from convlane.graph.lowering.operand import FLOAT
from convlane.graph.passes import JOINED, pool_geometry_of, results_between, traits_of, unjoin
from convlane.graph.trace import INPUT, Graph, Measured, Node, Value
from convlane.graph.weights import Packer
from convlane.runtime import get_num_threads
from convlane.safetensors_file import strict_json, whole_file

Way: TypeAlias = Sequence[tuple[Value, Node]]
"""Nodes that compute a layer, in order; the last one has the layer's value."""

Times: TypeAlias = dict[str, dict[str, dict[str, float]]]
"""Seconds by setting (machine, threads, images at once), layer and candidate."""

_CLEAR_GAIN = 0.03  # how much faster a candidate must be to replace the expected one
_ROUNDS = 15
_HOPELESS = 1.3  # times as slow as the fastest after the first rounds: no longer timed
_FIRST_ROUNDS = 3
_SECONDS_PER_LAYER = 0.4
_FORMAT = "convlane autotune 1"
_LARGEST_FILE = 1 << 24
_LONGEST = 1e9  # seconds that nobody has waited for

_known: Times = {}
_lock = threading.Lock()  # concurrent timings would disturb each other


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)  # the thread that held it does not exist there


def tune(graph: Graph, batch: int, winograd: bool, keep: object) -> Graph:
    """Return the graph with the fastest algorithm written into every node that has a choice.

    Parameters
    ----------
    graph
        As the passes leave it.
    batch
        Number of images for which to choose; what the plan runs at once of them counts.
    winograd
        Whether Winograd's algorithm is among the choices.
    keep
        True, or the path of a file: see `convlane.compile`.
    """
    path = _checked_path(keep)
    _, arena = plan_arena(assign_slots(graph))
    images = min(batch, images_at_once(graph, arena))
    with _lock:
        setting = _setting(images)
        stored = {} if path is None else _load(path).get(setting, {})
        known = _known.setdefault(setting, {})
        known.update(stored)
        used = {}
        bench = _Bench(images)
        nodes: dict[Value, Node] = {}
        for value, node in graph.nodes.items():
            ways = _ways(value, node, graph, winograd)
            if len(ways) < 2:
                nodes[value] = node
                continue
            layer = _Layer(ways, graph)
            times = known.get(layer.name, {})
            if not times.keys() >= ways.keys():
                times = known[layer.name] = bench.time(layer)
            used[layer.name] = times
            nodes.update(_fastest(ways, times))
        if path is not None and not used.items() <= stored.items():
            _save(path, setting, used)
    return replace(graph, nodes=nodes)


def _ways(value: Value, node: Node, graph: Graph, winograd: bool) -> dict[str, Way]:
    """All candidates for a node by name, the one expected to be fastest first."""
    joined = JOINED.get(node.op)
    if joined is not None and joined.rival:
        return {joined.rival: [(value, node)], "apart": unjoin(node, value, results_between(node))}
    first, *others = node.attributes["parts"] if joined is not None else (node,)
    geometry = traits_of(first).geometry
    if geometry is None:
        return {}
    layers = _with_algorithms(first, geometry, graph.nodes[node.inputs["input"]].shape, winograd)
    if joined is None:
        return {name: [(value, layer)] for name, layer in layers.items()}
    return {name: [(value, replace(node, attributes={"parts": (conv, *others)}))] for name, conv in layers.items()}


def _with_algorithms(conv: Node, geometry: Geometry, image: Shape, winograd: bool) -> dict[str, Node]:
    """Return a convolution of an image or volume with each of its algorithms, or none where one was asked for."""
    if conv.attributes["algorithm"] != "auto":
        return {}
    names = geometry.core(*_normalised(conv, geometry, image)).candidates(winograd)
    return {name: replace(conv, attributes={**conv.attributes, "algorithm": name}) for name in names}


def _fastest(ways: Mapping[str, Way], times: Mapping[str, float]) -> Way:
    """Return the nodes of the fastest candidate; the last one records the times."""
    expected = next(iter(ways))
    seconds = {name: times[name] for name in ways}
    best = min(seconds, key=seconds.__getitem__)
    chosen = best if seconds[best] < (1 - _CLEAR_GAIN) * seconds[expected] else expected
    *others, (value, last) = ways[chosen]
    return [*others, (value, replace(last, measured=Measured(chosen, expected, seconds)))]


class _Layer:
    """What is timed: the candidates, and the values that they read and write, the input first and the output last."""

    def __init__(self, ways: Mapping[str, Way], graph: Graph) -> None:
        self.ways = ways
        split = max(ways.values(), key=len)
        inner = dict(split)
        values = dict.fromkeys(source for _, node in split for source in node.inputs.values())
        values |= dict.fromkeys(inner)
        self.shapes = {value: (inner.get(value) or graph.nodes[value]).shape for value in values}
        self.input = split[0][1].inputs["input"]
        # A convolution reads the caller's array itself, which is usually not channels last.
        firsts = [way[0][1] for way in ways.values()]
        self.reads_caller = self.input == INPUT and all(traits_of(first).reads_any_layout for first in firsts)
        self.name = "; ".join([_features(node, self.shapes) for _, node in split])
        if self.reads_caller:
            self.name += "; first"


class _Bench:
    """Times layers for a number of images."""

    def __init__(self, images: int) -> None:
        self._count = images
        self._sweep: Array | None = None

    def time(self, layer: _Layer) -> dict[str, float]:
        """Return the seconds that each candidate takes.

        That is the lower quartile over the rounds: other programs only add to a time, and the very best of several may
        be luck.
        """
        images, output = self._images(layer), _core.new_array(("float32", (1,), (1,)))
        plans = {name: self._plan(layer, way) for name, way in layer.ways.items()}
        memory = _core.PlanMemory()
        memory.limit(max(plan.memory_bytes for plan in plans.values()))
        samples: dict[str, list[float]] = {name: [] for name in plans}
        for plan in plans.values():
            plan.run([images], [output], memory)
        end = time.monotonic() + _SECONDS_PER_LAYER
        for count in range(_ROUNDS):
            if count == _FIRST_ROUNDS:
                best = min(min(seconds) for seconds in samples.values())
                plans = {name: plan for name, plan in plans.items() if min(samples[name]) < _HOPELESS * best}
            if len(plans) == 1 or (count >= _FIRST_ROUNDS and time.monotonic() > end):
                break
            for name, plan in plans.items():
                self._empty_caches()
                samples[name].append(sum(plan.profile([images], [output], memory)[-len(layer.ways[name]) :]))
        return {name: float(np.quantile(seconds, 0.25)) for name, seconds in samples.items()}

    def _plan(self, layer: _Layer, way: Way) -> _core.Plan:
        """Return a plan whose last steps are the layer's.

        The steps before bring all but its weights into the cache: the same layer with other weights has run, as other
        layers do in a network, because fetching code and scratch memory takes longer than fetching small weights; and
        the input has just been written.
        """
        operands, end = {}, 0
        for value, shape in layer.shapes.items():
            whole = batched(shape, self._count)
            operands[value] = Operand("arena", 0, FLOAT * end, whole, strides_of(whole))
            end += -(-math.prod(whole) // ALIGNMENT) * ALIGNMENT
        staged = operands[layer.input]
        given = replace(staged, location="input", offset=0)
        plan = _core.Plan(
            [(given.dtype, given.shape, given.strides)], [("float32", (1,), (1,))], FLOAT * end, get_num_threads()
        )
        everything = Operand("arena", 0, 0, (end,), (1,)).core()
        # Whatever is stored there becomes an ordinary number.
        plan.append("activation", [everything], [everything], {"activation": "sigmoid", "negative_slope": 0.0})
        if layer.reads_caller:
            operands[layer.input] = given
        for _ in range(2):
            plan.append("copy", [given.core()], [staged.core()])
            packer = Packer()
            for value, node in way:
                inputs = {name: operands[source] for name, source in node.inputs.items()}
                append_step(Context(plan, node, inputs, operands[value], frozenset(), False, packer))
        return plan

    def _images(self, layer: _Layer) -> Array:
        shape = self._count, *layer.shapes[layer.input][1:]
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        return images if layer.reads_caller else np.moveaxis(np.ascontiguousarray(np.moveaxis(images, 1, -1)), -1, 1)

    def _empty_caches(self) -> None:
        """Read more memory than the caches hold, with all threads, because each has caches of its own."""
        if self._sweep is None:
            rows = -(-2 * _largest_cache() // (4 * 16 * 1024))
            self._sweep = np.ones((rows, 1024, 1, 16), np.float32).transpose(0, 3, 1, 2)
        functional.global_max_pool2d(self._sweep)


def _features(node: Node, shapes: Mapping[Value, Shape]) -> str:
    """Describe in a line what the time of a node depends on."""
    if "parts" in node.attributes:
        conv, pool = node.attributes["parts"]  # blocks are described part by part
        pooling = pool_geometry_of(pool, conv.shape)
        window = f"{pool.op} {_by(pooling.kernel)}, stride {_by(pooling.stride)}, padding {_by(pooling.padding)}"
        window += f", to {_by(node.shape[1:])}"
        return f"{_features(replace(conv, inputs=node.inputs), shapes)} then {window}"
    geometry = traits_of(node).geometry
    if geometry is None:
        return f"{node.op} {_by(shapes[node.inputs['input']][1:])}"
    at = node.attributes
    image, weight, stride, padding, dilation, groups = _normalised(node, geometry, shapes[node.inputs["input"]])
    others = ["" if at["bias"] is None else "bias", at["activation"], *sorted(node.inputs.keys() - {"input"})]
    text = f"{node.op} {_by(image[1:])} with {_by(weight)}, stride {_by(stride)}, padding {_by(padding)}"
    return " ".join([f"{text}, dilation {_by(dilation)}, groups {groups},", *filter(None, others)])


def _by(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _normalised(node: Node, geometry: Geometry, image: Shape) -> tuple[Any, ...]:
    at = node.attributes
    return geometry.normalise(image, at["weight"].shape, at["stride"], at["padding"], at["dilation"], at["groups"])


def _setting(images: int) -> str:
    threads = get_num_threads()
    return f"convlane {__version__}, {machine.cpu_model()}, {_core.active_isa()}, {threads=}, {images=}"


def _largest_cache() -> int:
    """Return the bytes of the largest cache that Linux reports; elsewhere a size that most desktop CPUs stay below."""
    sizes = [64 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with suppress(OSError, ValueError):
            sizes.append(int(path.read_text().strip().removesuffix("K")) << 10)
    return max(sizes[1:] or sizes)


def _checked_path(keep: object) -> Path | None:
    if keep is True:
        return None
    if not isinstance(keep, (str, os.PathLike)):
        raise TypeError(f"compile: autotune must be True, False or the path of a file, got {type(keep).__name__}")
    path = Path(os.path.realpath(keep))  # a symbolic link stays one
    if not path.parent.is_dir():
        raise FileNotFoundError(f"compile: there is no folder {path.parent} for the file of autotune")
    return path


def _load(path: Path) -> Times:
    """Read a file of choices; a missing file has none."""
    try:
        with open_regular(path) as file:
            text = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return {}
    try:
        if len(text) > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE} bytes")
        return _checked_times(strict_json(text.decode()))
    except ValueError as error:
        raise ValueError(
            f"compile: autotune={str(path)!r} is not a file of choices written by convlane ({error}); "
            "delete it or name another"
        ) from None


def _checked_times(data: Any) -> Times:
    if not isinstance(data, dict) or data.get("format") != _FORMAT or data.keys() != {"format", "seconds"}:
        raise ValueError(f"it is not of the format {_FORMAT!r}")
    for _, layers in _items(data["seconds"]):
        if not all(are_times(times) for _, times in _items(layers)):
            raise ValueError("a time in it is not a positive number")
    times_by_setting: Times = data["seconds"]
    return times_by_setting


def are_times(value: object) -> bool:
    """Whether something from outside is a dictionary of seconds."""
    return isinstance(value, dict) and all(type(t) in (int, float) and 0 < t < _LONGEST for t in value.values())


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} is where names and values should be")
    return value.items()


def _save(path: Path, setting: str, times: Mapping[str, dict[str, float]]) -> None:
    """Add times to a file. Whoever reads it meanwhile, or an interrupt, finds the old file or the new one, whole."""
    merged = _load(path)  # another process may have added to it
    merged.setdefault(setting, {}).update(times)
    with whole_file(path) as file:
        file.write(json.dumps({"format": _FORMAT, "seconds": merged}, indent=1).encode())
