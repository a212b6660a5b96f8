"""Layer normalisation and its gradient against their oracles, over the last dimensions and over channels."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import norm as oracle


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def edges():
    """Sizes around one vector and several; the images have more rows than one chunk of the gradient's sums."""
    lanes = _core.tile_sizes()["lanes"]
    return [1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes + 5, 257]


def affine(rng, *shape):
    return rng.uniform(0.5, 2, shape).astype(np.float32), normal(rng, *shape)


def last(x):
    """Move the channels to the last dimension, as the oracle expects."""
    return np.moveaxis(x, 1, -1)


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_oracle_is_the_derivative(rng):
    x, gradient = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    weight, bias = rng.standard_normal(4), rng.standard_normal(4)
    dx, dweight, dbias = oracle.layer_norm_gradient(x, gradient, weight)

    def run(x=x, weight=weight, bias=bias):
        return oracle.layer_norm(x, weight, bias)

    np.testing.assert_allclose(dx, numeric_gradient(run, x, gradient), atol=1e-8)
    np.testing.assert_allclose(dweight, numeric_gradient(lambda w: run(weight=w), weight, gradient), atol=1e-8)
    np.testing.assert_allclose(dbias, numeric_gradient(lambda b: run(bias=b), bias, gradient), atol=1e-8)


@pytest.mark.parametrize("with_vectors", [True, False])
def test_channels(rng, isa, threads, with_vectors):
    for channels in edges():
        x = normal(rng, 2, channels, 9, 11)
        vectors = affine(rng, channels) if with_vectors else (None, None)
        y = F.channel_norm(x, *vectors)
        assert_close(last(y), oracle.layer_norm(last(x), *vectors), terms=9)
        assert is_channels_last(y)
        assert rules(F.channel_norm).shape(x, *vectors) == y.shape


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 5), (2, 3, 4, 5), (2, 1, 3, 1, 4)])
def test_last_dimensions(rng, isa, shape):
    for count in range(1, len(shape) + 1):
        x, sizes = normal(rng, *shape), shape[-count:]
        weight, bias = affine(rng, *sizes)
        y = F.layer_norm(x, sizes, weight, bias)
        flat = x.reshape(*shape[: len(shape) - count], -1)
        expected = oracle.layer_norm(flat, weight.ravel(), bias.ravel()).reshape(shape)
        assert_close(y, expected, terms=9)
        assert is_channels_last(y) if y.ndim == 4 else y.flags.c_contiguous
        assert rules(F.layer_norm).shape(x, sizes, weight, bias) == y.shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, layout):
    x, gradient = normal(rng, 2, 5, 3, 4), normal(rng, 2, 5, 3, 4)
    weight, bias = affine(rng, 5)
    given = LAYOUTS[layout](x)
    before = given.tobytes()
    assert_close(last(F.channel_norm(given, weight, bias)), oracle.layer_norm(last(x), weight, bias), terms=9)
    over_width = oracle.layer_norm(x, None, None)
    assert_close(F.layer_norm(given, (4,)), over_width, terms=9)
    dx, _, _ = oracle.layer_norm_gradient(last(x), last(gradient), weight)
    if layout not in ("big_endian", "misaligned"):
        _, found = by_rule(F.channel_norm, LAYOUTS[layout](gradient), given, weight, bias)
        assert_close(last(found["input"]), dx, terms=20)
    assert given.tobytes() == before, "the input is only read"


def test_offset_costs_no_digits(rng, isa):
    x = normal(rng, 3, 100) + np.float32(1e4)
    np.testing.assert_allclose(F.layer_norm(x, (100,)), oracle.layer_norm(x), atol=2e-3)
    constant = np.full((2, 37), 1e30, np.float32)
    np.testing.assert_array_equal(F.layer_norm(constant, (37,)), np.zeros((2, 37)))


def test_nan_stays_in_its_row(rng, isa):
    x = normal(rng, 5, 20)
    x[2, 19] = np.nan
    y = F.layer_norm(x, (20,))
    assert np.isnan(y[2]).all()
    assert np.isfinite(np.delete(y, 2, axis=0)).all()


