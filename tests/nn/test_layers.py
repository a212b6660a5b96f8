"""Every layer against the function that it computes, and against torch's layer of the same name."""

import math

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import functional as F
from convlane import nn
from torchvision_import import import_torchvision

SIGNAL, IMAGE, VOLUME = (2, 4, 9), (2, 4, 9, 8), (2, 3, 5, 6, 4)

# Layers of both libraries, and the shape of the input.
LAYERS = {
    "conv": (lambda nn: nn.Conv2d(4, 6, (3, 2), (1, 2), (2, 1), (1, 2), 2), IMAGE),
    "conv without bias": (lambda nn: nn.Conv2d(4, 6, 3, bias=False), IMAGE),
    "conv same": (lambda nn: nn.Conv2d(4, 6, (5, 3), padding="same"), IMAGE),
    "conv reflect": (lambda nn: nn.Conv2d(4, 6, (3, 5), 2, (1, 2), padding_mode="reflect"), IMAGE),
    "conv replicate, same": (lambda nn: nn.Conv2d(4, 6, (4, 3), padding="same", padding_mode="replicate"), IMAGE),
    "conv circular": (lambda nn: nn.Conv2d(4, 6, 3, 1, 1, 1, 2, padding_mode="circular"), IMAGE),
    "conv1d circular": (lambda nn: nn.Conv1d(4, 6, 5, 2, 2, padding_mode="circular"), SIGNAL),
    "conv3d replicate": (lambda nn: nn.Conv3d(3, 2, 3, 1, (1, 0, 1), padding_mode="replicate"), VOLUME),
    "linear": (lambda nn: nn.Linear(8, 5), IMAGE),
    "linear without bias": (lambda nn: nn.Linear(8, 5, bias=False), (3, 8)),
    "batch norm": (lambda nn: nn.BatchNorm2d(4), IMAGE),
    "batch norm of the batch": (lambda nn: nn.BatchNorm2d(4, affine=False, track_running_stats=False), IMAGE),
    "local response norm": (lambda nn: nn.LocalResponseNorm(3, alpha=0.5, beta=0.6, k=2.0), IMAGE),
    "max pool": (lambda nn: nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE),
    "max pool default stride": (lambda nn: nn.MaxPool2d((2, 3)), IMAGE),
    "avg pool": (lambda nn: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGE),
    "avg pool divisor": (lambda nn: nn.AvgPool2d((2, 3), divisor_override=5), IMAGE),
    "lp pool": (lambda nn: nn.LPPool2d(2, 3, 2, ceil_mode=True), IMAGE),
    "adaptive avg pool": (lambda nn: nn.AdaptiveAvgPool2d((4, 3)), IMAGE),
    "adaptive max pool": (lambda nn: nn.AdaptiveMaxPool2d(5), IMAGE),
    "max pool of signals": (lambda nn: nn.MaxPool1d(3, 2, 1, ceil_mode=True), SIGNAL),
    "avg pool of signals": (lambda nn: nn.AvgPool1d(3, 2, 1, True, False), SIGNAL),
    "lp pool of signals": (lambda nn: nn.LPPool1d(2, 3, 2, ceil_mode=True), SIGNAL),
    "adaptive avg pool of signals": (lambda nn: nn.AdaptiveAvgPool1d(4), SIGNAL),
    "adaptive max pool of signals": (lambda nn: nn.AdaptiveMaxPool1d(4), SIGNAL),
    "max pool of volumes": (lambda nn: nn.MaxPool3d((2, 3, 2), 2, (0, 1, 1), ceil_mode=True), VOLUME),
    "avg pool of volumes": (lambda nn: nn.AvgPool3d(3, 2, 1, True, False), VOLUME),
    "avg pool of volumes with a divisor": (lambda nn: nn.AvgPool3d((1, 2, 3), divisor_override=5), VOLUME),
    "lp pool of volumes": (lambda nn: nn.LPPool3d(2, 2, 1, ceil_mode=True), VOLUME),
    "adaptive avg pool of volumes": (lambda nn: nn.AdaptiveAvgPool3d((2, None, 3)), VOLUME),
    "adaptive max pool of volumes": (lambda nn: nn.AdaptiveMaxPool3d(2), VOLUME),
    "relu": (lambda nn: nn.ReLU(), IMAGE),
    "relu6": (lambda nn: nn.ReLU6(), IMAGE),
    "leaky relu": (lambda nn: nn.LeakyReLU(0.3), IMAGE),
    "silu": (lambda nn: nn.SiLU(), IMAGE),
    "layer norm": (lambda nn: nn.LayerNorm(IMAGE[-2:], eps=0.1), IMAGE),
    "layer norm without weight": (lambda nn: nn.LayerNorm(8, elementwise_affine=False), (3, 8)),
    "layer norm of images": (lambda nn: nn.LayerNorm(IMAGE[1:]), IMAGE),
    "layer norm without bias": (lambda nn: nn.LayerNorm(8, bias=False), (3, 8)),
    "rms norm": (lambda nn: nn.RMSNorm(IMAGE[-2:], eps=0.1), IMAGE),
    "rms norm of rows": (lambda nn: nn.RMSNorm(8, elementwise_affine=False), (3, 5, 8)),
    "group norm": (lambda nn: nn.GroupNorm(2, 4, eps=0.1), IMAGE),
    "group norm of signals": (lambda nn: nn.GroupNorm(2, 4, affine=False), (2, 4, 7)),
    "instance norm": (lambda nn: nn.InstanceNorm2d(4, affine=True, eps=0.1), IMAGE),
    "instance norm with statistics": (lambda nn: nn.InstanceNorm2d(4, track_running_stats=True), IMAGE),
    "instance norm of one image": (lambda nn: nn.InstanceNorm2d(4), IMAGE[1:]),
    "instance norm of signals": (lambda nn: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), (2, 4, 7)),
    "instance norm of volumes": (lambda nn: nn.InstanceNorm3d(3, affine=True), (2, 3, 2, 3, 4)),
    "gelu": (lambda nn: nn.GELU(), IMAGE),
    "gelu by tanh": (lambda nn: nn.GELU("tanh"), IMAGE),
    "elu": (lambda nn: nn.ELU(0.7), IMAGE),
    "celu": (lambda nn: nn.CELU(0.7), IMAGE),
    "selu": (lambda nn: nn.SELU(), IMAGE),
    "mish": (lambda nn: nn.Mish(), IMAGE),
    "softplus": (lambda nn: nn.Softplus(2, 3), IMAGE),
    "softsign": (lambda nn: nn.Softsign(), IMAGE),
    "log sigmoid": (lambda nn: nn.LogSigmoid(), IMAGE),
    "hardtanh": (lambda nn: nn.Hardtanh(-2, 0.5), IMAGE),
    "threshold": (lambda nn: nn.Threshold(0.5, -7), IMAGE),
    "glu": (lambda nn: nn.GLU(), IMAGE),
    "glu of channels": (lambda nn: nn.GLU(1), IMAGE),
    "prelu": (lambda nn: nn.PReLU(), IMAGE),
    "prelu of channels": (lambda nn: nn.PReLU(4, 0.5), IMAGE),
    "hardsigmoid": (lambda nn: nn.Hardsigmoid(), IMAGE),
    "hardswish": (lambda nn: nn.Hardswish(), IMAGE),
    "sigmoid": (lambda nn: nn.Sigmoid(), IMAGE),
    "tanh": (lambda nn: nn.Tanh(), IMAGE),
    "softmax": (lambda nn: nn.Softmax(dim=1), IMAGE),
    "log softmax": (lambda nn: nn.LogSoftmax(dim=-1), (3, 8)),
    "dropout": (lambda nn: nn.Dropout(0.3), IMAGE),
    "flatten": (lambda nn: nn.Flatten(), IMAGE),
    "identity": (lambda nn: nn.Identity(), IMAGE),
    "upsample": (lambda nn: nn.Upsample(scale_factor=(2, 1.5), mode="bilinear"), IMAGE),
    "upsample a volume": (lambda nn: nn.Upsample((3, 5, 4), mode="trilinear", align_corners=True), (1, 2, 2, 3, 4)),
    "upsampling nearest": (lambda nn: nn.UpsamplingNearest2d((5, 20)), IMAGE),
    "upsampling bilinear": (lambda nn: nn.UpsamplingBilinear2d(scale_factor=2), IMAGE),
    "pixel shuffle": (lambda nn: nn.PixelShuffle(2), IMAGE),
    "pixel unshuffle": (lambda nn: nn.PixelUnshuffle(3), (2, 1, 9, 6)),
    "constant pad 1d": (lambda nn: nn.ConstantPad1d((1, 2), 1.5), (2, 3, 4)),
    "constant pad 2d": (lambda nn: nn.ConstantPad2d(2, -1), IMAGE),
    "constant pad 3d": (lambda nn: nn.ConstantPad3d((1, 0, 2, 1, 0, 1), 0.5), (1, 2, 2, 3, 4)),
    "zero pad 1d": (lambda nn: nn.ZeroPad1d(1), (3, 4)),
    "zero pad 2d": (lambda nn: nn.ZeroPad2d((1, -1, 2, 0)), IMAGE),
    "zero pad 3d": (lambda nn: nn.ZeroPad3d(1), (1, 2, 2, 3, 4)),
    "reflection pad 1d": (lambda nn: nn.ReflectionPad1d((2, 1)), (3, 4)),
    "reflection pad 2d": (lambda nn: nn.ReflectionPad2d((1, 2, 3, 0)), IMAGE),
    "reflection pad 3d": (lambda nn: nn.ReflectionPad3d(1), (1, 2, 2, 3, 4)),
    "replication pad 1d": (lambda nn: nn.ReplicationPad1d(3), (2, 3, 4)),
    "replication pad 2d": (lambda nn: nn.ReplicationPad2d((1, 2, 3, 0)), IMAGE),
    "replication pad 3d": (lambda nn: nn.ReplicationPad3d((1, 0, 2, 1, 0, 1)), (1, 2, 2, 3, 4)),
    "circular pad 1d": (lambda nn: nn.CircularPad1d((2, 1)), (3, 4)),
    "circular pad 2d": (lambda nn: nn.CircularPad2d((1, 2, 3, 0)), IMAGE),
    "circular pad 3d": (lambda nn: nn.CircularPad3d(1), (1, 2, 2, 3, 4)),
}


