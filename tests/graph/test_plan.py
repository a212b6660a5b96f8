"""Compiled networks compute the same as the networks, in one arena, in any number of threads."""

import copy
import functools
import itertools
import json
import pickle
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core, models, nn
from convlane import functional as F
from convlane.graph.arena import plan_arena
from convlane.graph.trace import INPUT, RETURNED, Graph, Node
from networks import torchvision_twin, with_statistics

NETWORKS = ["alexnet", "efficientnet_b0", "googlenet", "mobilenet_v2", "resnet18", "resnet50", "vgg16"]


@functools.cache
def network(name):
    nn.init.seed(1)
    return with_statistics(models.create(name), np.random.default_rng(7))


# Smallest sizes, and no cached plans: each of these is tested once, for what the others do not have.
MORE_NETWORKS = {
    "alexnet_2012": (3, 96, 96),
    "convnext_tiny": (3, 64, 64),
    "densenet121": (3, 64, 64),
    "inception_resnet_v2": (3, 107, 107),
    "inception_v3": (3, 107, 107),
    "lenet5": (1, 32, 32),
    "lenet5_1998": (1, 32, 32),
    "mobilenet_v1": (3, 64, 64),
    "mobilenet_v3_large": (3, 64, 64),
    "mobilenet_v3_small": (3, 64, 64),
    "nin": (3, 64, 64),
    "plain20": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "resnext50_32x4d": (3, 64, 64),
    "shufflenet_v2_x1_0": (3, 64, 64),
    "squeezenet1_0": (3, 64, 64),
    "squeezenet1_1": (3, 64, 64),
    "wide_resnet50_2": (3, 64, 64),
    "zfnet": (3, 64, 64),
}


@functools.cache
def plan_of(name, winograd=True):
    return convlane.compile(network(name), (None, 3, 64, 64), winograd=winograd)


def reloaded(plan, folder):
    path = folder / "plan"
    plan.save(path)
    try:
        return convlane.load_plan(path)
    finally:
        path.unlink()  # because pytest keeps folders


def pictures(count, size=64, seed=11):
    return np.random.default_rng(seed).standard_normal((count, 3, size, size), np.float32)


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_the_same(name):
    x = pictures(2)
    expected = network(name)(x)
    assert relative_error(plan_of(name)(x), expected) < 1e-3
    assert relative_error(plan_of(name, winograd=False)(x), expected) < 1e-4
    assert expected.std(axis=1).min() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("name", MORE_NETWORKS)
def test_more_networks_compute_the_same(name, rng):
    shape = MORE_NETWORKS[name]
    nn.init.seed(12)
    model = models.create(name, 10)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # initial weights may be so small that the image is lost
            module.weight = nn.init.kaiming_normal(module.weight.shape)
    with_statistics(model, rng, shape[1])
    x = rng.standard_normal((2, *shape), np.float32)
    expected = model(x)
    assert relative_error(convlane.compile(model, (2, *shape))(x), expected) < 1e-3
    assert relative_error(convlane.compile(model, (2, *shape), winograd=False)(x), expected) < 1e-4
    assert np.isfinite(expected).all()
    assert np.ptp(expected, axis=0).max() > 0.02 * np.abs(expected).max()


@pytest.mark.torch
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_what_torchvision_s_do(name):
    import torch

    x = pictures(1)
    with torch.inference_mode():
        expected = torchvision_twin(name, network(name))(torch.tensor(x)).numpy()
    assert relative_error(plan_of(name)(x), expected) < 1e-3
    assert relative_error(plan_of(name, winograd=False)(x), expected) < 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_same_bits_for_every_batch_split_and_number_of_threads(name):
    plan, x = plan_of(name), pictures(3)
    with convlane.num_threads(1):
        whole = plan(x)
        parts = np.concatenate([plan(x[:1]), plan(x[1:])])
    with convlane.num_threads(3):
        threaded = plan(x)
        shared = plan(x[:1])  # the threads share one image
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(threaded, whole)
    np.testing.assert_array_equal(shared, whole[:1])
    assert len(np.unique(whole)) > 1000


@pytest.mark.parametrize("name", NETWORKS)
def test_arena_is_smaller_than_all_results(name):
    plan = plan_of(name)
    print(f"{name}: arena {plan.arena_bytes:,} bytes, all results {plan.activation_bytes:,}")
    assert plan.arena_bytes < 0.6 * plan.activation_bytes
    assert plan.multiply_adds == convlane.analysis.multiply_adds(network(name), (1, 3, 64, 64))


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_networks_give_the_same_bits(name, tmp_path):
    plan, x = plan_of(name), pictures(2)
    other = reloaded(plan, tmp_path)
    np.testing.assert_array_equal(other(x), plan(x))
    assert repr(other) == repr(plan)
    assert str(other.describe()) == str(plan.describe())
    assert (other.arena_bytes, other.multiply_adds) == (plan.arena_bytes, plan.multiply_adds)


