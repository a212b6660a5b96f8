"""linear against its oracle."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from layouts import LAYOUTS


def oracle(x, weight, bias=None):
    y = x.astype(np.float64) @ weight.astype(np.float64).T
    return y if bias is None else y + bias


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def test_tile_edges(rng, isa, threads):
    tile = _core.tile_sizes()
    for rows in (0, 1, tile["mr"] - 1, tile["mr"], tile["mr"] + 1, 2 * tile["mr"] + 1):
        for out in (1, tile["lanes"], tile["lanes"] + 1, tile["nr"], 2 * tile["nr"] + 1):
            x, weight, bias = normal(rng, rows, 19), normal(rng, out, 19), normal(rng, out)
            assert_close(F.linear(x, weight, bias), oracle(x, weight, bias), terms=19)


@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7), (0, 3, 7)])
def test_leading_dimensions(rng, shape):
    x, weight = normal(rng, *shape), normal(rng, 5, 7)
    assert_close(F.linear(x, weight), oracle(x, weight), terms=7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, layout):
    x, weight, bias = normal(rng, 6, 9), normal(rng, 5, 9), normal(rng, 5)
    y = F.linear(LAYOUTS[layout](x), LAYOUTS[layout](weight), LAYOUTS[layout](bias))
    assert_close(y, oracle(x, weight, bias), terms=9)


def test_activation_and_packed_weight(rng, isa):
    x, weight = normal(rng, 3, 40), normal(rng, 33, 40)
    y = F.linear(x, F.pack_linear(weight), activation="relu")
    assert_close(y, np.maximum(oracle(x, weight), 0), terms=40)


def test_same_bits_for_any_split_and_thread_count(rng, isa):
    x, weight = normal(rng, 20, 300), F.pack_linear(normal(rng, 1000, 300))
    with convlane.num_threads(1):
        whole = F.linear(x, weight)
    with convlane.num_threads(3):
        np.testing.assert_array_equal(F.linear(x, weight), whole)
    np.testing.assert_array_equal(np.concatenate([F.linear(x[i : i + 3], weight) for i in range(0, 20, 3)]), whole)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "error", "match"),
    [
        (
            np.zeros((2, 3), np.float32),
            np.zeros((4, 5), np.float32),
            None,
            ValueError,
            r"5\), got shape \(2, 3\)",
        ),
        (np.zeros((), np.float32), np.zeros((4, 5), np.float32), None, ValueError, "got shape"),
        (np.zeros((2, 5), np.float32), np.zeros((4, 5, 1), np.float32), None, ValueError, r"weight must be \(O, I\)"),
        (np.zeros((2, 5), np.float32), np.zeros((0, 5), np.float32), None, ValueError, "empty"),
        (np.zeros((2, 5), np.float32), np.zeros((4, 5), np.float32), np.zeros(5, np.float32), ValueError, "bias"),
        (np.zeros((2, 5)), np.zeros((4, 5), np.float32), None, TypeError, "input must be float32, got float64"),
        (np.zeros((2, 5), np.float32), np.zeros((4, 5), int), None, TypeError, "weight must be float32"),
    ],
)
def test_bad_input(x, weight, bias, error, match):
    with pytest.raises(error, match=match):
        F.linear(x, weight, bias)


def test_convolution_weight_is_refused():
    packed = F.pack_conv2d(np.zeros((4, 5, 3, 3), np.float32))
    with pytest.raises(ValueError, match="belongs to a convolution"):
        F.linear(np.zeros((2, 5), np.float32), packed)


class TestLongSums:
    """Sums of more than 4608 products are taken in blocks; in a single sequence they would lose digits."""

    def test_they_are_as_exact_as_blocks(self, isa, rng):
        x, weight = (rng.random((4, 65536), np.float32) for _ in range(2))
        exact = x.astype(np.float64) @ weight.T.astype(np.float64)
        in_a_row = np.array([[np.cumsum(a * b, dtype=np.float32)[-1] for b in weight] for a in x])
        error = np.abs(F.linear(x, weight) - exact).max() / exact.max()
        assert error < 1e-6
        assert error < np.abs(in_a_row - exact).max() / exact.max() / 4

    def test_the_same_bits_however_they_are_divided(self, isa, rng):
        x = rng.standard_normal((3, 1000, 3, 2), np.float32)
        weight = rng.standard_normal((37, 1000, 3, 2), np.float32)
        bias = rng.standard_normal(37, np.float32)
        options = {"activation": "relu"}
        direct = F.conv2d(x, weight, bias, algorithm="direct", **options)
        np.testing.assert_array_equal(F.conv2d(x, weight, bias, algorithm="im2col", **options), direct)
        rows, columns = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).reshape(len(a), -1) for a in (x, weight))
        np.testing.assert_array_equal(F.linear(rows, columns, bias, **options), direct[:, :, 0, 0])
        np.testing.assert_array_equal(F.linear(rows, F.pack_linear(columns), bias, **options), direct[:, :, 0, 0])
        np.testing.assert_array_equal(F.linear(rows[1:2], columns, bias, **options), direct[1:2, :, 0, 0])