def randomise(layer, rng):
    state = {k: v if v.ndim == 0 else rng.uniform(0.5, 1.5, v.shape) for k, v in layer.state_dict().items()}
    layer.load_state_dict(state)
    return layer


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_what_torch_does(name, rng):
    import torch

    make, shape = LAYERS[name]
    ours, theirs = randomise(make(nn), rng).eval(), make(torch.nn).double().eval()
    theirs.load_state_dict({key: torch.tensor(array) for key, array in ours.state_dict().items()})
    input = (3 * rng.standard_normal(shape)).astype(np.float32)
    expected = theirs(torch.tensor(input).double()).detach().numpy()
    assert_close(ours(input), expected, terms=100)


@pytest.mark.torch
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_batch_norm_trains_as_in_torch(momentum, rng):
    import torch

    ours, theirs = nn.BatchNorm2d(4, momentum=momentum), torch.nn.BatchNorm2d(4, momentum=momentum)
    for _ in range(3):
        input = rng.standard_normal(IMAGE, np.float32) + 2
        np.testing.assert_allclose(ours(input), theirs(torch.tensor(input)).detach(), atol=1e-5)
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], tensor, rtol=1e-5, err_msg=key)
    ours.eval()
    theirs.eval()
    np.testing.assert_allclose(ours(input), theirs(torch.tensor(input)).detach(), atol=1e-5)
    assert ours.num_batches_tracked == 3


