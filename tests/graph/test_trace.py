"""The graph of a traced network, and what cannot be traced."""

from dataclasses import replace

import numpy as np
import pytest

from convlane import functional as F
from convlane import models, nn
from convlane.functional._op import operations, rules
from convlane.graph.interpret import interpret
from convlane.graph.passes import optimize
from convlane.graph.trace import INPUT, trace
from convlane.graph.verify import verify
from convlane.models.convnext import PixelLinear

IMAGE = (1, 2, 6, 6)
TWO, THREE, FOUR = (np.ones(size, np.float32) for size in (2, 3, 4))
POINTS = np.ones((4, 2, 1, 1), np.float32)


def ops(graph):
    return [node.op for value, node in graph.nodes.items() if value != INPUT]


def test_arguments_are_bound_by_name(rng):
    weight, bias = rng.standard_normal((4, 2, 3, 3), np.float32), FOUR
    graph = trace(lambda x: F.conv2d(x, weight, bias, 2, padding="same_tf"), IMAGE)
    node = graph.nodes[graph.output]
    assert (node.op, node.inputs, node.shape) == ("conv2d", {"input": INPUT}, (1, 4, 3, 3))
    assert node.attributes["stride"] == 2
    assert node.attributes["padding"] == "same_tf"
    assert node.attributes["activation"] == "none"
    assert node.multiply_adds == 4 * 9 * 2 * 9
    np.testing.assert_array_equal(node.attributes["weight"], weight)


def test_arrays_are_kept_as_they_are(rng):
    weight = rng.standard_normal((4, 2, 1, 1), np.float32)
    before = weight.copy()
    graph = trace(lambda x: F.conv2d(x, weight), IMAGE)
    weight[:] = 0
    kept = graph.nodes[graph.output].attributes["weight"]
    np.testing.assert_array_equal(kept, before)
    assert not kept.flags.writeable
    layer = nn.Conv2d(2, 4, 1).eval()
    graph = trace(layer, IMAGE)
    assert graph.nodes[graph.output].attributes["weight"] is layer.weight


def test_half_precision_weights_are_cast_up():
    graph = trace(lambda x: F.conv2d(x, np.ones((4, 2, 1, 1), np.float16)), IMAGE)
    assert graph.nodes[graph.output].attributes["weight"].dtype == np.float32


def test_double_precision_weights_are_refused():
    with pytest.raises(TypeError, match="conv2d: weight must be float32, got float64"):
        trace(lambda x: F.conv2d(x, np.ones((4, 2, 1, 1))), IMAGE)


def test_lists_of_symbols():
    graph = trace(lambda x: F.cat([F.relu(x), x]), IMAGE)
    assert graph.nodes[graph.output].inputs == {"tensors[0]": 1, "tensors[1]": INPUT}
    assert graph.output_shape == (1, 4, 6, 6)


@pytest.mark.parametrize("name", models.list())
def test_networks(name):
    with nn.init.skip():
        model = models.create(name, 7)
    graph = trace(model, (2, *models.input_shape(name)))
    assert graph.output_shape[:2] == (2, 7)
    convs = [path for path, module in model.named_modules() if isinstance(module, (nn.Conv2d, PixelLinear))]
    # Auxiliary classifiers run only in training. Partial connections are convolutions with constants.
    selected = {"lenet5_1998": 3}.get(name, 0)
    assert ops(graph).count("conv2d") == sum(not path.lower().startswith("aux") for path in convs) + selected


