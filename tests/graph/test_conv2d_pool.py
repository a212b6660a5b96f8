"""A convolution that pools its own result gives the bits of convolution and pooling one after the other."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core, nn
from convlane import functional as F
from convlane.graph.passes import fuse_pool, optimize, pool_geometry_of
from convlane.graph.trace import trace
from oracles import conv, pool
from steps import plan_of, run_step

POOLS = {
    "resnet": (F.max_pool2d, (3, 2, 1)),
    "googlenet": (F.max_pool2d, (3, 2, 0, 1, True)),
    "pairs": (F.max_pool2d, (2, 2)),
    "pairs and rest": (F.max_pool2d, (2, 2, 0, 1, True)),
    "every pixel": (F.max_pool2d, (3, 1, 1)),
    "gaps": (F.max_pool2d, (2, 3)),
    "oblong": (F.max_pool2d, ((4, 2), (1, 2), (2, 1, 0, 1))),
    "dilated": (F.max_pool2d, (2, 1, 1, 2)),
    "average": (F.avg_pool2d, (3, 2, 1, True)),
    "average inside": (F.avg_pool2d, (4, 3, 2, True, False)),
    "average of pairs": (F.avg_pool2d, (2, 2)),
    "sum": (F.avg_pool2d, (2, 2, 0, False, True, 1)),
}
STEMS = [(7, 2, 3), (11, 4, 2), (3, 2, 1), (5, 1, 0)]  # kernel, stride, padding


class Layer:
    """A convolution with fixed weights, packed for one algorithm."""

    def __init__(self, rng, channels, filters, kernel, stride, padding, algorithm, groups=1, activation="relu"):
        weight = rng.standard_normal((filters, channels // groups, kernel, kernel), np.float32)
        self.weight = F.pack_conv2d(weight, groups, algorithm=algorithm)
        self.bias = rng.standard_normal(filters).astype(np.float32)
        self.stride, self.padding = (stride, stride), (padding,) * 4
        self.algorithm, self.activation = algorithm, activation

    def __call__(self, x):
        options = {"groups": self.weight.groups, "algorithm": self.algorithm, "activation": self.activation}
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, negative_slope=0.25, **options)

    def pooled(self, x, function, arguments):
        """Run a plan of one step; return its result and from what it pools."""
        window = self.stride, self.padding, (1, 1)
        geometry = _core.Conv2dGeometry(x.shape, self.weight.shape, *window, self.weight.groups)
        node = trace(lambda y: function(y, *arguments), geometry.shape).nodes[1]
        pooling = pool_geometry_of(node, geometry.shape)
        pooled = run_step(
            "conv2d",
            x,
            node.shape,
            geometry=geometry,
            pool=pooling,
            algorithm=self.algorithm,
            activation=self.activation,
            negative_slope=0.25,
            weights={"weight": self.weight, "bias": self.bias},
        )
        return pooled, _core.pooled_from(self.algorithm, geometry, pooling)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("geometry", STEMS)
@pytest.mark.parametrize("size", [(67, 45), (110, 41)])
def test_stem(rng, isa, threads, geometry, size, name):
    """Numbers of filters that fill vectors, and one more; enough rows for a band of every thread."""
    layer = Layer(rng, 3, 2 * _core.tile_sizes()["lanes"] + 1, *geometry, "stem")
    x = rng.standard_normal((4, 3, *size), dtype=np.float32)
    actual, source = layer.pooled(x, *POOLS[name])
    assert source == ("image" if name == "dilated" else "row bands")
    function, arguments = POOLS[name]
    np.testing.assert_array_equal(actual, function(layer(x), *arguments))
    np.testing.assert_array_equal(layer.pooled(x[2:3], *POOLS[name])[0], actual[2:3])


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("algorithm", ["winograd4", "winograd2"])
@pytest.mark.parametrize("size", [(2, 3), (7, 9), (12, 16), (13, 10), (34, 33)])
def test_winograd(rng, isa, threads, algorithm, size, name):
    """All remainders of tiles and windows; filters for one panel, for less and for more."""
    function, arguments = POOLS[name]
    lanes = _core.tile_sizes()["lanes"]
    for filters in (1, lanes, 2 * lanes + 3):
        layer = Layer(rng, 13, filters, 3, 1, 2, algorithm)
        x = rng.standard_normal((3, 13, *size), dtype=np.float32)
        actual, source = layer.pooled(x, function, arguments)
        assert source == ("tiles" if name.startswith("pairs") else "image")
        np.testing.assert_array_equal(actual, function(layer(x), *arguments))
        np.testing.assert_array_equal(layer.pooled(x[2:], function, arguments)[0], actual[2:])


@pytest.mark.parametrize(
    ("algorithm", "kernel", "groups"),
    [("pointwise", 1, 1), ("depthwise", 3, 6), ("direct", 3, 2), ("im2col", 3, 1), ("reference", 3, 1)],
)
@pytest.mark.parametrize("name", ["resnet", "average"])
def test_other_algorithms_pool_the_whole_image(rng, threads, algorithm, kernel, groups, name):
    function, arguments = POOLS[name]
    layer = Layer(rng, 6, 12, kernel, 1, 0, algorithm, groups)
    x = rng.standard_normal((2, 6, 15, 18), dtype=np.float32)
    actual, source = layer.pooled(x, function, arguments)
    assert source == "image"
    np.testing.assert_array_equal(actual, function(layer(x), *arguments))


@pytest.mark.parametrize("activation", ["none", "relu6", "leaky_relu", "silu", "hardswish", "sigmoid", "tanh"])
@pytest.mark.parametrize(("algorithm", "channels"), [("stem", 3), ("winograd4", 9)])
def test_activations_come_before_the_pooling(rng, isa, algorithm, channels, activation):
    layer = Layer(rng, channels, 37, 3, 1, 1, algorithm, activation=activation)
    x = rng.standard_normal((2, channels, 21, 17), dtype=np.float32)
    np.testing.assert_array_equal(layer.pooled(x, *POOLS["pairs"])[0], F.max_pool2d(layer(x), 2))


@pytest.mark.parametrize("name", ["resnet", "every pixel", "gaps", "average"])
def test_rows_too_wide_for_the_buffer(rng, name):
    """Each band is one row; rows that two bands share are kept."""
    function, arguments = POOLS[name]
    layer = Layer(rng, 3, 64, 3, 1, 1, "stem")
    x = rng.standard_normal((2, 3, 20, 1100), dtype=np.float32)
    for count in (1, 2, 5):
        with convlane.num_threads(count):
            np.testing.assert_array_equal(layer.pooled(x, function, arguments)[0], function(layer(x), *arguments))


def test_few_rows_for_many_threads(rng):
    layer = Layer(rng, 3, 64, 7, 2, 3, "stem")
    x = rng.standard_normal((2, 3, 20, 200), dtype=np.float32)
    for count in (1, 2, 16):
        with convlane.num_threads(count):
            np.testing.assert_array_equal(layer.pooled(x, *POOLS["resnet"])[0], F.max_pool2d(layer(x), 3, 2, 1))


@pytest.mark.parametrize(("algorithm", "name"), [("stem", "googlenet"), ("winograd4", "pairs and rest")])
def test_against_the_definitions(rng, isa, algorithm, name):
    weight, bias = rng.standard_normal((20, 3, 3, 3), np.float32), rng.standard_normal(20).astype(np.float32)
    layer = Layer(rng, 3, 20, 3, 1, 1, algorithm, activation="none")
    layer.weight, layer.bias = F.pack_conv2d(weight, algorithm=algorithm), bias
    x = rng.standard_normal((1, 3, 42, 39), np.float32)
    _, (kernel, stride, *_) = POOLS[name]
    windows = pool.windows(x, (kernel, kernel), (stride, stride), ceil_mode=True)
    expected = pool.max_pool(conv.conv2d(x, weight, bias, padding=(1, 1, 1, 1)), windows)
    assert_close(layer.pooled(x, *POOLS[name])[0], expected, terms=27, factor=3)


def test_not_a_number_stays_in_its_windows(rng):
    layer = Layer(rng, 3, 16, 3, 2, 1, "stem")
    x = rng.standard_normal((2, 3, 40, 40), dtype=np.float32)
    x[0, 1, 21, 20] = np.nan
    actual, _ = layer.pooled(x, *POOLS["resnet"])
    assert 0 < np.isnan(actual[0, 0]).sum() <= 4
    np.testing.assert_array_equal(actual, F.max_pool2d(layer(x), 3, 2, 1))


def test_poolings_that_do_not_fit_are_refused(rng):
    weight = F.pack_conv2d(rng.standard_normal((8, 3, 3, 3), np.float32))
    geometry = _core.Conv2dGeometry((1, 3, 6, 6), (8, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)

    def pool(image, **options):
        pooling = _core.PoolGeometry("plan", "max", image, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False)
        step = {"geometry": geometry, "pool": pooling, "algorithm": "auto", "activation": "none", "negative_slope": 0.0}
        return plan_of("conv2d", (1, 3, 6, 6), (1, 8, 3, 3), weights={"weight": weight}, **step, **options)

    assert pool((1, 8, 6, 6)).steps == 1
    with pytest.raises(
        ValueError, match=r"pooling of \(1, 8, 6, 5\) does not fit the convolution's result \(1, 8, 6, 6\)"
    ):
        pool((1, 8, 6, 5))
    with pytest.raises(ValueError, match=r"residual|has no residual"):
        pool((1, 8, 6, 6), residual=True)


STEM = np.random.default_rng(1).standard_normal((8, 3, 3, 3), np.float32)
WIDE = np.random.default_rng(2).standard_normal((64, 64, 3, 3), np.float32)


def stem(x, **options):
    return F.conv2d(x, STEM, stride=2, padding=1, **options)


def wide(x, **options):
    return F.conv2d(x, WIDE, padding=1, **options)


PICTURE, MAPS = (1, 3, 40, 40), (1, 64, 28, 28)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lambda x: F.max_pool2d(stem(x), 3, 2, 1), PICTURE),
        (lambda x: F.max_pool2d(stem(x, activation="silu"), 3, ceil_mode=True), PICTURE),
        (lambda x: F.avg_pool2d(stem(x), 2), PICTURE),
        (lambda x: F.max_pool2d(wide(x), 2), MAPS),
    ],
)
def test_pass(network, shape):
    before = trace(network, shape)
    assert [node.op for node in before.nodes.values()][:2] == ["input", "conv2d"]
    after = fuse_pool(before)
    _, joined = after.nodes.values()
    assert (joined.op, joined.inputs) == ("conv2d_pool", {"input": 0})
    assert joined.attributes["parts"] == (before.nodes[1], before.nodes[2])
    assert (joined.shape, joined.multiply_adds) == (before.output_shape, before.nodes[1].multiply_adds)
    assert str(fuse_pool(after)) == str(after)


def test_pass_joins_the_first_of_two_poolings():
    graph = fuse_pool(trace(lambda x: F.max_pool2d(F.max_pool2d(wide(x), 2), 2), MAPS))
    assert [node.op for node in graph.nodes.values()] == ["input", "conv2d_pool", "max_pool2d"]


def two_readers(x):
    maps = stem(x)
    return F.cat([F.max_pool2d(maps, 2), F.avg_pool2d(maps, 2)])


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lambda x: F.max_pool2d(x, 2), PICTURE),
        (stem, PICTURE),
        (two_readers, PICTURE),
        (lambda x: F.max_pool2d(F.relu(stem(x)), 2), PICTURE),
        (lambda x: F.max_pool2d(stem(x), 2, return_indices=True), PICTURE),
        (lambda x: F.max_pool2d(stem(x), 2, 2, 0, 2), PICTURE),
        (lambda x: F.max_pool2d(F.conv2d(x, F.pack_conv2d(STEM)), 2), PICTURE),
        (lambda x: F.max_pool2d(F.conv2d(x, STEM[:3], padding=1, residual=x), 2), PICTURE),
        (lambda x: F.global_max_pool2d(stem(x)), PICTURE),
        (lambda x: F.adaptive_avg_pool2d(stem(x), 5), PICTURE),
        (lambda x: F.lp_pool2d(stem(x), 2, 2), PICTURE),
        (lambda x: F.max_pool2d(wide(x), 3, 2), MAPS),
        (lambda x: F.max_pool2d(wide(x), 2, 1), MAPS),
        (lambda x: F.max_pool2d(wide(x), 2, 2, 1), MAPS),
        (lambda x: F.avg_pool2d(wide(x), 2), MAPS),
        (lambda x: F.max_pool2d(F.conv2d(x, WIDE[:, :, :1, :1]), 2), MAPS),
        (lambda x: F.max_pool2d(F.conv2d(x, WIDE, stride=2), 2), MAPS),
    ],
)
def test_pass_leaves_others(network, shape):
    graph = trace(network, shape)
    assert str(fuse_pool(graph)) == str(graph)


def first_layers(*layers):
    nn.init.seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 24, 7, 2, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *layers
    ).eval()


def test_describe():
    (step,) = convlane.compile(first_layers(), (None, 3, 64, 48)).describe().steps
    assert step.op == "conv2d + batch_norm + relu + max_pool2d"
    assert (step.input_shape, step.output_shape) == ((3, 64, 48), (24, 16, 12))
    assert (step.algorithm, step.why) == ("stem", "few input channels; pooled from row bands")
    assert step.multiply_adds == 24 * 32 * 24 * 3 * 49
    assert step.bytes == 4 * (3 * 64 * 48 + 24 * 16 * 12 + 24 * 3 * 49 + 24)


def test_the_intermediate_image_takes_no_memory(rng):
    model = first_layers(nn.Conv2d(24, 8, 1))
    plan, x = convlane.compile(model, (None, 3, 64, 48)), rng.standard_normal((3, 3, 64, 48), np.float32)
    assert plan.arena_bytes == 4 * 24 * 16 * 12
    np.testing.assert_allclose(plan(x), model(x), rtol=1e-4, atol=1e-5)


def test_winograd_switched_off(rng):
    """Then the whole intermediate image is computed, and nothing else changes."""
    plan = convlane.compile(lambda x: F.max_pool2d(wide(x, activation="relu"), 2), (None, *MAPS[1:]), winograd=False)
    (step,) = plan.describe().steps
    assert (step.op, step.algorithm) == ("conv2d + relu + max_pool2d", "direct")
    assert step.why.endswith("; pooled from image")
    x = rng.standard_normal((2, *MAPS[1:]), np.float32)
    np.testing.assert_array_equal(plan(x), F.max_pool2d(wide(x, activation="relu", algorithm="direct"), 2))


def test_concatenation_in_place(rng, isa, threads):
    """Pooled images are written directly into their channels of the concatenation."""

    def network(x):
        return F.cat([F.max_pool2d(stem(x, activation="relu"), 3, 2, 1), F.avg_pool2d(x, 4), F.max_pool2d(stem(x), 2)])

    plan = convlane.compile(network, (None, 3, 68, 44))
    steps = plan.describe().steps
    assert [step.op for step in steps] == ["conv2d + relu + max_pool2d", "avg_pool2d", "conv2d + max_pool2d", "cat"]
    assert steps[-1].algorithm == "in place"
    x = rng.standard_normal((3, 3, 68, 44), dtype=np.float32)
    np.testing.assert_array_equal(plan(x), network(x))


def test_tiles_into_a_concatenation(rng, threads):
    def network(x):
        return F.cat([F.max_pool2d(wide(x), 2), F.max_pool2d(x, 2)])

    plan = convlane.compile(network, (None, *MAPS[1:]))
    assert [step.op for step in plan.describe().steps] == ["conv2d + max_pool2d", "max_pool2d", "cat"]
    x = rng.standard_normal((2, *MAPS[1:]), dtype=np.float32)
    expected = F.cat([F.max_pool2d(wide(x, algorithm=plan.describe().steps[0].algorithm), 2), F.max_pool2d(x, 2)])
    np.testing.assert_array_equal(plan(x), expected)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_batches_and_layouts(rng, threads, batch):
    plan = convlane.compile(lambda x: F.max_pool2d(stem(x), 3, 2, 1), (None, *PICTURE[1:]))
    x = rng.standard_normal((batch, *PICTURE[1:]), dtype=np.float32)
    for layout in (x, F.channels_last(x), np.asfortranarray(x)):
        np.testing.assert_array_equal(plan(layout), F.max_pool2d(stem(x), 3, 2, 1))


def test_all_passes():
    graph = optimize(trace(first_layers(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), PICTURE))
    assert [node.op for node in graph.nodes.values()] == ["input", "conv2d_pool", "conv2d_pool"]