@pytest.mark.torch
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", ["InstanceNorm1d", "InstanceNorm2d"])
def test_instance_norm_trains_as_in_torch(name, momentum, rng):
    import torch

    options = {"momentum": momentum, "affine": True, "track_running_stats": True}
    ours, theirs = getattr(nn, name)(4, **options), getattr(torch.nn, name)(4, **options)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for _ in range(2):
        input = rng.standard_normal(IMAGE[:3] if name == "InstanceNorm1d" else IMAGE, np.float32) + 2
        np.testing.assert_allclose(ours(input), theirs(torch.tensor(input)).detach(), atol=1e-5)
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], tensor, rtol=1e-5, err_msg=key)
    ours.eval()
    theirs.eval()
    np.testing.assert_allclose(ours(input), theirs(torch.tensor(input)).detach(), atol=1e-5)


def test_conv_block_is_the_functional_composition(rng, isa):
    block = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 5 * 4, 3))
    conv, norm, _, _, linear = randomise(block, rng).eval()
    x = rng.standard_normal(IMAGE, np.float32)
    maps = F.conv2d(x, conv.weight, conv.bias, 2, 1).astype(np.float64)
    column = (1, 8, 1, 1)
    scale = norm.weight / np.sqrt(norm.running_var + 1e-5)
    maps = (maps - norm.running_mean.reshape(column)) * scale.reshape(column) + norm.bias.reshape(column)
    expected = np.maximum(maps, 0).reshape(2, -1) @ linear.weight.T + linear.bias
    assert_close(block(x), expected, terms=160)


