"""Arithmetic of two arrays against NumPy in float64."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from layouts import LAYOUTS
from oracles import activation as activation_oracle
from oracles.pointwise import ARITHMETIC


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def edges():
    lanes = _core.tile_sizes()["lanes"]
    return [0, 1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1]


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


def both(rng, name, shape, other):
    """Return two operands; a power's base is positive."""
    a, b = normal(rng, *shape), normal(rng, *other)
    return (np.asarray(np.abs(a) + np.float32(0.1)) if name == "pow" else np.asarray(a)), np.asarray(b)


def expected_of(name, a, b):
    return np.asarray(ARITHMETIC[name][0](a.astype(np.float64), b.astype(np.float64)))


@pytest.mark.parametrize("name", ARITHMETIC)
def test_tile_edges(rng, isa, threads, name):
    for count in [*edges(), 4096, 8193]:
        a, b = both(rng, name, (count,), (count,))
        expected = expected_of(name, a, b).astype(np.float32)
        np.testing.assert_allclose(getattr(F, name)(a, b), expected, rtol=1.2e-7 if name == "pow" else 0)


SHAPES = [
    ((), ()),
    ((7,), (7,)),
    ((2, 3, 5), ()),
    ((2, 3, 4, 5), (5,)),
    ((2, 3, 4, 5), (3, 1, 1)),
    ((1, 3, 1, 1), (2, 3, 4, 5)),
    ((2, 1, 4, 1), (3, 1, 5)),
    ((33, 1), (1, 37)),
    ((0, 3, 4, 5), (3, 1, 1)),
    ((2, 3, 1, 1), (2, 3, 1, 1)),
    ((1, 2, 1, 2, 3, 1, 2, 2), (2, 1, 2, 1, 2, 2, 1)),
]


@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize(("shape", "other"), SHAPES)
def test_broadcasting(rng, name, shape, other):
    a, b = both(rng, name, shape, other)
    y = getattr(F, name)(a, b)
    assert_close(y, expected_of(name, a, b))
    assert y.flags.c_contiguous
    assert rules(getattr(F, name)).shape(a, b) == y.shape


