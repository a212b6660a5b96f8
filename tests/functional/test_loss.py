"""Losses that compare numbers, against the oracle, gradients by finite differences, and torch."""

from functools import partial

import numpy as np
import pytest

import convlane
import oracles.loss as oracle
from convlane import functional as F
from convlane.functional import dice_loss, huber_loss, kl_div, l1_loss, mse_loss, smooth_l1_loss
from gradients import numeric_gradient
from layouts import LAYOUTS

REDUCTIONS = ["mean", "sum", "none"]
LOSSES = {
    "mse_loss": (mse_loss, oracle.mse),
    "l1_loss": (l1_loss, oracle.l1),
    "smooth_l1_loss": (partial(smooth_l1_loss, beta=0.7), partial(oracle.smooth_l1, beta=0.7)),
    "smooth_l1_loss without a parabola": (partial(smooth_l1_loss, beta=0), partial(oracle.smooth_l1, beta=0)),
    "huber_loss": (partial(huber_loss, delta=1.7), partial(oracle.huber, delta=1.7)),
    "kl_div": (kl_div, partial(oracle.kl_div, log_target=False)),
    "kl_div of logarithms": (partial(kl_div, log_target=True), partial(oracle.kl_div, log_target=True)),
}


def gradient(fn, *arrays):
    value, pullback = convlane.vjp(fn, *arrays)
    return value, pullback(np.ones(value.shape, np.float32))


def check(loss, reference, *arrays):
    """Compare value and gradients of all arrays with a reference in float64."""
    value, found = gradient(loss, *arrays)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, reference(*arrays), rtol=1e-5, atol=1e-6)
    for i, array in enumerate(arrays):

        def of_one(x, i=i):
            return np.asarray(reference(*arrays[:i], x, *arrays[i + 1 :]))

        expected = numeric_gradient(of_one, array, np.ones(value.shape))
        np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 2, 3), ()])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients(rng, name, reduction, shape):
    loss, reference = LOSSES[name]
    x, y = rng.normal(size=shape).astype(np.float32), rng.uniform(0.1, 2, shape).astype(np.float32)
    check(partial(loss, reduction=reduction), partial(reference, reduction=reduction), x, y)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
def test_like_torch(rng, reduction):
    import torch

    x, y = rng.normal(size=(4, 5)).astype(np.float32), rng.random((4, 5)).astype(np.float32)
    x[0, :3] = y[0, :3]  # no difference
    y[1, :3] = 0
    for name, options in [
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.5}),
        ("smooth_l1_loss", {"beta": 0}),
        ("huber_loss", {"delta": 0.5}),
        ("kl_div", {}),
        ("kl_div", {"log_target": True}),
    ]:
        if reduction == "batchmean" and name != "kl_div":
            continue
        a, b = (torch.tensor(array, requires_grad=True) for array in (x, y))
        expected = getattr(torch.nn.functional, name)(a, b, reduction=reduction, **options)
        expected.sum().backward()
        value, found = gradient(partial(getattr(F, name), reduction=reduction, **options), x, y)
        np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[0], a.grad.numpy(), rtol=1e-5, atol=1e-6)
        counts = (y != 0) | (name != "kl_div") | bool(options)  # log(0) has no gradient
        np.testing.assert_allclose(found[1][counts], b.grad.numpy()[counts], rtol=1e-5, atol=1e-6)
        assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_layouts(rng, layout, name):
    loss, arrange = partial(LOSSES[name][0], reduction="none"), LAYOUTS[layout]
    x, y = (rng.random((2, 2, 5, 3)).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(loss(arrange(x), y), loss(x, y))
    np.testing.assert_array_equal(loss(x, arrange(y)), loss(x, y))


def test_differences_that_are_infinite_have_a_gradient():
    x, y = np.array([np.inf, -np.inf, np.nan], np.float32), np.zeros(3, np.float32)
    for loss in (l1_loss, smooth_l1_loss, huber_loss):
        value, (found, _) = gradient(partial(loss, reduction="none"), x, y)
        np.testing.assert_array_equal(value, [np.inf, np.inf, np.nan])
        np.testing.assert_array_equal(found[:2], [1, -1])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batches(name, reduction):
    x = np.zeros((0, 3), np.float32)
    value, found = gradient(partial(LOSSES[name][0], reduction=reduction), x, x)
    np.testing.assert_array_equal(value, {"mean": np.nan, "sum": 0, "none": x}[reduction])
    assert found[0].shape == found[1].shape == (0, 3)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"])
def test_bad_arguments_are_refused_by_name(name):
    loss, x = getattr(F, name), np.zeros((2, 3), np.float32)
    for arguments, error, text in [
        ((x, x[0]), ValueError, r"input has shape \(2, 3\), but target has \(3,\)"),
        ((x, x[:, :1]), ValueError, r"input has shape \(2, 3\), but target has \(2, 1\)"),
        ((x, np.zeros((2, 3))), TypeError, "target must be float32, got float64"),
        (([0.5], x), TypeError, "input must be a NumPy array, got list"),
        ((x, 0.5), TypeError, "target must be a NumPy array, got float"),
    ]:
        with pytest.raises(error, match=f"{name}: {text}"):
            loss(*arguments)
    with pytest.raises(ValueError, match=f"{name}: reduction must be one of mean, sum, none.*, got 'average'"):
        loss(x, x, reduction="average")


@pytest.mark.parametrize(
    ("loss", "options", "error", "text"),
    [
        (smooth_l1_loss, {"beta": -1}, ValueError, "beta must be finite and at least 0, got -1"),
        (smooth_l1_loss, {"beta": np.nan}, ValueError, "beta must be finite"),
        (smooth_l1_loss, {"beta": "1"}, TypeError, "beta must be a number"),
        (huber_loss, {"delta": 0}, ValueError, "delta must be finite and above 0, got 0"),
        (huber_loss, {"delta": np.inf}, ValueError, "delta must be finite"),
        (huber_loss, {"delta": None}, TypeError, "delta must be a number"),
        (kl_div, {"reduction": "batchmean"}, ValueError, r"reduction='batchmean' needs an input with dimensions"),
    ],
)
def test_options_are_checked(loss, options, error, text):
    x = np.zeros((), np.float32)
    with pytest.raises(error, match=f"{loss.__name__}: {text}"):
        loss(x, x, **options)


def test_what_is_made_of_operations_compiles(rng):
    y = rng.random((1, 3, 4, 4)).astype(np.float32)
    functions = [
        lambda x: l1_loss(x, y, reduction="none"),
        lambda x: smooth_l1_loss(x, y, reduction="none"),
        lambda x: huber_loss(x, y, reduction="none"),
        lambda x: kl_div(x, y, reduction="none"),
        lambda x: dice_loss(F.softmax(x, 1), y, reduction="none"),
    ]
    x = rng.normal(size=y.shape).astype(np.float32)
    for function in functions:
        np.testing.assert_allclose(convlane.compile(function, x.shape)(x), function(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 2, 3), (1, 2, 2, 2, 2)])
