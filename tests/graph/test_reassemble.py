"""Each pass that rebuilds what exporters decompose: before, after, the same numbers, and what it must not change."""

import math

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane.graph.passes import remove_dead_code
from convlane.graph.reassemble import (
    join_activations,
    join_channel_factors,
    join_group_norm,
    join_layer_norm,
    join_linear_bias,
    join_padding,
    join_permutes,
)
from convlane.graph.trace import trace
from convlane.graph.verify import verify

IMAGE = (1, 4, 6, 6)
RNG = np.random.default_rng(7)
WEIGHT = RNG.standard_normal((4, 4, 3, 3), np.float32)
CHANNELS = RNG.uniform(0.5, 2, (4, 1, 1)).astype(np.float32)
ROW = RNG.uniform(0.5, 2, 6).astype(np.float32)
ROWS = RNG.standard_normal((3, 5), np.float32)
ROOT = math.sqrt(2)


def names(graph):
    return [node.op for node in graph.nodes.values() if node.op not in ("input", "constant")]


def joined(network, join, shape=IMAGE):
    """Return the operations after a pass, whose graph is well typed; the compiled network computes the same."""
    graph = verify(join(trace(network, shape)))
    x = RNG.standard_normal((2, *shape[1:]), np.float32)
    np.testing.assert_allclose(convlane.compile(network, (None, *shape[1:]))(x), network(x), rtol=2e-4, atol=2e-4)
    return names(graph)


ACTIVATIONS = {
    "relu": [lambda x: F.clamp(x, 0), lambda x: F.maximum(x, 0.0), lambda x: F.maximum(np.zeros((), np.float32), x)],
    "relu6": [lambda x: F.clamp(x, 0, 6), lambda x: F.minimum(F.maximum(x, 0.0), 6.0)],
    "hardsigmoid": [
        lambda x: F.clamp(F.affine(x, 1 / 6, 0.5), 0, 1),
        lambda x: F.clamp(F.affine(x, 0.166667, 0.5), 0.0, 1.0),
    ],
    "hardswish": [
        lambda x: F.div(F.mul(x, F.clamp(F.add(x, 3.0), 0, 6)), 6.0),
        lambda x: F.mul(x, F.div(F.clamp(F.add(x, 3.0), 0, 6), 6.0)),
        lambda x: F.mul(F.mul(F.clamp(F.affine(x, 1, 3), 0, 6), 1 / 6), x),
        lambda x: F.mul(x, F.hardsigmoid(x)),
        lambda x: F.mul(F.clamp(F.affine(x, 1 / 6, 0.5), 0, 1), x),
    ],
    "silu": [lambda x: F.mul(x, F.sigmoid(x)), lambda x: F.mul(F.sigmoid(x), x)],
    "gelu": [
        lambda x: F.mul(F.mul(x, F.add(F.erf(F.div(x, ROOT)), 1.0)), 0.5),
        lambda x: F.mul(F.mul(x, 0.5), F.add(F.erf(F.mul(x, 1 / ROOT)), 1.0)),
        lambda x: F.mul(x, F.mul(F.add(1.0, F.erf(F.affine(x, 0.70710677))), 0.5)),
    ],
}


@pytest.mark.parametrize(("name", "network"), [(name, each) for name, forms in ACTIVATIONS.items() for each in forms])
def test_join_activations(name, network):
    assert len(names(trace(network, IMAGE))) > (0 if name.startswith("relu") else 1)
    assert joined(network, join_activations) == [name]


@pytest.mark.parametrize(
    "network",
    [
        lambda x: F.clamp(x, 0, 5),
        lambda x: F.clamp(F.affine(x, 0.2, 0.5), 0, 1),
        lambda x: F.mul(F.mul(x, 0.5), F.sigmoid(x)),
        lambda x: F.mul(x, F.sigmoid(F.mul(x, 2.0))),
        lambda x: F.mul(x, F.clamp(F.add(x, 3.0), 0, 5)),
        lambda x: F.mul(F.mul(x, F.add(F.erf(F.div(x, 1.5)), 1.0)), 0.5),
    ],
)
def test_what_is_not_an_activation(network):
    assert joined(network, join_activations) == names(trace(network, IMAGE))


