"""Depthwise convolution of any kernel, stride, dilation, channel count and multiplier, and its gradients."""

import math

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from layouts import LAYOUTS
from oracles import conv as oracle

# kernel, stride, padding (top, bottom, left, right), dilation, size: rows of taps in one part and in several, pixels
# that share columns, that do not or that are too few for either, and windows mostly or completely in the padding.
GEOMETRIES = {
    "1x1": ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), (3, 9)),
    "1x3": ((1, 3), (1, 1), (0, 0, 1, 1), (1, 1), (4, 23)),
    "3x1": ((3, 1), (1, 1), (1, 1, 0, 0), (1, 1), (9, 8)),
    "2x2": ((2, 2), (1, 1), (0, 0, 0, 0), (1, 1), (5, 16)),
    "2x2 stride 2": ((2, 2), (2, 2), (0, 1, 1, 0), (1, 1), (9, 13)),
    "4x4 stride 2": ((4, 4), (2, 2), (3, 3, 3, 3), (1, 1), (11, 17)),
    "5x5 stride 3": ((5, 5), (3, 3), (2, 2, 2, 2), (1, 1), (13, 30)),
    "6x7": ((6, 7), (1, 1), (2, 3, 3, 3), (1, 1), (8, 20)),
    "7x7 on 7x7": ((7, 7), (1, 1), (3, 3, 3, 3), (1, 1), (7, 7)),
    "7x7 stride 2": ((7, 7), (2, 2), (3, 3, 3, 3), (1, 1), (15, 19)),
    "8x8": ((8, 8), (1, 2), (4, 3, 4, 3), (1, 1), (9, 15)),
    "11x11 stride 2": ((11, 11), (2, 2), (0, 0, 0, 0), (1, 1), (13, 13)),
    "31x31": ((31, 31), (1, 1), (15, 15, 15, 15), (1, 1), (10, 12)),
    "1x15 of a row": ((1, 15), (1, 1), (0, 0, 7, 7), (1, 1), (1, 70)),
    "11x1 of a column": ((11, 1), (1, 1), (5, 5, 0, 0), (1, 1), (101, 1)),
    "5x1 of a column, stride 2": ((5, 1), (2, 1), (1, 3, 0, 0), (1, 1), (40, 1)),
    "3x3 dilation 2": ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), (9, 21)),
    "5x5 dilation 2": ((5, 5), (1, 1), (4, 4, 4, 4), (2, 2), (10, 33)),
    "3x3 dilation 12": ((3, 3), (1, 1), (12, 12, 12, 12), (12, 12), (13, 15)),
    "3x3 dilation 3, stride 2": ((3, 3), (2, 2), (3, 3, 3, 3), (3, 3), (9, 40)),
    "3x3 dilation 2, stride 2": ((3, 3), (2, 2), (2, 2, 2, 2), (2, 2), (9, 20)),
    "padding beyond the kernel": ((3, 2), (1, 1), (5, 4, 6, 5), (1, 1), (2, 3)),
}


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def channels_last(array):
    return LAYOUTS["channels_last"](array)


def check(rng, batch, channels, multiplier, kernel, stride, padding, dilation, size):
    """Check that the convolution with its epilogue, and both gradients, agree with the oracle."""
    filters = channels * multiplier
    x_shape, weight_shape = (batch, channels, *size), (filters, 1, *kernel)
    x, weight, bias = channels_last(normal(rng, *x_shape)), normal(rng, *weight_shape), normal(rng, filters)
    geometry = (stride, padding, dilation, channels)
    expected = oracle.conv2d(x, weight, bias, *geometry)
    residual = channels_last(normal(rng, *expected.shape))
    y = F.conv2d(x, weight, bias, *geometry, algorithm="depthwise", residual=residual, activation="relu")
    assert_close(y, np.maximum(expected + residual, 0), terms=math.prod(kernel), scale=np.abs(expected).max())

    gradient = channels_last(normal(rng, *expected.shape))
    scale = math.sqrt(math.prod(kernel) * multiplier)
    dx = _core.conv2d_input_gradient(gradient, weight, x_shape, *geometry)
    expected_dx = oracle.conv2d_input_gradient(gradient, weight, x_shape, *geometry)
    assert_close(dx, expected_dx, terms=math.prod(kernel) * multiplier, scale=max(scale, np.abs(expected_dx).max()))
    terms = gradient[:, 0].size
    dw = _core.conv2d_weight_gradient(gradient, x, weight_shape, *geometry)
    expected_dw = oracle.conv2d_weight_gradient(gradient, x, weight_shape, *geometry)
    assert_close(dw, expected_dw, terms=terms, scale=max(math.sqrt(terms), np.abs(expected_dw).max()))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometry(rng, isa, name):
    check(rng, 2, _core.tile_sizes()["lanes"] + 3, 1, *GEOMETRIES[name])


@pytest.mark.parametrize("name", ["2x2", "7x7 stride 2", "8x8", "5x5 stride 3", "5x5 dilation 2", "1x15 of a row"])
@pytest.mark.parametrize("channels", [2, 3, 7, 16, 17, 33])
def test_channels(rng, isa, name, channels):
    check(rng, 1, channels, 1, *GEOMETRIES[name])


