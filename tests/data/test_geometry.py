"""Resampling, compared with its definition and with what follows from it."""

import numpy as np
import pytest

from compare import assert_close
from convlane import data
from oracles import resample as oracle

IDENTITY = [[1, 0, 0], [0, 1, 0]]
MATRICES = [IDENTITY, [[0.8, -0.6, 0.3], [0.6, 0.8, -1.7]], [[2.5, 0.1, 4], [0, 1.9, -3]], [[0, 0, 0.5], [0, 0, 0.25]]]


def picture(rng, channels=3, height=7, width=10):
    return rng.standard_normal((channels, height, width)).astype(np.float32)


@pytest.mark.parametrize("border", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("matrix", MATRICES, ids=["identity", "rotation", "shrinking", "one place"])
@pytest.mark.parametrize("samples", [1, 3])
def test_resample_is_its_definition(rng, border, matrix, samples):
    image = picture(rng)
    field = rng.uniform(-4, 4, (2, 6, 5)).astype(np.float32)
    for options in ({}, {"field": field}):
        result = data.resample(image, matrix, (6, 5), border=border, fill=0.5, samples=samples, **options)
        expected = oracle.resample(image, matrix, (6, 5), border=border, fill=0.5, samples=samples, **options)
        assert_close(result, expected, terms=4)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (2, 2)])
@pytest.mark.parametrize("border", ["constant", "edge", "reflect"])
def test_small_pictures(rng, channels, shape, border):
    image = picture(rng, channels, *shape)
    matrix = [[0.7, 0.4, 0.1], [-0.2, 1.3, 0.9]]
    expected = oracle.resample(image, matrix, (4, 5), border=border)
    assert_close(data.resample(image, matrix, (4, 5), border=border), expected, terms=4)


def test_the_identity_keeps_every_bit(rng):
    image = picture(rng, height=8, width=5)
    for border in ("constant", "edge", "reflect"):
        np.testing.assert_array_equal(data.resample(image, IDENTITY, border=border), image)
    np.testing.assert_array_equal(data.resample(image, IDENTITY, (4, 3)), image[:, 2:6, 1:4])


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_right_angles_are_exact(rng, turn):
    image = picture(rng, height=6, width=6)
    cos, sin = ((0, 1), (-1, 0), (0, -1))[turn - 1]
    # On a screen y points down, and the matrix rotates the points that are read, so the picture rotates the other way.
    np.testing.assert_array_equal(data.resample(image, [[cos, -sin, 0], [sin, cos, 0]]), np.rot90(image, turn, (1, 2)))


def test_any_layout_gives_the_same_bits(rng):
    image = picture(rng)
    expected = data.resample(image, MATRICES[1])
    for same in (np.asfortranarray(image), image[:, ::-1, ::-1].copy()[:, ::-1, ::-1], image.astype(">f4")):
        np.testing.assert_array_equal(data.resample(same, MATRICES[1]), expected)


def test_bytes_count_in_units_of_255(rng):
    image = rng.integers(0, 256, (3, 4, 4), np.uint8)
    result = data.resample(image, IDENTITY)
    np.testing.assert_allclose(result, image / 255, rtol=1e-6)
    assert result.max() <= 1


def test_points_far_away_and_nan_do_no_harm(rng):
    image = picture(rng)
    for value in (1e30, -1e30, np.inf, -np.inf, np.nan):
        field = np.full((2, 7, 10), value, np.float32)
        assert (data.resample(image, IDENTITY, field=field, fill=2.0) == 2).all()
        for border in ("edge", "reflect"):
            assert np.isin(data.resample(image, IDENTITY, field=field, border=border), image).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": np.zeros((4, 4), np.float32)}, ValueError, "must be .C, H, W."),
        ({"image": np.zeros((1, 0, 4), np.float32)}, ValueError, "without an empty side"),
        ({"image": np.zeros((1, 4, 4))}, TypeError, "float32"),
        ({"matrix": np.eye(3)}, ValueError, r"\(2, 3\)"),
        ({"matrix": np.full((2, 3), np.nan)}, ValueError, "matrix must be finite"),
        ({"size": 0}, ValueError, "size must be at least"),
        ({"size": (2, 2.5)}, TypeError, "size"),
        ({"size": (2**40, 2**40)}, (ValueError, MemoryError), None),
        ({"field": np.zeros((2, 3, 4), np.float32)}, ValueError, "field must have the shape"),
        ({"border": "wrap"}, ValueError, "'constant', 'edge' or 'reflect', got 'wrap'"),
        ({"fill": np.inf}, ValueError, "fill must be finite"),
        ({"samples": 0}, ValueError, "samples"),
        ({"samples": 65}, ValueError, "samples"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {"image": np.zeros((1, 4, 4), np.float32), "matrix": IDENTITY}
    with pytest.raises(error, match=message):
        data.resample(**{**arguments, **change})