def test_batch_norm_without_statistics_normalises_the_batch(rng):
    x = rng.standard_normal(IMAGE, np.float32) * 3 + 1
    layer = nn.BatchNorm2d(4, eps=0.0, affine=False, track_running_stats=False).eval()
    assert layer.state_dict() == {}
    y = layer(x)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 2, 3)), 1, rtol=1e-5)


def test_batch_norm_updates_its_statistics_only_in_training(rng):
    x = rng.standard_normal(IMAGE, np.float32)
    layer = nn.BatchNorm2d(4)
    layer(x)
    x64 = x.astype(np.float64)
    np.testing.assert_allclose(layer.running_mean, 0.1 * x64.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * x64.var((0, 2, 3), ddof=1), rtol=1e-6)
    before = layer.state_dict()
    layer.eval()(x)
    for key, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


def test_a_refused_batch_does_not_count(rng):
    layer = nn.BatchNorm2d(4)
    with pytest.raises(ValueError):
        layer(rng.standard_normal((2, 5, 3, 3), np.float32))
    assert layer.num_batches_tracked == 0


def test_global_pools(rng):
    x = rng.standard_normal(IMAGE, np.float32)
    assert_close(nn.GlobalAvgPool2d()(x), x.mean((2, 3), dtype=np.float64, keepdims=True), terms=72)
    np.testing.assert_array_equal(nn.GlobalMaxPool2d()(x), x.max((2, 3), keepdims=True))


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(2, return_indices=True)])
def test_max_pool_indices(layer, rng):
    x = rng.standard_normal((1, 3, 4, 4), np.float32)
    y, indices = layer(x)
    np.testing.assert_array_equal(
        np.take_along_axis(x.reshape(1, 3, 16), indices.reshape(1, 3, 4), 2), y.reshape(1, 3, 4)
    )


@pytest.mark.torch
@pytest.mark.parametrize(("axes", "shape"), [(1, SIGNAL), (2, IMAGE), (3, VOLUME)])
def test_max_unpool(axes, shape, rng):
    import torch

    def unpooled(library, x):
        pool = getattr(library, f"MaxPool{axes}d")(2, return_indices=True)
        return getattr(library, f"MaxUnpool{axes}d")(2)(*pool(x), output_size=shape)

    x = rng.standard_normal(shape, np.float32)
    np.testing.assert_array_equal(unpooled(nn, x), unpooled(torch.nn, torch.from_numpy(x)).numpy())


