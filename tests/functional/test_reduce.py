"""Sums and means, and their gradients, against NumPy in float64."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS

OPERATIONS = {"sum": (F.sum, np.sum), "mean": (F.mean, np.mean)}
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
]


def normal(rng, *shape):
    return np.asarray(rng.standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("shape", "dim"), CASES)
def test_forward_and_gradient(rng, name, shape, dim):
    ours, theirs = OPERATIONS[name]
    x = normal(rng, *shape)
    y = ours(x, dim)
    expected = np.asarray(theirs(x.astype(np.float64), axis=dim))
    assert_close(y, expected)
    assert rules(ours).shape(x, dim) == y.shape
    gradient = normal(rng, *y.shape)
    recorded, found = by_rule(ours, gradient, x, dim)
    np.testing.assert_array_equal(recorded, y)
    numeric = numeric_gradient(lambda z: np.asarray(theirs(z, axis=dim)), x, gradient)
    np.testing.assert_allclose(found["input"], numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bits_for_any_layout_and_batch(rng, layout):
    x = normal(rng, 5, 33, 17, 19) * 1000
    whole = F.sum(x, (1, 2, 3))
    np.testing.assert_array_equal(F.sum(LAYOUTS[layout](x), (3, 1, 2)), whole)
    np.testing.assert_array_equal(F.sum(LAYOUTS[layout](x[2:3]), (1, 2, 3)), whole[2:3])
    np.testing.assert_array_equal(F.sum(LAYOUTS[layout](x)), F.sum(x))


def test_long_sums_do_not_drift():
    assert F.sum(np.full(3_000_000, 0.1, np.float32)) == np.float32(3_000_000 * float(np.float32(0.1)))


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
    expected = getattr(torch, name)(tensor, (1, -2))
    expected.backward(torch.tensor(gradient))
    value, pullback = convlane.vjp(lambda x: getattr(F, name)(x, (1, -2)), x)
    assert_close(value, expected.detach().numpy(), terms=12)
    assert_close(pullback(gradient)[0], tensor.grad.numpy())


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: F.sum(x, 2), ValueError, "sum: dim=2 is out of range for 2 dimensions"),
        (lambda x: F.mean(x, (0, -2)), ValueError, r"mean: dim=\(0, -2\) names a dimension twice"),
        (lambda x: F.sum(x, 0.5), TypeError, "sum: dim must be an integer, got 0.5"),
        (lambda x: F.mean(x.astype(np.float64)), TypeError, "mean: input must be float32"),
        (lambda x: rules(F.sum).shape(x, (1, 1)), ValueError, "names a dimension twice"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call(np.ones((2, 3), np.float32))
