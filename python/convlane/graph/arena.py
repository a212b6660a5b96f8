"""Where results of a graph stand: what shares the arena of a plan, and what need not be copied at all."""

from __future__ import annotations

import math

import numpy as np

from convlane.graph.passes import traits_of
from convlane.graph.trace import INPUT, Graph, Node, Value

ALIGNMENT = 16  # floats: one cache line, and the widest vector


def plan_arena(graph: Graph) -> tuple[dict[Value, int], int]:
    """Give every result between input and output an offset, so that no two that live at once overlap.

    The largest first, each at the lowest offset where it fits ("greedy by size" of Pisarchyk and Lee, "Efficient
    memory management for deep neural net inference", 2020).

    Returns
    -------
    tuple
        Offsets and the size of the arena, in floats for one image.
    """
    slices, views = concat_slices(graph), channel_views(graph)
    returned = {value for value, _ in graph.results}
    order = {value: i for i, value in enumerate(graph.nodes)}
    birth = dict(order)
    for value, (whole, _) in slices.items():
        birth[whole] = min(birth[whole], order[value])
    last = {value: max((order[user] for user in users), default=order[value]) for value, users in graph.users().items()}
    for value, (whole, _) in views.items():
        last[whole] = max(last[whole], last[value])
    apart = {INPUT, graph.output, *returned, *slices, *views}
    inner = {value: _floats(node) for value, node in graph.nodes.items() if value not in apart}
    occupied = _Occupied(len(inner))
    offsets: dict[Value, int] = {}
    for value, floats in sorted(inner.items(), key=lambda item: -math.prod(graph.nodes[item[0]].shape)):
        offsets[value] = occupied.lowest(birth[value], last[value], floats)
        occupied.add(birth[value], last[value], offsets[value], offsets[value] + floats)
    arena = max((offset + inner[value] for value, offset in offsets.items()), default=0)
    for value, (whole, channel) in slices.items():
        if whole in offsets:
            offsets[value] = offsets[whole] + channel
    return offsets, arena


def concat_slices(graph: Graph) -> dict[Value, tuple[Value, int]]:
    """Tell who may write its result straight into a concatenation of channels: the whole's value and first channel."""
    users = graph.users()
    slices = {}
    for value, node in graph.nodes.items():
        if node.op != "cat":
            continue
        channel = 0
        for source in node.inputs.values():
            if len(users[source]) == 1 and traits_of(graph.nodes[source]).writes_slices:
                slices[source] = value, channel
            channel += graph.nodes[source].shape[1]
    return slices


def channel_views(graph: Graph) -> dict[Value, tuple[Value, int]]:
    """Tell which channels need not be taken out of an image, as all who read them find them there.

    Returns
    -------
    dict
        For the value of each such `narrow` the whole image's and the first channel.
    """
    users = graph.users()
    returned = {value for value, _ in graph.results}
    views: dict[Value, tuple[Value, int]] = {}

    def reads_slice(user: Value, value: Value) -> bool:
        node = graph.nodes[user]
        return traits_of(node).reads_slices and node.inputs.get("residual") != value

    for value, node in graph.nodes.items():
        if node.op == "narrow" and value not in returned and all(reads_slice(user, value) for user in users[value]):
            whole, first = views.get(node.inputs["input"], (node.inputs["input"], 0))
            views[value] = whole, first + node.attributes["start"]
    return views


class _Occupied:
    """Which offsets are taken at which steps: spans of both, in the order of the offsets.

    Every result is held against all that have a place, so the time is quadratic; but as arrays these are few
    instructions each: 1 s for 16,000 results, 4 ms for DenseNet-121 (Xeon with AVX-512, 2026-11-26).
    """

    def __init__(self, capacity: int) -> None:
        self._spans = np.empty((4, capacity), np.int64)  # first and last step, begin and end
        self._count = 0

    def add(self, first: int, last: int, begin: int, end: int) -> None:
        """Take offsets from `begin` to `end` at the steps from `first` to `last`."""
        _, _, begins, _ = self._spans[:, : self._count]
        at = np.searchsorted(begins, begin)
        self._spans[:, at + 1 : self._count + 1] = self._spans[:, at : self._count]
        self._spans[:, at] = first, last, begin, end
        self._count += 1

    def lowest(self, first: int, last: int, size: int) -> int:
        """Return the lowest offset at which `size` are free at all steps from `first` to `last`."""
        firsts, lasts, begins, ends = self._spans[:, : self._count]
        alive = (firsts <= last) & (first <= lasts)
        free = np.maximum.accumulate(np.append(0, ends[alive]))
        fits = free[:-1] + size <= begins[alive]
        return int(free[fits.argmax() if fits.any() else -1])


def _floats(node: Node) -> int:
    return -(-math.prod(node.shape) // ALIGNMENT) * ALIGNMENT