@pytest.mark.parametrize("with_weight", [True, False])
def test_gradient(rng, isa, threads, with_weight):
    for channels in edges()[1:]:
        x, gradient = normal(rng, 2, channels, 9, 11), normal(rng, 2, channels, 9, 11)
        weight, bias = affine(rng, channels) if with_weight else (None, None)
        wanted = ("input", "weight", "bias") if with_weight else ("input",)
        y, found = by_rule(F.channel_norm, gradient, x, weight, bias, wanted=wanted)
        np.testing.assert_array_equal(y, F.channel_norm(x, weight, bias))
        expected = oracle.layer_norm_gradient(last(x), last(gradient), weight)
        # Terms of this size cancel if the few values of a pixel are close to each other.
        size = (
            np.abs(gradient).max() * (2 if with_weight else 1) / np.sqrt(x.astype(np.float64).var(axis=1).min() + 1e-5)
        )
        assert_close(last(found["input"]), expected[0], terms=30, scale=size)
        for name, right in zip(wanted[1:], expected[1:], strict=False):
            assert_close(found[name], right, terms=200)


@pytest.mark.parametrize("wanted", [("input",), ("weight",), ("bias",), ("weight", "bias"), ("input", "bias")])
def test_only_what_is_wanted(rng, wanted):
    x, gradient = normal(rng, 3, 4, 6), normal(rng, 3, 4, 6)
    weight, bias = affine(rng, 4, 6)
    _, found = by_rule(F.layer_norm, gradient, x, (4, 6), weight, bias, wanted=wanted)
    flat = [array.reshape(3, 24) for array in (x, gradient)]
    expected = dict(zip(("input", "weight", "bias"), oracle.layer_norm_gradient(*flat, weight.ravel()), strict=True))
    for name in wanted:
        assert_close(found[name], expected[name].reshape(found[name].shape), terms=30)


def test_matrices_and_empty(rng):
    x, gradient = normal(rng, 3, 8), normal(rng, 3, 8)
    np.testing.assert_array_equal(F.channel_norm(x), F.layer_norm(x, (8,)))
    _, found = by_rule(F.channel_norm, gradient, x)
    assert_close(found["input"], oracle.layer_norm_gradient(x, gradient)[0], terms=30)
    none = np.zeros((0, 3, 4, 5), np.float32)
    assert F.channel_norm(none).shape == none.shape
    _, found = by_rule(F.channel_norm, none, none, np.ones(3, np.float32), wanted=("input", "weight"))
    assert found["input"].shape == none.shape
    np.testing.assert_array_equal(found["weight"], np.zeros(3))


def test_the_same_bits_for_any_number_of_threads_and_split(rng):
    x, gradient = normal(rng, 3, 96, 28, 28), normal(rng, 3, 96, 28, 28)
    weight, bias = affine(rng, 96)
    runs = []
    for count in (1, 2, 5):
        with convlane.num_threads(count):
            y, found = by_rule(F.channel_norm, gradient, x, weight, bias, wanted=("input", "weight", "bias"))
            runs.append((y, *found.values()))
    for run in runs[1:]:
        for array, first in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(array, first)
    np.testing.assert_array_equal(F.channel_norm(x[1:2], weight, bias), runs[0][0][1:2])


def without_first(rng, *shape):
    """Return rows in which some of the numbers are almost 0, so that terms do not cancel."""
    return normal(rng, *shape) + np.float32(0.5)


@pytest.mark.parametrize("with_weight", [True, False])
def test_rms_norm(rng, isa, threads, with_weight):
    for size in [*edges(), 5000]:
        x, gradient = without_first(rng, 3, size), normal(rng, 3, size)
        weight = affine(rng, size)[0] if with_weight else None
        wanted = ("input", "weight") if with_weight else ("input",)
        y, found = by_rule(F.rms_norm, gradient, x, (size,), weight, 0.1, wanted=wanted)
        assert_close(y, oracle.rms_norm(x, weight, 0.1), terms=9)
        np.testing.assert_array_equal(y, F.rms_norm(x, [size], weight, 0.1))
        inverse = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 0.1)
        inner = gradient * (1.0 if weight is None else weight.astype(np.float64))
        expected = inverse * (inner - x * inverse**2 * (inner * x).mean(1, keepdims=True))
        assert_close(found["input"], expected, terms=30, scale=np.abs(inner * inverse).max())
        if with_weight:
            assert_close(found["weight"], (gradient * x * inverse).sum(0), terms=9)


