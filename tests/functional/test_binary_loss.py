"""Losses of binary classification against the oracle, gradients by finite differences, and torch."""

from functools import partial

import numpy as np
import pytest

import convlane
import oracles.loss as oracle
from convlane.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    sigmoid_focal_loss,
)
from convlane.graph.trace import trace
from gradients import numeric_gradient
from layouts import LAYOUTS
from torchvision_import import import_torchvision

REDUCTIONS = ["mean", "sum", "none"]


def gradient(fn, *arrays):
    value, pullback = convlane.vjp(fn, *arrays)
    return value, pullback(np.ones(value.shape, np.float32))


def check(loss, reference, *arrays):
    """Compare value and gradients of all arrays with a reference in float64."""
    value, found = gradient(loss, *arrays)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, reference(*arrays), rtol=2e-5, atol=1e-6)
    for i, array in enumerate(arrays):

        def of_one(x, i=i):
            return np.asarray(reference(*arrays[:i], x, *arrays[i + 1 :]))

        expected = numeric_gradient(of_one, array, np.ones(value.shape))
        np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_with_logits(rng, reduction, weighted):
    x, y = rng.normal(0, 4, (4, 3)).astype(np.float32), rng.random((4, 3)).astype(np.float32)
    weight, positive = (
        (rng.random((4, 1)).astype(np.float32), rng.random(3).astype(np.float32)) if weighted else [None] * 2
    )
    check(
        lambda x, y: binary_cross_entropy_with_logits(x, y, weight, pos_weight=positive, reduction=reduction),
        lambda x, y: oracle.binary_cross_entropy_with_logits(x, y, weight, positive, reduction),
        *(x, y),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_of_probabilities(rng, reduction, weighted):
    p, y = rng.uniform(0.05, 0.95, (4, 3)).astype(np.float32), rng.random((4, 3)).astype(np.float32)
    weight = rng.random((4, 1)).astype(np.float32) if weighted else None
    check(
        lambda p, y: binary_cross_entropy(p, y, weight, reduction=reduction),
        lambda p, y: oracle.binary_cross_entropy(p, y, weight, reduction),
        *(p, y),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 0), (0.9, 1.5)])
def test_focal(rng, reduction, alpha, gamma):
    x, y = rng.normal(0, 3, (4, 3)).astype(np.float32), rng.random((4, 3)).astype(np.float32)
    check(
        lambda x, y: sigmoid_focal_loss(x, y, alpha, gamma, reduction),
        lambda x, y: oracle.sigmoid_focal(x, y, alpha, gamma, reduction),
        *(x, y),
    )


@pytest.mark.torch
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_like_torch(rng, reduction):
    import torch

    x, y = rng.normal(0, 3, (2, 3, 4, 5)).astype(np.float32), (rng.random((2, 3, 4, 5)) < 0.5).astype(np.float32)
    p, weight = 1 / (1 + np.exp(-x)), rng.random((3, 1, 1)).astype(np.float32)
    theirs, vision = torch.nn.functional, import_torchvision()
    w = torch.tensor(weight)
    for ours, other, first in [
        (
            lambda x, y: binary_cross_entropy_with_logits(x, y, weight, pos_weight=2 * weight, reduction=reduction),
            lambda x, y: theirs.binary_cross_entropy_with_logits(x, y, w, pos_weight=2 * w, reduction=reduction),
            x,
        ),
        (
            lambda p, y: binary_cross_entropy(p, y, weight, reduction=reduction),
            lambda p, y: theirs.binary_cross_entropy(p, y, w, reduction=reduction),
            p,
        ),
        (
            lambda x, y: sigmoid_focal_loss(x, y, reduction=reduction),
            lambda x, y: vision.ops.sigmoid_focal_loss(x, y, reduction=reduction),
            x,
        ),
    ]:
        a, b = (torch.tensor(array, requires_grad=True) for array in (first, y))
        expected = other(a, b)
        expected.sum().backward()
        value, found = gradient(ours, first, y)
        np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[0], a.grad.numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[1], b.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_extreme_logits():
    x, y = np.array([1e4, -1e4], np.float32), np.array([0, 1], np.float32)
    value, found = gradient(lambda x: binary_cross_entropy_with_logits(x, y, reduction="none"), x)
    np.testing.assert_array_equal(value, [1e4, 1e4])
    np.testing.assert_array_equal(found, [[1, -1]])
    value, found = gradient(lambda x: sigmoid_focal_loss(x, y, -1), x)
    np.testing.assert_array_equal(value, [1e4, 1e4])
    np.testing.assert_array_equal(found, [[1, -1]])


