"""Sampling images at the points of a grid: against the definition and torch, and what is refused."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core, analysis
from convlane import functional as F
from convlane.functional._op import rules
from convlane.functional.grid import MODES, PADDING_MODES
from layouts import LAYOUTS
from oracles import grid as oracle

CASES = [(mode, padding_mode) for mode in ("bilinear", "nearest", "bicubic") for padding_mode in PADDING_MODES]


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def points(rng, *shape):
    """Return a grid with some points far outside, and none on a pixel or half way between two."""
    steps = rng.integers(-60, 60, shape) + rng.uniform(0.1, 0.4, shape)
    return (steps / 40).astype(np.float32)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("mode", "padding_mode"), CASES)
def test_definition(mode, padding_mode, align_corners, isa, rng):
    for channels in (1, 3, 4, _core.tile_sizes()["lanes"] + 1):
        x, grid = normal(rng, 2, channels, 5, 7), points(rng, 2, 3, 4, 2)
        y = F.grid_sample(x, grid, mode, padding_mode, align_corners)
        expected = oracle.grid_sample(x.astype(np.float64), grid.astype(np.float64), mode, padding_mode, align_corners)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=2e-5)
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous
        assert rules(F.grid_sample).shape(x, grid, mode, padding_mode, align_corners) == y.shape


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("mode", "padding_mode"), CASES[:6])
def test_volumes(mode, padding_mode, align_corners, rng):
    x, grid = normal(rng, 2, 5, 3, 4, 5), points(rng, 2, 2, 3, 2, 3)
    y = F.grid_sample(x, grid, mode, padding_mode, align_corners)
    expected = oracle.grid_sample(x.astype(np.float64), grid.astype(np.float64), mode, padding_mode, align_corners)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_threads_and_batches(layout, threads, rng):
    x, grid = normal(rng, 3, 19, 20, 30), points(rng, 3, 33, 21, 2)
    y = F.grid_sample(LAYOUTS[layout](x), LAYOUTS[layout](grid))
    with convlane.num_threads(1):
        np.testing.assert_array_equal(y, F.grid_sample(x, grid))
    np.testing.assert_array_equal(F.grid_sample(x[1:2], grid[1:2]), y[1:2])


def test_a_grid_of_the_pixels_is_the_image(rng):
    x = normal(rng, 2, 5, 6, 9)
    whole = F.affine_grid(np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1)), x.shape)
    for mode in MODES:
        np.testing.assert_allclose(F.grid_sample(x, whole, mode), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("mode", MODES)
def test_points_that_are_not_finite(bad, mode, rng):
    x, grid = normal(rng, 1, 3, 4, 5), np.full((1, 1, 1, 2), bad, np.float32)
    assert (F.grid_sample(x, grid, mode) == 0).all()
    corner = x[0, :, -1, -1] if bad > 0 else x[0, :, 0, 0]
    np.testing.assert_allclose(F.grid_sample(x, grid, mode, "border")[0, :, 0, 0], corner, rtol=1e-6)
    assert np.isfinite(F.grid_sample(x, grid, mode, "reflection")).all()


def test_what_is_not_read_does_no_harm(rng):
    x = np.ones((1, 8, 4, 4), np.float32)
    x[0, :, 0, 0] = np.nan
    grid = np.array([[[[0.1, 0.2], [-0.9, -0.9]]]], np.float32)
    y = F.grid_sample(x, grid)
    np.testing.assert_allclose(y[..., 0], 1, rtol=1e-6)
    assert np.isnan(y[..., 1]).all()


def test_empty():
    assert F.grid_sample(np.ones((0, 3, 4, 5), np.float32), np.ones((0, 2, 2, 2), np.float32)).shape == (0, 3, 2, 2)
    x, grid = np.ones((1, 0, 4, 5), np.float32), np.ones((1, 2, 0, 2), np.float32)
    assert F.grid_sample(x, grid[:, :, :0]).shape == (1, 0, 2, 0)
    _, pullback = convlane.vjp(F.grid_sample, np.ones((1, 3, 4, 5), np.float32), grid)
    of_input, of_grid = pullback(np.ones((1, 3, 2, 0), np.float32))
    assert of_grid.shape == grid.shape
    np.testing.assert_array_equal(of_input, np.zeros((1, 3, 4, 5)))


@pytest.mark.torch
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("mode", "padding_mode"), CASES)
@pytest.mark.parametrize("rank", [4, 5])
def test_agrees_with_torch(rank, mode, padding_mode, align_corners, rng):
    import torch

    if rank == 5 and mode == "bicubic":
        return
    axes = rank - 2
    x, grid = normal(rng, 2, 18, 3, 5, 6)[(slice(None),) * 2 + (0,) * (5 - rank)], points(rng, 2, 3, 4, 5, axes)
    grid = grid[(slice(None),) + (0,) * (5 - rank)]
    theirs = [torch.tensor(each, requires_grad=True) for each in (x, grid)]
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    expected = torch.nn.functional.grid_sample(*theirs, **options)
    y, pullback = convlane.vjp(lambda x, grid: F.grid_sample(x, grid, **options), x, grid)
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-4, atol=2e-5)
    g = normal(rng, *y.shape)
    expected.backward(torch.tensor(g))
    for found, their in zip(pullback(g), theirs, strict=True):
        np.testing.assert_allclose(found, their.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mode", "padding_mode"), CASES)
def test_gradients_of_instruction_sets_and_threads(mode, padding_mode, isa, threads, rng):
    x, grid = normal(rng, 2, 35, 6, 5), points(rng, 2, 12, 40, 2)
    y, pullback = convlane.vjp(lambda x, grid: F.grid_sample(x, grid, mode, padding_mode), x, grid)
    g, direction = normal(rng, *y.shape), normal(rng, *x.shape)
    of_input, of_grid = pullback(g)
    moved = F.grid_sample(direction, grid, mode, padding_mode)
    assert np.vdot(g, moved) == pytest.approx(np.vdot(of_input, direction), rel=1e-3, abs=1e-2)
    with convlane.num_threads(1):
        alone = convlane.vjp(lambda x, grid: F.grid_sample(x, grid, mode, padding_mode), x, grid)[1](g)
    np.testing.assert_array_equal(of_input, alone[0])
    np.testing.assert_array_equal(of_grid, alone[1])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "negative_strides"])
@pytest.mark.parametrize(("mode", "padding_mode"), [CASES[0], CASES[4], CASES[8]])
def test_compiled(mode, padding_mode, layout, rng):
    """The grid is a constant, computed from the image, or an input; or the image is a constant."""
    x, grid, image = normal(rng, 3, 4, 6, 5), points(rng, 3, 7, 3, 2), normal(rng, 1, 4, 6, 5)
    constant = grid[:1]
    options = {"mode": mode, "padding_mode": padding_mode}
    theta = np.array([[0.5, 0.1, -0.3, 0.2, 1.2, 0.1]], np.float32)

    def transformed(x):
        matrix = F.mul(F.affine(F.mean(x, (1, 2, 3), True), 0.1, 1.0), theta.reshape(1, 1, 1, 6))
        return F.grid_sample(F.relu(x), F.affine_grid(F.reshape(matrix, (-1, 2, 3)), (1, 4, 4, 3)), **options)

    for network in (
        lambda x: F.grid_sample(F.relu(x), constant, **options),
        lambda x: F.grid_sample(image, F.permute(F.tanh(x[:, :2]), (0, 2, 3, 1)), **options),
        transformed,
    ):
        plan = convlane.compile(network, (None, 4, 6, 5))
        expected = np.concatenate([network(each[None]) for each in x])
        np.testing.assert_allclose(plan(LAYOUTS[layout](x)), expected, rtol=1e-5, atol=1e-5)
    plan = convlane.compile(lambda x, grid: F.grid_sample(x, grid, **options), ((None, 4, 6, 5), (None, 7, 3, 2)))
    np.testing.assert_array_equal(plan(LAYOUTS[layout](x), LAYOUTS[layout](grid)), F.grid_sample(x, grid, **options))


def test_compiled_volumes(rng):
    x, grid = normal(rng, 2, 3, 4, 15), points(rng, 1, 2, 3, 4, 3)

    def network(x):
        return F.grid_sample(F.reshape(x, (1, 3, 4, 3, 5)), grid)

    expected = np.concatenate([network(each[None]) for each in x])
    np.testing.assert_array_equal(convlane.compile(network, (None, 3, 4, 15))(x), expected)


def test_what_pixels_see(rng):
    grid = points(rng, 1, 3, 2, 2)
    field = analysis.receptive_field(lambda x: F.grid_sample(x, grid), (1, 2, 6, 4)).fields[-1]
    assert field.box(0, 0) == (0, 5, 0, 3)

    def moved(x):
        return F.grid_sample(np.ones((1, 1, 4, 4), np.float32), F.permute(x, (0, 2, 3, 1)))

    np.testing.assert_array_equal(
        analysis.receptive_field(moved, (1, 2, 3, 4)).fields[-1].rows, [[0, 0], [1, 1], [2, 2]]
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 1, 7), (2, 1, 3, 1, 4)], ids=str)
def test_affine_grid(size, align_corners, rng):
    theta = normal(rng, 2, len(size) - 2, len(size) - 1)
    grid = F.affine_grid(theta, size, align_corners)
    assert_close(grid, oracle.affine_grid(theta.astype(np.float64), size, align_corners), terms=4)
    _, pullback = convlane.vjp(lambda theta: F.affine_grid(theta, size, align_corners), theta)
    g, direction = normal(rng, *grid.shape), normal(rng, *theta.shape)
    moved = F.affine_grid(direction, size, align_corners)
    assert np.vdot(g, moved) == pytest.approx(np.vdot(pullback(g)[0], direction), rel=1e-4, abs=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_grid_is_torch_s(align_corners, rng):
    import torch

    for size in [(2, 3, 4, 5), (2, 1, 2, 2, 3)]:
        theta = normal(rng, 2, len(size) - 2, len(size) - 1)
        theirs = torch.nn.functional.affine_grid(torch.tensor(theta), list(size), align_corners)
        np.testing.assert_allclose(F.affine_grid(theta, size, align_corners), theirs, rtol=1e-5, atol=1e-6)


X, GRID = np.ones((2, 3, 4, 5), np.float32), np.zeros((2, 6, 7, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.grid_sample(X, GRID, "linear"), ValueError, "mode must be one of bilinear, nearest, bicubic, got"),
        (lambda: F.grid_sample(X, GRID, "nearest", "edge"), ValueError, "padding_mode must be one of zeros, .* 'edge'"),
        (
            lambda: F.grid_sample(X, GRID, align_corners="no"),
            TypeError,
            "align_corners must be True or False, got 'no'",
        ),
        (lambda: F.grid_sample(X[0], GRID), ValueError, r"input must be \(N, C, H, W\) .* got shape \(3, 4, 5\)"),
        (lambda: F.grid_sample(X[:, :, :0], GRID), ValueError, r"input \(2, 3, 0, 5\) is empty"),
        (
            lambda: F.grid_sample(X, GRID[:1]),
            ValueError,
            r"grid must be \(2, H, W, 2\) for input .* got \(1, 6, 7, 2\)",
        ),
        (lambda: F.grid_sample(X, GRID[..., :1]), ValueError, r"grid must be \(2, H, W, 2\)"),
        (lambda: F.grid_sample(X[None], GRID), ValueError, r"grid must be \(1, D, H, W, 3\)"),
        (lambda: F.grid_sample(X[None], GRID, "bicubic"), ValueError, "mode 'bicubic' is for images, got a volume"),
        (lambda: F.grid_sample(X, GRID.astype(int)), TypeError, "grid_sample: grid must be float32"),
        (lambda: F.affine_grid(GRID, (2, 3, 4, 5)), ValueError, r"theta must be \(2, 2, 3\) for size .* got"),
        (lambda: F.affine_grid(GRID, (2, 3, 4)), ValueError, r"size must be \(N, C, H, W\)"),
        (lambda: F.affine_grid(GRID, 4), TypeError, "size must be a list or a tuple of integers, got int"),
        (lambda: F.affine_grid(GRID, (2, 0, 4, 5)), ValueError, "size must be at least 1, got 0"),
        (lambda: _core.grid_sample(X[None], X[None], "nearest", "zeros", False), ValueError, "2 or 3 coordinates"),
        (lambda: _core.grid_sample(X[None], GRID[None], "nearest", "zeros", False), ValueError, "whose depth is 1"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
