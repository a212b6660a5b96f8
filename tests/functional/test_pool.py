"""Pooling against its oracle: kernels, instruction sets, edges, layouts, special values, and bad input."""

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
from oracles import pool as oracle

LANES = _core.tile_sizes()["lanes"]


def images(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def channel_counts():
    """Sizes around one vector, and around the several vectors that are processed at once."""
    lanes = _core.tile_sizes()["lanes"]
    return sorted({1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, 4 * lanes, 5 * lanes + 3})


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


def check_max(x, kernel, stride, padding=(0, 0, 0, 0), dilation=(1, 1), ceil_mode=False):
    """Check that values, and values with indices, equal the oracle's to the bit."""
    places = list(oracle.windows(x, kernel, stride, padding, dilation, ceil_mode))
    expected = oracle.max_pool(x, places).astype(np.float32)
    y = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == np.float32
    assert is_channels_last(y)
    values, indices = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(indices, oracle.argmax_pool(x, places))
    assert indices.dtype == np.int64
    assert is_channels_last(indices)
    assert rules(F.max_pool2d).shape(x, kernel, stride, padding, dilation, ceil_mode) == y.shape


def check_avg(x, kernel, stride, padding=(0, 0, 0, 0), ceil_mode=False, count_include_pad=True, divisor=None):
    y = F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    expected = oracle.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    assert_close(y, expected, terms=kernel[0] * kernel[1])
    assert is_channels_last(y)
    assert rules(F.avg_pool2d).shape(x, kernel, stride, padding, ceil_mode, count_include_pad) == y.shape


GEOMETRIES = [  # kernel, stride, padding, ceil_mode
    ((2, 2), (2, 2), (0, 0, 0, 0), False),
    ((2, 2), (2, 2), (0, 0, 0, 0), True),
    ((3, 3), (2, 2), (1, 1, 1, 1), False),
    ((3, 3), (2, 2), (0, 0, 0, 0), True),
    ((3, 3), (1, 1), (1, 1, 1, 1), False),
    ((3, 3), (3, 3), (1, 0, 0, 1), True),
    ((1, 5), (2, 1), (0, 0, 2, 1), False),
    ((4, 3), (3, 4), (2, 1, 0, 1), True),
    ((7, 9), (1, 1), (0, 0, 0, 0), False),
    ((1, 1), (2, 3), (0, 0, 0, 0), False),
]


class TestKernels:
    @pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), GEOMETRIES)
    def test_channels(self, rng, isa, threads, kernel, stride, padding, ceil_mode):
        for c in channel_counts():
            x = images(rng, 1, c, 8, 11)
            check_avg(x, kernel, stride, padding, ceil_mode)
            y = F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode)
            places = oracle.windows(x, kernel, stride, padding, ceil_mode=ceil_mode)
            np.testing.assert_array_equal(y, oracle.max_pool(x, places).astype(np.float32))

    @pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), GEOMETRIES)
    def test_indices(self, rng, isa, kernel, stride, padding, ceil_mode):
        lanes = _core.tile_sizes()["lanes"]
        check_max(images(rng, 2, lanes + 1, 8, 9), kernel, stride, padding, (1, 1), ceil_mode)

    @pytest.mark.parametrize("width", [2, 3, 7, 8, 9, 10, 17])
    @pytest.mark.parametrize("kernel", [2, 3])
    def test_runs_of_pixels(self, rng, isa, kernel, width):
        x = images(rng, 1, _core.tile_sizes()["lanes"] + 2, 6, width)
        if width >= kernel:
            check_max(x, (kernel, kernel), (2, 2))
        check_max(x, (kernel, kernel), (2, 2), (1, 1, 1, 1))

    @pytest.mark.parametrize("dilation", [(2, 2), (1, 3), (3, 1)])
    @pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 4), (3, 6)])
    @pytest.mark.parametrize("kernel", [(2, 2), (3, 3)])
    def test_dilation(self, rng, isa, kernel, stride, dilation):
        check_max(images(rng, 1, 5, 11, 12), kernel, stride, (1, 1, 1, 0), dilation)

    def test_dilated_windows_that_find_no_pixel(self, isa):
        values, indices = F.max_pool2d(np.ones((1, 1, 1, 3), np.float32), 2, 1, 1, 2, return_indices=True)
        np.testing.assert_array_equal(values, np.full((1, 1, 1, 3), -np.inf))
        np.testing.assert_array_equal(indices, np.zeros((1, 1, 1, 3)))

    @pytest.mark.parametrize("count_include_pad", [False, True])
    @pytest.mark.parametrize("ceil_mode", [False, True])
    @pytest.mark.parametrize("divisor", [None, 5, -2])
    def test_divisors(self, rng, count_include_pad, ceil_mode, divisor):
        for size in [(7, 7), (8, 6), (5, 10)]:
            x = images(rng, 2, 3, *size)
            check_avg(x, (3, 2), (2, 2), (1, 1, 1, 1), ceil_mode, count_include_pad, divisor)
            check_avg(x, (4, 4), (3, 3), (2, 1, 0, 2), ceil_mode, count_include_pad, divisor)

    @pytest.mark.parametrize("ceil_mode", [False, True])
    @pytest.mark.parametrize("p", [0.5, 1, 2, 3, 4.0])
    def test_norms(self, rng, isa, p, ceil_mode):
        for c in channel_counts():
            x = images(rng, 1, c, 7, 6)
            y = F.lp_pool2d(x, p, (3, 2), (2, 3), ceil_mode)
            assert_close(y, oracle.lp_pool2d(x, p, (3, 2), (2, 3), ceil_mode), terms=12)
            assert rules(F.lp_pool2d).shape(x, p, (3, 2), (2, 3), ceil_mode) == y.shape

    def test_infinite_norm(self, rng):
        x = images(rng, 1, 3, 7, 6)
        np.testing.assert_array_equal(F.lp_pool2d(x, np.inf, 2), F.max_pool2d(np.abs(x), 2))

    @pytest.mark.parametrize("output", [(1, 1), (2, 3), (7, 5), (4, 4), (9, 13), (1, 5), (7, 1)])
    def test_adaptive(self, rng, isa, threads, output):
        for c in channel_counts():
            x = images(rng, 2, c, 7, 5)
            places = list(oracle.adaptive_windows(x, output))
            average, maximum = F.adaptive_avg_pool2d(x, output), F.adaptive_max_pool2d(x, output)
            assert_close(average, oracle.avg_pool(x, places), terms=35)
            np.testing.assert_array_equal(maximum, oracle.max_pool(x, places).astype(np.float32))
            assert is_channels_last(average)
            assert rules(F.adaptive_avg_pool2d).shape(x, output) == average.shape
            assert rules(F.adaptive_max_pool2d).shape(x, output) == maximum.shape
        values, indices = F.adaptive_max_pool2d(x, output, return_indices=True)
        np.testing.assert_array_equal(values, maximum)
        np.testing.assert_array_equal(indices, oracle.argmax_pool(x, places))

    def test_adaptive_output_size(self, rng):
        x = images(rng, 1, 3, 7, 5)
        np.testing.assert_array_equal(F.adaptive_avg_pool2d(x, (None, 2)), F.adaptive_avg_pool2d(x, (7, 2)))
        np.testing.assert_array_equal(F.adaptive_avg_pool2d(x, 3), F.adaptive_avg_pool2d(x, (3, 3)))
        np.testing.assert_array_equal(F.adaptive_max_pool2d(x, None), x)
        assert F.adaptive_avg_pool2d(x, (0, 2)).shape == (1, 3, 0, 2)

    def test_global(self, rng, isa, threads):
        for c in channel_counts():
            x = images(rng, 2, c, 13, 17)
            average, maximum = F.global_avg_pool2d(x), F.global_max_pool2d(x)
            assert_close(average, x.mean(axis=(2, 3), keepdims=True, dtype=np.float64), terms=221)
            np.testing.assert_array_equal(maximum, x.max(axis=(2, 3), keepdims=True))
            assert rules(F.global_avg_pool2d).shape(x) == average.shape == (2, c, 1, 1)
            assert rules(F.global_max_pool2d).shape(x) == maximum.shape

    def test_averages_of_a_large_plane_do_not_drift(self, isa):
        x = np.full((1, 1, 1024, 1024), 0.1, np.float32)
        np.testing.assert_allclose(F.global_avg_pool2d(x), 0.1, rtol=1e-4)