def mixture(rng):
    """A network of every operation that plans support, most of them where they cannot be fused."""
    w = {
        "stem": rng.standard_normal((6, 3, 3, 3), np.float32) / 5,
        "wide": rng.standard_normal((40, 6, 3, 3), np.float32) / 7,
        "deep": rng.standard_normal((40, 1, 3, 3), np.float32) / 3,
        "point": rng.standard_normal((40, 40, 1, 1), np.float32) / 6,
        "square": rng.standard_normal((40, 40, 3, 3), np.float32) / 19,
        "squeeze": rng.standard_normal((40, 40), np.float32) / 6,
        "last": rng.standard_normal((7, 40 * 4), np.float32) / 12,
    }
    statistics = [rng.uniform(0.5, 1.5, 40).astype(np.float32) for _ in range(4)]

    def forward(x):
        maps = F.leaky_relu(F.conv2d(x, w["stem"], padding="same", stride=1), 0.2)
        maps = F.local_response_norm(maps, 3)
        maps = F.conv2d(F.max_pool2d(maps, 3, 2, 1), w["wide"], padding=1)
        maps = F.batch_norm(F.hardswish(maps), *statistics)
        branch = F.silu(F.conv2d(maps, w["deep"], padding=1, groups=40))
        maps = F.add(F.conv2d(F.avg_pool2d(branch, 3, 1, 1), w["point"]), maps)
        gates = F.linear(F.flatten(F.global_avg_pool2d(maps)), w["squeeze"])
        maps = F.scale(maps, F.sigmoid(gates))
        maps = F.mul(maps, F.adaptive_max_pool2d(maps, 1))
        maps = F.mul(F.tanh(maps), maps)
        maps = F.add(F.relu6(maps), F.conv2d(maps, w["square"], padding=1), activation="relu")
        maps = F.add(maps, F.add(maps, F.softmax(maps, 1)))
        peak = F.flatten(F.global_max_pool2d(maps))
        scores = F.linear(F.dropout(F.flatten(F.adaptive_avg_pool2d(maps, 2)), training=False), w["last"])
        return F.add(F.log_softmax(scores, -1), F.linear(F.relu(peak), w["squeeze"][:7]))

    return forward


def test_every_step(isa, threads, rng, tmp_path):
    function, x = mixture(rng), rng.standard_normal((2, 3, 13, 11), np.float32)
    plan = convlane.compile(function, (None, 3, 13, 11), winograd=False)
    np.testing.assert_array_equal(reloaded(plan, tmp_path)(x), plan(x))
    assert_close(plan(x), function(x), terms=400)
    assert_close(convlane.compile(function, (None, 3, 13, 11))(x), function(x), terms=400, factor=10)


def test_plans_follow_the_instruction_set(rng, tmp_path):
    function, x = mixture(rng), rng.standard_normal((1, 3, 13, 11), np.float32)
    plan = convlane.compile(function, x.shape)
    saved = reloaded(plan, tmp_path)
    before = convlane._core.active_isa()
    try:
        for isa in convlane._core.supported_isas():
            convlane._core.set_active_isa(isa)
            expected = convlane.compile(function, x.shape)(x)
            np.testing.assert_array_equal(plan(x), expected)
            np.testing.assert_array_equal(saved(x), expected)
            np.testing.assert_array_equal(reloaded(plan, tmp_path)(x), expected)
    finally:
        convlane._core.set_active_isa(before)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        F.relu,
        lambda x: F.add(x, x),
        lambda x: F.add(F.conv2d(x, np.eye(3, dtype=np.float32)[:, :, None, None]), x),
        lambda x: F.mul(F.sigmoid(x), x),
        lambda x: F.mul(x, F.global_max_pool2d(x)),
        lambda x: F.softmax(x, 1),
        F.flatten,
        F.nchw,
        lambda x: F.linear(F.flatten(x), np.ones((2, 60), np.float32)),
        lambda x: F.flatten(F.max_pool2d(x, (4, 5))),
        lambda x: F.batch_norm(x, np.ones(3, np.float32), np.full(3, 2, np.float32)),
    ],
)
def test_inputs_in_any_layout(function, rng, tmp_path):
    plan = convlane.compile(function, (None, 3, 4, 5))
    saved = reloaded(plan, tmp_path)
    x = rng.standard_normal((2, 3, 4, 5), np.float32)
    spread = np.zeros((4, 3, 8, 5), np.float32)[::2, :, ::-2]
    spread[:] = x
    for layout in (x, F.channels_last(x), np.asfortranarray(x), spread, x.astype(">f4"), x.astype(np.float16)):
        expected = function(layout)
        assert_close(plan(layout), expected, terms=60)
        assert plan(layout).shape == expected.shape
        assert type(plan(layout)) is np.ndarray
        np.testing.assert_array_equal(saved(layout), plan(layout))
    assert_close(plan(x[0]), function(x)[0], terms=60)
    assert plan(x[:0]).shape == function(x[:0]).shape
    assert not np.shares_memory(plan(x), x)


def test_nan_reaches_the_output(rng):
    x = rng.standard_normal((2, 3, 13, 11), np.float32)
    x[1, 0, 5, 5] = np.nan
    y = convlane.compile(mixture(rng), (2, 3, 13, 11))(x)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


