"""Packed weights: unpacking, and factors that are multiplied in while packing."""

import numpy as np
import pytest

from convlane import _core
from convlane import functional as F

# O, I, KH, KW and groups: around the register tiles, around the blocks of transposes, and longer filters than those.
SHAPES = [
    ((1, 1, 1, 1), 1),
    ((5, 3, 1, 1), 1),
    ((64, 48, 1, 1), 1),
    ((65, 130, 1, 1), 1),
    ((33, 5, 3, 3), 1),
    ((70, 21, 3, 3), 1),
    ((6, 3, 7, 7), 1),
    ((17, 1, 11, 13), 1),
    ((12, 5, 3, 2), 4),
    ((98, 17, 1, 1), 2),
    ((37, 1, 3, 3), 37),
    ((64, 1, 5, 5), 64),
]
REVERSIBLE = [name for name in _core.conv2d_algorithms() if "winograd" not in name]


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def layouts(weight):
    """Return the weight in several memory orders."""
    spread = np.zeros([2 * size for size in weight.shape], np.float32)[::2, ::-2, ::2, ::2]
    spread[:] = weight
    return {"C": weight, "F": np.asfortranarray(weight), "spread": spread}


def pack(weight, groups, algorithm, *more):
    """Pack a weight; return None if the algorithm cannot take it."""
    if algorithm == "depthwise" and weight.shape[1] != 1:
        return None
    return _core.PackedWeight(weight, groups, algorithm, *more)


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@pytest.mark.parametrize("algorithm", REVERSIBLE)
def test_unpacking_gives_the_weight_back(rng, isa, threads, shape, groups, algorithm):
    weight = normal(rng, *shape)
    weight.flat[0] = np.nan
    for array in layouts(weight).values():
        packed = pack(array, groups, algorithm)
        if packed is not None:
            assert packed.reversible
            np.testing.assert_array_equal(packed.unpack(), weight, strict=True)


def test_unpacking_after_a_switch_of_instruction_set(rng):
    before = _core.active_isa()
    weight = normal(rng, 50, 30, 3, 3)
    try:
        for packed_for in _core.supported_isas():
            _core.set_active_isa(packed_for)
            packed = F.pack_conv2d(weight)
            for active in _core.supported_isas():
                _core.set_active_isa(active)
                np.testing.assert_array_equal(packed.unpack(), weight)
    finally:
        _core.set_active_isa(before)


@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4"])
def test_winograd_s_weights_cannot_be_unpacked(rng, algorithm):
    packed = F.pack_conv2d(normal(rng, 4, 3, 3, 3), algorithm=algorithm)
    assert not packed.reversible
    with pytest.raises(ValueError, match="cannot be unpacked"):
        packed.unpack()


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@pytest.mark.parametrize("algorithm", REVERSIBLE)
def test_factors_multiply_in_float64(rng, isa, threads, shape, groups, algorithm):
    weight, factor = normal(rng, *shape), rng.standard_normal(shape[0])
    expected = (weight * factor[:, None, None, None]).astype(np.float32)
    for array in layouts(weight).values():
        packed = pack(array, groups, algorithm, factor)
        if packed is not None:
            np.testing.assert_array_equal(packed.unpack(), expected, strict=True)


@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4"])
@pytest.mark.parametrize(("size", "groups"), [((5, 3), 1), ((65, 37), 1), ((64, 16), 1), ((63, 4), 9), ((120, 40), 3)])
def test_factors_for_winograd(rng, isa, threads, algorithm, size, groups):
    weight, factor = normal(rng, *size, 3, 3), rng.standard_normal(size[0])
    folded = (weight * factor[:, None, None, None]).astype(np.float32)
    x = normal(rng, 1, groups * size[1], 9, 7)
    expected = F.conv2d(x, folded, groups=groups, algorithm=algorithm)
    for array in layouts(weight).values():
        packed = _core.PackedWeight(array, groups, algorithm, factor)
        np.testing.assert_array_equal(F.conv2d(x, packed, groups=groups, algorithm=algorithm), expected)


@pytest.mark.parametrize("factor", [np.ones(3), np.ones((4, 1)), np.ones(5)])
def test_wrong_factors(factor):
    with pytest.raises(ValueError, match="one factor for each output channel"):
        _core.PackedWeight(np.zeros((4, 3, 1, 1), np.float32), 1, "auto", factor)


@pytest.mark.parametrize("shape", [(7, 5, 2, 3), (65, 70, 4, 4), (10, 1, 9, 9)])
def test_flat_weights_read_images_channels_last(rng, isa, threads, shape):
    weight, x = normal(rng, *shape), normal(rng, 3, *shape[1:])
    packed = _core.PackedWeight(weight, 1, "im2col", None, True)
    columns = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(len(weight), -1)
    assert packed.shape == (*columns.shape, 1, 1)
    np.testing.assert_array_equal(packed.unpack()[:, :, 0, 0], columns)
    pixels = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(3, -1)
    np.testing.assert_array_equal(F.linear(pixels, packed), F.linear(pixels, columns))


@pytest.mark.parametrize(("algorithm", "groups"), [("winograd2", 1), ("reference", 1), ("im2col", 2)])
def test_flat_weights_are_panels(algorithm, groups):
    with pytest.raises(ValueError, match="only panels of one group can be flat"):
        _core.PackedWeight(np.zeros((4, 3, 3, 3), np.float32), groups, algorithm, None, True)
