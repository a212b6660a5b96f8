"""Offsets in the arena, compared with a plain search over all results that live at once."""

import random
import time

import pytest

from convlane import _core
from convlane.graph.arena import plan_arena
from convlane.graph.trace import Graph, Node


def drawn(seed, count=60):
    """Draw a graph whose results live for few steps or for many."""
    draw = random.Random(seed)
    nodes = {0: Node("input", {}, {"name": "input"}, (1, 3))}
    for i in range(1, count):
        sources = {f"from{j}": draw.randrange(max(0, i - draw.choice([1, 5, count])), i) for j in range(2)}
        nodes[i] = Node("sum", sources, {}, (1, draw.randrange(1, 900)))
    return Graph(nodes, {"output": count - 1})


def lowest_offsets(graph):
    """Assign offsets greedily by size: the lowest of 0 and the ends of other results at which nothing overlaps."""
    floats = {value: (node.shape[1] + 15) // 16 * 16 for value, node in graph.nodes.items()}
    users = graph.users()
    lives = {value: range(value, max(users[value], default=value) + 1) for value in graph.nodes}
    offsets = {}
    for value in sorted(set(graph.nodes) - {0, graph.output}, key=lambda value: (-graph.nodes[value].shape[1], value)):
        meets = [x for x in offsets if lives[x][0] <= lives[value][-1] and lives[value][0] <= lives[x][-1]]
        offsets[value] = next(
            offset
            for offset in sorted({0, *(offsets[x] + floats[x] for x in meets)})
            if all(offset + floats[value] <= offsets[x] or offsets[x] + floats[x] <= offset for x in meets)
        )
    return offsets


def test_each_offset_is_the_lowest_that_is_free():
    for seed in range(5):
        graph = drawn(seed)
        offsets, arena = plan_arena(graph)
        expected = lowest_offsets(graph)
        assert offsets == expected
        assert arena == max(expected[value] + (graph.nodes[value].shape[1] + 15) // 16 * 16 for value in expected)


def test_ten_thousand_results_that_live_at_once():
    count = 10_000
    nodes = {0: Node("input", {}, {"name": "input"}, (1, 3))}
    nodes |= {i: Node("relu", {"input": 0}, {}, (1, 16 * i)) for i in range(1, count)}
    nodes[count] = Node("sum", {str(i): i for i in range(1, count)}, {}, (1, 1))
    offsets, arena = plan_arena(Graph(nodes, {"output": count}))
    assert arena == 16 * count * (count - 1) // 2
    assert offsets[count - 1] == 0
    assert offsets[1] == arena - 16


def test_time_grows_linearly_with_the_number_of_results():
    def seconds(count):
        start = time.thread_time()
        lives = [(0, count, 10**6)] * 8 + [(i, i + 3, 16 * (1 + i % 9)) for i in range(count)]
        _core.assign_offsets(lives)
        return time.thread_time() - start

    few, many = (min(seconds(count) for _ in range(3)) for count in (2_000, 16_000))
    assert many < 24 * few  # 64 if each were compared with all


@pytest.mark.parametrize("life", [(-1, 3, 16), (2, 1, 16), (0, 1, -16), (0, 2**40, 16)])
def test_invalid_lifetimes_are_refused(life):
    with pytest.raises(ValueError, match="plan: "):
        _core.assign_offsets([life])
