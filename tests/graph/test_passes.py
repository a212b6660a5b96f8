"""Each pass: the graph before and after, and what it must not change."""

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane.functional._op import ACTIVATIONS
from convlane.graph.passes import (
    drop_identities,
    fold_batch_norm,
    fold_flatten,
    fuse_activation,
    fuse_residual_add,
    optimize,
    remove_dead_code,
    sink_reshapes,
)
from convlane.graph.trace import INPUT, trace

IMAGE = (1, 4, 6, 6)
WEIGHT = np.random.default_rng(1).standard_normal((4, 4, 3, 3), np.float32)
COLUMNS = np.ones((3, 144), np.float32)
BIAS = np.random.default_rng(2).standard_normal(4, np.float32)


def text(graph):
    """Return the graph with its values renumbered in order, so that it can be compared with the network."""
    new = {value: i for i, value in enumerate(graph.nodes)}
    lines = []
    for value, node in list(graph.nodes.items())[1:]:
        sources = " ".join(str(new[source]) for source in node.inputs.values())
        lines.append(f"{new[value]}: {' + '.join((node.op, *node.fused))} {sources}")
    return "; ".join(lines) + f"; output {new[graph.output]}"


def conv(x, **kwargs):
    return F.conv2d(x, WEIGHT, kwargs.pop("bias", BIAS), padding=1, **kwargs)


def norm(x, weight=True):
    rng = np.random.default_rng(3)
    mean, var, gamma, beta = (rng.uniform(0.5, 1.5, 4).astype(np.float32) for _ in range(4))
    return F.batch_norm(x, mean, var, gamma if weight else None, beta if weight else None, eps=1e-3)


def test_remove_dead_code():
    def network(x):
        F.sigmoid(conv(x))
        return F.relu(x)

    graph = trace(network, IMAGE)
    assert text(graph) == "1: conv2d 0; 2: sigmoid 1; 3: relu 0; output 3"
    assert text(remove_dead_code(graph)) == "1: relu 0; output 1"


@pytest.mark.parametrize(
    "identity",
    [
        F.channels_last,
        F.nchw,
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: F.dropout(x, 0),
        lambda x: F.adaptive_avg_pool2d(x, 6),
        lambda x: F.adaptive_max_pool2d(x, (None, 6)),
        lambda x: F.flatten(x, 1, 1),
    ],
)
def test_drop_identities(identity):
    graph = trace(lambda x: F.add(identity(F.relu(identity(x))), x), IMAGE)
    assert text(drop_identities(graph)) == "1: relu 0; 2: add 1 0; output 2"


def test_drop_identities_at_the_end():
    graph = drop_identities(trace(lambda x: F.nchw(F.relu(x)), IMAGE))
    assert text(graph) == "1: relu 0; output 1"
    assert text(drop_identities(trace(F.nchw, IMAGE))) == "; output 0"


def test_a_change_of_shape_stays_a_node():
    graph = drop_identities(trace(lambda x: F.flatten(F.flatten(F.global_avg_pool2d(x))), IMAGE))
    assert text(graph) == "1: global_avg_pool2d 0; 2: flatten 1; output 2"
    assert graph.output_shape == (1, 4)
    one_channel = drop_identities(trace(F.flatten, (1, 1, 3, 3)))
    assert text(one_channel) == "1: flatten 0; output 1"
    assert one_channel.output_shape == (1, 9)


def rows(x):
    return F.reshape(x, (1, 4, 36))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda x: F.relu(rows(x)), "1: relu 0; 2: reshape 1; output 2"),
        (lambda x: F.reshape(rows(x), (1, -1)), "1: reshape 0; output 1"),
        (lambda x: F.reshape(F.relu(rows(x)), IMAGE), "1: relu 0; output 1"),
        (lambda x: F.reshape(rows(x), IMAGE), "; output 0"),
        (lambda x: F.mul(F.exp(rows(x)), rows(x)), "1: exp 0; 2: mul 1 0; 3: reshape 2; output 3"),
        (lambda x: F.relu(F.add(rows(x), 1.0)), "1: add 0; 2: relu 1; 3: reshape 2; output 3"),
        (lambda x: F.softmax(rows(x), -1), "1: reshape 0; 2: softmax 1; output 2"),
        (lambda x: F.mul(rows(x), np.ones(36, np.float32)), "1: reshape 0; 2: constant ; 3: mul 1 2; output 3"),
        (lambda x: F.add(rows(x), F.reshape(x, (1, 1, 144))[:, :, :36]), None),
    ],
)
def test_sink_reshapes(network, expected):
    graph = trace(network, IMAGE)
    sunk = sink_reshapes(graph)
    assert text(sunk) == (text(graph) if expected is None else expected)
    assert sunk.output_shape == graph.output_shape


