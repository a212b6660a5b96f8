"""Pooling, which is memory bound: GB/s counts the input as read once and the output as written once."""

import math

import pytest

from convlane import functional
from shapes.networks import POOLS, labelled


@pytest.mark.parametrize(("network", "layer"), **labelled(POOLS))
def test_pool(network, layer, report, random):
    src = random(*layer.input_shape)
    pool = {"max": functional.max_pool2d, "average": functional.avg_pool2d}[layer.kind]
    report(
        lambda: pool(src, layer.kernel, layer.stride, layer.padding),
        f"{network} {layer.name}",
        moved_bytes=src.nbytes + 4 * math.prod(layer.output_shape),
    )
