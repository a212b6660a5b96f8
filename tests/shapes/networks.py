"""The distinct layers of ResNet-50, VGG-16 and MobileNet v2 at 224x224, batch 1, as torchvision builds them.

A layer has the name of the first one of its shape in the network; `count` is the number of such layers.
"""

from __future__ import annotations

from typing import NamedTuple


class Conv(NamedTuple):
    """A convolution with square maps and kernels, and the same stride and padding in both dimensions."""

    name: str
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int
    padding: int
    groups: int
    count: int

    @property
    def input_shape(self):
        return 1, self.channels, self.size, self.size

    @property
    def weight_shape(self):
        return self.filters, self.channels // self.groups, self.kernel, self.kernel

    @property
    def output_shape(self):
        size = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return 1, self.filters, size, size

    @property
    def multiply_adds(self):
        _, filters, height, width = self.output_shape
        return filters * height * width * self.channels // self.groups * self.kernel**2


class Pool(NamedTuple):
    """Pooling over square windows; `kind` is max or average, and an average over the whole map has its size."""

    name: str
    kind: str
    channels: int
    size: int
    kernel: int
    stride: int
    padding: int
    count: int

    @property
    def input_shape(self):
        return 1, self.channels, self.size, self.size

    @property
    def output_shape(self):
        size = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return 1, self.channels, size, size