@pytest.mark.parametrize(
    "operation",
    [
        F.flatten,
        lambda x: F.dropout(x, 0.5),
        lambda x: F.adaptive_avg_pool2d(x, 5),
        lambda x: F.flatten(F.global_avg_pool2d(x), 0, 1),
    ],
)
def test_drop_identities_leaves_others(operation):
    graph = trace(operation, IMAGE)
    assert text(drop_identities(graph)) == text(graph)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weight", [True, False])
def test_fold_batch_norm(weight, bias):
    graph = trace(lambda x: norm(conv(x, bias=BIAS if bias else None), weight), IMAGE)
    assert text(graph) == "1: conv2d 0; 2: batch_norm 1; output 2"
    folded = fold_batch_norm(graph)
    assert text(folded) == "1: conv2d + batch_norm 0; output 1"
    statistics = graph.nodes[2].attributes
    gamma, beta = (1.0, 0.0) if not weight else (statistics[k].astype(np.float64) for k in ("weight", "bias"))
    factor = gamma / np.sqrt(statistics["running_var"].astype(np.float64) + statistics["eps"])
    factor = np.broadcast_to(factor, 4)
    shift = ((BIAS if bias else 0) - statistics["running_mean"].astype(np.float64)) * factor + beta
    attributes = folded.nodes[folded.output].attributes
    np.testing.assert_array_equal(
        attributes["weight"], (WEIGHT * factor[:, None, None, None]).astype(np.float32), strict=True
    )
    np.testing.assert_array_equal(attributes["bias"], shift.astype(np.float32), strict=True)
    np.testing.assert_array_equal(graph.nodes[1].attributes["weight"], WEIGHT)  # the original graph has not changed


def test_fold_batch_norm_twice():
    graph = fold_batch_norm(trace(lambda x: norm(norm(conv(x))), IMAGE))
    assert text(graph) == "1: conv2d + batch_norm + batch_norm 0; output 1"


def two_users(x):
    y = conv(x)
    return F.add(norm(y), y)


@pytest.mark.parametrize(
    "network",
    [
        norm,
        two_users,
        lambda x: norm(conv(x, activation="relu")),
        lambda x: norm(conv(x, residual=x)),
        lambda x: norm(F.conv2d(x, F.pack_conv2d(WEIGHT), padding=1)),
        lambda x: F.batch_norm(conv(x), None, None, training=True),
    ],
)
def test_fold_batch_norm_leaves_others(network):
    graph = trace(network, IMAGE)
    assert text(fold_batch_norm(graph)) == text(graph)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("before", [conv, lambda x: F.add(x, x), lambda x: F.linear(F.flatten(x), COLUMNS)])
def test_fuse_activation(name, before):
    arguments = (0.25,) if name in ("celu", "elu", "leaky_relu") else ()
    graph = trace(lambda x: getattr(F, name)(before(x), *arguments), IMAGE)
    fused = fuse_activation(graph)
    assert len(fused.nodes) == len(graph.nodes) - 1
    last = fused.nodes[fused.output]
    assert (last.attributes["activation"], last.fused) == (name, (name,))
    if arguments:
        assert last.attributes["negative_slope"] == 0.25


def test_fuse_the_approximate_gelu():
    fused = fuse_activation(trace(lambda x: F.gelu(conv(x), approximate="tanh"), IMAGE))
    last = fused.nodes[fused.output]
    assert (last.attributes["activation"], last.fused) == ("gelu_tanh", ("gelu",))


def activation_of_two_users(x):
    y = conv(x)
    return F.add(F.relu(y), y)