@pytest.mark.parametrize("saved", [False, True])
def test_fixed_and_open_batch(rng, saved, tmp_path):
    x = rng.standard_normal((2, 3, 13, 11), np.float32)
    fixed, open_ = (convlane.compile(mixture(np.random.default_rng(5)), (n, 3, 13, 11)) for n in (2, None))
    if saved:
        fixed, open_ = reloaded(fixed, tmp_path), reloaded(open_, tmp_path)
    assert (fixed.input_shape, fixed.output_shape) == ((2, 3, 13, 11), (2, 7))
    assert (open_.input_shape, open_.output_shape) == ((None, 3, 13, 11), (None, 7))
    np.testing.assert_array_equal(fixed(x), open_(x))
    np.testing.assert_array_equal(open_(x[0]), fixed(x)[0])
    message = r"input has shape \({}, 3, 13, 11\), but the plan was compiled for \(2, 3, 13, 11\); compile with None"
    for n, image in ((1, x[:1]), (3, x[[0, 1, 0]]), (0, x[:0]), (1, x[0])):
        with pytest.raises(ValueError, match=message.format(n)):
            fixed(image)
    for plan in (fixed, open_):
        with pytest.raises(
            ValueError, match=r"\(2, 3, 11, 13\), but the plan was compiled for \((2|None), 3, 13, 11\)$"
        ):
            plan(x.transpose(0, 1, 3, 2))
        with pytest.raises(ValueError, match=r"\(2, 2, 13, 11\), but"):
            plan(x[:, :2])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros((1, 3, 4, 4)), TypeError, r"plan: input must be float32, got float64; convert it with \.astype"),
        (np.zeros((1, 3, 4, 4), np.uint8), TypeError, "got uint8"),
        ([[1.0]], TypeError, "must be a NumPy array, got list"),
        (None, TypeError, "got NoneType"),
        (np.zeros((3, 4), np.float32), ValueError, "2 dimensions"),
        (np.zeros((1, 1, 3, 4, 4), np.float32), ValueError, "5 dimensions"),
    ],
)
def test_inputs_that_are_refused(value, error, message):
    plan = convlane.compile(F.relu, (None, 3, 4, 4))
    with pytest.raises(error, match=message):
        plan(value)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((0, 3, 4, 4), ValueError, "compile: input_shape must be at least 1, got 0"),
        ((1, 3, -4, 4), ValueError, "must be at least 1, got -4"),
        ((1, None, 4, 4), ValueError, "with the number of channels, got"),
        ((1, 3.0, 4, 4), TypeError, r"must be an integer, got 3\.0"),
        ((1, 3, 2**70, 4), ValueError, "out of range"),
        ((1, 3, 2**30, 2**30), ValueError, r"shape \(1, 3, 1073741824, 1073741824\) of input is too large"),
        ((4,), ValueError, r"must be \(N, C, H, W\) or another shape that begins with N, got \(4,\)"),
        ((), ValueError, r"must be \(N, C, H, W\) .* got \(\)"),
        (((1, 3, 4, 4), (1,)), ValueError, r"input_shape of input1 must be \(N, C, H, W\) .* got \(1,\)"),
        ({"x": (1, 3, 4, 4), "y": (None, 3, 4, 4)}, ValueError, "the same N, got .1, 3, 4, 4., .None, 3, 4, 4."),
        (3, TypeError, r"input_shape must be a shape, such as \(1, 3, 224, 224\), or several shapes, got 3"),
        ("1, 3", TypeError, "input_shape must be a shape, .* got '1, 3'"),
        ({"x": None}, TypeError, "input_shape of x must be a shape, .* got None"),
        (np.zeros((1, 3, 4, 4)), TypeError, r"must be a shape, .* got an array of shape \(1, 3, 4, 4\)"),
    ],
)
def test_shapes_that_are_refused(shape, error, message):
    with pytest.raises(error, match=message):
        convlane.compile(F.relu, shape)


@pytest.mark.parametrize("model", [None, 3, "resnet18"])
def test_what_cannot_be_called_is_no_network(model):
    with pytest.raises(TypeError, match="compile: model must be a network or a function of arrays, got"):
        convlane.compile(model, (1, 3, 4, 4))


def test_sizes_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match="compile: sizes too large: their product overflows"):
        convlane.compile(nn.Conv2d(3, 2, 3).eval(), (1, 3, 2**40, 2**40))


def test_arithmetic_with_numbers(rng, tmp_path):
    layer = nn.Conv2d(3, 5, 3, padding=1).eval()

    def model(x):
        y = layer(x) * 0.17
        return F.softmax(1 - F.flatten(F.global_avg_pool2d(y / 3 + F.affine(y, -2, 0.5))), 1)

    x = rng.standard_normal((2, 3, 6, 6), np.float32)
    plan = convlane.compile(model, x.shape)
    np.testing.assert_allclose(plan(x), model(x), rtol=1e-5)
    plan.save(tmp_path / "plan.safetensors")
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan.safetensors")(x), plan(x))


class TestWhole:
    """Plans for whole inputs, whose first dimension is not a batch."""

    @staticmethod
    def mixed(x):
        rows = F.softmax(F.reshape(F.permute(x, (1, 0, 2)), (-1, 3)), 0)
        rows = F.where(np.array([[True, False, True]]), F.index_select(rows, 0, np.array([3, 1, 1])), 2.0)
        return F.sum(F.cat([rows, np.ones((2, 3), np.float32)], 0), 0)

    def test_the_batch_may_be_mixed(self, rng, tmp_path):
        x = rng.standard_normal((4, 5, 3), np.float32)
        with pytest.raises(ValueError, match="permute of the batch"):
            convlane.compile(self.mixed, x.shape)
        plan = convlane.compile(self.mixed, x.shape, whole=True)
        assert (plan.input_shape, plan.output_shape) == ((4, 5, 3), (3,))
        plan.save(tmp_path / "whole.plan")
        for each in (plan, pickle.loads(pickle.dumps(plan)), convlane.load_plan(tmp_path / "whole.plan")):
            np.testing.assert_allclose(each(x), self.mixed(x), rtol=1e-5)
        assert plan.profile(x).steps
        with pytest.raises(ValueError, match=r"input has shape \(3, 5, 3\), but the plan was compiled for \(4, 5, 3\)"):
            plan(x[:3])

    @pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
    def test_any_rank(self, shape, rng):
        x = rng.standard_normal(shape, np.float32)
        plan = convlane.compile(lambda x: F.relu(F.affine(x, 2, 1)), shape or {"x": ()}, whole=True)
        np.testing.assert_allclose(plan(x), np.maximum(2 * x + 1, 0), rtol=1e-6)

    def test_vectors_are_multiplied(self, rng):
        x, y = rng.standard_normal(3, np.float32), rng.standard_normal((2, 3, 4), np.float32)
        np.testing.assert_allclose(convlane.compile(lambda x: F.matmul(x, y), (3,), whole=True)(x), x @ y, rtol=1e-5)

    def test_sizes_must_be_given(self):
        with pytest.raises(ValueError, match="whole inputs have no open sizes"):
            convlane.compile(F.relu, (None, 3), whole=True)


