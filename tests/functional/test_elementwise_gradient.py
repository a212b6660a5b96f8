"""Gradients of arithmetic and of functions of single numbers, against NumPy in float64."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import activation as activations


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def edges():
    """Around one vector, and around the block of channels that is summed at a time."""
    lanes = _core.tile_sizes()["lanes"]
    return [1, lanes - 1, lanes, lanes + 1, 63, 64, 65, 130]


def channels_last(x):
    return LAYOUTS["channels_last"](x)


class TestAdd:
    @pytest.mark.parametrize("name", activations.SLOPES)
    @pytest.mark.parametrize("shape", [(37,), (2, 5, 3, 4)])
    def test_gradient(self, rng, isa, name, shape):
        a, b, gradient = (3 * normal(rng, *shape) for _ in range(3))
        expected = gradient * activations.SLOPES[name]((a + b).astype(np.float64))
        y, found = by_rule(F.add, gradient, a, b, wanted=("input", "other"), activation=name)
        np.testing.assert_array_equal(y, F.add(a, b, activation=name))
        assert_close(found["input"], expected, factor=2)
        assert_close(found["other"], expected, factor=2)

    def test_negative_slope(self, rng):
        a, b, gradient = (normal(rng, 50) for _ in range(3))
        _, found = by_rule(F.add, gradient, a, b, activation="leaky_relu", negative_slope=-0.5)
        assert_close(found["input"], gradient * np.where(a + b > 0, 1.0, -0.5))

    def test_without_activation_nothing_is_computed(self, rng):
        gradient = normal(rng, 2, 5, 3, 4)
        _, found = by_rule(F.add, gradient, gradient, gradient, wanted=("other",))
        assert found["other"] is gradient


class TestProducts:
    @pytest.mark.parametrize("shape", [(37,), (2, 5, 3, 4)])
    def test_mul(self, rng, isa, shape):
        a, b, gradient = (normal(rng, *shape) for _ in range(3))
        y, found = by_rule(F.mul, gradient, a, b, wanted=("input", "other"))
        np.testing.assert_array_equal(y, a * b)
        np.testing.assert_array_equal(found["input"], gradient * b)
        np.testing.assert_array_equal(found["other"], gradient * a)

    @pytest.mark.parametrize("operation", [F.mul, F.scale])
    @pytest.mark.parametrize("images", [1, 3])
    def test_factors_of_channels(self, rng, isa, threads, operation, images):
        for channels in edges():
            x, gradient = normal(rng, 3, channels, 5, 4), channels_last(normal(rng, 3, channels, 5, 4))
            factors = normal(rng, images, channels, 1, 1)
            name = "other" if operation is F.mul else "scale"
            y, found = by_rule(operation, gradient, x, factors, wanted=("input", name))
            np.testing.assert_array_equal(y, x * factors)
            np.testing.assert_array_equal(found["input"], gradient * factors)
            axes = (0, 2, 3) if images == 1 else (2, 3)
            expected = (x.astype(np.float64) * gradient).sum(axis=axes, keepdims=True)
            assert_close(found[name], expected, terms=60 // images)

    def test_factors_of_two_dimensions(self, rng):
        x, gradient, factors = normal(rng, 2, 5, 3, 4), normal(rng, 2, 5, 3, 4), normal(rng, 2, 5)
        _, found = by_rule(F.scale, gradient, x, factors, wanted=("input", "scale"))
        np.testing.assert_array_equal(found["input"], gradient * factors[:, :, None, None])
        assert_close(found["scale"], (x.astype(np.float64) * gradient).sum(axis=(2, 3)), terms=12)

    @pytest.mark.parametrize("pixels", [255, 256, 257, 1000])
    def test_chunks_of_pixels(self, rng, isa, pixels):
        x, gradient = normal(rng, 1, 3, pixels, 1) + 3, normal(rng, 1, 3, pixels, 1) + 3
        expected = (x.astype(np.float64) * gradient).sum(axis=2, keepdims=True)
        assert_close(_core.scale_scale_gradient(x, gradient, False), expected, terms=pixels)

    def test_same_bits_for_any_thread_count(self, rng, isa):
        x, gradient = normal(rng, 3, 150, 40, 40), normal(rng, 3, 150, 40, 40)
        for shared in (False, True):
            with convlane.num_threads(1):
                expected = _core.scale_scale_gradient(x, gradient, shared)
            with convlane.num_threads(3):
                np.testing.assert_array_equal(_core.scale_scale_gradient(x, gradient, shared), expected)

    def test_same_bits_for_any_batch(self, rng):
        x, gradient = normal(rng, 3, 20, 40, 40), normal(rng, 3, 20, 40, 40)
        whole = _core.scale_scale_gradient(x, gradient, False)
        np.testing.assert_array_equal(_core.scale_scale_gradient(x[1:2], gradient[1:2], False), whole[1:2])

    def test_nan_stays_in_its_channel(self, isa):
        x = np.ones((2, 37, 3, 3), np.float32)
        x[1, 36, 0, 0] = np.nan
        found = _core.scale_scale_gradient(x, np.ones_like(x), False)
        assert np.isnan(found[1, 36, 0, 0])
        assert np.isfinite(found).sum() == found.size - 1

    @pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
    def test_empty(self, shape):
        x = np.ones(shape, np.float32)
        found = _core.scale_scale_gradient(x, x, False)
        np.testing.assert_array_equal(found, np.zeros((*shape[:2], 1, 1)))
        np.testing.assert_array_equal(_core.scale_scale_gradient(x, x, True), np.zeros((1, shape[1], 1, 1)))

    @pytest.mark.torch
    @pytest.mark.parametrize("operation", [F.mul, F.scale])
    @pytest.mark.parametrize("shape", [(2, 5, 1, 1), (1, 5, 1, 1)])
    def test_agrees_with_torch(self, rng, operation, shape):
        import torch

        x, gradient, factors = normal(rng, 2, 5, 3, 4), normal(rng, 2, 5, 3, 4), normal(rng, *shape)
        tensors = [torch.from_numpy(array).double().requires_grad_() for array in (x, factors)]
        (tensors[0] * tensors[1]).backward(torch.from_numpy(gradient).double())
        name = "other" if operation is F.mul else "scale"
        _, found = by_rule(operation, gradient, x, factors, wanted=("input", name))
        assert_close(found["input"], tensors[0].grad.numpy())
        assert_close(found[name], tensors[1].grad.numpy(), terms=24)


FUNCTIONS = {  # operation, arguments, and the same in float64
    "abs": (F.abs, (), np.abs),
    "affine": (F.affine, (-0.3, 2), lambda x: -0.3 * x + 2),
    "exp": (F.exp, (), np.exp),
    "log": (F.log, (), np.log),
    "square": (F.square, (), np.square),
}


class TestFunctions:
    @pytest.mark.parametrize("name", FUNCTIONS)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_gradient(self, rng, name, layout):
        operation, arguments, exact = FUNCTIONS[name]
        for shape in [(), (7,), (2, 3, 2, 2), (0, 3, 2, 2)]:
            x, gradient = (np.asarray(normal(rng, *shape), np.float32) for _ in range(2))
            x = x if name == "abs" else np.asarray(np.abs(x) + np.float32(0.2))
            to = LAYOUTS[layout] if len(shape) == 4 else np.asarray
            y, found = by_rule(operation, to(gradient), to(x), *arguments)
            np.testing.assert_array_equal(y, operation(x, *arguments))
            expected = numeric_gradient(exact, x, gradient)
            np.testing.assert_allclose(found["input"], expected, rtol=1e-5, atol=1e-6)
            assert found["input"].dtype == np.float32

    @pytest.mark.parametrize("shape", [(), (7,), (2, 3, 2, 2)])
    def test_div(self, rng, shape):
        a, b, gradient = (np.asarray(normal(rng, *shape), np.float32) for _ in range(3))
        b = np.asarray(np.copysign(np.abs(b) + np.float32(0.2), b))
        y, found = by_rule(F.div, gradient, a, b, wanted=("input", "other"))
        np.testing.assert_array_equal(y, a / b)
        expected = numeric_gradient(lambda z: z / b, a, gradient)
        np.testing.assert_allclose(found["input"], expected, rtol=1e-5, atol=1e-6)
        expected = numeric_gradient(lambda z: a / z, b, gradient)
        np.testing.assert_allclose(found["other"], expected, rtol=1e-4, atol=1e-5)
        assert set(by_rule(F.div, gradient, a, b, wanted=("other",))[1]) == {"other"}

    def test_the_corner_of_abs(self):
        _, found = by_rule(F.abs, np.ones(3, np.float32), np.array([0, -0.0, np.nan], np.float32))
        np.testing.assert_array_equal(found["input"], [0, 0, np.nan])


def test_bad_input(rng):
    x = np.ones((2, 3, 4, 5), np.float32)
    with pytest.raises(ValueError, match="scale_scale_gradient: input has shape"):
        _core.scale_scale_gradient(x, x[:1], False)
    with pytest.raises(ValueError, match="scale: input has shape"):
        by_rule(F.scale, x, x, np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="add: input has shape"):
        by_rule(F.add, x, x, x[:1])
