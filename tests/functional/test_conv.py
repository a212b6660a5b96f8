"""conv2d against its oracle: every algorithm, instruction set, tile edge and layout, and bad input."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import convlane
from compare import assert_close
from convlane import _core, nn
from convlane import functional as F
from convlane.functional._op import ACTIVATIONS
from layouts import LAYOUTS
from oracles import activation as activation_oracle
from oracles import conv as oracle

ALGORITHMS = _core.conv2d_algorithms()
ROUNDING = {"winograd4": 2.5}  # relative to a direct sum


def edges(tile):
    """Sizes around a tile."""
    return sorted({1, tile - 1, tile, tile + 1, 2 * tile + 1} - {0})


def images(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def accepting(input_shape, weight_shape, **geometry):
    """Return the algorithms that can compute this convolution."""

    def refuses(name):
        try:
            convlane.explain(input_shape, weight_shape, algorithm=name, **geometry)
        except ValueError as error:
            if "cannot do this" not in str(error):
                raise
            return True
        return False

    return [name for name in ALGORITHMS if not refuses(name)]


def check_all(rng, input_shape, weight_shape, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """Every algorithm that accepts the shapes agrees with the oracle."""
    x, weight, bias = images(rng, *input_shape), images(rng, *weight_shape), images(rng, weight_shape[0])
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    expected = oracle.conv2d(x, weight, bias, **geometry)
    names = accepting(input_shape, weight_shape, **geometry)
    assert {"direct", "im2col", "reference"} <= set(names)
    for name in ["auto", *names]:
        y = F.conv2d(x, weight, bias, algorithm=name, **geometry)
        assert_close(y, expected, terms=np.prod(weight_shape[1:]), factor=ROUNDING.get(name, 1))
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous, "the output is channels last"


class TestOracle:
    @pytest.mark.parametrize("groups", [1, 2])
    def test_matrix_product_equals_the_definition(self, rng, groups):
        x, weight, bias = images(rng, 2, 4, 7, 6), images(rng, 6, 4 // groups, 3, 2), images(rng, 6)
        args = (x, weight, bias, (2, 1), (1, 0, 2, 1), (1, 2), groups)
        np.testing.assert_allclose(oracle.conv2d(*args), oracle.conv2d_loops(*args), rtol=1e-12)

    @pytest.mark.torch
    def test_agrees_with_torch(self, rng):
        import torch

        x, weight = images(rng, 2, 6, 9, 8), images(rng, 9, 2, 3, 3)
        expected = torch.nn.functional.conv2d(
            torch.from_numpy(x).double(), torch.from_numpy(weight).double(), stride=2, padding=(1, 2), groups=3
        )
        actual = oracle.conv2d(x, weight, stride=(2, 2), padding=(1, 1, 2, 2), groups=3)
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-12)


class TestTileEdges:
    def test_output_channels(self, rng, isa):
        tile = _core.tile_sizes()
        for o in edges(tile["lanes"]) + edges(tile["nr"]):
            check_all(rng, (1, 5, 4, 4), (o, 5, 3, 3), padding=(1, 1, 1, 1))

    def test_output_pixels(self, rng, isa):
        rows = _core.tile_sizes()["mr"]
        for pixels in edges(rows) + list(range(1, rows + 1)):
            check_all(rng, (1, 6, 1, pixels), (7, 6, 1, 1))
            check_all(rng, (1, 6, 3, pixels + 2), (7, 6, 3, 3))

    def test_depthwise_channels_and_pixels(self, rng, isa):
        for c in [n for n in edges(_core.tile_sizes()["lanes"]) if n > 1]:
            for width in (1, 3, 8, 9, 19):
                check_all(rng, (2, c, 5, width), (c, 1, 3, 3), padding=(1, 1, 1, 1), groups=c)

    @pytest.mark.parametrize("multiplier", [2, 3])
    @pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
    def test_depthwise_multiplier(self, rng, isa, multiplier, stride):
        check_all(rng, (2, 7, 12, 9), (7 * multiplier, 1, 3, 3), stride=stride, padding=(1, 0, 2, 1), groups=7)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (2, 3), (7, 1), (1, 4)])
def test_geometry(rng, kernel, stride, dilation, groups):
    check_all(rng, (2, 8, 14, 15), (12, 8 // groups, *kernel), stride, (2, 1, 0, 3), dilation, groups)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 5), (7, 7), (6, 23), (9, 31), (20, 11)])
@pytest.mark.parametrize("padding", ["none", "half", "more than the kernel"])
def test_depthwise_kernels(rng, isa, kernel, stride, size, padding):
    c = _core.tile_sizes()["lanes"] * 2 + 3
    p = {"none": 0, "half": kernel // 2, "more than the kernel": kernel + 1}[padding]
    size = max(kernel, size[0]), max(kernel, size[1])
    check_all(rng, (1, c, *size), (c, 1, kernel, kernel), (stride, stride), (p, p, p, p), groups=c)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (11, 4), (5, 1)])
def test_stem(rng, isa, threads, channels, kernel, stride):
    p = kernel // 2
    check_all(rng, (2, channels, 29, 31), (33, channels, kernel, kernel), (stride, stride), (p, p - 1, p - 1, p))


class TestStem:
    """Bands of rows with few channels; the columns of a dilated kernel are sorted by residue."""

    @pytest.mark.parametrize("kernel", [(3, 3), (1, 2), (4, 5)])
    @pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
    @pytest.mark.parametrize("dilation", [(1, 2), (2, 3), (3, 4), (1, 7)])
    def test_dilation(self, rng, isa, threads, kernel, stride, dilation):
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        for channels, padding in [(1, (0, 0, 0, 0)), (3, (reach[0] + 1, 0, 2, reach[1] + 2))]:
            size = max(11, reach[0] + 1), max(19, reach[1] + 1)
            check_all(rng, (2, channels, *size), (10, channels, *kernel), stride, padding, dilation)

    def test_tiles(self, rng, isa):
        tile = _core.tile_sizes()
        block = 8 * tile["mr"]
        for filters in edges(tile["lanes"]) + edges(tile["nr"]):
            check_all(rng, (1, 2, 3, 13), (filters, 2, 2, 2))
        for pixels in [*range(1, tile["mr"] + 2), block - 1, block, block + 1, 2 * block + 1]:
            check_all(rng, (1, 1, 1, pixels + 1), (tile["lanes"] + 5, 1, 1, 2))
            check_all(rng, (1, 1, 1, pixels + 1), (5, 1, 1, 2))

    @pytest.mark.parametrize("dilation", [1, 3])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout, dilation):
        x, weight = images(rng, 2, 3, 12, 17), images(rng, 6, 3, 3, 3)
        geometry = {"padding": (2, 1, 0, 3), "dilation": (dilation, dilation)}
        y = F.conv2d(LAYOUTS[layout](x), LAYOUTS[layout](weight), algorithm="stem", **geometry)
        assert_close(y, oracle.conv2d(x, weight, **geometry), terms=27)

    @pytest.mark.parametrize("name", ["none", "relu6", "silu"])
    def test_epilogue(self, rng, isa, threads, name):
        x, weight, bias, residual = (images(rng, *s) for s in ((2, 3, 9, 23), (21, 3, 3, 3), (21,), (2, 21, 9, 23)))
        y = F.conv2d(x, weight, bias, padding=1, activation=name, residual=residual, algorithm="stem")
        sums = oracle.conv2d(x, weight, bias, padding=(1, 1, 1, 1)) + residual
        assert_close(y, activation_oracle.BY_NAME.get(name, np.array)(sums), 27, scale=np.abs(sums).max())

    def test_long_sums_are_those_of_direct_convolution(self, rng, isa):
        """Sums of more than 4608 products, in blocks that end within a tap."""
        x, weight, bias = images(rng, 1, 4, 38, 40), images(rng, 9, 4, 35, 37), images(rng, 9)
        stem, direct = (F.conv2d(x, weight, bias, algorithm=name) for name in ("stem", "direct"))
        np.testing.assert_array_equal(stem, direct)

    def test_it_is_taken_where_the_kernel_is_dilated(self):
        assert convlane.explain((1, 1, 56, 56), (64, 1, 3, 3), dilation=2, padding=2).chosen == "stem"


class TestFewChannels:
    """Computation along pixels, along input channels or of several groups at once, around whole vectors and tiles."""

    @pytest.mark.parametrize("filters", [1, 2, 3, 4])
    @pytest.mark.parametrize("channels", [1, 3, 15, 16, 37])
    @pytest.mark.parametrize(
        ("kernel", "stride", "dilation"),
        [((3, 3), (1, 1), (1, 1)), ((5, 2), (2, 3), (1, 1)), ((1, 4), (1, 2), (3, 5)), ((1, 1), (3, 1), (1, 1))],
    )
    def test_outputs(self, rng, isa, filters, channels, kernel, stride, dilation):
        check_all(rng, (2, channels, 7, 41), (filters, channels, *kernel), stride, (2, 1, 0, 5), dilation)

    @pytest.mark.parametrize("width", [1, 15, 16, 17, 64, 127, 128, 129, 200])
    @pytest.mark.parametrize("filters", [1, 3])
    def test_widths(self, rng, isa, threads, width, filters):
        check_all(rng, (1, 2, 20, width), (filters, 2, 3, 3), padding=(1, 1, 1, 1))
        check_all(rng, (1, 20, 3, width), (filters, 20, 1, 3), padding=(0, 0, 1, 1))

    @pytest.mark.parametrize(("channels", "filters"), [(4, 4), (8, 8), (2, 2), (2, 3), (5, 2), (7, 5), (1, 3), (3, 1)])
    @pytest.mark.parametrize("groups", [2, 3, 9])
    def test_groups(self, rng, isa, threads, channels, filters, groups):
        shapes = (2, groups * channels, 6, 19), (groups * filters, channels, 3, 3)
        check_all(rng, *shapes, (1, 2), (1, 0, 2, 1), (1, 1), groups)
        check_all(rng, *shapes, (1, 1), (2, 2, 1, 1), (2, 3), groups)

    def test_groups_sum_in_the_order_of_direct_convolution(self, rng, isa):
        x, weight = images(rng, 1, 24, 9, 9), images(rng, 24, 4, 3, 3)
        y = [F.conv2d(x, weight, padding=1, groups=6, algorithm=name) for name in ("direct", "grouped")]
        np.testing.assert_array_equal(*y)

    @pytest.mark.parametrize("name", ["none", "relu6", "silu"])
    @pytest.mark.parametrize(
        ("channels", "groups", "algorithm"), [(3, 1, "planes"), (20, 1, "narrow"), (18, 3, "grouped")]
    )
    def test_epilogue_into_slices(self, rng, isa, threads, channels, groups, algorithm, name):
        """Residual and activation, alone and between the channels of a concatenation."""
        x, weight = images(rng, 2, channels, 6, 23), images(rng, 3, channels // groups, 3, 3)
        bias, residual = images(rng, 3), images(rng, 2, 3, 6, 23)
        options = {"padding": 1, "groups": groups, "algorithm": algorithm, "activation": name}

        def network(x):
            y = F.conv2d(x, weight, bias, residual=residual, **options)
            return F.cat([y, F.conv2d(x, weight, bias, **options), y])

        sums = oracle.conv2d(x, weight, bias, padding=(1, 1, 1, 1), groups=groups)
        f = activation_oracle.BY_NAME.get(name, np.array)
        expected = np.concatenate([f(sums + residual), f(sums), f(sums + residual)], 1)
        assert_close(network(x), expected, weight[0].size, scale=np.abs(sums + residual).max())
        layer = nn.Conv2d(channels, 3, 3, padding=1, groups=groups)
        layer.weight, layer.bias = weight, bias
        plan = convlane.compile(lambda x: F.cat([layer.eval()(x), x, F.relu(layer(x))]), x.shape, winograd=False)
        y = F.conv2d(x, weight, bias, padding=1, groups=groups)
        np.testing.assert_array_equal(plan(x), np.concatenate([y, x, np.maximum(y, 0)], 1))
        assert [choice.algorithm for choice in plan._choices if choice.algorithm] == [algorithm] * 2

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        x, weight, bias = images(rng, 2, 3, 8, 19), images(rng, 2, 3, 3, 3), images(rng, 2)
        expected = oracle.conv2d(x, weight, bias, stride=(1, 2))
        assert_close(F.conv2d(LAYOUTS[layout](x), LAYOUTS[layout](weight), bias, stride=(1, 2)), expected, terms=27)

    @pytest.mark.parametrize(
        ("x_shape", "weight_shape", "groups", "name"),
        [
            ((1, 1, 30, 30), (1, 1, 5, 5), 1, "planes"),
            ((1, 64, 9, 9), (3, 64, 9, 9), 1, "narrow"),
            ((1, 128, 9, 9), (128, 4, 3, 3), 32, "grouped"),
            ((1, 128, 9, 9), (128, 1, 3, 3), 128, "depthwise"),
            ((1, 96, 9, 9), (96, 12, 3, 3), 8, "direct"),
        ],
    )
    def test_what_is_taken(self, x_shape, weight_shape, groups, name):
        assert convlane.explain(x_shape, weight_shape, groups=groups).chosen == name

    def test_refusals(self):
        for shapes, groups, message in [
            (((1, 8, 9, 9), (8, 8, 3, 3)), 1, "grouped: no, there is only one group"),
            (((1, 32, 9, 9), (32, 16, 3, 3)), 2, "grouped: no, a group has 16 channels, more than 8"),
            (((1, 8, 9, 9), (8, 8, 3, 3)), 1, "narrow: no, there are 8 output channels, more than 4"),
            (((1, 16, 9, 9), (2, 16, 3, 3)), 1, "planes: no, there are 16 input channels, more than 15"),
            (((1, 8, 9, 9), (2, 4, 3, 3)), 2, "narrow: no, there is more than one group"),
        ]:
            assert message in str(convlane.explain(*shapes, groups=groups, algorithm="direct"))


class TestWinograd:
    """The rounding, the borders and both schedules of Winograd's algorithm."""

    @pytest.mark.parametrize("channels", [64, 512])
    @pytest.mark.parametrize(("name", "bound"), [("winograd2", 1.25), ("winograd4", 2.5)])
    def test_error_against_a_direct_sum(self, rng, isa, channels, name, bound):
        x = np.maximum(images(rng, 1, channels, 16, 16), 0)
        weight = images(rng, 32, channels, 3, 3) * np.float32(np.sqrt(2 / (9 * channels)))
        exact = oracle.conv2d(x, weight, padding=(1, 1, 1, 1))

        def rms_error(algorithm):
            return np.sqrt(np.mean((F.conv2d(x, weight, padding=1, algorithm=algorithm) - exact) ** 2))

        assert rms_error(name) <= bound * rms_error("direct")

    @pytest.mark.parametrize("name", ["winograd2", "winograd4"])
    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 9), (7, 7), (14, 14), (8, 33)])
    def test_borders(self, rng, isa, threads, name, size):
        lanes = _core.tile_sizes()["lanes"]
        for padding in [(1, 1, 1, 1), (0, 2, 1, 3), (2, 2, 2, 2)]:
            if size[0] + padding[0] + padding[1] < 3 or size[1] + padding[2] + padding[3] < 3:
                continue
            x, weight = images(rng, 2, lanes + 3, *size), images(rng, 2 * lanes + 5, lanes + 3, 3, 3)
            y = F.conv2d(x, weight, padding=padding, algorithm=name)
            expected = oracle.conv2d(x, weight, padding=padding)
            assert_close(y, expected, terms=weight[0].size, factor=ROUNDING.get(name, 1))

    @pytest.mark.parametrize(("channels", "filters", "size"), [(24, 40, 40), (352, 352, 20)])
    @pytest.mark.parametrize("name", ["winograd2", "winograd4"])
    def test_blocks_and_streamed_weights(self, rng, channels, filters, size, name):
        x, weight, bias = (
            images(rng, 2, channels, size, size),
            images(rng, filters, channels, 3, 3),
            images(rng, filters),
        )
        with convlane.num_threads(1):
            whole = F.conv2d(x, weight, bias, padding=1, algorithm=name)
        assert_close(whole, oracle.conv2d(x, weight, bias, padding=(1, 1, 1, 1)), 9 * channels, ROUNDING.get(name, 1))
        with convlane.num_threads(3):
            np.testing.assert_array_equal(F.conv2d(x, weight, bias, padding=1, algorithm=name), whole)
        np.testing.assert_array_equal(F.conv2d(x[1:], weight, bias, padding=1, algorithm=name), whole[1:])

    @pytest.mark.parametrize("name", ["winograd2", "winograd4"])
    @pytest.mark.parametrize(
        ("size", "dilation"), [((1, 1), 3), ((5, 9), 2), ((14, 13), 4), ((19, 33), 3), ((9, 9), 12)]
    )
    def test_dilation(self, rng, isa, threads, name, size, dilation):
        """Phases with and without one more output, with whole and with partial tiles; residual and activation."""
        o, c = 2 * _core.tile_sizes()["lanes"] + 5, 11
        x, weight, bias = images(rng, 2, c, *size), images(rng, o, c, 3, 3), images(rng, o)
        padding = (dilation, dilation + 1, dilation - 1, dilation + 2)
        expected = oracle.conv2d(x, weight, bias, padding=padding, dilation=(dilation, dilation))
        residual = images(rng, *expected.shape)
        arguments = {"padding": padding, "dilation": dilation, "algorithm": name}
        y = F.conv2d(x, weight, bias, residual=residual, activation="silu", **arguments)
        sums = expected + residual
        silu = sums / (1 + np.exp(-sums))
        assert_close(y, silu, 9 * c, ROUNDING.get(name, 1), scale=np.abs(sums).max())
        np.testing.assert_array_equal(
            F.conv2d(x[1:], weight, bias, residual=residual[1:], activation="silu", **arguments), y[1:]
        )

    @pytest.mark.parametrize("name", ["winograd2", "winograd4"])
    @pytest.mark.parametrize(
        ("groups", "inputs", "outputs"),
        [
            (3, 1, 2),
            (5, 3, 1),
            (33, 4, 4),
            (9, 7, 5),
            (2, 2, 9),
            (13, 8, 8),
            (7, 12, 20),
            (3, 16, 16),
            (4, 24, 24),
            (2, 40, 70),
        ],
    )
    def test_groups(self, rng, isa, threads, name, groups, inputs, outputs):
        """Groups side by side in vectors, the last one partly filled, or in panels of their own; parts and blocks."""
        o, c = groups * outputs, groups * inputs
        x, weight, bias = images(rng, 2, c, 26, 37), images(rng, o, inputs, 3, 3), images(rng, o)
        expected = oracle.conv2d(x, weight, bias, padding=(1, 0, 2, 1), groups=groups)
        residual = images(rng, *expected.shape)
        arguments = {"padding": (1, 0, 2, 1), "groups": groups, "algorithm": name}
        for array in LAYOUTS.values() if groups == 9 else [np.asarray]:
            y = F.conv2d(array(x), weight, bias, residual=residual, activation="relu", **arguments)
            sums = expected + residual
            assert_close(y, np.maximum(sums, 0), 9 * inputs, ROUNDING.get(name, 1), scale=np.abs(sums).max())
        alone = F.conv2d(x[1:], weight, bias, residual=residual[1:], activation="relu", **arguments)
        np.testing.assert_array_equal(alone, y[1:])

    @pytest.mark.parametrize("name", ["winograd2", "winograd4"])
    def test_groups_do_not_depend_on_threads(self, rng, isa, name):
        x, weight = images(rng, 1, 160, 9, 9), images(rng, 160, 8, 3, 3)
        with convlane.num_threads(1):
            one = F.conv2d(x, weight, padding=1, groups=20, algorithm=name)
        with convlane.num_threads(3):
            np.testing.assert_array_equal(F.conv2d(x, weight, padding=1, groups=20, algorithm=name), one)

    @pytest.mark.parametrize(
        ("inputs", "groups", "size", "name"),
        [(24, 3, 56, "winograd4"), (8, 32, 56, "winograd4"), (40, 6, 28, "winograd4"), (2, 16, 56, "grouped")],
    )
    def test_groups_take_it_where_it_pays(self, isa, inputs, groups, size, name):
        channels = inputs * groups
        geometry = _core.Conv2dGeometry(
            (1, channels, size, size), (channels, inputs, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), groups
        )
        assert geometry.cheapest(True) == name
        assert geometry.cheapest(False) == ("direct" if inputs > 8 else "grouped")
        assert set(geometry.candidates(True)) == {"winograd4", "winograd2", geometry.cheapest(False)}

    def test_dilations_that_differ_are_refused(self):
        with pytest.raises(ValueError, match=r"the dilation is \(2, 3\), not equal in height and width"):
            F.explain((1, 8, 9, 9), (8, 8, 3, 3), dilation=(2, 3), algorithm="winograd4")

    @pytest.mark.parametrize(
        ("size", "dilation", "name"), [(33, 24, "direct"), (65, 2, "winograd4"), (33, 4, "winograd4"), (1, 1, "direct")]
    )
    def test_it_is_taken_where_it_saves_products(self, size, dilation, name):
        sides = (dilation,) * 4
        shapes = (1, 512, size, size), (512, 512, 3, 3)
        assert _core.Conv2dGeometry(*shapes, (1, 1), sides, (dilation, dilation), 1).cheapest(True) == name


