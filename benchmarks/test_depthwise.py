"""Depthwise convolutions with bias and ReLU6.

The execution ports limit the speed to the FMA peak: an output vector of a 3x3 filter takes 9 multiply-adds and, with
the weights in registers, at most 9 loads, and current cores do two of each per cycle. Maps outside the caches are
limited by the memory bandwidth.
"""

import math

import pytest

from convlane import functional
from shapes.networks import CONVOLUTIONS, labelled

_DEPTHWISE = {"mobilenet_v2": [layer for layer in CONVOLUTIONS["mobilenet_v2"] if layer.groups > 1]}
_IN_CACHE = 1 << 20  # bytes; the second-level cache of current server cores has 1 or 2 MB


@pytest.mark.parametrize(("network", "layer"), **labelled(_DEPTHWISE))
def test_depthwise(network, layer, report, random):
    src, bias, filters = random(*layer.input_shape), random(layer.filters), random(*layer.weight_shape)
    weight = functional.pack_conv2d(filters, layer.groups)
    moved_bytes = src.nbytes + filters.nbytes + 4 * math.prod(layer.output_shape)
    report(
        lambda: functional.conv2d(src, weight, bias, layer.stride, layer.padding, activation="relu6"),
        f"{network} {layer.name}",
        multiply_adds=layer.multiply_adds,
        moved_bytes=moved_bytes,
        family="depthwise 3x3 stride 1 in cache" if layer.stride == 1 and moved_bytes <= _IN_CACHE else None,
    )
