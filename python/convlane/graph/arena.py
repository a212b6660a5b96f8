"""Memory planning: which results are parts or views of others, and the offsets of all others in one block of memory."""

from __future__ import annotations

import math
from dataclasses import replace

from convlane import _core
from convlane.functional._op import Shape
from convlane.graph.lowering.operand import FLOAT
from convlane.graph.passes import narrows_channels, traits_of
from convlane.graph.trace import RETURNED, SOURCES, Graph, Node, Slot, Value

ALIGNMENT = 16  # floats: one cache line, and the widest vector


def assign_slots(graph: Graph) -> Graph:
    """Run the passes that decide where results lie: inputs in a layout that steps can read, and slots for views."""
    graph = stage_input(graph)
    slots: dict[Value, Slot] = {}
    memory: dict[Value, Value] = {}  # of rows, that of their image
    returned = {*graph.outputs.values()}
    held = {*returned}  # the memory that they have
    users = graph.users()
    for value, node in graph.nodes.items():
        if (
            node.op == "narrow"
            and narrows_channels(node)
            and node.inputs["input"] not in memory  # of another shape, in which channels lie otherwise
            and all(_reads_slice(graph, user, value) for user in users[value])
        ):
            source = node.inputs["input"]
            whole = slots.get(source, Slot(source, 0, True))
            slots[value] = Slot(whole.buffer, (whole.channel or 0) + node.attributes["start"], True)
        elif node.op == "cat" and _joins_channels(node):
            channel = 0
            for source in node.inputs.values():
                if source not in slots and _stands_in(graph, source, value, users[source]):
                    slots[source] = Slot(value, channel, False)
                channel += graph.nodes[source].shape[1]
        elif traits_of(node).keeps_order and _is_view(node, graph):
            buffer = memory.get(node.inputs["input"], node.inputs["input"])
            if value in returned:
                if buffer in held:
                    continue  # what is returned twice is there twice: itself, or in another shape
                held.remove(value)
                held.add(buffer)
            memory[value] = buffer
            slots[value] = Slot(buffer, None, True)
    return replace(graph, slots=slots)


def stage_input(graph: Graph) -> Graph:
    """Copy inputs into the arena where an operation cannot read the caller's own array."""
    first = max(graph.nodes) + 1
    staged = {value: first + i for i, value in enumerate(graph.inputs.values())}

    def reads_itself(node: Node, name: str) -> bool:
        return name == "input" and traits_of(node).reads_any_layout

    needed = {value for value in graph.outputs.values() if value in staged}
    for node in graph.nodes.values():
        needed |= {source for name, source in node.inputs.items() if source in staged and not reads_itself(node, name)}
    nodes: dict[Value, Node] = {}
    for value, node in graph.nodes.items():
        inputs = {
            name: staged[source] if source in needed and not reads_itself(node, name) else source
            for name, source in node.inputs.items()
        }
        nodes[value] = node.reading(inputs)
        if value in needed:
            nodes[staged[value]] = Node("channels_last", {"input": value}, {}, node.shape)
    return replace(graph, nodes=nodes, outputs=graph.renamed({value: staged[value] for value in needed}))


def plan_arena(graph: Graph) -> tuple[dict[Value, int], int]:
    """Give every result between input and output an offset, so that no two that are alive at once overlap.

    The largest come first, each at the lowest offset where it fits ("greedy by size" of Pisarchyk and Lee, "Efficient
    memory management for deep neural net inference", 2020).

    Returns
    -------
    tuple
        Offsets and the size of the arena, in floats for one image.
    """
    order = {value: i for i, value in enumerate(graph.nodes)} | {RETURNED: len(graph.nodes)}
    birth = dict(order)
    last = {value: max((order[user] for user in users), default=order[value]) for value, users in graph.users().items()}
    for value, slot in graph.slots.items():
        birth[slot.buffer] = min(birth[slot.buffer], order[value])
        last[slot.buffer] = max(last[slot.buffer], last[value])
    apart = {*map(graph.memory_of, graph.outputs.values()), *graph.slots}
    inner = {
        value: _floats(node) for value, node in graph.nodes.items() if node.op not in SOURCES and value not in apart
    }
    largest_first = sorted(inner, key=lambda value: -math.prod(graph.nodes[value].shape))
    found = _core.assign_offsets([(birth[value], last[value], inner[value]) for value in largest_first])
    offsets = dict(zip(largest_first, found, strict=True))
    arena = max((offset + inner[value] for value, offset in offsets.items()), default=0)
    for value, slot in graph.slots.items():
        if slot.buffer in offsets and not slot.is_view:
            offsets[value] = offsets[slot.buffer] + (slot.channel or 0)
    return offsets, arena


def _joins_channels(node: Node) -> bool:
    return len(node.shape) == 4 and node.attributes["dim"] % 4 == 1


def _stands_in(graph: Graph, part: Value, whole: Value, users: list[Value]) -> bool:
    """Return whether a part of a concatenation can be written there at once: all others read it where it lies.

    U-Net's maps on the way down are pooled, too.
    """
    others = [user for user in users if user != whole]
    return (
        traits_of(graph.nodes[part]).writes_slices
        and len(others) == len(users) - 1
        and all(_reads_slice(graph, user, part) and not traits_of(graph.nodes[user]).in_place for user in others)
    )


def _floats(node: Node) -> int:
    floats = math.prod(node.shape) * max(node.dtype.itemsize // FLOAT, 1)
    return -(-floats // ALIGNMENT) * ALIGNMENT


def _reads_slice(graph: Graph, user: Value, value: Value) -> bool:
    if user == RETURNED:
        return False
    node = graph.nodes[user]
    return traits_of(node).reads_slices and node.inputs.get("residual") != value


def _is_view(node: Node, graph: Graph) -> bool:
    """Return whether these are another result's numbers in the same order, so that they can be read where that lies."""
    whole = graph.nodes[node.inputs["input"]]
    in_order = traits_of(node).keeps_order == "memory" or (_in_c_order(whole.shape) and _in_c_order(node.shape))
    return in_order and whole.op not in SOURCES


def _in_c_order(shape: Shape) -> bool:
    """Whether a dense result of this shape lies in C order: images and volumes are channels last."""
    return len(shape) not in (4, 5) or 1 in (shape[1], math.prod(shape[2:]))
