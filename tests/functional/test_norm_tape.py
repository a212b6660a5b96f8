"""Batch norm on the tape: alone, and fused with the activation or the sum that follows it."""

from itertools import combinations

import numpy as np
import pytest

import convlane
from convlane import nn
from convlane.functional import activation as activations
from convlane.functional import add, batch_norm, mse_loss
from convlane.functional._op import ACTIVATIONS


def differences(fn, arrays, wanted, step=1e-2):
    """Return central differences of a float32 function, which are inaccurate, but independent."""
    found = np.zeros(arrays[wanted].shape)
    for index in np.ndindex(found.shape):
        values = []
        for sign in (1, -1):
            moved = [a.copy() for a in arrays]
            moved[wanted][index] += sign * step
            values.append(fn(*moved).astype(np.float64))
        found[index] = (values[0] - values[1]).sum() / (2 * step)
    return found


def images(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.torch
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "tail", ["none", "add", *sorted(ACTIVATIONS), *(f"add {name}" for name in sorted(ACTIVATIONS))]
)
@pytest.mark.parametrize("swap", [False, True])
def test_like_torch(tail, training, swap, rng):
    import torch

    x, residual = images(rng, 3, 5, 6, 7), images(rng, 3, 5, 6, 7)
    weight, bias, mean = (images(rng, 5) for _ in range(3))
    var = rng.random(5).astype(np.float32) + 0.5
    gradient = images(rng, 3, 5, 6, 7)
    name = "none" if tail == "add" else tail.removeprefix("add ")

    def ours(x, residual, weight, bias):
        running = (mean.copy(), var.copy())
        y = batch_norm(x, *running, weight, bias, training)
        if "add" in tail:
            pair = (residual, y) if swap else (y, residual)
            return add(*pair, activation=name, negative_slope=0.01 if name == "leaky_relu" else 1.0)
        return y if name == "none" else getattr(activations, name)(y)

    theirs = (lambda x: x) if name == "none" else getattr(torch.nn.functional, name)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, residual, weight, bias)]
    y = torch.nn.functional.batch_norm(
        tensors[0], torch.tensor(mean), torch.tensor(var), tensors[2], tensors[3], training
    )
    y = theirs(y + tensors[1] if "add" in tail else y)
    y.backward(torch.tensor(gradient))

    value, pullback = convlane.vjp(ours, x, residual, weight, bias)
    np.testing.assert_allclose(value, y.detach().numpy(), rtol=1e-5, atol=1e-5)
    for found, tensor in zip(pullback(gradient), tensors, strict=True):
        expected = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


TAILS = {
    "alone": lambda y, residual: y,
    "+": lambda y, residual: add(y, residual),
    "residual first": lambda y, residual: add(residual, y),
    **{name: lambda y, residual, name=name: getattr(activations, name)(y) for name in sorted(ACTIVATIONS)},
    **{f"+ {name}": lambda y, residual, name=name: add(y, residual, activation=name) for name in sorted(ACTIVATIONS)},
}


@pytest.mark.parametrize("tail", TAILS)
def test_gradients_do_not_depend_on_which_others_are_wanted(tail, rng):
    """Whichever arguments are constants, the other gradients have the same bits as if all were computed."""
    arrays = {"x": images(rng, 2, 3, 2, 2), "residual": images(rng, 2, 3, 2, 2)}
    arrays |= {"weight": images(rng, 3), "bias": images(rng, 3)}
    running, gradient = (images(rng, 3), np.full(3, 0.5, np.float32)), images(rng, 2, 3, 2, 2)

    def gradients(names, training):
        def fn(*variables):
            given = arrays | dict(zip(names, variables, strict=True))
            y = batch_norm(given["x"], *map(np.copy, running), given["weight"], given["bias"], training)
            return TAILS[tail](y, given["residual"])

        _, pullback = convlane.vjp(fn, *(arrays[name] for name in names))
        return dict(zip(names, pullback(gradient), strict=True))

    uses_residual = tail.startswith(("+", "residual"))
    names = [name for name in arrays if uses_residual or name != "residual"]
    for training in (True, False):
        full = gradients(names, training)
        for count in range(1, len(names)):
            for wanted in combinations(names, count):
                if wanted == ("residual",):
                    continue  # then batch norm is a constant
                for name, found in gradients(wanted, training).items():
                    np.testing.assert_array_equal(found, full[name], err_msg=f"{name} of {wanted}")


def test_one_output_used_twice(rng):
    x, weight, bias = images(rng, 4, 2, 3, 3), images(rng, 2), images(rng, 2)

    def fn(x, weight, bias):
        y = batch_norm(x, None, None, weight, bias, True)
        return add(activations.tanh(y), y)

    value, pullback = convlane.vjp(fn, x, weight, bias)
    np.testing.assert_array_equal(value, fn(x, weight, bias))
    found = pullback(np.ones(value.shape, np.float32))
    for i in range(3):
        expected = differences(fn, [x, weight, bias], i)
        np.testing.assert_allclose(found[i], expected, atol=5e-3)


def test_running_statistics_are_updated_once(rng):
    layer = nn.BatchNorm2d(3)
    twin = nn.BatchNorm2d(3)
    x = images(rng, 4, 3, 5, 5)
    twin(x)
    convlane.value_and_grad(lambda x: mse_loss(activations.relu(layer(x)), x), layer)(x)
    np.testing.assert_array_equal(layer.running_mean, twin.running_mean)
    np.testing.assert_array_equal(layer.running_var, twin.running_var)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("training", [True, False])
def test_rows(training, rng):
    """The input is (N, C) instead of images."""
    x, weight, bias = images(rng, 6, 3), images(rng, 3), images(rng, 3)
    running = (np.zeros(3, np.float32), np.ones(3, np.float32))

    def fn(x, weight, bias):
        return activations.sigmoid(batch_norm(x, *(a.copy() for a in running), weight, bias, training))

    value, pullback = convlane.vjp(fn, x, weight, bias)
    assert value.shape == (6, 3)
    found = pullback(np.ones((6, 3), np.float32))
    for i in range(3):
        np.testing.assert_allclose(found[i], differences(fn, [x, weight, bias], i), atol=5e-3)


def test_only_what_is_wanted(rng):
    layer = nn.BatchNorm2d(3)
    x = images(rng, 4, 3, 5, 5)
    _, gradients = convlane.value_and_grad(lambda x: mse_loss(layer(x), x), layer)(x)
    assert gradients.keys() == {"weight", "bias"}
    layer.freeze()
    _, pullback = convlane.vjp(layer, x)
    (found,) = pullback(np.ones(x.shape, np.float32))
    expected = layer.weight / np.sqrt(layer.running_var + layer.eps)
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], x.shape), rtol=1e-5)


def test_bad_arguments_on_the_tape(rng):
    x = images(rng, 1, 2, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value"):
        convlane.vjp(lambda x: batch_norm(x, None, None, training=True), x)
    with pytest.raises(ValueError, match=r"shapes \(2, 2, 2, 2\)"):
        convlane.vjp(
            lambda x: add(batch_norm(x, None, None, training=True), np.zeros((1, 2, 2, 2), np.float32)),
            images(rng, 2, 2, 2, 2),
        )