@pytest.mark.torch
def test_sure_probabilities_are_torch_s():
    """Losses are clamped at 100, and gradients at 1e12."""
    import torch

    p, y = np.array([0, 1, 0, 1], np.float32), np.array([1, 0, 0, 1], np.float32)
    theirs = torch.tensor(p, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy(theirs, torch.tensor(y), reduction="none")
    expected.sum().backward()
    value, (found, of_target) = gradient(partial(binary_cross_entropy, reduction="none"), p, y)
    np.testing.assert_array_equal(value, expected.detach().numpy())
    np.testing.assert_allclose(found, theirs.grad.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(of_target, [100, -100, 100, -100])


def test_nan_stays():
    x = np.array([np.nan, 0.5], np.float32)
    for loss in (binary_cross_entropy, binary_cross_entropy_with_logits, sigmoid_focal_loss):
        np.testing.assert_array_equal(np.isnan(loss(x, np.ones(2, np.float32), reduction="none")), [True, False])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", [binary_cross_entropy, binary_cross_entropy_with_logits, sigmoid_focal_loss])
def test_layouts(rng, layout, loss):
    x, y = rng.random((2, 2, 5, 3)).astype(np.float32), rng.random((2, 2, 5, 3)).astype(np.float32)
    expected = loss(x, y, reduction="none")
    np.testing.assert_array_equal(loss(LAYOUTS[layout](x), y, reduction="none"), expected)
    np.testing.assert_array_equal(loss(x, LAYOUTS[layout](y), reduction="none"), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", [binary_cross_entropy, binary_cross_entropy_with_logits, sigmoid_focal_loss])
def test_empty_batches(loss, reduction):
    value, found = gradient(partial(loss, reduction=reduction), *[np.zeros((0, 3), np.float32)] * 2)
    np.testing.assert_array_equal(value, {"mean": np.nan, "sum": 0, "none": np.zeros((0, 3))}[reduction])
    assert found[0].shape == found[1].shape == (0, 3)


@pytest.mark.parametrize("loss", [binary_cross_entropy, binary_cross_entropy_with_logits, sigmoid_focal_loss])
def test_bad_arguments_are_refused_by_name(loss):
    x = np.full((2, 3), 0.5, np.float32)
    name, first, second = loss.__name__, *list(convlane.functional._op.signature_of(loss).parameters)[:2]
    for arguments, error, text in [
        ((x, np.zeros(3, np.float32)), ValueError, rf"{first} has shape \(2, 3\), but {second} has \(3,\)"),
        ((x, np.zeros((2, 3))), TypeError, f"{second} must be float32, got float64"),
        (([0.5], x), TypeError, f"{first} must be a NumPy array, got list"),
    ]:
        with pytest.raises(error, match=f"{name}: {text}"):
            loss(*arguments)
    with pytest.raises(ValueError, match=f"{name}: reduction must be one of mean, sum, none, got 'average'"):
        loss(x, x, reduction="average")
    for options, error, text in {
        binary_cross_entropy: [({"weight": [1]}, TypeError, "weight must be a NumPy array, got list")],
        binary_cross_entropy_with_logits: [
            ({"weight": 1.5}, TypeError, "weight must be a NumPy array, got float"),
            ({"pos_weight": 1.5}, TypeError, "pos_weight must be a NumPy array, got float"),
        ],
        sigmoid_focal_loss: [
            ({"alpha": 2}, ValueError, "alpha must be between 0 and 1, or -1, got 2"),
            ({"alpha": x}, TypeError, "alpha must be a number"),
            ({"gamma": "2"}, TypeError, "gamma must be a number"),
        ],
    }[loss]:
        with pytest.raises(error, match=f"{name}: {text}"):
            loss(x, x, **options)


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.inf])
def test_only_probabilities_are_accepted(bad):
    x = np.array([0.5, bad], np.float32)
    with pytest.raises(ValueError, match="binary_cross_entropy: input must be between 0 and 1"):
        binary_cross_entropy(x, np.ones(2, np.float32))


WEIGHTS = [
    (binary_cross_entropy, "weight"),
    (binary_cross_entropy_with_logits, "weight"),
    (binary_cross_entropy_with_logits, "pos_weight"),
]


@pytest.mark.parametrize(("loss", "argument"), WEIGHTS)
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 1), (1, 4, 1), (5,), (0,)])
def test_a_weight_that_would_enlarge_the_loss_is_refused(loss, argument, shape):
    """NumPy would broadcast the input to the weight, or the weight to fewer numbers."""
    x = np.zeros((4, 1), np.float32)
    weighted = partial(loss, target=x, **{argument: np.ones(shape, np.float32)})
    for call in (weighted, partial(convlane.vjp, weighted), lambda x: trace(weighted, x.shape)):
        with pytest.raises(ValueError, match=rf"{argument} must broadcast to the input's shape \(4, 1\), got"):
            call(x)


@pytest.mark.parametrize(("loss", "argument"), WEIGHTS)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (4, 1)])
def test_a_weight_that_fits_is_broadcast(loss, argument, shape):
    x = np.full((4, 1), 0.5, np.float32)
    value = loss(x, np.ones_like(x), **{argument: np.full(shape, 2, np.float32)})
    np.testing.assert_allclose(value, 2 * loss(x, np.ones_like(x)), rtol=1e-6)
