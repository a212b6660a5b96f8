"""Gradients of arithmetic, against NumPy in float64."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from gradients import by_rule
from layouts import LAYOUTS
from oracles import activation as activations
from oracles.pointwise import ARITHMETIC, sum_to


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
        number, applied = ([0.3] if name in activations.ARGUMENTS else []), activations.fused(name, 0.3)
        expected = gradient * activations.SLOPES[name]((a + b).astype(np.float64), *number)
        y, found = by_rule(F.add, gradient, a, b, wanted=("input", "other"), **applied)
        np.testing.assert_array_equal(y, F.add(a, b, **applied))
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


class TestBroadcasting:
    @pytest.mark.parametrize("name", ARITHMETIC)
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_gradient(self, rng, name, layout):
        for shape, other in [((), ()), ((7,), ()), ((2, 3, 2, 4), (3, 1, 1)), ((2, 1, 2), (3, 1)), ((2, 3, 2, 4),) * 2]:
            a, b = (np.asarray(np.abs(normal(rng, *s)) + np.float32(0.2)) for s in (shape, other))
            y = ARITHMETIC[name][0](a.astype(np.float64), b.astype(np.float64))
            gradient = np.asarray(normal(rng, *y.shape))
            to = LAYOUTS[layout] if len(shape) == 4 else np.asarray
            names = ("input", "exponent" if name == "pow" else "other")
            output, found = by_rule(getattr(F, name), to(gradient), to(a), b, wanted=names)
            np.testing.assert_array_equal(output, getattr(F, name)(to(a), b))
            wide = np.broadcast_arrays(a.astype(np.float64), b.astype(np.float64))
            for argument, operand, slope in zip(names, (a, b), ARITHMETIC[name][1:], strict=True):
                expected = sum_to(gradient * slope(*wide), operand.shape)
                np.testing.assert_allclose(found[argument], expected, rtol=1e-5, atol=1e-5)
                assert found[argument].dtype == np.float32

    def test_only_what_is_wanted(self, rng):
        a, b = normal(rng, 3), normal(rng, 3)
        for operation in (F.add, F.sub, F.mul, F.div, F.maximum):
            assert by_rule(operation, a, a, b, wanted=("other",))[1].keys() == {"other"}

    def test_numbers_need_none(self, rng):
        value, pullback = convlane.vjp(lambda x: F.sub(1, F.pow(F.maximum(x, 0), 2)), np.array([-1, 3], np.float32))
        np.testing.assert_array_equal(value, [1, -8])
        np.testing.assert_array_equal(pullback(np.ones(2, np.float32))[0], [0, -6])

    def test_a_power_of_0(self):
        x = np.array([0, 0, 2], np.float32)
        p = np.array([0, 2, 0], np.float32)
        _, found = by_rule(F.pow, np.ones(3, np.float32), x, p, wanted=("input", "exponent"))
        np.testing.assert_array_equal(found["input"], [0, 0, 0])
        np.testing.assert_allclose(found["exponent"], [0, 0, np.log(2)], rtol=1e-6)

    @pytest.mark.torch
    @pytest.mark.parametrize("name", ARITHMETIC)
    def test_agrees_with_torch(self, rng, name):
        import torch

        a, b = (np.abs(normal(rng, *s)) + np.float32(0.2) for s in ((2, 3, 4), (3, 1)))
        b[0] = a[0, 0, 0]  # equal operands
        gradient = normal(rng, 2, 3, 4)
        tensors = [torch.from_numpy(array).double().requires_grad_() for array in (a, b)]
        getattr(torch, name)(*tensors).backward(torch.from_numpy(gradient).double())
        names = ("input", "exponent" if name == "pow" else "other")
        _, found = by_rule(getattr(F, name), gradient, a, b, wanted=names)
        for argument, tensor in zip(names, tensors, strict=True):
            assert_close(found[argument], tensor.grad.numpy(), terms=8, factor=2)


def test_bad_input(rng):
    x = np.ones((2, 3, 4, 5), np.float32)
    with pytest.raises(ValueError, match="scale_scale_gradient: input has shape"):
        _core.scale_scale_gradient(x, x[:1], False)
    with pytest.raises(ValueError, match="scale: input has shape"):
        by_rule(F.scale, x, x, np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="add: shapes"):
        by_rule(F.add, x, x, x[:, :2])
