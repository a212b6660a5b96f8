"""Losses of classification against the oracle, gradients by finite differences, and torch."""

from functools import partial

import numpy as np
import pytest

import convlane
import oracles.loss as oracle
from compare import assert_close
from convlane import functional as F
from convlane.functional import cross_entropy, nll_loss
from gradients import by_rule, kept_arrays, numeric_gradient
from layouts import LAYOUTS

REDUCTIONS = ["mean", "sum", "none"]


def gradient(fn, *arrays):
    value, pullback = convlane.vjp(fn, *arrays)
    found = pullback(np.ones(value.shape, np.float32))
    return value, *found


def labels(rng, classes, shape, ignored=-100):
    target = rng.integers(0, classes, shape)
    target.reshape(-1)[1::3] = ignored
    return target


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 1), (5, 2), (5, 17), (2, 3, 4), (2, 3, 2, 2), (1, 2, 2, 1, 2)])
def test_cross_entropy(rng, reduction, label_smoothing, weighted, shape):
    x = rng.normal(0, 3, shape).astype(np.float32)
    target = labels(rng, shape[1], (shape[0], *shape[2:]))
    weight = rng.random(shape[1]).astype(np.float32) if weighted else None

    def reference(x):
        return np.asarray(oracle.cross_entropy(x, target, weight, -100, label_smoothing, reduction))

    loss = partial(cross_entropy, target=target, weight=weight, label_smoothing=label_smoothing, reduction=reduction)
    value, found = gradient(loss, x)
    assert value.dtype == found.dtype == np.float32
    np.testing.assert_allclose(value, reference(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, numeric_gradient(reference, x, np.ones(value.shape)), rtol=1e-4, atol=1e-6)
    assert not np.moveaxis(found, 1, -1)[target == -100].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 2)])