def test_a_constant_is_joined_to_every_example_of_a_batch(rng):
    one = rng.standard_normal((1, 2, 3, 3), np.float32)
    x = rng.standard_normal((3, 4, 3, 3), np.float32)
    plan = convlane.compile(lambda x: F.cat([one, F.relu(x)], 1), (None, 4, 3, 3))
    np.testing.assert_array_equal(plan(x), np.concatenate([one.repeat(3, 0), np.maximum(x, 0)], 1))


def test_unsupported_operations_are_named_at_once(rng):
    one = np.ones((1, 3, 8, 8), np.float32)

    def model(x):
        maps = F.cat([x, one], 1)
        maps = F.max_pool2d(F.cat([F.softmax(maps, 0), F.dropout(maps)]), 2)
        maps = F.batch_norm(maps, None, None, training=True)
        return F.linear(F.flatten(maps, 2), F.pack_linear(np.ones((2, 16), np.float32)))

    with pytest.raises(ValueError, match="a plan cannot compute") as error:
        convlane.compile(model, (1, 3, 8, 8))
    refusals = [
        "softmax along the batch",
        "dropout in training mode",
        "batch_norm with the statistics of the batch",
        "linear with a packed weight",
    ]
    assert str(error.value) == f"compile: the network uses operations that a plan cannot compute: {'; '.join(refusals)}"


class Compared(nn.Module):
    def __init__(self):
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        loss = F.mse_loss(self.conv(x), x, reduction="none")
        return F.binary_cross_entropy_with_logits(loss, x, reduction="none")


class Statistics(nn.Module):
    def forward(self, x):
        return F.batch_norm(x, None, None, training=True)


def test_unsupported_operations_are_named_with_their_modules():
    network = nn.Sequential(Compared(), Statistics(), *[nn.Sequential(nn.ReLU(), Compared()) for _ in range(4)]).eval()
    within = "in '0', '2.1', '3.1', '4.1' and 1 more"
    with pytest.raises(ValueError, match="a plan cannot compute") as error:
        convlane.compile(network, (None, 3, 8, 8))
    assert str(error.value).split(": ", 1)[1].split("; ") == [
        f"the network uses operations that a plan cannot compute: mse_loss (losses are not part of a plan) {within}",
        f"binary_cross_entropy_with_logits (losses are not part of a plan) {within}",
        "batch_norm with the statistics of the batch in '1'",
    ]


def test_computed_weights_are_named():
    ones = np.ones(1, np.float32)
    for model, op in (
        (lambda x: F.relu(F.conv2d(x, F.tanh(x))), "conv2d"),
        (lambda x: F.batch_norm(F.conv2d(x, F.tanh(x)), ones, ones), "conv2d"),
        (lambda x: F.max_pool2d(F.conv2d(x, F.tanh(x), padding=1), 2), "conv2d"),
        (lambda x: F.linear(F.flatten(x), F.tanh(F.flatten(x))), "linear"),
    ):
        with pytest.raises(ValueError, match=f"a plan cannot compute: {op} with a computed weight"):
            convlane.compile(model, (1, 3, 3, 3))


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        convlane.compile(nn.Sequential(nn.Conv2d(3, 3, 1)), (1, 3, 4, 4))


def test_plans_keep_their_weights(rng):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)).eval()
    plan, x = convlane.compile(model, (1, 3, 6, 6)), rng.standard_normal((1, 3, 6, 6), np.float32)
    before = plan(x)
    model[2].running_mean += 1
    model[0].weight = np.zeros_like(model[0].weight)
    np.testing.assert_array_equal(plan(x), before)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(plan))(x), before)


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_copies(twin, rng):
    plan, x = plan_of("mobilenet_v2", winograd=False), pictures(1)
    other = twin(plan)
    np.testing.assert_array_equal(other(x), plan(x))
    assert repr(other) == repr(plan) == f"Plan((None, 3, 64, 64) to (None, 1000), {len(plan.describe().steps)} steps)"
    assert str(other.describe()) == str(plan.describe())


def test_deep_networks_can_be_pickled_and_saved(tmp_path):
    def model(x):
        for _ in range(3000):
            x = F.tanh(x)
        return x

    plan = convlane.compile(model, (1, 1, 1, 1))
    x = np.ones((1, 1, 1, 1), np.float32)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(plan))(x), plan(x))
    np.testing.assert_array_equal(reloaded(plan, tmp_path)(x), plan(x))


def test_threads_share_a_plan():
    plan = plan_of("resnet18")
    images = [pictures(1 + i % 2, seed=i) for i in range(4)]
    expected = [plan(x) for x in images]
    results = [[] for _ in images]
    start = threading.Barrier(len(images))

    def run(i):
        start.wait()
        for _ in range(5):
            results[i].append(plan(images[i]))

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(images))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for outputs, right in zip(results, expected, strict=True):
        assert len(outputs) == 5
        for output in outputs:
            np.testing.assert_array_equal(output, right)


def overlapping(graph, offsets):
    """Return pairs of results that overlap in time and memory; parts of a concatenation live as long as the whole."""
    order = list(graph.nodes)
    users = graph.users()
    born = {value: order.index(value) for value in graph.nodes}
    for value, slot in graph.slots.items():
        born[slot.buffer] = min(born[slot.buffer], born[value])
        users[slot.buffer] = [*users[slot.buffer], *users[value]]
    offsets = {value: offset for value, offset in offsets.items() if value not in graph.slots}
    spans = {
        value: (
            born[value],
            max(order.index(user) if user != RETURNED else len(order) for user in users[value]),
            offset,
            offset + size(graph, value),
        )
        for value, offset in offsets.items()
    }
    return [
        (a, b)
        for a, (born_a, dead_a, begin_a, end_a) in spans.items()
        for b, (born_b, dead_b, begin_b, end_b) in spans.items()
        if a < b and born_a <= dead_b and born_b <= dead_a and begin_a < end_b and begin_b < end_a
    ]


