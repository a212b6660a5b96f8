"""Concatenation, flattening and layout conversion are exact, whatever the memory layout."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import convlane
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule
from layouts import LAYOUTS
from oracles import shape as oracle


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


# Sizes around the transposes' blocks of 16 and the vector widths of which these consist, and sizes of one.
CHANNELS = [1, 3, 4, 5, 8, 9, 15, 16, 17, 33]
SIZES = [(1, 1), (1, 5), (7, 1), (4, 4), (3, 7), (5, 13), (17, 19)]


class TestConversion:
    @pytest.mark.parametrize("size", SIZES)
    def test_there_and_back(self, rng, isa, threads, size):
        for channels in CHANNELS:
            x = normal(rng, 2, channels, *size)
            last = F.channels_last(x)
            np.testing.assert_array_equal(last, x)
            assert is_channels_last(last)
            first = F.nchw(last)
            np.testing.assert_array_equal(first, x)
            assert first.flags.c_contiguous

    @pytest.mark.parametrize("name", ["channels_last", "nchw"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, isa, name, layout):
        x = normal(rng, 2, 17, 5, 19)
        y = getattr(F, name)(LAYOUTS[layout](x))
        np.testing.assert_array_equal(y, x)
        assert is_channels_last(y) if name == "channels_last" else y.flags.c_contiguous
        assert rules(getattr(F, name)).shape(x) == y.shape

    @pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    @pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)])
    def test_any_order_of_strides(self, rng, isa, axes, flip):
        shape = (6, 7, 18)
        memory = normal(rng, 2, *(shape[axis] for axis in axes))
        x = memory.transpose(0, *(1 + np.argsort(axes)))[:, :: flip[0], :: flip[1], :: flip[2]]
        assert x.shape == (2, *shape)
        np.testing.assert_array_equal(F.channels_last(x), x)
        np.testing.assert_array_equal(F.nchw(x), x)

    def test_window_of_a_larger_image(self, rng, isa):
        x = normal(rng, 2, 20, 9, 30)
        for image in (x, F.channels_last(x)):
            window = image[:, 1:18, 2:7, 3:25]
            np.testing.assert_array_equal(F.channels_last(window), window)
            np.testing.assert_array_equal(F.nchw(window), window)

    def test_broadcast_strides(self, rng, isa):
        for shape in [(5, 1, 1), (1, 4, 1), (1, 1, 6), (1, 1, 1)]:
            x = np.broadcast_to(normal(rng, 1, *shape), (2, 5, 4, 6))
            np.testing.assert_array_equal(F.channels_last(x), x)
            np.testing.assert_array_equal(F.nchw(x), x)

    def test_no_copy_when_already_so(self, rng):
        x = normal(rng, 2, 3, 4, 5)
        last = F.channels_last(x)
        assert F.nchw(x) is x
        assert F.channels_last(last) is last
        assert np.shares_memory(F.channels_last(normal(rng, 2, 1, 4, 5)), F.nchw(x)) is False

    @pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
    def test_empty(self, shape):
        x = np.zeros(shape, np.float32)[:, :, ::-1]
        assert F.channels_last(x).shape == shape
        assert F.nchw(x).shape == shape


class TestCat:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
    def test_images(self, rng, layout, dim):
        parts = []
        for size in (3, 1, 4):
            shape = [2, 5, 3, 4]
            shape[dim] = size
            parts.append(normal(rng, *shape))
        y = F.cat([LAYOUTS[layout](part) for part in parts], dim)
        np.testing.assert_array_equal(y, oracle.cat(parts, dim))
        assert is_channels_last(y)
        assert rules(F.cat).shape(parts, dim) == y.shape

    def test_channels(self, rng, isa, threads):
        lanes = _core.tile_sizes()["lanes"]
        parts = [normal(rng, 2, c, 20, 30) for c in (1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, 64)]
        mixed = [part if i % 2 else F.channels_last(part) for i, part in enumerate(parts)]
        np.testing.assert_array_equal(F.cat(mixed), np.concatenate(parts, axis=1))

    @pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (2, 3, 1, 2, 2)])
    def test_other_ranks(self, rng, shape):
        for dim in range(-len(shape), len(shape)):
            parts = [normal(rng, *shape), normal(rng, *shape)]
            y = F.cat([np.asfortranarray(part) for part in parts], dim)
            np.testing.assert_array_equal(y, oracle.cat(parts, dim))
            assert y.flags.c_contiguous

    def test_one_and_empty(self, rng):
        x = normal(rng, 2, 3, 4, 5)
        y = F.cat((x,))
        np.testing.assert_array_equal(y, x)
        assert not np.shares_memory(x, y)
        np.testing.assert_array_equal(F.cat([x[:, :0], x, x[:, :0]]), x)
        assert F.cat([x[:0], x[:0]]).shape == (0, 6, 4, 5)

    @pytest.mark.torch
    def test_agrees_with_torch(self, rng):
        import torch

        parts = [normal(rng, 2, c, 3, 4) for c in (2, 5)]
        expected = torch.cat([torch.from_numpy(part) for part in parts], 1).numpy()
        np.testing.assert_array_equal(F.cat(parts, 1), expected)


class TestNarrow:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
    def test_images(self, rng, layout, dim):
        x = normal(rng, 4, 5, 6, 7)
        y = F.narrow(LAYOUTS[layout](x), dim, 1, 2)
        np.testing.assert_array_equal(y, np.take(x, [1, 2], dim))
        assert rules(F.narrow).shape(x, dim, 1, 2) == y.shape

    def test_is_a_view(self, rng):
        x = normal(rng, 2, 5)
        assert np.shares_memory(F.narrow(x, 1, 0, 5), x)
        assert F.narrow(x, 0, 1, 1).shape == (1, 5)

    def test_gradient(self, rng):
        x, gradient = normal(rng, 2, 5, 3, 4), normal(rng, 2, 2, 3, 4)
        _, found = by_rule(F.narrow, gradient, x, 1, 3, 2)
        expected = np.zeros_like(x)
        expected[:, 3:] = gradient
        np.testing.assert_array_equal(found["input"], expected)
        assert is_channels_last(found["input"])
        _, found = by_rule(F.narrow, gradient[0, 0], x[0, 0], -2, 0, 3)
        np.testing.assert_array_equal(found["input"], gradient[0, 0])


class TestInterleave:
    @pytest.mark.parametrize("count", [1, 2, 3, 5])
    def test_channels(self, rng, isa, threads, count):
        for channels in CHANNELS:
            tensors = [normal(rng, 2, channels, 20, 30) for _ in range(count)]
            y = F.interleave(tensors)
            np.testing.assert_array_equal(y, oracle.interleave(tensors))
            assert is_channels_last(y)
            assert rules(F.interleave).shape(tensors) == y.shape

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        tensors = [normal(rng, 2, 5, 3, 4) for _ in range(2)]
        y = F.interleave([LAYOUTS[layout](tensor) for tensor in tensors])
        np.testing.assert_array_equal(y, oracle.interleave(tensors))
        whole = LAYOUTS[layout](normal(rng, 2, 10, 3, 4))
        halves = [whole[:, :5], whole[:, 5:]]
        np.testing.assert_array_equal(F.interleave(halves), oracle.interleave(halves))

    def test_empty(self):
        assert F.interleave([np.zeros((0, 3, 4, 5), np.float32)] * 2).shape == (0, 6, 4, 5)

    def test_gradient(self, rng):
        tensors, gradient = [normal(rng, 2, 4, 3, 5) for _ in range(3)], normal(rng, 2, 12, 3, 5)
        y, found = by_rule(F.interleave, gradient, tensors, wanted=("tensors",))
        np.testing.assert_array_equal(oracle.interleave(found["tensors"]), gradient)
        np.testing.assert_array_equal(y, F.interleave(tensors))

    @pytest.mark.parametrize(("channels", "groups"), [(6, 1), (6, 2), (6, 3), (6, 6), (116, 2), (64, 8)])
    def test_channel_shuffle(self, rng, channels, groups):
        x, gradient = normal(rng, 2, channels, 3, 4), normal(rng, 2, channels, 3, 4)
        np.testing.assert_array_equal(F.channel_shuffle(x, groups), oracle.channel_shuffle(x, groups))
        y, pullback = convlane.vjp(lambda x: F.channel_shuffle(x, groups), x)
        np.testing.assert_array_equal(y, F.channel_shuffle(x, groups))
        np.testing.assert_array_equal(oracle.channel_shuffle(pullback(gradient)[0], groups), gradient)

    @pytest.mark.torch
    def test_agrees_with_torch(self, rng):
        import torch

        x = normal(rng, 2, 12, 3, 4)
        expected = torch.nn.functional.channel_shuffle(torch.from_numpy(x), 3).numpy()
        np.testing.assert_array_equal(F.channel_shuffle(x, 3), expected)


class TestUnflatten:
    def test_sizes_and_gradient(self, rng):
        x = normal(rng, 2, 12)
        y, found = by_rule(F.unflatten, normal(rng, 2, 3, 4), x, 1, (3, 4))
        np.testing.assert_array_equal(y, x.reshape(2, 3, 4))
        assert np.shares_memory(y, x)
        assert found["input"].shape == (2, 12)
        assert F.unflatten(x, -2, [1, 2]).shape == (1, 2, 12) == rules(F.unflatten).shape(x, -2, [1, 2])

    @pytest.mark.torch
    def test_agrees_with_torch(self, rng):
        import torch

        x = normal(rng, 2, 12, 5)
        np.testing.assert_array_equal(F.unflatten(x, 1, (3, 4)), torch.unflatten(torch.from_numpy(x), 1, (3, 4)))


class TestFlatten:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize(
        "shape", [(7,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 17, 1, 1), (2, 1, 4, 5), (0, 3, 4, 5)]
    )
    def test_order_is_that_of_the_indices(self, rng, layout, shape):
        x = normal(rng, *shape)
        for start in range(len(shape)):
            for end in range(start, len(shape)):
                y = F.flatten(LAYOUTS[layout](x), start, end)
                expected = x.reshape(rules(F.flatten).shape(x, start, end))
                np.testing.assert_array_equal(y, expected)
                np.testing.assert_array_equal(F.flatten(LAYOUTS[layout](x), start - len(shape), end - len(shape)), y)

    def test_views(self, rng):
        x = normal(rng, 2, 3, 4, 5)
        last = F.channels_last(x)
        assert np.shares_memory(F.flatten(x), x)
        assert np.shares_memory(F.flatten(last, 2), last)
        assert not np.shares_memory(F.flatten(last), last)
        for shape in [(2, 3, 1, 1), (2, 1, 4, 5)]:
            image = F.channels_last(normal(rng, *shape))
            assert np.shares_memory(F.flatten(image), image)

    def test_scalar(self):
        assert F.flatten(np.array(1.0, np.float32), 0).shape == (1,)

    @pytest.mark.torch
    def test_agrees_with_torch(self, rng):
        import torch

        x = normal(rng, 2, 3, 4, 5)
        for dims in [(), (0,), (2,), (0, 2), (-3, -2)]:
            expected = torch.flatten(torch.from_numpy(x), *(dims or (1,))).numpy()
            np.testing.assert_array_equal(F.flatten(F.channels_last(x), *dims), expected)


IMAGE = np.ones((2, 3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.cat([]), ValueError, "cat: tensors is empty"),
        (lambda: F.cat(IMAGE), TypeError, "cat: tensors must be a list or a tuple of arrays, got ndarray"),
        (lambda: F.cat([IMAGE, None]), TypeError, r"cat: tensors\[1\] must be a NumPy array, got NoneType"),
        (lambda: F.cat([IMAGE, IMAGE.astype(float)]), TypeError, r"tensors\[1\] must be float32, got float64"),
        (
            lambda: F.cat([IMAGE, IMAGE[:, :, :2]]),
            ValueError,
            r"differ in dim 1 only, got \(2, 3, 4, 5\) and, at index",
        ),
        (lambda: F.cat([IMAGE, IMAGE[0]]), ValueError, r"at index 1, \(3, 4, 5\)"),
        (lambda: F.cat([IMAGE], 4), ValueError, "cat: dim=4 is out of range for 4 dimensions"),
        (lambda: F.cat([IMAGE], "1"), TypeError, "cat: dim must be an integer"),
        (lambda: F.cat([np.array(1.0, np.float32)], 0), ValueError, "out of range for 0 dimensions"),
        (
            lambda: F.narrow(IMAGE, 1, 2, 2),
            ValueError,
            r"start=2 and length=2 are out of range for dim 1 of shape \(2, 3, 4, 5\)",
        ),
        (lambda: F.narrow(IMAGE, 1, -1, 1), ValueError, "start=-1 and length=1 are out of range"),
        (lambda: F.narrow(IMAGE, 1, 0, 0), ValueError, "narrow: length must be at least 1, got 0"),
        (lambda: F.narrow(IMAGE, 4, 0, 1), ValueError, "narrow: dim=4 is out of range"),
        (lambda: F.narrow(IMAGE, 1, 0.5, 1), TypeError, "narrow: start must be an integer"),
        (lambda: F.narrow([1.0], 0, 0, 1), TypeError, "narrow: input must be a NumPy array"),
        (lambda: F.interleave([]), ValueError, "interleave: tensors is empty"),
        (lambda: F.interleave(IMAGE), TypeError, "tensors must be a list or a tuple of images, got ndarray"),
        (lambda: F.interleave([IMAGE, None]), TypeError, r"interleave: tensors\[1\] must be a NumPy array"),
        (lambda: F.interleave([IMAGE, IMAGE[:, :2]]), ValueError, "all of one shape, got"),
        (lambda: F.interleave([IMAGE[0]]), ValueError, r"must be \(N, C, H, W\)"),
        (lambda: F.channel_shuffle(IMAGE, 2), ValueError, "groups=2 must divide the channels"),
        (lambda: F.channel_shuffle(IMAGE, 0), ValueError, "groups must be at least 1, got 0"),
        (lambda: F.channel_shuffle(IMAGE[0], 1), ValueError, "channels of an image, got shape"),
        (lambda: F.unflatten(IMAGE, 1, (2, 2)), ValueError, r"sizes=\(2, 2\) do not multiply to dim 1"),
        (lambda: F.unflatten(IMAGE, 1, 3), TypeError, "sizes must be a list or a tuple of integers, got int"),
        (lambda: F.unflatten(IMAGE, 1, (3, 0)), ValueError, "sizes must be at least 1, got 0"),
        (lambda: _core.interleave([]), ValueError, "there are no images"),
        (lambda: _core.interleave([IMAGE, IMAGE[:1]]), ValueError, "differ in shape"),
        (lambda: F.flatten(IMAGE, 2, 1), ValueError, "start_dim=2 comes after end_dim=1"),
        (lambda: F.flatten(IMAGE, 4), ValueError, "flatten: start_dim=4 is out of range"),
        (lambda: F.flatten(IMAGE, 0, -5), ValueError, "flatten: end_dim=-5 is out of range"),
        (lambda: F.flatten(IMAGE, 1.0), TypeError, "start_dim must be an integer"),
        (lambda: F.flatten([1.0]), TypeError, "flatten: input must be a NumPy array"),
        (lambda: F.channels_last(IMAGE[0]), ValueError, r"channels_last: input must be \(N, C, H, W\), got shape"),
        (lambda: F.nchw(IMAGE[0]), ValueError, r"nchw: input must be \(N, C, H, W\), got shape"),
        (lambda: F.nchw(IMAGE.astype(np.uint8)), TypeError, "nchw: input must be float32, got uint8"),
        (lambda: _core.cat([IMAGE], 1, (2, 4, 4, 5)), ValueError, "do not fill"),
        (lambda: _core.cat([IMAGE, IMAGE], 1, (2, 3, 4, 5)), ValueError, "does not fit"),
        (lambda: _core.cat([IMAGE], 7, (2, 3, 4, 5)), ValueError, "dim is out of range"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(0, 9), st.integers(0, 9)),
    dim=st.integers(0, 3),
)
def test_random_shapes(shape, dim):
    x = normal(np.random.default_rng(sum(shape)), *shape)
    last = F.channels_last(x)
    np.testing.assert_array_equal(F.nchw(last), x)
    np.testing.assert_array_equal(F.cat([x, last], dim), oracle.cat([x, x], dim))
    np.testing.assert_array_equal(F.flatten(last, 0, dim), x.reshape(math.prod(shape[: dim + 1]), *shape[dim + 1 :]))