def test_dropout_only_in_training(rng):
    x = np.ones((100, 100), np.float32)
    layer = nn.Dropout(0.25)
    y = layer(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(layer.eval()(x), x)


def test_stochastic_depth_drops_whole_images_only_in_training(rng):
    x = rng.uniform(1, 2, (400, 3, 2, 2)).astype(np.float32)
    layer = nn.StochasticDepth(0.25)
    y = layer(x)
    dropped = (y == 0).all((1, 2, 3))
    assert abs(dropped.mean() - 0.25) < 0.12
    np.testing.assert_allclose(y[~dropped], x[~dropped] / 0.75, rtol=1e-6)
    assert layer.eval()(x) is x
    assert nn.StochasticDepth(0.0)(x) is x
    np.testing.assert_array_equal(nn.StochasticDepth(1.0)(x), np.zeros_like(x))


@pytest.mark.torch
def test_squeeze_excitation_is_torchvision_s(rng):
    import torch

    ours = randomise(nn.SqueezeExcitation(4, 3, activation=nn.SiLU), rng)
    theirs = import_torchvision().ops.SqueezeExcitation(4, 3, activation=torch.nn.SiLU).double()
    theirs.load_state_dict({key: torch.tensor(array) for key, array in ours.state_dict().items()})
    x = rng.standard_normal(IMAGE, np.float32)
    assert_close(ours(x), theirs(torch.tensor(x).double()).detach().numpy(), terms=100)


def test_add_and_concat(rng):
    x = rng.standard_normal(IMAGE, np.float32)
    one, two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
    np.testing.assert_array_equal(nn.Add(one, nn.Identity(), two)(x), one(x) + x + two(x))
    np.testing.assert_array_equal(nn.Concat(one, nn.Identity(), two)(x), np.concatenate([one(x), x, two(x)], 1))
    assert list(nn.Concat(one, two).state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_sequential_as_a_list():
    layers = [nn.Identity() for _ in range(4)]
    network = nn.Sequential(*layers)
    assert len(network) == 4
    assert list(network) == layers
    assert network[-1] is layers[3]
    assert list(network[1:3]) == layers[1:3]
    assert [name for name, _ in network[1:3].named_children()] == ["1", "2"]
    network[0] = replacement = nn.ReLU()
    assert network[0] is replacement
    with pytest.raises(IndexError):
        network[4]
    named = nn.Sequential({"first": layers[0], "second": layers[1]})
    assert [name for name, _ in named.named_children()] == ["first", "second"]
    assert named.second is layers[1]
    x = object()
    assert nn.Sequential()(x) is x


def test_containers_accept_only_modules():
    with pytest.raises(TypeError, match="Sequential: '1' must be a Module, got function"):
        nn.Sequential(nn.ReLU(), lambda x: x)
    with pytest.raises(ValueError, match=r"Sequential: 'a\.b' cannot be the name of a module"):
        nn.Sequential({"a.b": nn.ReLU()})
    with pytest.raises(ValueError, match="Sequential: 'forward' cannot be the name of a module"):
        nn.Sequential({"forward": nn.ReLU()})
    for container in (nn.Add, nn.Concat):
        with pytest.raises(ValueError, match="at least one branch is needed"):
            container()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Conv2d(0, 1, 3), ValueError, "Conv2d: in_channels must be at least 1, got 0"),
        (lambda: nn.Conv2d(1, -1, 3), ValueError, "Conv2d: out_channels must be at least 1, got -1"),
        (lambda: nn.Conv2d(1.0, 1, 3), TypeError, "Conv2d: in_channels must be an integer, got 1.0"),
        (lambda: nn.Conv2d(4, 6, 3, groups=3), ValueError, "groups=3 must divide in_channels=4 and out_channels=6"),
        (lambda: nn.Conv2d(6, 4, 3, groups=3), ValueError, "groups=3 must divide in_channels=6 and out_channels=4"),
        (lambda: nn.Conv2d(6, 4, 3, groups=0), ValueError, "groups must be at least 1, got 0"),
        (lambda: nn.Conv2d(1, 1, 0), ValueError, "kernel size must be at least 1"),
        (lambda: nn.Conv1d(1, 1, 1, padding_mode="q"), ValueError, "Conv1d: padding_mode must be one of zeros, refl"),
        (lambda: nn.Upsample(scale_factor=2, mode="q"), ValueError, "Upsample: mode must be one of nearest, nearest-"),
        (lambda: nn.Conv2d(1, 1, 3, stride=0), ValueError, "stride must be at least 1"),
        (lambda: nn.Conv2d(1, 1, 3, dilation=0), ValueError, "dilation must be at least 1"),
        (lambda: nn.Conv2d(1, 1, 3, padding=-1), ValueError, "padding must not be negative"),
        (lambda: nn.Conv2d(1, 1, 3, padding=(1, 2, 3)), ValueError, "padding must be"),
        (lambda: nn.Conv2d(1, 1, 3, padding="full"), ValueError, "padding must be 'same', 'same_tf' or 'valid'"),
        (lambda: nn.Conv2d(1, 1, 3, 2, padding="same"), ValueError, "padding='same' needs stride 1"),
        (lambda: nn.Conv2d(1, 1, (3, 3, 3)), ValueError, "kernel_size must be an integer or a tuple of 2"),
        (lambda: nn.Linear(0, 1), ValueError, "Linear: in_features must be at least 1, got 0"),
        (lambda: nn.Linear(1, 0), ValueError, "Linear: out_features must be at least 1, got 0"),
        (lambda: nn.BatchNorm2d(0), ValueError, "BatchNorm2d: num_features must be at least 1, got 0"),
        (lambda: nn.GroupNorm(3, 4), ValueError, "GroupNorm: num_groups=3 does not divide num_channels=4"),
        (lambda: nn.InstanceNorm2d(0), ValueError, "InstanceNorm2d: num_features must be at least 1, got 0"),
        (lambda: nn.InstanceNorm2d(2)(np.zeros((2, 2), np.float32)), ValueError, "InstanceNorm2d: input must have 4"),
        (lambda: nn.RMSNorm(0), ValueError, "RMSNorm: normalized_shape must be at least 1, got 0"),
        (lambda: nn.PReLU(0), ValueError, "PReLU: num_parameters must be at least 1, got 0"),
        (lambda: nn.Hardtanh(1, 1), ValueError, "Hardtanh: min_val must be below max_val, got 1 and 1"),
        (lambda: nn.LocalResponseNorm(0), ValueError, "LocalResponseNorm: size must be at least 1, got 0"),
        (lambda: nn.MaxPool2d(0), ValueError, "max_pool2d: kernel size must be at least 1"),
        (lambda: nn.MaxPool2d(2, padding=2), ValueError, "max_pool2d: padding"),
        (lambda: nn.AvgPool2d(2, stride=0), ValueError, "avg_pool2d: stride must be at least 1"),
        (lambda: nn.LPPool2d(2, (1, 2, 3)), ValueError, "lp_pool2d: kernel_size must be an integer or a pair"),
        (lambda: nn.MaxPool1d(0), ValueError, "max_pool1d: kernel size must be at least 1"),
        (lambda: nn.AvgPool3d(2, (1, 2)), ValueError, "avg_pool3d: stride must be an integer or a tuple of 3"),
        (lambda: nn.AdaptiveMaxPool3d((1, 2)), ValueError, "adaptive_max_pool3d: output_size must be"),
        (lambda: nn.MaxUnpool2d((1, 2, 3)), ValueError, "max_unpool2d: kernel_size must be"),
        (lambda: nn.AdaptiveAvgPool2d(-1), ValueError, "adaptive_avg_pool2d: output size"),
        (lambda: nn.AdaptiveMaxPool2d((1, 2.5)), TypeError, "adaptive_max_pool2d: output_size"),
        (lambda: nn.Dropout(1.5), ValueError, "Dropout: p must be between 0 and 1, got 1.5"),
        (lambda: nn.StochasticDepth(-0.5), ValueError, "StochasticDepth: p must be between 0 and 1, got -0.5"),
        (lambda: nn.StochasticDepth("0.5"), TypeError, "StochasticDepth: p must be a number, got '0.5'"),
        (lambda: nn.Dropout("0.5"), TypeError, "Dropout: p must be a number, got '0.5'"),
        (lambda: nn.StochasticDepth(0.5)([1, 2]), TypeError, "StochasticDepth: input must be a NumPy array, got list"),
        (lambda: nn.StochasticDepth(0.5)(np.zeros((2, 2), np.float32)), ValueError, r"must be \(N, C, H, W\)"),
        (lambda: nn.Dropout(math.nan), ValueError, "Dropout: p must be between 0 and 1, got nan"),
    ],
)
def test_constructors_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_four_sided_and_named_padding(rng):
    x = rng.standard_normal((1, 2, 7, 7), np.float32)
    for padding in [(1, 0, 2, 1), "same_tf", "valid", (1, 2)]:
        layer = nn.Conv2d(2, 3, 3, 2, padding)
        packed = F.pack_conv2d(layer.weight)  # as the layer does before it knows the size of the images
        np.testing.assert_array_equal(layer(x), F.conv2d(x, packed, layer.bias, 2, padding))


