"""Networks as ONNX files: onnxruntime computes the same from them as convlane."""

import os

import numpy as np
import pytest

import convlane
import convlane.onnx
import onnx
from convlane import digits, models, nn
from convlane import functional as F
from convlane.functional._op import operations
from convlane.onnx.exporter import OPSET
from convlane.onnx.writers._register import writers

RANDOM = np.random.default_rng(7)

# One network of each kind; the others of its family consist of the same operations.
NETWORKS = {
    "alexnet_2012": (3, 127, 127),
    "convnext_tiny": (3, 64, 64),
    "densenet121": (3, 64, 64),
    "efficientnet_b0": (3, 64, 64),
    "efficientnet_v2_s": (3, 64, 64),
    "googlenet": (3, 64, 64),
    "inception_resnet_v2": (3, 96, 96),
    "inception_v3": (3, 96, 96),
    "lenet5": (1, 32, 32),
    "lenet5_1998": (1, 32, 32),
    "lraspp_mobilenet_v3_large": (3, 64, 64),
    "deeplabv3_mobilenet_v3_large": (3, 64, 64),
    "mnasnet0_5": (3, 64, 64),
    "mobilenet_v1": (3, 64, 64),
    "mobilenet_v2": (3, 64, 64),
    "nin": (3, 64, 64),
    "regnet_y_400mf": (3, 64, 64),
    "resnet18": (3, 64, 64),
    "resnext50_32x4d": (3, 64, 64),
    "shufflenet_v2_x0_5": (3, 64, 64),
    "squeezenet1_1": (3, 64, 64),
    "unet": (3, 32, 32),
}


def session(path):
    """Return onnxruntime's session for a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


def outputs_of(result):
    """Return a network's outputs as a list."""
    return list(result.values()) if isinstance(result, dict) else result if isinstance(result, tuple) else [result]


def check(model, path, *arrays, shape=None, tolerance=1e-5):
    """Export a network or function, and compare its results with those of onnxruntime and of the loaded file."""
    convlane.onnx.export(model, path, shape or [array.shape for array in arrays])
    runs = session(path)
    feeds = {each.name: array for each, array in zip(runs.get_inputs(), arrays, strict=True)}
    expected = outputs_of(model(*arrays))
    back = convlane.onnx.InferenceSession(path).run(None, feeds)
    for actual, again, right in zip(runs.run(None, feeds), back, expected, strict=True):
        assert actual.dtype == again.dtype == right.dtype
        bounds = {"rtol": tolerance, "atol": tolerance * max(np.abs(right).max(initial=0), 1)}
        np.testing.assert_allclose(actual, right, **bounds)
        np.testing.assert_allclose(again, right, **bounds)


def uniform(*shape):
    """Return numbers in [-2, 2)."""
    return RANDOM.uniform(-2, 2, shape).astype(np.float32)


