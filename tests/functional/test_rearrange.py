"""Permuting, reshaping, slicing, repeating and selecting, against NumPy."""

import numpy as np
import pytest

import convlane
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule
from layouts import LAYOUTS
from oracles import rearrange as oracle
from oracles.pointwise import sum_to

KINDS = [np.float32, np.int64, np.bool_]


def normal(rng, *shape):
    return np.asarray(rng.standard_normal(shape, dtype=np.float32))


VIEWS = {  # operation, arguments, and NumPy's equivalent
    "permute": (F.permute, ((2, 0, -2),), lambda x: np.transpose(x, (2, 0, 1))),
    "transpose": (F.transpose, (0, -1), lambda x: np.swapaxes(x, 0, -1)),
    "reshape": (F.reshape, ((-1, 2, 2),), lambda x: x.reshape(-1, 2, 2)),
    "reshape to one": (F.reshape, ((-1,),), lambda x: x.reshape(-1)),
    "squeeze": (F.squeeze, (1,), lambda x: x),
    "unsqueeze": (F.unsqueeze, (-2,), lambda x: x[:, :, None]),
    "expand": (F.expand, ((5, -1, 3, 4),), lambda x: np.broadcast_to(x, (5, 2, 3, 4))),
    "flip": (F.flip, ((0, -1),), lambda x: x[::-1, :, ::-1]),
    "strided_slice": (F.strided_slice, (2, -1, None, -2), lambda x: x[:, :, -1::-2]),
    "narrow": (F.narrow, (1, 1, 2), lambda x: x[:, 1:3]),
    "tile": (F.tile, ((2, 1, 1, 3),), lambda x: np.tile(x, (2, 1, 1, 3))),
    "index_select": (F.index_select, (1, np.array([2, 0, 2])), lambda x: x[:, [2, 0, 2]]),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "big_endian"])
def test_moves(rng, name, kind, layout):
    operation, arguments, exact = VIEWS[name]
    x = (4 * normal(rng, 2, 3, 4)).astype(kind)
    y = operation(LAYOUTS[layout](x), *arguments)
    np.testing.assert_array_equal(y, exact(x))
    assert y.dtype == kind
    if operation in (F.transpose, F.squeeze, F.unsqueeze):
        return
    assert rules(operation).shape(x, *arguments) == y.shape
    assert rules(operation).dtype(x, *arguments) == kind


@pytest.mark.parametrize("name", [name for name in VIEWS if name not in {"transpose", "squeeze", "unsqueeze"}])
def test_gradients_of_moves(rng, name):
    operation, arguments, exact = VIEWS[name]
    x = normal(rng, 2, 3, 4)
    places = exact(np.arange(x.size).reshape(x.shape))
    gradient = normal(rng, *places.shape)
    _, found = by_rule(operation, gradient, x, *arguments)
    expected = np.zeros(x.size)
    np.add.at(expected, places.reshape(-1), gradient.reshape(-1))
    np.testing.assert_allclose(found["input"], expected.reshape(x.shape), rtol=1e-5, atol=1e-6)
    assert found["input"].dtype == np.float32


def test_views_cost_nothing(rng):
    x = normal(rng, 2, 3, 4)
    for y in (F.permute(x, (2, 1, 0)), F.reshape(x, (6, 4)), F.expand(x, (7, 2, 3, 4)), F.flip(x, 0), x):
        assert np.shares_memory(x, y)
    assert F.reshape(F.permute(x, (1, 0, 2)), (3, 8)).flags.c_contiguous