SHAPE = (200, 60, 3, 3)  # fan_in 540, fan_out 1800


@pytest.mark.parametrize(
    ("draw", "std"),
    [
        (lambda init: init.normal(SHAPE, 0.0, 0.2), 0.2),
        (lambda init: init.uniform(SHAPE, -1, 1), math.sqrt(1 / 3)),
        (lambda init: init.kaiming_normal(SHAPE), math.sqrt(2 / 540)),
        (lambda init: init.kaiming_normal(SHAPE, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / 1800)),
        (lambda init: init.kaiming_uniform(SHAPE, a=math.sqrt(5)), math.sqrt(1 / (3 * 540))),
        (lambda init: init.kaiming_uniform(SHAPE, nonlinearity="linear"), math.sqrt(1 / 540)),
        (lambda init: init.xavier_normal(SHAPE), math.sqrt(2 / 2340)),
        (lambda init: init.xavier_uniform(SHAPE, gain=2.0), 2 * math.sqrt(2 / 2340)),
    ],
)
def test_init_has_the_formula_s_spread(draw, std):
    nn.init.seed(5)
    array = draw(nn.init)
    assert (array.dtype, array.shape) == (np.float32, SHAPE)
    assert array.std(dtype=np.float64) == pytest.approx(std, rel=0.01)
    assert abs(array.mean(dtype=np.float64)) < 0.02 * std
    nn.init.seed(5)
    np.testing.assert_array_equal(draw(nn.init), array)
    assert not np.array_equal(draw(nn.init), array)