def conv(x, **kwargs):
    return F.conv2d(x, WEIGHT, padding=1, **kwargs)


@pytest.mark.parametrize(
    ("network", "after"),
    [
        (lambda x: F.add(conv(x), CHANNELS), ["conv2d"]),
        (lambda x: F.sub(F.add(CHANNELS[None], conv(x)), 2.0), ["conv2d"]),
        (lambda x: F.mul(conv(x), CHANNELS), ["conv2d", "batch_norm"]),
        (lambda x: F.add(F.mul(F.sub(conv(x), CHANNELS), CHANNELS), CHANNELS), ["conv2d", "batch_norm"]),
        (lambda x: F.div(F.mul(conv(x), CHANNELS), CHANNELS), ["conv2d", "batch_norm"]),
        (lambda x: F.relu(F.add(conv(x, bias=np.ones(4, np.float32)), CHANNELS)), ["conv2d", "relu"]),
    ],
)
def test_join_channel_factors(network, after):
    assert joined(network, join_channel_factors) == after


@pytest.mark.parametrize(
    "network",
    [
        lambda x: F.add(x, CHANNELS),
        lambda x: F.add(conv(x), ROW),
        lambda x: F.sub(CHANNELS, conv(x)),
        lambda x: F.add(conv(x, activation="relu"), CHANNELS),
        lambda x: (lambda y: F.cat([y, F.add(y, CHANNELS)]))(conv(x)),
    ],
)
def test_channel_factors_that_are_not_joined(network):
    assert joined(network, join_channel_factors) == names(trace(network, IMAGE))


def standardised(x, dims, square, eps=1e-5):
    centred = F.sub(x, F.mean(x, dims, True))
    return F.div(centred, F.sqrt(F.add(F.mean(square(centred), dims, True), eps)))


@pytest.mark.parametrize("dims", [-1, (-1,), (2, 3)])
@pytest.mark.parametrize("square", [F.square, lambda x: F.mul(x, x)])
def test_join_layer_norm(dims, square):
    assert joined(lambda x: standardised(x, dims, square), join_layer_norm) == ["layer_norm"]


def test_layer_norm_takes_weight_and_bias():
    def network(x):
        return F.add(F.mul(standardised(x, -1, F.square), ROW), ROW)

    assert joined(network, join_layer_norm, (1, 5, 6)) == ["layer_norm"]


@pytest.mark.parametrize(
    "network", [lambda x: standardised(x, 1, F.square), lambda x: standardised(x, -1, F.abs), lambda x: F.mul(x, ROW)]
)
def test_what_is_not_a_layer_norm(network):
    assert joined(network, join_layer_norm) == names(trace(network, IMAGE))


def grouped(x, groups):
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    rows = F.instance_norm(F.reshape(x, (x.shape[0], groups, -1)), None, None, ones, zeros)
    return F.reshape(rows, x.shape)


def test_join_group_norm():
    assert joined(lambda x: grouped(x, 2), join_group_norm) == ["group_norm"]
    assert joined(lambda x: F.add(F.mul(grouped(x, 2), CHANNELS), CHANNELS), join_group_norm) == ["group_norm"]
    assert joined(lambda x: F.add(grouped(x, 2), ROW), join_group_norm) == ["group_norm", "add"]


@pytest.mark.parametrize("padding", [0, 1, (1, 2), (0, 1, 2, 1)])
def test_join_padding(padding):
    def network(x):
        return F.conv2d(F.pad(x, (1, 2, 0, 1)), WEIGHT, None, 2, padding)

    assert joined(network, join_padding) == ["conv2d"]


@pytest.mark.parametrize("pad", [((1, 1), "constant", 1.0), ((1, 1), "reflect", 0), ((-1, 1), "constant", 0)])
def test_padding_that_is_not_joined(pad):
    assert joined(lambda x: F.conv2d(F.pad(x, *pad), WEIGHT), join_padding) == ["pad", "conv2d"]