@pytest.mark.onnxruntime
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    nn.init.seed(0)
    network = models.create(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var = RANDOM.uniform(0.5, 1.5, module.running_var.shape).astype(np.float32)
    shape = NETWORKS[name]
    check(network.eval(), tmp_path / "network.onnx", uniform(3, *shape), shape=(None, *shape), tolerance=1e-4)


@pytest.mark.onnxruntime
def test_the_network_in_the_package(tmp_path):
    network = digits.classifier().eval()
    check(network, tmp_path / "lenet5.onnx", uniform(4, 1, 32, 32), shape=(None, 1, 32, 32))


SHAPES = [(6, 4, 3, 3), (6, 2, 3, 3), (4, 3, 3, 3), (6, 4, 2, 3, 3), (5, 9), (6, 4, 3)]
WEIGHT = {shape: uniform(*shape) for shape in SHAPES}
THETA = np.float32([[[1, 0.2, 0], [0, 0.7, 0.1]]] * 2)
COLUMN = {size: np.abs(uniform(size)) + 0.5 for size in (4, 5, 6, 7)}
MASK = RANDOM.random((2, 4, 7, 9)) < 0.5

IMAGES = {
    "conv2d": lambda x: F.conv2d(x, WEIGHT[6, 4, 3, 3], COLUMN[6], stride=2, padding=(0, 1, 2, 3), dilation=(1, 2)),
    "groups": lambda x: F.conv2d(x, WEIGHT[6, 2, 3, 3], groups=2, padding="same", activation="silu"),
    "same_tf": lambda x: F.conv2d(x, WEIGHT[6, 4, 3, 3], stride=2, padding="same_tf", activation="gelu"),
    "residual": lambda x: F.conv2d(x, WEIGHT[6, 4, 3, 3][:4], padding=1, residual=x, activation="relu"),
    "one image": lambda x: F.max_pool2d(F.conv2d(F.reshape(F.narrow(x, 0, 0, 1), (4, 7, 9)), WEIGHT[6, 4, 3, 3]), 2),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, WEIGHT[4, 3, 3, 3], None, 2, 1, 1, 1, 2, activation="relu6"),
    "conv1d": lambda x: F.conv1d(F.reshape(x, (2, 4, 63)), WEIGHT[6, 4, 3], COLUMN[6], stride=2),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_pool2d dilated": lambda x: F.max_pool2d(x, (3, 2), 1, dilation=(2, 3)),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg_pool2d counted": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool2d divided": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=5),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 3, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (7, 3)),
    "global pools": lambda x: F.add(F.global_avg_pool2d(x), F.global_max_pool2d(x)),
    "batch_norm": lambda x: F.batch_norm(x, COLUMN[4], COLUMN[4], None, COLUMN[4], eps=0.1),
    "instance_norm": lambda x: F.instance_norm(x, weight=COLUMN[4], eps=0.1),
    "group_norm": lambda x: F.group_norm(x, 2, COLUMN[4], COLUMN[4], 0.1),
    "channel_norm": lambda x: F.channel_norm(x, COLUMN[4], None, 0.1),
    "layer_norm": lambda x: F.layer_norm(x, (7, 9), None, None, 0.1),
    "rms_norm": lambda x: F.rms_norm(x, (7, 9)),
    "local_response_norm": lambda x: F.local_response_norm(x, 3, 0.1, 0.5, 2.0),
    "bilinear": lambda x: F.interpolate(x, (11, 5), mode="bilinear", align_corners=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "antialias": lambda x: F.interpolate(x, (4, 5), mode="bicubic", antialias=True),
    "interleave": lambda x: F.interleave([x, F.neg(x)]),
    "pixel_shuffle": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2),
    "pad": lambda x: F.pad(F.pad(F.pad(x, (1, -2, 2, 0), value=3.0), (2, 1), "reflect"), (0, 0, 1, 1), "replicate"),
    "slices": lambda x: F.strided_slice(F.strided_slice(x, 3, 1, -1, 2), 2, None, None, -1),
    "narrow": lambda x: F.cat([F.narrow(x, 1, 2, 2), F.narrow(x, 1, 0, 1)]),
    "flip": lambda x: F.flip(x, (1, -1)),
    "expand": lambda x: F.tile(F.expand(F.narrow(x, 0, 0, 1), (3, -1, -1, -1)), (2, 1, 1, 2)),
    "permute": lambda x: F.flatten(F.unflatten(F.permute(x, (0, 2, -1, 1)), 3, (2, 2)), 1, 2),
    "gather": lambda x: F.index_select(F.gather(x, 3, np.full((2, 4, 7, 2), [8, 0])), 2, np.array([1, 1])),
    "prelu": lambda x: F.prelu(F.prelu(x, COLUMN[4]), np.float32([0.3])),
    "functions": lambda x: F.sin(
        F.cos(F.erf(F.log(F.exp(F.log1p(F.sqrt(F.rsqrt(F.square(F.reciprocal(F.abs(x))))))))))
    ),
    "roundings": lambda x: F.sub(F.floor(x), F.mul(F.ceil(x), F.round(F.sign(x)))),
    "numbers": lambda x: F.div(F.pow(F.affine(F.maximum(F.minimum(x, 1.0), -1.0), 2.0, 3.0), 2), 3),
    "scale": lambda x: F.scale(x, F.flatten(F.global_avg_pool2d(x))),
    "where": lambda x: F.where(F.logical_and(F.gt(x, 0), F.logical_not(F.le(x, 1))), x, 0.5),
    "mask": lambda x: F.where(F.logical_or(MASK, F.ne(x, x)), F.neg(x), x),
    "comparisons": lambda x: F.where(F.eq(F.ge(x, 0), F.lt(x, 1)), x, 0),
    "clamp": lambda x: F.add(F.clamp(x, -1, 1), F.clamp(x, max=0.5), activation="tanh"),
    "matmul": lambda x: F.linear(F.matmul(F.permute(x, (0, 1, 3, 2)), x), WEIGHT[5, 9], COLUMN[5]),
    "reductions": lambda x: F.add(F.sum(x, (1, -1), keepdim=True), F.mean(F.prod(x, 3), 1, keepdim=True)[..., None]),
    "extremes": lambda x: F.sub(F.amax(x), F.amin(x, (2, 3), keepdim=True)),
    "var": lambda x: F.var(x, (2, 3)),
    "argmax": lambda x: (F.argmax(x, 1), F.argmin(x), F.argmax(x, -1, keepdim=True)),
    "cumsum": lambda x: F.cumsum(x, 2),
    "softmax": lambda x: F.mul(F.softmax(x, 1), F.log_softmax(x, -1)),
    "volumes": lambda x: F.max_pool3d(F.conv3d(F.reshape(x, (1, 4, 2, 7, 9)), WEIGHT[6, 4, 2, 3, 3], padding=1), 2),
    "grid_sample": lambda x: F.grid_sample(x, F.affine_grid(THETA, (2, 4, 5, 6))),
}
ACTIVATIONS = ["relu", "relu6", "leaky_relu", "silu", "hardswish", "hardsigmoid", "gelu", "elu", "celu", "selu", "mish"]
ACTIVATIONS += ["softsign", "logsigmoid", "sigmoid", "tanh", "hardtanh", "softplus", "nchw", "channels_last"]