def test_init_mean_and_constant():
    assert nn.init.normal((300, 300), mean=4.0).mean() == pytest.approx(4, abs=0.02)
    assert (nn.init.constant((2, 3), 7) == 7).all()


def test_init_does_not_depend_on_the_number_of_threads():
    arrays = []
    for count in (1, 3):
        nn.init.seed(9)
        with convlane.num_threads(count):
            arrays.append(nn.init.normal((3, 1_000_000)))
    np.testing.assert_array_equal(*arrays)
    assert len(np.unique(arrays[0][:, :5])) == 15


def test_init_skip_draws_zeros_and_ends():
    with nn.init.skip():
        layer = nn.Conv2d(2, 3, 3)
        assert not layer.weight.any()
        assert not layer.bias.any()
        with nn.init.skip():
            pass
        assert not nn.init.normal((3,)).any()
    assert nn.init.normal((3,)).all()


def test_init_refuses():
    with pytest.raises(ValueError, match="mode must be 'fan_in' or 'fan_out', got 'fan'"):
        nn.init.kaiming_normal((2, 2), mode="fan")
    with pytest.raises(ValueError, match=r"nonlinearity must be one of .*, got 'step'"):
        nn.init.kaiming_normal((2, 2), nonlinearity="step")
    for shape in [(3,), (0, 2)]:
        with pytest.raises(ValueError, match="fans are defined for weights"):
            nn.init.xavier_normal(shape)


def test_layers_start_as_in_torch():
    conv, linear, norm = nn.Conv2d(8, 300, 5, groups=2), nn.Linear(64, 300), nn.BatchNorm2d(3)
    for layer, fan_in in ((conv, 4 * 25), (linear, 64)):
        bound = 1 / math.sqrt(fan_in)
        for array in (layer.weight, layer.bias):
            assert 0.95 * bound < np.abs(array).max() <= bound
    for array, value in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
        assert (array == value).all()


@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in LAYERS if "pad " in name or "shuffle" in name or "upsampl" in name])
def test_layers_without_weights_have_torch_s_attributes(name):
    import torch

    ours, theirs = (LAYERS[name][0](library) for library in (nn, torch.nn))
    for attribute in ("padding", "value", "upscale_factor", "downscale_factor", "size", "scale_factor", "mode"):
        if attribute in vars(theirs):
            assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert "pad " not in name or ours.extra_repr() == theirs.extra_repr()


def test_pads_are_refused_by_name():
    with pytest.raises(ValueError, match=r"ReflectionPad2d: padding must be an integer or 4 of them, got \(1, 2\)"):
        nn.ReflectionPad2d((1, 2))
    with pytest.raises(TypeError, match=r"ZeroPad1d: padding must be an integer, got 0\.5"):
        nn.ZeroPad1d(0.5)
    with pytest.raises(TypeError, match="ConstantPad1d: value must be a number"):
        nn.ConstantPad1d(1, "0")
    with pytest.raises(ValueError, match=r"CircularPad2d: input must have 3 or 4 dimensions, got shape \(2, 3\)"):
        nn.CircularPad2d(1)(np.zeros((2, 3), np.float32))
