"""Whole training steps: the gradients of torch's networks, layouts, and LeNet-5 learning a batch."""

import copy

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane import models, nn
from convlane.functional import cross_entropy
from convlane.training import SGD, Adam
from layouts import LAYOUTS
from networks import torchvision_twin, weighted_loss, with_statistics, without_randomness


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "googlenet", "shufflenet_v2_x1_0", "convnext_tiny"]
)
def test_gradients_are_torch_s(name, rng):
    import torch

    nn.init.seed(7)
    ours = without_randomness(with_statistics(models.create(name, 10), rng, 96))
    theirs = without_randomness(torchvision_twin(name, ours, num_classes=10)).train()
    ours.train()
    images, classes = rng.normal(size=(4, 3, 96, 96)).astype(np.float32), np.array([3, 1, 4, 1])
    for parameter in theirs.parameters():
        parameter.requires_grad_(True)
    exact = copy.deepcopy(theirs).double()

    def torch_loss(outputs):
        return weighted_loss(outputs, lambda logits: torch.nn.functional.cross_entropy(logits, torch.tensor(classes)))

    torch_loss(exact(torch.tensor(images).double())).backward()
    expected = torch_loss(theirs(torch.tensor(images)))
    expected.backward()

    def our_loss(x):
        return weighted_loss(ours(x), lambda logits: cross_entropy(logits, classes))

    loss, gradients = convlane.value_and_grad(our_loss, ours)(images)
    np.testing.assert_allclose(loss, float(expected.detach()), rtol=1e-3)
    named = dict(theirs.named_parameters())
    assert gradients.keys() == named.keys()
    # Rounding moves values across ReLU6's corners, also in torch's float32, whose error against float64 is the bound.
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


class Small(nn.Module):
    """A small network with many kinds of layers, for 1x28x28."""

    def __init__(self):
        self.stem = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.SiLU())
        self.wide = nn.Sequential(nn.Conv2d(12, 16, 5), nn.Hardswish(), nn.AvgPool2d(2))
        self.head = nn.Sequential(nn.Linear(400, 84), nn.Tanh(), nn.Linear(84, 10))

    def forward(self, x):
        maps = self.stem(x)
        return self.head(F.flatten(self.wide(F.cat([maps, F.add(self.block(maps), maps)]))))


def in_torch(model):
    """Return the same network as a function of torch's tensors, and its parameters by name."""
    import torch

    t = torch.nn.functional
    p = {name: torch.tensor(array).double().requires_grad_() for name, array in model.named_parameters()}

    def norm(x, name):
        return t.batch_norm(x, None, None, p[f"{name}.weight"], p[f"{name}.bias"], training=True)

    def forward(x):
        maps = t.max_pool2d(t.relu(norm(t.conv2d(x, p["stem.0.weight"], padding=2), "stem.1")), 2)
        block = t.silu(norm(t.conv2d(maps, p["block.0.weight"], p["block.0.bias"], padding=1, groups=6), "block.1"))
        wide = t.conv2d(torch.cat([maps, block + maps], 1), p["wide.0.weight"], p["wide.0.bias"])
        flat = t.avg_pool2d(t.hardswish(wide), 2).flatten(1)
        hidden = torch.tanh(t.linear(flat, p["head.0.weight"], p["head.0.bias"]))
        return t.linear(hidden, p["head.2.weight"], p["head.2.bias"])

    return forward, p


CLASSES = np.array([3, 1, 4, 1, 5])


def small_step(images):
    """Return the loss, the gradients and the parameters after a step of a new network."""
    nn.init.seed(8)
    model = Small().train()
    loss, gradients = convlane.value_and_grad(lambda x: cross_entropy(model(x), CLASSES), model)(images)
    SGD(model, 0.1, momentum=0.9).step(gradients)
    return loss, gradients, model.state_dict()


@pytest.mark.torch
def test_a_small_network_s_gradients_are_torch_s(isa, threads, rng):
    import torch

    images = rng.normal(size=(5, 1, 28, 28)).astype(np.float32)
    nn.init.seed(8)
    before = Small()
    forward, parameters = in_torch(before)
    expected = torch.nn.functional.cross_entropy(forward(torch.tensor(images).double()), torch.tensor(CLASSES))
    expected.backward()
    loss, gradients, after = small_step(images)
    np.testing.assert_allclose(loss, float(expected.detach()), rtol=1e-5)
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        right = parameters[name].grad.numpy()
        np.testing.assert_allclose(gradient, right, rtol=1e-3, atol=1e-5 * np.abs(right).max() + 1e-7, err_msg=name)
        np.testing.assert_allclose(
            after[name], dict(before.named_parameters())[name] - 0.1 * gradient, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_s_bits_do_not_depend_on_the_layout(isa, threads, layout, rng):
    images = rng.normal(size=(5, 1, 28, 28)).astype(np.float32)
    loss, gradients, after = small_step(LAYOUTS[layout](images))
    with convlane.num_threads(2):
        expected_loss, expected_gradients, expected_after = small_step(images)
    assert loss == expected_loss
    for name, gradient in expected_gradients.items():
        np.testing.assert_array_equal(gradients[name], gradient, err_msg=name)
    for name, array in expected_after.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_the_same_bits_for_any_number_of_threads(rng):
    images, classes = rng.normal(size=(4, 3, 64, 64)).astype(np.float32), np.array([3, 1, 4, 1])
    state = models.create("mobilenet_v2", 10).state_dict()
    found = []
    for count in (1, 2, 5):
        model = without_randomness(models.create("mobilenet_v2", 10)).train()
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
