"""Convolutions with bias and ReLU, weights packed beforehand, input channels last."""

import pytest

from convlane import functional
from shapes.networks import CONVOLUTIONS, labelled

_DENSE = {
    network: [layer for layer in layers if layer.groups == 1] for network, layers in CONVOLUTIONS.items()
}  # the others: test_depthwise.py


def _family(network, layer):
    """Return the set of layers to which a layer belongs, if it is one that has a target of its own."""
    if layer.kernel == 7:
        return "7x7 stem"
    wide = min(layer.channels, layer.filters) >= 64
    if network != "mobilenet_v2" and wide and (layer.kernel, layer.stride) in [(1, 1), (1, 2), (3, 1)]:
        return "3x3 stride 1 and 1x1 of ResNet-50 and VGG-16, at least 64 channels in and out"
    return None


@pytest.mark.parametrize(("network", "layer"), **labelled(_DENSE))
def test_conv2d(network, layer, report, random):
    src, bias = random(*layer.input_shape), random(layer.filters)
    weight = functional.pack_conv2d(random(*layer.weight_shape))
    report(
        lambda: functional.conv2d(src, weight, bias, layer.stride, layer.padding, activation="relu"),
        f"{network} {layer.name}",
        multiply_adds=layer.multiply_adds,
        family=_family(network, layer),
    )
