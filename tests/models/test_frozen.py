"""Networks whose first layers are frozen: the others get the same gradients as without."""

from functools import partial

import numpy as np
import pytest

import convlane
from convlane import nn
from convlane.functional import mean, square
from convlane.models import (
    convnext,
    densenet,
    efficientnet,
    efficientnet_lite,
    efficientnet_v2,
    googlenet,
    inception_resnet_v2,
    inception_v3,
    mnasnet,
    mobilenet_v2,
    mobilenet_v3,
    regnet,
    resnet,
    shufflenet_v2,
    squeezenet,
)

BLOCKS = {  # each has 4 input and 4 output channels
    "resnet basic": partial(resnet.BasicBlock, 4, 4, 1),
    "resnet basic, projected": partial(resnet.BasicBlock, 4, 4, 2),
    "resnet bottleneck": partial(resnet.Bottleneck, 4, 1, 1, width_per_group=128),
    "mobilenet_v2": partial(mobilenet_v2.InvertedResidual, 4, 4, 1, 2),
    "mobilenet_v3": partial(mobilenet_v3.InvertedResidual, 4, 3, 8, 4, True, True, 1),
    "mnasnet": partial(mnasnet.InvertedResidual, 4, 4, 3, 1, 2),
    "efficientnet": partial(efficientnet.MBConv, 4, 4, 3, 1, 2, 0.0, nn.BatchNorm2d),
    "efficientnet_lite": partial(efficientnet_lite.LiteBlock, 4, 4, 3, 1, 2, 0.0),
    "efficientnet_v2": partial(efficientnet_v2.FusedMBConv, 4, 4, 1, 2, 0.0, nn.BatchNorm2d),
    "regnet": partial(regnet.Block, 4, 4, 1, 2, True),
    "regnet, projected": partial(regnet.Block, 4, 4, 2, 2, False),
    "shufflenet": partial(shufflenet_v2.InvertedResidual, 4, 4, 1),
    "shufflenet, stride 2": partial(shufflenet_v2.InvertedResidual, 4, 4, 2),
    "densenet": lambda: nn.Sequential(densenet.DenseBlock(4, 2, 2), nn.Conv2d(8, 4, 1)),
    "squeezenet": partial(squeezenet.Fire, 4, 2, 2),
    "googlenet": partial(googlenet.Inception, 4, 1, 2, 1, 2, 1, 1),
    "inception_v3": partial(
        inception_v3.Mixed,
        4,
        {"branch1x1": [(1, 1)], "branch3x3": [(2, 1), [(1, (1, 3)), (1, (3, 1))]], "branch_pool": [(1, 1)]},
    ),
    "inception_resnet_v2": partial(inception_resnet_v2.Residual, 4, 0.5, [[(2, 1)], [(2, 1), (2, 3)]]),
    "convnext": partial(convnext.CNBlock, 4, 0.0),
}


def gradients(network, images):
    return convlane.value_and_grad(lambda x: mean(square(network(x))), network)(images)[1]


@pytest.mark.parametrize("name", BLOCKS)
def test_any_number_of_first_layers_frozen(name, rng):
    """Compare with the same modes and nothing frozen."""
    nn.init.seed(2)
    network = nn.Sequential(nn.Conv2d(4, 4, 1), BLOCKS[name](), BLOCKS[name]())
    for module in network.modules():
        if hasattr(module, "layer_scale"):
            module.layer_scale = rng.uniform(0.5, 1, module.layer_scale.shape).astype(np.float32)
    images = rng.standard_normal((2, 4, 6, 6), np.float32)
    network.train()
    learning = [module for module in network.modules() if any("." not in name for name, _ in module.named_parameters())]
    for i, layer in enumerate(learning[:-1], 1):
        layer.training = False  # like frozen layers
        expected = gradients(network, images)
        for module in learning[:i]:
            module.frozen = True
        found = gradients(network, images)
        assert found.keys() == dict(network.named_parameters(trainable=True)).keys()
        assert len(found) < len(expected)
        for key, gradient in found.items():
            np.testing.assert_allclose(gradient, expected[key], rtol=1e-5, atol=1e-6, err_msg=key)
        for module in learning[:i]:
            module.frozen = False