class TestTapsInThePadding:
    """Taps that fall into the padding for all pixels of a register tile are skipped; that changes no bit."""

    @pytest.mark.parametrize(
        ("size", "kernel", "dilation", "channels"),
        [
            ((13, 29), (3, 3), 12, 40),
            ((33, 7), (3, 3), 24, 40),
            ((9, 9), (5, 5), 3, 40),
            ((1, 1), (3, 3), 1, 64),
            ((2, 2), (3, 3), 1, 64),
            ((1, 40), (1, 9), 5, 130),
            ((5, 6), (3, 3), 4, 1100),  # sums in blocks that begin within a tap
            ((1, 1), (3, 3), 1, 1100),
        ],
    )
    def test_sizes(self, rng, isa, threads, size, kernel, dilation, channels):
        o = _core.tile_sizes()["nr"] + 5
        x, weight, bias = images(rng, 3, channels, *size), images(rng, o, channels, *kernel), images(rng, o)
        padding = tuple(dilation * (k // 2) for k in kernel for _ in range(2))
        geometry = {"padding": padding, "dilation": (dilation, dilation)}
        expected = oracle.conv2d(x, weight, bias, **geometry)
        y = F.conv2d(x, weight, bias, algorithm="direct", **geometry)
        assert_close(y, expected, weight[0].size)
        np.testing.assert_array_equal(F.conv2d(x[1:2], weight, bias, algorithm="direct", **geometry), y[1:2])
        with convlane.num_threads(2):
            np.testing.assert_array_equal(F.conv2d(x, weight, bias, algorithm="direct", **geometry), y)
        # The same sums over explicit zeros, without padding.
        t, b, left, right = padding
        wide = np.pad(x, ((0, 0), (0, 0), (t, b), (left, right)))
        np.testing.assert_array_equal(F.conv2d(wide, weight, bias, dilation=dilation, algorithm="direct"), y)

    def test_outputs_that_see_nothing_else_are_the_bias(self, rng, isa):
        x, weight, bias = images(rng, 1, 40, 2, 2), images(rng, 40, 40, 1, 1), images(rng, 40)
        y = F.conv2d(x, weight, bias, padding=9, algorithm="direct")
        np.testing.assert_array_equal(y[0, :, :9], np.broadcast_to(bias[:, None, None], (40, 9, 20)))
        assert_close(y, oracle.conv2d(x, weight, bias, padding=(9, 9, 9, 9)), 40)


class TestRowsThatShareCacheSets:
    """Pixels 4 KB apart are copied if a register tile has more rows than a cache set has ways; no bit differs."""

    @pytest.mark.parametrize(
        ("channels", "kernel", "stride", "padding", "size"),
        [
            (1024, 1, 1, 0, (5, 7)),
            (1024, 1, 1, 1, (3, 4)),  # some of the rows are padding
            (512, 1, 2, 0, (11, 9)),
            (512, 3, 2, 1, (9, 11)),
            (1024, 3, 1, 0, (6, 7)),
            (5120, 1, 1, 0, (4, 5)),  # sums in blocks
        ],
    )
    def test_sizes(self, rng, isa, threads, channels, kernel, stride, padding, size):
        o = 8 * _core.tile_sizes()["nr"] + 1
        x, weight, bias = images(rng, 2, channels, *size), images(rng, o, channels, kernel, kernel), images(rng, o)
        geometry = {"stride": (stride, stride), "padding": padding, "algorithm": "direct"}
        y = F.conv2d(x, weight, bias, **geometry)
        expected = oracle.conv2d(x, weight, bias, stride=(stride, stride), padding=(padding,) * 4)
        assert_close(y, expected, weight[0].size)
        np.testing.assert_array_equal(F.conv2d(x[1:], weight, bias, **geometry), y[1:])
        # For so few outputs no rows are copied.
        np.testing.assert_array_equal(F.conv2d(x, weight[:8], bias[:8], **geometry), y[:, :8])


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [((5, 10), (2, 2), 1), ((3, 3), (1, 1), 2), ((1, 7), (1, 3), 1)]
)
def test_rows_of_taps_without_padding(rng, isa, threads, kernel, stride, dilation):
    """Where no column of a window is in the padding, a row of taps is one run; the order of the sums is the same."""
    o = _core.tile_sizes()["nr"] + 3
    x, weight = images(rng, 2, 6, 13, 31), images(rng, o, 6, *kernel)
    geometry = {"stride": stride, "dilation": (dilation, 1)}
    y = F.conv2d(x, weight, padding=(2, 1, 0, 0), algorithm="direct", **geometry)
    assert_close(y, oracle.conv2d(x, weight, padding=(2, 1, 0, 0), **geometry), weight[0].size)
    np.testing.assert_array_equal(F.conv2d(x, weight, padding=(2, 1, 0, 0), algorithm="im2col", **geometry), y)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_shapes(data):
    draw = data.draw
    sizes = st.integers(1, 4)
    groups, per_group, filters = draw(sizes), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kernel, stride, dilation = (draw(st.tuples(sizes, sizes)) for _ in range(3))
    padding = draw(st.tuples(*[st.integers(0, 5)] * 4))
    reach = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    height = draw(st.integers(max(1, reach[0] - padding[0] - padding[1]), 16))
    width = draw(st.integers(max(1, reach[1] - padding[2] - padding[3]), 16))
    shape = (draw(st.integers(0, 3)), groups * per_group, max(height, 1), max(width, 1))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    check_all(rng, shape, (groups * filters, per_group, *kernel), stride, padding, dilation, groups)


class TestEpilogue:
    @pytest.mark.parametrize("name", ["none", *activation_oracle.BY_NAME])
    @pytest.mark.parametrize("residual", [False, True])
    @pytest.mark.parametrize("groups", [1, 10])
    def test_bias_residual_activation(self, rng, isa, name, residual, groups):
        x, weight, bias = images(rng, 2, 10, 6, 7), images(rng, 40, 10 // groups, 3, 3), images(rng, 40)
        r = images(rng, 2, 40, 4, 5) * 3 if residual else None
        sums = oracle.conv2d(x, weight, bias, groups=groups) + (r if residual else 0)
        expected = activation_oracle.with_number(name, 0.3)(sums) if name != "none" else sums
        applied = activation_oracle.fused(name, 0.3)
        for algorithm in accepting(x.shape, weight.shape, groups=groups):
            y = F.conv2d(x, weight, bias, groups=groups, residual=r, algorithm=algorithm, **applied)
            factor = ROUNDING.get(algorithm, 1)
            assert_close(y, expected, terms=weight[0].size, factor=factor, scale=np.abs(sums).max())

    def test_residual_in_any_layout(self, rng):
        x, weight, r = images(rng, 1, 5, 6, 6), images(rng, 8, 5, 1, 1), images(rng, 1, 8, 6, 6)
        expected = oracle.conv2d(x, weight) + r
        for layout in LAYOUTS.values():
            assert_close(F.conv2d(x, weight, residual=layout(r)), expected, terms=5)

    def test_leaky_slope(self, rng):
        x, weight = images(rng, 1, 3, 5, 5), images(rng, 4, 3, 1, 1)
        y = oracle.conv2d(x, weight)
        actual = F.conv2d(x, weight, activation="leaky_relu", negative_slope=0.3)
        assert_close(actual, np.where(y > 0, y, np.float32(0.3) * y), terms=3)


class TestPadding:
    @pytest.mark.parametrize("size", [5, 6, 7, 8])
    @pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("stride", [1, 2, 3])
    def test_tensorflow_same(self, rng, size, kernel, stride):
        x, weight = images(rng, 1, 2, size, size), images(rng, 3, 2, kernel, kernel)
        out = -(-size // stride)
        total = max((out - 1) * stride + kernel - size, 0)
        sides = (total // 2, total - total // 2) * 2
        y = F.conv2d(x, weight, stride=stride, padding="same_tf")
        assert y.shape[2:] == (out, out)
        assert_close(y, oracle.conv2d(x, weight, stride=(stride, stride), padding=sides), terms=weight[0].size)

    @pytest.mark.torch
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
    @pytest.mark.parametrize("kernel", [(2, 3), (4, 4), (5, 2)])
    def test_torch_same(self, rng, kernel):
        import torch

        x, weight = images(rng, 1, 2, 9, 8), images(rng, 3, 2, *kernel)
        y = F.conv2d(x, weight, padding="same", dilation=2)
        expected = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, weight)), padding="same", dilation=2)
        assert_close(y, expected.numpy().astype(np.float64), terms=weight[0].size)

    def test_valid_pair_and_sides(self, rng):
        x, weight = images(rng, 1, 2, 9, 8), images(rng, 3, 2, 3, 3)
        np.testing.assert_array_equal(F.conv2d(x, weight, padding="valid"), F.conv2d(x, weight))
        np.testing.assert_array_equal(F.conv2d(x, weight, padding=(1, 2)), F.conv2d(x, weight, padding=(1, 1, 2, 2)))


class TestTextbook:
    def test_size_of_a_small_example(self, rng):
        y = F.conv2d(images(rng, 1, 4, 11, 11), images(rng, 2, 4, 5, 5), stride=2)
        assert y.shape == (1, 2, 4, 4)

    def test_vertical_edge(self):
        image = np.zeros((1, 1, 6, 6), np.float32)
        image[..., :3] = 10
        filter = np.array([[1, 0, -1]] * 3, np.float32)[None, None]
        np.testing.assert_array_equal(F.conv2d(image, filter)[0, 0], [[0, 30, 30, 0]] * 4)


class TestSameBits:
    @pytest.mark.parametrize(
        ("input_shape", "weight_shape", "geometry"),
        [
            ((5, 20, 9, 9), (37, 20, 3, 3), {"padding": 1}),
            ((5, 64, 7, 7), (130, 64, 1, 1), {}),
            ((5, 3, 33, 33), (24, 3, 3, 3), {"stride": 2}),
            ((5, 40, 13, 13), (40, 1, 5, 5), {"groups": 40, "padding": 2}),
            ((5, 24, 23, 21), (24, 4, 3, 3), {"groups": 6, "padding": 1}),
            ((5, 40, 23, 21), (3, 40, 3, 3), {"padding": 1}),
            ((5, 3, 43, 41), (2, 3, 3, 3), {"padding": 1, "stride": 2}),
        ],
    )
    def test_for_any_batch_split_and_thread_count(self, rng, isa, input_shape, weight_shape, geometry):
        x, weight, bias = images(rng, *input_shape), images(rng, *weight_shape), images(rng, weight_shape[0])
        with convlane.num_threads(1):
            whole = F.conv2d(x, weight, bias, **geometry)
        for count in (2, 3, 7):
            with convlane.num_threads(count):
                np.testing.assert_array_equal(F.conv2d(x, weight, bias, **geometry), whole)
        for split in (1, 2, 3):
            parts = [F.conv2d(x[i : i + split], weight, bias, **geometry) for i in range(0, len(x), split)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)

    def test_direct_stem_and_im2col_sum_in_the_same_order(self, rng, isa):
        x, weight = images(rng, 1, 3, 20, 20), images(rng, 17, 3, 5, 5)
        for geometry in ({"padding": 2}, {"padding": 3, "dilation": (2, 3), "stride": (1, 2)}):
            direct = F.conv2d(x, weight, algorithm="direct", **geometry)
            for name in ("stem", "im2col"):
                np.testing.assert_array_equal(F.conv2d(x, weight, algorithm=name, **geometry), direct)


class TestArrays:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        x, weight, bias = images(rng, 2, 7, 8, 9), images(rng, 5, 7, 3, 3), images(rng, 5)
        expected = oracle.conv2d(x, weight, bias)
        before = x.copy(), weight.copy()
        y = F.conv2d(LAYOUTS[layout](x), LAYOUTS[layout](weight), LAYOUTS[layout](bias))
        assert_close(y, expected, terms=weight[0].size)
        np.testing.assert_array_equal(x, before[0])
        np.testing.assert_array_equal(weight, before[1])

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_picture_layouts_in_the_stem(self, rng, layout):
        x, weight = images(rng, 2, 3, 18, 19), images(rng, 5, 3, 7, 7)
        assert_close(F.conv2d(LAYOUTS[layout](x), weight, stride=2), oracle.conv2d(x, weight, stride=(2, 2)), terms=147)

    def test_broadcast(self, rng):
        x = np.broadcast_to(images(rng, 1, 1, 1, 6), (2, 5, 7, 6))
        weight = np.broadcast_to(images(rng, 1, 1, 1, 1), (4, 5, 3, 3))
        assert_close(F.conv2d(x, weight), oracle.conv2d(x, weight), terms=45)

    def test_picture_as_a_view(self, rng):
        picture = images(rng, 12, 10, 3)
        weight = images(rng, 4, 3, 3, 3)
        expected = oracle.conv2d(np.ascontiguousarray(picture.transpose(2, 0, 1)[None]), weight)
        assert_close(F.conv2d(picture.transpose(2, 0, 1)[None], weight), expected, terms=27)

    def test_half_precision_is_cast_up(self, rng):
        x, weight = images(rng, 1, 4, 5, 5).astype(np.float16), images(rng, 3, 4, 3, 3).astype(np.float16)
        assert_close(F.conv2d(x, weight), oracle.conv2d(x, weight), terms=36)

    @pytest.mark.torch
    def test_torch_channels_last_tensor(self, rng):
        import torch

        x, weight = images(rng, 1, 4, 5, 5), images(rng, 3, 4, 3, 3)
        tensor = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        assert_close(F.conv2d(tensor, torch.from_numpy(weight)), oracle.conv2d(x, weight), terms=36)

    def test_single_image(self, rng):
        x, weight = images(rng, 1, 4, 6, 6), images(rng, 3, 4, 3, 3)
        np.testing.assert_array_equal(F.conv2d(x[0], weight), F.conv2d(x, weight)[0])

    def test_packed_weights(self, rng, isa):
        x, weight = images(rng, 1, 8, 6, 6), images(rng, 6, 4, 3, 3)
        packed = F.pack_conv2d(weight, 2)
        assert packed.shape == weight.shape
        assert packed.isa == isa
        np.testing.assert_array_equal(F.conv2d(x, packed), F.conv2d(x, weight, groups=2))

    def test_packed_weights_survive_a_switch_of_instruction_set(self, rng):
        x, weight = images(rng, 1, 8, 6, 6), images(rng, 6, 8, 3, 3)
        before = _core.active_isa()
        for packed_for in _core.supported_isas():
            _core.set_active_isa(packed_for)
            packed = F.pack_conv2d(weight)
            for active in _core.supported_isas():
                _core.set_active_isa(active)
                assert_close(F.conv2d(x, packed), oracle.conv2d(x, weight), terms=72)
        _core.set_active_isa(before)


class TestSpecialValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if "winograd" not in name])
    def test_reach_exactly_the_windows_that_touch_them(self, rng, isa, value, algorithm):
        shapes = {
            "pointwise": ((1, 19, 9, 9), (21, 19, 1, 1), 1),
            "depthwise": ((1, 19, 9, 9), (19, 1, 3, 3), 19),
            "stem": ((1, 3, 9, 9), (21, 3, 3, 3), 1),
            "planes": ((1, 5, 9, 9), (3, 5, 3, 3), 1),
            "narrow": ((1, 19, 9, 9), (3, 19, 3, 3), 1),
            "grouped": ((1, 21, 9, 9), (14, 3, 3, 3), 7),
        }
        input_shape, weight_shape, groups = shapes.get(algorithm, ((1, 19, 9, 9), (21, 19, 3, 3), 1))
        x, weight = np.abs(images(rng, *input_shape)), np.abs(images(rng, *weight_shape))
        x[0, 2, 4, 5] = value
        y = F.conv2d(x, weight, groups=groups, algorithm=algorithm)
        expected = oracle.conv2d(x, weight, groups=groups)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(y), np.isinf(expected))

    @pytest.mark.parametrize("m", [2, 4])
    def test_spread_over_a_winograd_tile_at_most(self, rng, isa, m):
        x, weight = images(rng, 1, 19, 16, 16), images(rng, 21, 19, 3, 3)
        x[0, 2, 5, 6] = np.nan
        y = F.conv2d(x, weight, padding=1, algorithm=f"winograd{m}")
        touched = np.zeros((16, 16), bool)
        touched[4:7, 5:8] = True
        tiles = np.zeros((16, 16), bool)
        for i, j in np.argwhere(touched):
            tiles[i // m * m : (i // m + 1) * m, j // m * m : (j // m + 1) * m] = True
        assert np.isnan(y[0, :, touched]).all()
        assert np.isfinite(y[0, :, ~tiles]).all()

    def test_relu_keeps_nan(self, isa):
        x = np.full((1, 1, 1, 1), np.nan, np.float32)
        for name in (*ACTIVATIONS, "gelu_tanh"):
            assert np.isnan(F.conv2d(x, np.ones((1, 1, 1, 1), np.float32), activation=name)).all(), name

    def test_denormals_are_kept(self, isa):
        x = np.full((1, 2, 3, 3), 9.99e-41, np.float32)
        y = F.conv2d(x, np.ones((1, 2, 1, 1), np.float32))
        np.testing.assert_array_equal(y, np.full((1, 1, 3, 3), x[0, 0, 0, 0] * 2))


def test_explain_names_the_choice_and_the_refusals():
    explanation = convlane.explain((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)
    assert explanation.chosen == "stem"
    assert list(explanation.refusals) == ["pointwise", "depthwise", "planes", "narrow", "grouped"]
    assert "(7, 7)" in explanation.refusals["pointwise"]
    assert convlane.explain((1, 32, 9, 9), (32, 1, 3, 3), groups=32).chosen == "depthwise"
    assert convlane.explain((1, 32, 9, 9), (8, 32, 1, 1)).chosen == "pointwise"
    assert convlane.explain((1, 32, 9, 9), (8, 32, 1, 1), padding=1).chosen == "direct"


class TestBadInput:
    X = np.zeros((1, 4, 8, 8), np.float32)
    W = np.zeros((6, 4, 3, 3), np.float32)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"input": np.zeros((1, 3, 8, 8), np.float32)}, "expected input .* to have 4 channels, but got 3"),
            ({"input": np.zeros((1, 0, 8, 8), np.float32)}, "to have 4 channels, but got 0"),
            ({"input": np.zeros((8, 8), np.float32)}, "got 2 dimensions"),
            ({"input": np.zeros((1, 4, 8, 8, 1), np.float32)}, "got 5 dimensions"),
            ({"input": np.zeros((1, 4, 0, 8), np.float32)}, r"\(0, 8\).*smaller than the kernel's reach \(3, 3\)"),
            ({"input": np.zeros((1, 4, 2, 8), np.float32)}, r"\(2, 8\).*smaller than the kernel's reach \(3, 3\)"),
            ({"weight": np.zeros((0, 4, 3, 3), np.float32)}, "empty"),
            ({"weight": np.zeros((6, 4, 0, 3), np.float32)}, "empty"),
            ({"weight": np.zeros((6, 4, 3), np.float32)}, "weight must be"),
            ({"bias": np.zeros(5, np.float32)}, r"bias must have shape \(6,\), got \(5,\)"),
            ({"bias": np.zeros((6, 1), np.float32)}, r"bias must have shape"),
            ({"stride": 0}, "stride must be at least 1"),
            ({"stride": -1}, "stride must be at least 1"),
            ({"stride": (1, 2, 3)}, "stride must be an integer or a pair"),
            ({"stride": 2**63}, "stride is out of range"),
            ({"dilation": 0}, "dilation must be at least 1"),
            ({"dilation": 2**61}, "overflow|smaller than"),
            ({"groups": 0}, "groups must be at least 1|cannot be divided"),
            ({"groups": 4}, "cannot be divided"),
            ({"groups": 2}, "to have 8 channels, but got 4"),
            ({"padding": -1}, "padding must not be negative"),
            ({"padding": (1, 2, 3)}, "padding must be"),
            ({"padding": 2**31}, "overflow"),
            ({"padding": 2**61}, "overflow"),
            ({"padding": "mirror"}, "'same', 'same_tf' or 'valid'"),
            ({"padding": "same", "stride": 2}, "needs stride 1"),
            ({"algorithm": "magic"}, "unknown algorithm 'magic'"),
            ({"algorithm": "pointwise"}, "the kernel is"),
            ({"activation": "step"}, "unknown activation 'step'"),
            ({"residual": np.zeros((1, 6, 8, 8), np.float32)}, r"residual has shape \(1, 6, 8, 8\).*\(1, 6, 6, 6\)"),
        ],
    )
    def test_values(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            F.conv2d(**{"input": self.X, "weight": self.W, **arguments})

    @pytest.mark.parametrize(
        "dtype", [np.float64, np.int32, np.uint8, np.bool_, np.complex64, object, [("a", np.float32)]]
    )
    def test_kinds_of_numbers(self, dtype):
        with pytest.raises(TypeError, match=r"must be float32.*astype\(np.float32\)"):
            F.conv2d(self.X.astype(np.float32).astype(dtype), self.W)
        with pytest.raises(TypeError, match="weight must be float32"):
            F.conv2d(self.X, np.zeros(self.W.shape, dtype))

    @pytest.mark.parametrize("value", [None, 3.0, [[1.0]], "image", np.float32(1)])
    def test_kinds_of_things(self, value):
        with pytest.raises(TypeError, match="input must be a NumPy array"):
            F.conv2d(value, self.W)

    @pytest.mark.parametrize("name", ["stride", "dilation", "padding", "groups"])
    def test_fractions(self, name):
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            F.conv2d(self.X, self.W, **{name: 1.5})

    def test_masked_arrays(self):
        with pytest.raises(TypeError, match="mask would be lost"):
            F.conv2d(np.ma.masked_array(self.X, self.X == 0), self.W)

    def test_out_of_memory(self):
        view = np.broadcast_to(np.float32(1), (1 << 20, 4, 1 << 10, 1 << 10))
        with pytest.raises(MemoryError):
            F.conv2d(view, np.zeros((64, 4, 1, 1), np.float32))

    def test_packed_for_another_algorithm(self):
        packed = F.pack_conv2d(self.W, algorithm="reference")
        with pytest.raises(ValueError, match="packed for another algorithm"):
            F.conv2d(self.X, packed, algorithm="direct")

    def test_groups_of_packed_weights(self):
        with pytest.raises(ValueError, match="packed for groups=1"):
            F.conv2d(self.X, F.pack_conv2d(self.W), groups=2)

    def test_empty_batch(self, isa):
        for algorithm in ("auto", "direct", "im2col", "reference"):
            assert F.conv2d(self.X[:0], self.W, algorithm=algorithm).shape == (0, 6, 6, 6)


@pytest.mark.parametrize("algorithm", ["direct", "reference"])
def test_byte_offsets_beyond_32_bits(algorithm):
    memory = np.zeros((1, 1, 2, 1 << 30), np.float32)  # 8 GiB of untouched, hence unreserved, pages
    memory[0, 0, 1, -(1 << 20)] = 5
    y = F.conv2d(memory[..., :: 1 << 20], np.full((1, 1, 1, 1), 3, np.float32), algorithm=algorithm)
    assert y.shape == (1, 1, 2, 1 << 10)
    assert y[0, 0, 1, -1] == 15
    assert np.count_nonzero(y) == 1


@pytest.mark.parametrize("groups", [0, -1])
def test_groups_are_at_least_one(groups):
    x, weight = np.zeros((1, 4, 3, 3), np.float32), np.zeros((4, 4, 1, 1), np.float32)
    for call in (
        lambda: F.conv2d(x, weight, groups=groups),
        lambda: convlane.vjp(lambda x: F.conv2d(x, weight, groups=groups), x),
        lambda: F.pack_conv2d(weight, groups),
        lambda: F.explain(x.shape, weight.shape, groups=groups),
    ):
        with pytest.raises(ValueError, match=f"conv2d: groups must be at least 1, got {groups}"):
            call()


@pytest.mark.parametrize("stride", [9, 2**40, 2**61])
@pytest.mark.parametrize("algorithm", ["auto", "planes", "direct", "im2col", "stem", "narrow", "reference"])
def test_strides_beyond_the_input(stride, algorithm, rng):
    """There is one window; buffers as long as the stride would be too large, and arithmetic with it would overflow."""
    x, weight = rng.standard_normal((2, 1, 5, 6), np.float32), rng.standard_normal((3, 1, 3, 3), np.float32)
    y = F.conv2d(x, weight, stride=stride, padding=1, algorithm=algorithm)
    np.testing.assert_allclose(
        y, F.conv2d(x[:, :, :2, :2], weight, stride=3, padding=(1, 0, 1, 0)), rtol=1e-5, atol=1e-6
    )
