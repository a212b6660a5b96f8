"""Moving pixels into channels and back is exact, whatever the memory layout."""

import numpy as np
import pytest

import convlane
from convlane import _core, analysis
from convlane import functional as F
from convlane.functional._op import rules
from layouts import LAYOUTS
from oracles.shuffle import pixel_shuffle


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(("factor", "channels"), [(1, 3), (2, 1), (2, 5), (2, 16), (2, 17), (3, 2), (4, 16)])
def test_definition_and_inverse(factor, channels, isa, threads, rng):
    x = normal(rng, 2, channels * factor**2, 3, 7)
    y = F.pixel_shuffle(x, factor)
    np.testing.assert_array_equal(y, pixel_shuffle(x, factor))
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    back = F.pixel_unshuffle(y, factor)
    np.testing.assert_array_equal(back, x)
    assert back.transpose(0, 2, 3, 1).flags.c_contiguous
    assert rules(F.pixel_shuffle).shape(x, factor) == y.shape
    assert rules(F.pixel_unshuffle).shape(y, factor) == x.shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, rng):
    x = normal(rng, 2, 12, 6, 4)
    np.testing.assert_array_equal(F.pixel_shuffle(LAYOUTS[layout](x), 2), pixel_shuffle(x, 2))
    np.testing.assert_array_equal(F.pixel_unshuffle(LAYOUTS[layout](pixel_shuffle(x, 2)), 2), x)


@pytest.mark.parametrize("shape", [(8, 3, 2), (2, 3, 8, 3, 2), (1, 2, 1, 2, 1, 4, 1, 2), (0, 4, 3, 3), (2, 0, 3, 3)])
def test_any_dimensions_in_front(shape, rng):
    x = normal(rng, *shape)
    y = F.pixel_shuffle(x, 2)
    np.testing.assert_array_equal(y, pixel_shuffle(x, 2))
    np.testing.assert_array_equal(F.pixel_unshuffle(y, 2), x)


def test_gradients_are_the_inverses(rng):
    x = normal(rng, 2, 8, 3, 5)
    y, pullback = convlane.vjp(lambda x: F.pixel_shuffle(x, 2), x)
    np.testing.assert_array_equal(pullback(y)[0], x)
    x, pullback = convlane.vjp(lambda y: F.pixel_unshuffle(y, 2), y)
    np.testing.assert_array_equal(pullback(x)[0], y)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "negative_strides"])
def test_compiled(layout, rng):
    x = normal(rng, 3, 12, 4, 6)
    for network in (
        lambda x: F.relu(F.pixel_shuffle(x, 2)),
        lambda x: F.pixel_unshuffle(F.relu(x), 2),
        lambda x: F.pixel_shuffle(F.reshape(F.tanh(x), (1, 3, 4, 4, 6)), 2),
    ):
        plan = convlane.compile(network, (None, 12, 4, 6))
        expected = np.concatenate([network(each[None]) for each in x])
        np.testing.assert_array_equal(plan(LAYOUTS[layout](x)), expected)
    with pytest.raises(ValueError, match="pixel_shuffle of 3 dimensions"):
        convlane.compile(lambda x: F.pixel_shuffle(x, 1), (1, 4, 4))


def test_what_pixels_see():
    def rows(function, shape):
        return analysis.receptive_field(function, shape).fields[-1].rows

    np.testing.assert_array_equal(rows(lambda x: F.pixel_shuffle(x, 2), (1, 4, 2, 2)), [[0, 0], [0, 0], [1, 1], [1, 1]])
    np.testing.assert_array_equal(rows(lambda x: F.pixel_unshuffle(x, 2), (1, 1, 4, 4)), [[0, 1], [2, 3]])


@pytest.mark.torch
def test_agrees_with_torch(rng):
    import torch

    x = normal(rng, 2, 3, 18, 3, 4)
    y = torch.nn.functional.pixel_shuffle(torch.tensor(x), 3)
    np.testing.assert_array_equal(F.pixel_shuffle(x, 3), y)
    np.testing.assert_array_equal(F.pixel_unshuffle(y.numpy(), 3), torch.nn.functional.pixel_unshuffle(y, 3))


IMAGE = np.ones((2, 6, 4, 5), np.float32)
PIXELS = F.channels_last(IMAGE)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: F.pixel_shuffle(IMAGE, 2),
            ValueError,
            r"upscale_factor=2 squared must divide C, got shape \(2, 6, 4, 5\)",
        ),
        (lambda: F.pixel_shuffle(IMAGE[0, 0], 1), ValueError, r"input must be \(\.\.\., C, H, W\)"),
        (lambda: F.pixel_shuffle(IMAGE, 0), ValueError, "upscale_factor must be at least 1, got 0"),
        (lambda: F.pixel_shuffle(IMAGE, 1.0), TypeError, r"upscale_factor must be an integer, got 1\.0"),
        (lambda: F.pixel_shuffle(IMAGE.astype(int), 1), TypeError, "pixel_shuffle: input must be float32"),
        (lambda: F.pixel_unshuffle(IMAGE, 2), ValueError, "downscale_factor=2 must divide H and W, got shape"),
        (lambda: F.pixel_unshuffle(IMAGE, -1), ValueError, "downscale_factor must be at least 1, got -1"),
        (lambda: F.pixel_unshuffle([1.0], 1), TypeError, "pixel_unshuffle: input must be a NumPy array"),
        (lambda: _core.pixel_shuffle(PIXELS, 2), ValueError, "the factor 2 squared does not divide 6 channels"),
        (lambda: _core.pixel_shuffle(PIXELS, 2**32), ValueError, "too large"),
        (lambda: _core.pixel_shuffle(IMAGE, 1), ValueError, "the images must be channels last"),
        (lambda: _core.pixel_unshuffle(PIXELS, 2), ValueError, "the factor does not divide height and width"),
        (lambda: _core.pixel_unshuffle(PIXELS, 0), ValueError, "the factor does not divide height and width"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
