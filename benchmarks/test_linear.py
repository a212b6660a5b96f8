"""Fully connected layers with bias, on one image: every weight is read once, so memory bandwidth is the limit."""

import pytest

from convlane import functional
from shapes.networks import LINEARS, labelled


@pytest.mark.parametrize(("network", "layer"), **labelled(LINEARS))
def test_linear(network, layer, report, random):
    src, bias = random(1, layer.inputs), random(layer.outputs)
    weight = functional.pack_linear(random(layer.outputs, layer.inputs))
    report(
        lambda: functional.linear(src, weight, bias),
        f"{network} {layer.name}",
        multiply_adds=layer.multiply_adds,
        moved_bytes=4 * (layer.inputs + layer.outputs + layer.multiply_adds),
    )
