"""Reductions and scans along one dimension, with their gradients, against NumPy in float64."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles.reduce import REDUCTIONS

OPERATIONS = {name: (getattr(F, name), oracle) for name, oracle in REDUCTIONS.items()}
CASES = [
    ((), None),
    ((7,), None),
    ((7,), 0),
    ((3, 4), -1),
    ((3, 4), ()),
    ((2, 3, 4, 5), None),
    ((2, 3, 4, 5), 1),
    ((2, 3, 4, 5), (2, 3)),
    ((2, 3, 4, 5), (-1, 0)),
    ((0, 3), 1),
    ((2, 1, 1, 1), (1, 2, 3)),
    ((0, 3, 4), 0),
    ((2, 0, 3, 0, 4), (1, 3)),
]


def normal(rng, *shape):
    return np.asarray(rng.standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("shape", "dim"), CASES)
@pytest.mark.parametrize("keepdim", [False, True])
def test_forward_and_gradient(rng, name, shape, dim, keepdim):
    ours, theirs = OPERATIONS[name]
    x = normal(rng, *shape)
    if name in {"amax", "amin"} and x.size == 0:
        return
    y = ours(x, dim, keepdim=keepdim)
    expected = np.asarray(theirs(x.astype(np.float64), dim, keepdim))
    assert_close(y, expected, factor=2)
    assert rules(ours).shape(x, dim, keepdim=keepdim) == y.shape
    assert y.flags.c_contiguous
    gradient = normal(rng, *y.shape)
    recorded, found = by_rule(ours, gradient, x, dim, keepdim=keepdim)
    np.testing.assert_array_equal(recorded, y)
    numeric = numeric_gradient(lambda z: np.asarray(theirs(z, dim, keepdim)), x, gradient)
    np.testing.assert_allclose(found["input"], numeric, rtol=1e-4, atol=1e-5)


SIZES = [(1,), (15,), (16,), (127,), (128,), (129,), (3, 5), (5, 3), (130, 7), (7, 130), (3, 17, 5), (2, 3, 4, 33)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_sizes_around_the_tiles(rng, isa, threads, name):
    """Reductions over rows, over columns and over both or neither, of arrays in three memory orders."""
    ours, theirs = OPERATIONS[name]
    for shape in SIZES:
        x = np.asarray(normal(rng, *shape) * np.float32(0.2) + np.float32(1))
        for view in (x, np.asfortranarray(x), x[..., ::-1], x[..., ::2], LAYOUTS["channels_last"](x)):
            for dim in (None, *range(x.ndim), (0, x.ndim - 1) if x.ndim > 1 else 0):
                expected = np.asarray(theirs(view.astype(np.float64), dim, False))
                np.testing.assert_allclose(ours(view, dim), expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", ["sum", "prod", "amax", "var"])
@pytest.mark.parametrize("shape", [(70_000,), (2, 70_000), (70_000, 3)])
def test_results_of_several_chunks(rng, name, shape):
    ours, theirs = OPERATIONS[name]
    x = normal(rng, *shape) * np.float32(1e-3) + np.float32(1)
    dim = shape.index(70_000)
    with convlane.num_threads(1):
        y = ours(x, dim)
    np.testing.assert_allclose(y, theirs(x.astype(np.float64), dim, False), rtol=1e-6)
    with convlane.num_threads(3):
        np.testing.assert_array_equal(ours(x, dim), y)


@pytest.mark.parametrize("name", ["amax", "amin"])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_nan_is_the_extreme(rng, isa, name, dim):
    x = normal(rng, 37, 41)
    x[5, 7], x[30, 20] = np.nan, np.inf
    x[8] = -np.inf
    np.testing.assert_array_equal(OPERATIONS[name][0](x, dim), OPERATIONS[name][1](x, dim, False))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", [(3, 2, 128), (5, 3, 8, 64), (70, 2, 1024)])
def test_runs_of_whole_trees(rng, isa, name, shape):
    """Rows that consist of several runs: read in place, or gathered if they are reversed in memory."""
    ours, theirs = OPERATIONS[name]
    x = normal(rng, *shape) * np.float32(0.01) + np.float32(1)
    dim = (0, *range(2, x.ndim))
    y = ours(x, dim)
    np.testing.assert_allclose(y, theirs(x.astype(np.float64), dim, False), rtol=1e-6)
    np.testing.assert_array_equal(ours(np.ascontiguousarray(x[..., ::-1])[..., ::-1], dim), y)
    with convlane.num_threads(3):
        np.testing.assert_array_equal(ours(x, dim), y)


def test_large_means_cost_a_variance_no_digits(rng, isa):
    x = normal(rng, 3, 1000) + np.float32(1000)
    np.testing.assert_allclose(F.var(x, 1), np.var(x.astype(np.float64), 1, ddof=1), rtol=2e-6)
    np.testing.assert_allclose(F.var(x, 0, correction=0), np.var(x.astype(np.float64), 0), rtol=2e-6)


def test_a_variance_beside_a_mean_that_float32_cannot_hold(rng, isa):
    x = np.float32(1e6) + rng.integers(0, 3, (4, 1001)).astype(np.float32)
    np.testing.assert_allclose(F.var(x, 1), np.var(x.astype(np.float64), 1, ddof=1), rtol=2e-6)
    np.testing.assert_allclose(F.var(x, 0, correction=0), np.var(x.astype(np.float64), 0), rtol=2e-6)
    assert np.isnan(F.var(x[:1, :1]))


def test_products_pass_beyond_float32():
    assert F.prod(np.array([1e30, 1e30, 1e-30, 1e-30], np.float32)) == np.float32(1)
    assert F.prod(np.ones(0, np.float32)) == 1


def test_gradients_of_products_with_zeros():
    x = np.array([[2, 0, 3], [0, 0, 5], [1, 2, 3]], np.float32)
    _, found = by_rule(F.prod, np.ones(3, np.float32), x, 1)
    np.testing.assert_array_equal(found["input"], [[0, 6, 0], [0, 0, 0], [6, 3, 2]])


def test_equal_extremes_share_the_gradient():
    _, found = by_rule(F.amax, np.array(6, np.float32), np.array([[1, 3], [3, 3]], np.float32))
    np.testing.assert_array_equal(found["input"], [[0, 2], [2, 2]])


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_indices(rng, isa, threads, name):
    ours, theirs = getattr(F, name), getattr(np, name)
    for shape in [(1,), (17,), (5000,), (3, 37), (37, 3), (9, 20), (2, 3, 4, 5), (0, 3)]:
        x = np.asarray(rng.integers(-3, 4, shape), np.float32)
        for _ in range(2):
            for dim in range(-1, x.ndim):
                if x.shape[dim] == 0:
                    continue
                for view in (x, LAYOUTS["channels_last"](x), LAYOUTS["sliced"](x)):
                    y = ours(view, dim)
                    np.testing.assert_array_equal(y, theirs(x, dim))
                    assert y.dtype == np.int64
                np.testing.assert_array_equal(ours(x, dim, keepdim=True), theirs(x, dim, keepdims=True))
                assert rules(ours).shape(x, dim, True) == theirs(x, dim, keepdims=True).shape
            if x.size:
                np.testing.assert_array_equal(ours(np.asfortranarray(x)), theirs(x))
                x.flat[rng.integers(0, x.size, 2)] = np.nan
    assert ours(np.asarray(3, np.float32)) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cumsum(rng, threads, layout):
    for shape in [(7,), (3, 300), (300, 3), (2, 3, 4, 5), (0, 3)]:
        x, gradient = normal(rng, *shape), normal(rng, *shape)
        for dim in range(-1, x.ndim - 1):
            y, found = by_rule(F.cumsum, LAYOUTS["contiguous"](gradient), LAYOUTS[layout](x), dim)
            assert_close(y, np.cumsum(x.astype(np.float64), dim))
            assert_close(found["input"], np.flip(np.cumsum(np.flip(gradient.astype(np.float64), dim), dim), dim))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bits_for_any_layout_of_one_order_and_any_batch(rng, layout):
    x = normal(rng, 5, 33, 17, 19) * 1000
    given, dims = LAYOUTS[layout](x), (3, 1, 2)
    whole = F.sum(given, dims)
    np.testing.assert_array_equal(F.sum(LAYOUTS[layout](x[2:3]), dims), whole[2:3])
    if layout not in {"channels_last", "fortran"}:
        np.testing.assert_array_equal(whole, F.sum(x, dims))
    assert_close(whole, x.astype(np.float64).sum(dims), terms=10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bits_where_one_dimension_is_left_out(rng, layout):
    x = normal(rng, 5, 33, 17, 19) * 1000
    for dim in range(4):
        np.testing.assert_array_equal(F.sum(LAYOUTS[layout](x), dim), F.sum(x, dim))


@pytest.mark.parametrize("name", OPERATIONS)
def test_columns_of_what_caches_do_not_hold_have_the_bits_of_few(rng, isa, threads, name):
    """Many are computed side by side, of few rows or much memory others than of little."""
    ours, _ = OPERATIONS[name]
    x = normal(rng, 130, 2**14 + 300)
    assert x.size > 2**21
    np.testing.assert_array_equal(ours(x, 0)[700:900], ours(x[:, 700:900], 0))
    np.testing.assert_array_equal(ours(x, 0)[-5:], ours(x[:, -5:], 0))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("length", [1, 5, 16, 100, 300])
def test_rows_of_a_matrix_have_the_bits_of_columns(rng, isa, threads, name, length):
    ours, _ = OPERATIONS[name]
    x = normal(rng, 70, length)
    np.testing.assert_array_equal(ours(x, 1), ours(np.asfortranarray(x), 1))
    np.testing.assert_array_equal(ours(x[::2], 1), ours(x, 1)[::2])


def test_products_of_a_lane_s_largest_floats_do_not_overflow(isa):
    largest, lanes = np.finfo(np.float32).max, _core.tile_sizes()["lanes"]
    x = np.full((8, lanes), largest, np.float32)
    x[:, lanes // 2 :] = 1 / largest
    pair = float(largest) * float(x[0, -1])
    np.testing.assert_allclose(F.prod(x), pair ** (4 * lanes), rtol=1e-6)


def test_long_sums_do_not_drift():
    assert F.sum(np.full(3_000_000, 0.1, np.float32)) == np.float32(3_000_000 * float(np.float32(0.1)))


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"amax", "amin"}))
def test_views_without_numbers(name):
    """Whose strides are not those of an array that was made empty."""
    ours, theirs = OPERATIONS[name]
    x = np.zeros((3, 2, 4), np.float32)
    for view in (x[:, :0], x[:0], x[..., 4:], x[::-1, :0, ::2]):
        for dim in (None, 0, 1, 2, (0, 1), (1, 2)):
            assert_close(ours(view, dim), np.asarray(theirs(view.astype(np.float64), dim, False)))


def test_nothing():
    assert F.sum(np.ones((0, 3), np.float32)) == 0
    assert np.isnan(F.mean(np.ones((0, 3), np.float32)))
    np.testing.assert_array_equal(F.sum(np.ones((2, 0), np.float32), 1), [0, 0])
    assert by_rule(F.mean, np.ones((), np.float32), np.ones((0, 3), np.float32))[1]["input"].shape == (0, 3)


@pytest.mark.torch
@pytest.mark.parametrize("name", OPERATIONS)
def test_agrees_with_torch(rng, name):
    import torch

    x, gradient = normal(rng, 2, 3, 4, 5), normal(rng, 2, 5)
    tensor = torch.tensor(x, requires_grad=True)
    dims = 1 if name == "prod" else (1, -2)
    gradient = normal(rng, 2, 4, 5) if name == "prod" else gradient
    expected = getattr(torch, name)(tensor, dims)
    expected.backward(torch.tensor(gradient))
    value, pullback = convlane.vjp(lambda x: getattr(F, name)(x, dims), x)
    assert_close(value, expected.detach().numpy(), terms=12)
    assert_close(pullback(gradient)[0], tensor.grad.numpy(), factor=2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: F.sum(x, 2), ValueError, "sum: dim=2 is out of range for 2 dimensions"),
        (lambda x: F.mean(x, (0, -2)), ValueError, r"mean: dim=\(0, -2\) names a dimension twice"),
        (lambda x: F.sum(x, 0.5), TypeError, "sum: dim must be an integer, got 0.5"),
        (lambda x: F.amax(x[:0]), ValueError, r"amax: input of shape \(0, 3\) has no elements along dim=None"),
        (lambda x: F.argmin(x[:, :0], 1), ValueError, "argmin: input of shape .* has no elements along dim=1"),
        (lambda x: F.argmax(x, (0, 1)), TypeError, "argmax: dim must be an integer or None"),
        (lambda x: F.cumsum(x, 2), ValueError, "cumsum: dim=2 is out of range"),
        (lambda x: F.var(x, correction="1"), TypeError, "var: correction must be a number"),
        (lambda x: F.prod(x.reshape(2, 3, *[1] * 7)), ValueError, "at most 8 dimensions, got 9"),
        (lambda x: _core.reduce("median", x, [0]), ValueError, "unknown reduction 'median'"),
        (lambda x: _core.reduce("amin", x[:0], [0]), ValueError, "of no numbers is undefined"),
        (lambda x: _core.reduce("sum", x, [2]), ValueError, "axis 2 is out of range"),
        (lambda x: _core.arg(True, x[:, :0], 1), ValueError, "no numbers is undefined"),
        (lambda x: _core.cumsum(x.T, 0), ValueError, "dense in C order"),
        (lambda x: F.mean(x.astype(np.float64)), TypeError, "mean: input must be float32"),
        (lambda x: rules(F.sum).shape(x, (1, 1)), ValueError, "names a dimension twice"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call(np.ones((2, 3), np.float32))