EVERY_OPERATION = {
    "abs": F.abs,
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(F.unsqueeze(x, 2), 1),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(F.unsqueeze(x, 2), 1),
    "add": lambda x: F.add(x, x),
    "affine": lambda x: F.affine(x, 2, 1),
    "amax": F.amax,
    "amin": F.amin,
    "argmax": F.argmax,
    "argmin": F.argmin,
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool3d": lambda x: F.avg_pool3d(F.unsqueeze(x, 2), (1, 2, 2)),
    "batch_norm": lambda x: F.batch_norm(x, np.zeros(2, np.float32), TWO),
    "cat": lambda x: F.cat([x, x]),
    "ceil": F.ceil,
    "celu": F.celu,
    "channel_norm": F.channel_norm,
    "channels_last": F.channels_last,
    "clamp": lambda x: F.clamp(x, -1, 1),
    "col2im": lambda x: F.col2im(F.im2col(x, 2), 6, 2),
    "conv2d": lambda x: F.conv2d(x, POINTS),
    "conv3d": lambda x: F.conv3d(F.unsqueeze(x, 2), np.ones((4, 2, 1, 3, 3), np.float32)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, np.ones((2, 4, 3, 3), np.float32), stride=2),
    "cos": F.cos,
    "cumsum": lambda x: F.cumsum(x, -1),
    "div": lambda x: F.div(x, x),
    "dropout": F.dropout,
    "elu": F.elu,
    "eq": lambda x: F.eq(x, 0.5),
    "erf": F.erf,
    "exp": F.exp,
    "expand": lambda x: F.expand(x, (2, -1, -1, -1, -1)),
    "flatten": F.flatten,
    "flip": lambda x: F.flip(x, 1),
    "floor": F.floor,
    "gather": lambda x: F.gather(x, 3, F.topk_indices(x, 2)),
    "ge": lambda x: F.ge(x, 0.5),
    "gelu": F.gelu,
    "global_avg_pool2d": F.global_avg_pool2d,
    "global_max_pool2d": F.global_max_pool2d,
    "grid_sample": lambda x: F.grid_sample(x, F.permute(x, (0, 2, 3, 1))),
    "group_norm": lambda x: F.group_norm(x, 2),
    "gt": lambda x: F.gt(x, 0.5),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "im2col": lambda x: F.im2col(x, 2),
    "index_select": lambda x: F.index_select(x, 1, np.array([0])),
    "instance_norm": F.instance_norm,
    "interleave": lambda x: F.interleave([x, x]),
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "le": lambda x: F.le(x, 0.5),
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: F.linear(x, np.ones((3, 6), np.float32)),
    "local_response_norm": lambda x: F.local_response_norm(x, 5),
    "log": lambda x: F.log(F.exp(x)),
    "log1p": F.log1p,
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "logical_and": lambda x: F.logical_and(F.gt(x, 0), F.lt(x, 1)),
    "logical_not": lambda x: F.logical_not(F.gt(x, 0)),
    "logical_or": lambda x: F.logical_or(F.gt(x, 0), F.lt(x, 1)),
    "logsigmoid": F.logsigmoid,
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 2),
    "lp_pool3d": lambda x: F.lp_pool3d(F.unsqueeze(x, 2), 2, (1, 2, 2)),
    "lt": lambda x: F.lt(x, 0.5),
    "matmul": lambda x: F.matmul(x, F.transpose(x, 2, 3)),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool3d": lambda x: F.max_pool3d(F.unsqueeze(x, 2), (1, 2, 2)),
    "max_unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "maximum": lambda x: F.maximum(x, 0.5),
    "mean": F.mean,
    "minimum": lambda x: F.minimum(x, 0.5),
    "mish": F.mish,
    "mul": lambda x: F.mul(x, x),
    "narrow": lambda x: F.narrow(x, 1, 0, 1),
    "nchw": F.nchw,
    "ne": lambda x: F.ne(x, 0.5),
    "neg": F.neg,
    "pad": lambda x: F.pad(x, (1, 2, 3, 4)),
    "permute": lambda x: F.permute(x, (0, 2, 3, 1)),
    "pixel_shuffle": lambda x: F.pixel_shuffle(F.tile(x, (1, 4, 1, 1)), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "pow": lambda x: F.pow(x, 0.5),
    "prelu": lambda x: F.prelu(x, TWO),
    "prod": F.prod,
    "reciprocal": F.reciprocal,
    "relu": F.relu,
    "relu6": F.relu6,
    "reshape": lambda x: F.reshape(x, (-1,)),
    "resize": lambda x: F.resize(x, (4, 8)),
    "rms_norm": lambda x: F.rms_norm(x, (6,)),
    "round": F.round,
    "rsqrt": F.rsqrt,
    "scale": lambda x: F.scale(x, F.global_avg_pool2d(x)),
    "selu": F.selu,
    "sigmoid": F.sigmoid,
    "sign": F.sign,
    "silu": F.silu,
    "sin": F.sin,
    "softmax": lambda x: F.softmax(x, 1),
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sqrt": F.sqrt,
    "square": F.square,
    "strided_slice": lambda x: F.strided_slice(x, 3, step=2),
    "sub": lambda x: F.sub(x, 0.5),
    "sum": lambda x: F.sum(x, (2, 3)),
    "tanh": F.tanh,
    "threshold": lambda x: F.threshold(x, 0.5, 2),
    "tile": lambda x: F.tile(x, (2,)),
    "topk_indices": lambda x: F.topk_indices(x, 2),
    "unflatten": lambda x: F.unflatten(x, 3, (2, 3)),
    "var": F.var,
    "where": lambda x: F.where(F.gt(x, 0), x, 0),
}


@pytest.mark.parametrize("name", EVERY_OPERATION)
def test_every_operation(name, rng):
    graph = trace(EVERY_OPERATION[name], IMAGE)
    assert ops(graph)[-1] == name
    assert graph.output_shape == EVERY_OPERATION[name](rng.standard_normal(IMAGE, np.float32)).shape