@pytest.mark.parametrize("name", ["2x2", "7x7 stride 2", "3x3 dilation 2", "11x1 of a column"])
@pytest.mark.parametrize(("channels", "multiplier"), [(5, 2), (3, 3), (17, 4), (2, 7), (3, 16), (2, 21)])
def test_multiplier(rng, isa, name, channels, multiplier):
    check(rng, 2, channels, multiplier, *GEOMETRIES[name])


def test_widths_around_the_runs(rng, isa):
    for width in range(1, 24):
        check(rng, 1, _core.tile_sizes()["lanes"], 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (3, width))
        check(rng, 1, _core.tile_sizes()["lanes"], 1, (1, 9), (1, 2), (0, 0, 4, 4), (1, 1), (1, 2 * width))


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(
    ("kernel", "padding"), [((3, 3), (1, 1, 1, 1)), ((2, 7), (0, 1, 3, 5)), ((1, 11), (0, 0, 0, 0))]
)
def test_few_channels(rng, isa, kernel, padding, channels):
    """Several pixels share a vector, except those whose windows leave the row and the remaining ones."""
    for width in (11, 12, 19, 30, 41):
        x, weight = channels_last(normal(rng, 2, channels, 3, width)), normal(rng, channels, 1, *kernel)
        bias, geometry = normal(rng, channels), {"padding": padding, "groups": channels}
        sums = oracle.conv2d(x, weight, bias, **geometry)
        residual = channels_last(normal(rng, *sums.shape))
        y = F.conv2d(x, weight, bias, **geometry, residual=residual, activation="silu")
        expected = (sums + residual) / (1 + np.exp(-(sums + residual)))
        assert_close(y, expected, terms=math.prod(kernel), factor=2, scale=np.abs(sums).max())


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        ((5, 5), (1, 1), (2, 2, 2, 2), (9, 21)),
        ((5, 5), (2, 2), (1, 0, 0, 1), (60, 55)),
        ((11, 11), (2, 2), (12, 0, 0, 13), (13, 15)),
        ((7, 4), (3, 1), (0, 3, 3, 0), (16, 12)),
    ],
)
def test_channels_copied_out_of_one_set_of_the_cache(rng, isa, threads, kernel, stride, padding, size):
    """Pixels of 512 channels are copied block by block; pixels of fewer are not copied, and have the same bits."""
    x, weight, bias = normal(rng, 2, 512, *size), normal(rng, 512, 1, *kernel), normal(rng, 512)
    x = channels_last(x)
    residual = channels_last(np.zeros_like(F.conv2d(x, weight, None, stride, padding, groups=512)))
    residual[...] = normal(rng, *residual.shape)

    def convolve(channels):
        part = {"residual": residual[:, channels], "activation": "silu", "groups": len(bias[channels])}
        return F.conv2d(x[:, channels], weight[channels], bias[channels], stride, padding, **part)

    whole = convolve(slice(None))
    parts = [convolve(slice(0, 208)), convolve(slice(208, 512))]
    np.testing.assert_array_equal(whole, np.concatenate(parts, 1))
    sums = oracle.conv2d(x, weight, bias, stride, padding, (1, 1), 512) + residual
    assert_close(whole, sums / (1 + np.exp(-sums)), math.prod(kernel), scale=np.abs(sums).max())


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("name", ["7x7 stride 2", "31x31", "3x3 dilation 2", "1x15 of a row", "11x1 of a column"])
def test_same_bits_for_any_number_of_threads_and_batch(rng, isa, name, multiplier):
    kernel, stride, padding, dilation, size = GEOMETRIES[name]
    channels = 130
    x, weight = channels_last(normal(rng, 3, channels, *size)), normal(rng, channels * multiplier, 1, *kernel)
    # Infinity times a zero of the padding would be NaN.
    x[0, 0, 0, 0], weight[1, 0, 0, 0] = np.nan, np.inf
    geometry = (stride, padding, dilation, channels)

    def results(threads, images):
        with convlane.num_threads(threads):
            y = F.conv2d(images, weight, None, *geometry)
            gradient = channels_last(np.ones(y.shape, np.float32))
            return y, _core.conv2d_input_gradient(gradient, weight, images.shape, *geometry)

    whole = results(1, x)
    for actual, expected in zip(results(3, x), whole, strict=True):
        np.testing.assert_array_equal(actual, expected)
    for actual, expected in zip(results(2, x[1:2]), whole, strict=True):
        np.testing.assert_array_equal(actual, expected[1:2])
    gradient = channels_last(normal(rng, *whole[0].shape))
    weight_gradients = []
    for threads in (1, 3):
        with convlane.num_threads(threads):
            weight_gradients.append(_core.conv2d_weight_gradient(gradient, x, weight.shape, *geometry))
    np.testing.assert_array_equal(*weight_gradients)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["4x4 stride 2", "3x3 dilation 3, stride 2", "31x31"])
def test_agrees_with_torch(rng, name):
    import torch

    kernel, stride, padding, dilation, size = GEOMETRIES[name]
    x, weight = normal(rng, 2, 19, *size), normal(rng, 38, 1, *kernel)
    padded = np.pad(x, ((0, 0), (0, 0), padding[:2], padding[2:]))
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(padded).double(), torch.from_numpy(weight).double(), None, stride, 0, dilation, 19
    )
    assert_close(F.conv2d(x, weight, None, stride, padding, dilation, 19), expected.numpy(), terms=math.prod(kernel))
