"""Multiply-adds of networks and of single operations."""

import math

import numpy as np
import pytest

from convlane import analysis, functional, models
from networks import torchvision_network
from shapes.networks import CONVOLUTIONS, LINEARS

COUNTS = {
    "alexnet": 714_188_480,
    "efficientnet_b0": 385_814_752,
    "googlenet": 1_498_376_192,
    "mobilenet_v2": 300_774_272,
    "resnet18": 1_814_073_344,
    "resnet50": 4_089_184_256,
    "vgg16": 15_470_264_320,
}


@pytest.mark.parametrize("name", COUNTS)
def test_networks(name):
    model = models.create(name)
    assert analysis.multiply_adds(model, (1, 3, 224, 224)) == COUNTS[name]
    assert analysis.multiply_adds(model, (4, 3, 224, 224)) == 4 * COUNTS[name]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_layer_tables_add_up_to_the_network(name):
    layers = CONVOLUTIONS[name] + LINEARS[name]
    assert sum(layer.count * layer.multiply_adds for layer in layers) == COUNTS[name]


def test_operations_of_a_function(rng):
    conv_weight = rng.standard_normal((6, 2, 3, 3), np.float32)
    linear_weight = functional.pack_linear(rng.standard_normal((5, 7), np.float32))

    def model(x):
        x = functional.conv2d(x, conv_weight, stride=2, padding=1, groups=2)  # (2, 4, 9, 13) to (2, 6, 5, 7)
        return functional.linear(x, linear_weight)

    conv_outputs, linear_outputs = 2 * 6 * 5 * 7, 2 * 6 * 5 * 5
    assert analysis.multiply_adds(model, (2, 4, 9, 13)) == conv_outputs * 2 * 3 * 3 + linear_outputs * 7


def test_packed_weights_cost_the_same(rng):
    weight = rng.standard_normal((6, 2, 3, 3), np.float32)
    packed = functional.pack_conv2d(weight, 2)
    plain = analysis.multiply_adds(lambda x: functional.conv2d(x, weight, groups=2), (1, 4, 8, 8))
    assert analysis.multiply_adds(lambda x: functional.conv2d(x, packed), (1, 4, 8, 8)) == plain


def test_shapes_that_do_not_fit(rng):
    weight = rng.standard_normal((6, 4, 3, 3), np.float32)
    with pytest.raises(ValueError, match="conv2d"):
        analysis.multiply_adds(lambda x: functional.conv2d(x, weight), (1, 3, 8, 8))


@pytest.mark.torch
@pytest.mark.parametrize("name", COUNTS)
def test_counts_with_torch_hooks(name):
    import torch

    total = 0

    def add(module, inputs, output):
        nonlocal total
        total += output.numel() * math.prod(module.weight.shape[1:])

    with torch.device("meta"), torch.no_grad():
        model = torchvision_network(name).eval()
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.register_forward_hook(add)
        model(torch.zeros(1, 3, 224, 224))
    assert total == COUNTS[name]
