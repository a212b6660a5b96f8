"""Losses and their gradients against plain formulas in float64, and against torch."""

from functools import partial

import numpy as np
import pytest
from tests.oracles import loss as oracle

import convlane
from convlane.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from convlane.graph.trace import trace

ONE = np.ones((), np.float32)


def gradient(fn, x):
    value, pullback = convlane.vjp(fn, x)
    return value, pullback(np.ones(value.shape, np.float32))[0]


def finite_differences(fn, x, step=1e-5):
    found = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        above, below = x.astype(np.float64), x.astype(np.float64)
        above[index] += step
        below[index] -= step
        found[index] = (np.sum(fn(above)) - np.sum(fn(below))) / (2 * step)
    return found


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 17])
def test_cross_entropy(rng, reduction, label_smoothing, weighted, classes):
    x = rng.normal(0, 3, (5, classes)).astype(np.float32)
    target = rng.integers(0, classes, 5)
    target[2] = -100
    weight = rng.random(classes).astype(np.float32) if weighted else None

    def reference(x):
        return oracle.cross_entropy(x, target, weight, -100, label_smoothing, reduction)

    value, found = gradient(
        lambda x: cross_entropy(x, target, weight, label_smoothing=label_smoothing, reduction=reduction), x
    )
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, reference(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, finite_differences(reference, x), rtol=1e-4, atol=1e-6)
    assert not found[2].any()


@pytest.mark.torch
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cross_entropy_like_torch(rng, reduction, label_smoothing):
    import torch

    x = rng.normal(0, 3, (6, 9)).astype(np.float32)
    target, weight = rng.integers(0, 9, 6), rng.random(9).astype(np.float32)
    target[0] = 4
    theirs = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        theirs,
        torch.tensor(target),
        torch.tensor(weight),
        ignore_index=4,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    expected.sum().backward()
    value, found = gradient(
        lambda x: cross_entropy(
            x, target, weight, ignore_index=4, label_smoothing=label_smoothing, reduction=reduction
        ),
        x,
    )
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_extreme_logits():
    x = np.array([[1e4, -1e4], [0, -np.inf]], np.float32)
    value, found = gradient(lambda x: cross_entropy(x, np.array([1, 0]), reduction="none"), x)
    np.testing.assert_array_equal(value, [2e4, 0])
    np.testing.assert_array_equal(found, [[1, -1], [0, 0]])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((np.zeros((2, 3), np.float32), np.array([0.0, 1.0])), TypeError, "integers"),
        ((np.zeros((2, 3)), np.array([0, 1])), TypeError, "float32"),
        ((np.zeros((2, 3), np.float32), np.array([0, 3])), ValueError, "3 classes"),
        ((np.zeros((2, 3), np.float32), np.array([0, -1])), ValueError, "3 classes"),
        ((np.zeros((2, 3), np.float32), np.array([0])), ValueError, r"\(2,\), got \(1,\)"),
        ((np.zeros((2, 3, 4), np.float32), np.array([0, 0])), ValueError, "N, classes"),
        ((np.zeros((2, 3), np.float32), np.array([0, 0]), np.ones(2, np.float32)), ValueError, "weight"),
    ],
)
def test_cross_entropy_refuses(arguments, error, text):
    with pytest.raises(error, match=text):
        cross_entropy(*arguments)
    with pytest.raises(error, match=text):
        convlane.vjp(lambda x: cross_entropy(x, *arguments[1:]), arguments[0])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 5), ()])
def test_mse(rng, reduction, shape):
    x, y = (rng.normal(size=shape).astype(np.float32) for _ in range(2))

    def reference(x):
        return oracle.mse(x, y, reduction)

    value, found = gradient(lambda x: mse_loss(x, y, reduction=reduction), x)
    np.testing.assert_allclose(value, reference(x), rtol=1e-5)
    np.testing.assert_allclose(found, finite_differences(reference, x), rtol=1e-3, atol=1e-5)
    _, pullback = convlane.vjp(lambda x, y: mse_loss(x, y, reduction=reduction), x, y)
    dx, dy = pullback(np.ones(value.shape, np.float32))
    np.testing.assert_array_equal(dx, -dy)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy(rng, reduction, weighted):
    x, y = rng.normal(0, 4, (4, 3)).astype(np.float32), rng.random((4, 3)).astype(np.float32)
    pos_weight = rng.random(3).astype(np.float32) if weighted else None

    def reference(x):
        return oracle.binary_cross_entropy_with_logits(x, y, pos_weight, reduction)

    value, found = gradient(
        lambda x: binary_cross_entropy_with_logits(x, y, pos_weight=pos_weight, reduction=reduction), x
    )
    np.testing.assert_allclose(value, reference(x), rtol=1e-5)
    np.testing.assert_allclose(found, finite_differences(reference, x), rtol=1e-3, atol=1e-6)


def test_binary_cross_entropy_of_extreme_logits():
    x, y = np.array([1e4, -1e4], np.float32), np.array([0, 1], np.float32)
    value, found = gradient(lambda x: binary_cross_entropy_with_logits(x, y, reduction="none"), x)
    np.testing.assert_array_equal(value, [1e4, 1e4])
    np.testing.assert_array_equal(found, [1, -1])


@pytest.mark.parametrize("loss", [mse_loss, binary_cross_entropy_with_logits])
def test_elementwise_losses_refuse(loss):
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3,\)"):
        loss(x, np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="float32"):
        loss(x, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="mean, sum, none"):
        loss(x, x, reduction="average")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_example_counts(reduction):
    """The mean is NaN, as in torch; the gradient is 0, so that training goes on."""
    for label, weight in ((-100, None), (0, np.array([0, 1, 1], np.float32))):
        value, found = gradient(
            partial(cross_entropy, target=np.full(2, label), weight=weight, reduction=reduction),
            np.eye(2, 3, dtype=np.float32),
        )
        np.testing.assert_array_equal(value, {"mean": np.nan, "sum": 0, "none": [0, 0]}[reduction])
        np.testing.assert_array_equal(found, np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 1), (1, 4, 1), (5,), (0,)])
def test_a_weight_that_would_enlarge_the_loss_is_refused(shape):
    """NumPy would broadcast the logits to it, or it to fewer of them."""
    x, weight = np.zeros((4, 1), np.float32), np.ones(shape, np.float32)
    loss = partial(binary_cross_entropy_with_logits, target=x, pos_weight=weight)
    for call in (loss, partial(convlane.vjp, loss), lambda x: trace(loss, x.shape)):
        with pytest.raises(ValueError, match=r"pos_weight must be broadcast to the input's shape \(4, 1\), got"):
            call(x)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (4, 1)])
def test_a_weight_that_fits_is_broadcast(shape):
    x = np.zeros((4, 1), np.float32)
    value = binary_cross_entropy_with_logits(x, x + 1, pos_weight=np.full(shape, 2, np.float32))
    np.testing.assert_allclose(value, 2 * np.log(2), rtol=1e-6)


def test_weights_that_are_no_arrays_are_refused():
    x = np.zeros((2, 2), np.float32)
    with pytest.raises(TypeError, match="cross_entropy: weight must be a NumPy array, got list"):
        cross_entropy(x, np.array([0, 1]), [1, 1])
    with pytest.raises(TypeError, match="pos_weight must be a NumPy array, got float"):
        binary_cross_entropy_with_logits(x, x, pos_weight=1.5)
