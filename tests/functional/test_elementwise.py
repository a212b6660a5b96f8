"""Arithmetic and functions of single numbers against NumPy in float64."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from layouts import LAYOUTS
from oracles import activation as activation_oracle


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def edges():
    lanes = _core.tile_sizes()["lanes"]
    return [0, 1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1]


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("name", ["add", "mul"])
def test_tile_edges(rng, isa, threads, name):
    function = np.add if name == "add" else np.multiply
    for count in [*edges(), 4096, 4097]:
        a, b = normal(rng, count), normal(rng, count)
        np.testing.assert_array_equal(getattr(F, name)(a, b), function(a, b))


@pytest.mark.parametrize("name", ["add", "mul"])
@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5), (2, 3, 4, 5), (0, 3, 4, 5), (2, 3, 1, 1), (1, 2, 1, 2, 3)])
def test_shapes(rng, name, shape):
    a, b = (np.asarray(normal(rng, *shape), np.float32) for _ in range(2))
    y = getattr(F, name)(a, b)
    np.testing.assert_array_equal(y, (np.add if name == "add" else np.multiply)(a, b))
    assert y.shape == shape == rules(getattr(F, name)).shape(a, b)
    assert is_channels_last(y) if y.ndim == 4 else y.flags.c_contiguous


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other_layout", ["contiguous", "channels_last", "negative_strides"])
def test_layouts(rng, layout, other_layout):
    for shape in [(5, 7), (2, 5, 3, 4)]:
        a, b = normal(rng, *shape), normal(rng, *shape)
        given_a, given_b = LAYOUTS[layout](a), LAYOUTS[other_layout](b)
        np.testing.assert_array_equal(F.add(given_a, given_b), a + b)
        np.testing.assert_array_equal(F.mul(given_b, given_a), a * b)
        np.testing.assert_array_equal(given_a, a)
        np.testing.assert_array_equal(given_b, b)


def test_broadcast_strides(rng):
    a, row = normal(rng, 2, 5, 3, 4), normal(rng, 4)
    np.testing.assert_array_equal(F.add(a, np.broadcast_to(row, a.shape)), a + row)


@pytest.mark.parametrize("name", ["none", *activation_oracle.BY_NAME])
def test_activation_of_a_sum(rng, isa, threads, name):
    a, b = normal(rng, 2, 33, 10, 20), normal(rng, 2, 33, 10, 20)
    total = (a + b).astype(np.float64)
    expected = activation_oracle.BY_NAME[name](total) if name != "none" else total
    assert_close(F.add(a, b, activation=name), expected)


def test_slope_of_a_sum():
    minus = np.full(3, -1, np.float32)
    np.testing.assert_array_equal(F.add(minus, minus, activation="leaky_relu", negative_slope=0.5), [-1, -1, -1])


@pytest.mark.parametrize("factor_shape", [(2, "c"), (2, "c", 1, 1), (1, "c"), (1, "c", 1, 1)])
def test_scale(rng, isa, threads, factor_shape):
    for channels in edges():
        shape = [channels if size == "c" else size for size in factor_shape]
        x, factor = normal(rng, 2, channels, 3, 5), normal(rng, *shape)
        expected = x * factor.reshape(*shape[:2], 1, 1)
        y = F.scale(x, factor)
        np.testing.assert_array_equal(y, expected)
        assert is_channels_last(y)
        assert rules(F.scale).shape(x, factor) == y.shape
        if len(shape) == 4:
            np.testing.assert_array_equal(F.mul(x, factor), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scale_layouts(rng, layout):
    x, factor = normal(rng, 2, 5, 3, 4), normal(rng, 2, 5)
    y = F.scale(LAYOUTS[layout](x), LAYOUTS[layout](factor))
    np.testing.assert_array_equal(y, x * factor[:, :, None, None])


def test_signed_zeros_and_nan(isa):
    x = np.array([-0.0, np.nan, 1], np.float32).reshape(1, 1, 1, 3)
    y = F.scale(x, np.ones((1, 1), np.float32)).ravel()
    assert np.signbit(y[0])
    np.testing.assert_array_equal(y, x.ravel())
    np.testing.assert_array_equal(F.add(x, x, activation="relu").ravel(), [0, np.nan, 2])


def test_same_bits_for_any_thread_count(rng, isa):
    a, b = normal(rng, 300_001), normal(rng, 300_001)
    with convlane.num_threads(1):
        whole = F.add(a, b, activation="silu")
    with convlane.num_threads(3):
        np.testing.assert_array_equal(F.add(a, b, activation="silu"), whole)


IMAGE = np.ones((2, 3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.add(IMAGE, IMAGE[:1]), ValueError, r"add: input has shape \(2, 3, 4, 5\), but other has \(1, 3, 4"),
        (lambda: F.mul(IMAGE, IMAGE[0]), ValueError, r"mul: input has shape \(2, 3, 4, 5\), but other has \(3, 4, 5\)"),
        (lambda: F.mul(IMAGE, IMAGE[:, :2, :1, :1]), ValueError, r"but other has \(2, 2, 1, 1\)"),
        (lambda: F.scale(IMAGE, IMAGE[:, 0, 0]), ValueError, r"scale must be \(N, C, 1, 1\) or \(N, C\), got \(2, 5\)"),
        (lambda: F.scale(IMAGE, IMAGE), ValueError, "scale must be"),
        (lambda: F.scale(IMAGE[0], IMAGE[0, :, :1, :1]), ValueError, "scale must be"),
        (lambda: F.scale(IMAGE, IMAGE[0, 0, 0]), ValueError, "scale must be"),
        (lambda: F.add(IMAGE, IMAGE, activation="swoosh"), ValueError, "unknown activation 'swoosh'; there are none"),
        (lambda: F.add(IMAGE, IMAGE, negative_slope="1"), TypeError, "negative_slope must be a number"),
        (lambda: F.add(IMAGE, IMAGE.astype(np.float64)), TypeError, "add: other must be float32, got float64"),
        (lambda: F.add(IMAGE, 1.0), TypeError, "add: other must be a NumPy array"),
        (lambda: F.mul(None, IMAGE), TypeError, "mul: input must be a NumPy array"),
        (lambda: F.scale(IMAGE, IMAGE[:, :, 0, 0].astype(int)), TypeError, "scale: scale must be float32"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: _core.add(IMAGE, IMAGE[:1], "none", 0.0),
        lambda: _core.mul(IMAGE, IMAGE[:, :, :1]),
        lambda: _core.scale(IMAGE, IMAGE[:, :2, :1, :1]),
        lambda: _core.activation(IMAGE[0], "relu", 0.0),
        lambda: _core.softmax(IMAGE[0], False),
    ],
)
def test_the_core_checks_for_itself(call):
    with pytest.raises(ValueError, match=r"shape|dimensions"):
        call()


FUNCTIONS = {
    "abs": (F.abs, np.abs),
    "affine": (lambda x: F.affine(x, 0.3, -2), lambda x: x * np.float32(0.3) - 2),
    "affine factor": (lambda x: F.affine(x, factor=np.int64(3)), lambda x: 3 * x),
    "affine offset": (lambda x: F.affine(x, offset=np.float32(0.5)), lambda x: x + 0.5),
    "div": (lambda x: F.div(x, F.affine(x, 2, 30)), lambda x: x / (2 * x + 30)),
    "exp": (F.exp, np.exp),
    "log": (lambda x: F.log(F.square(x)), lambda x: np.log(np.square(x))),
    "square": (F.square, np.square),
}


class TestFunctions:
    @pytest.mark.parametrize("name", FUNCTIONS)
    @pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5), (2, 3, 4, 5), (0, 3, 4, 5), (2, 3, 1, 1)])
    def test_shapes(self, rng, name, shape):
        ours, theirs = FUNCTIONS[name]
        x = np.asarray(normal(rng, *shape), np.float32)
        y = ours(x)
        assert_close(y, np.asarray(theirs(x.astype(np.float64))), factor=2)
        assert is_channels_last(y) if y.ndim == 4 else y.flags.c_contiguous

    @pytest.mark.parametrize("name", FUNCTIONS)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, name, layout):
        for shape in [(5, 7), (2, 5, 3, 4)]:
            x = normal(rng, *shape)
            given = LAYOUTS[layout](x)
            np.testing.assert_array_equal(FUNCTIONS[name][0](given), FUNCTIONS[name][0](x))
            np.testing.assert_array_equal(given, x)

    def test_special_values(self):
        x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 100, -100], np.float32)
        np.testing.assert_array_equal(F.exp(x), np.array([1, 1, np.inf, 0, np.nan, np.inf, np.exp(-100)], np.float32))
        np.testing.assert_array_equal(F.log(x[:5]), np.array([-np.inf, -np.inf, np.inf, np.nan, np.nan], np.float32))
        np.testing.assert_array_equal(F.div(x[2:3], x[:1]), [np.inf])
        assert np.isnan(F.div(x[:1], x[:1]))
        np.testing.assert_array_equal(F.abs(x[:4]), [0, 0, np.inf, np.inf])
        np.testing.assert_array_equal(np.signbit(F.affine(x[:2], 1)), [False, True])

    @pytest.mark.parametrize(
        ("call", "error", "match"),
        [
            (lambda x: F.affine(x, "2"), TypeError, "affine: factor must be a number, got '2'"),
            (lambda x: F.affine(x, 1, x), TypeError, "affine: offset must be a number"),
            (lambda x: F.affine(x.astype(np.float64)), TypeError, "affine: input must be float32"),
            (lambda x: F.div(x, x[:1]), ValueError, r"div: input has shape \(2, 3\), but other has \(1, 3\)"),
            (lambda x: F.div(x, 2.0), TypeError, "div: other must be a NumPy array, got float"),
            (lambda x: F.exp([1.0]), TypeError, "exp: input must be a NumPy array, got list"),
            (lambda x: F.log(x.astype(int)), TypeError, "log: input must be float32"),
        ],
    )
    def test_bad_input(self, call, error, match):
        with pytest.raises(error, match=match):
            call(np.ones((2, 3), np.float32))