def size(graph, value):
    return int(np.prod(graph.nodes[value].shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_results_that_live_at_once_do_not_overlap(name):
    graph = plan_of(name)._graph
    offsets, arena = plan_arena(graph)
    views = {value for value, slot in graph.slots.items() if slot.is_view}
    assert offsets.keys() == graph.nodes.keys() - {INPUT, graph.output} - views
    assert not overlapping(graph, offsets)
    assert all(offset % 16 == 0 and offset + size(graph, value) <= arena for value, offset in offsets.items())


def test_arena_of_a_chain_is_its_largest_pair():
    widths = [0, 40, 16, 100, 5, 1]
    nodes = {INPUT: Node("input", {}, {"name": "input"}, (1, 3))}
    for i in range(1, 6):
        nodes[i] = Node("relu", {"input": i - 1}, {}, (1, widths[i]))
    offsets, arena = plan_arena(Graph(nodes, {"output": 5}))
    assert arena == 112 + 16
    assert offsets == {1: 0, 2: 112, 3: 0, 4: 112}


def test_describe():
    report = convlane.compile(models.create("resnet18", 10), (1, 3, 64, 64)).describe()
    assert [step.number for step in report.steps] == list(range(22))
    first, conv, residual, *_ = report.steps
    assert first.op == "conv2d + batch_norm + relu + max_pool2d"
    assert (conv.op, conv.algorithm) == ("conv2d + batch_norm + relu", "winograd4")
    assert (conv.input_shape, conv.output_shape) == ((64, 16, 16), (64, 16, 16))
    assert conv.multiply_adds == 64 * 16 * 16 * 64 * 9
    assert conv.bytes == 4 * (2 * 64 * 16 * 16 + 64 * 64 * 9 + 64)
    assert residual.op == "conv2d + batch_norm + add + relu"
    assert report.steps[-1].offset is None
    assert all(step.offset % 64 == 0 for step in report.steps[:-1])
    assert sum(step.multiply_adds for step in report.steps) == convlane.analysis.multiply_adds(
        models.create("resnet18", 10), (1, 3, 64, 64)
    )
    head, *lines = str(report).splitlines()
    assert head.split() == ["step", "op", "input", "output", "algorithm", "why", "multiply-adds", "bytes", "offset"]
    assert len(lines) == 23
    assert "64x16x16" in lines[1]
    assert repr(report) == str(report)


def test_winograd_is_named_and_can_be_switched_off():
    layer = nn.Conv2d(256, 256, 3, padding=1).eval()
    geometry = _core.Conv2dGeometry((1, 256, 56, 56), (256, 256, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    choice = geometry.cheapest(True)
    (step,) = convlane.compile(layer, (1, 256, 56, 56)).describe().steps
    assert step.algorithm == choice
    (step,) = convlane.compile(layer, (1, 256, 56, 56), winograd=False).describe().steps
    assert step.algorithm == "direct"
    asked = convlane.compile(lambda x: F.conv2d(x, layer.weight, algorithm="winograd2"), (1, 256, 56, 56))
    assert [(step.algorithm, step.why) for step in asked.describe().steps] == [("winograd2", "asked for")]


def test_profile(tmp_path, rng):
    plan, x = convlane.compile(mixture(rng), (None, 3, 13, 11)), rng.standard_normal((2, 3, 13, 11), np.float32)
    path = tmp_path / "trace.json"
    report = plan.profile(x, trace=path, repeat=2)
    for step, described in zip(report.steps, plan.describe().steps, strict=True):
        assert step.op == described.op
        assert step.multiply_adds == 2 * described.multiply_adds
        assert step.seconds > 0
        assert step.gigabytes_per_second == pytest.approx(1e-9 * step.bytes / step.seconds)
        if step.multiply_adds:
            assert step.gflops == pytest.approx(2e-9 * step.multiply_adds / step.seconds)
            assert 0 < step.percent_of_peak < 200
        else:
            assert step.gflops is None
    head, *_, total = str(report).splitlines()
    assert " ".join(head.split()).endswith("GFLOP/s % of peak GB/s")
    assert total.startswith("all steps: ")
    events = json.loads(path.read_text())["traceEvents"]
    assert [event["name"] for event in events] == [f"{step.number} {step.op}" for step in report.steps]
    assert all(event["ph"] == "X" and event["dur"] > 0 for event in events)
    assert all(b["ts"] == pytest.approx(a["ts"] + a["dur"]) for a, b in itertools.pairwise(events))


def test_parts_of_a_batch_are_what_its_images_are(rng):
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, stride=2), nn.Flatten())
    plan = convlane.compile(network.eval(), (None, 3, 400, 400))
    assert plan.arena_bytes > 9 * 2**20  # so that each image is a part of its own
    images = rng.standard_normal((3, 400, 400, 3), np.float32).transpose(0, 3, 1, 2)[::-1]
    outputs = plan(images)
    for image, output in zip(images, outputs, strict=True):
        np.testing.assert_array_equal(plan(image), output)
    assert len(plan.profile(images, repeat=1).steps) == len(plan.describe().steps)


def test_bytes_are_those_of_the_type():
    plan = convlane.compile(lambda x: F.where(F.gt(x, 0), F.argmax(x, 1, True), F.argmin(x, 1, True)), (1, 4, 6))
    compared, largest, smallest, chosen = plan.describe().steps[-4:]
    assert compared.bytes == 4 * 24 + 24
    assert largest.bytes == smallest.bytes == 4 * 24 + 8 * 6
    assert chosen.bytes == 24 + 2 * 8 * 6 + 8 * 24
    assert plan.activation_bytes >= 24 + 2 * 8 * 6


def test_profile_refuses(rng):
    plan = convlane.compile(F.relu, (None, 3, 4, 4))
    for images, repeat in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="needs an image and a run"):
            plan.profile(np.zeros((images, 3, 4, 4), np.float32), repeat=repeat)
    with pytest.raises(TypeError, match="float64"):
        plan.profile(np.zeros((1, 3, 4, 4)))


class Branches(nn.Module):
    """Branches of every kind in one concatenation: some can write in place, some must be copied."""

    def __init__(self, output=False):
        self.reduce, self.wide = nn.Conv2d(6, 5, 1), nn.Conv2d(6, 35, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.last = nn.Identity() if output else nn.Conv2d(5 + 35 + 6 + 6 + 6 + 40, 7, 3)

    def forward(self, x):
        reduced, wide = F.relu(self.reduce(x)), F.silu(self.wide(x))
        pooled = F.max_pool2d(x, 3, 1, 1)
        shared = F.cat([reduced, wide])
        return self.last(F.cat([reduced, wide, pooled, self.depthwise(x), x, shared]))


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_concatenation_in_place(rng, isa, threads, output, batch):
    model = Branches(output).eval()
    x = rng.standard_normal((batch, 6, 9, 11), dtype=np.float32)
    plan = convlane.compile(model, (None, 6, 9, 11))
    np.testing.assert_allclose(plan(x), model(x), rtol=1e-5, atol=1e-5)


def test_concatenation_costs_nothing_where_all_branches_write_in_place():
    model = nn.Concat(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, 1, 1)).eval()
    *_, last = convlane.compile(model, (None, 3, 8, 8)).describe().steps
    assert (last.op, last.algorithm) == ("cat", "in place")


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pooling_into_a_part_of_the_channels(rng, isa, threads, stride):
    """Also if the stride of the windows is that of the whole image's pixels."""

    def network(x):
        return F.cat([F.max_pool2d(x, 3, stride, 1), F.avg_pool2d(x, 3, stride, 1)])

    x = rng.standard_normal((2, 5, 9, 11), dtype=np.float32)
    np.testing.assert_array_equal(convlane.compile(network, (None, 5, 9, 11))(x), network(x))


class TestSeveralInputs:
    def network(self, image, guide):
        return {"sum": F.add(F.relu(image), guide), "maps": F.max_pool2d(guide, 2)}

    def arrays(self, rng):
        return rng.standard_normal((2, 5, 3, 8, 6), np.float32)

    def test_in_order_by_name_and_from_a_file(self, rng, tmp_path):
        image, guide = self.arrays(rng)
        expected = self.network(image, guide)
        plan = convlane.compile(self.network, {"image": (None, 3, 8, 6), "guide": (None, 3, 8, 6)})
        assert plan.input_shape == {"image": (None, 3, 8, 6), "guide": (None, 3, 8, 6)}
        plan.save(tmp_path / "plan")
        again = convlane.load_plan(tmp_path / "plan")
        for found in (plan(image, guide), plan(guide=guide, image=image), again(image, guide=guide)):
            assert found.keys() == expected.keys()
            for name, right in expected.items():
                np.testing.assert_array_equal(found[name], right)
        assert plan.profile(image, guide, repeat=1).steps[-1].seconds > 0

    def test_what_is_refused(self, rng):
        image, guide = self.arrays(rng)
        plan = convlane.compile(self.network, ((None, 3, 8, 6), (None, 3, 8, 6)))
        with pytest.raises(TypeError, match="the inputs are input0, input1, got 1 in order"):
            plan(image)
        with pytest.raises(TypeError, match="the inputs are input0, input1, got 2 in order, input1"):
            plan(image, guide, input1=guide)
        with pytest.raises(ValueError, match="the inputs must have the same N"):
            plan(image, guide[:2])
        with pytest.raises(ValueError, match=r"input1 has shape \(5, 3, 8, 3\)"):
            plan(image, guide[..., :3])


def test_a_node_has_the_time_of_all_its_steps(rng):
    norm = [rng.uniform(1, 2, 3).astype(np.float32) for _ in range(4)]
    plan = convlane.compile(lambda x: F.relu(F.batch_norm(F.tanh(x), *norm)), (1, 3, 8))
    lowered = plan._lowered(1)
    assert lowered.ends == (1, 2, 5, 6)  # the input is copied first
    assert lowered.core.steps == 6
    core = SimpleNamespace(profile=lambda *_: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(replace(lowered, core=core).seconds([], [], None), [1, 2, 12, 6])
    report = plan.profile(rng.standard_normal((1, 3, 8), np.float32))
    assert [step.op for step in report.steps] == ["channels_last", "tanh", "batch_norm", "relu"]


def test_a_known_batch_size_reuses_its_plan(rng):
    plan = convlane.compile(lambda x: F.relu(F.conv2d(x, np.ones((4, 3, 3, 3), np.float32))), (None, 3, 8, 6))
    for count in (1, 3, 2, 3, 1):
        plan(rng.standard_normal((count, 3, 8, 6), np.float32))
    assert {batch for batch, _ in plan._built.batches} == {1, 2, 3}
    first = plan._lowered(3)
    assert plan._lowered(3) is first
    for count in range(1, 30):
        plan(rng.standard_normal((count, 3, 8, 6), np.float32))
    assert len(plan._built.batches) == 8
    assert 0 < plan.memory_bytes <= max(each.core.memory_bytes for each in plan._built.batches.values())


def signal(x):
    """A residual block of 1-D convolutions, which run as convolutions of images of one row."""
    weights = np.random.default_rng(5).standard_normal((2, 6, 6, 1, 3), np.float32)

    def conv(x, weight):
        return F.squeeze(F.conv2d(F.unsqueeze(x, 2), weight, padding=(0, 1)), 2)

    inside = F.relu(conv(x, weights[0]))
    return F.relu(F.add(conv(inside, weights[1]), inside))


ANY_RANK = {
    "rows": (nn.Sequential(nn.Linear(6, 5), nn.ReLU()).eval(), (6,)),
    "signal": (signal, (6, 16)),
    "attention": (lambda x: F.matmul(F.softmax(F.matmul(x, F.transpose(x, 1, 2)), -1), x), (5, 8)),
    "views": (lambda x: F.reshape(F.softmax(F.reshape(x, (x.shape[0], 3, -1)), -1), (x.shape[0], 2, -1)), (6, 4)),
    "volume": (lambda x: F.mean(F.add(x, F.relu(x)), (2, 4)), (2, 3, 4, 5)),
}


@pytest.mark.parametrize("name", ANY_RANK)
def test_inputs_of_any_rank(name, rng, tmp_path):
    model, shape = ANY_RANK[name]
    plan = convlane.compile(model, (None, *shape))
    saved = reloaded(plan, tmp_path)
    x = rng.standard_normal((3, *shape), np.float32)
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for given in (x, np.asfortranarray(x), channels_last, x[::-1]):
        expected = model(given)
        np.testing.assert_allclose(plan(given), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(saved(given), plan(given))
        np.testing.assert_array_equal(plan(given[1]), plan(given)[1])
    assert plan(x[:0]).shape == (0, *expected.shape[1:])
    with pytest.raises(ValueError, match=f"must be a batch of {1 + len(shape)} dimensions"):
        plan(x[None, None])


def test_a_signal_stays_an_image():
    ops = [step.op for step in convlane.compile(signal, (1, 6, 16)).describe().steps]
    assert ops == ["reshape", "conv2d + relu", "conv2d + add + relu", "reshape"]


SIGNAL_WEIGHT = np.random.default_rng(6).standard_normal((8, 6, 3), np.float32)
SIGNALS = {  # on (N, 6, L), the same for every length
    "convolutions": nn.Sequential(
        *(nn.Conv1d(6, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(8, 8, 3, padding="same", dilation=2), nn.InstanceNorm1d(8), nn.ConvTranspose1d(8, 4, 4, 2, 1)),
    ).eval(),
    "adaptive pooling": nn.Sequential(
        nn.Conv1d(6, 8, 3, padding=1), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(32, 4)
    ).eval(),
    "mean": lambda x: F.conv1d(x, SIGNAL_WEIGHT).mean(-1),
    "flatten": lambda x: F.flatten(F.conv1d(x, SIGNAL_WEIGHT, padding="same_tf", stride=2)),
    "last": lambda x: F.relu(x)[:, :, -1],
    "first": lambda x: F.relu(x)[..., 0] - x[:, 1, 2:3],
    "slices": lambda x: F.conv1d(x, SIGNAL_WEIGHT, padding=2)[:, :, 1:-2][:, ::2, ::3],
}


class TestOpenSizes:
    def test_any_size(self, rng):
        model = with_statistics(models.create("mobilenet_v2", 10), rng)
        plan = convlane.compile(model, (None, 3, None, None))
        for count, height, width in [(1, 64, 64), (2, 40, 72), (1, 96, 33), (3, 64, 64)]:
            x = rng.standard_normal((count, 3, height, width), np.float32)
            np.testing.assert_array_equal(plan(x), convlane.compile(model, (None, 3, height, width))(x))
        assert plan.input_shape == (None, 3, None, None)
        rows = convlane.compile(lambda x: F.softmax(x, -1), (None, None, 4))
        for length in (3, 7):
            x = rng.standard_normal((2, length, 4), np.float32)
            np.testing.assert_array_equal(rows(x), F.softmax(x, -1))

    def test_weights_are_packed_once_and_memory_is_bounded(self, rng):
        model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()
        plan = convlane.compile(model, (None, 3, None, None))
        largest = 0
        for size in range(8, 60, 2):
            plan(rng.standard_normal((1, 3, size, size), np.float32))
            largest = max(
                largest, *(each.core.memory_bytes for each in plan.at((3, size, size))._built.batches.values())
            )
            assert plan.memory_bytes <= largest
        assert len(plan._plans) == 8
        packers = {id(kept._built.packer) for kept in plan._plans.values()}
        assert len(packers) == 1
        (packer,) = {kept._built.packer for kept in plan._plans.values()}
        assert len({id(packed) for packed in packer._packed.values()}) == 2

    def test_what_is_refused(self, rng):
        plan = convlane.compile(nn.Conv2d(3, 8, 5).eval(), (2, 3, None, None))
        with pytest.raises(ValueError, match=r"input has shape \(1, 3, 9, 9\), but it was compiled for \(2,"):
            plan(np.zeros((1, 3, 9, 9), np.float32))
        with pytest.raises(ValueError, match="kernel"):
            plan(np.zeros((2, 3, 4, 9), np.float32))
        with pytest.raises(TypeError, match="the inputs are input"):
            plan()
        with pytest.raises(ValueError, match="with the number of channels"):
            convlane.compile(nn.Conv2d(3, 8, 5).eval(), (2, None, None, None))
        with pytest.raises(ValueError, match="must be a batch of 3 dimensions or one example without the first, got 1"):
            convlane.compile(F.relu, (None, None, 4))(np.zeros(3, np.float32))
        with pytest.raises(ValueError, match="autotune needs a size"):
            convlane.compile(nn.Conv2d(3, 8, 5).eval(), (2, 3, None, None), autotune=True)

    def test_a_network_that_reads_no_size_is_traced_once(self, rng):
        calls = []

        def network(x):
            calls.append(x)
            x = F.max_pool2d(F.relu(F.conv2d(x, np.ones((4, x.shape[1], 3, 3), np.float32), padding=1)), 3, 2, 1)
            return F.add(F.adaptive_avg_pool2d(x, 4), F.adaptive_avg_pool2d(F.tanh(x), (4, 1)))

        plan = convlane.compile(network, (None, 3, None, None))
        for size in [
            (9, 12),
            (40, 5),
            (8, 8),
            (2, 1),
            (1, 1),
            (30, 31),
        ]:  # where pooling changes nothing, or shapes coincide
            x = rng.standard_normal((2, 3, *size), np.float32)
            expected = convlane.compile(network, (None, 3, *size))
            calls.clear()
            np.testing.assert_array_equal(plan(x), expected(x))
            assert len(calls) == (size == (9, 12))
            assert plan.at((3, *size)).multiply_adds == expected.multiply_adds
            assert str(plan.at((3, *size)).describe()) == str(expected.describe())

    @pytest.mark.parametrize("name", SIGNALS)
    def test_a_network_of_signals_is_traced_once_and_saved(self, name, rng, tmp_path):
        network, calls = SIGNALS[name], []

        def counted(x):
            calls.append(x)
            return network(x)

        plan = convlane.compile(counted, (None, 6, None))
        for length in (16, 9, 24, 31, 16):
            x = rng.standard_normal((2, 6, length), np.float32)
            np.testing.assert_allclose(plan(x), network(x), rtol=1e-4, atol=1e-5)
        assert len(calls) == 1
        plan.save(tmp_path / "plan")
        np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan")(x), plan(x))

    def test_a_network_of_signals_that_tries_what_fits(self, rng):
        def network(x):
            try:
                return F.conv1d(x, SIGNAL_WEIGHT)
            except ValueError:
                return F.relu(x)

        plan = convlane.compile(network, (None, 6, None))
        for length in (4, 2, 1, 5):
            x = rng.standard_normal((1, 6, length), np.float32)
            np.testing.assert_allclose(plan(x), network(x), atol=1e-5)

    def test_padding_that_depends_on_the_length(self, rng):
        def network(x):
            return F.conv1d(x, SIGNAL_WEIGHT, stride=2, padding="same_tf")

        plan = convlane.compile(network, (None, 6, None))
        for length in (8, 9, 6):
            x = rng.standard_normal((1, 6, length), np.float32)
            np.testing.assert_allclose(plan(x), network(x), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "network",
        [
            lambda x: F.relu(x) if x.shape[2] % 2 else F.tanh(x),
            lambda x: F.narrow(x, 2, 0, min(x.shape[2:])),
            lambda x: F.relu(x) if (1, *x.shape[1:]) == (1, 3, 4, 4) else F.tanh(x),
            lambda x: F.relu(x) if (1,) + x.shape == (1, 1, 3, 4, 4) else F.tanh(x),
            lambda x: F.relu(x) if {(1, 3, 4, 4): True}.get(x.shape) else F.tanh(x),
            lambda x: F.relu(x) if max(reversed(x.shape)) > 5 else F.tanh(x),
            lambda x: F.mul(x, np.full(x.shape, x.shape[3], np.float32)),
        ],
    )
    def test_a_network_that_reads_sizes_is_traced_for_each(self, network, rng, tmp_path):
        plan = convlane.compile(network, (None, 3, None, None))
        for size in [(4, 4), (5, 4), (7, 9), (4, 4)]:
            x = rng.standard_normal((1, 3, *size), np.float32)
            np.testing.assert_array_equal(plan(x), network(x))
        with pytest.raises(ValueError, match="depends on open sizes"):
            plan.save(tmp_path / "plan")

    def test_a_network_that_tries_what_fits(self, rng):
        def network(x):
            try:
                return F.conv2d(x, np.ones((2, 3, 5, 5), np.float32))
            except ValueError:
                return F.relu(x)

        plan = convlane.compile(network, (None, 3, None, None))
        for size in (4, 6, 4):
            x = rng.standard_normal((1, 3, size, size), np.float32)
            np.testing.assert_allclose(plan(x), network(x), atol=1e-5)

    @pytest.mark.parametrize("name", ["mobilenet_v2", "two", "views"])
    def test_saved(self, name, rng, tmp_path):
        network, shape, sizes = {
            "mobilenet_v2": (
                with_statistics(models.create("mobilenet_v2", 10), rng),
                (None, 3, None, None),
                [(40, 64), (33, 35)],
            ),
            "two": (
                lambda first, second: {"sum": F.add(first, second), "first": F.dropout(F.nchw(first), training=False)},
                {"first": (None, 2, None, 3), "second": (None, 1, None, 3)},
                [(4, 3), (9, 3)],
            ),
            "views": (lambda x: F.flatten(F.softmax(x, -1), 1), (None, 3, None), [(5,), (6,)]),
        }[name]
        shapes = shape if isinstance(shape, dict) else {"input": shape}
        plan = convlane.compile(network, shape)
        other = tmp_path / "plan"
        plan.save(other)
        again = convlane.load_plan(other)
        for copied in (again, pickle.loads(pickle.dumps(again))):
            assert copied.input_shape == plan.input_shape
            for size in sizes:
                given = {n: rng.standard_normal((2, each[1], *size), np.float32) for n, each in shapes.items()}
                found, expected = (p(**given) if len(given) > 1 else p(given["input"]) for p in (copied, plan))
                for a, b in zip(*(x.values() if isinstance(x, dict) else [x] for x in (found, expected)), strict=True):
                    np.testing.assert_array_equal(a, b)
        again.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == other.read_bytes()
        with pytest.raises(ValueError, match=r"shape|sizes"):
            again(
                np.zeros((2, 7, *sizes[0]), np.float32), **({"second": np.zeros((2, 1, 4, 3))} if name == "two" else {})
            )
