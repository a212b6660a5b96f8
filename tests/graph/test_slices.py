"""Parts of images and several results in compiled networks: what is read in place, and what is copied."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane import models, nn
from convlane.graph.arena import assign_slots, plan_arena
from convlane.graph.interpret import interpret
from convlane.graph.lower import steps_of
from convlane.graph.passes import optimize
from convlane.graph.trace import trace
from convlane.graph.verify import verify

SHAPE = (8, 6, 5)


def images(rng, count=3):
    return rng.standard_normal((count, *SHAPE), np.float32)


def half(x, second):
    return F.narrow(x, 1, 4 * second, 4)


def filters(seed, out, channels, kernel=1, groups=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((out, channels // groups, kernel, kernel), np.float32)


def depthwise_branch(x):
    x = F.relu(F.conv2d(x, filters(1, 4, 4)))
    x = F.conv2d(x, filters(2, 4, 4, 3, 4), padding=1, groups=4)
    return F.relu(F.conv2d(x, filters(3, 4, 4)))


def unit(x):
    """A unit of ShuffleNet."""
    return F.interleave([half(x, 0), depthwise_branch(half(x, 1))])


def unit_without_expansion(x):
    y = F.conv2d(half(x, 1), filters(2, 4, 4, 3, 4), padding=1, groups=4)
    return F.cat([half(x, 0), F.conv2d(y, filters(3, 4, 4))])


def pooled_and_joined(x, y):
    """Maps that are pooled and also concatenated, as in U-Net."""
    down = F.max_pool2d(x, 2), F.avg_pool2d(y, 2)
    return F.cat([x, F.interpolate(F.cat(down, 1), SHAPE[1:]), y])


NETWORKS = {
    "units": lambda x: unit(unit(F.relu(x))),
    "unit at the input": unit,
    "unit without expansion": lambda x: unit_without_expansion(F.relu(x)),
    "slice of a slice": lambda x: F.interleave(
        [F.narrow(half(F.relu(x), 1), 1, 2, 2), F.narrow(F.sigmoid(x), 1, 1, 2)]
    ),
    "slices that must be copied": lambda x: F.add(half(F.relu(x), 0), half(F.tanh(x), 1)),
    "slice read in place and copied": lambda x: F.cat([half(F.relu(x), 1), F.sigmoid(half(F.relu(x), 1))]),
    "slice as the result": lambda x: half(F.relu(x), 1),
    "slices that are pooled": lambda x: F.add(
        F.max_pool2d(half(F.relu(x), 0), 3, 2, 1), F.avg_pool2d(half(F.tanh(x), 1), 3, 2, 1)
    ),
    "a plane's slices": lambda x: F.cat([F.global_avg_pool2d(half(F.relu(x), 1)), F.max_pool2d(half(x, 0), (6, 5))]),
    "parts that are pooled": lambda x: pooled_and_joined(F.conv2d(x, filters(1, 5, 8)), F.conv2d(x, filters(2, 3, 8))),
    "a part and its pool side by side": lambda x: F.cat(
        [y := F.conv2d(x, filters(1, 5, 8)), F.max_pool2d(y, 3, 1, 1), F.avg_pool2d(y, 3, 1, 1)]
    ),
    "parts that are sliced, read twice or returned": lambda x: (
        lambda a, b, c: F.cat([half(F.cat([a, b]), 1), half(a, 0), F.cat([b, c]), F.max_pool2d(c, 3, 1, 1), c])
    )(F.conv2d(x, filters(1, 8, 8)), F.conv2d(x, filters(2, 3, 8)), F.conv2d(x, filters(3, 2, 8))),
    "slice of the input as the result": lambda x: half(x, 1),
    "slice as a residual": lambda x: F.add(half(F.relu(x), 0), depthwise_branch(half(F.tanh(x), 1))),
    "three in turn": lambda x: F.interleave([F.relu(x), F.tanh(x), F.sigmoid(x)]),
    "shuffle": lambda x: F.channel_shuffle(F.relu(x), 4),
    "shuffle of a concatenation": lambda x: F.channel_shuffle(F.cat([F.relu(x), F.tanh(x)]), 2),
    "pixel norm": lambda x: F.channel_norm(x, np.arange(8, dtype=np.float32), np.ones(8, np.float32), 0.1),
    "layer norm": lambda x: F.layer_norm(F.flatten(F.global_avg_pool2d(x)), (8,)),
    "gelu": lambda x: F.gelu(F.conv2d(x, filters(1, 5, 8))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_numbers(name, rng, isa, threads, tmp_path):
    function, x = NETWORKS[name], images(rng)
    plan = convlane.compile(function, (None, *SHAPE), winograd=False)
    expected = function(x)
    y = plan(x)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(plan(x[1:2]), y[1:2])
    plan.save(tmp_path / "plan")
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan")(x), y)
    assert plan(x[:0]).shape == (0, *y.shape[1:])


def steps(function):
    graph = assign_slots(optimize(trace(function, (1, *SHAPE))))
    return [node.op for node in steps_of(graph).values() if node.op != "channels_last"]  # except that of the input


def test_what_is_copied():
    assert steps(NETWORKS["units"]) == ["relu", "depthwise_block", "interleave", "depthwise_block", "interleave"]
    assert steps(NETWORKS["slices that must be copied"]) == ["relu", "narrow", "tanh", "narrow", "add"]
    assert steps(NETWORKS["unit without expansion"]) == ["relu", "depthwise_block", "cat"]
    assert steps(NETWORKS["slice of a slice"]) == ["relu", "sigmoid", "interleave"]
    assert steps(NETWORKS["shuffle"]) == ["relu", "interleave"]
    assert steps(NETWORKS["shuffle of a concatenation"]) == ["relu", "tanh", "interleave"]
    assert steps(NETWORKS["gelu"]) == ["conv2d"]
    assert steps(NETWORKS["slices that are pooled"]) == ["relu", "max_pool2d", "tanh", "avg_pool2d", "add"]


def copied(function):
    """Return how many parts of concatenations are copied."""
    graph = assign_slots(optimize(trace(function, (1, *SHAPE))))
    cats = [node for node in graph.nodes.values() if node.op == "cat"]
    return sum(source not in graph.slots for node in cats for source in node.inputs.values())


def test_parts_that_are_pooled_are_written_where_they_are_joined():
    assert copied(NETWORKS["a part and its pool side by side"]) == 0
    assert copied(NETWORKS["parts that are pooled"]) == 1  # the upsampled one
    assert copied(lambda x: F.cat([y := F.conv2d(x, filters(1, 5, 8)), F.relu(y)])) == 2
    assert copied(lambda x: ((y := F.conv2d(x, filters(1, 5, 8))), F.cat([y, y]))) == 2


def test_an_image_lives_as_long_as_its_slices():
    def network(x):
        x = F.relu(x)
        slices = half(x, 0), half(x, 1)
        x = F.tanh(F.sigmoid(F.tanh(x)))
        return F.interleave([*slices, half(x, 0), half(x, 1)])

    graph = assign_slots(optimize(trace(network, (1, *SHAPE))))
    assert [slot.is_view for slot in graph.slots.values()] == [True] * 4
    offsets, _ = plan_arena(graph)
    whole = next(iter(graph.slots.values())).buffer
    others = [offsets[value] for value in offsets if value != whole]
    assert offsets[whole] not in others


RESULTS = {
    "two": lambda x: (F.relu(x), F.global_avg_pool2d(x)),
    "one in a list": lambda x: [F.relu(x)],
    "one that others read": lambda x: ((y := F.conv2d(x, filters(1, 8, 8))), F.relu(y)),
    "the input": lambda x: (x, F.relu(x)),
    "the same twice": lambda x: ((y := F.relu(x)), y),
    "the same in two shapes": lambda x: ((y := F.global_avg_pool2d(x)), F.flatten(y)),
    "parts of a concatenation": lambda x: ((y := F.max_pool2d(x, 2)), F.cat([y, F.avg_pool2d(x, 2)])),
    "a slice and its whole": lambda x: ((y := F.relu(x)), half(y, 1), unit(y)),
    "rows whose images are read, too": lambda x: (F.flatten(y := F.global_avg_pool2d(x)), F.relu(y)),
    "rows of rows, and slices of their images": lambda x: (
        F.flatten(F.flatten(y := F.global_avg_pool2d(x)), 1, 1),
        F.cat([half(y, 1), half(y, 0)]),
    ),
    "rows twice": lambda x: (F.flatten(y := F.global_avg_pool2d(x)), F.flatten(y)),
    "rows of a concatenation": lambda x: [F.flatten(F.cat([F.global_avg_pool2d(x), F.global_max_pool2d(x)]))],
    "several shapes": lambda x: (F.flatten(x), F.flatten(F.global_max_pool2d(x)), F.max_pool2d(x, 2)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_several_results(name, rng, isa, threads, tmp_path):
    function, x = RESULTS[name], images(rng, 2)
    expected = function(x)
    plan = convlane.compile(function, (None, *SHAPE), winograd=False)
    found = plan(x)
    assert type(found) is tuple
    assert plan.output_shape == tuple((None, *right.shape[1:]) for right in expected)
    for array, right in zip(found, expected, strict=True):
        assert array.shape == right.shape
        np.testing.assert_allclose(array, right, rtol=1e-5, atol=1e-5)
    for array, whole in zip(plan(x[0]), found, strict=True):
        np.testing.assert_array_equal(array, whole[0])
    assert [array.shape[0] for array in plan(x[:0])] == [0] * len(found)
    plan.save(tmp_path / "plan")
    for again in (convlane.load_plan(tmp_path / "plan"), pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        for array, right in zip(again(x), found, strict=True):
            np.testing.assert_array_equal(array, right)
    assert len(plan.profile(x, repeat=1).steps) == len(plan.describe().steps)


def test_large_batches_in_parts(rng):
    """A batch so large that the plan runs it in parts, whose results follow each other."""
    function = RESULTS["two"]
    plan = convlane.compile(lambda x: function(F.tanh(F.sigmoid(x))), (None, 64, 96, 96))
    x = rng.standard_normal((7, 64, 96, 96), np.float32)
    whole = plan(x)
    for i in (0, 3, 6):
        for array, single in zip(whole, plan(x[i]), strict=True):
            np.testing.assert_array_equal(array[i], single)


def test_results_in_a_dict(rng):
    x = images(rng, 2)
    plan = convlane.compile(lambda x: {"maps": F.relu(x), "mean": F.global_avg_pool2d(x)}, (None, *SHAPE))
    found = plan(x)
    assert list(found) == ["maps", "mean"]
    assert plan.output_shape == {"maps": (None, *SHAPE), "mean": (None, SHAPE[0], 1, 1)}
    np.testing.assert_array_equal(found["maps"], F.relu(x))
    np.testing.assert_allclose(plan(x[0])["mean"], found["mean"][0], rtol=1e-6)


def test_graphs_with_broken_results():
    graph = optimize(trace(RESULTS["two"], (1, *SHAPE)))
    assert verify(graph) == graph
    first = graph.outputs["output0"]
    with pytest.raises(ValueError, match="it must return an array, a tuple or a dict, not 'set'"):
        verify(replace(graph, returns="set"))
    with pytest.raises(ValueError, match="it must return"):
        verify(replace(graph, outputs={}))
    with pytest.raises(ValueError, match="the output 'output1' is the value 99"):
        verify(replace(graph, outputs={"output0": first, "output1": 99}))
    for changes, message in (
        ({"shape": (1, 9)}, "its result has the shape"),
        ({"dtype": np.dtype(np.int64)}, "its result is of the type float32, not int64"),
        ({"results": ((first, "float32"),) * 2}, "it has 1 results"),
    ):
        with pytest.raises(ValueError, match=message):
            verify(replace(graph, nodes={**graph.nodes, first: replace(graph.nodes[first], **changes)}))


def test_operations_with_several_results(rng):
    """Each result is a node of its own, with its type; no operation reads them as one."""
    graph = trace(lambda x: F.add(*[F.max_pool2d(x, 2, return_indices=True)[0]] * 2), (1, *SHAPE))
    assert [node.op for node in graph.nodes.values()] == ["input", "max_pool2d", "item", "item", "add"]
    values, indices = graph.nodes[2], graph.nodes[3]
    assert (values.dtype, indices.dtype) == (np.float32, np.int64)
    assert values.shape == indices.shape == graph.output_shape
    assert verify(graph) == graph
    assert 3 not in verify(optimize(graph)).nodes
    x = images(rng, 1)
    ((_, found),) = interpret(graph.nodes, [graph.output], x)
    np.testing.assert_array_equal(found, 2 * F.max_pool2d(x, 2))
    whole = replace(graph.nodes[4], inputs={"input": 1, "other": 2})
    with pytest.raises(ValueError, match="add: it reads several arrays as one"):
        verify(replace(graph, nodes={**graph.nodes, 4: whole}))
    with pytest.raises(ValueError, match="there is no result 2"):
        verify(replace(graph, nodes={**graph.nodes, 2: replace(values, attributes={"index": 2})}))


def test_rows_are_read_and_returned_in_place():
    assert steps(lambda x: F.flatten(F.global_avg_pool2d(x))) == ["global_avg_pool2d"]
    assert steps(lambda x: F.flatten(F.flatten(F.global_avg_pool2d(x)), 1, 1)) == ["global_avg_pool2d"]
    assert steps(lambda x: F.softmax(F.flatten(F.global_avg_pool2d(x)), 1)) == ["global_avg_pool2d", "softmax"]
    assert steps(RESULTS["the same in two shapes"]) == ["global_avg_pool2d", "flatten"]
    assert steps(RESULTS["rows of a concatenation"]) == ["global_avg_pool2d", "global_max_pool2d", "cat"]


def test_shufflenet_copies_nothing_to_split():
    with nn.init.skip():
        plan = convlane.compile(models.create("shufflenet_v2_x1_0"), (None, 3, 224, 224))
    assert not any("narrow" in step.op or "cat" in step.op for step in plan.describe().steps)
