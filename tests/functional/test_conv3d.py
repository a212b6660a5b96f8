"""conv3d against its definition and torch: geometries, instruction sets, layouts, gradients, plans and bad input."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core, nn
from convlane import functional as F
from convlane.analysis import receptive_field
from convlane.graph.passes import optimize
from convlane.graph.trace import trace
from gradients import by_rule
from layouts import LAYOUTS
from oracles import conv as oracle

# Computed as images where the name says so, otherwise with row pointers.
GEOMETRIES = {
    "direct": ((2, 5, 4, 6, 7), (6, 5, 3, 3, 3), {"padding": (1, 1, 1, 1, 1, 1)}),
    "picture": ((1, 3, 4, 9, 8), (17, 3, 3, 3, 3), {"stride": (1, 2, 2), "padding": (1, 0, 1, 1, 0, 2)}),
    "strides and dilation": ((2, 4, 9, 7, 8), (6, 4, 2, 3, 2), {"stride": (2, 1, 3), "dilation": (3, 2, 1)}),
    "groups": ((1, 6, 3, 5, 4), (4, 3, 2, 2, 2), {"groups": 2, "padding": (0, 1, 2, 0, 1, 1)}),
    "depthwise": ((2, 19, 4, 5, 6), (19, 1, 3, 3, 3), {"groups": 19, "padding": (1,) * 6, "stride": (2, 1, 1)}),
    "depthwise multiplier": ((1, 3, 4, 5, 6), (6, 1, 3, 3, 3), {"groups": 3, "padding": (1,) * 6}),
    "padding beyond the kernel": ((1, 2, 2, 3, 3), (3, 2, 2, 2, 2), {"padding": (3, 2, 0, 0, 3, 3)}),
    "as images": ((2, 20, 3, 8, 7), (24, 20, 1, 3, 3), {"padding": (0, 0, 1, 1, 1, 1)}),
    "as images depthwise": ((1, 9, 3, 5, 6), (9, 1, 1, 3, 3), {"groups": 9}),
    "as images of depth": ((2, 7, 6, 3, 4), (8, 7, 3, 1, 1), {"stride": (2, 1, 1), "padding": (1, 1, 0, 0, 0, 0)}),
    "as images pointwise": ((2, 7, 3, 4, 5), (33, 7, 1, 1, 1), {}),
    "strided point": ((2, 7, 3, 4, 5), (8, 7, 1, 1, 1), {"stride": (2, 2, 2)}),
}
DEFAULTS = {"stride": (1, 1, 1), "padding": (0,) * 6, "dilation": (1, 1, 1), "groups": 1}


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def randomise(module, rng):
    state = {key: rng.uniform(0.5, 1.5, array.shape) for key, array in module.state_dict().items() if array.ndim}
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize("name", GEOMETRIES)
def test_against_the_definition(name, rng, isa, threads):
    x_shape, weight_shape, geometry = GEOMETRIES[name]
    x, weight, bias = normal(rng, *x_shape), normal(rng, *weight_shape), normal(rng, weight_shape[0])
    sums = oracle.conv3d(x, weight, bias, **geometry)
    y = F.conv3d(x, weight, bias, **geometry)
    assert_close(y, sums, terms=weight[0].size)
    assert y.transpose(0, 2, 3, 4, 1).flags.c_contiguous, "the output is channels last"
    np.testing.assert_array_equal(F.conv3d(x[0], weight, bias, **geometry), y[0])
    packed = F.pack_conv3d(weight, geometry.get("groups", 1))
    assert packed.shape == weight.shape
    residual = normal(rng, *y.shape)
    y = F.conv3d(x, packed, bias, **geometry, residual=residual, activation="tanh")
    assert_close(y, np.tanh(sums + residual), terms=weight[0].size, scale=np.abs(sums).max())


def test_tile_edges(rng, isa):
    tile = _core.tile_sizes()
    for width in (1, tile["mr"] - 1, tile["mr"] + 1):
        for filters in (1, tile["lanes"] + 1, tile["nr"] + 1):
            x, weight = normal(rng, 1, 3, 2, 2, width), normal(rng, filters, 3, 2, 1, 3)
            expected = oracle.conv3d(x, weight, padding=(0, 0, 0, 0, 1, 1))
            assert_close(F.conv3d(x, weight, padding=(0, 0, 0, 0, 1, 1)), expected, terms=18)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradients_against_the_definition(name, rng):
    x_shape, weight_shape, geometry = GEOMETRIES[name]
    x, weight = normal(rng, *x_shape), normal(rng, *weight_shape)
    bias, full = normal(rng, weight_shape[0]), tuple((DEFAULTS | geometry).values())
    gradient = normal(rng, *F.conv3d(x, weight, **geometry).shape)
    wanted = ("input", "weight", "bias", "residual")
    residual = np.zeros_like(gradient)
    _, found = by_rule(F.conv3d, gradient, x, weight, bias, **geometry, residual=residual, wanted=wanted)
    winograd = 2.5 if weight_shape[2:] == (1, 3, 3) else 1  # rounding relative to a direct sum
    expected = oracle.conv3d_input_gradient(gradient, weight, x_shape, *full)
    assert_close(found["input"], expected, terms=weight.size // weight_shape[1], factor=winograd)
    expected = oracle.conv3d_weight_gradient(gradient, x, weight_shape, *full)
    assert_close(found["weight"], expected, terms=gradient[:, 0].size, factor=winograd)
    assert_close(found["bias"], gradient.sum((0, 2, 3, 4), dtype=np.float64), terms=gradient[:, 0].size)
    np.testing.assert_array_equal(found["residual"], gradient)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("kernel", "groups", "arguments"),
    [
        ((3, 3, 3), 1, (1, 1)),
        ((2, 3, 4), 2, ((2, 1, 2), (1, 2, 0), (1, 2, 1))),
        ((2, 3, 4), 1, (1, "same")),
        ((1, 3, 3), 1, (1, "valid")),
    ],
)
def test_agrees_with_torch_and_so_do_gradients(kernel, groups, arguments, rng):
    import torch

    x, weight, bias = normal(rng, 2, 6, 5, 7, 6), normal(rng, 4, 6 // groups, *kernel), normal(rng, 4)
    arguments = (*arguments, *(1,) * (3 - len(arguments)), groups)
    tensors = [torch.tensor(each).double().requires_grad_() for each in (x, weight, bias)]
    expected = torch.nn.functional.silu(torch.nn.functional.conv3d(*tensors, *arguments))
    y, pullback = convlane.vjp(lambda *each: F.conv3d(*each, *arguments, activation="silu"), x, weight, bias)
    assert_close(y, expected.detach().numpy(), terms=weight[0].size)
    gradient = normal(rng, *y.shape)
    expected.backward(torch.tensor(gradient).double())
    for found, tensor in zip(pullback(gradient), tensors, strict=True):
        assert_close(found, tensor.grad.numpy(), terms=400)


ALGORITHMS = ("depthwise", "stem", "winograd4", "winograd2", "direct")


@pytest.mark.parametrize("name", ["direct", "picture", "depthwise", "as images", "as images of depth", "one size fits"])
def test_every_algorithm(name, rng, isa, threads):
    """Every algorithm that does not refuse the convolution; `explain_conv3d` names the one that runs."""
    one_size = ((2, 6, 4, 7, 5), (8, 6, 3, 3, 3), {"padding": (1, 1, 0, 1, 1, 0)})
    x_shape, weight_shape, geometry = GEOMETRIES.get(name, one_size)
    x, weight, bias = normal(rng, *x_shape), normal(rng, *weight_shape), normal(rng, weight_shape[0])
    sums = oracle.conv3d(x, weight, bias, **geometry)
    residual = normal(rng, *sums.shape)
    taken = F.explain_conv3d(x_shape, weight_shape, **geometry)
    np.testing.assert_array_equal(
        F.conv3d(x, weight, bias, **geometry),
        F.conv3d(x, weight, bias, **geometry, algorithm=taken.chosen),
    )
    done = set()
    for algorithm in ALGORITHMS:
        try:
            assert F.explain_conv3d(x_shape, weight_shape, **geometry, algorithm=algorithm).chosen == algorithm
        except ValueError:
            with pytest.raises(ValueError, match=f"conv3d: algorithm '{algorithm}' cannot do this"):
                F.conv3d(x, weight, bias, **geometry, algorithm=algorithm)
            continue
        done.add(algorithm)
        y = F.conv3d(x, weight, bias, **geometry, algorithm=algorithm, residual=residual, activation="relu")
        factor = 1 if algorithm != "winograd4" else 2.5
        assert_close(y, np.maximum(sums + residual, 0), terms=weight[0].size, factor=factor, scale=np.abs(sums).max())
        plan = convlane.compile(lambda x, a=algorithm: F.conv3d(x, weight, bias, **geometry, algorithm=a), x_shape)
        assert plan.describe().steps[-1].algorithm == algorithm
        assert_close(plan(x), sums, terms=weight[0].size, factor=factor)
    assert taken.chosen in done | {"pointwise"}


def test_same_bits_for_any_batch_and_thread_count(rng, isa):
    for x_shape, weight_shape, geometry in (GEOMETRIES[name] for name in ("direct", "picture", "depthwise")):
        x, weight = normal(rng, 3, *x_shape[1:]), normal(rng, *weight_shape)
        with convlane.num_threads(1):
            whole = F.conv3d(x, weight, **geometry)
        with convlane.num_threads(3):
            parts = [F.conv3d(x[i : i + 1], weight, **geometry) for i in range(3)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, rng):
    change = LAYOUTS[layout]
    x, weight, residual = normal(rng, 2, 5, 3, 4, 6), normal(rng, 6, 5, 2, 3, 3), normal(rng, 2, 6, 2, 2, 4)
    expected = np.maximum(oracle.conv3d(x, weight) + residual, 0)
    assert_close(F.conv3d(change(x), change(weight), residual=change(residual), activation="relu"), expected, terms=90)
    frames = oracle.conv3d(x, weight[:, :, :1])
    assert_close(F.conv3d(change(x), change(weight)[:, :, :1]), frames, terms=45)
    few = oracle.conv3d(x[:, :3], weight[:, :3], padding=(1, 0, 0, 0, 0, 1))
    assert_close(F.conv3d(change(x[:, :3]), weight[:, :3], padding=(1, 0, 0, 0, 0, 1)), few, terms=54)
    assert F.conv3d(x[:0], weight).shape == (0, 6, 2, 2, 4)


def test_names_of_padding(rng):
    x, weight = normal(rng, 1, 2, 5, 6, 7), normal(rng, 3, 2, 2, 3, 3)
    assert F.conv3d(x, weight, stride=2, padding="same_tf").shape == (1, 3, 3, 3, 4)
    np.testing.assert_array_equal(F.conv3d(x, weight, padding="same"), F.conv3d(x, weight, padding=(0, 1, 1, 1, 1, 1)))
    np.testing.assert_array_equal(
        F.conv3d(x, weight, padding=(1, 2, 0)), F.conv3d(x, weight, padding=(1, 1, 2, 2, 0, 0))
    )


@pytest.mark.parametrize(("channels", "groups"), [(19, 1), (19, 19), (3, 1)])
def test_special_values_reach_the_windows_that_touch_them(channels, groups, rng, isa):
    x, weight = np.abs(normal(rng, 1, channels, 6, 6, 6)), np.abs(normal(rng, 19, channels // groups, 3, 3, 3))
    for value in (np.nan, np.inf):
        x[0, 2, 1, 2, 5] = value
        y, expected = F.conv3d(x, weight, groups=groups), oracle.conv3d(x, weight, groups=groups)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(y), np.isinf(expected))


class Block(nn.Module):
    """Two convolutions with batch norm and a residual sum, as in networks for videos."""

    def __init__(self, kernel, groups=1):
        self.first = nn.Conv3d(4, 8, kernel, padding="same", groups=groups)
        self.norm = nn.BatchNorm3d(8)
        self.second = nn.Conv3d(8, 8, kernel, padding="same", bias=False)
        self.second_norm = nn.BatchNorm3d(8)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        return F.relu(self.second_norm(self.second(x)) + x)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 1, 1)])
def test_compiled_against_eager(kernel, rng, isa):
    block, x = Block(kernel).eval(), normal(rng, 3, 4, 3, 8, 9)
    randomise(block, rng)
    nodes = optimize(trace(block, (1, *x.shape[1:]))).nodes.values()
    fused = ["batch_norm", "relu"], ["batch_norm", "add", "relu"]
    assert [(node.op, list(node.fused)) for node in nodes] == [("input", []), *(("conv3d", each) for each in fused)]
    plan = convlane.compile(block, (None, *x.shape[1:]))
    for batch in (x, x[:1]):
        y = plan(batch)
        assert_close(y, block(batch).astype(np.float64), terms=216, factor=2.5)
        assert y.transpose(0, 2, 3, 4, 1).flags.c_contiguous
    np.testing.assert_array_equal(plan(x[1:2]), plan(x)[1:2])


@pytest.mark.parametrize(("channels", "filters"), [(16, 1), (5, 2), (20, 4), (2, 1), (8, 8)])
def test_few_channels_compile(channels, filters, rng, isa):
    """There are special algorithms for few channels of images, but not of volumes."""
    layer, x = nn.Conv3d(channels, filters, 3, padding=1).eval(), normal(rng, 2, channels, 4, 7, 6)
    for winograd in (True, False):
        y = convlane.compile(layer, x.shape, winograd=winograd)(x)
        assert_close(y, layer(x).astype(np.float64), terms=27 * channels, factor=2.5)


@pytest.mark.parametrize(
    ("depth", "geometry"),
    [
        (5, {"padding": (1, 1, 1, 1, 1, 1)}),
        (1, {"padding": (1, 1, 0, 0, 1, 1)}),
        (6, {"padding": (2, 1, 0, 0, 1, 2), "dilation": (2, 1, 1)}),
        (4, {}),
    ],
)
def test_winograd_slice_by_slice(depth, geometry, rng, isa, threads):
    x, weight, bias = normal(rng, 3, 40, depth, 14, 15), normal(rng, 40, 40, 3, 3, 3), normal(rng, 40)
    expected = oracle.conv3d(x, weight, bias, **geometry)
    residual = normal(rng, 1, *expected.shape[1:])

    def network(x):
        return F.conv3d(x, weight, bias, **geometry)

    plan = convlane.compile(network, (None, *x.shape[1:]))
    assert [choice.algorithm for choice in plan._choices][-1] == "winograd4"
    assert_close(plan(x), expected, terms=weight[0].size, factor=2.5)
    np.testing.assert_array_equal(plan(x[1:2]), plan(x)[1:2])
    shapes = ((1, *x.shape[1:]), residual.shape)
    with_sum = convlane.compile(lambda x, other: F.relu(F.add(network(x), other)), shapes)
    assert [choice.algorithm for choice in with_sum._choices][-1] == "winograd4"
    scale = np.abs(expected).max()
    sums = np.maximum(expected[:1] + residual, 0)
    assert_close(with_sum(x[:1], residual), sums, terms=weight[0].size, factor=2.5, scale=scale)
    direct = convlane.compile(network, (1, *x.shape[1:]), winograd=False)
    np.testing.assert_array_equal(direct(x[:1]), network(x[:1]))


def test_padding_beyond_the_kernel_is_no_sum_of_slices(rng):
    x, weight = normal(rng, 1, 40, 3, 14, 14), normal(rng, 40, 40, 2, 3, 3)
    plan = convlane.compile(lambda x: F.conv3d(x, weight, padding=(3, 1, 1)), x.shape)
    assert [choice.algorithm for choice in plan._choices][-1] == "direct"
    assert_close(plan(x), oracle.conv3d(x, weight, padding=(3, 3, 1, 1, 1, 1)), terms=720)


def test_a_plan_is_saved_and_loaded(rng, tmp_path):
    block, x = Block((3, 3, 3)).eval(), normal(rng, 1, 4, 3, 5, 5)
    plan = convlane.compile(block, x.shape)
    plan.save(tmp_path / "plan")
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan")(x), plan(x))


def test_receptive_fields_are_those_of_images():
    weight, geometry = np.ones((4, 3, 3, 5), np.float32), {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}

    def as_slice(x):
        geometry_3d = {name: (1 if name != "padding" else 0, *pair) for name, pair in geometry.items()}
        return F.squeeze(F.conv3d(F.unsqueeze(x, 2), weight[:, :, None], **geometry_3d), 2)

    def as_depth(x):
        geometry_3d = {name: (pair[0], int(name != "padding"), pair[1]) for name, pair in geometry.items()}
        return F.squeeze(F.conv3d(F.unsqueeze(x, 3), weight[:, :, :, None], **geometry_3d), 3)

    def as_image(x):
        return F.conv2d(x, weight, **geometry)

    rows = [
        str(receptive_field(function, (1, 3, 16, 17))).splitlines()[-1] for function in (as_image, as_slice, as_depth)
    ]
    fields = [row.split()[-5:] for row in rows]
    assert fields[0] == fields[1] == fields[2]


def test_sums_and_activations_keep_volumes_channels_last(rng):
    x = LAYOUTS["channels_last"](normal(rng, 2, 3, 4, 5, 6))
    for y in (F.relu(x), F.add(x, x), F.add(x, x, activation="relu"), F.mul(x, 2.0), nn.BatchNorm3d(3).eval()(x)):
        assert y.transpose(0, 2, 3, 4, 1).flags.c_contiguous
    np.testing.assert_array_equal(F.silu(x), F.silu(x.copy()))


class TestBadInput:
    X = np.zeros((1, 4, 5, 6, 7), np.float32)
    W = np.zeros((6, 4, 3, 3, 3), np.float32)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (
                {"input": np.zeros((1, 3, 5, 6, 7), np.float32)},
                r"input \(1, 3, 5, 6, 7\) to have 4 channels, but got 3",
            ),
            ({"input": np.zeros((5, 6, 7), np.float32)}, "got 3 dimensions"),
            ({"input": np.zeros((1, 4, 2, 6, 7), np.float32)}, "a depth of 2, smaller than the kernel's reach 3"),
            ({"input": np.zeros((1, 4, 5, 2, 7), np.float32)}, r"\(2, 7\).*smaller than the kernel's reach \(3, 3\)"),
            ({"weight": np.zeros((6, 4, 3, 3), np.float32)}, "must have 5 dimensions"),
            ({"weight": np.zeros((6, 4, 0, 3, 3), np.float32)}, "kernel size must be at least 1"),
            ({"weight": np.zeros((0, 4, 3, 3, 3), np.float32)}, "has no channels"),
            ({"weight": F.pack_conv2d(np.zeros((6, 4, 3, 3), np.float32))}, "must have 5 dimensions"),
            ({"bias": np.zeros(5, np.float32)}, r"bias must have shape \(6,\), got \(5,\)"),
            ({"stride": 0}, "stride must be at least 1"),
            ({"stride": (1, 2)}, "stride must be an integer or a tuple of 3"),
            ({"dilation": (1, 0, 1)}, "dilation must be at least 1"),
            ({"groups": 0}, "groups must be at least 1"),
            ({"groups": 4}, "cannot be divided"),
            ({"padding": -1}, "padding must not be negative"),
            ({"padding": (1, 2)}, "padding must be"),
            ({"padding": 2**61}, "overflow"),
            ({"padding": "mirror"}, "'same', 'same_tf' or 'valid'"),
            ({"padding": "same", "stride": 2}, "needs stride 1"),
            ({"activation": "step"}, "unknown activation 'step'"),
            ({"algorithm": "magic"}, "unknown algorithm 'magic'"),
            ({"algorithm": "winograd4", "stride": (2, 1, 1)}, "the stride along the depth is 2, not 1"),
            ({"algorithm": "winograd4", "padding": (9, 9, 1, 1, 1, 1)}, "output slices that meet padding alone"),
            ({"residual": np.zeros((1, 6, 5, 6, 7), np.float32)}, r"residual has shape .*\(1, 6, 3, 4, 5\)"),
        ],
    )
    def test_values(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            F.conv3d(**{"input": self.X, "weight": self.W, **arguments})

    @pytest.mark.parametrize("name", ["input", "weight", "bias", "residual"])
    def test_kinds(self, name):
        with pytest.raises(TypeError, match=f"conv3d: {name} must be float32"):
            F.conv3d(**{"input": self.X, "weight": self.W, name: np.zeros((1, 4, 5, 6, 7))})
        with pytest.raises(TypeError, match="stride must be an integer"):
            F.conv3d(self.X, self.W, stride=1.5)

    def test_packed_for_volumes(self):
        with pytest.raises(ValueError, match="packed for volumes"):
            F.conv2d(np.zeros((1, 4, 9, 9), np.float32), F.pack_conv3d(self.W))
        with pytest.raises(ValueError, match="packed for groups=1"):
            F.conv3d(self.X, F.pack_conv3d(self.W), groups=2)

    def test_packed_for_an_algorithm(self):
        with pytest.raises(ValueError, match="algorithm='winograd4' does not take packed weights"):
            F.pack_conv3d(self.W, algorithm="winograd4")
        with pytest.raises(ValueError, match="packed for another algorithm than 'winograd4'"):
            F.conv3d(self.X, F.pack_conv3d(self.W), algorithm="winograd4")

    def test_batch_norm(self):
        with pytest.raises(ValueError, match=r"BatchNorm3d: input must be \(N, C, D, H, W\)"):
            nn.BatchNorm3d(4)(np.zeros((1, 4, 3, 3), np.float32))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["conv", "norm"])
def test_layers_and_their_keys_are_those_of_torch(name, rng):
    import torch

    def make(nn):
        return nn.Conv3d(4, 6, (2, 3, 1), (1, 2, 1), 1, 2, 2) if name == "conv" else nn.BatchNorm3d(4)

    ours, theirs = make(nn), make(torch.nn)
    theirs.load_state_dict({key: torch.tensor(array) for key, array in ours.state_dict().items()})
    x = normal(rng, 2, 4, 5, 6, 7)
    assert_close(ours(x), theirs(torch.tensor(x)).detach().double().numpy(), terms=12)
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], tensor, rtol=1e-5, atol=1e-6, err_msg=key)
    for attribute in ("kernel_size", "stride", "padding", "dilation", "groups") if name == "conv" else ():
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
