"""Gradients of convolution and of linear layers against their oracles, and against torch's."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import ACTIVATIONS, rules, signature_of
from gradients import kept_arrays
from layouts import LAYOUTS
from oracles import conv as oracle
from oracles.activation import ARGUMENTS

WINOGRAD = 2.5  # its rounding relative to a direct sum


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def channels_last(array):
    return LAYOUTS["channels_last"](array)


def edges(tile):
    """Sizes around a tile."""
    return sorted({1, tile - 1, tile, tile + 1, 2 * tile + 1} - {0})


def assert_sums_close(actual, expected, terms, factor=1):
    """Compare sums of products of standard normals; single results may cancel, so their size is not the scale."""
    assert_close(actual, expected, terms, factor, scale=max(np.abs(expected).max(initial=0), math.sqrt(terms)))


def check(rng, x_shape, weight_shape, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """Check that all gradients of one convolution agree with the oracle."""
    x, weight = channels_last(normal(rng, *x_shape)), normal(rng, *weight_shape)
    geometry = (stride, padding, dilation, groups)
    gradient = channels_last(normal(rng, *_core.conv2d_shape(x_shape, weight_shape, *geometry)))
    dx = _core.conv2d_input_gradient(gradient, weight, x_shape, *geometry)
    terms = math.prod(weight_shape) // weight_shape[1] // groups
    winograd = weight_shape[2:] == (3, 3) and stride == (1, 1) and groups == 1
    expected = oracle.conv2d_input_gradient(gradient, weight, x_shape, *geometry)
    assert_sums_close(dx, expected, terms=terms, factor=WINOGRAD if winograd else 1)
    assert dx.transpose(0, 2, 3, 1).flags.c_contiguous, "images are channels last"
    dw = _core.conv2d_weight_gradient(gradient, x, weight_shape, *geometry)
    terms = gradient[:, 0].size
    expected = oracle.conv2d_weight_gradient(gradient, x, weight_shape, *geometry)
    assert_sums_close(dw, expected, terms=terms, factor=WINOGRAD if winograd and min(weight_shape[:2]) >= 16 else 1)
    assert dw.flags.c_contiguous, "weights are in the order of parameters"
    assert_sums_close(_core.conv2d_bias_gradient(gradient), gradient.sum((0, 2, 3), dtype=np.float64), terms=terms)


class TestOracle:
    GEOMETRIES = (
        ((2, 1), (1, 0, 2, 1), (1, 2), 1),
        ((1, 1), (0, 0, 0, 0), (1, 1), 2),
        ((3, 2), (2, 1, 0, 3), (2, 1), 2),
    )

    @pytest.mark.parametrize("geometry", GEOMETRIES)
    def test_matrix_products_equal_the_definition(self, rng, geometry):
        x, weight = normal(rng, 2, 4, 7, 6), normal(rng, 6, 4 // geometry[3], 3, 2)
        gradient = normal(rng, *oracle.conv2d(x, weight, None, *geometry).shape)
        dx = oracle.conv2d_input_gradient(gradient, weight, x.shape, *geometry)
        dw = oracle.conv2d_weight_gradient(gradient, x, weight.shape, *geometry)
        np.testing.assert_allclose(
            dx, oracle.conv2d_input_gradient_loops(gradient, weight, x.shape, *geometry), atol=1e-12
        )
        np.testing.assert_allclose(
            dw, oracle.conv2d_weight_gradient_loops(gradient, x, weight.shape, *geometry), atol=1e-12
        )

    @pytest.mark.parametrize("geometry", GEOMETRIES)
    def test_they_are_the_adjoint_of_the_forward_oracle(self, rng, geometry):
        """Convolution is linear in either argument: <y(x, w), g> = <x, dx> = <w, dw>."""
        x, weight = normal(rng, 2, 4, 7, 6), normal(rng, 6, 4 // geometry[3], 3, 2)
        y = oracle.conv2d(x, weight, None, *geometry)
        gradient = normal(rng, *y.shape)
        product = np.vdot(y, gradient)
        dx = oracle.conv2d_input_gradient(gradient, weight, x.shape, *geometry)
        dw = oracle.conv2d_weight_gradient(gradient, x, weight.shape, *geometry)
        np.testing.assert_allclose([np.vdot(x, dx), np.vdot(weight, dw)], product, rtol=1e-10)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2), (4, 4), (1, 6)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (2, 3), (7, 1), (1, 4)])
def test_geometry(rng, kernel, stride, dilation, groups):
    check(rng, (2, 8, 14, 15), (12, 8 // groups, *kernel), stride, (2, 1, 0, 3), dilation, groups)


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (4, 3, 0, 5), (9, 9, 9, 9)])
@pytest.mark.parametrize("channels", [2, 4, 20])
def test_padding_beyond_the_kernel(rng, isa, padding, channels):
    for kernel in (1, 3, 4):
        for stride in (1, 2):
            check(rng, (2, channels, 6, 7), (channels, channels, kernel, kernel), (stride, stride), padding)
            check(rng, (2, channels, 6, 7), (channels, 1, kernel, kernel), (stride, stride), padding, groups=channels)


class TestTileEdges:
    def test_channels(self, rng, isa, threads):
        tile = _core.tile_sizes()
        sizes = sorted({*edges(tile["lanes"]), *edges(tile["nr"]), *edges(tile["mr"])})
        for size in sizes:
            for other in (1, 5, tile["nr"] + 1):
                check(rng, (1, size, 4, 3), (other, size, 3, 3), padding=(1, 1, 1, 1))
                check(rng, (1, other, 4, 3), (size, other, 3, 3), (2, 2), (1, 1, 1, 1))
                check(rng, (2, size, 3, 3), (other, size, 1, 1))

    def test_pixels(self, rng, isa, threads):
        for pixels in edges(_core.tile_sizes()["mr"]):
            check(rng, (1, 6, 1, pixels), (7, 6, 1, 1))
            check(rng, (1, 6, 3, pixels + 2), (7, 6, 3, 3), (2, 1))

    def test_blocks_and_chunks(self, rng, isa, threads):
        check(rng, (3, 10, 40, 37), (9, 10, 3, 3), padding=(1, 1, 1, 1))
        check(rng, (2, 3, 61, 59), (20, 3, 7, 7), (2, 2), (3, 3, 3, 3))
        check(rng, (5, 12, 33, 35), (50, 12, 1, 1), (2, 2))
        check(rng, (3, 1100, 9, 9), (40, 1100, 1, 1))
        check(rng, (3, 6, 40, 37), (12, 3, 3, 3), padding=(1, 1, 1, 1), groups=2)

    def test_winograd(self, rng, isa, threads):
        tile = _core.tile_sizes()
        for c in [n for n in edges(tile["mr"]) if n >= 16] + [16, 17, 2 * tile["mr"] + 1]:
            for o in [16, tile["nr"] + 1]:
                if min(c, o) >= 16:
                    check(rng, (2, c, 9, 6), (o, c, 3, 3), padding=(1, 1, 1, 1))
        for height, width in [(1, 1), (3, 4), (5, 8), (13, 3)]:
            check(rng, (1, 16, height, width), (18, 16, 3, 3), padding=(1, 2, 3, 1))
        check(rng, (1, 17, 7, 11), (16, 17, 3, 3))

    def test_dilated_winograd(self, rng, isa, threads):
        for size, dilation in [((14, 13), 2), ((19, 9), 3), ((6, 6), 5)]:
            padding = (dilation, dilation - 1, dilation + 1, dilation)
            check(rng, (2, 19, *size), (34, 19, 3, 3), (1, 1), padding, (dilation, dilation))

    def test_winograd_in_blocks(self, rng, threads):
        check(rng, (3, 20, 61, 58), (24, 20, 3, 3), padding=(1, 1, 1, 1))
        check(rng, (20, 330, 14, 14), (360, 330, 3, 3), padding=(1, 1, 1, 1))

    def test_depthwise(self, rng, isa, threads):
        for c in [n for n in edges(_core.tile_sizes()["lanes"]) if n > 1]:
            for kernel, stride in [(3, 1), (3, 2), (5, 1), (5, 2)]:
                for size in [(1, 1), (5, 1), (7, 8), (9, 19), (12, 13)]:
                    p = kernel // 2
                    check(rng, (2, c, *size), (c, 1, kernel, kernel), (stride, stride), (p, p, p, p), groups=c)

    @pytest.mark.parametrize("multiplier", [2, 3])
    @pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
    def test_depthwise_multiplier(self, rng, isa, multiplier, stride):
        check(rng, (2, 7, 12, 9), (7 * multiplier, 1, 3, 3), stride, (1, 0, 2, 1), groups=7)

    @pytest.mark.parametrize("stride", [1, 2])
    def test_many_depthwise_bands(self, rng, threads, stride):
        check(rng, (3, 20, 70, 45), (20, 1, 3, 3), (stride, stride), (1, 1, 1, 1), groups=20)

    @pytest.mark.parametrize("stride", [1, 2, 4])
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_first_layers(self, rng, isa, threads, channels, stride):
        for kernel in (3, 7, 11):
            p = kernel // 2
            check(rng, (2, channels, 29, 31), (33, channels, kernel, kernel), (stride, stride), (p, p - 1, p - 1, p))


@pytest.mark.parametrize("x_shape", [(0, 4, 5, 5), (0, 4, 5, 2)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_empty_batch(rng, x_shape, groups, stride):
    check(rng, x_shape, (4, 4 // groups, 3, 2), stride, groups=groups)


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
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    shape = (draw(st.integers(0, 3)), groups * per_group, height, width)
    check(rng, shape, (groups * filters, per_group, *kernel), stride, padding, dilation, groups)


LAYERS = {
    "dense": ((3, 20, 17, 16), (33, 20, 3, 3), ((1, 1), (1, 1, 1, 1), (1, 1), 1)),
    "narrow": ((3, 10, 17, 16), (33, 10, 3, 3), ((1, 1), (1, 1, 1, 1), (1, 1), 1)),
    "strided": ((3, 20, 17, 16), (33, 20, 3, 3), ((2, 2), (1, 1, 1, 1), (1, 1), 1)),
    "pointwise": ((3, 40, 30, 31), (70, 40, 1, 1), ((1, 1), (0, 0, 0, 0), (1, 1), 1)),
    "grouped": ((3, 20, 17, 16), (40, 10, 3, 3), ((1, 1), (1, 1, 1, 1), (1, 1), 2)),
    "depthwise": ((3, 40, 37, 36), (40, 1, 3, 3), ((1, 1), (1, 1, 1, 1), (1, 1), 40)),
    "first": ((3, 3, 65, 64), (40, 3, 7, 7), ((2, 2), (3, 3, 3, 3), (1, 1), 1)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_same_bits_for_any_number_of_threads_and_batch(rng, isa, layer):
    x_shape, weight_shape, geometry = LAYERS[layer]
    x, weight = channels_last(normal(rng, *x_shape)), normal(rng, *weight_shape)
    gradient = channels_last(normal(rng, *_core.conv2d_shape(x_shape, weight_shape, *geometry)))

    def gradients(threads):
        with convlane.num_threads(threads):
            return (
                _core.conv2d_input_gradient(gradient, weight, x_shape, *geometry),
                _core.conv2d_weight_gradient(gradient, x, weight_shape, *geometry),
                _core.conv2d_bias_gradient(gradient),
            )

    once = gradients(1)
    for threads in (2, 3, 7):
        for one, other in zip(once, gradients(threads), strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
    alone = _core.conv2d_input_gradient(gradient[1:2], weight, (1, *x_shape[1:]), *geometry)
    np.testing.assert_array_equal(alone, once[0][1:2])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("layout", ["contiguous", "fortran", "negative_strides", "sliced", "broadcast"])
def test_layouts(rng, isa, layer, layout):
    x_shape, weight_shape, geometry = LAYERS[layer]
    shape = _core.conv2d_shape(x_shape, weight_shape, *geometry)
    x, weight, gradient = normal(rng, *x_shape), normal(rng, *weight_shape), normal(rng, *shape)
    if layout == "broadcast":  # like the gradient of a mean over the image
        gradient = np.broadcast_to(gradient[:, :, :1, :1], shape)
        lay = channels_last
    else:
        lay = LAYOUTS[layout]
    dx = _core.conv2d_input_gradient(channels_last(gradient), weight, x_shape, *geometry)
    dw = _core.conv2d_weight_gradient(channels_last(gradient), channels_last(x), weight_shape, *geometry)
    laid = gradient if layout == "broadcast" else lay(gradient)
    np.testing.assert_array_equal(_core.conv2d_input_gradient(laid, lay(weight), x_shape, *geometry), dx)
    np.testing.assert_array_equal(_core.conv2d_weight_gradient(laid, lay(x), weight_shape, *geometry), dw)
    bias = _core.conv2d_bias_gradient(channels_last(gradient))
    np.testing.assert_array_equal(_core.conv2d_bias_gradient(laid), bias)


@pytest.mark.parametrize("layer", LAYERS)
def test_only_what_meets_a_nan_becomes_nan(rng, isa, layer):
    """A NaN in one pixel reaches only what the definition multiplies by it, or its tile with Winograd's algorithm."""
    x_shape, weight_shape, geometry = LAYERS[layer]
    x, weight = normal(rng, *x_shape), normal(rng, *weight_shape)
    gradient = normal(rng, *_core.conv2d_shape(x_shape, weight_shape, *geometry))
    gradient[1, 3, 2, 2] = np.nan
    dw = _core.conv2d_weight_gradient(gradient, x, weight_shape, *geometry)
    assert np.isnan(dw[3]).all()
    assert np.isfinite(np.delete(dw, 3, axis=0)).all()
    dx = _core.conv2d_input_gradient(gradient, weight, x_shape, *geometry)
    assert np.isnan(dx[1]).any()
    assert np.isfinite(dx[[0, 2]]).all()
    bias = _core.conv2d_bias_gradient(gradient)
    assert np.isnan(bias[3])
    assert np.isfinite(np.delete(bias, 3)).all()


