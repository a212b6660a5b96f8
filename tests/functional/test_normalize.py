"""Division by vector norms."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import functional as F
from layouts import LAYOUTS


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("p", [1, 2, 3, 0.5, np.inf])
@pytest.mark.parametrize("dim", [1, -1, (1, 2)])
def test_definition(rng, isa, p, dim):
    x = normal(rng, 3, 5, 4)
    norms = np.linalg.norm(np.moveaxis(x, 1, -1).astype(np.float64), p, -1)[:, None] if dim == 1 else None
    if norms is None:
        powers = np.abs(x.astype(np.float64))
        norms = powers.max(dim, keepdims=True) if p == np.inf else (powers**p).sum(dim, keepdims=True) ** (1 / p)
    assert_close(F.normalize(x, p, dim), x / norms, terms=5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, layout):
    x = normal(rng, 2, 5, 3, 4)
    assert_close(F.normalize(LAYOUTS[layout](x)), x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True))


@pytest.mark.torch
@pytest.mark.parametrize("p", [1, 2, 3, np.inf])
def test_agrees_with_torch_also_at_zero(rng, p):
    import torch

    x, gradient = normal(rng, 4, 6), normal(rng, 4, 6)
    x[1], x[2, 1:] = 0, 0
    tensor = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.normalize(tensor, p, 1, 1e-3)
    expected.backward(torch.tensor(gradient))
    y, pullback = convlane.vjp(lambda x: F.normalize(x, p, 1, 1e-3), x)
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pullback(gradient)[0], tensor.grad, rtol=1e-4, atol=1e-5)


def test_what_is_not_finite(rng):
    x = normal(rng, 3, 4)
    x[1, 2] = np.nan
    y = F.normalize(x)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()
    np.testing.assert_array_equal(F.normalize(np.zeros((2, 0, 3), np.float32)), np.zeros((2, 0, 3)))


ANY = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.normalize(ANY, 0), ValueError, "normalize: p must be above 0, got 0"),
        (lambda: F.normalize(ANY, "2"), TypeError, "normalize: p must be a number"),
        (lambda: F.normalize(ANY, eps=-1), ValueError, "normalize: eps must not be negative, got -1"),
        (lambda: F.normalize(ANY, dim=2), ValueError, "normalize: dim=2 is out of range for 2 dimensions"),
        (lambda: F.normalize(ANY.astype(float)), TypeError, "normalize: input must be float32, got float64"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