class Linear(NamedTuple):
    """A fully connected layer."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def multiply_adds(self):
        return self.inputs * self.outputs


# fmt: off
CONVOLUTIONS = {
    "resnet50": [
        # name                           C    H     O  k  s  p   g  count
        Conv("conv1",                     3, 224,   64, 7, 2, 3,   1, 1),
        Conv("layer1.0.conv1",           64,  56,   64, 1, 1, 0,   1, 1),
        Conv("layer1.0.conv2",           64,  56,   64, 3, 1, 1,   1, 3),
        Conv("layer1.0.conv3",           64,  56,  256, 1, 1, 0,   1, 4),
        Conv("layer1.1.conv1",          256,  56,   64, 1, 1, 0,   1, 2),
        Conv("layer2.0.conv1",          256,  56,  128, 1, 1, 0,   1, 1),
        Conv("layer2.0.conv2",          128,  56,  128, 3, 2, 1,   1, 1),
        Conv("layer2.0.conv3",          128,  28,  512, 1, 1, 0,   1, 4),
        Conv("layer2.0.downsample.0",   256,  56,  512, 1, 2, 0,   1, 1),
        Conv("layer2.1.conv1",          512,  28,  128, 1, 1, 0,   1, 3),
        Conv("layer2.1.conv2",          128,  28,  128, 3, 1, 1,   1, 3),
        Conv("layer3.0.conv1",          512,  28,  256, 1, 1, 0,   1, 1),
        Conv("layer3.0.conv2",          256,  28,  256, 3, 2, 1,   1, 1),
        Conv("layer3.0.conv3",          256,  14, 1024, 1, 1, 0,   1, 6),
        Conv("layer3.0.downsample.0",   512,  28, 1024, 1, 2, 0,   1, 1),
        Conv("layer3.1.conv1",         1024,  14,  256, 1, 1, 0,   1, 5),
        Conv("layer3.1.conv2",          256,  14,  256, 3, 1, 1,   1, 5),
        Conv("layer4.0.conv1",         1024,  14,  512, 1, 1, 0,   1, 1),
        Conv("layer4.0.conv2",          512,  14,  512, 3, 2, 1,   1, 1),
        Conv("layer4.0.conv3",          512,   7, 2048, 1, 1, 0,   1, 3),
        Conv("layer4.0.downsample.0",  1024,  14, 2048, 1, 2, 0,   1, 1),
        Conv("layer4.1.conv1",         2048,   7,  512, 1, 1, 0,   1, 2),
        Conv("layer4.1.conv2",          512,   7,  512, 3, 1, 1,   1, 2),
    ],
    "vgg16": [
        # name                           C    H     O  k  s  p   g  count
        Conv("features.0",                3, 224,   64, 3, 1, 1,   1, 1),
        Conv("features.2",               64, 224,   64, 3, 1, 1,   1, 1),
        Conv("features.5",               64, 112,  128, 3, 1, 1,   1, 1),
        Conv("features.7",              128, 112,  128, 3, 1, 1,   1, 1),
        Conv("features.10",             128,  56,  256, 3, 1, 1,   1, 1),
        Conv("features.12",             256,  56,  256, 3, 1, 1,   1, 2),
        Conv("features.17",             256,  28,  512, 3, 1, 1,   1, 1),
        Conv("features.19",             512,  28,  512, 3, 1, 1,   1, 2),
        Conv("features.24",             512,  14,  512, 3, 1, 1,   1, 3),
    ],
    "mobilenet_v2": [
        # name                           C    H     O  k  s  p   g  count
        Conv("features.0.0",              3, 224,   32, 3, 2, 1,   1, 1),
        Conv("features.1.conv.0.0",      32, 112,   32, 3, 1, 1,  32, 1),
        Conv("features.1.conv.1",        32, 112,   16, 1, 1, 0,   1, 1),
        Conv("features.2.conv.0.0",      16, 112,   96, 1, 1, 0,   1, 1),
        Conv("features.2.conv.1.0",      96, 112,   96, 3, 2, 1,  96, 1),
        Conv("features.2.conv.2",        96,  56,   24, 1, 1, 0,   1, 1),
        Conv("features.3.conv.0.0",      24,  56,  144, 1, 1, 0,   1, 2),
        Conv("features.3.conv.1.0",     144,  56,  144, 3, 1, 1, 144, 1),
        Conv("features.3.conv.2",       144,  56,   24, 1, 1, 0,   1, 1),
        Conv("features.4.conv.1.0",     144,  56,  144, 3, 2, 1, 144, 1),
        Conv("features.4.conv.2",       144,  28,   32, 1, 1, 0,   1, 1),
        Conv("features.5.conv.0.0",      32,  28,  192, 1, 1, 0,   1, 3),
        Conv("features.5.conv.1.0",     192,  28,  192, 3, 1, 1, 192, 2),
        Conv("features.5.conv.2",       192,  28,   32, 1, 1, 0,   1, 2),
        Conv("features.7.conv.1.0",     192,  28,  192, 3, 2, 1, 192, 1),
        Conv("features.7.conv.2",       192,  14,   64, 1, 1, 0,   1, 1),
        Conv("features.8.conv.0.0",      64,  14,  384, 1, 1, 0,   1, 4),
        Conv("features.8.conv.1.0",     384,  14,  384, 3, 1, 1, 384, 4),
        Conv("features.8.conv.2",       384,  14,   64, 1, 1, 0,   1, 3),
        Conv("features.11.conv.2",      384,  14,   96, 1, 1, 0,   1, 1),
        Conv("features.12.conv.0.0",     96,  14,  576, 1, 1, 0,   1, 3),
        Conv("features.12.conv.1.0",    576,  14,  576, 3, 1, 1, 576, 2),
        Conv("features.12.conv.2",      576,  14,   96, 1, 1, 0,   1, 2),
        Conv("features.14.conv.1.0",    576,  14,  576, 3, 2, 1, 576, 1),
        Conv("features.14.conv.2",      576,   7,  160, 1, 1, 0,   1, 1),
        Conv("features.15.conv.0.0",    160,   7,  960, 1, 1, 0,   1, 3),
        Conv("features.15.conv.1.0",    960,   7,  960, 3, 1, 1, 960, 3),
        Conv("features.15.conv.2",      960,   7,  160, 1, 1, 0,   1, 2),
        Conv("features.17.conv.2",      960,   7,  320, 1, 1, 0,   1, 1),
        Conv("features.18.0",           320,   7, 1280, 1, 1, 0,   1, 1),
    ],
}

# VGG-16's adaptive pooling is left out: at this size it maps 7x7 to 7x7 and does nothing.
POOLS = {
    "resnet50": [
        #    name                kind        C    H  k  s  p  count
        Pool("maxpool",          "max",      64, 112, 3, 2, 1, 1),
        Pool("avgpool",          "average", 2048,  7, 7, 1, 0, 1),
    ],
    "vgg16": [
        Pool("features.4",       "max",      64, 224, 2, 2, 0, 1),
        Pool("features.9",       "max",     128, 112, 2, 2, 0, 1),
        Pool("features.16",      "max",     256,  56, 2, 2, 0, 1),
        Pool("features.23",      "max",     512,  28, 2, 2, 0, 1),
        Pool("features.30",      "max",     512,  14, 2, 2, 0, 1),
    ],
    "mobilenet_v2": [
        Pool("features.18",      "average", 1280,  7, 7, 1, 0, 1),
    ],
}

LINEARS = {
    "resnet50": [
        Linear("fc", 2048, 1000, 1),
    ],
    "vgg16": [
        Linear("classifier.0", 25088, 4096, 1),
        Linear("classifier.3", 4096, 4096, 1),
        Linear("classifier.6", 4096, 1000, 1),
    ],
    "mobilenet_v2": [
        Linear("classifier.1", 1280, 1000, 1),
    ],
}
# fmt: on


def labelled(table):
    """Return (network, layer) pairs and their labels, for ``pytest.mark.parametrize``."""
    pairs = [(network, layer) for network, layers in table.items() for layer in layers]
    return {"argvalues": pairs, "ids": [f"{network}-{layer.name}" for network, layer in pairs]}