@pytest.mark.onnxruntime
@pytest.mark.parametrize("name", IMAGES)
def test_operations(name, tmp_path):
    check(IMAGES[name], tmp_path / "one.onnx", uniform(2, 4, 7, 9))


@pytest.mark.onnxruntime
def test_activations(tmp_path):
    def model(x):
        results = [getattr(F, name)(x) for name in ACTIVATIONS]
        return (*results, F.gelu(x, approximate="tanh"), F.threshold(x, 0.5, -1), F.softplus(x, 2.0), F.elu(x, 0.5))

    check(model, tmp_path / "activations.onnx", uniform(2, 4, 3, 3))


@pytest.mark.onnxruntime
def test_several_inputs_and_outputs_by_name(tmp_path):
    def model(left, right):
        return {"sum": F.add(left, right), "left": left}

    left, right = uniform(2, 3), uniform(2, 3)
    convlane.onnx.export(model, tmp_path / "two.onnx", {"left": (2, 3), "right": (2, 3)})
    found = session(tmp_path / "two.onnx").run(["sum"], {"left": left, "right": right})
    np.testing.assert_array_equal(found[0], left + right)


@pytest.mark.onnxruntime
def test_weights_that_are_too_large_for_the_file_are_stored_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("convlane.onnx.exporter._LARGEST", 1000)
    check(nn.Sequential(nn.Linear(30, 40)).eval(), tmp_path / "large.onnx", uniform(2, 30))
    assert sorted(os.listdir(tmp_path)) == ["large.onnx", "large.onnx.data"]
    assert (tmp_path / "large.onnx.data").stat().st_size >= 4 * 30 * 40


@pytest.mark.onnxruntime
def test_open_sizes(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)).eval()
    convlane.onnx.export(network, tmp_path / "open.onnx", (None, 3, None, None))
    runs = session(tmp_path / "open.onnx")
    assert runs.get_inputs()[0].shape == ["batch", 3, "input_2", "input_3"]
    for shape in (1, 3, 8, 10), (5, 3, 20, 6):
        x = uniform(*shape)
        np.testing.assert_allclose(runs.run(None, {"input": x})[0], network(x), atol=1e-5)