@pytest.mark.torch
@pytest.mark.parametrize("layer", LAYERS)
def test_agrees_with_torch(rng, layer):
    import torch

    x_shape, weight_shape, geometry = LAYERS[layer]
    stride, padding, dilation, groups = geometry
    x, weight = normal(rng, *x_shape), normal(rng, *weight_shape)
    gradient = normal(rng, *_core.conv2d_shape(x_shape, weight_shape, *geometry))
    dx, dw, bias = torch.ops.aten.convolution_backward(
        *(torch.from_numpy(array).double() for array in (gradient, x, weight)),
        [weight_shape[0]],
        stride,
        padding[::2],
        dilation,
        False,
        [0, 0],
        groups,
        [True, True, True],
    )
    terms = math.prod(weight_shape) // weight_shape[1]
    assert_close(_core.conv2d_input_gradient(gradient, weight, x_shape, *geometry), dx.numpy(), terms, WINOGRAD)
    assert_close(_core.conv2d_weight_gradient(gradient, x, weight_shape, *geometry), dw.numpy(), gradient[:, 0].size)
    assert_close(_core.conv2d_bias_gradient(gradient), bias.numpy(), gradient[:, 0].size)


class TestLinear:
    def test_tile_edges(self, rng, isa, threads):
        tile = _core.tile_sizes()
        for rows in (0, 1, tile["mr"] + 1, 17 * tile["mr"]):
            for inputs in (1, tile["lanes"] + 1, 300):
                for outputs in (1, tile["nr"], 70, 17 * tile["nr"] + 3):
                    x, weight, bias = normal(rng, rows, inputs), normal(rng, outputs, inputs), normal(rng, outputs)
                    gradient = normal(rng, rows, outputs)
                    exact = [array.astype(np.float64) for array in (x, weight, gradient)]
                    y = _core.linear_unpacked(x, weight, bias, "relu", 0)
                    assert_close(y, np.maximum(exact[0] @ exact[1].T + bias, 0), terms=inputs)
                    assert_close(_core.linear_input_gradient(gradient, weight), exact[2] @ exact[1], terms=outputs)

    @pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh"])
    def test_unpacked_weights_give_the_bits_of_packed_ones(self, rng, isa, activation):
        for rows, inputs, outputs in [(1, 7, 5), (3, 1000, 33), (20, 513, 100), (300, 257, 65)]:
            x, weight, bias = normal(rng, rows, inputs), normal(rng, outputs, inputs), normal(rng, outputs)
            packed = _core.PackedWeight(weight[:, :, None, None], 1, "pointwise")
            expected = _core.linear(x, packed, bias, activation, 0.1)
            for threads in (1, 3):
                with convlane.num_threads(threads):
                    actual = _core.linear_unpacked(x, weight, bias, activation, 0.1)
                np.testing.assert_array_equal(actual, expected)

    def test_same_bits_for_any_number_of_threads_and_batch(self, rng, isa):
        gradient, weight = normal(rng, 20, 600), normal(rng, 600, 1100)
        with convlane.num_threads(1):
            whole = _core.linear_input_gradient(gradient, weight)
        with convlane.num_threads(3):
            np.testing.assert_array_equal(_core.linear_input_gradient(gradient, weight), whole)
        np.testing.assert_array_equal(_core.linear_input_gradient(gradient[3:5], weight), whole[3:5])


