"""Whole training steps: torchvision's networks gradient by gradient, and LeNet-5 learning something."""

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

    ours = without_chance(lively(models.create(name, 10), rng))
    theirs = without_chance(torchvision_twin(name, ours, num_classes=10)).train()
    ours.train()
    images, classes = rng.normal(size=(4, 3, 64, 64)).astype(np.float32), np.array([3, 1, 4, 1])
    for parameter in theirs.parameters():
        parameter.requires_grad_(True)
    expected = torch.nn.functional.cross_entropy(theirs(torch.tensor(images)), torch.tensor(classes))
    expected.backward()
    loss, gradients = convlane.value_and_grad(lambda x: cross_entropy(ours(x), classes), ours)(images)
    np.testing.assert_allclose(loss, float(expected.detach()), rtol=1e-3)
    named = dict(theirs.named_parameters())
    assert gradients.keys() == named.keys()
    # What a batch norm subtracts again, such as a bias before the next one, has a gradient of rounding errors.
    largest = max(float(parameter.grad.norm()) for parameter in named.values())
    for key, gradient in gradients.items():
        other = named[key].grad.numpy()
        difference = np.linalg.norm(gradient - other) / max(np.linalg.norm(other), 1e-3 * largest)
        assert difference < 1e-2, f"{key}: {difference}"
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