def test_rms_norm_of_more_dimensions(rng):
    x, weight = normal(rng, 2, 3, 4, 5), normal(rng, 4, 5)
    y = F.rms_norm(x, (4, 5), weight)
    assert_close(y, oracle.rms_norm(x.reshape(2, 3, 20), weight.ravel()).reshape(x.shape), terms=9)
    assert is_channels_last(y)
    assert rules(F.rms_norm).shape(x, (4, 5), weight) == y.shape
    x[0, 1, 2, 3] = np.nan
    y = F.rms_norm(x, (5,))
    assert np.isnan(y[0, 1, 2]).all()
    assert np.isnan(y).sum() == 5


def test_long_rows_round_little(rng, isa):
    x = normal(rng, 1, 300_000)
    assert_close(F.layer_norm(x, (300_000,)), oracle.layer_norm(x))
    assert_close(F.rms_norm(x, (300_000,)), oracle.rms_norm(x))


@pytest.mark.torch
def test_rms_norm_agrees_with_torch(rng):
    import torch

    x, weight = normal(rng, 2, 3, 4, 5), normal(rng, 4, 5)
    for eps in (None, 0.1):
        expected = torch.nn.functional.rms_norm(torch.tensor(x), (4, 5), torch.tensor(weight), eps)
        np.testing.assert_allclose(F.rms_norm(x, (4, 5), weight, eps), expected, atol=1e-5)


@pytest.mark.torch
def test_agrees_with_torch(rng):
    import torch

    x, (weight, bias) = normal(rng, 2, 3, 4, 5), affine(rng, 4, 5)
    expected = torch.nn.functional.layer_norm(*map(torch.tensor, (x,)), (4, 5), *map(torch.tensor, (weight, bias)), 0.1)
    np.testing.assert_allclose(F.layer_norm(x, (4, 5), weight, bias, 0.1), expected, atol=1e-5)


IMAGE = np.ones((2, 3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: F.layer_norm(IMAGE, (4,)),
            ValueError,
            r"shape \(2, 3, 4, 5\) does not end in normalized_shape=\(4,\)",
        ),
        (lambda: F.layer_norm(IMAGE, ()), ValueError, "does not end in"),
        (lambda: F.layer_norm(IMAGE, 5), TypeError, "normalized_shape must be a list or a tuple, got int"),
        (lambda: F.layer_norm(IMAGE, (5.0,)), TypeError, "normalized_shape must be an integer"),
        (
            lambda: F.layer_norm(IMAGE, (5,), np.ones(4, np.float32)),
            ValueError,
            r"weight must have shape \(5,\), got \(4,\)",
        ),
        (lambda: F.layer_norm("image", (5,)), TypeError, "layer_norm: input must be a NumPy array"),
        (lambda: F.layer_norm(IMAGE, (5,), eps="1"), TypeError, "layer_norm: eps must be a number"),
        (lambda: F.rms_norm(IMAGE, (4,)), ValueError, r"rms_norm: shape \(2, 3, 4, 5\) does not end in"),
        (lambda: F.rms_norm(IMAGE, (5,), eps="1"), TypeError, "rms_norm: eps must be a number"),
        (lambda: F.rms_norm(IMAGE, (5,), np.ones(4, np.float32)), ValueError, "rms_norm: weight must have shape"),
        (lambda: F.channel_norm(IMAGE[0]), ValueError, r"channel_norm: input must be \(N, C, H, W\) or \(N, C\), got"),
        (lambda: F.channel_norm(IMAGE, bias=np.ones(4, np.float32)), ValueError, r"bias must have shape \(3,\), got"),
        (lambda: F.channel_norm(IMAGE.astype(float)), TypeError, "input must be float32, got float64"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
