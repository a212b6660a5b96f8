"""conv1d against its definition and torch: geometries, instruction sets, layouts, gradients, plans and bad input."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core, nn
from convlane import functional as F
from convlane.graph.passes import optimize
from convlane.graph.trace import trace
from layouts import LAYOUTS
from oracles import conv as oracle

GEOMETRIES = {
    "plain": ((2, 5, 9), (6, 5, 3), {}),
    "stride": ((2, 1, 41), (6, 1, 9), {"stride": 4, "padding": (3, 2)}),
    "dilation": ((1, 4, 20), (6, 4, 3), {"dilation": 3, "padding": (0, 4)}),
    "groups": ((2, 6, 12), (4, 3, 2), {"groups": 2, "stride": 2}),
    "depthwise": ((2, 19, 12), (19, 1, 5), {"groups": 19, "padding": (2, 2)}),
    "pointwise": ((2, 7, 11), (33, 7, 1), {}),
}


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
    expected = oracle.conv1d_loops(x, weight, bias, **geometry)
    y = F.conv1d(x, weight, bias, **geometry)
    assert_close(y, expected, terms=weight[0].size)
    assert y.transpose(0, 2, 1).flags.c_contiguous, "the output is channels last"
    np.testing.assert_array_equal(F.conv1d(x[0], weight, bias, **geometry), y[0])
    packed = F.pack_conv1d(weight, geometry.get("groups", 1))
    np.testing.assert_array_equal(F.conv1d(x, packed, bias, **geometry), y)


def test_tile_edges(rng, isa):
    tile = _core.tile_sizes()
    for length in (1, tile["mr"] - 1, tile["mr"], tile["mr"] + 1):
        for filters in (1, tile["lanes"] + 1, tile["nr"] - 1, tile["nr"] + 1):
            x, weight = normal(rng, 1, 3, length), normal(rng, filters, 3, 3)
            expected = oracle.conv1d_loops(x, weight, padding=(1, 1))
            assert_close(F.conv1d(x, weight, padding=1), expected, terms=9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, rng):
    x, weight, residual = normal(rng, 2, 5, 12), normal(rng, 6, 5, 3), normal(rng, 2, 6, 10)
    y = F.conv1d(LAYOUTS[layout](x), LAYOUTS[layout](weight), residual=LAYOUTS[layout](residual), activation="relu")
    assert_close(y, np.maximum(oracle.conv1d_loops(x, weight) + residual, 0), terms=15)
    assert F.conv1d(x[:0], weight).shape == (0, 6, 10)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("kernel", "groups", "arguments"),
    [(3, 1, (1, 1)), (4, 2, ((2,), (3,), (2,))), (4, 1, (1, "same", 2)), (5, 1, (1, "valid"))],
)
def test_agrees_with_torch_and_so_do_gradients(kernel, groups, arguments, rng):
    import torch

    x, weight, bias = normal(rng, 2, 6, 17), normal(rng, 4, 6 // groups, kernel), normal(rng, 4)
    arguments = (*arguments, *(1,) * (3 - len(arguments)), groups)
    tensors = [torch.tensor(each).double().requires_grad_() for each in (x, weight, bias)]
    expected = torch.tanh(torch.nn.functional.conv1d(*tensors, *arguments))
    y, pullback = convlane.vjp(lambda *each: F.conv1d(*each, *arguments, activation="tanh"), x, weight, bias)
    assert_close(y, expected.detach().numpy(), terms=weight[0].size)
    gradient = normal(rng, *y.shape)
    expected.backward(torch.tensor(gradient).double())
    for found, tensor in zip(pullback(gradient), tensors, strict=True):
        assert_close(found, tensor.grad.numpy(), terms=60)


def test_names_of_padding():
    x, weight = np.ones((1, 1, 10), np.float32), np.ones((1, 1, 4), np.float32)
    assert F.conv1d(x, weight, stride=3, padding="same_tf").tolist() == [[[3, 4, 4, 2]]]
    assert F.conv1d(x, weight, padding="same")[0, 0, -2:].tolist() == [3, 2]
    np.testing.assert_array_equal(F.conv1d(x, weight, padding=2), F.conv1d(x, weight, padding=(2, 2)))


def test_special_values_reach_the_windows_that_touch_them(rng, isa):
    x, weight = np.abs(normal(rng, 1, 19, 12)), np.abs(normal(rng, 21, 19, 3))
    for value in (np.nan, np.inf):
        x[0, 2, 5] = value
        y = F.conv1d(x, weight)
        np.testing.assert_array_equal(np.isfinite(y).all((0, 1)), [i not in (3, 4, 5) for i in range(10)])


def sequence_network(rng):
    network = nn.Sequential(
        nn.Conv1d(3, 8, 5, stride=2, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm1d(8),
        nn.Tanh(),
    ).eval()
    return randomise(network, rng)


def test_layers_of_a_plan_stay_images(rng, isa):
    network, x = sequence_network(rng), normal(rng, 3, 3, 40)
    ops = [str(node).partition("(")[0] for node in optimize(trace(network, (1, 3, 40))).nodes.values()]
    assert ops == ["input", "reshape", "conv2d + batch_norm + relu", "conv2d + batch_norm + tanh", "reshape"]
    plan = convlane.compile(network, (None, 3, 40))
    for batch in (x, x[:1]):
        assert_close(plan(batch), network(batch).astype(np.float64), terms=24)


def test_weights_are_packed_once_for_all_lengths(rng, isa):
    network, lengths = sequence_network(rng), (40, 23)
    plan = convlane.compile(network, (None, 3, None))
    for length in lengths:
        x = normal(rng, 2, 3, length)
        assert_close(plan(x), network(x).astype(np.float64), terms=24)
    packed = [{id(weight) for weight in plan.at((3, length))._built.packer._packed.values()} for length in lengths]
    assert packed[0] == packed[1]
    assert len(packed[0]) == 2


def test_sums_of_sequences_are_residuals(rng):
    weight, x = normal(rng, 4, 4, 3), normal(rng, 2, 4, 9)

    def convolve(x):
        return F.conv1d(x, weight, padding=1)

    def block(x):
        x = convolve(x)
        return F.relu(F.add(convolve(convolve(x)), x))

    nodes = optimize(trace(block, (1, 4, 9))).nodes.values()
    assert [node.op for node in nodes if node.op != "conv2d"] == ["input", "reshape", "reshape"]
    assert_close(convlane.compile(block, x.shape)(x), block(x).astype(np.float64), terms=24)


def test_batch_norm_of_sequences_compiles_by_itself(rng, isa):
    norm, x = nn.BatchNorm1d(5).eval(), normal(rng, 2, 5, 9)
    randomise(norm, rng)
    assert_close(convlane.compile(norm, x.shape)(x), norm(x).astype(np.float64), terms=4)


class TestBadInput:
    X = np.zeros((1, 4, 8), np.float32)
    W = np.zeros((6, 4, 3), np.float32)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"input": np.zeros((1, 3, 8), np.float32)}, r"input \(1, 3, 8\) to have 4 channels, but got 3"),
            ({"input": np.zeros((1, 1, 4, 8), np.float32)}, r"input must be \(N, C, L\)"),
            ({"input": np.zeros((1, 4, 2), np.float32)}, "a length of 2, smaller than the kernel's reach 3"),
            ({"weight": np.zeros((6, 4), np.float32)}, r"weight must be \(O, C / groups, K\)"),
            ({"weight": np.zeros((6, 4, 0), np.float32)}, "kernel size must be at least 1"),
            ({"weight": np.zeros((0, 4, 3), np.float32)}, "number of filters must be at least 1"),
            ({"weight": F.pack_conv2d(np.zeros((6, 4, 3, 3), np.float32))}, "packed for images"),
            ({"bias": np.zeros(5, np.float32)}, r"bias must have shape \(6,\), got \(5,\)"),
            ({"stride": 0}, "stride must be at least 1"),
            ({"stride": (1, 2)}, "stride must be an integer or a tuple of 1"),
            ({"dilation": 0}, "dilation must be at least 1"),
            ({"groups": 0}, "groups must be at least 1"),
            ({"groups": 4}, "cannot be divided"),
            ({"padding": (1, -1)}, "padding must not be negative"),
            ({"padding": (1, 2, 3)}, "padding must be"),
            ({"padding": "mirror"}, "'same', 'same_tf' or 'valid'"),
            ({"padding": "same", "stride": 2}, "needs stride 1"),
            ({"activation": "step"}, "unknown activation 'step'"),
            ({"residual": np.zeros((1, 6, 8), np.float32)}, r"residual has shape \(1, 6, 8\).*\(1, 6, 6\)"),
        ],
    )
    def test_values(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            F.conv1d(**{"input": self.X, "weight": self.W, **arguments})

    @pytest.mark.parametrize("name", ["input", "weight", "bias", "residual"])
    def test_kinds(self, name):
        with pytest.raises(TypeError, match=f"conv1d: {name} must be float32"):
            F.conv1d(**{"input": self.X, "weight": self.W, name: np.zeros((1, 4, 8))})
        with pytest.raises(TypeError, match=r"stride must be an integer|groups must be an integer"):
            F.conv1d(self.X, self.W, stride=1.5)


@pytest.mark.torch
def test_layer_and_its_keys_are_those_of_torch(rng):
    import torch

    arguments = (4, 6, 3, 2, 1, 2, 2)
    ours, theirs = nn.Conv1d(*arguments), torch.nn.Conv1d(*arguments)
    theirs.load_state_dict({key: torch.tensor(array) for key, array in ours.state_dict().items()})
    x = normal(rng, 2, 4, 20)
    assert_close(ours(x), theirs(torch.tensor(x)).detach().double().numpy(), terms=6)
    for name in ("kernel_size", "stride", "padding", "dilation", "groups", "in_channels", "out_channels"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert repr(ours) == "Conv1d(4, 6, kernel_size=(3,), stride=(2,), padding=(1,), dilation=(2,), groups=2)"


@pytest.mark.parametrize(
    ("arguments", "match"), [((4, 6, 0), "kernel size"), ((4, 6, 3, 0), "stride"), ((4, 5, 3, 1, 0, 1, 2), "groups=2")]
)
def test_layer_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        nn.Conv1d(*arguments)