def test_no_operation_is_left_out():
    compile = {name for name, operation in operations().items() if not rules(operation).compiles}
    assert compile & {*F.__all__} <= EVERY_OPERATION.keys() <= operations().keys()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x // 2, "__floordiv__ cannot be traced"),
        (lambda x: +x, "__pos__ cannot be traced"),
        (lambda x: x[np.array([0])], "indexing: index must be an integer"),
        (lambda x: x or None, "__bool__ cannot be traced"),
        (lambda x: 0 in x, "__contains__ cannot be traced"),
        (lambda x: np.exp(x), r"numpy.exp \(use convlane.functional.exp\)"),
        (lambda x: np.maximum(x, 0), r"numpy.maximum \(use convlane.functional.maximum\)"),
        (lambda x: np.concatenate([x, x]), r"numpy.concatenate \(use convlane.functional.cat\)"),
        (lambda x: np.asarray(x), "conversion to an array cannot be traced"),
        (lambda x: x.ravel(), r"attribute 'ravel' \(use convlane.functional.flatten\) cannot be traced"),
        (lambda x: (x, 1), "must return one array or a list, tuple or dict of arrays, but returned tuple"),
        (lambda x: (), "one array or a list, tuple or dict of arrays, but returned tuple"),
        (lambda x: None, "one array or a list, tuple or dict of arrays, but returned NoneType"),
    ],
)
def test_what_cannot_be_traced(function, message):
    with pytest.raises(TypeError, match=message):
        trace(function, IMAGE)


def test_arithmetic():
    graph = trace(lambda x: -(x + 1) * (x - x) / 4, IMAGE)
    assert ops(graph) == ["affine", "affine", "affine", "add", "mul", "affine"]
    assert [graph.nodes[i].attributes[name] for i, name in ((1, "offset"), (2, "factor"), (6, "factor"))] == [
        1,
        -1,
        0.25,
    ]


def test_training_mode():
    with pytest.raises(ValueError, match=r"Conv2d must be in eval mode, but it is training; call \.eval\(\)"):
        trace(nn.Conv2d(2, 2, 1), IMAGE)
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(nn.Dropout())).eval()
    model[1][0].train()
    with pytest.raises(ValueError, match=r"Sequential must be in eval mode, but its module '1\.0' is training"):
        trace(model, IMAGE)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: F.conv2d(x, np.ones((4, 3, 1, 1), np.float32)), "conv2d"),
        (
            lambda x: F.conv2d(x, POINTS, THREE),
            r"bias must have shape \(4,\)",
        ),
        (lambda x: F.conv2d(x, POINTS, residual=x), "residual has shape"),
        (lambda x: F.linear(x, np.ones((3, 6), np.float32), FOUR), r"bias must have shape \(3,\)"),
        (
            lambda x: F.batch_norm(x, THREE, TWO),
            r"running_mean must have shape \(2,\)",
        ),
        (lambda x: F.batch_norm(x, None, None), "are required unless training=True"),
        (lambda x: F.add(x, F.narrow(x, 3, 0, 2)), "add: shapes"),
    ],
)
def test_shapes_that_do_not_fit(function, message):
    with pytest.raises(ValueError, match=message):
        trace(function, IMAGE)


def test_symbols_of_two_calls():
    kept = []
    trace(lambda x: kept.append(x) or F.relu(x), IMAGE)
    with pytest.raises(ValueError, match="two different calls"):
        trace(lambda x: F.add(x, kept[0]), IMAGE)


def test_several_inputs_and_outputs():
    def network(left, right):
        return {"sum": F.add(left, right), "left": F.relu(left)}

    graph = trace(network, [IMAGE, IMAGE])
    assert graph.inputs == {"input0": 0, "input1": 1}
    assert (graph.outputs, graph.returns) == ({"sum": 2, "left": 3}, "dict")
    assert verify(graph) == graph
    named = trace(network, {"right": IMAGE, "left": IMAGE})
    assert named.inputs == {"right": 0, "left": 1}
    assert named.nodes[2].inputs == {"input": 1, "other": 0}
    x, y = np.full(IMAGE, -1, np.float32), np.full(IMAGE, 3, np.float32)
    found = dict(interpret(optimize(graph).nodes, graph.outputs.values(), x, y))
    np.testing.assert_array_equal(found[2], x + y)
    np.testing.assert_array_equal(found[3], 0 * x)
    with pytest.raises(ValueError, match="two inputs have the same name"):
        verify(replace(graph, nodes={**graph.nodes, 1: graph.nodes[0]}))
    with pytest.raises(TypeError, match="a list, tuple or dict of arrays, but returned dict"):
        trace(lambda x: {}, IMAGE)