def test_join_linear_bias():
    matrix = RNG.standard_normal((5, 6), np.float32)
    row = RNG.standard_normal(5, np.float32)
    rows = (1, 3, 6)
    assert joined(lambda x: F.add(F.linear(x, matrix), row), join_linear_bias, rows) == ["linear"]
    assert joined(lambda x: F.relu(F.add(row[None], F.linear(x, matrix))), join_linear_bias, rows) == ["linear", "relu"]
    for other in (
        lambda x: F.add(F.linear(x, matrix), 2.0),
        lambda x: F.add(F.linear(x, matrix), ROWS),
        lambda x: F.add(F.linear(x, matrix, row), row),
    ):
        assert joined(other, join_linear_bias, rows)[0] == "linear"
        assert len(joined(other, join_linear_bias, rows)) == 2
    twice = lambda x: F.mul(F.add(y := F.linear(x, matrix), row), y)  # noqa: E731
    assert joined(twice, join_linear_bias, rows) == ["linear", "add", "mul"]


def test_join_permutes():
    def layers(x):
        x = F.relu(F.permute(conv(F.permute(x, (0, 3, 1, 2))), (0, 2, 3, 1)))
        return F.permute(conv(F.permute(F.add(x, 1.0), (0, -1, 1, 2))), (0, 2, 3, 1))

    shape = (1, 6, 6, 4)
    assert names(trace(layers, shape)).count("permute") == 4
    assert joined(layers, join_permutes, shape) == ["permute", "conv2d", "relu", "add", "conv2d", "permute"]
    back = (0, 2, 3, 1)
    pair = verify(join_permutes(trace(lambda x: F.mul(F.permute(x, back), F.permute(F.exp(x), back)), IMAGE)))
    assert names(pair) == ["exp", "mul", "permute"]
    with_constant = remove_dead_code(
        join_permutes(trace(lambda x: F.add(F.exp(F.permute(conv(x), back)), ROW[:4]), IMAGE))
    )
    assert names(with_constant) == ["conv2d", "exp", "add", "permute"]
    assert [node.shape for node in with_constant.nodes.values() if node.op == "constant"] == [(4, 1, 1)]


TO_IMAGE, BACK = (0, 3, 1, 2), (0, 2, 3, 1)
PLANES = RNG.standard_normal((6, 1, 4), np.float32)


@pytest.mark.parametrize(
    "behind",
    [
        lambda x: F.cat([x, F.exp(x)], -1),
        lambda x: F.narrow(x, 3, 1, 2),
        lambda x: F.strided_slice(x, 1, 1, None, 2),
        lambda x: F.softmax(x, -1),
        lambda x: F.index_select(x, 2, np.array([1, 1, 5, 0])),
        lambda x: F.mean(x, (1, 2), True),
        lambda x: F.mean(x, (1, 2)),
        lambda x: F.amax(x, 3),
        lambda x: F.pad(x, (0, 0, 1, 2, 3, 0)),
        lambda x: F.pad(x, (2, 1), value=3.0),
        lambda x: F.mul(x, F.mean(x, (1, 2), True)),
        lambda x: F.sub(x, PLANES),
        lambda x: F.where(F.gt(x, PLANES[:1]), x, 0.0),
    ],
)
def test_permutes_move_after_pointwise_operations(behind):
    """Operations on a permuted result of a convolution are done on the result itself."""

    def network(x):
        y = behind(F.permute(conv(x), BACK))
        return F.sigmoid(F.permute(y, TO_IMAGE)) if len(y.shape) == 4 else F.exp(y)

    assert "permute" not in joined(network, join_permutes)


def test_permutes_of_an_input_come_first():
    def network(x):
        y = F.sub(F.mul(x, 2.0), PLANES)
        return conv(F.permute(y, TO_IMAGE))

    assert joined(network, join_permutes, (1, 6, 6, 4)) == ["permute", "mul", "sub", "conv2d"]
    both = remove_dead_code(join_permutes(trace(lambda x: (F.permute(F.exp(x), TO_IMAGE), F.exp(x)), IMAGE)))
    assert names(both) == ["permute", "exp", "exp"]