class TestRules:
    """The gradient rules of the operations, as the tape calls them."""

    GEOMETRY = ((2, 1), (1, 0, 2, 1), (1, 2), 2)

    @pytest.mark.parametrize("batch", [(2,), (0,), ()])
    def test_conv2d(self, rng, batch):
        stride, padding, dilation, groups = self.GEOMETRY
        x, weight, bias = normal(rng, *batch, 4, 9, 8), normal(rng, 6, 2, 3, 3), normal(rng, 6)
        plain = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        residual = normal(rng, *plain.shape)

        def layer(x, weight, bias, residual):
            return F.conv2d(x, weight, bias, stride, padding, dilation, groups, residual=residual)

        y, pullback = convlane.vjp(layer, x, weight, bias, residual)
        np.testing.assert_array_equal(y, plain + residual)
        gradient = normal(rng, *y.shape)
        dx, dw, db, dr = pullback(gradient)
        images, gradients = (x, gradient) if batch else (x[None], gradient[None])
        expected = oracle.conv2d_input_gradient(gradients, weight, images.shape, *self.GEOMETRY)
        assert_sums_close(dx, expected if batch else expected[0], 54)
        expected = oracle.conv2d_weight_gradient(gradients, images, weight.shape, *self.GEOMETRY)
        assert_sums_close(dw, expected, gradient.size // 6)
        assert_sums_close(db, gradients.sum((0, 2, 3), dtype=np.float64), gradient.size // 6)
        np.testing.assert_array_equal(dr, gradient)

    @pytest.mark.parametrize("size", [6, 16])
    def test_the_forward_takes_the_algorithm_of_compiled_networks(self, rng, size):
        x, weight = channels_last(normal(rng, 1, 64, size, size)), normal(rng, 64, 64, 3, 3)
        name = _core.Conv2dGeometry(x.shape, weight.shape, (1, 1), (1, 1, 1, 1), (1, 1), 1).cheapest(True)
        y, _ = convlane.vjp(lambda x: F.conv2d(x, weight, padding=1), x)
        np.testing.assert_array_equal(y, F.conv2d(x, weight, padding=1, algorithm=name))
        y, _ = convlane.vjp(lambda x: F.conv2d(x, weight, padding=1, algorithm="direct"), x)
        np.testing.assert_array_equal(y, F.conv2d(x, weight, padding=1, algorithm="direct"))

    @pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)])
    def test_linear(self, rng, shape):
        x, weight, bias = normal(rng, *shape), normal(rng, 5, 7), normal(rng, 5)
        y, pullback = convlane.vjp(F.linear, x, weight, bias)
        np.testing.assert_array_equal(y, F.linear(x, weight, bias))
        gradient = normal(rng, *y.shape)
        dx, dw, db = pullback(gradient)
        rows, inputs = gradient.reshape(-1, 5).astype(np.float64), x.reshape(math.prod(shape[:-1]), 7)
        assert_sums_close(dx, gradient.astype(np.float64) @ weight, 5)
        assert_sums_close(dw, rows.T @ inputs, max(len(rows), 1))
        assert_sums_close(db, rows.sum(0), max(len(rows), 1))

    @pytest.mark.parametrize("slope", [0.1, -0.5])
    @pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
    def test_with_an_activation(self, rng, isa, activation, slope):
        """The gradient is the same as if the activation were applied to the result."""
        options = {"activation": activation, "negative_slope": slope}
        after = {ARGUMENTS[activation]: slope} if activation in ARGUMENTS else {}
        activate = getattr(F, activation)
        for batch in ((2,), ()):
            arrays = (
                2 * normal(rng, *batch, 3, 6, 7),
                normal(rng, 5, 3, 3, 3),
                normal(rng, 5),
                normal(rng, *batch, 5, 4, 5),
            )
            self.compare(
                lambda x, w, b, r: F.conv2d(x, w, b, residual=r, **options),
                lambda x, w, b, r: activate(F.conv2d(x, w, b, residual=r), **after),
                *arrays,
            )
        for shape in ((7,), (2, 3, 7)):
            self.compare(
                lambda x, w, b: F.linear(x, w, b, **options),
                lambda x, w, b: activate(F.linear(x, w, b), **after),
                *(2 * normal(rng, *shape), normal(rng, 5, 7), normal(rng, 5)),
            )

    def compare(self, together, apart, *arrays):
        y, pullback = convlane.vjp(together, *arrays)
        expected, expected_pullback = convlane.vjp(apart, *arrays)
        np.testing.assert_array_equal(y, expected)
        gradient = normal(np.random.default_rng(1), *y.shape)
        for found, wished in zip(pullback(gradient), expected_pullback(gradient), strict=True):
            np.testing.assert_array_equal(found, wished)

    @pytest.mark.parametrize("operation", [F.conv2d, F.linear])
    @pytest.mark.parametrize("activation", ["none", "relu", "silu"])
    def test_an_activation_keeps_one_array(self, rng, operation, activation):
        """Its output, which the next layer keeps, too, or its input if the gradient does not follow from the output."""
        x, weight = (
            normal(rng, *shape) for shape in ([(2, 8, 5, 5), (4, 8, 1, 1)], [(10, 8), (4, 8)])[operation is F.linear]
        )
        arguments = signature_of(operation).bind(x, weight, activation=activation)
        arguments.apply_defaults()
        y, pullback = rules(operation).vjp(frozenset({"weight"}), **arguments.arguments)
        images = [array for array in kept_arrays(pullback) if array.shape == y.shape]
        if activation == "none":
            assert images == []
        else:
            (kept,) = images
            assert np.shares_memory(kept, y) == (activation == "relu")
            before = operation(x, weight)
            np.testing.assert_array_equal(kept, before if activation == "silu" else F.relu(before))

    @pytest.mark.torch
    @pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
    def test_with_an_activation_like_torch(self, rng, activation):
        import torch

        x, weight, bias = normal(rng, 2, 3, 6, 7), normal(rng, 5, 3, 3, 3), normal(rng, 5)
        tensors = [torch.tensor(array, requires_grad=True) for array in (x, weight, bias)]
        expected = getattr(torch.nn.functional, activation)(torch.nn.functional.conv2d(*tensors))
        slope = 0.01 if activation == "leaky_relu" else 1.0
        options = {"activation": activation, "negative_slope": slope}
        y, pullback = convlane.vjp(lambda x, w, b: F.conv2d(x, w, b, **options), x, weight, bias)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
        gradient = normal(rng, *y.shape)
        expected.backward(torch.tensor(gradient))
        for found, tensor in zip(pullback(gradient), tensors, strict=True):
            assert_close(found, tensor.grad.numpy(), terms=100)

    def test_nothing_is_computed_for_what_is_frozen(self, rng):
        x, weight, bias = normal(rng, 1, 3, 5, 5), normal(rng, 4, 3, 3, 3), normal(rng, 4)
        arguments = signature_of(F.conv2d).bind(x, weight, bias)
        arguments.apply_defaults()
        for names in [{"weight"}, {"input"}, {"bias"}, {"input", "bias"}]:
            y, pullback = rules(F.conv2d).vjp(frozenset(names), **arguments.arguments)
            assert set(pullback(np.ones_like(y))) == names
        arguments = signature_of(F.linear).bind(x[0, 0], weight[:, 0, 0, :1] + np.zeros((4, 5), np.float32), bias)
        arguments.apply_defaults()
        for names in [{"weight"}, {"input"}, {"bias"}]:
            y, pullback = rules(F.linear).vjp(frozenset(names), **arguments.arguments)
            assert set(pullback(np.ones_like(y))) == names

    def test_what_has_no_gradient(self, rng):
        x, weight, matrix = normal(rng, 1, 3, 5, 5), normal(rng, 4, 3, 3, 3), normal(rng, 4, 5)
        with pytest.raises(TypeError, match="neither a packed weight nor"):
            convlane.vjp(lambda x: F.conv2d(x, F.pack_conv2d(weight)), x)
        with pytest.raises(TypeError, match="neither a packed weight nor"):
            convlane.vjp(lambda x: F.linear(x, F.pack_linear(matrix)), x)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda g, w: _core.conv2d_input_gradient(g, w, (1, 2, 9, 9), (1, 1), (0, 0, 0, 0), (1, 1), 1),
            "the gradient has shape",
        ),
        (
            lambda g, w: _core.conv2d_weight_gradient(g, g, (3, 5, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
            "to have 5 channels",
        ),
        (lambda g, w: _core.conv2d_bias_gradient(g[0]), "4 dimensions"),
        (lambda g, w: _core.linear_input_gradient(g[0, 0], w[0, 0]), "rows of 3 features"),
        (lambda g, w: _core.linear_unpacked(g[0, 0], w[0, 0].T, None, "none", 0), "contiguous weight"),
    ],
)
def test_what_does_not_fit_is_refused(rng, call, match):
    with pytest.raises(ValueError, match=match):
        call(normal(rng, 1, 3, 4, 4), normal(rng, 3, 2, 3, 3))