def test_runs_of_windows_in_the_padding_alone(rng):
    check_max(images(rng, 1, 3, 1, 4), (2, 1), (1, 1), padding=(2, 2, 0, 0), dilation=(4, 1))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_random_shapes(data):
    draw = data.draw
    kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, 4)] * 2)) for _ in range(3))
    reach = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    ceil_mode = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    batch, channels = draw(st.integers(0, 3)), draw(st.integers(1, 2 * LANES + 1))

    padding = tuple(draw(st.integers(0, reach[side // 2] // 2)) for side in range(4))
    height, width = (draw(st.integers(max(1, reach[i] - sum(padding[2 * i : 2 * i + 2])), 15)) for i in range(2))
    check_max(images(rng, batch, channels, height, width), kernel, stride, padding, dilation, ceil_mode)

    padding = tuple(draw(st.integers(0, kernel[side // 2] // 2)) for side in range(4))
    x = images(rng, batch, channels, height + kernel[0], width + kernel[1])
    check_avg(x, kernel, stride, padding, ceil_mode, draw(st.booleans()), draw(st.sampled_from([None, 3])))


class TestTextbook:
    def test_size_and_values_of_a_small_example(self):
        x = np.arange(49, dtype=np.float32).reshape(1, 1, 7, 7)
        y = F.max_pool2d(x, 2, stride=2)
        np.testing.assert_array_equal(y[0, 0], [[8, 10, 12], [22, 24, 26], [36, 38, 40]])


@pytest.mark.torch
class TestTorch:
    @pytest.mark.parametrize("size", [(7, 7), (8, 11), (9, 6)])
    @pytest.mark.parametrize("ceil_mode", [False, True])
    @pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, None, 0), ((3, 2), (1, 3), (1, 0))])
    def test_windows(self, rng, size, ceil_mode, kernel, stride, padding):
        import torch

        x = images(rng, 2, 5, *size)
        tensor = torch.from_numpy(x)
        values, indices = F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode, return_indices=True)
        expected = torch.nn.functional.max_pool2d(tensor, kernel, stride, padding, 1, ceil_mode, return_indices=True)
        np.testing.assert_array_equal(values, expected[0].numpy())
        np.testing.assert_array_equal(indices, expected[1].numpy())
        for rest in [(True, None), (False, None), (True, 7)]:
            y = F.avg_pool2d(x, kernel, stride, padding, ceil_mode, *rest)
            expected = torch.nn.functional.avg_pool2d(tensor.double(), kernel, stride, padding, ceil_mode, *rest)
            assert_close(y, expected.numpy(), terms=9)
        for p in (2, 4):
            y = F.lp_pool2d(x, p, kernel, stride, ceil_mode)
            expected = torch.nn.functional.lp_pool2d(tensor.double(), p, kernel, stride, ceil_mode)
            assert_close(y, expected.numpy(), terms=9)

    @pytest.mark.parametrize("output", [1, (2, 3), (None, 4), (10, 12)])
    def test_adaptive(self, rng, output):
        import torch

        x = images(rng, 2, 5, 7, 9)
        tensor = torch.from_numpy(x)
        expected = torch.nn.functional.adaptive_avg_pool2d(tensor.double(), output)
        assert_close(F.adaptive_avg_pool2d(x, output), expected.numpy(), terms=63)
        expected = torch.nn.functional.adaptive_max_pool2d(tensor, output, return_indices=True)
        for ours, theirs in zip(F.adaptive_max_pool2d(x, output, return_indices=True), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())

    def test_special_values(self, rng):
        import torch

        x = images(rng, 3, 5, 12, 12)
        x[rng.random(x.shape) < 0.2] = np.nan
        x[rng.random(x.shape) < 0.2] = -np.inf
        x[rng.random(x.shape) < 0.3] = 1
        for kernel in (2, 3, 4):
            ours = F.max_pool2d(x, kernel, 2, 1, return_indices=True)
            theirs = torch.nn.functional.max_pool2d(torch.from_numpy(x), kernel, 2, 1, return_indices=True)
            np.testing.assert_array_equal(ours[0], theirs[0].numpy())
            np.testing.assert_array_equal(ours[1], theirs[1].numpy())


class TestSpecialValues:
    """NaN, infinities and windows in the padding."""

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("kernel", [2, 3, 4])
    def test_nan_wins_in_every_layout_and_channel_count(self, isa, layout, kernel):
        for c in channel_counts():
            for at in range(kernel * kernel):
                x = np.full((1, c, kernel, kernel), 3, np.float32)
                x.reshape(c, -1)[c - 1, at] = np.nan
                x = LAYOUTS[layout](x)
                expected = np.full((1, c, 1, 1), 3, np.float32)
                expected[0, c - 1] = np.nan
                for y in (F.max_pool2d(x, kernel), F.global_max_pool2d(x), F.max_pool2d(x, kernel, 2)):
                    np.testing.assert_array_equal(y, expected)
                values, indices = F.max_pool2d(x, kernel, return_indices=True)
                np.testing.assert_array_equal(values, expected)
                assert indices[0, c - 1, 0, 0] == at

    def test_the_last_nan_and_the_first_of_equal_values(self, isa):
        x = np.array([[[[1, np.nan], [np.nan, 3]], [[7, 7], [7, 7]], [[0, 2], [2, 2]]]], np.float32)
        _, indices = F.max_pool2d(x, 2, return_indices=True)
        np.testing.assert_array_equal(indices.ravel(), [2, 0, 1])

    def test_all_minus_infinity(self, isa):
        x = np.full((1, 19, 3, 3), -np.inf, np.float32)
        values, indices = F.max_pool2d(x, 2, 2, 1, return_indices=True)
        np.testing.assert_array_equal(values, np.full((1, 19, 2, 2), -np.inf))
        np.testing.assert_array_equal(indices[0, 7], [[0, 1], [3, 4]])
        np.testing.assert_array_equal(F.max_pool2d(x, 2, 2, 1), values)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_averages_touch_exactly_their_windows(self, rng, isa, value):
        x = images(rng, 1, 19, 9, 9)
        x[0, 17, 4, 5] = value
        for kernel, stride, padding in [(3, 1, 1), (2, 2, 0), (4, 3, 2)]:
            y = F.avg_pool2d(x, kernel, stride, padding)
            expected = oracle.avg_pool2d(x, (kernel,) * 2, (stride,) * 2, (padding,) * 4)
            assert_close(y, expected, terms=16)

    def test_norms_overflow_and_keep_nan(self):
        x = np.array([[[[1e30, 1], [1, 1]], [[np.nan, 1], [1, 1]]]], np.float32)
        np.testing.assert_array_equal(F.lp_pool2d(x, 2, 2).ravel(), np.array([np.inf, np.nan], np.float32))


CALLS = {
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "indices": lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[1],
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 3),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    "global_avg_pool2d": F.global_avg_pool2d,
    "global_max_pool2d": F.global_max_pool2d,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
class TestEveryPooling:
    def test_same_bits_for_any_batch_split_and_thread_count(self, rng, isa, call):
        x = images(rng, 5, 150, 23, 21)
        with convlane.num_threads(1):
            whole = call(x)
        for count in (2, 3, 7):
            with convlane.num_threads(count):
                np.testing.assert_array_equal(call(x), whole)
                np.testing.assert_array_equal(call(x[:1]), whole[:1])
        np.testing.assert_array_equal(np.concatenate([call(x[:2]), call(x[2:])]), whole)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, call, layout):
        x = images(rng, 2, 7, 9, 8)
        before = x.copy()
        np.testing.assert_array_equal(call(LAYOUTS[layout](x)), call(before))
        np.testing.assert_array_equal(x, before)

    def test_broadcast(self, rng, call):
        x = np.broadcast_to(images(rng, 1, 1, 1, 6), (2, 5, 7, 6))
        np.testing.assert_array_equal(call(x), call(x.copy()))

    def test_single_image(self, rng, call):
        x = images(rng, 2, 5, 6, 7)
        np.testing.assert_array_equal(call(x[0]), call(x)[0])

    def test_empty_batch_and_no_channels(self, call):
        x = np.zeros((2, 5, 6, 7), np.float32)
        assert call(x[:0]).shape == (0, *call(x).shape[1:])
        assert call(x[:, :0]).shape == (2, 0, *call(x).shape[2:])

    @pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8, np.bool_, np.complex64, object])
    def test_kinds_of_numbers(self, call, dtype):
        with pytest.raises(TypeError, match=r"pool2d: input must be float32.*astype\(np.float32\)"):
            call(np.ones((1, 4, 8, 8)).astype(dtype))

    @pytest.mark.parametrize("value", [None, 3.0, [[1.0]], "image", np.float32(1)])
    def test_kinds_of_things(self, call, value):
        with pytest.raises(TypeError, match="pool2d: input must be a NumPy array"):
            call(value)

    @pytest.mark.parametrize("shape", [(8, 8), (1, 4, 8, 8, 1), (1, 4, 0, 8), (1, 4, 8, 0)])
    def test_shapes(self, call, shape):
        with pytest.raises(ValueError, match=r"pool2d: (input|the padded input)"):
            call(np.zeros(shape, np.float32))


X = np.zeros((1, 4, 8, 8), np.float32)


@pytest.mark.parametrize("function", [F.max_pool2d, F.avg_pool2d])
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kernel_size": 0}, "kernel size must be at least 1"),
        ({"kernel_size": -1}, "kernel size must be at least 1"),
        ({"kernel_size": 9}, r"\(8, 8\).*smaller than the kernel's reach \(9, 9\)"),
        ({"kernel_size": (1, 2, 3)}, "kernel_size must be an integer or a pair"),
        ({"kernel_size": 2**63}, "kernel_size is out of range"),
        ({"kernel_size": 2**40, "padding": 2**39}, "overflow"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"stride": -1}, "stride must be at least 1"),
        ({"padding": -1}, "padding must not be negative"),
        ({"padding": 2}, "padding must be at most half of the kernel's reach, got padding 2 for kernel size 3"),
        ({"padding": (0, 0, 2, 0)}, "padding must be at most half"),
        ({"padding": 2**61}, "padding must be at most half"),
        ({"padding": (1, 2, 3)}, "padding must be"),
    ],
)
def test_bad_values(function, arguments, match):
    arguments = {"kernel_size": 3, "stride": 1, **arguments}
    with pytest.raises(ValueError, match=match):
        function(X, **arguments)
    with pytest.raises(ValueError, match=match):
        rules(function).shape(X, **arguments)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.max_pool2d(X, 2, dilation=0), ValueError, "dilation must be at least 1"),
        (lambda: F.max_pool2d(X, 2, dilation=2**61), ValueError, "overflow|smaller than"),
        (lambda: F.max_pool2d(X, 1.5), TypeError, "kernel_size must be an integer"),
        (lambda: F.max_pool2d(X, 2, stride=1.5), TypeError, "stride must be an integer"),
        (lambda: F.avg_pool2d(X, 2, divisor_override=0), ValueError, "divisor_override must not be 0"),
        (lambda: F.avg_pool2d(X, 2, divisor_override=1.5), TypeError, "divisor_override must be an integer"),
        (lambda: F.lp_pool2d(X, 0, 2), ValueError, "norm_type must be larger than 0, got 0"),
        (lambda: F.lp_pool2d(X, -2, 2), ValueError, "norm_type must be larger than 0, got -2"),
        (lambda: F.lp_pool2d(X, float("nan"), 2), ValueError, "norm_type must be larger than 0, got nan"),
        (lambda: F.lp_pool2d(X, "two", 2), TypeError, "norm_type must be a number, got 'two'"),
        (lambda: F.lp_pool2d(X, None, 2), TypeError, "norm_type must be a number, got None"),
        (lambda: F.adaptive_avg_pool2d(X, -1), ValueError, "output size must not be negative"),
        (lambda: F.adaptive_avg_pool2d(X, 2**61), ValueError, "overflow"),
        (lambda: F.adaptive_avg_pool2d(X, 2**45), ValueError, "overflow"),
        (lambda: F.adaptive_avg_pool2d(X, 2**22), MemoryError, None),
        (lambda: F.adaptive_max_pool2d(X, (1, 2, 3)), TypeError, "output_size must be an integer"),
        (lambda: F.adaptive_max_pool2d(X, 1.5), TypeError, "output_size must be an integer"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_steps_beyond_the_image(rng):
    x = images(rng, 1, 3, 4, 4)
    np.testing.assert_array_equal(F.max_pool2d(x, 1, stride=2**61, dilation=2**61), x[..., :1, :1])
    np.testing.assert_array_equal(F.max_pool2d(x, 2, 1, padding=2**30, dilation=2**31)[..., 0, 0].shape, (1, 3))


def test_out_of_memory():
    view = np.broadcast_to(np.float32(1), (1 << 20, 4, 1 << 10, 1 << 10))
    with pytest.raises(MemoryError):
        F.max_pool2d(view, 1)


def test_windows_too_large_for_indices():
    view = np.broadcast_to(np.float32(1), (1, 1, 1 << 16, 1 << 16))
    with pytest.raises(ValueError, match="no indices"):
        F.adaptive_max_pool2d(view, 1, return_indices=True)