@pytest.mark.parametrize(
    "network",
    [
        F.relu,
        activation_of_two_users,
        lambda x: F.relu(conv(x, activation="tanh")),
        lambda x: F.relu(F.max_pool2d(x, 2)),
    ],
)
def test_fuse_activation_leaves_others(network):
    graph = trace(network, IMAGE)
    assert text(fuse_activation(graph)) == text(graph)


def test_fuse_residual_add():
    graph = trace(lambda x: F.add(conv(F.sigmoid(x)), x, activation="relu"), IMAGE)
    assert text(graph) == "1: sigmoid 0; 2: conv2d 1; 3: add 2 0; output 3"
    fused = fuse_residual_add(graph)
    assert text(fused) == "1: sigmoid 0; 2: conv2d + add 1 0; output 2"
    node = fused.nodes[fused.output]
    assert node.inputs == {"input": 1, "residual": INPUT}
    assert node.attributes["activation"] == "relu"


def test_a_constant_is_not_a_residual(rng):
    constant = rng.standard_normal(conv(np.zeros(IMAGE, np.float32)).shape, np.float32)
    x = rng.standard_normal(IMAGE, np.float32)
    for network in (lambda x: F.add(conv(x), constant), lambda x: F.add(constant, conv(x), activation="relu")):
        np.testing.assert_allclose(convlane.compile(network, IMAGE)(x), network(x), rtol=1e-4, atol=1e-4)


def test_fuse_residual_add_into_the_later_convolution():
    for network in (lambda x: F.add(conv(F.tanh(x)), conv(x)), lambda x: F.add(*reversed([conv(F.tanh(x)), conv(x)]))):
        fused = fuse_residual_add(trace(network, IMAGE))
        assert text(fused) == "1: tanh 0; 2: conv2d 1; 3: conv2d + add 0 2; output 3"


def test_fuse_residual_add_into_the_earlier_convolution():
    fused = fuse_residual_add(trace(lambda x: F.add(conv(x), F.sigmoid(F.tanh(x))), IMAGE))
    assert text(fused) == "1: tanh 0; 2: sigmoid 1; 3: conv2d + add 0 2; output 3"


def test_activation_after_a_residual_add():
    graph = optimize(trace(lambda x: F.silu(F.add(x, norm(conv(x)))), IMAGE))
    assert text(graph) == "1: conv2d + batch_norm + add + silu 0 0; output 1"


def add_of_two_users(x):
    y = conv(x)
    return F.mul(F.add(y, x), y)


def add_to_itself(x):
    y = conv(x)
    return F.add(y, y)


@pytest.mark.parametrize(
    "network",
    [
        add_of_two_users,
        add_to_itself,
        lambda x: F.add(F.tanh(x), x),
        lambda x: F.add(conv(x, activation="relu"), x),
        lambda x: F.add(conv(x, residual=x), x),
    ],
)
def test_fuse_residual_add_leaves_others(network):
    graph = trace(network, IMAGE)
    assert text(fuse_residual_add(graph)) == text(graph)


def test_fold_flatten(rng):
    weight = rng.standard_normal((5, 4 * 6 * 6), np.float32)
    graph = trace(lambda x: F.linear(F.flatten(x), weight), IMAGE)
    assert text(graph) == "1: flatten 0; 2: linear 1; output 2"
    folded = fold_flatten(graph)
    assert text(folded) == "1: image_rows 0; 2: linear 1; output 2"
    x = rng.standard_normal(IMAGE, np.float32)
    columns = np.asarray(folded.nodes[folded.output].attributes["weight"])
    np.testing.assert_array_equal(columns[2].reshape(6, 6, 4).transpose(2, 0, 1).ravel(), weight[2])
    pixels = x.transpose(0, 2, 3, 1).reshape(1, -1)
    np.testing.assert_allclose(pixels @ columns.T, x.reshape(1, -1) @ weight.T, rtol=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        F.flatten,
        lambda x: F.linear(F.relu(F.flatten(x)), COLUMNS),
        lambda x: F.linear(F.flatten(x, 0), COLUMNS),
        lambda x: F.linear(F.flatten(x), F.pack_linear(COLUMNS)),
    ],
)
def test_fold_flatten_leaves_others(network):
    graph = trace(network, IMAGE)
    assert text(fold_flatten(graph)) == text(graph)
