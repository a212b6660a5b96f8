"""Batch normalisation and local response normalisation against their oracles."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from layouts import LAYOUTS
from oracles import norm as oracle


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def affine(rng, channels):
    """Mean, variance, weight and bias."""
    mean, weight, bias = (normal(rng, channels) for _ in range(3))
    return mean, rng.uniform(0.5, 2, channels).astype(np.float32), weight, bias


def edges():
    """Sizes around one vector and around the three vectors that statistics process at a time."""
    lanes = _core.tile_sizes()["lanes"]
    return [1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, 3 * lanes, 3 * lanes + 1]


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


class TestBatchNormWithGivenStatistics:
    def test_tile_edges(self, rng, isa, threads):
        for channels in edges():
            for shape in [(3, channels), (2, channels, 5, 3)]:
                x, (mean, var, weight, bias) = normal(rng, *shape), affine(rng, channels)
                y = F.batch_norm(x, mean, var, weight, bias)
                assert_close(y, oracle.batch_norm(x, mean, var, weight, bias))
                assert y.flags.c_contiguous if y.ndim == 2 else is_channels_last(y)
                assert rules(F.batch_norm).shape(x, mean, var) == y.shape

    @pytest.mark.parametrize("with_weight", [False, True])
    @pytest.mark.parametrize("with_bias", [False, True])
    def test_optional_vectors(self, rng, with_weight, with_bias):
        x, (mean, var, weight, bias) = normal(rng, 2, 5, 3, 3), affine(rng, 5)
        args = (mean, var, weight if with_weight else None, bias if with_bias else None)
        assert_close(F.batch_norm(x, *args, eps=1e-3), oracle.batch_norm(x, *args, eps=1e-3))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        convert = LAYOUTS[layout]
        x, vectors = normal(rng, 2, 5, 3, 4), affine(rng, 5)
        assert_close(F.batch_norm(convert(x), *map(convert, vectors)), oracle.batch_norm(x, *vectors))
        assert_close(F.batch_norm(convert(x[:, :, 0, 0]), *vectors), oracle.batch_norm(x[:, :, 0, 0], *vectors))

    def test_offset_does_not_cost_digits(self, rng, isa):
        """The mean is subtracted before anything is rounded."""
        x, (_, var, weight, bias) = normal(rng, 2, 5, 3, 3) + np.float32(1e4), affine(rng, 5)
        mean = np.full(5, 1e4, np.float32)
        assert_close(F.batch_norm(x, mean, var, weight, bias), oracle.batch_norm(x, mean, var, weight, bias))

    def test_variance_zero_and_negative(self, isa):
        x, one = np.full((1, 2, 2, 2), 3, np.float32), np.ones(2, np.float32)
        y = F.batch_norm(x, 3 * one, np.array([0, -1], np.float32))
        np.testing.assert_array_equal(y[0, 0], np.zeros((2, 2)))
        assert np.isnan(y[0, 1]).all()

    def test_non_finite_values_stay_where_they_are(self, isa):
        x, one = np.ones((1, 37, 2, 2), np.float32), np.ones(37, np.float32)
        x[0, 36, 1, 0], x[0, 3, 0, 0] = np.nan, np.inf
        y = F.batch_norm(x, one, one)
        assert np.isnan(y[0, 36, 1, 0])
        assert y[0, 3, 0, 0] == np.inf
        assert np.isfinite(y).sum() == y.size - 2

    @pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (0, 3), (2, 3, 0, 4)])
    def test_empty(self, shape):
        channels = np.ones(shape[1], np.float32)
        assert F.batch_norm(np.ones(shape, np.float32), channels, channels).shape == shape

    @pytest.mark.torch
    def test_agrees_with_torch(self, rng):
        import torch

        x, vectors = normal(rng, 2, 5, 3, 4), affine(rng, 5)
        tensors = [torch.from_numpy(array) for array in (x, *vectors)]
        assert_close(F.batch_norm(x, *vectors), torch.nn.functional.batch_norm(*(t.double() for t in tensors)).numpy())


class TestBatchNormTraining:
    def test_tile_edges(self, rng, isa, threads):
        for channels in edges():
            for shape in [(7, channels), (2, channels, 5, 3)]:
                x, (running_mean, running_var, weight, bias) = normal(rng, *shape), affine(rng, channels)
                mean, var, unbiased = oracle.statistics(x)
                expected_mean = 0.7 * running_mean.astype(np.float64) + 0.3 * mean
                expected_var = 0.7 * running_var.astype(np.float64) + 0.3 * unbiased
                y = F.batch_norm(x, running_mean, running_var, weight, bias, training=True, momentum=0.3)
                assert_close(y, oracle.batch_norm(x, mean, var, weight, bias), terms=4)
                assert_close(running_mean, expected_mean)
                assert_close(running_var, expected_var)

    def test_unbiased_running_variance(self):
        """As in torch, the values 0 and 2 have the biased variance 1 and the unbiased variance 2."""
        mean, var = np.zeros(1, np.float32), np.ones(1, np.float32)
        F.batch_norm(np.array([[0], [2]], np.float32), mean, var, training=True)
        np.testing.assert_allclose(mean, [0.1], rtol=1e-6)
        np.testing.assert_allclose(var, [1.1], rtol=1e-6)

    @pytest.mark.parametrize("rows", [255, 256, 257, 513, 1000])
    def test_chunks_of_rows(self, rng, isa, rows):
        x = normal(rng, rows, 3) * np.float32([1, 100, 1e-3])
        mean, var, _ = oracle.statistics(x)
        _, actual_mean, actual_var = _core.batch_norm_train(x[:, :, None, None], None, None, 1e-5)
        np.testing.assert_allclose(actual_mean, mean, rtol=1e-5, atol=1e-6 * np.sqrt(var).max())
        np.testing.assert_allclose(actual_var, var, rtol=1e-6)

    def test_offset_does_not_cost_digits(self, rng, isa):
        """With a mean of 1000 times the deviation, E[x^2] - E[x]^2 would have no correct digit."""
        x = normal(rng, 2000, 2) + np.float32(1000)
        mean, var, _ = oracle.statistics(x)
        y, actual_mean, actual_var = _core.batch_norm_train(x[:, :, None, None], None, None, 1e-5)
        assert_close(y[:, :, 0, 0], oracle.batch_norm(x, mean, var))
        np.testing.assert_allclose(actual_mean, mean, rtol=1e-9)
        np.testing.assert_allclose(actual_var, var, rtol=1e-6)

    def test_constant_channel(self, isa):
        y = F.batch_norm(np.full((2, 1, 3, 3), 0.1, np.float32), None, None, training=True)
        np.testing.assert_array_equal(y, np.zeros_like(y))

    def test_same_bits_for_any_thread_count(self, rng, isa):
        x = normal(rng, 4, 20, 60, 60)
        with convlane.num_threads(1):
            whole = _core.batch_norm_train(x, None, None, 1e-5)
        with convlane.num_threads(3):
            for one, other in zip(whole, _core.batch_norm_train(x, None, None, 1e-5), strict=True):
                np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        x = normal(rng, 2, 5, 3, 4)
        mean, var, _ = oracle.statistics(x)
        y = F.batch_norm(LAYOUTS[layout](x), None, None, training=True)
        assert_close(y, oracle.batch_norm(x, mean, var), terms=4)

    def test_nan_stays_in_its_channel(self, isa):
        x = np.random.default_rng(0).random((2, 37, 3, 3), np.float32)
        x[0, 36, 1, 1] = np.nan
        mean, var = np.zeros(37, np.float32), np.ones(37, np.float32)
        y = F.batch_norm(x, mean, var, training=True)
        for result in (y, mean[None], var[None]):
            assert np.isnan(result[:, 36]).all()
            assert np.isfinite(result[:, :36]).all()

    def test_running_statistics_of_any_stride(self, rng):
        x, mean, var = normal(rng, 4, 3), np.zeros(6, np.float32), np.ones(6, np.float32)
        F.batch_norm(x, mean[::2], var[::-2], training=True, momentum=1)
        expected = oracle.statistics(x)
        assert_close(mean[::2].copy(), expected[0])
        assert_close(var[::-2].copy(), expected[2])
        np.testing.assert_array_equal(mean[1::2], np.zeros(3))

    @pytest.mark.torch
    @pytest.mark.parametrize("shape", [(3, 5), (2, 5, 3, 4)])
    def test_agrees_with_torch(self, rng, shape):
        import torch

        x, (mean, var, weight, bias) = normal(rng, *shape), affine(rng, 5)
        tensors = [torch.tensor(array) for array in (x, mean, var, weight, bias)]
        expected = torch.nn.functional.batch_norm(*tensors, training=True)
        y = F.batch_norm(x, mean, var, weight, bias, training=True)
        assert_close(y, expected.double().numpy(), terms=4)
        assert_close(mean, tensors[1].double().numpy())
        assert_close(var, tensors[2].double().numpy())


class TestLocalResponseNorm:
    @pytest.mark.parametrize("size", [1, 2, 4, 5])
    def test_tile_edges(self, rng, isa, threads, size):
        for channels in edges():
            x = 5 * normal(rng, 2, channels, 2, 3)
            y = F.local_response_norm(x, size, alpha=0.1)
            assert_close(y, oracle.local_response_norm(x, size, alpha=0.1))
            assert is_channels_last(y)
            assert rules(F.local_response_norm).shape(x, size) == y.shape

    @pytest.mark.parametrize("size", [6, 7, 11, 100, 2**61])
    def test_window_larger_than_the_channels(self, rng, isa, size):
        x = normal(rng, 1, 5, 2, 2)
        expected = x / (1 + 0.5 / size * (x.astype(np.float64) ** 2).sum(axis=1, keepdims=True)) ** 0.75
        if size >= 10:
            assert_close(F.local_response_norm(x, size, alpha=0.5), expected)
        if size <= 100:
            assert_close(F.local_response_norm(x, size, alpha=0.5), oracle.local_response_norm(x, size, alpha=0.5))

    @pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.3, 2.0, 0.0, -1.0])
    @pytest.mark.parametrize("k", [1.0, 2.0])
    def test_accuracy_of_the_power(self, rng, isa, beta, k):
        """The error is relative to each value: the power is accurate over many orders of magnitude."""
        x = (10.0 ** rng.uniform(-3, 4, (1, 64, 8, 8))).astype(np.float32)
        y = F.local_response_norm(x, 5, alpha=1.0, beta=beta, k=k)
        np.testing.assert_allclose(y, oracle.local_response_norm(x, 5, alpha=1.0, beta=beta, k=k), rtol=2e-6)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    @pytest.mark.parametrize("channel", [0, 20, 36])
    def test_non_finite_values_reach_their_windows_only(self, isa, value, channel):
        """A NaN makes windows NaN, an infinite sum of squares makes them 0; other channels are not affected."""
        x = np.ones((1, 37, 2, 2), np.float32)
        x[0, channel, 1, 0] = value
        y = F.local_response_norm(x, 4)
        reached = np.zeros(x.shape, bool)
        reached[0, max(channel - 1, 0) : channel + 3, 1, 0] = True
        clean = F.local_response_norm(np.ones_like(x), 4)
        np.testing.assert_array_equal(y[~reached], clean[~reached])
        neighbours = reached.copy()
        neighbours[0, channel, 1, 0] = False
        assert np.isnan(y[reached]).all() if np.isnan(value) else (y[neighbours] == 0).all()

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        x = normal(rng, 2, 7, 3, 4)
        assert_close(F.local_response_norm(LAYOUTS[layout](x), 5), oracle.local_response_norm(x, 5))

    @pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
    def test_empty(self, shape):
        assert F.local_response_norm(np.ones(shape, np.float32), 5).shape == shape

    def test_same_bits_for_any_split_and_thread_count(self, rng, isa):
        x = normal(rng, 5, 33, 30, 30)
        with convlane.num_threads(1):
            whole = F.local_response_norm(x, 5)
        with convlane.num_threads(3):
            np.testing.assert_array_equal(F.local_response_norm(x, 5), whole)
        np.testing.assert_array_equal(F.local_response_norm(x[2:3], 5), whole[2:3])

    @pytest.mark.torch
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
    def test_agrees_with_torch(self, rng, size):
        import torch

        x = 3 * normal(rng, 2, 7, 3, 4)
        for args in [(size,), (size, 0.5), (size, 0.5, 0.6, 2.0)]:
            expected = torch.nn.functional.local_response_norm(torch.from_numpy(x).double(), *args).numpy()
            np.testing.assert_allclose(oracle.local_response_norm(x, *args), expected, rtol=1e-12)
            assert_close(F.local_response_norm(x, *args), expected)


IMAGE, THREE = np.ones((2, 3, 4, 5), np.float32), np.ones(3, np.float32)
READ_ONLY = np.ones(3, np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.batch_norm(THREE, THREE, THREE), ValueError, r"must be \(N, C, H, W\), \(N, C\), .*, got \(3,\)"),
        (lambda: F.batch_norm(IMAGE, None, THREE), ValueError, "running_mean and running_var are required"),
        (
            lambda: F.batch_norm(IMAGE, THREE[:2], THREE),
            ValueError,
            r"batch_norm: running_mean must have shape \(3,\), got \(2",
        ),
        (lambda: F.batch_norm(IMAGE, THREE, THREE[None]), ValueError, "running_var must have shape"),
        (
            lambda: F.batch_norm(np.ones((3, 8, 5), np.float32), THREE, THREE),
            ValueError,
            r"\(8,\), got \(3,\), for the 8 channels of input .* needs a batch in front: \(1, 3, 8, 5\)",
        ),
        (lambda: F.batch_norm(IMAGE, THREE, THREE, THREE[:1]), ValueError, "weight must have shape"),
        (lambda: F.batch_norm(IMAGE, THREE, THREE, THREE, THREE[:1]), ValueError, "bias must have shape"),
        (lambda: F.batch_norm(IMAGE, THREE, THREE, THREE.astype(int)), TypeError, "batch_norm: weight must be float32"),
        (lambda: F.batch_norm(IMAGE, THREE.astype(float), THREE), TypeError, "running_mean must be float32"),
        (lambda: F.batch_norm(IMAGE.astype(float), THREE, THREE), TypeError, "batch_norm: input must be float32"),
        (lambda: F.batch_norm(IMAGE, THREE, THREE, eps="1e-5"), TypeError, "batch_norm: eps must be a number"),
        (lambda: F.batch_norm(IMAGE, THREE, THREE, training=True, momentum=None), TypeError, "momentum must be a"),
        (lambda: F.batch_norm(IMAGE[:1, :, :1, :1], THREE, THREE, training=True), ValueError, "more than 1 value per"),
        (lambda: F.batch_norm(IMAGE[:0], None, None, training=True), ValueError, "more than 1 value per channel"),
        (lambda: F.batch_norm(IMAGE, READ_ONLY, THREE, training=True), ValueError, "running_mean is read-only"),
        (lambda: F.batch_norm(IMAGE, THREE, THREE.astype(float), training=True), TypeError, "running_var must be a fl"),
        (lambda: F.batch_norm(IMAGE, THREE, [1, 1, 1], training=True), TypeError, "running_var must be a .* got list"),
        (lambda: F.batch_norm(IMAGE, THREE[:2], THREE, training=True), ValueError, r"shape \(3,\), got \(2,\)"),
        (lambda: F.local_response_norm(IMAGE[0], 5), ValueError, r"input must be \(N, C, H, W\), got shape \(3, 4, 5"),
        (lambda: F.local_response_norm(IMAGE, 0), ValueError, "local_response_norm: size must be at least 1, got 0"),
        (lambda: F.local_response_norm(IMAGE, -3), ValueError, "size must be at least 1, got -3"),
        (lambda: F.local_response_norm(IMAGE, 2.0), TypeError, "size must be an integer"),
        (lambda: F.local_response_norm(IMAGE, 2**63), ValueError, "size is out of range"),
        (lambda: F.local_response_norm(IMAGE, 5, alpha="a"), TypeError, "alpha must be a number"),
        (lambda: F.local_response_norm(None, 5), TypeError, "local_response_norm: input must be a NumPy array"),
        (lambda: _core.batch_norm(IMAGE, THREE[:2], THREE, None, None, 1e-5), ValueError, "running_mean must have"),
        (lambda: _core.batch_norm_train(IMAGE[:0], None, None, 1e-5), ValueError, "no values"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_nothing_is_updated_when_an_error_is_raised():
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    for bad in [{"weight": THREE[:2]}, {"running_var": READ_ONLY}, {"input": IMAGE[:1, :, :1, :1]}, {"eps": None}]:
        arguments = {"input": IMAGE, "running_mean": mean, "running_var": var, "training": True, **bad}
        with pytest.raises((TypeError, ValueError)):
            F.batch_norm(**arguments)
        np.testing.assert_array_equal(mean, np.zeros(3))
        np.testing.assert_array_equal(var, np.ones(3))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 6), st.integers(2, 6)),
    size=st.integers(1, 9),
)
def test_random_shapes(shape, size):
    x = normal(np.random.default_rng(sum(shape)), *shape)
    mean, var, _ = oracle.statistics(x)
    y = F.batch_norm(x, None, None, training=True, eps=0.1)
    assert_close(y, oracle.batch_norm(x, mean, var, eps=0.1), terms=4)
    assert_close(F.local_response_norm(x, size, alpha=1), oracle.local_response_norm(x, size, alpha=1))