@pytest.mark.onnxruntime
@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(3, 5, 3, stride=2, padding="same_tf").eval(),
        lambda x: F.max_pool2d(x, 3, 2, "same_tf"),
        lambda x: F.avg_pool2d(x, 3, 2, "same_tf", count_include_pad=False),
    ],
    ids=["convolution", "maximum", "mean"],
)
def test_padding_that_depends_on_open_sizes(model, tmp_path):
    convlane.onnx.export(model, tmp_path / "same.onnx", (None, 3, None, None))
    for size in (9, 8), (10, 11), (7, 7):
        x = uniform(2, 3, *size)
        expected = model(x)
        for runs in (session(tmp_path / "same.onnx"), convlane.onnx.InferenceSession(tmp_path / "same.onnx")):
            np.testing.assert_allclose(runs.run(None, {"input": x})[0], expected, atol=1e-5)


def test_what_depends_on_odd_sizes_cannot_stay_open(tmp_path):
    with pytest.raises(ValueError, match="a size that is left open is part of the network, in Pad"):
        convlane.onnx.export(lambda x: F.pad(x, (0, x.shape[3] % 2)), tmp_path / "odd.onnx", (None, 3, None, None))


def test_a_size_that_is_a_constant_cannot_stay_open(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    convlane.onnx.export(network, tmp_path / "fixed.onnx", (None, 3, 4, 4))
    with pytest.raises(ValueError, match="export: a size that is left open is part of the network, in Expand"):
        convlane.onnx.export(lambda x: F.expand(x, (4, *x.shape)), tmp_path / "open.onnx", (None, 3))
    assert os.listdir(tmp_path) == ["fixed.onnx"]


def test_parameters_keep_their_names(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    convlane.onnx.export(network, tmp_path / "named.onnx", (1, 3, 8, 8))
    file = onnx.load(tmp_path / "named.onnx")
    state = {name: array for name, array in network.state_dict().items() if not name.endswith("tracked")}
    assert {each.name for each in file.graph.initializer} == set(state)
    for each in file.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(each), state[each.name])
    assert [each.version for each in file.opset_import] == [OPSET]


def test_all_that_has_no_counterpart_is_named(tmp_path):
    def model(x):
        return F.mse_loss(F.im2col(x, 3), F.im2col(x, 3))

    with pytest.raises(ValueError, match="export: there is no counterpart in ONNX for im2col, mse_loss"):
        convlane.onnx.export(model, tmp_path / "none.onnx", (1, 3, 8, 8))
    assert not os.listdir(tmp_path)


REFUSED = {
    "running statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "even size": lambda x: F.local_response_norm(x, 4),
    "return_indices": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "even integers": lambda x: F.lp_pool2d(x, 3, 2),
    "mode 'area'": lambda x: F.interpolate(x, (3, 3), mode="area"),
    "mode 'circular'": lambda x: F.pad(x, (1, 1), "circular"),
    "windows would differ": lambda x: F.adaptive_max_pool2d(x, 3),
    "hang over": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refusals_say_why(why, tmp_path):
    with pytest.raises(ValueError, match=f"export: .* has no counterpart in ONNX .*{why}"):
        convlane.onnx.export(REFUSED[why], tmp_path / "none.onnx", (1, 4, 8, 8))


def test_operations_that_are_not_exported():
    """A new operation is exported, or is listed here."""
    ours = {name for name, operation in operations().items() if operation.__module__.startswith("convlane.")}
    losses = {name for name in ours if name.endswith(("_loss", "entropy", "entropy_with_logits"))}
    missing = ours - set(writers()) - losses
    unpooling = {name for name in missing if "unpool" in name or name.endswith("_indices")}
    assert missing - unpooling == {"col2im", "im2col", "image_rows"}  # the last one is made only by passes
