"""Comparisons, logical operations and `where` against NumPy."""

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule
from layouts import LAYOUTS
from oracles.pointwise import COMPARISONS, sum_to

SHAPES = [((), ()), ((37,), (37,)), ((2, 3, 4, 5), (3, 1, 1)), ((33, 1), (1, 7)), ((0, 3), (3,)), ((2, 1, 3), (2, 1))]


def few(rng, *shape):
    """Return small whole numbers, many of which are equal."""
    return np.asarray(rng.integers(-1, 2, shape), np.float32)


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_comparisons(rng, isa, name, kind):
    for shape, other in SHAPES:
        a, b = few(rng, *shape).astype(kind), few(rng, *other).astype(kind)
        y = getattr(F, name)(a, b)
        np.testing.assert_array_equal(y, COMPARISONS[name](a, b))
        assert y.dtype == rules(getattr(F, name)).dtype(a, b) == np.bool_
        assert rules(getattr(F, name)).shape(a, b) == y.shape


@pytest.mark.parametrize("name", COMPARISONS)
def test_nan_and_numbers(isa, threads, name):
    a = np.array([0, -0.0, 1, np.nan, np.inf] * 2000, np.float32)
    np.testing.assert_array_equal(getattr(F, name)(a, np.roll(a, 1)), COMPARISONS[name](a, np.roll(a, 1)))
    np.testing.assert_array_equal(getattr(F, name)(a, 1), COMPARISONS[name](a, 1))
    np.testing.assert_array_equal(getattr(F, name)(0.5, a), COMPARISONS[name](0.5, a))
    large = np.array([2**53, 2**53 + 1])
    np.testing.assert_array_equal(getattr(F, name)(large, 2**53), COMPARISONS[name](large, 2**53))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "big_endian"])
def test_layouts(rng, isa, layout):
    for shape in [(5, 7), (2, 5, 3, 4), (2, 2, 3, 2, 37)]:
        a, b = few(rng, *shape), few(rng, *shape)
        given = LAYOUTS[layout](a)
        np.testing.assert_array_equal(F.gt(given, b), a > b)
        np.testing.assert_array_equal(F.where(LAYOUTS[layout](a > 0), given, b), np.where(a > 0, a, b))
        np.testing.assert_array_equal(F.where(b > 0, given, LAYOUTS[layout](b)), np.where(b > 0, a, b))


def test_logic(rng):
    a, b = rng.integers(0, 2, (2, 3, 37)) > 0, rng.integers(0, 2, (3, 1)) > 0
    np.testing.assert_array_equal(F.logical_and(a, b), a & b)
    np.testing.assert_array_equal(F.logical_or(b, a), a | b)
    np.testing.assert_array_equal(F.logical_not(a[..., ::2]), ~a[..., ::2])


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_where(rng, isa, threads, kind):
    for which, shape, other in [((), (7,), ()), ((5, 1), (37,), (5, 1)), ((2, 3, 4, 40),) * 3, ((9000,),) * 3]:
        condition, a, b = few(rng, *which) > 0, few(rng, *shape).astype(kind), few(rng, *other).astype(kind)
        y = F.where(condition, a, b)
        np.testing.assert_array_equal(y, np.where(condition, a, b))
        assert y.dtype == rules(F.where).dtype(condition, a, b) == kind
        assert rules(F.where).shape(condition, a, b) == y.shape


def test_where_takes_numbers(rng):
    condition = np.array([True, False])
    assert F.where(condition, 1, 0).dtype == np.float32
    np.testing.assert_array_equal(F.where(condition, np.array([5, 6]), 2), [5, 2])
    np.testing.assert_array_equal(F.where(True, np.ones(2, np.float32), np.nan), [1, 1])


def test_gradient_of_where(rng):
    condition, a, b = few(rng, 4, 5) > 0, few(rng, 5), few(rng, 3, 4, 1)
    gradient = few(rng, 3, 4, 5)
    _, found = by_rule(F.where, gradient, condition, a, b, wanted=("input", "other"))
    np.testing.assert_array_equal(found["input"], sum_to(np.where(condition, gradient, 0), a.shape))
    np.testing.assert_array_equal(found["other"], sum_to(np.where(condition, 0, gradient), b.shape))


def test_a_gradient_passes_a_choice_and_no_comparison():
    x = np.array([-2, 3], np.float32)
    value, pullback = convlane.vjp(lambda x: F.where(F.gt(x, 0), F.square(x), F.mul(x, 0.5)), x)
    np.testing.assert_array_equal(value, [-1, 9])
    np.testing.assert_array_equal(pullback(np.ones(2, np.float32))[0], [0.5, 6])


ROW = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.eq(ROW, ROW.astype(np.int64)), TypeError, "eq: input holds float32, but other int64"),
        (lambda: F.lt(ROW, ROW[:2]), ValueError, r"lt: shapes \(3,\) and \(2,\) do not broadcast"),
        (lambda: F.lt(ROW, ROW.astype(np.int32)), TypeError, "must be float32, int64 or bool, got int32; convert"),
        (lambda: F.lt(ROW, "1"), TypeError, "lt: other must be a NumPy array, got str"),
        (lambda: F.logical_and(ROW, ROW), TypeError, "logical_and: input must hold bools, got float32; compare it"),
        (lambda: F.where(ROW, ROW, ROW), TypeError, "where: condition must hold bools"),
        (lambda: F.where(ROW > 0, ROW, ROW > 0), TypeError, "where: input holds float32, but other bool"),
        (lambda: F.where(ROW[:2] > 0, ROW, ROW), ValueError, "where: shapes"),
        (lambda: F.gt(ROW.reshape(3, *[1] * 8), ROW), ValueError, "at most 8 dimensions, got 9"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