def test_probabilities_as_targets(rng, reduction, label_smoothing, weighted, shape):
    x, target = rng.normal(0, 3, shape).astype(np.float32), rng.random(shape).astype(np.float32)
    weight = rng.random(shape[1]).astype(np.float32) if weighted else None

    def reference(x, target):
        return np.asarray(oracle.cross_entropy(x, target, weight, -100, label_smoothing, reduction))

    value, *found = gradient(
        lambda x, y: cross_entropy(x, y, weight, label_smoothing=label_smoothing, reduction=reduction), x, target
    )
    np.testing.assert_allclose(value, reference(x, target), rtol=1e-5)
    ones = np.ones(value.shape)
    np.testing.assert_allclose(
        found[0], numeric_gradient(lambda a: reference(a, target), x, ones), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        found[1], numeric_gradient(lambda a: reference(x, a), target, ones), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("classes", [1, 3, 7, 8, 9, 15, 16, 17, 21, 33])
@pytest.mark.parametrize("likely", [False, True])
def test_rows_around_the_lanes(rng, isa, threads, classes, likely):
    """The last vector of a row and the last block of rows may be incomplete."""
    for width in (1, 7, 16, 35):
        x = rng.normal(0, 3, (1, classes, 1, width)).astype(np.float32)
        target = rng.random(x.shape).astype(np.float32) if likely else labels(rng, classes, (1, 1, width))
        weight, behind = rng.random(classes).astype(np.float32), rng.normal(size=(1, 1, width)).astype(np.float32)
        for smoothing in (0.0, 0.2):
            value, found = by_rule(
                cross_entropy, behind, x, target, weight, label_smoothing=smoothing, reduction="none"
            )
            assert_close(value, oracle.cross_entropy(x, target, weight, -100, smoothing, "none"), terms=classes)
            expected = oracle.cross_entropy_gradient(x, target, weight, -100, smoothing, behind)
            assert_close(found["input"], expected, terms=classes, scale=max(np.abs(expected).max(), 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("likely", [False, True])
def test_layouts_of_maps(rng, layout, likely):
    """The layout changes no bit, and gradients are channels last."""
    x = rng.normal(0, 3, (2, 5, 3, 4)).astype(np.float32)
    target = rng.random(x.shape).astype(np.float32) if likely else labels(rng, 5, (2, 3, 4))
    arrange = LAYOUTS[layout]
    placed = arrange(target) if likely else np.asfortranarray(target) if layout == "fortran" else target[::-1][::-1]
    weight = np.repeat(rng.random(5).astype(np.float32), 2)[::2]
    for reduction in REDUCTIONS:
        run = partial(cross_entropy, weight=weight, label_smoothing=0.1, reduction=reduction)
        value, found = gradient(lambda x, run=run: run(x, target), x)
        again, moved = gradient(lambda x, run=run: run(x, placed), arrange(x))
        np.testing.assert_array_equal(again, value)
        np.testing.assert_array_equal(moved, found)
        assert moved.transpose(0, 2, 3, 1).flags.c_contiguous


def test_channels_last_maps_are_not_copied(rng):
    maps = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    x = np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    _, pullback = convlane.functional._op.rules(cross_entropy).vjp(
        frozenset({"input"}), x, np.zeros((2, 3, 4), np.int64), None, -100, 0.0, "mean"
    )
    assert any(np.shares_memory(kept, x) for kept in kept_arrays(pullback))
    assert sum(kept.size for kept in kept_arrays(pullback) if not np.shares_memory(kept, x)) < x.size


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_any_integers_are_classes(rng, dtype):
    x, target = rng.normal(size=(2, 3, 4)).astype(np.float32), labels(rng, 3, (2, 4), 255)
    expected = cross_entropy(x, target, ignore_index=255)
    np.testing.assert_array_equal(cross_entropy(x, target.astype(dtype), ignore_index=255), expected)


@pytest.mark.torch
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(6, 9), (2, 9, 3, 4)])
@pytest.mark.parametrize("likely", [False, True])
def test_cross_entropy_like_torch(rng, reduction, label_smoothing, shape, likely):
    import torch

    x, weight = rng.normal(0, 3, shape).astype(np.float32), rng.random(9).astype(np.float32)
    target = rng.random(shape).astype(np.float32) if likely else labels(rng, 9, (shape[0], *shape[2:]), 4)
    options = {"label_smoothing": label_smoothing, "reduction": reduction} | ({} if likely else {"ignore_index": 4})
    theirs = torch.tensor(x, requires_grad=True)
    wish = torch.tensor(target, requires_grad=likely)
    expected = torch.nn.functional.cross_entropy(theirs, wish, torch.tensor(weight), **options)
    expected.sum().backward()
    if likely:
        value, found, found_target = gradient(lambda x, y: cross_entropy(x, y, weight, **options), x, target)
        np.testing.assert_allclose(found_target, wish.grad.numpy(), rtol=1e-5, atol=1e-6)
    else:
        value, found = gradient(lambda x: cross_entropy(x, target, weight, **options), x)
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_extreme_logits(isa, smoothing):
    x = np.array([[1e4, -1e4], [0, -np.inf], [-3e38, -3e38]], np.float32)
    weight = None if smoothing == 0 else np.array([1, 0], np.float32)  # 0 times infinity does not occur
    loss = partial(cross_entropy, weight=weight, label_smoothing=smoothing, reduction="none")
    value, found = gradient(lambda x: loss(x, np.array([1, 0, 0])), x)
    if smoothing == 0:
        np.testing.assert_allclose(value, [2e4, 0, np.log(2)], rtol=1e-6)
        np.testing.assert_allclose(found, [[1, -1], [0, 0], [-0.5, 0.5]], rtol=1e-6)
    else:
        np.testing.assert_allclose(value, [0, 0, 0.95 * np.log(2)], rtol=1e-6)
        np.testing.assert_allclose(found, [[0, 0], [0, 0], [-0.475, 0.475]], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_its_own_position_only(rng, isa, bad):
    x, target = rng.normal(size=(1, 3, 1, 20)).astype(np.float32), labels(rng, 3, (1, 1, 20))
    x[0, 1, 0, [3, 4]] = bad
    assert target[0, 0, 4] == -100
    value, found = gradient(partial(cross_entropy, target=target, reduction="none"), x)
    np.testing.assert_array_equal(np.isnan(value).nonzero()[2], [3])
    np.testing.assert_array_equal(np.isnan(found).any(1).nonzero()[2], [3])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((np.zeros((2, 3), np.float32), np.array([0.0, 1.0])), TypeError, "target must hold integers"),
        ((np.zeros((2, 3), np.float32), np.zeros((2, 3), int)), TypeError, "target must be float32"),
        ((np.zeros((2, 3)), np.array([0, 1])), TypeError, "input must be float32"),
        ((np.zeros((2, 3), np.float32), np.array([0, 3])), ValueError, "target holds 3, but there are 3 classes"),
        ((np.zeros((2, 3), np.float32), np.array([0, -1])), ValueError, "target holds -1, but there are 3 classes"),
        ((np.zeros((2, 3), np.float32), np.array([0])), ValueError, r"target must have shape \(2,\), got \(1,\)"),
        ((np.zeros((2, 3, 4), np.float32), np.array([0, 0])), ValueError, r"target must have shape \(2, 4\)"),
        ((np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), int)), ValueError, r"target must have shape \(2, 4\)"),
        ((np.zeros(3, np.float32), np.array(0)), ValueError, r"input must be \(N, classes\) or maps"),
        ((np.zeros((2, 0), np.float32), np.array([0, 0])), ValueError, "input must be"),
        ((np.zeros((2, 3), np.float32), np.array([0, 0]), np.ones(2, np.float32)), ValueError, "weight must have"),
        ((np.zeros((2, 3), np.float32), np.array([0, 0]), np.ones((3, 1), np.float32)), ValueError, "weight must have"),
        ((np.zeros((2, 3), np.float32), np.array([0, 0]), np.ones(3)), TypeError, "weight must be float32"),
    ],
)
def test_cross_entropy_refuses(arguments, error, text):
    for loss in (cross_entropy, nll_loss):
        if loss is nll_loss and arguments[1].shape == arguments[0].shape:
            error, text = ValueError, r"target must have shape \(2,\)"
        with pytest.raises(error, match=f"{loss.__name__}: {text}"):
            loss(*arguments)
        with pytest.raises(error, match=f"{loss.__name__}: {text}"):
            convlane.vjp(lambda x, loss=loss: loss(x, *arguments[1:]), np.asarray(arguments[0], np.float32)) if (
                arguments[0].dtype == np.float32
            ) else loss(*arguments)


