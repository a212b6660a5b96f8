"""Whole training steps: torchvision's networks gradient by gradient, and LeNet-5 learning something."""

import copy

import numpy as np
import pytest

import convlane
from convlane import models, nn
from convlane.functional import cross_entropy
from convlane.training import Adam
from networks import lively, torchvision_twin


def without_chance(model):
    """Switch off what draws random numbers."""
    for module in model.modules():
        if type(module).__name__ in ("Dropout", "StochasticDepth"):
            module.p = 0.0
    return model


@pytest.mark.torch
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_gradients_are_torch_s(name, rng):
    import torch

    nn.init.seed(7)
    ours = without_chance(lively(models.create(name, 10), rng, 96))
    theirs = without_chance(torchvision_twin(name, ours, num_classes=10)).train()
    ours.train()
    images, classes = rng.normal(size=(4, 3, 96, 96)).astype(np.float32), np.array([3, 1, 4, 1])
    for parameter in theirs.parameters():
        parameter.requires_grad_(True)
    exact = copy.deepcopy(theirs).double()
    torch.nn.functional.cross_entropy(exact(torch.tensor(images).double()), torch.tensor(classes)).backward()
    expected = torch.nn.functional.cross_entropy(theirs(torch.tensor(images)), torch.tensor(classes))
    expected.backward()
    loss, gradients = convlane.value_and_grad(lambda x: cross_entropy(ours(x), classes), ours)(images)
    np.testing.assert_allclose(loss, float(expected.detach()), rtol=1e-3)
    named = dict(theirs.named_parameters())
    assert gradients.keys() == named.keys()
    # Rounding moves values across ReLU6's corners, in torch's float32 too: its distance from float64 is the measure.
    doubles = {key: parameter.grad.numpy() for key, parameter in exact.named_parameters()}
    largest = max(np.linalg.norm(gradient) for gradient in doubles.values())
    for key, gradient in gradients.items():
        scale = max(np.linalg.norm(doubles[key]), 1e-3 * largest)
        ours_off, theirs_off = (np.linalg.norm(g - doubles[key]) / scale for g in (gradient, named[key].grad.numpy()))
        assert ours_off < 1e-2 + 4 * theirs_off, f"{key}: {ours_off}, torch {theirs_off}"
    buffers = dict(theirs.named_buffers())
    for key, array in ours.state_dict().items():
        if key in buffers:
            np.testing.assert_allclose(array, buffers[key].numpy(), rtol=1e-3, atol=1e-4, err_msg=key)


def test_the_same_bits_for_any_number_of_threads(rng):
    images, classes = rng.normal(size=(4, 3, 64, 64)).astype(np.float32), np.array([3, 1, 4, 1])
    state = models.create("mobilenet_v2", 10).state_dict()
    found = []
    for count in (1, 2, 5):
        model = without_chance(models.create("mobilenet_v2", 10)).train()
        model.load_state_dict(state)
        with convlane.num_threads(count):
            _, gradients = convlane.value_and_grad(lambda x, m=model: cross_entropy(m(x), classes), model)(images)
        found.append(gradients)
    for other in found[1:]:
        for key, gradient in found[0].items():
            np.testing.assert_array_equal(other[key], gradient, err_msg=key)


def test_a_network_learns_a_batch_by_heart(rng):
    nn.init.seed(5)
    model = models.create("lenet5").train()
    images = rng.normal(size=(32, 1, 32, 32)).astype(np.float32)
    classes = rng.integers(0, 10, 32)
    optimizer = Adam(model, 0.003)
    step = convlane.value_and_grad(lambda x: cross_entropy(model(x), classes), model)
    losses = []
    for _ in range(60):
        loss, gradients = step(images)
        optimizer.step(gradients)
        losses.append(loss)
    assert losses[0] > 2
    assert losses[-1] < 0.05
    assert (model.eval()(images).argmax(1) == classes).all()
