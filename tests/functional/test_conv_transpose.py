"""Transposed convolution: every algorithm, instruction set, tile edge and layout, gradients, plans, bad input."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core, nn
from convlane import functional as F
from convlane.analysis import receptive_field
from convlane.functional._op import ACTIVATIONS
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles.activation import ARGUMENTS
from oracles.conv_transpose import conv_transpose as oracle
from oracles.conv_transpose import conv_transpose_gradients

WINOGRAD = 2.5  # its rounding relative to a direct sum


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


# Input, weight (C, O / groups, KH, KW), and stride, padding, output_padding, groups, dilation.
GEOMETRIES = {
    "2x2 stride 2": ((2, 6, 5, 4), (6, 40, 2, 2), (2, 0, 0, 1, 1)),
    "4x4 stride 2": ((1, 5, 6, 7), (5, 20, 4, 4), (2, 1, 0, 1, 1)),
    "3x3 stride 2 output padding": ((1, 5, 4, 5), (5, 12, 3, 3), (2, 1, 1, 1, 1)),
    "uneven": ((2, 4, 5, 6), (4, 9, 3, 5), ((2, 3), (1, 2), (0, 2), 1, (1, 2))),
    "four sides": ((1, 4, 5, 6), (4, 9, 4, 3), ((3, 2), (1, 0, 2, 3), (2, 1), 1, 1)),
    "gaps": ((1, 3, 4, 3), (3, 10, 2, 1), (4, 0, 3, 1, 1)),
    "dilation beyond the stride": ((1, 3, 4, 4), (3, 10, 3, 2), (2, 1, 2, 1, 3)),
    "padding beyond the kernel": ((1, 3, 6, 6), (3, 10, 2, 2), (2, 3, 1, 1, 1)),
    "bias alone": ((1, 3, 1, 2), (3, 10, 1, 1), (3, (1, 1), (2, 1), 1, 1)),
    "stride 1": ((2, 6, 7, 5), (6, 18, 3, 3), (1, 1, 0, 1, 1)),
    "stride 1 cropped": ((1, 3, 9, 8), (3, 18, 3, 2), (1, 3, 0, 1, 1)),
    "stride 1 pointwise": ((1, 6, 4, 5), (6, 10, 1, 1), (1, 0, 0, 1, 1)),
    "groups": ((2, 6, 5, 4), (6, 3, 3, 3), (2, 1, 1, 3, 1)),
    "groups stride 1": ((1, 6, 5, 4), (6, 5, 3, 3), (1, 1, 0, 2, 1)),
    "depthwise": ((2, 7, 5, 6), (7, 1, 4, 4), (2, 1, 0, 7, 1)),
    "depthwise gaps": ((1, 7, 4, 3), (7, 1, 2, 2), (3, 0, 2, 7, 1)),
    "depthwise stride 1": ((1, 7, 5, 6), (7, 1, 3, 3), (1, 1, 0, 7, 1)),
    "depthwise multiplier": ((1, 5, 4, 3), (5, 2, 3, 3), (2, 1, 1, 5, 1)),
    "few channels": ((2, 9, 6, 5), (9, 3, 4, 4), (2, 1, 0, 1, 1)),
    "one channel dilated": ((1, 9, 6, 5), (9, 1, 3, 2), ((1, 3), (2, 1), (0, 1), 1, 2)),
}


def arrays(rng, name):
    x_shape, weight_shape, geometry = GEOMETRIES[name]
    bias = normal(rng, weight_shape[1] * geometry[3])
    return normal(rng, *x_shape), normal(rng, *weight_shape), bias, geometry


def sides_of(padding):
    """Return the padding in the oracle's form: before and after each dimension."""
    return padding if np.size(padding) < 4 else (padding[:2], padding[2:])


def expected_of(x, weight, bias, geometry):
    stride, padding, output_padding, groups, dilation = geometry
    return oracle(x, weight, bias, stride, sides_of(padding), output_padding, groups, dilation)


def terms_of(weight):
    return weight.shape[0] * np.prod(weight.shape[2:])


def ways(geometry):
    stride, *_, groups, _ = geometry
    return ["auto", "phases", *(["windows"] if groups == 1 else []), *(["direct", "im2col"] if stride == 1 else [])]