@pytest.mark.parametrize("name", ARITHMETIC)
def test_numbers(rng, name):
    a, b = both(rng, name, (2, 5), ())
    ours, number = getattr(F, name), float(b)
    np.testing.assert_array_equal(ours(a, number), ours(a, b))
    np.testing.assert_array_equal(ours(2, a), ours(np.asarray(2, np.float32), a))
    assert rules(ours).shape(2, a) == (2, 5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other_layout", ["contiguous", "channels_last", "negative_strides"])
def test_layouts(rng, isa, layout, other_layout):
    for shape in [(5, 7), (2, 5, 3, 4), (2, 2, 3, 2, 7)]:
        a, b = normal(rng, *shape), normal(rng, *shape)
        given_a, given_b = LAYOUTS[layout](a), LAYOUTS[other_layout](b)
        np.testing.assert_array_equal(F.sub(given_a, given_b), a - b)
        np.testing.assert_array_equal(F.mul(given_b, given_a), a * b)
        np.testing.assert_array_equal(F.add(given_b, given_a[:1]), b + a[:1])
        np.testing.assert_array_equal(F.div(given_a[..., :1], given_b), a[..., :1] / b)
        np.testing.assert_array_equal(given_a, a)
        np.testing.assert_array_equal(given_b, b)


@pytest.mark.parametrize(
    ("layout", "other", "kept"),
    [
        ("contiguous", (2, 5, 3, 4), False),
        ("channels_last", (2, 5, 3, 4), True),
        ("negative_strides", (2, 5, 3, 4), True),
        ("contiguous", (5, 1, 1), False),
        ("channels_last", (5, 1, 1), True),
    ],
)
def test_the_order_of_the_larger_operand_is_kept(rng, layout, other, kept):
    a, b = LAYOUTS[layout](normal(rng, 2, 5, 3, 4)), normal(rng, *other)
    for y in (F.sub(a, b), F.sub(b, a)) if len(other) < 4 else (F.sub(a, b),):
        assert is_channels_last(y) if kept else y.flags.c_contiguous


def test_powers(isa):
    x = np.array([-2, -0.0, 0, 0.5, np.inf, np.nan], np.float32)
    for exponent in (2, 0, -1, 0.5, 3):
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(F.pow(x, exponent), np.power(x, np.float32(exponent)), rtol=1e-7)


def test_powers_in_units_of_the_last_place(rng, isa):
    """Powers of floats of all sizes, of floats close to 1, and of negative floats among the others."""
    bits = np.nan_to_num(rng.integers(0, 2**32, 40_001, dtype=np.uint32).view(np.float32), nan=2)
    close = (1 + 1e-3 * normal(rng, 40_001)).astype(np.float32)
    for x in (bits, np.abs(bits), close, 3 * normal(rng, 40_001)):
        for exponent in (normal(rng, x.size), 300 * normal(rng, x.size), np.rint(4 * normal(rng, x.size))):
            with np.errstate(all="ignore"):
                exact = np.power(x.astype(np.longdouble), exponent.astype(np.longdouble))
                expected = exact.astype(np.float32)
                y = F.pow(x, exponent)
                finite = np.isfinite(expected) & np.isfinite(y)
                np.testing.assert_array_equal(y[~finite], expected[~finite])
                units = np.abs(y[finite] - exact[finite]) / np.spacing(np.abs(expected[finite])).astype(np.float64)
            assert units.max() <= 0.9  # 0.51 except for negative numbers, whose powers are the C library's


@pytest.mark.parametrize("exponent", [-1, 2, 3])
def test_usual_powers_are_rounded_once(rng, isa, exponent):
    x = np.nan_to_num(rng.integers(0, 2**32, 40_001, dtype=np.uint32).view(np.float32), nan=2)
    with np.errstate(all="ignore"):
        expected = (x.astype(np.longdouble) ** exponent).astype(np.float32)
        np.testing.assert_array_equal(F.pow(x, exponent), expected)


def test_extremes_pass_nan_on(isa):
    a = np.array([np.nan, 1, np.nan, -np.inf] * 9, np.float32)
    b = np.array([1, np.nan, np.nan, np.inf] * 9, np.float32)
    np.testing.assert_array_equal(F.maximum(a, b), np.maximum(a, b))
    np.testing.assert_array_equal(F.minimum(a, b), np.minimum(a, b))


def test_broadcast_strides(rng):
    a, row = normal(rng, 2, 5, 3, 4), normal(rng, 4)
    np.testing.assert_array_equal(F.add(a, np.broadcast_to(row, a.shape)), a + row)


@pytest.mark.parametrize("name", ["none", *activation_oracle.BY_NAME])
def test_activation_of_a_sum(rng, isa, threads, name):
    a, b = normal(rng, 2, 33, 10, 20), normal(rng, 2, 33, 10, 20)
    total = (a + b).astype(np.float64)
    expected = activation_oracle.with_number(name, 0.3)(total) if name != "none" else total
    assert_close(F.add(a, b, **activation_oracle.fused(name, 0.3)), expected)


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
        (lambda: F.add(IMAGE, IMAGE[:, :2]), ValueError, r"add: shapes \(2, 3, 4, 5\) and \(2, 2, 4, 5\) do not broad"),
        (lambda: F.sub(IMAGE, IMAGE[..., :2]), ValueError, "sub: shapes"),
        (lambda: rules(F.mul).shape(IMAGE, IMAGE[0, :2]), ValueError, r"mul: shapes \(2, 3, 4, 5\) and \(2, 4, 5\)"),
        (lambda: F.add(IMAGE, IMAGE.reshape(2, 3, 4, 5, 1, 1, 1, 1, 1)), ValueError, "at most 8 dimensions, got 9"),
        (lambda: F.pow(IMAGE, "2"), TypeError, "pow: exponent must be a NumPy array, got str"),
        (lambda: F.maximum(IMAGE.astype(bool), 0), TypeError, "maximum: input must be float32, got bool"),
        (lambda: F.div(2.0, IMAGE.astype(np.int64)), TypeError, "div: other must be float32, got int64"),
        (lambda: F.scale(IMAGE, IMAGE[:, 0, 0]), ValueError, r"scale must be \(N, C, 1, 1\) or \(N, C\), got \(2, 5\)"),
        (lambda: F.scale(IMAGE, IMAGE), ValueError, "scale must be"),
        (lambda: F.scale(IMAGE[0], IMAGE[0, :, :1, :1]), ValueError, "scale must be"),
        (lambda: F.scale(IMAGE, IMAGE[0, 0, 0]), ValueError, "scale must be"),
        (lambda: F.add(IMAGE, IMAGE, activation="swoosh"), ValueError, "unknown activation 'swoosh'; there are none"),
        (lambda: F.add(IMAGE, IMAGE, negative_slope="1"), TypeError, "negative_slope must be a number"),
        (lambda: F.add(IMAGE, IMAGE.astype(np.float64)), TypeError, "add: other must be float32, got float64"),
        (lambda: F.add(IMAGE, None), TypeError, "add: other must be a NumPy array"),
        (lambda: F.add(IMAGE, np.broadcast_to(IMAGE[:1], (1 << 40, 3, 4, 5))), ValueError, "do not broadcast"),
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
        lambda: _core.binary("mul", IMAGE, IMAGE[:, :, :2]),
        lambda: _core.scale(IMAGE, IMAGE[:, :2, :1, :1]),
        lambda: _core.activation(IMAGE[0], "relu", 0.0),
        lambda: _core.copy(IMAGE, IMAGE[0].copy()),
    ],
)
def test_the_core_checks_for_itself(call):
    with pytest.raises(ValueError, match=r"shape|dimensions"):
        call()
