"""From a graph to the steps of `_core.Plan`: what each operation becomes, and which ones become nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from convlane import _core
from convlane.functional._arguments import Pair
from convlane.functional._op import ACTIVATIONS, operations, rules
from convlane.functional.conv import conv2d_geometry
from convlane.functional.elementwise import is_channel_vector
from convlane.functional.pool import pooled_size
from convlane.graph.passes import flattens_image, narrows_channels, pool2d_geometry_of
from convlane.graph.trace import INPUT, SOURCES, Graph, Node, Value
from convlane.graph.weights import Packer

_MOST_FLOATS = 2**48  # more than any machine has, and the sum over a network still fits into 64 bits
_MOST_NAMES = 4
_CACHE_BYTES = 9 << 20
INPUT_PLACE, OUTPUT_PLACE = -1, -2  # further outputs are at -3, -4 and so on
Source: TypeAlias = int | tuple[int, int, int]
"""A place; or channels of an image there: with the first one, and the channels of the whole."""


@dataclass(frozen=True)
class Choice:
    """The algorithm of a step and, in a few words, why that one."""

    algorithm: str = ""
    why: str = ""


@dataclass(frozen=True)
class Context:
    """What the lowering of one node needs to know; all shapes are for one image."""

    core: _core.Plan
    node: Node
    places: Mapping[str, Source]  # of the arguments; whole images unless the operation reads slices
    shapes: Mapping[str, Any]
    dst: int
    target: int | tuple[int, int, int]  # where an image goes: `dst`, or channels of a concatenation
    slices: Collection[str]  # arguments of a concatenation that are written in place
    winograd: bool
    packer: Packer = field(default_factory=Packer)

    @property
    def src(self) -> int:
        """Place of the first argument."""
        return self.place("input")

    def place(self, name: str) -> int:
        """Place of an argument that is a whole image."""
        place = self.places[name]
        assert isinstance(place, int)
        return place

    @property
    def shape(self) -> Any:
        """Shape of the first argument."""
        return self.shapes["input"]

    @property
    def count(self) -> int:
        """Numbers in the result."""
        return math.prod(self.node.shape)

    def __getitem__(self, name: str) -> Any:
        return self.node.attributes[name]


def check_supported(graph: Graph, modules: Callable[[], Mapping[Value, str]] = dict) -> None:
    """Raise one ValueError that names every operation of the graph that no step can do, and the modules of these.

    `modules` is called where there are such operations; it returns the names of those that it knows.
    """
    refusals: dict[str, list[Value]] = {"several inputs": []} if len(graph.inputs) > 1 else {}
    for value, node in graph.nodes.items():
        if node.op not in SOURCES and (refusal := _refusal(node, graph.nodes)):
            refusals.setdefault(refusal, []).append(value)
    if refusals:
        names = modules()
        found = [
            refusal + _within(names[value] for value in values if value in names)
            for refusal, values in refusals.items()
        ]
        raise ValueError(f"compile: the network uses what a plan cannot do: {'; '.join(found)}")
    for node in graph.nodes.values():
        if math.prod(node.shape) > _MOST_FLOATS:
            raise ValueError(f"compile: shape {node.shape} of {node.op} is too large")


def lower(
    graph: Graph, offsets: Mapping[Value, int], arena: int, winograd: bool
) -> tuple[_core.Plan, list[Choice], Graph]:
    """Build the plan; every node of `steps_of` becomes one step.

    Returns
    -------
    tuple
        The plan, how each step is done, and the graph, referring to packed weights.
    """
    packer = Packer()
    at_once = images_at_once(graph, arena)
    returned = list(dict.fromkeys(graph.outputs.values()))
    shapes = [list(graph.nodes[value].shape[1:]) for value in returned]
    core = _core.Plan(_four(graph.nodes[INPUT].shape), shapes, arena, at_once)
    outputs = {graph.memory_of(value): OUTPUT_PLACE - i for i, value in enumerate(returned)}
    places = _places(graph, {INPUT: INPUT_PLACE, **offsets, **outputs})
    parts = {value: slot for value, slot in graph.slots.items() if not slot.is_view}
    choices = []
    for value, node in steps_of(graph).items():
        place = places[value]
        context = Context(
            core,
            node,
            {name: places[source] for name, source in node.inputs.items()},
            {name: graph.nodes[source].shape for name, source in node.inputs.items()},
            place if isinstance(place, int) else OUTPUT_PLACE,
            place,
            {name for name, source in node.inputs.items() if source in parts and parts[source].buffer == value},
            winograd,
            packer,
        )
        choices.append(append_step(context))
    return core, choices, packer.relieve(graph)


def _places(graph: Graph, own: Mapping[Value, int]) -> dict[Value, Source]:
    """Return where all results are, given the places of those that have memory of their own."""

    def place_of(value: Value) -> Source:
        slot = graph.slots.get(value)
        if slot is None:
            return own[value]
        whole = place_of(slot.buffer)
        if slot.channel is None:
            return whole
        assert isinstance(whole, int)
        return whole, slot.channel, graph.nodes[slot.buffer].shape[1]

    return {value: place_of(value) for value in graph.nodes}


def steps_of(graph: Graph) -> dict[Value, Node]:
    """Return the nodes that become steps: all but what is given and what is a view of another result."""
    return {
        value: node
        for value, node in graph.nodes.items()
        if node.op not in SOURCES and not (value in graph.slots and graph.slots[value].is_view)
    }


def images_at_once(graph: Graph, arena: int) -> int:
    """Tell how many images are run at once at most, so that their activations stay in the caches.

    ResNet-50 on 8 images takes 237 ms image by image, 273 at once and 259 in parts of 16 MiB (EPYC Zen 5, one thread,
    2026-11-21). But fully connected layers that are large themselves would read their weights from memory for every
    part: then the batch stays whole.
    """
    linear = (node.attributes["weight"].nbytes for node in graph.nodes.values() if node.op == "linear")
    return _MOST_FLOATS if sum(linear) > _CACHE_BYTES else max(_CACHE_BYTES // (4 * max(arena, 1)), 1)


def append_step(context: Context) -> Choice:
    """Append the step that a node becomes."""
    choice = _STEPS[context.node.op](context) or Choice()
    measured = context.node.measured
    return choice if measured is None else replace(choice, why=str(measured))


def _four(shape: Any) -> tuple[int, int, int, int]:
    n, c, h, w = shape
    return n, c, h, w


def _within(names: Iterable[str]) -> str:
    """Say in which modules something is, the first ones if they are many."""
    first, more = list(dict.fromkeys(names)), ""
    if len(first) > _MOST_NAMES:
        first, more = first[:_MOST_NAMES], f" and {len(first) - _MOST_NAMES} more"
    return f" in {', '.join(map(repr, first))}{more}" if first else ""


def _refusal(node: Node, nodes: Mapping[Value, Node]) -> str:
    """Tell why this node cannot become a step; nothing when it can."""
    op, attributes = node.op, node.attributes
    if op == "item":
        return ""  # what it is one of is refused
    if op == "dropout":
        return "dropout in training mode"
    if op not in _STEPS:
        operation = operations().get(op)
        return op if operation is None else f"{op} ({rules(operation).compiles})"
    constants = [name for name, source in node.inputs.items() if nodes[source].op == "constant"]
    if constants:
        return f"{op} with a constant {constants[0]}"
    if isinstance(attributes.get("weight"), _core.PackedWeight):
        return f"{op} with a packed weight"
    if op in ("add", "mul") and not _has_equal_operands(node, nodes):
        return f"{op} of other shapes than one"
    if op not in ("cat", "interleave") and set(node.inputs) - {"input", "other", "residual", "scale"}:
        return f"{op} with a computed {min(set(node.inputs) - {'input', 'other', 'residual', 'scale'})}"
    if op == "batch_norm" and attributes["training"]:
        return "batch_norm with the statistics of the batch"
    if node.results:
        return f"{op} with return_indices"
    if op == "flatten" and not flattens_image(node, nodes):
        return "flatten of other dimensions than C, H and W"
    if op == "linear" and len(node.shape) != 2:
        return f"linear on {len(node.shape)} dimensions"
    if op == "cat" and (len(node.shape) != 4 or attributes["dim"] % 4 != 1):
        return "cat along other dimensions than the channels"
    if op == "narrow" and not narrows_channels(node):
        return "narrow of other dimensions than the channels"
    if op == "layer_norm" and (len(node.shape) != 2 or len(attributes["normalized_shape"]) != 1):
        return "layer_norm over other dimensions than the channels"
    if op in ("softmax", "log_softmax") and attributes["dim"] % len(node.shape) != 1:
        return f"{op} over other dimensions than the channels"
    return ""


def _has_equal_operands(node: Node, nodes: Mapping[Value, Node]) -> bool:
    """Whether two arrays have one shape, or the second has one factor for each channel of the first."""
    if set(node.inputs) != {"input", "other"}:
        return False
    shape, other = nodes[node.inputs["input"]].shape, nodes[node.inputs["other"]].shape
    return shape == other or (node.op == "mul" and is_channel_vector(shape, other))


def _conv2d(at: Context, pooling: Node | None = None) -> Choice:
    geometry = conv2d_geometry(at.shape, at["weight"].shape, at["stride"], at["padding"], at["dilation"], at["groups"])
    choice = Choice(at["algorithm"], "asked for")
    if choice.algorithm == "auto":
        name = _core.cheapest_conv2d(*geometry, at.winograd)
        choice = Choice(name, _why(name, geometry))
    _, _, stride, padding, dilation, groups = geometry
    pool = None
    if pooling is not None:
        pool = pool2d_geometry_of(pooling, _core.conv2d_shape(*geometry))
        choice = replace(choice, why=f"{choice.why}; pooled from {_core.pooled_from(choice.algorithm, pool)}")
    at.core.conv2d(
        at.src,
        _four(at.shape),
        at.target,
        at.packer.pack(at["weight"], groups, choice.algorithm),
        at["bias"],
        stride,
        padding,
        dilation,
        choice.algorithm,
        at["activation"],
        at["negative_slope"],
        at.place("residual") if "residual" in at.places else None,
        pool,
    )
    return choice


def _conv2d_pool(at: Context) -> Choice:
    conv, pooling = at["parts"]
    return _conv2d(replace(at, node=conv), pooling)


def _depthwise_block(at: Context) -> Choice:
    convolutions = [part for part in at["parts"] if part.op == "conv2d"]
    first = len(convolutions) % 2  # the depthwise one: what follows are one or three
    packed = [_part(part, at.packer) for part in convolutions]
    depthwise, *excitation, project = packed[first:]
    squeeze, excite = excitation or (None, None)
    options = convolutions[first].attributes
    hidden = (1, options["weight"].shape[0], *at.shape[2:])
    geometry = (options[name] for name in ("stride", "padding", "dilation", "groups"))
    _, _, stride, padding, dilation, _ = conv2d_geometry(hidden, options["weight"].shape, *geometry)
    at.core.depthwise_block(
        at.places["input"],
        _four(at.shape),
        at.dst,
        packed[0] if first else None,
        depthwise,
        stride,
        padding,
        dilation,
        squeeze,
        excite,
        project,
        at.place("residual") if "residual" in at.places else None,
    )
    return Choice("row bands", f"the hidden image {'is written once' if excitation else 'stays in the cache'}")


def _part(node: Node, packer: Packer) -> tuple[_core.PackedWeight, Any, str, float]:
    """One convolution of a depthwise block as `_core` takes it."""
    at = node.attributes
    return packer.pack(at["weight"], at["groups"]), at["bias"], at["activation"], at["negative_slope"]


def _why(algorithm: str, geometry: Any) -> str:
    _, weight, stride, _, dilation, groups = geometry
    if algorithm.startswith("winograd"):
        return "cheaper than direct by the cost model"
    if algorithm == "direct" and (*weight[2:], stride, dilation, groups) == (3, 3, (1, 1), (1, 1), 1):
        return "cheaper than Winograd, or that was switched off"
    reasons = {
        "depthwise": "one filter per channel",
        "direct": f"{weight[2]}x{weight[3]} kernel, stride {stride[0]}",
        "pointwise": "1x1 kernel",
        "stem": "few input channels",
    }
    return reasons.get(algorithm, "")


def _linear(at: Context) -> Choice:
    weight = at.packer.pack(at["weight"])
    at.core.linear(at.src, at.dst, weight, at["bias"], at["activation"], at["negative_slope"])
    return Choice("panels", "one pass over the weight")


def _pool2d(at: Context) -> None:
    at.core.pool2d(at.src, _four(at.shape), at.target, *pool2d_geometry_of(at.node, at.shape)[1:])


def _adaptive_pool2d(at: Context) -> None:
    size: Pair = pooled_size(at.node.op, at.node.attributes.get("output_size", 1), at.shape[2:])
    at.core.adaptive_pool2d(at.src, _four(at.shape), at.target, "max" in at.node.op, size)


def _add(at: Context) -> None:
    at.core.add(at.src, at.place("other"), at.dst, at.count, at["activation"], at["negative_slope"])


def _mul(at: Context) -> None:
    if math.prod(at.shapes["other"]) == at.count:
        at.core.multiply(at.src, at.place("other"), at.dst, at.count)
    else:
        at.core.scale(at.src, _four(at.shape), at.place("other"), at.dst)


def _affine(at: Context) -> None:
    channels = at.node.shape[1]
    zeros, ones, factor, offset = (
        np.full(channels, value, np.float32) for value in (0, 1, float(at["factor"]), float(at["offset"]))
    )
    at.core.batch_norm(at.src, at.dst, at.count // channels, zeros, ones, factor, offset, 0.0)


def _scale(at: Context) -> None:
    at.core.scale(at.src, _four(at.shape), at.place("scale"), at.dst)


def _activation(at: Context) -> None:
    at.core.activation(at.src, at.dst, at.count, at.node.op, at.node.attributes.get("negative_slope", 0.0))


def _softmax(at: Context) -> None:
    channels = at.node.shape[1]
    at.core.softmax(at.src, at.dst, at.count // channels, channels, at.node.op == "log_softmax")


def _batch_norm(at: Context) -> None:
    statistics = at["running_mean"], at["running_var"], at["weight"], at["bias"]
    at.core.batch_norm(at.src, at.dst, at.count // at.node.shape[1], *statistics, at["eps"])


def _layer_norm(at: Context) -> None:
    channels = at.node.shape[1]
    at.core.layer_norm(at.src, at.dst, at.count // channels, channels, at["weight"], at["bias"], at["eps"])


def _local_response_norm(at: Context) -> None:
    channels = at.node.shape[1]
    parameters = at["size"], at["alpha"], at["beta"], at["k"]
    at.core.local_response_norm(at.src, at.dst, at.count // channels, channels, *parameters)


def _cat(at: Context) -> Choice:
    channels, first = at.node.shape[1], 0
    copies: list[tuple[Source, tuple[int, int, int, int], tuple[int, int, int]]] = []
    for name, place in at.places.items():
        if name not in at.slices:
            copies.append((place, _four(at.shapes[name]), (at.dst, first, channels)))
        first += at.shapes[name][1]
    at.core.concat(copies)
    return Choice("in place" if not copies else "", f"{len(at.slices)} of {len(at.places)} are written here at once")


def _narrow(at: Context) -> Choice:
    source = at.places["input"]
    place, first, whole = (source, 0, at.shape[1]) if isinstance(source, int) else source
    at.core.slice((place, first + at["start"], whole), _four(at.node.shape), at.dst)
    return Choice("copy", "not all who read it can read it where it is")


def _interleave(at: Context) -> None:
    sources = list(at.places)
    at.core.interleave(list(at.places.values()), _four(at.shapes[sources[0]]), at.dst)


def _copy(at: Context) -> None:
    at.core.copy(at.src, _four(at.shape), at.dst)


def _flatten(at: Context) -> None:
    at.core.flatten(at.src, _four(at.shape), at.dst)


_STEPS: dict[str, Callable[[Context], Choice | None]] = {
    "adaptive_avg_pool2d": _adaptive_pool2d,
    "adaptive_max_pool2d": _adaptive_pool2d,
    "add": _add,
    "affine": _affine,
    "avg_pool2d": _pool2d,
    "batch_norm": _batch_norm,
    "cat": _cat,
    "channel_norm": _layer_norm,
    "channels_last": _copy,
    "conv2d": _conv2d,
    "conv2d_pool": _conv2d_pool,
    "depthwise_block": _depthwise_block,
    "flatten": _flatten,
    "global_avg_pool2d": _adaptive_pool2d,
    "global_max_pool2d": _adaptive_pool2d,
    "image_rows": _copy,
    "interleave": _interleave,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "local_response_norm": _local_response_norm,
    "log_softmax": _softmax,
    "max_pool2d": _pool2d,
    "mul": _mul,
    "narrow": _narrow,
    "scale": _scale,
    "softmax": _softmax,
    **dict.fromkeys(ACTIVATIONS, _activation),
}
