"""Gradients of pooling: against plain loops in float64 and torch's."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import pool as oracle

SHAPES = [(2, 3, 7, 8), (1, 17, 6, 5), (2, 70, 5, 5), (3, 6, 5)]


def image(rng, shape, layout):
    x = rng.normal(size=shape).astype(np.float32)
    return F.channels_last(x) if layout == "nhwc" and x.ndim == 4 else x


CASES = {
    "max": (lambda x: F.max_pool2d(x, 2), lambda t, x: t.max_pool2d(x, 2)),
    "max overlapping": (lambda x: F.max_pool2d(x, 3, 2, 1), lambda t, x: t.max_pool2d(x, 3, 2, 1)),
    "max dilated": (
        lambda x: F.max_pool2d(x, (2, 3), 1, (0, 1), (2, 1)),
        lambda t, x: t.max_pool2d(x, (2, 3), 1, (0, 1), (2, 1)),
    ),
    "max ceil": (
        lambda x: F.max_pool2d(x, 2, ceil_mode=True),
        lambda t, x: t.max_pool2d(x, 2, ceil_mode=True),
    ),
    "avg": (lambda x: F.avg_pool2d(x, 2), lambda t, x: t.avg_pool2d(x, 2)),
    "avg padded": (lambda x: F.avg_pool2d(x, 3, 2, 1), lambda t, x: t.avg_pool2d(x, 3, 2, 1)),
    "avg inside": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
        lambda t, x: t.avg_pool2d(x, 3, 2, 1, True, False),
    ),
    "avg divisor": (
        lambda x: F.avg_pool2d(x, 3, divisor_override=5),
        lambda t, x: t.avg_pool2d(x, 3, divisor_override=5),
    ),
    "lp": (lambda x: F.lp_pool2d(x, 2, 3, 2), lambda t, x: t.lp_pool2d(x, 2, 3, 2)),
    "lp ceil": (
        lambda x: F.lp_pool2d(x, 4, 3, 2, ceil_mode=True),
        lambda t, x: t.lp_pool2d(x, 4, 3, 2, ceil_mode=True),
    ),
    "adaptive avg": (
        lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
        lambda t, x: t.adaptive_avg_pool2d(x, (3, 4)),
    ),
    "adaptive max": (
        lambda x: F.adaptive_max_pool2d(x, (3, 4)),
        lambda t, x: t.adaptive_max_pool2d(x, (3, 4)),
    ),
    "global avg": (lambda x: F.global_avg_pool2d(x), lambda t, x: t.adaptive_avg_pool2d(x, 1)),
    "global max": (lambda x: F.global_max_pool2d(x), lambda t, x: t.adaptive_max_pool2d(x, 1)),
}


@pytest.mark.torch
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_like_torch(case, shape, layout, rng, isa):
    import torch

    ours, theirs = CASES[case]
    x = image(rng, shape, layout)
    tensor = torch.tensor(np.ascontiguousarray(x), requires_grad=True)
    expected = theirs(torch.nn.functional, tensor)
    gradient = image(rng, tuple(expected.shape), layout)
    expected.backward(torch.tensor(np.ascontiguousarray(gradient)))
    value, pullback = convlane.vjp(ours, x)
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    (found,) = pullback(gradient)
    np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_adjoint(case, rng):
    """Pooling is homogeneous, so <f(x), g> is <x, f*(g)> for the gradient at an x without ties."""
    x = rng.permutation(2 * 5 * 7 * 8).reshape(2, 5, 7, 8).astype(np.float32)
    value, pullback = convlane.vjp(CASES[case][0], x)
    gradient = rng.normal(size=value.shape).astype(np.float32)
    (found,) = pullback(gradient)
    left = np.sum(value.astype(np.float64) * gradient)
    np.testing.assert_allclose(np.sum(x.astype(np.float64) * found), left, rtol=1e-4, atol=1e-3)


MAXIMA = {  # the operation's arguments, and the oracle's windows
    "2x2": ((2,), lambda x: oracle.windows(x, (2, 2), (2, 2))),
    "3x3/2": ((3, 2, 1), lambda x: oracle.windows(x, (3, 3), (2, 2), (1, 1, 1, 1))),
    "overlapping": (((3, 4), 1, (1, 2)), lambda x: oracle.windows(x, (3, 4), (1, 1), (1, 1, 2, 2))),
    "gaps": ((1, (3, 2)), lambda x: oracle.windows(x, (1, 1), (3, 2))),
    "dilated": (((2, 3), 1, 2, (3, 2)), lambda x: oracle.windows(x, (2, 3), (1, 1), (2, 2, 2, 2), (3, 2))),
    "ceil": ((3, 2, 0, 1, True), lambda x: oracle.windows(x, (3, 3), (2, 2), ceil_mode=True)),
}
AVERAGES = {  # the operation's arguments and the oracle's
    "2x2": ((2,), ((2, 2), (2, 2))),
    "3x3/1": ((3, 1, 1), ((3, 3), (1, 1), (1, 1, 1, 1))),
    "inside": ((3, 2, 1, True, False), ((3, 3), (2, 2), (1, 1, 1, 1), True, False)),
    "gaps": ((1, (3, 2)), ((1, 1), (3, 2))),
    "divisor": (((2, 3), 2, 0, False, True, -7), ((2, 3), (2, 2), (0, 0, 0, 0), False, True, -7)),
}


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def edges():
    """Numbers of channels around one vector and two."""
    lanes = _core.tile_sizes()["lanes"]
    return [1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1]


class TestTileEdges:
    @pytest.mark.parametrize("case", MAXIMA)
    def test_maxima(self, rng, isa, threads, case):
        arguments, windows = MAXIMA[case]
        for channels in edges():
            x = rng.integers(0, 4, (2, channels, 6, 7)).astype(np.float32)  # with ties, of which the first counts
            y = F.max_pool2d(x, *arguments)
            gradient = normal(rng, *y.shape)
            recorded, found = by_rule(F.max_pool2d, gradient, x, *arguments)
            np.testing.assert_array_equal(recorded, y)
            assert_close(found["input"], oracle.max_pool_gradient(x, gradient, windows(x)), terms=12)
            assert found["input"].transpose(0, 2, 3, 1).flags.c_contiguous

    @pytest.mark.parametrize("case", AVERAGES)
    def test_averages(self, rng, isa, threads, case):
        arguments, geometry = AVERAGES[case]
        for channels in edges():
            x = normal(rng, 2, channels, 6, 7)
            gradient = normal(rng, *F.avg_pool2d(x, *arguments).shape)
            _, found = by_rule(F.avg_pool2d, gradient, x, *arguments)
            expected = oracle.linear_gradient(lambda one, g=geometry: oracle.avg_pool2d(one, *g), x.shape, gradient)
            assert_close(found["input"], expected, terms=9)

    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 7), (9, 4)])
    def test_adaptive(self, rng, isa, threads, size):
        for channels in edges():
            x, gradient = normal(rng, 2, channels, 6, 7), normal(rng, 2, channels, *size)
            places = list(oracle.adaptive_windows(x, size))
            _, found = by_rule(F.adaptive_max_pool2d, gradient, x, size)
            assert_close(found["input"], oracle.max_pool_gradient(x, gradient, places), terms=12)
            _, found = by_rule(F.adaptive_avg_pool2d, gradient, x, size)
            expected = oracle.linear_gradient(lambda one, p=places: oracle.avg_pool(one, p), x.shape, gradient)
            assert_close(found["input"], expected, terms=42)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        x, gradient, to = normal(rng, 2, 5, 6, 7), normal(rng, 2, 5, 3, 4), LAYOUTS[layout]
        for operation in (F.max_pool2d, F.avg_pool2d):
            expected = by_rule(operation, gradient, x, 3, 2, 1)[1]["input"]
            _, pullback = convlane.vjp(lambda x, f=operation: f(x, 3, 2, 1), to(x))
            np.testing.assert_array_equal(pullback(to(gradient))[0], expected)
            _, pullback = convlane.vjp(lambda x, f=operation: f(x, 3, 2, 1), to(x[1]))
            np.testing.assert_array_equal(pullback(to(gradient[1]))[0], expected[1])

    def test_oracles_are_the_derivatives(self, rng):
        x = rng.permutation(42).astype(float).reshape(1, 1, 6, 7)
        windows = list(oracle.windows(x, (3, 3), (2, 2), (1, 1, 1, 1)))
        gradient = rng.normal(size=(1, 1, 3, 4))
        numeric = numeric_gradient(lambda z: oracle.max_pool(z, windows), x, gradient)
        np.testing.assert_allclose(oracle.max_pool_gradient(x, gradient, windows), numeric, atol=1e-6)
        numeric = numeric_gradient(lambda z: oracle.avg_pool(z, windows), x, gradient)
        found = oracle.linear_gradient(lambda z: oracle.avg_pool(z, windows), x.shape, gradient)
        np.testing.assert_allclose(found, numeric, atol=1e-6)


class TestLpPool:
    @pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3, 4.0])
    def test_oracle_is_the_derivative(self, rng, p):
        x = rng.choice([-1, 1], (1, 2, 4, 5)) * rng.uniform(0.5, 2, (1, 2, 4, 5))
        args = (p, (3, 2), (2, 2), True)
        gradient = rng.normal(size=oracle.lp_pool2d(x, *args).shape)
        numeric = numeric_gradient(lambda z: oracle.lp_pool2d(z, *args), x, gradient)
        np.testing.assert_allclose(oracle.lp_pool2d_gradient(x, gradient, *args), numeric, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3, 4.0])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_against_loops(self, rng, isa, threads, layout, p):
        for channels in (1, 3, 17, 33):
            x = rng.choice([-1, 1], (2, channels, 6, 7)) * rng.uniform(0.5, 2, (2, channels, 6, 7))
            x[0, 0, 1] = 0
            for kernel, stride, ceil_mode in [((2, 3), (1, 2), False), ((3, 2), (2, 3), True), ((6, 7), (1, 1), False)]:
                args = (p, kernel, stride, ceil_mode)
                x = x.astype(np.float32)
                gradient = rng.normal(size=oracle.lp_pool2d(x, *args).shape).astype(np.float32)
                y, found = by_rule(F.lp_pool2d, LAYOUTS[layout](gradient), LAYOUTS[layout](x), *args)
                np.testing.assert_array_equal(y, F.lp_pool2d(x, *args))
                expected = oracle.lp_pool2d_gradient(x, gradient, *args)
                assert_close(found["input"], expected, terms=kernel[0] * kernel[1])

    def test_maximum_of_absolute_values(self, rng):
        x, gradient = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 6, 7), (2, 5, 3, 3)))
        _, found = by_rule(F.lp_pool2d, gradient, x, np.inf, 3, 2, True)
        _, of_largest = by_rule(F.max_pool2d, gradient, np.abs(x), 3, 2, ceil_mode=True)
        np.testing.assert_array_equal(found["input"], of_largest["input"] * np.sign(x))
        _, single = by_rule(F.lp_pool2d, gradient[0], x[0], np.inf, 3, 2, True)
        np.testing.assert_array_equal(single["input"], found["input"][0])

    @pytest.mark.parametrize("p", [0.5, 1, 2, 3, np.inf])
    def test_nothing_comes_from_zeros(self, p):
        x = np.zeros((1, 1, 2, 4), np.float32)
        x[0, 0, 0, 3] = -2
        _, found = by_rule(F.lp_pool2d, np.ones((1, 1, 1, 2), np.float32), x, p, 2)
        np.testing.assert_allclose(found["input"].ravel(), [0, 0, 0, -1, 0, 0, 0, 0], rtol=1e-6)

    @pytest.mark.parametrize("p", [1, 2, 3])
    def test_nan_reaches_its_window_only(self, p):
        x = np.ones((1, 1, 2, 4), np.float32)
        x[0, 0, 1, 1] = np.nan
        _, found = by_rule(F.lp_pool2d, np.ones((1, 1, 1, 2), np.float32), x, p, 2)
        assert np.isfinite(found["input"][..., 2:]).all()
        assert np.isnan(found["input"][0, 0, 1, 1])


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_for_any_number_of_threads(case, rng):
    x = rng.normal(size=(3, 130, 40, 40)).astype(np.float32)
    found = []
    for count in (1, 2, 5):
        with convlane.num_threads(count):
            value, pullback = convlane.vjp(CASES[case][0], x)
            found.append(pullback(value)[0])
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_empty_batch():
    for ours, _ in CASES.values():
        value, pullback = convlane.vjp(ours, np.zeros((0, 3, 7, 8), np.float32))
        assert pullback(value)[0].shape == (0, 3, 7, 8)


def test_nan_receives_the_gradient():
    x = np.array([[1, np.nan], [3, 2]], np.float32).reshape(1, 1, 2, 2)
    _, pullback = convlane.vjp(lambda x: F.max_pool2d(x, 2), x)
    np.testing.assert_array_equal(pullback(np.full((1, 1, 1, 1), 5, np.float32))[0].ravel(), [0, 5, 0, 0])


@pytest.mark.parametrize("operation", [F.max_pool2d, F.adaptive_max_pool2d])
def test_indices_are_constants_when_values_are_recorded(operation, rng):
    x = rng.integers(0, 4, (2, 3, 6, 6)).astype(np.float32)
    seen = []

    def recorded(z):
        y, places = operation(z, 3, return_indices=True)
        seen.append(places)
        return y

    for image in (x, x[0]):
        values, indices = operation(image, 3, return_indices=True)
        value, pullback = convlane.vjp(recorded, image)
        np.testing.assert_array_equal(value, values)
        np.testing.assert_array_equal(seen[-1], indices)
        gradient = normal(rng, *values.shape)
        _, alone = convlane.vjp(lambda z: operation(z, 3), image)
        np.testing.assert_array_equal(pullback(gradient)[0], alone(gradient)[0])


def test_a_window_in_the_padding_passes_nothing():
    """Its maximum is minus infinity, which is not a pixel's value."""
    x, gradient = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 3, 3), np.float32)
    y, found = by_rule(F.max_pool2d, gradient, x, 2, 1, 2, 3)
    assert np.isfinite(y).sum() == found["input"].sum() == 4
    assert np.isneginf(y).sum() == 5


def test_wrong_arguments_of_the_kernels():
    one = np.zeros((1, 1, 2, 2), np.float32)
    places, geometry = one.astype(np.int32), ((1, 1, 4, 4), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False)
    _core.max_pool2d_gradient(one, places - 1, *geometry)
    with pytest.raises(ValueError, match="shape"):
        _core.max_pool2d_gradient(one[:, :, :1], places, *geometry)
    for wrong in (places[:, :, :1], places[0], np.zeros((1, 1, 2, 4), np.int32)[..., ::2]):
        with pytest.raises(ValueError, match="indices are not those"):
            _core.max_pool2d_gradient(one, wrong, *geometry)
    with pytest.raises(ValueError, match="shape"):
        _core.adaptive_avg_pool2d_gradient(one, (1, 1, 4, 4), (1, 1))