def test_reshape_is_a_view_where_strides_allow_it(rng):
    whole = normal(rng, 4, 6, 4, 6)
    views = [whole, whole[::2], whole[:, 1:3], whole[..., ::-1], whole[:, :, :1], whole[:, ::3], whole[:1, :, 2:]]
    views += [view.transpose(order) for view in views for order in ((1, 0, 2, 3), (2, 3, 0, 1), (0, 2, 3, 1))]
    for x in views:
        n, c, h, w = x.shape
        for shape in ((n * c, h, w), (n, c * h, w), (n, c, h * w), (n * c, h * w), (x.size,), (n, c, h, 2, w // 2)):
            if np.prod(shape) == x.size:
                y = F.reshape(x, shape)
                np.testing.assert_array_equal(y, x.reshape(shape))
                assert np.shares_memory(x, y) == np.shares_memory(x, x.reshape(shape))


SHAPES = [(64, 64), (65, 63), (3, 130, 67), (2, 3, 4, 5, 6), (1, 200), (2, 2, 2, 2, 2, 2, 2, 2), (0, 4), (16, 1, 16)]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_every_order(rng, isa, threads, kind):
    for shape in SHAPES:
        x = (4 * normal(rng, *shape)).astype(kind)
        orders = [tuple(rng.permutation(len(shape))) for _ in range(4)] + [tuple(range(len(shape)))[::-1]]
        for order in orders:
            np.testing.assert_array_equal(F.tile(F.permute(x, order), (1,)), oracle.permute(x, order))
            np.testing.assert_array_equal(F.tile(x.transpose(order)[::-1], (1,)), oracle.permute(x, order)[::-1])


@pytest.mark.parametrize("dims", [(2, 3), (1, 1), (2, 1, 3), (3, 1, 2, 2), (0, 2), (2, 2, 2, 2, 2, 2)])
def test_tile(rng, dims):
    x, gradient = normal(rng, 3, 1, 4), normal(rng, *oracle.tile(np.zeros((3, 1, 4)), dims).shape)
    y, found = by_rule(F.tile, gradient, x, dims)
    np.testing.assert_array_equal(y, oracle.tile(x, dims))
    places = oracle.tile(np.arange(x.size).reshape(x.shape), dims)
    expected = np.zeros(x.size)
    np.add.at(expected, places.reshape(-1), gradient.reshape(-1))
    np.testing.assert_allclose(found["input"], expected.reshape(x.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (1, 2, 1, 2, 3)])
def test_cat_and_stack(rng, kind, shape):
    arrays = [(2 * normal(rng, *shape)).astype(kind) for _ in range(3)]
    for dim in range(-len(shape), len(shape)):
        y = F.cat(arrays, dim)
        np.testing.assert_array_equal(y, np.concatenate(arrays, dim))
        assert y.dtype == kind
    for dim in range(-len(shape) - 1, len(shape) + 1):
        np.testing.assert_array_equal(F.stack([x.T.copy().T for x in arrays], dim), np.stack(arrays, dim))


def test_split_and_chunk(rng):
    x = normal(rng, 2, 7)
    for ours, theirs in (
        (F.split(x, 3, 1), np.split(x, [3, 6], 1)),
        (F.split(x, [1, 4, 2], -1), np.split(x, [1, 5], 1)),
        (F.split(x, [0, 7], -1), np.split(x, [0], 1)),
        (F.split(x[:, :0], 2, 1), [x[:, :0]]),
        (F.chunk(x[:, :0], 2, 1), [x[:, :0]] * 2),
        (F.chunk(x, 3, 1), np.split(x, [3, 6], 1)),
        (F.chunk(x, 9), [x[:1], x[1:]]),
    ):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_index_select_and_gather(rng, threads, kind, layout):
    x = (4 * normal(rng, 3, 4, 5, 2)).astype(kind)
    for dim in range(-4, 4):
        size = x.shape[dim]
        index = rng.integers(0, size, 7)
        np.testing.assert_array_equal(F.index_select(LAYOUTS[layout](x), dim, index), x.take(index, dim))
        np.testing.assert_array_equal(F.index_select(x, dim, index), oracle.index_select(x, dim, index))
        shape = list(x.shape)
        shape[dim] = 3
        places = rng.integers(0, size, shape)
        np.testing.assert_array_equal(F.gather(LAYOUTS[layout](x), dim, places), oracle.gather(x, dim, places))
    assert F.index_select(x, 0, np.zeros(0, np.int64)).shape == (0, 4, 5, 2)


def test_gradient_of_gather(rng):
    x, gradient, index = normal(rng, 3, 4), normal(rng, 3, 6), rng.integers(0, 4, (3, 6))
    _, found = by_rule(F.gather, gradient, x, 1, index)
    expected = np.zeros((3, 4))
    np.add.at(expected, (np.arange(3)[:, None], index), gradient)
    np.testing.assert_allclose(found["input"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("largest", [True, False])
def test_topk(rng, threads, largest):
    for shape in [(1,), (50,), (3, 40), (40, 3), (2, 3, 4, 5)]:
        x = np.round(normal(rng, *shape) * 3)
        for dim in range(-1, x.ndim - 1):
            for k in {0, 1, x.shape[dim] // 2, x.shape[dim]}:
                values, places = F.topk(LAYOUTS["channels_last"](x), k, dim, largest)
                order = np.argsort(-x if largest else x, dim, kind="stable").take(range(k), dim)
                np.testing.assert_array_equal(places, order)
                np.testing.assert_array_equal(values, np.take_along_axis(x, order, dim))


def test_topk_puts_nan_first():
    values, places = F.topk(np.array([1, np.nan, np.inf, np.nan, 3], np.float32), 3)
    np.testing.assert_array_equal(values, [np.nan, np.nan, np.inf])
    np.testing.assert_array_equal(places, [1, 3, 2])
    np.testing.assert_array_equal(F.topk(np.array([np.nan, 1], np.float32), 2, largest=False)[0], [1, np.nan])


def test_gradient_of_topk():
    value, pullback = convlane.vjp(lambda x: F.topk(x, 2)[0], np.array([[1, 5, 3], [4, 2, 6]], np.float32))
    np.testing.assert_array_equal(value, [[5, 3], [6, 4]])
    np.testing.assert_array_equal(pullback(np.array([[1, 2], [3, 4]], np.float32))[0], [[0, 1, 2], [4, 0, 3]])


MATRICES = [
    ((3, 4), (4, 5)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((4,), (4,)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (5, 4, 6)),
    ((5, 1, 19, 6), (1, 3, 6, 19)),
    ((2, 3, 0), (2, 0, 4)),
    ((0, 3, 4), (4, 2)),
    ((3, 600), (600, 40)),
]


def promoted(a, b):
    return (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)


class TestMatmul:
    @pytest.mark.parametrize(("shape", "other"), MATRICES)
    def test_forward_and_gradient(self, rng, isa, shape, other):
        a, b = normal(rng, *shape), normal(rng, *other)
        exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
        np.testing.assert_allclose(oracle.matmul(*promoted(a, b)).reshape(exact.shape), exact, rtol=1e-5, atol=1e-5)
        gradient = normal(rng, *exact.shape)
        y, found = by_rule(F.matmul, gradient, a, b, wanted=("input", "other"))
        bound = 4e-7 * np.sqrt(shape[-1]) * max(np.abs(exact).max(initial=0), 1)
        np.testing.assert_allclose(y, exact, rtol=0, atol=bound)
        assert y.flags.c_contiguous
        assert rules(F.matmul).shape(a, b) == y.shape
        assert rules(F.matmul).multiply_adds(exact.shape, a, b) == exact.size * shape[-1]
        wide_a, wide_b = promoted(a.astype(np.float64), b.astype(np.float64))
        g = gradient.reshape(np.matmul(wide_a, wide_b).shape).astype(np.float64)
        of_a = sum_to(np.matmul(g, np.swapaxes(wide_b, -1, -2)), wide_a.shape).reshape(shape)
        of_b = sum_to(np.matmul(np.swapaxes(wide_a, -1, -2), g), wide_b.shape).reshape(other)
        np.testing.assert_allclose(found["input"], of_a, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["other"], of_b, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("other_layout", ["contiguous", "fortran", "sliced"])
    def test_layouts(self, rng, layout, other_layout):
        a, b = normal(rng, 2, 17, 33), normal(rng, 2, 33, 35)
        y = F.matmul(LAYOUTS[layout](a), LAYOUTS[other_layout](b))
        np.testing.assert_allclose(y, np.matmul(a, b), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(F.matmul(a, F.transpose(F.transpose(b, 1, 2).copy(), 1, 2)), F.matmul(a, b))

    def test_sizes_around_the_tiles(self, rng, isa, threads):
        sizes = _core.tile_sizes()
        for m in (1, sizes["mr"] + 1, 16 * sizes["mr"] + 1):
            for n in (1, sizes["lanes"] + 1, 8 * sizes["nr"] + 1):
                a, b = normal(rng, m, 7), normal(rng, 7, n)
                np.testing.assert_allclose(F.matmul(a, b), a.astype(np.float64) @ b, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("depth", [300, 512, 4700, 5120])
    def test_rows_that_are_copied_and_rows_that_are_not(self, rng, isa, depth):
        """Rows that lie multiples of half a page apart are copied, to the same result."""
        mr = _core.tile_sizes()["mr"]
        for m, n in ((mr + 1, 33), (33 * mr, 5)):
            a, b = normal(rng, m, depth), normal(rng, depth, n)
            wide = np.zeros((m, depth + -depth % 512 + (depth % 512 == 0)), np.float32)
            wide[:, :depth] = a
            y = F.matmul(a, b)
            np.testing.assert_allclose(y, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-3)
            np.testing.assert_array_equal(F.matmul(wide[:, :depth], b), y)
            with convlane.num_threads(3):
                np.testing.assert_array_equal(F.matmul(a, b), y)

    @pytest.mark.parametrize("depth", [1, 7, 64, 4608, 4609, 9000])
    def test_vectors(self, rng, isa, depth):
        for m in (1, 5, 16 * _core.tile_sizes()["mr"] + 1):
            a, b = normal(rng, 2, m, depth), normal(rng, 2, depth, 3)
            y = F.matmul(a, b[..., 1:2])
            np.testing.assert_allclose(y, a.astype(np.float64) @ b[..., 1:2], rtol=1e-4, atol=1e-3)
            np.testing.assert_array_equal(F.matmul(a, b[..., 1:2].copy()), y)
            np.testing.assert_array_equal(F.matmul(a[1], b[1, :, 1]), y[1, :, 0])
            with convlane.num_threads(3):
                np.testing.assert_array_equal(F.matmul(a, b[..., 1:2]), y)

    @pytest.mark.parametrize("columns", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("depth", [1, 17, 4096, 4097, 8200])
    def test_few_columns(self, rng, isa, threads, columns, depth):
        """They are dot products, of blocks where the sums are long."""
        a, b = normal(rng, 2, 70, depth), normal(rng, 2, depth, columns)
        y, exact = F.matmul(a, b), np.matmul(a.astype(np.float64), b)
        np.testing.assert_allclose(y, exact, rtol=0, atol=2e-7 * np.sqrt(depth) * max(np.abs(exact).max(), 1))
        np.testing.assert_array_equal(F.matmul(a, b.transpose(0, 2, 1).copy().transpose(0, 2, 1)), y)
        np.testing.assert_array_equal(F.matmul(a[1:, 60:], b[1:]), y[1:, 60:])
        np.testing.assert_array_equal(F.matmul(a, b[:1])[0], y[0])

    def test_same_bits_in_any_stack_and_for_any_thread_count(self, rng, isa):
        a, b = normal(rng, 5, 40, 70), normal(rng, 70, 90)
        with convlane.num_threads(1):
            whole = F.matmul(a, b)
        with convlane.num_threads(3):
            np.testing.assert_array_equal(F.matmul(a, b), whole)
        np.testing.assert_array_equal(F.matmul(a[3], b), whole[3])

    def test_nan_stays_in_its_row_and_column(self, isa):
        a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
        a[1, 2] = np.nan
        assert np.isnan(F.matmul(a, b)).sum() == 5


@pytest.mark.torch
def test_agrees_with_torch(rng):
    import torch

    x, index = normal(rng, 3, 4, 5), rng.integers(0, 4, (3, 6, 5))
    tensor, places = torch.from_numpy(x), torch.from_numpy(index)
    for ours, theirs in (
        (F.gather(x, 1, index), torch.gather(tensor, 1, places)),
        (F.tile(x, (2, 1, 3)), torch.tile(tensor, (2, 1, 3))),
        (F.topk(x, 3, 1)[0], torch.topk(tensor, 3, 1)[0]),
        (F.flip(x, (0, 2)), torch.flip(tensor, (0, 2))),
        (F.matmul(x, F.transpose(x, 1, 2)), torch.matmul(tensor, tensor.transpose(1, 2))),
        (F.chunk(x, 3, 2)[1], torch.chunk(tensor, 3, 2)[1]),
        (F.stack([x, x], -1), torch.stack([tensor, tensor], -1)),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)


OPERATORS = {
    "slices": lambda x: x[:, :2],
    "step": lambda x: x[..., ::2],
    "backwards": lambda x: x[::-1, -2:, 1],
    "new dimensions": lambda x: x[None, :, ..., None],
    "numbers": lambda x: x[-1, 2],
    "reshape": lambda x: x.reshape(2, -1),
    "reshape at once": lambda x: x.reshape((12, 2)),
    "transpose": lambda x: x.transpose(1, 0, 2),
    "T": lambda x: x.T,
    "mean": lambda x: x.mean((1, 2)),
    "sum": lambda x: x.sum(),
    "kept": lambda x: x.sum(-1, keepdims=True),
    "max": lambda x: x.max(1),
    "min": lambda x: x.min(),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "matmul": lambda x: x @ np.ones((4, 5), np.float32),
    "matmul from the right": lambda x: np.ones((2, 5, 3), np.float32) @ x,
    "number / it": lambda x: 2 / x,
    "power": lambda x: x**3,
    "square": lambda x: x**2,
    "power of a number": lambda x: 2**x,
    "it - array": lambda x: x - np.ones((3, 1), np.float32),
    "array ** it": lambda x: np.full((4,), 1.5, np.float32) ** x,
    "broadcasting": lambda x: x * x[:1] + x[:, :, :1],
}


@pytest.mark.parametrize("name", OPERATORS)
def test_python_s_operators_trace_and_train(rng, name):
    function = OPERATORS[name]
    x = np.abs(normal(rng, 2, 3, 4)) + np.float32(0.5)
    expected = np.asarray(function(x))
    assert convlane.graph.trace(function, x.shape).output_shape == expected.shape
    value, pullback = convlane.vjp(function, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    (gradient,) = pullback(np.ones(expected.shape, np.float32))
    direction, step = normal(rng, *x.shape), 2**-7
    slope = (function(x + step * direction).sum() - function(x - step * direction).sum()) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("compare", [lambda x: x > 1, lambda x: x <= x[:1], lambda x: x == 1, lambda x: x != 2])
def test_comparisons_choose(rng, compare):
    x = np.array([[0.5, 1, 2], [3, 1, 0]], np.float32)
    value, pullback = convlane.vjp(lambda x: F.where(compare(x), x * 2, x), x)
    np.testing.assert_array_equal(value, np.where(compare(x), 2 * x, x))
    np.testing.assert_array_equal(pullback(np.ones_like(x))[0], np.where(compare(x), 2, 1))


CUBE = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.permute(CUBE, (0, 1)), ValueError, "must name each of the 3 dimensions once"),
        (lambda: F.permute(CUBE, (0, 1, 1)), ValueError, "must name each"),
        (lambda: F.permute(CUBE, 1), TypeError, "dims must be a list or a tuple"),
        (lambda: F.transpose(CUBE, 0, 3), ValueError, "transpose: dim1=3 is out of range"),
        (
            lambda: F.reshape(CUBE, (5, -1)),
            ValueError,
            r"reshape: shape=\(5, -1\) does not have as many elements as shape",
        ),
        (lambda: F.reshape(CUBE, (-1, -1)), ValueError, "may have one -1"),
        (lambda: F.reshape(CUBE, (24, *[1] * 8)), ValueError, "at most 8 dimensions"),
        (lambda: F.reshape(CUBE[:0], (-1, 0)), ValueError, "as many elements"),
        (lambda: F.squeeze(CUBE, 3), ValueError, "squeeze: dim=3 is out of range"),
        (lambda: F.unsqueeze(CUBE, 4), ValueError, "unsqueeze: dim=4 is out of range"),
        (lambda: F.expand(CUBE, (3, 3, 4)), ValueError, "only sizes of 1 repeat"),
        (lambda: F.expand(CUBE, (3, 4)), ValueError, "does not fit"),
        (lambda: F.expand(CUBE, (-1, 2, 3, 4)), ValueError, "-1 keeps a size that exists"),
        (lambda: F.flip(CUBE, (0, -3)), ValueError, "names a dimension twice"),
        (lambda: F.strided_slice(CUBE, 0, step=0), ValueError, "step must not be 0"),
        (lambda: F.strided_slice(CUBE, 0, 1.5), TypeError, "start must be an integer"),
        (lambda: F.tile(CUBE, (-1,)), ValueError, "must not be negative"),
        (lambda: F.tile(CUBE, (2**61,)), ValueError, "^tile: sizes too large: their product overflows"),
        (lambda: F.tile(CUBE, (2**45,)), MemoryError, r"^tile: cannot allocate 3.15e\+06 GiB"),
        (lambda: F.tile(CUBE.astype(np.int32), (1,)), TypeError, "must be float32, int64 or bool, got int32"),
        (lambda: F.stack([CUBE, CUBE[:1]]), ValueError, "stack: the arrays must have one shape"),
        (lambda: F.stack([]), ValueError, "tensors is empty"),
        (lambda: F.cat([CUBE, CUBE > 0], 0), TypeError, r"cat: tensors\[0\] holds float32, but tensors\[1\] bool"),
        (lambda: F.split(CUBE, [1, 1], 1), ValueError, "do not add up to dim 1"),
        (lambda: F.chunk(CUBE, 0), ValueError, "chunks must be at least 1"),
        (lambda: F.index_select(CUBE, 1, np.array([0, 3])), ValueError, "index 3 is out of range for a dimension of 3"),
        (lambda: F.index_select(CUBE, 1, np.array([-1])), ValueError, "index -1 is out of range"),
        (lambda: F.index_select(CUBE, 1, np.array([[0]])), ValueError, "index must have one dimension"),
        (lambda: F.index_select(CUBE, 1, CUBE[0, 0]), TypeError, "index must hold int64, got float32"),
        (lambda: F.gather(CUBE, 1, np.zeros((2, 3), int)), ValueError, "may differ along dim 1 only"),
        (lambda: F.gather(CUBE, 1, np.full((2, 1, 4), 3)), ValueError, "gather: index 3 is out of range"),
        (lambda: F.topk(CUBE, 5), ValueError, "k=5 is out of range for dim 2"),
        (lambda: F.topk(CUBE, -1), ValueError, "k=-1 is out of range"),
        (lambda: F.matmul(CUBE, CUBE), ValueError, "4 columns but 3 rows"),
        (lambda: F.matmul(np.asarray(1, np.float32), CUBE), ValueError, "both arrays must have a dimension"),
        (lambda: F.matmul(np.ones((3, 2, 4), np.float32), np.ones((2, 4, 5), np.float32)), ValueError, "do not broad"),
        (lambda: F.matmul(CUBE, CUBE.astype(np.int64)), TypeError, "matmul: other must be float32, got int64"),
        (lambda: _core.matmul(CUBE, CUBE), ValueError, "do not fit"),
        (lambda: _core.take(CUBE, 0, np.array([2])), ValueError, "index 2 is out of range"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
