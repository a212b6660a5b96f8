"""Gradients of batch normalisation and local response normalisation against their oracles."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import activation as activations
from oracles import norm as oracle

ACTIVATIONS = ["none", *activations.BY_NAME]
DERIVATIVE_FROM_OUTPUT = ["relu", "relu6", "leaky_relu", "hardsigmoid", "sigmoid", "tanh"]
SLOPE = 0.125


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def edges():
    """Sizes around one vector, around the width below which rows are combined, around a block of channels."""
    lanes = _core.tile_sizes()["lanes"]
    return [1, 3, lanes - 1, lanes, lanes + 1, 48, 63, 64, 65, 513]


def channels_last(x):
    return LAYOUTS["channels_last"](x)


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


def forward(z, name):
    if name == "none":
        return z
    return activations.BY_NAME[name](z, *([SLOPE] if name in activations.ARGUMENTS else []))


def slope_of(z, name):
    return activations.SLOPES[name](z, *([SLOPE] if name in activations.ARGUMENTS else []))


def affine(rng, channels):
    return rng.uniform(0.5, 2, channels).astype(np.float32), normal(rng, channels)


class TestOracle:
    @pytest.mark.parametrize("training", [True, False])
    def test_batch_norm_is_the_derivative(self, rng, training):
        x, gradient = rng.standard_normal((2, 3, 2, 2)), rng.standard_normal((2, 3, 2, 2))
        weight, bias = rng.standard_normal(3), rng.standard_normal(3)
        mean, var, _ = oracle.statistics(x)

        def run(x=x, weight=weight, bias=bias):
            statistics = oracle.statistics(x)[:2] if training else (mean, var)
            return oracle.batch_norm(x, *statistics, weight, bias)

        dx, dweight, dbias = oracle.batch_norm_gradient(x, gradient, mean, var, weight, training=training)
        np.testing.assert_allclose(dx, numeric_gradient(run, x, gradient), atol=1e-8)
        np.testing.assert_allclose(dweight, numeric_gradient(lambda w: run(weight=w), weight, gradient), atol=1e-8)
        np.testing.assert_allclose(dbias, numeric_gradient(lambda b: run(bias=b), bias, gradient), atol=1e-8)

    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_activations_are_the_derivatives(self, name):
        x = np.linspace(-7.95, 7.95, 60)  # between the corners
        numeric = numeric_gradient(lambda z: forward(z, name), x, np.ones(60))
        np.testing.assert_allclose(slope_of(x, name), numeric, atol=1e-8)


class TestBatchNormTraining:
    @pytest.mark.parametrize("name", ACTIVATIONS)
    @pytest.mark.parametrize("with_residual", [False, True])
    def test_forward_with_what_follows(self, rng, isa, threads, name, with_residual):
        for channels in edges():
            x, residual = normal(rng, 2, channels, 5, 3), normal(rng, 2, channels, 5, 3)
            weight, bias = affine(rng, channels)
            mean, var, _ = oracle.statistics(x)
            y, actual_mean, actual_var = _core.batch_norm_train(
                x, weight, bias, 1e-5, name, SLOPE, residual if with_residual else None
            )
            z = oracle.batch_norm(x, mean, var, weight, bias) + (residual if with_residual else 0)
            assert_close(y, forward(z, name), terms=4)
            assert is_channels_last(y)
            np.testing.assert_allclose(actual_mean, mean, atol=1e-6)
            np.testing.assert_allclose(actual_var, var, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_gradient(self, rng, isa, threads, name):
        for channels in edges():
            x, gradient = channels_last(normal(rng, 2, channels, 5, 3)), normal(rng, 2, channels, 5, 3)
            weight, bias = affine(rng, channels)
            y, mean, var = _core.batch_norm_train(x, weight, bias, 1e-5)
            before = gradient * slope_of(y.astype(np.float64), name)
            dx, dweight, dbias = oracle.batch_norm_gradient(x, before, mean, var, weight)
            actual = _core.batch_norm_gradient(x, gradient, mean, var, weight, bias, 1e-5, name, SLOPE)
            assert actual[3] is None
            assert is_channels_last(actual[0])
            assert_close(actual[0], dx, terms=30)
            assert_close(actual[1], dweight, terms=30)
            assert_close(actual[2], dbias, terms=30)

    @pytest.mark.parametrize(
        ("name", "from_output"),
        [(name, False) for name in ACTIVATIONS] + [(name, True) for name in DERIVATIVE_FROM_OUTPUT],
    )
    def test_gradient_with_residual(self, rng, isa, threads, name, from_output):
        for channels in edges():
            x, gradient = normal(rng, 2, channels, 5, 3), channels_last(normal(rng, 2, channels, 5, 3))
            residual, (weight, bias) = normal(rng, 2, channels, 5, 3), affine(rng, channels)
            z, mean, var = _core.batch_norm_train(x, weight, bias, 1e-5, "none", 0.0, residual)
            y, _, _ = _core.batch_norm_train(x, weight, bias, 1e-5, name, SLOPE, residual)
            before = gradient * slope_of(z.astype(np.float64), name)
            dx, dweight, dbias = oracle.batch_norm_gradient(x, before, mean, var, weight)
            kept = {"output": y} if from_output else {"residual": residual}
            actual = _core.batch_norm_gradient(
                x, gradient, mean, var, weight, bias, 1e-5, name, SLOPE, **kept, of_residual=True
            )
            assert_close(actual[3], before, factor=2)
            assert_close(actual[0], dx, terms=30)
            assert_close(actual[1], dweight, terms=30)
            assert_close(actual[2], dbias, terms=30)

    @pytest.mark.parametrize("training", [False, True])
    def test_residual_without_gradient(self, rng, isa, threads, training):
        x, gradient, residual = (normal(rng, 2, 20, 50, 40) for _ in range(3))
        weight, bias = affine(rng, 20)
        y, mean, var = _core.batch_norm_train(x, weight, bias, 1e-5, "relu", 0.0, residual)
        for name, kept in (("relu", {"output": y}), ("silu", {"residual": residual})):
            with_it, without = (
                _core.batch_norm_gradient(
                    x, gradient, mean, var, weight, bias, 1e-5, name, **kept, training=training, of_residual=wanted
                )
                for wanted in (True, False)
            )
            assert without[3] is None
            for one, other in zip(without[:3], with_it[:3], strict=True):
                np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("rows", [7, 255, 256, 257, 513, 1023, 2051])
    @pytest.mark.parametrize("channels", [5, 24, 70])
    def test_chunks_of_rows(self, rng, isa, rows, channels):
        x, gradient = normal(rng, rows, channels, 1, 1) * 3 + 1, normal(rng, rows, channels, 1, 1)
        weight, bias = affine(rng, channels)
        y, mean, var = _core.batch_norm_train(x, weight, bias, 1e-5)
        expected = oracle.batch_norm_gradient(x, gradient * (y > 0), mean, var, weight)
        actual = _core.batch_norm_gradient(x, gradient, mean, var, weight, bias, 1e-5, "relu")
        for one, other in zip(actual, expected, strict=False):
            assert_close(one, other, terms=rows)

    def test_offset_does_not_cost_digits(self, rng, isa):
        x, gradient = normal(rng, 2000, 3, 1, 1) + np.float32(1000), normal(rng, 2000, 3, 1, 1)
        _, mean, var = _core.batch_norm_train(x, None, None, 1e-5)
        expected = oracle.batch_norm_gradient(x, gradient, mean, var)
        for one, other in zip(
            _core.batch_norm_gradient(x, gradient, mean, var, None, None, 1e-5), expected, strict=False
        ):
            assert_close(one, other, terms=2000)

    @pytest.mark.parametrize("shape", [(4, 20, 60, 60), (2, 600, 16, 16)])
    def test_same_bits_for_any_thread_count(self, rng, isa, shape):
        x, gradient, residual = (normal(rng, *shape) for _ in range(3))
        results = []
        for count in (1, 2, 3):
            with convlane.num_threads(count):
                y, mean, var = _core.batch_norm_train(x, None, None, 1e-5, "relu", 0.0, residual)
                results.append(
                    (y, mean, var)
                    + _core.batch_norm_gradient(
                        x, gradient, mean, var, None, None, 1e-5, "relu", output=y, of_residual=True
                    )
                )
        for other in results[1:]:
            for one, two in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(one, two)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        convert = LAYOUTS[layout]
        if layout in ("misaligned", "big_endian"):
            convert = np.asarray  # as_array() has already converted the layout
        x, gradient, residual = (normal(rng, 2, 5, 3, 4) for _ in range(3))
        weight, bias = affine(rng, 5)
        _, mean, var = _core.batch_norm_train(convert(x), weight, bias, 1e-5, "silu", 0.0, convert(residual))
        options = {"residual": residual, "of_residual": True}
        expected = _core.batch_norm_gradient(x, gradient, mean, var, weight, bias, 1e-5, "silu", 0.0, **options)
        options["residual"] = convert(residual)
        actual = _core.batch_norm_gradient(
            convert(x), convert(gradient), mean, var, convert(weight), convert(bias), 1e-5, "silu", 0.0, **options
        )
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_relu_at_zero(self, isa):
        """A constant channel is normalised to its bias: ReLU passes no gradient at 0, but at the next number."""
        x, gradient = np.ones((2, 2, 3, 3), np.float32), np.ones((2, 2, 3, 3), np.float32)
        bias = np.array([0, 1e-30], np.float32)
        y, mean, var = _core.batch_norm_train(x, None, bias, 1e-5, "relu")
        _, _, dbias, _ = _core.batch_norm_gradient(x, gradient, mean, var, None, bias, 1e-5, "relu")
        np.testing.assert_array_equal(dbias, [0, 18])
        *_, dresidual = _core.batch_norm_gradient(
            x, gradient, mean, var, None, bias, 1e-5, "relu", output=y, of_residual=True
        )
        np.testing.assert_array_equal(dresidual[0, :, 0, 0], [0, 1])

    @pytest.mark.parametrize("name", ACTIVATIONS)
    @pytest.mark.parametrize("where", ["input", "gradient"])
    def test_nan_stays_in_its_channel(self, rng, isa, name, where):
        arrays = {"input": normal(rng, 2, 37, 3, 3), "gradient": normal(rng, 2, 37, 3, 3)}
        arrays["input"][0, 36, 1, 1] = 3  # where the activation passes the gradient
        arrays[where][0, 36, 1, 1] = np.nan
        _, mean, var = _core.batch_norm_train(arrays["input"], None, None, 1e-5)
        actual = _core.batch_norm_gradient(
            arrays["input"], arrays["gradient"], mean, var, None, None, 1e-5, name, SLOPE
        )
        for result in actual[:2]:
            assert np.isnan(np.moveaxis(result, result.ndim > 1, 0)[36]).all()
        for result in actual[:3]:
            assert np.isfinite(np.moveaxis(result, result.ndim > 1, 0)[:36]).all()

    def test_only_what_is_asked_for(self, rng):
        x, gradient = normal(rng, 2, 5, 3, 3), normal(rng, 2, 5, 3, 3)
        _, mean, var = _core.batch_norm_train(x, None, None, 1e-5)
        args = (x, gradient, mean, var, None, None, 1e-5)
        whole = _core.batch_norm_gradient(*args, of_residual=True)
        for flag, kept in [("of_input", {0}), ("of_vectors", {1, 2}), ("of_residual", {3})]:
            flags = {"of_input": False, "of_vectors": False, "of_residual": False, flag: True}
            for i, result in enumerate(_core.batch_norm_gradient(*args, **flags)):
                if i in kept:
                    np.testing.assert_array_equal(result, whole[i])
                else:
                    assert result is None

    @pytest.mark.torch
    @pytest.mark.parametrize("name", ACTIVATIONS)
    @pytest.mark.parametrize("with_residual", [True, False])
    def test_agrees_with_torch(self, rng, name, with_residual):
        import torch

        x, gradient, residual = (normal(rng, 2, 5, 3, 4) for _ in range(3))
        weight, bias = affine(rng, 5)
        tensors = [torch.from_numpy(array).double().requires_grad_() for array in (x, weight, bias, residual)]
        z = torch.nn.functional.batch_norm(tensors[0], None, None, *tensors[1:3], training=True)
        z = z + tensors[3] if with_residual else z + 0 * tensors[3]
        options = {activations.ARGUMENTS[name]: SLOPE} if name in activations.ARGUMENTS else {}
        y = z if name == "none" else getattr(torch.nn.functional, name)(z, **options)
        y.backward(torch.from_numpy(gradient).double())
        expected = [tensor.grad.numpy() for tensor in tensors]
        y, mean, var = _core.batch_norm_train(x, weight, bias, 1e-5, name, SLOPE, residual if with_residual else None)
        kept = {"residual": residual} if with_residual else {}
        actual = _core.batch_norm_gradient(
            x, gradient, mean, var, weight, bias, 1e-5, name, SLOPE, **kept, of_residual=with_residual
        )
        for one, other in zip(actual, expected, strict=True):
            if one is not None:
                assert_close(one, other, terms=24, factor=2)


class TestBatchNormWithGivenStatistics:
    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_gradient(self, rng, isa, threads, name):
        for channels in edges():
            x, gradient = normal(rng, 2, channels, 5, 3), normal(rng, 2, channels, 5, 3)
            weight, bias = affine(rng, channels)
            mean, var = normal(rng, channels), rng.uniform(0.5, 2, channels).astype(np.float32)
            z = _core.batch_norm(x, mean, var, weight, bias, 1e-5).astype(np.float64)
            before = gradient * slope_of(z, name)
            expected = oracle.batch_norm_gradient(x, before, mean, var, weight, training=False)
            actual = _core.batch_norm_gradient(
                x, gradient, mean.astype(float), var.astype(float), weight, bias, 1e-5, name, SLOPE, training=False
            )
            for one, other in zip(actual, expected, strict=False):
                assert_close(one, other, terms=30)

    def test_infinite_input_does_not_reach_the_gradient(self, isa):
        """Without an activation the gradient does not depend on the input."""
        x, one = np.full((1, 3, 2, 2), np.inf, np.float32), np.ones(3)
        dx, _, _, _ = _core.batch_norm_gradient(
            x, np.ones_like(x), one, one, None, None, 0.0, training=False, of_vectors=False
        )
        np.testing.assert_array_equal(dx, np.ones_like(x))

    @pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
    def test_empty(self, shape):
        x, vector = np.ones(shape, np.float32), np.ones(shape[1])
        dx, dweight, dbias, _ = _core.batch_norm_gradient(x, x, vector, vector, None, None, 1e-5, training=False)
        assert dx.shape == shape
        np.testing.assert_array_equal(dweight, np.zeros(shape[1]))
        np.testing.assert_array_equal(dbias, np.zeros(shape[1]))


class TestLocalResponseNorm:
    def test_oracle_is_the_derivative(self, rng):
        x, gradient = rng.standard_normal((1, 6, 1, 2)), rng.standard_normal((1, 6, 1, 2))
        for size in (1, 2, 3, 5, 9):
            args = (size, 0.5, 0.6, 2.0)
            numeric = numeric_gradient(lambda z, args=args: oracle.local_response_norm(z, *args), x, gradient)
            np.testing.assert_allclose(oracle.local_response_norm_gradient(x, gradient, *args), numeric, atol=1e-9)

    @pytest.mark.parametrize("size", [1, 2, 4, 5])
    def test_tile_edges(self, rng, isa, threads, size):
        for channels in edges()[:-1]:
            x, gradient = 5 * normal(rng, 2, channels, 2, 3), channels_last(normal(rng, 2, channels, 2, 3))
            y, found = by_rule(F.local_response_norm, gradient, x, size, alpha=0.1)
            np.testing.assert_array_equal(y, F.local_response_norm(x, size, alpha=0.1))
            expected = oracle.local_response_norm_gradient(x, gradient, size, alpha=0.1)
            assert_close(found["input"], expected, terms=size)
            assert is_channels_last(found["input"])

    @pytest.mark.parametrize("size", [6, 11, 100, 2**61])
    def test_window_larger_than_the_channels(self, rng, isa, size):
        x, gradient = normal(rng, 1, 5, 2, 2), normal(rng, 1, 5, 2, 2)
        same = min(size, 100) * 2 if size > 100 else size  # a window over all channels, with the same alpha / size
        expected = oracle.local_response_norm_gradient(x, gradient, same, alpha=0.5 * same / size)
        assert_close(by_rule(F.local_response_norm, gradient, x, size, alpha=0.5)[1]["input"], expected, terms=5)

    @pytest.mark.parametrize("beta", [0.75, 0.5, 0.3, 0.0, -1.0])
    def test_powers(self, rng, isa, beta):
        x, gradient = 3 * normal(rng, 1, 40, 2, 2), normal(rng, 1, 40, 2, 2)
        expected = oracle.local_response_norm_gradient(x, gradient, 5, 1.0, beta, 2.0)
        found = by_rule(F.local_response_norm, gradient, x, 5, 1.0, beta, 2.0)[1]["input"]
        assert_close(found, expected, terms=5, factor=2)

    def test_nan_reaches_its_neighbours_only(self, isa):
        """Numbers whose window contains the NaN, and numbers that share a window with one of these."""
        x, gradient = np.ones((1, 37, 1, 2), np.float32), np.ones((1, 37, 1, 2), np.float32)
        x[0, 20, 0, 0] = np.nan
        found = by_rule(F.local_response_norm, gradient, x, 5)[1]["input"]
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(found[0, :, 0, 0])), np.arange(16, 25))
        assert np.isfinite(found[0, :, 0, 1]).all()

    @pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
    def test_empty(self, shape):
        x = np.ones(shape, np.float32)
        assert by_rule(F.local_response_norm, x, x, 5)[1]["input"].shape == shape

    def test_same_bits_for_any_split_and_thread_count(self, rng, isa):
        x, gradient = normal(rng, 5, 33, 30, 30), normal(rng, 5, 33, 30, 30)
        with convlane.num_threads(1):
            whole = by_rule(F.local_response_norm, gradient, x, 5)[1]["input"]
        with convlane.num_threads(3):
            np.testing.assert_array_equal(by_rule(F.local_response_norm, gradient, x, 5)[1]["input"], whole)
        part = by_rule(F.local_response_norm, gradient[2:3], x[2:3], 5)[1]["input"]
        np.testing.assert_array_equal(part, whole[2:3])

    @pytest.mark.torch
    def test_agrees_with_torch(self, rng):
        import torch

        x, gradient = 3 * normal(rng, 2, 7, 3, 4), normal(rng, 2, 7, 3, 4)
        for args in [(1,), (4, 0.5), (5, 0.5, 0.6, 2.0)]:
            tensor = torch.from_numpy(x).double().requires_grad_()
            torch.nn.functional.local_response_norm(tensor, *args).backward(torch.from_numpy(gradient).double())
            found = by_rule(F.local_response_norm, gradient, x, *args)[1]["input"]
            assert_close(found, tensor.grad.numpy(), terms=5)


IMAGE, THREE = np.ones((2, 3, 4, 5), np.float32), np.ones(3)
GIVEN = (IMAGE, IMAGE, THREE, THREE, None, None, 1e-5)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: _core.batch_norm_gradient(IMAGE, IMAGE[:1], *GIVEN[2:]), ValueError, r"gradient must have shape \(2,"),
        (lambda: _core.batch_norm_gradient(IMAGE, IMAGE, THREE[:2], *GIVEN[3:]), ValueError, r"mean must have shape"),
        (lambda: _core.batch_norm_gradient(*GIVEN[:3], THREE[:1], *GIVEN[4:]), ValueError, r"var must have shape"),
        (lambda: _core.batch_norm_gradient(IMAGE[:0], IMAGE[:0], *GIVEN[2:]), ValueError, "no values"),
        (lambda: _core.batch_norm_gradient(*GIVEN, "swish"), ValueError, "unknown activation 'swish'"),
        (lambda: _core.batch_norm_gradient(*GIVEN, "silu", 0.0, IMAGE), ValueError, "silu does not follow from its ou"),
        (lambda: _core.batch_norm_gradient(*GIVEN, "leaky_relu", -1.0, IMAGE), ValueError, "leaky_relu does not foll"),
        (lambda: _core.batch_norm_gradient(*GIVEN, "relu", 0.0, IMAGE[:1]), ValueError, "output must have shape"),
        (lambda: _core.batch_norm_gradient(*GIVEN, "relu", 0.0, IMAGE, IMAGE), ValueError, "either output or residual"),
        (lambda: _core.batch_norm_gradient(*GIVEN, "relu", residual=IMAGE[:1]), ValueError, "residual must have shape"),
        (lambda: _core.batch_norm_gradient(IMAGE.astype(float), *GIVEN[1:]), TypeError, "input must be a float32"),
        (
            lambda: _core.batch_norm_train(IMAGE, None, None, 1e-5, "relu", 0.0, IMAGE[:1]),
            ValueError,
            "residual must h",
        ),
        (lambda: _core.batch_norm_train(IMAGE, None, None, 1e-5, "swish"), ValueError, "unknown activation"),
        (lambda: _core.local_response_norm_gradient(IMAGE, IMAGE[:1], 5, 1, 1, 1), ValueError, "gradient must have sh"),
        (lambda: by_rule(F.local_response_norm, IMAGE, IMAGE, 0), ValueError, "size must be at least 1"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
