"""Padding is exact, whatever the memory layout."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import convlane
from convlane import analysis
from convlane import functional as F
from convlane.functional._op import rules
from layouts import LAYOUTS
from oracles.padding import pad

MODES = ("constant", "reflect", "replicate", "circular")
CASES = [  # shape, pad
    ((5,), (2, 3)),
    ((2, 3, 6), (1, 2)),
    ((2, 5, 3, 4), (0, 0, 0, 0)),
    ((2, 5, 3, 4), (1, 2, 2, 1)),
    ((2, 17, 3, 4), (0, 3)),
    ((2, 5, 3, 4), (-1, 2, 1, -1)),
    ((2, 5, 3, 4), (-2, -1)),
    ((2, 5, 3, 4), (1, 1, 0, 2, 3, 1, 1, 0)),
    ((1, 2, 3, 4, 3), (2, 1, 1, 0, 2, 2)),
]


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def sides_of(shape, sides):
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    return [(0, 0)] * (len(shape) - len(pairs)) + pairs[::-1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "sides"), CASES, ids=str)
def test_definition(shape, sides, mode, rng):
    x = normal(rng, *shape)
    value = 1.5 if mode == "constant" else 0
    y = F.pad(x, sides, mode, value)
    np.testing.assert_array_equal(y, pad(x, sides_of(shape, sides), mode, value))
    assert rules(F.pad).shape(x, sides, mode, value) == y.shape
    assert (y.transpose(0, 2, 3, 1) if y.ndim == 4 else y).flags.c_contiguous


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_instruction_sets(layout, mode, isa, threads, rng):
    x = normal(rng, 2, 19, 20, 30)
    expected = np.pad(x, ((0, 0), (0, 0), (3, 4), (1, 2)), {"replicate": "edge", "circular": "wrap"}.get(mode, mode))
    np.testing.assert_array_equal(F.pad(LAYOUTS[layout](x), (1, 2, 3, 4), mode), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "sides"), CASES[1:], ids=str)
def test_gradient_is_the_adjoint(shape, sides, mode, rng):
    x, direction = normal(rng, *shape), normal(rng, *shape)
    y, pullback = convlane.vjp(lambda x: F.pad(x, sides, mode), x)
    g = normal(rng, *y.shape)
    before = g.copy()
    (dx,) = pullback(g)
    np.testing.assert_array_equal(g, before)
    assert dx.shape == shape
    assert np.vdot(g, F.pad(direction, sides, mode)) == pytest.approx(np.vdot(dx, direction), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sides", [(1, 2, 2, 1), (2, -1, -1, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "negative_strides"])
def test_compiled(sides, mode, layout, rng):
    x = normal(rng, 3, 5, 6, 4)
    value = -0.5 if mode == "constant" else 0

    def network(x):
        y = F.relu(x)
        return F.pad(F.cat([F.pad(y, sides, mode, value), F.pad(y, sides)]), (1, 0), mode)

    plan = convlane.compile(network, (None, 5, 6, 4))
    np.testing.assert_array_equal(plan(LAYOUTS[layout](x)), network(x))


def test_compiled_volumes_and_parts(rng):
    x = normal(rng, 2, 6, 4, 15)

    def network(x):
        return F.pad(F.reshape(x[:, 1:4], (-1, 3, 4, 5, 3)), (1, 1, 0, -2, 2, 1), "replicate")

    np.testing.assert_array_equal(convlane.compile(network, x.shape)(x), network(x))
    with pytest.raises(ValueError, match="pad of the batch"):
        convlane.compile(lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1)), (1, 2, 3, 4))


def test_what_numbers_see():
    def rows(mode, sides):
        return analysis.receptive_field(lambda x: F.pad(x, sides, mode), (1, 1, 4, 4)).fields[-1].rows[:, 0].tolist()

    assert rows("reflect", (0, 0, 1, 2)) == [1, 0, 1, 2, 3, 2, 1]
    assert rows("circular", (0, 0, 2, -1)) == [1, 2, 0, 1, 2]
    assert rows("replicate", (1, 1)) == [0, 1, 2, 3]
    assert rows("constant", (0, 0, 1, -1)) == [-1, 0, 1, 2]


def test_other_types():
    x = np.arange(4).reshape(2, 2)
    np.testing.assert_array_equal(F.pad(x, (1, 0), value=7), [[7, 0, 1], [7, 2, 3]])
    np.testing.assert_array_equal(F.pad(x > 1, (0, 1), "circular"), [[False] * 3, [True] * 3])
    assert F.pad(x, (1, 0)).dtype == np.int64


def test_special_values(rng):
    x = normal(rng, 1, 2, 3, 3)
    x[0, 0, 0, 0], x[0, 1, 2, 2] = np.nan, np.inf
    y = F.pad(x, (1, 1, 1, 1), value=np.nan)
    np.testing.assert_array_equal(y[..., 1:-1, 1:-1], x)
    assert np.isnan(y[..., 0, :]).all()
    assert F.pad(x, (1, 0), value=1e300)[0, 0, 0, 0] == np.inf


def test_empty():
    assert F.pad(np.zeros((0, 3, 4, 5), np.float32), (1, 1, 1, 1), "reflect").shape == (0, 3, 6, 7)
    np.testing.assert_array_equal(F.pad(np.ones((1, 2, 0, 3), np.float32), (1, 1, 1, 1)), np.zeros((1, 2, 2, 5)))
    assert F.pad(np.zeros((1, 0, 4, 5), np.float32), (2**40, 0, 2**20, 0)).shape == (1, 0, 2**20 + 4, 2**40 + 5)
    assert F.pad(np.zeros((1, 3), np.float32), (-1, -2)).shape == (1, 0)
    assert F.pad(np.array(1.0, np.float32), ()).shape == ()


@pytest.mark.torch
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "sides"),
    [((2, 3, 6), (3, 2)), ((2, 3, 5, 6), (1, 4, 3, 0)), ((2, 3, 5, 6), (-1, 2)), ((1, 2, 3, 4, 5), (2, 1, 1, 2, 2, 0))],
    ids=str,
)
def test_agrees_with_torch(shape, sides, mode, rng):
    import torch

    sides = sides if mode == "constant" or len(sides) == 2 * (len(shape) - 2) else (*sides, 0, 0)
    x = normal(rng, *shape)
    theirs = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.pad(theirs, sides, mode)
    y, pullback = convlane.vjp(lambda x: F.pad(x, sides, mode), x)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    g = normal(rng, *y.shape)
    expected.backward(torch.tensor(g))
    np.testing.assert_allclose(pullback(g)[0], theirs.grad, rtol=1e-6, atol=1e-6)


IMAGE = np.ones((2, 3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.pad(IMAGE, (1, 1, 1)), ValueError, r"pad must be pairs .* at most 4 for shape .* got \(1, 1, 1\)"),
        (lambda: F.pad(IMAGE, (1,) * 10), ValueError, "pad must be pairs"),
        (lambda: F.pad(IMAGE, 1), TypeError, "pad must be a list or a tuple of integers, got int"),
        (lambda: F.pad(IMAGE, (1, 1.5, 1, 1)), TypeError, r"pad must be an integer, got 1\.5"),
        (lambda: F.pad(IMAGE, (1, 1), "edge"), ValueError, "mode must be one of constant, reflect.* got 'edge'"),
        (lambda: F.pad(IMAGE, (1, 1), "reflect", 2), ValueError, "value is for mode 'constant', not for 'reflect'"),
        (lambda: F.pad(IMAGE, (1, 1), value="0"), TypeError, "value must be a number, got '0'"),
        (
            lambda: F.pad(IMAGE, (-3, -3)),
            ValueError,
            r"\(-3, -3\) cuts off more than dim 3 of shape \(2, 3, 4, 5\) has",
        ),
        (lambda: F.pad(IMAGE, (5, 0), "reflect"), ValueError, r"'reflect' cannot pad dim 3 of shape .* by \(5, 0\)"),
        (
            lambda: F.pad(IMAGE, (0, 0, 0, 5), "circular"),
            ValueError,
            r"'circular' cannot pad dim 2 of shape .* by \(0, 5\)",
        ),
        (
            lambda: F.pad(IMAGE[:, :, :0], (0, 0, 1, 0), "replicate"),
            ValueError,
            r"'replicate' cannot pad dim 2 of shape .* by \(1, 0\)",
        ),
        (lambda: F.pad(IMAGE, (2**63, 0, 0, 0)), ValueError, "out of range"),
        (lambda: F.pad(IMAGE, (2**61, 2**61, 0, 0)), ValueError, "out of range"),
        (lambda: F.pad(IMAGE, (2**60, 2**60, 2**60, 2**60)), ValueError, "too large"),
        (lambda: F.pad(IMAGE, (2**50, 0, 0, 0)), MemoryError, "pad: cannot allocate"),
        (lambda: F.pad("image", (1, 1, 1, 1)), TypeError, "pad: input must be a NumPy array"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    sides=st.tuples(*[st.integers(-2, 4)] * 6),
    mode=st.sampled_from(MODES),
)
def test_random_shapes(shape, sides, mode):
    x = normal(np.random.default_rng(sum(shape)), *shape)
    try:
        y = F.pad(F.channels_last(x), sides, mode)
    except ValueError:
        kept = [size + min(a, 0) + min(b, 0) for size, (a, b) in zip(shape, sides_of(shape, sides), strict=True)]
        most = {"constant": [9] * 4, "reflect": [max(n - 1, 0) for n in kept], "replicate": [9 * (n > 0) for n in kept]}
        sizes = most.get(mode, kept)
        assert min(kept) < 0 or any(max(*pair, 0) > n for pair, n in zip(sides_of(shape, sides), sizes, strict=True))
    else:
        np.testing.assert_array_equal(y, pad(x, sides_of(shape, sides), mode))