def test_options_are_checked():
    x, target = np.zeros((2, 3), np.float32), np.array([0, 1])
    for options, error, text in [
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be between 0 and 1, got 1.5"),
        ({"label_smoothing": "a"}, TypeError, "label_smoothing must be a number"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index must be an integer"),
        ({"reduction": "average"}, ValueError, "reduction must be one of mean, sum, none"),
        ({"target": x, "ignore_index": 1}, ValueError, "ignore_index=1 is a class, but target holds probabilities"),
    ]:
        with pytest.raises(error, match=f"cross_entropy: {text}"):
            cross_entropy(x, **({"target": target} | options))
    for options, error, text in [
        ({"ignore_index": 1.5}, TypeError, "ignore_index must be an integer"),
        ({"reduction": "average"}, ValueError, "reduction must be one of mean, sum, none"),
    ]:
        with pytest.raises(error, match=f"nll_loss: {text}"):
            nll_loss(x, target, **options)


def test_a_target_with_a_gradient_must_be_probabilities():
    with pytest.raises(TypeError, match=r"cross_entropy: target must hold integers \(classes\), got float32"):
        convlane.vjp(lambda y: cross_entropy(np.zeros((2, 3), np.float32), y), np.zeros(2, np.float32))
    with pytest.raises(TypeError, match="nll_loss: target has no gradient, so it must be a constant"):
        convlane.vjp(lambda y: nll_loss(np.zeros((2, 3), np.float32), y), np.zeros(2, np.float32))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", [cross_entropy, nll_loss])
@pytest.mark.parametrize("maps", [(), (2, 2)])
def test_all_examples_are_ignored(reduction, loss, maps):
    """The mean is NaN, as in torch; the gradient is 0, so that training goes on."""
    x = np.arange(6 * 4, dtype=np.float32).reshape(2, 3, 2, 2)[(..., *(0,) * (2 - len(maps)))]
    for label, weight in ((-100, None), (0, np.array([0, 1, 1], np.float32))):
        value, found = gradient(partial(loss, target=np.full((2, *maps), label), weight=weight, reduction=reduction), x)
        np.testing.assert_array_equal(value, {"mean": np.nan, "sum": 0, "none": np.zeros((2, *maps))}[reduction])
        np.testing.assert_array_equal(found, np.zeros(x.shape))


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2, 2), (2, 3, 0, 2)])
def test_empty_batches(shape):
    x, target = np.zeros(shape, np.float32), np.zeros((shape[0], *shape[2:]), int)
    for loss in (cross_entropy, nll_loss):
        for reduction, expected in (("mean", np.nan), ("sum", 0), ("none", target)):
            value, found = gradient(partial(loss, target=target, reduction=reduction), x)
            np.testing.assert_array_equal(value, expected)
            assert found.shape == shape


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 2, 2)])
def test_nll_loss(rng, reduction, weighted, shape):
    x = F.log_softmax(rng.normal(0, 3, shape).astype(np.float32), 1)
    target = labels(rng, shape[1], (shape[0], *shape[2:]), 1)
    weight = rng.random(shape[1]).astype(np.float32) if weighted else None

    def reference(x):
        return np.asarray(oracle.nll(x, target, weight, 1, reduction))

    value, found = gradient(
        partial(nll_loss, target=target, weight=weight, ignore_index=1, reduction=reduction), np.ascontiguousarray(x)
    )
    assert value.dtype == found.dtype == np.float32
    np.testing.assert_allclose(value, reference(x), rtol=1e-5)
    np.testing.assert_allclose(found, numeric_gradient(reference, x, np.ones(value.shape)), rtol=1e-4, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_like_torch(rng, reduction):
    import torch

    x, weight = rng.normal(0, 3, (2, 5, 3, 4)).astype(np.float32), rng.random(5).astype(np.float32)
    target = labels(rng, 5, (2, 3, 4), 4)
    theirs = torch.tensor(x, requires_grad=True)
    options = {"ignore_index": 4, "reduction": reduction}
    expected = torch.nn.functional.nll_loss(theirs, torch.tensor(target), torch.tensor(weight), **options)
    expected.sum().backward()
    value, found = gradient(lambda x: nll_loss(x, target, weight, **options), x)
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_weights_that_are_not_arrays_are_refused():
    for loss in (cross_entropy, nll_loss):
        with pytest.raises(TypeError, match=f"{loss.__name__}: weight must be a NumPy array, got list"):
            loss(np.zeros((2, 2), np.float32), np.array([0, 1]), [1, 1])