def test_dice_loss(rng, reduction, smooth, shape):
    p, t = (rng.random(shape).astype(np.float32) for _ in range(2))
    check(
        partial(dice_loss, smooth=smooth, reduction=reduction),
        partial(oracle.dice, smooth=smooth, reduction=reduction),
        *(p, t),
    )


def test_dice_loss_of_classes(rng):
    """The loss is that of the one-hot maps, without the ignored pixels."""
    p = F.softmax(rng.normal(size=(2, 3, 4, 5)).astype(np.float32), 1)
    classes = rng.integers(0, 3, (2, 4, 5))
    classes[0, :2] = 255
    classes[1, 0] = 255
    p[1, :, 0] = np.nan  # ignored as well
    counted = (classes != 255)[:, None]
    one_hot = ((classes[:, None] == np.arange(3)[:, None, None]) & counted).astype(np.float32)
    expected, wanted = gradient(
        lambda p: dice_loss(p, one_hot, reduction="none"), np.where(counted, p, 0).astype(np.float32)
    )
    value, found = gradient(lambda p: dice_loss(p, classes.astype(np.uint8), ignore_index=255, reduction="none"), p)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(found[0], np.where(counted, wanted[0], 0), rtol=1e-6)
    everything, nothing = np.ones((1, 1, 2, 2), np.float32), np.zeros((1, 1, 2, 2), np.float32)
    assert dice_loss(everything, everything) == dice_loss(nothing, nothing) == 0
    assert dice_loss(nothing, np.full((1, 2, 2), -100)) == 0
    assert np.isnan(dice_loss(nothing, nothing, smooth=0.0))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((np.zeros((2, 3), np.float32), np.zeros(2, int)), {}, ValueError, r"input must be \(N, classes, \.\.\.\)"),
        ((np.zeros((2, 3, 4)), np.zeros((2, 4), int)), {}, TypeError, "input must be float32"),
        ((np.zeros((2, 3, 4), np.float32), np.zeros((2, 4))), {}, TypeError, "target must hold integers"),
        ((np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4), int)), {}, TypeError, "target must be float32"),
        ((np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), int)), {}, ValueError, r"target must have shape \(2, 4\)"),
        ((np.zeros((2, 3, 4), np.float32), np.full((2, 4), 3)), {}, ValueError, "target holds 3, but there are 3"),
        ((np.zeros((2, 3, 4), np.float32), np.zeros((2, 4), int)), {"smooth": -1}, ValueError, "smooth must be finite"),
        ((np.zeros((2, 3, 4), np.float32), np.zeros((2, 4), int)), {"reduction": "x"}, ValueError, "reduction must be"),
    ],
)
def test_dice_loss_refuses(arguments, options, error, text):
    with pytest.raises(error, match=f"dice_loss: {text}"):
        dice_loss(*arguments, **options)
