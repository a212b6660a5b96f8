"""From a graph to the steps of a `_core.Plan` for one batch: where results lie, and in which order the steps run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane.functional._arguments import Array
from convlane.functional._op import Shape, operations, rules, traits_named
from convlane.graph.computed_weights import is_product
from convlane.graph.lowering import ANY_ARGUMENT, LOWERINGS, REFUSALS, Choice, Context, OfBatch, Operand, strides_of
from convlane.graph.lowering.operand import FLOAT
from convlane.graph.trace import SOURCES, Graph, Node, Value
from convlane.graph.weights import Packer

_MOST_FLOATS = 2**48  # more than any machine has, yet the sum over a network still fits into 64 bits
_MOST_NAMES = 4
_CACHE_BYTES = 9 << 20


def check_supported(graph: Graph, modules: Callable[[], Mapping[Value, str]] = dict, *, whole: bool = False) -> None:
    """Raise one ValueError that names every operation of the graph that no step can compute, with their modules.

    `modules` is called only where there are such operations, and returns the names of those that it knows. With
    `whole`, operations may mix the batch.
    """
    refusals: dict[str, list[Value]] = {}
    for value, node in graph.nodes.items():
        if node.op not in SOURCES and (refusal := _refusal(node, graph.nodes)):
            if whole and isinstance(refusal, OfBatch):
                continue
            refusals.setdefault(refusal, []).append(value)
    if refusals:
        names = modules()
        found = [
            refusal + _within(names[value] for value in values if value in names)
            for refusal, values in refusals.items()
        ]
        may_mix = not whole and all(isinstance(each, (OfBatch, UnlessWhole)) for each in refusals)
        hint = ". With whole=True examples may be mixed" if may_mix else ""
        raise ValueError(f"compile: the network uses operations that a plan cannot compute: {'; '.join(found)}{hint}")
    for node in graph.nodes.values():
        if math.prod(node.shape) > _MOST_FLOATS:
            raise ValueError(f"compile: shape {node.shape} of {node.op} is too large")


class UnlessWhole(str):
    """A refusal of an operation that `as_products` replaces, which it does only in plans for whole inputs."""


@dataclass(frozen=True)
class Lowered:
    """The plan of a graph, and the choice made for each node of `steps_of`."""

    core: _core.Plan
    choices: tuple[Choice, ...]
    ends: tuple[int, ...]
    """For each node the index after its last step: it may become several."""

    def seconds(self, inputs: list[Array], outputs: list[Array], memory: _core.PlanMemory) -> Array:
        """Run the plan and return the seconds that each node took."""
        passed = np.cumsum([0.0, *self.core.profile(inputs, outputs, memory)])[[0, *self.ends]]
        return np.diff(passed)


def lower(
    graph: Graph,
    offsets: Mapping[Value, int],
    arena: int,
    *,
    batch: int,
    threads: int,
    winograd: bool,
    packer: Packer,
) -> Lowered:
    """Build the plan for a batch and a number of threads, of the nodes of `steps_of`.

    Parameters
    ----------
    graph
        Of one image, with slots.
    offsets, arena
        Of its results in the memory of one image, in floats; a batch takes that many times as much.
    """
    staged = _staged(graph, offsets)
    operands = _operands(graph, offsets, staged, batch)
    known: dict[Value, Any] = {**operands, **_constants(graph)}
    given = [_type(operands[value]) for value in graph.inputs.values()]
    core = _core.Plan(given, output_types(graph, batch), FLOAT * arena * batch, threads)
    for value, i in staged.items():
        core.stage(i, FLOAT * batch * offsets[value])
    choices, ends = [], []
    for value, node in steps_of(graph).items():
        inputs = {name: known[source] for name, source in node.inputs.items()}
        in_place = frozenset(name for name, source in node.inputs.items() if _is_part(graph, source, value))
        choices.append(append_step(Context(core, node, inputs, operands[value], in_place, winograd, packer)))
        ends.append(core.steps)
    return Lowered(core, tuple(choices), tuple(ends))


def batched(shape: Shape, batch: int) -> Shape:
    """Return a shape for a batch, given that for one image; values of a batch of 1 stay as they are."""
    return (batch * shape[0], *shape[1:]) if shape else shape


def output_types(graph: Graph, batch: int) -> list[tuple[str, Shape, Shape]]:
    """Return type, shape and strides of the arrays that a plan writes: each result once."""
    nodes = [graph.nodes[value] for value in dict.fromkeys(graph.outputs.values())]
    shapes = [(str(node.dtype), batched(node.shape, batch)) for node in nodes]
    return [(dtype, shape, strides_of(shape)) for dtype, shape in shapes]


def steps_of(graph: Graph) -> dict[Value, Node]:
    """Return the nodes that become steps: all but inputs, constants and views of other results."""
    return {
        value: node
        for value, node in graph.nodes.items()
        if node.op not in SOURCES and not (value in graph.slots and graph.slots[value].is_view)
    }


def images_at_once(graph: Graph, arena: int) -> int:
    """Return how many images are run at once at most, so that their activations stay in the caches.

    ResNet-50 on 8 images takes 237 ms image by image, 273 at once and 259 in parts of 16 MiB (EPYC Zen 5, one thread,
    2026-11-21). But large fully connected layers would read their weights from memory for every part, so there the
    batch stays whole.
    """
    linear = (node.attributes["weight"].nbytes for node in graph.nodes.values() if node.op == "linear")
    return _MOST_FLOATS if sum(linear) > _CACHE_BYTES else max(_CACHE_BYTES // (FLOAT * max(arena, 1)), 1)


def append_step(context: Context) -> Choice:
    """Append the step that a node becomes."""
    choice = LOWERINGS[context.node.op](context) or Choice()
    measured = context.node.measured
    return choice if measured is None else replace(choice, why=str(measured))


def _operands(
    graph: Graph, offsets: Mapping[Value, int], staged: Mapping[Value, int], batch: int
) -> dict[Value, Operand]:
    """Return where all arrays lie: inputs, outputs, results with memory of their own, and views of other results."""
    inputs = {value: i for i, value in enumerate(graph.inputs.values())}
    outputs = {graph.memory_of(value): i for i, value in enumerate(dict.fromkeys(graph.outputs.values()))}
    operands: dict[Value, Operand] = {}

    def operand_of(value: Value) -> Operand:
        if value in operands:
            return operands[value]
        node, slot = graph.nodes[value], graph.slots.get(value)
        shape = batched(node.shape, batch)
        if slot is None:
            named = {"input": inputs, "staged": staged, "output": outputs}
            location = next((name for name, values in named.items() if value in values), "arena")
            index = named[location][value] if location in named else 0
            offset = FLOAT * batch * offsets[value] if location == "arena" else 0
            found = Operand(location, index, offset, shape, strides_of(shape), str(node.dtype))  # type: ignore[arg-type]
        elif slot.channel is None:
            found = operand_of(slot.buffer).viewed(shape)
        else:
            found = operand_of(slot.buffer).part(slot.channel, shape[1])
        operands[value] = found
        return found

    for value, node in graph.nodes.items():
        if node.op != "constant":
            operand_of(value)
    return operands


def _staged(graph: Graph, offsets: Mapping[Value, int]) -> dict[Value, int]:
    """Return which results are nothing but copies of inputs, and of which ones.

    Steps may read the caller's arrays instead, unless one writes its result there.
    """
    inputs = {value: i for i, value in enumerate(graph.inputs.values())}
    written = {graph.memory_of(slot.buffer) for slot in graph.slots.values() if not slot.is_view}
    return {
        value: inputs[node.inputs["input"]]
        for value, node in graph.nodes.items()
        if node.op == "channels_last" and node.inputs.get("input") in inputs
        if value in offsets and value not in graph.slots and value not in written
    }


def _constants(graph: Graph) -> dict[Value, NDArray[Any]]:
    return {value: node.attributes["value"] for value, node in graph.nodes.items() if node.op == "constant"}


def _is_part(graph: Graph, source: Value, whole: Value) -> bool:
    """Whether a result is written directly to its slice of a concatenation."""
    slot = graph.slots.get(source)
    return slot is not None and not slot.is_view and slot.buffer == whole


def _type(operand: Operand) -> tuple[str, Shape, Shape]:
    return operand.dtype, operand.shape, operand.strides


def _within(names: Iterable[str]) -> str:
    """Say in which modules an operation occurs, the first ones if they are many."""
    first, more = list(dict.fromkeys(names)), ""
    if len(first) > _MOST_NAMES:
        first, more = first[:_MOST_NAMES], f" and {len(first) - _MOST_NAMES} more"
    return f" in {', '.join(map(repr, first))}{more}" if first else ""


def _refusal(node: Node, nodes: Mapping[Value, Node]) -> str:
    """Return why this node cannot become a step; empty if it can."""
    op, attributes = node.op, node.attributes
    if op == "dropout":
        return "dropout in training mode"
    if op == "item":
        return ""  # refused through the operation that it is a result of
    if op not in LOWERINGS:
        operation = operations().get(op)
        return op if operation is None else f"{op} ({rules(operation).compiles})"
    constants = [name for name, source in node.inputs.items() if nodes[source].op == "constant"]
    if constants and op not in ANY_ARGUMENT:
        return f"{op} with a constant {constants[0]}"
    if len(constants) == len(node.inputs):
        return f"{op} of constants alone"
    if isinstance(attributes.get("weight"), (_core.PackedWeight, _core.TransposedWeight)):
        return f"{op} with a packed weight"
    computed = node.inputs.keys() & traits_named(op).parameters
    if computed and op not in ANY_ARGUMENT:
        refusal = f"{op} with a computed {min(computed)}"
        if is_product(node, nodes):
            return UnlessWhole(refusal)
        return f"{refusal}, which only calling the network itself can compute"
    if node.results:
        return f"{op} with return_indices"
    refuse = REFUSALS.get(op)
    return "" if refuse is None else refuse(node, nodes)