@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "four sides"])
def test_oracle_agrees_with_torch(rng, name):
    import torch

    x, weight, bias, geometry = arrays(rng, name)
    theirs = torch.nn.functional.conv_transpose2d(
        torch.tensor(x).double(), torch.tensor(weight).double(), torch.tensor(bias).double(), *geometry
    )
    np.testing.assert_allclose(expected_of(x, weight, bias, geometry), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometry(rng, isa, name):
    x, weight, bias, geometry = arrays(rng, name)
    expected = expected_of(x, weight, bias, geometry)
    for way in ways(geometry):
        y = F.conv_transpose2d(x, weight, bias, *geometry, algorithm=way)
        assert_close(y, expected, terms=terms_of(weight))
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous, "the output is channels last"


@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4", "stem", "reference"])
def test_algorithms_of_stride_1(rng, algorithm):
    x, weight = normal(rng, 1, 4, 9, 8), normal(rng, 4, 20, 3, 3)
    y = F.conv_transpose2d(x, weight, padding=1, algorithm=algorithm)
    assert_close(y, oracle(x, weight, padding=1), terms=36, factor=WINOGRAD)


@pytest.mark.parametrize(("channels", "algorithm"), [(3, "planes"), (20, "narrow"), (20, "direct")])
def test_cropping_of_few_channels(rng, isa, channels, algorithm):
    x, weight, bias = normal(rng, 2, channels, 9, 8), normal(rng, channels, 3, 3, 3), normal(rng, 3)
    y = F.conv_transpose2d(x, weight, bias, padding=(3, 4), algorithm=algorithm)
    assert_close(y, oracle(x, weight, bias, padding=(3, 4)), terms=9 * channels)


class TestTiles:
    """Sizes at which the work is divided differently."""

    def test_channels_and_columns(self, rng, isa):
        tile = _core.tile_sizes()
        for columns in (1, tile["mr"] - 1, tile["mr"] + 1):
            for o in (tile["lanes"] + 1, tile["nr"], tile["nr"] + 1):
                x, weight = normal(rng, 1, 3, 2, columns), normal(rng, 3, o, 2, 3)
                assert_close(F.conv_transpose2d(x, weight, stride=2), oracle(x, weight, stride=2), terms=18)

    @pytest.mark.parametrize("way", ["phases", "windows"])
    def test_long_rows(self, rng, threads, way):
        x, weight, bias = normal(rng, 2, 16, 2, 600), normal(rng, 16, 8, 2, 4), normal(rng, 8)
        y = F.conv_transpose2d(x, weight, bias, stride=(1, 2), padding=(0, 1), algorithm=way)
        expected = np.concatenate(  # the definition, for columns in the middle and at the edges
            [
                oracle(part, weight, bias, (1, 2), (0, 1))[..., 2:-2]
                for part in (x[..., :9], x[..., 250:290], x[..., -9:])
            ],
            -1,
        )
        seen = np.concatenate([y[..., 2:16], y[..., 502:578], y[..., -16:-2]], -1)
        assert_close(seen, expected, terms=128)

    @pytest.mark.parametrize("size", [(2, 2), (4, 3), (9, 2), (13, 16)])
    def test_many_channels(self, rng, isa, threads, size):
        x, weight, bias = normal(rng, 1, 70, *size), normal(rng, 70, 100, 4, 4), normal(rng, 100)
        y = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
        assert_close(y, oracle(x, weight, bias, 2, 1), terms=16 * 70)

    def test_sums_of_many_products(self, rng):
        x, weight = normal(rng, 1, 5000, 2, 3), normal(rng, 5000, 9, 2, 2)
        assert_close(F.conv_transpose2d(x, weight, stride=2), oracle(x, weight, stride=2), terms=5000)


@pytest.mark.parametrize("name", ["2x2 stride 2", "gaps", "depthwise gaps", "few channels", "stride 1"])
def test_activations(rng, isa, name):
    x, weight, bias, geometry = arrays(rng, name)
    plain = F.conv_transpose2d(x, weight, bias, *geometry)
    for activation in ["none", *sorted(ACTIVATIONS)]:
        y = F.conv_transpose2d(x, weight, bias, *geometry, activation=activation, negative_slope=0.3)
        after = plain
        if activation != "none":
            options = {ARGUMENTS[activation]: 0.3} if activation in ARGUMENTS else {}
            after = getattr(F, activation)(plain, **options)
        np.testing.assert_allclose(y, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["4x4 stride 2", "depthwise", "few channels", "groups", "stride 1"])
def test_same_bits_for_any_number_of_threads_and_batch(rng, name):
    (_, c, *_), weight_shape, geometry = GEOMETRIES[name]
    x, weight = normal(rng, 3, c, 30, 31), normal(rng, *weight_shape)
    with convlane.num_threads(1):
        once = F.conv_transpose2d(x, weight, None, *geometry)
    for threads in (2, 5):
        with convlane.num_threads(threads):
            np.testing.assert_array_equal(F.conv_transpose2d(x, weight, None, *geometry), once)
            np.testing.assert_array_equal(F.conv_transpose2d(x[1:2], weight, None, *geometry), once[1:2])


@pytest.mark.parametrize("name", ["2x2 stride 2", "depthwise", "few channels", "groups", "stride 1"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, name, layout):
    x, weight, bias, geometry = arrays(rng, name)
    y = F.conv_transpose2d(*(LAYOUTS[layout](each) for each in (x, weight, bias)), *geometry)
    np.testing.assert_array_equal(y, F.conv_transpose2d(x, weight, bias, *geometry))


@pytest.mark.parametrize("name", ["4x4 stride 2", "gaps", "depthwise", "few channels", "stride 1"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_special_values_reach_their_windows(rng, isa, name, value):
    x, weight, bias, geometry = arrays(rng, name)
    x, weight = np.abs(x), np.abs(weight) + 1
    x[0, 1, 1, 2] = value
    expected = expected_of(x, weight, bias, geometry)
    assert 0 < np.isfinite(expected).sum() < expected.size
    assert_close(F.conv_transpose2d(x, weight, bias, *geometry), expected, terms=terms_of(weight))


def test_one_image_and_no_image(rng):
    x, weight, bias, geometry = arrays(rng, "4x4 stride 2")
    np.testing.assert_array_equal(
        F.conv_transpose2d(x[0], weight, bias, *geometry), F.conv_transpose2d(x, weight, bias, *geometry)[0]
    )
    for name in ("4x4 stride 2", "few channels", "stride 1", "depthwise"):
        x, weight, bias, geometry = arrays(rng, name)
        y = F.conv_transpose2d(x, weight, bias, *geometry)
        assert F.conv_transpose2d(x[:0], weight, bias, *geometry).shape == (0, *y.shape[1:])


@pytest.mark.parametrize("name", ["2x2 stride 2", "few channels", "groups", "stride 1", "depthwise"])
def test_packed_weights(rng, isa, name):
    x, weight, bias, (stride, padding, added, groups, dilation) = arrays(rng, name)
    packed = F.pack_conv_transpose2d(weight, stride, groups, dilation)
    assert (packed.shape, packed.groups, packed.isa) == (weight.shape, groups, isa)
    assert packed.nbytes >= weight.nbytes
    y = F.conv_transpose2d(x, packed, bias, stride, padding, added, dilation=dilation)
    np.testing.assert_array_equal(y, F.conv_transpose2d(x, weight, bias, stride, padding, added, groups, dilation))
    with pytest.raises(ValueError, match="the weight was packed for stride"):
        F.conv_transpose2d(x, packed, bias, 5)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_unpacking_gives_the_weight_back(rng, isa, name):
    _, weight, _, (stride, _, _, groups, dilation) = arrays(rng, name)
    for array in (weight, np.asfortranarray(weight)):
        packed = F.pack_conv_transpose2d(array, stride, groups, dilation)
        assert packed.reversible
        np.testing.assert_array_equal(packed.unpack(), weight, strict=True)


def test_winograd_cannot_be_unpacked(rng):
    packed = F.pack_conv_transpose2d(normal(rng, 4, 5, 3, 3), algorithm="winograd4")
    assert not packed.reversible
    with pytest.raises(ValueError, match="cannot be unpacked"):
        packed.unpack()


class TestGradient:
    @pytest.mark.parametrize("name", GEOMETRIES)
    def test_against_the_definition(self, rng, name):
        x, weight, bias, geometry = arrays(rng, name)
        stride, padding, *others = geometry
        gradient = normal(rng, *expected_of(x, weight, bias, geometry).shape)
        y, found = by_rule(F.conv_transpose2d, gradient, x, weight, bias, *geometry, wanted=("input", "weight", "bias"))
        assert_close(y, expected_of(x, weight, bias, geometry), terms=terms_of(weight), factor=WINOGRAD)
        of_input, of_weight = conv_transpose_gradients(gradient, x, weight, stride, sides_of(padding), *others)
        assert_close(found["input"], of_input, terms=weight[0].size, factor=WINOGRAD)
        assert_close(found["weight"], of_weight, terms=x[:, 0].size, factor=WINOGRAD)
        assert_close(found["bias"], gradient.sum((0, 2, 3), np.float64), terms=gradient[:, 0].size)

    def test_the_definition_by_differences(self, rng):
        x, weight, geometry = normal(rng, 1, 4, 2, 3), normal(rng, 4, 2, 2, 2), ((2, 1), (0, 1), (1, 0), 2, (1, 2))
        gradient = normal(rng, *oracle(x, weight, None, *geometry).shape)
        of_input, of_weight = conv_transpose_gradients(gradient, x, weight, *geometry)
        numeric = numeric_gradient(lambda x: oracle(x, weight, None, *geometry), x, gradient)
        np.testing.assert_allclose(of_input, numeric, atol=1e-7)
        numeric = numeric_gradient(lambda weight: oracle(x, weight, None, *geometry), weight, gradient)
        np.testing.assert_allclose(of_weight, numeric, atol=1e-7)

    @pytest.mark.torch
    @pytest.mark.parametrize("activation", ["relu", "silu"])
    @pytest.mark.parametrize("name", ["4x4 stride 2", "groups", "few channels", "stride 1"])
    def test_against_torch(self, rng, name, activation):
        import torch

        x, weight, bias, geometry = arrays(rng, name)
        ours = [x, weight, bias]
        theirs = [torch.tensor(each).double().requires_grad_() for each in ours]
        after = getattr(torch.nn.functional, activation)(torch.nn.functional.conv_transpose2d(*theirs, *geometry))
        gradient = normal(rng, *after.shape)
        after.backward(torch.tensor(gradient).double())
        _, found = by_rule(
            F.conv_transpose2d, gradient, *ours, *geometry, activation=activation, wanted=("input", "weight", "bias")
        )
        for name, tensor in zip(("input", "weight", "bias"), theirs, strict=True):
            assert_close(found[name], tensor.grad.numpy(), terms=300, factor=WINOGRAD)

    def test_only_what_is_wanted(self, rng):
        x, weight, bias, geometry = arrays(rng, "2x2 stride 2")
        gradient = normal(rng, *expected_of(x, weight, bias, geometry).shape)
        for name in ("input", "weight", "bias"):
            by_rule(F.conv_transpose2d, gradient, x, weight, bias, *geometry, wanted=(name,))
        _, found = by_rule(F.conv_transpose2d, gradient[0], x[0], weight, bias, *geometry)
        assert found["input"].shape == x[0].shape

    def test_packed_weights_have_none(self, rng):
        packed = F.pack_conv_transpose2d(normal(rng, 2, 3, 2, 2))
        with pytest.raises(TypeError, match="neither a packed weight nor the input through it has a gradient"):
            convlane.vjp(lambda x: F.conv_transpose2d(x, packed), normal(rng, 1, 2, 3, 3))


# Kernel, and stride, padding, output_padding, groups, dilation.
VOLUMES = {
    "2x2x2 stride 2": ((2, 2, 2), (2, 0, 0, 1, 1)),
    "3x3x3 stride 2": ((3, 3, 3), (2, 1, 1, 1, 1)),
    "stride 1": ((3, 1, 2), (1, 1, 0, 1, 1)),
    "uneven groups": ((3, 2, 1), ((3, 2, 1), (2, 1, 0), (2, 1, 0), 2, (2, 1, 1))),
    "groups and joined slices": ((3, 2, 1), ((2, 2, 3), (1, 1, 0), (0, 1, 0), 2, (1, 2, 2))),
    "gaps in depth": ((1, 2, 2), ((3, 2, 2), 0, (2, 0, 0), 1, 1)),
}


class TestOtherRanks:
    @pytest.mark.parametrize("groups", [1, 3])
    def test_sequences(self, rng, groups):
        x, weight, bias = normal(rng, 2, 6, 9), normal(rng, 6, 5, 4), normal(rng, 5 * groups)
        geometry = (3, 1, 2, groups, 2)
        expected = oracle(x, weight, bias, *geometry)
        assert_close(F.conv_transpose1d(x, weight, bias, *geometry), expected, terms=24)
        np.testing.assert_array_equal(
            F.conv_transpose1d(x[0], weight, bias, *geometry), F.conv_transpose1d(x, weight, bias, *geometry)[0]
        )
        assert_close(F.conv_transpose1d(x, weight, bias, (3,), (1,), (2,), groups, (2,)), expected, terms=24)

    @pytest.mark.parametrize("name", VOLUMES)
    def test_volumes(self, rng, name):
        kernel, geometry = VOLUMES[name]
        x, weight, bias = normal(rng, 2, 4, 3, 4, 5), normal(rng, 4, 3, *kernel), normal(rng, 3 * geometry[3])
        y = F.conv_transpose3d(x, weight, bias, *geometry)
        expected = oracle(x, weight, bias, *geometry)
        assert_close(y, expected, terms=4 * np.prod(kernel))
        plan = convlane.compile(lambda x: F.conv_transpose3d(x, weight, bias, *geometry), x.shape)
        assert_close(plan(x), expected, terms=4 * np.prod(kernel), factor=WINOGRAD)
        np.testing.assert_array_equal(F.conv_transpose3d(x[0], weight, bias, *geometry), y[0])

    @pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu"])
    def test_activations(self, rng, name):
        x, weight, bias = normal(rng, 2, 4, 3, 4, 5), normal(rng, 4, 3, 2, 3, 1), normal(rng, 3)
        for op, at in ((F.conv_transpose1d, np.s_[..., 0, 0]), (F.conv_transpose3d, np.s_[...])):
            filters, options = weight[at], {"activation": name, "negative_slope": 0.2}
            y, plain = op(x[at], filters, bias, 2, **options), op(x[at], filters, bias, 2)
            expected = F.leaky_relu(plain, 0.2) if name == "leaky_relu" else getattr(F, name)(plain)
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
            plan = convlane.compile(lambda x, op=op, w=filters, o=options: op(x, w, bias, 2, **o), x[at].shape)
            assert_close(plan(x[at]), expected.astype(np.float64), terms=24)

    def test_groups_of_single_pixels_compile(self, rng):
        """Slices of volumes are views of images, of which groups are read."""
        layer, x = nn.ConvTranspose3d(3, 15, 3, stride=2, groups=3).eval(), normal(rng, 2, 3, 2, 1, 1)
        assert_close(convlane.compile(layer, x.shape)(x), layer(x).astype(np.float64), terms=27)

    def test_a_nan_stays_in_its_slices(self, rng):
        x, weight = normal(rng, 1, 2, 3, 2, 2), normal(rng, 2, 3, 1, 1, 1)
        x[0, :, 1] = np.nan
        y = F.conv_transpose3d(x, weight, stride=(2, 1, 1))
        np.testing.assert_array_equal(np.isnan(y).any((0, 1, 3, 4)), [False, False, True, False, False])


def randomise(network, rng):
    state = network.state_dict()
    network.load_state_dict({k: v if v.ndim == 0 else rng.uniform(0.5, 1.5, v.shape) for k, v in state.items()})
    return network.eval()


class UNet(nn.Module):
    """One step down and up."""

    def __init__(self):
        self.down = nn.Conv2d(6, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 20, 2, 2)
        self.norm = nn.BatchNorm2d(20)

    def forward(self, input):
        y = self.norm(self.up(F.max_pool2d(F.relu(self.down(input)), 2)))
        return F.cat([input, F.relu(y)])


class Volumes(nn.Module):
    """Two slices of images of twice the height."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, input):
        return self.layer(F.unflatten(input, 2, (2, input.shape[2] // 2)))


COMPILED = {
    "2x2": (lambda: nn.ConvTranspose2d(6, 20, 2, 2), (6, 5, 7)),
    "4x4": (lambda: nn.ConvTranspose2d(6, 20, 4, 2, 1), (6, 5, 7)),
    "few channels": (lambda: nn.ConvTranspose2d(6, 2, 4, 2, 1), (6, 5, 7)),
    "stride 1": (lambda: nn.ConvTranspose2d(6, 20, 3, 1, 1), (6, 9, 10)),
    "groups": (lambda: nn.ConvTranspose2d(6, 10, 3, 2, 1, 1, groups=2, bias=False), (6, 5, 7)),
    "depthwise": (lambda: nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6), (6, 5, 7)),
    "norm": (
        lambda: nn.Sequential(nn.ConvTranspose2d(6, 10, 3, 2, groups=2), nn.BatchNorm2d(10), nn.ReLU()),
        (6, 5, 7),
    ),
    "norm without bias": (
        lambda: nn.Sequential(nn.Conv2d(6, 6, 1), nn.ConvTranspose2d(6, 10, 3, 2, bias=False), nn.BatchNorm2d(10)),
        (6, 5, 7),
    ),
    "part of a concatenation": (UNet, (6, 8, 6)),
    "sequences": (lambda: nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(6, 20, 4, 2, 1)), (6, 3, 4)),
    "volumes": (lambda: Volumes(nn.ConvTranspose3d(4, 3, 2, 2)), (4, 6, 3)),
    "volumes with gaps": (
        lambda: Volumes(nn.ConvTranspose3d(4, 6, (1, 2, 3), 2, (0, 0, 1), 1, groups=2)),
        (4, 6, 3),
    ),
}


class TestPlans:
    @pytest.mark.parametrize("name", COMPILED)
    def test_compiled_equals_eager(self, rng, isa, threads, name):
        make, shape = COMPILED[name]
        network = randomise(make(), rng)
        plan = convlane.compile(network, (None, *shape))
        for batch in (1, 3):
            x = normal(rng, batch, *shape)
            assert_close(plan(x), network(x).astype(np.float64), terms=600, factor=WINOGRAD)

    def test_few_channels_in_a_concatenation(self, rng):
        weight = normal(rng, 6, 3, 4, 4)

        def network(x):
            return F.cat([F.conv_transpose2d(F.relu(x), weight, None, 2, 1), F.interpolate(x, scale_factor=2)])

        x = normal(rng, 2, 6, 5, 4)
        assert_close(convlane.compile(network, x.shape)(x), network(x).astype(np.float64), terms=96)

    def test_norm_and_activation_are_folded(self, rng):
        network = randomise(COMPILED["norm"][0](), rng)
        (step,) = convlane.compile(network, (1, 6, 5, 7)).describe().steps
        assert step.op == "conv_transpose2d + batch_norm + relu"
        assert (step.algorithm, step.why) == ("phases", "stride 2x2")

    @pytest.mark.parametrize("name", ["norm", "few channels"])
    def test_saved(self, rng, tmp_path, name):
        network = randomise(COMPILED[name][0](), rng)
        plan = convlane.compile(network, (None, 6, 5, 7))
        plan.save(tmp_path / "plan.safetensors")
        x = normal(rng, 2, 6, 5, 7)
        np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan.safetensors")(x), plan(x))

    def test_open_sizes(self, rng):
        network = randomise(COMPILED["norm"][0](), rng)
        plan = convlane.compile(network, (None, 6, None, None))
        for size in ((5, 7), (8, 3)):
            x = normal(rng, 2, 6, *size)
            assert_close(plan(x), network(x).astype(np.float64), terms=100)

    def test_asked_for(self, rng):
        x, weight, bias, geometry = arrays(rng, "4x4 stride 2")
        plan = convlane.compile(lambda x: F.conv_transpose2d(x, weight, bias, *geometry, algorithm="windows"), x.shape)
        assert plan.describe().steps[0].algorithm == "windows"
        assert_close(plan(x), expected_of(x, weight, bias, geometry), terms=80)

    def test_what_they_cannot_do(self, rng):
        packed = F.pack_conv_transpose2d(normal(rng, 2, 3, 2, 2))
        with pytest.raises(ValueError, match="conv_transpose2d with a packed weight"):
            convlane.compile(lambda x: F.conv_transpose2d(x, packed), (1, 2, 3, 3))


@pytest.mark.parametrize("name", ["4x4 stride 2", "dilation beyond the stride", "stride 1 cropped"])
def test_receptive_field(rng, name):
    x, weight, _, geometry = arrays(rng, name)
    layer = nn.ConvTranspose2d(x.shape[1], weight.shape[1], weight.shape[2:], *geometry[:3], dilation=geometry[4])
    layer.load_state_dict({"weight": np.abs(weight) + 1, "bias": np.ones(weight.shape[1])})
    (field,) = receptive_field(layer, x.shape).fields
    value, pullback = convlane.vjp(layer, x)
    row, column = value.shape[2] // 2, value.shape[3] // 2
    seed = np.zeros_like(value)
    seed[0, :, row, column] = 1
    rows, columns = (np.abs(pullback(seed)[0]).max((0, 1)) > 1e-3).nonzero()
    box = field.box(row, column)
    assert box == (rows.min(), rows.max(), columns.min(), columns.max())


class TestLayers:
    @pytest.mark.torch
    @pytest.mark.parametrize(
        ("make", "shape"),
        [
            (lambda nn: nn.ConvTranspose1d(6, 4, 3, 2, 1, 1, groups=2), (2, 6, 5)),
            (lambda nn: nn.ConvTranspose2d(6, 4, (3, 2), (2, 1), (1, 0), (1, 0), 2, False, (1, 2)), (2, 6, 5, 4)),
            (lambda nn: nn.ConvTranspose2d(6, 4, 4, 2, 1), (2, 6, 5, 4)),
            (lambda nn: nn.ConvTranspose3d(4, 2, 3, 2, 1, 1), (2, 4, 2, 3, 2)),
        ],
    )
    def test_they_are_torch_s(self, rng, make, shape):
        import torch

        ours, theirs = make(nn), make(torch.nn).double()
        assert repr(ours) == repr(theirs)
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: tuple(v.shape) for k, v in theirs.state_dict().items()
        }
        assert (ours.output_padding, ours.padding, ours.dilation) == (
            theirs.output_padding,
            theirs.padding,
            theirs.dilation,
        )
        theirs.load_state_dict({k: torch.tensor(v) for k, v in ours.state_dict().items()})
        x = normal(rng, *shape)
        expected = theirs(torch.tensor(x).double())
        assert_close(ours(x), expected.detach().numpy(), terms=100)
        expected.square().mean().backward()
        _, gradients = convlane.value_and_grad(lambda x: F.mean(F.square(ours(x))), ours)(x)
        for name, parameter in theirs.named_parameters():
            assert_close(gradients[name], parameter.grad.numpy(), terms=300, factor=WINOGRAD)

    @pytest.mark.torch
    def test_they_begin_as_torch_s(self):
        import torch

        ours, theirs = nn.ConvTranspose2d(40, 30, 3), torch.nn.ConvTranspose2d(40, 30, 3)
        for name, theirs_array in theirs.state_dict().items():
            array = ours.state_dict()[name]
            assert abs(array.std() / theirs_array.std().item() - 1) < 0.3
            assert np.abs(array).max() <= 1 / np.sqrt(30 * 9)

    @pytest.mark.torch
    def test_output_size(self, rng):
        import torch

        ours, theirs = nn.ConvTranspose2d(2, 3, 3, 3, 1), torch.nn.ConvTranspose2d(2, 3, 3, 3, 1)
        x = normal(rng, 1, 2, 4, 5)
        for size in ([10, 15], [1, 3, 12, 13]):
            assert ours(x, size).shape == theirs(torch.tensor(x), size[-2:]).shape
        with pytest.raises(ValueError, match=r"output_size\[1\] must be from 13 to 15 .*, got 16"):
            ours(x, [10, 16])
        with pytest.raises(ValueError, match="output_size must have 2 or 4 sizes"):
            ours(x, [10])

    def test_packed_weights_follow_the_parameter(self, rng):
        layer, x = nn.ConvTranspose1d(3, 2, 2, 2), normal(rng, 1, 3, 4)
        layer(x)
        layer.weight = np.ones((3, 2, 2), np.float32)
        assert_close(layer(x), oracle(x, layer.weight, layer.bias, 2), terms=3)

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"groups": 3}, ValueError, "groups=3 must divide in_channels=4"),
            ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1"),
            ({"kernel_size": (2, 2, 2)}, ValueError, "kernel_size must be an integer or a tuple of 2"),
            ({"stride": 1.5}, TypeError, "stride must be an integer"),
            ({"padding": -1}, ValueError, "padding must be at least 0"),
            ({"output_padding": 1}, ValueError, "output_padding must be smaller than stride or dilation"),
        ],
    )
    def test_bad_arguments(self, arguments, error, match):
        with pytest.raises(error, match=f"ConvTranspose2d: {match}"):
            nn.ConvTranspose2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **arguments})


class TestBadInput:
    X = np.zeros((1, 4, 5, 5), np.float32)
    W = np.zeros((4, 6, 3, 3), np.float32)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"input": np.zeros((1, 3, 5, 5), np.float32)}, "expects input .* to have 4 channels, but got 3"),
            ({"input": np.zeros((5, 5), np.float32)}, "got 2 dimensions"),
            ({"input": np.zeros((1, 4, 0, 5), np.float32)}, "is empty"),
            ({"weight": np.zeros((4, 6, 3), np.float32)}, "weight must be"),
            ({"weight": np.zeros((4, 0, 3, 3), np.float32)}, "weight|empty"),
            ({"weight": np.zeros((4, 6, 0, 3), np.float32)}, "kernel size must be at least 1|empty"),
            ({"bias": np.zeros(4, np.float32)}, r"bias must have shape \(6,\), got \(4,\)"),
            ({"stride": 0}, "stride must be at least 1"),
            ({"stride": (1, 2, 3)}, "stride must be an integer or a pair"),
            ({"stride": 2**61}, "overflow"),
            ({"dilation": 0}, "dilation must be at least 1"),
            ({"groups": 0}, "groups must be at least 1"),
            ({"groups": 3}, "cannot be divided"),
            ({"padding": -1}, "padding must not be negative"),
            ({"padding": (1, 2, 3)}, "padding must be"),
            ({"padding": 4}, r"output of size \(-1, -1\)"),
            ({"output_padding": 1}, "output_padding must be at least 0 and smaller than stride or dilation"),
            ({"output_padding": -1}, "output_padding must be at least 0"),
            ({"algorithm": "magic"}, "unknown algorithm 'magic'"),
            ({"algorithm": "windows", "groups": 2}, "there is more than one group"),
            ({"algorithm": "direct", "stride": 2}, r"the stride is \(2, 2\)"),
            ({"activation": "step"}, "unknown activation 'step'"),
        ],
    )
    def test_values(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            F.conv_transpose2d(**{"input": self.X, "weight": self.W, **arguments})

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"input": np.zeros((1, 4, 5, 5))}, "input must be float32"),
            ({"weight": [1.0]}, "weight must be a NumPy array"),
            ({"stride": 1.5}, "stride must be an integer"),
            ({"padding": "same"}, "padding must be an integer, a pair or four sides, got 'same'"),
        ],
    )
    def test_kinds(self, arguments, match):
        with pytest.raises(TypeError, match=match):
            F.conv_transpose2d(**{"input": self.X, "weight": self.W, **arguments})

    @pytest.mark.parametrize("op", [F.conv_transpose1d, F.conv_transpose3d])
    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"input": np.zeros((4, 5, 5, 5, 5, 5), np.float32)}, ValueError, "input must be"),
            ({"input": np.zeros((4, 0, 0, 0), np.float32)}, ValueError, "input"),
            ({"weight": np.zeros((4, 6), np.float32)}, ValueError, r"weight must be .* got shape \(4, 6\)"),
            ({"weight": [1.0]}, TypeError, "weight must be a NumPy array"),
            ({"bias": np.zeros(4, np.float32)}, ValueError, r"bias must have shape \(6,\), got \(4,\)"),
            ({"bias": np.zeros(6)}, TypeError, "bias must be float32"),
            ({"stride": (1, 2)}, ValueError, "stride must be an integer or a tuple of"),
            ({"stride": 0}, ValueError, "stride must be at least 1"),
            ({"stride": 1.5}, TypeError, "stride must be an integer"),
            ({"dilation": 0}, ValueError, "dilation must be at least 1"),
            ({"padding": -1}, ValueError, "padding must be at least 0"),
            ({"padding": 4}, ValueError, "would give an output of size"),
            ({"padding": "same"}, TypeError, "padding must be an integer"),
            ({"output_padding": 1}, ValueError, "output_padding must be at least 0 and smaller than stride"),
            ({"groups": 3}, ValueError, "cannot be divided into groups=3"),
            ({"groups": 0}, ValueError, "groups must be at least 1"),
            ({"negative_slope": "0"}, TypeError, "negative_slope must be a number"),
        ],
    )
    def test_other_ranks_name_themselves(self, op, arguments, error, match):
        axes = int(op.__name__[-2])
        given = {"input": np.zeros((4, *(5,) * axes), np.float32), "weight": np.zeros((4, 6, *(3,) * axes), np.float32)}
        with pytest.raises(error, match=f"^{op.__name__}: .*{match}"):
            op(**given | arguments)

    def test_packed_weights_of_other_ranks(self):
        packed = F.pack_conv_transpose2d(self.W)
        with pytest.raises(ValueError, match="conv_transpose1d: the weight was packed for images"):
            F.conv_transpose1d(self.X[0], packed)
        with pytest.raises(TypeError, match="conv_transpose3d: weight must be an array"):
            F.conv_transpose3d(self.X, packed)

    def test_a_stride_of_any_size_costs_no_memory(self):
        y = F.conv_transpose2d(np.ones((1, 1, 1, 1), np.float32), np.ones((1, 9, 1, 1), np.float32), stride=10**9)
        assert y.shape == (1, 9, 1, 1)
