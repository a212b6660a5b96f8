"""ResNet for CIFAR-10: He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2015, section 4.2.

The plain networks, with which the paper compares, are the same layers without shortcuts; their state dict keys are
those of the residual networks with option A.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from convlane import nn
from convlane.functional import flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import head, layers_of, scale_and_shift
from convlane.models.registry import register
from convlane.models.resnet import BasicBlock, projection

WIDTHS = (16, 32, 64)
# Blocks of two convolutions in each of the three stages; one convolution precedes and one linear layer follows them.
BLOCKS = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18}


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of pairs of 3x3 convolutions, the mean over each map, and one linear layer.

    `shortcut` is ``"A"`` (the identity, with zeros for the channels that the input does not have), ``"B"`` (a
    projection where the shape changes) or None for the plain network.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, depth: int, num_classes: int = 10, shortcut: str | None = "A") -> None:
        blocks: dict[str | None, Callable[[int, int, int], nn.Module]] = {
            "A": partial(BasicBlock, shortcut=zero_padding),
            "B": partial(BasicBlock, shortcut=projection),
            None: plain_block,
        }
        if shortcut not in blocks:
            raise ValueError(f"resnet{depth}: shortcut must be 'A' or 'B', got {shortcut!r}")
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        channels = WIDTHS[0]
        for i, width in enumerate(WIDTHS):
            stage = []
            for j in range(BLOCKS[depth]):
                stage.append(blocks[shortcut](channels, width, 2 if i > 0 and j == 0 else 1))
                channels = width
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = head(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "conv1", "bn1", "relu", "layer1", "layer2", "layer3")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        maps = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(input))))))
        return self.fc(flatten(self.avgpool(maps)))  # type: ignore[no-any-return]


class Zeros(nn.Module):
    """As many maps of zeros as the input has maps."""

    def forward(self, input: Array) -> Array:
        """Return zero times the input, which makes it an operation on the input; non-finite values become NaN."""
        return scale_and_shift(input, np.zeros(input.shape[1], np.float32))


def zero_padding(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the identity, with pixels skipped and channels of zeros added if the shape changes (option A)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.MaxPool2d(1, stride), nn.Concat(nn.Identity(), Zeros()))


def plain_block(in_channels: int, width: int, stride: int) -> nn.Module:
    """Return two 3x3 convolutions in sequence."""
    return nn.Sequential(
        {
            "conv1": nn.Conv2d(in_channels, width, 3, stride, 1, bias=False),
            "bn1": nn.BatchNorm2d(width),
            "relu1": nn.ReLU(),
            "conv2": nn.Conv2d(width, width, 3, 1, 1, bias=False),
            "bn2": nn.BatchNorm2d(width),
            "relu2": nn.ReLU(),
        }
    )


@register(input_shape=(3, 32, 32))
def resnet20(num_classes: int = 10, *, shortcut: str = "A") -> CifarResNet:
    """Build the network with 20 layers and shortcuts, ``"A"`` without or ``"B"`` with projections."""
    return CifarResNet(20, num_classes, shortcut)


@register(input_shape=(3, 32, 32))
def resnet32(num_classes: int = 10, *, shortcut: str = "A") -> CifarResNet:
    """Build the network with 32 layers and shortcuts, ``"A"`` without or ``"B"`` with projections."""
    return CifarResNet(32, num_classes, shortcut)


@register(input_shape=(3, 32, 32))
def resnet44(num_classes: int = 10, *, shortcut: str = "A") -> CifarResNet:
    """Build the network with 44 layers and shortcuts, ``"A"`` without or ``"B"`` with projections."""
    return CifarResNet(44, num_classes, shortcut)


@register(input_shape=(3, 32, 32))
def resnet56(num_classes: int = 10, *, shortcut: str = "A") -> CifarResNet:
    """Build the network with 56 layers and shortcuts, ``"A"`` without or ``"B"`` with projections."""
    return CifarResNet(56, num_classes, shortcut)


@register(input_shape=(3, 32, 32))
def resnet110(num_classes: int = 10, *, shortcut: str = "A") -> CifarResNet:
    """Build the network with 110 layers and shortcuts, ``"A"`` without or ``"B"`` with projections."""
    return CifarResNet(110, num_classes, shortcut)


@register(input_shape=(3, 32, 32))
def plain20(num_classes: int = 10) -> CifarResNet:
    """Build the network with 20 layers, without shortcuts."""
    return CifarResNet(20, num_classes, None)


@register(input_shape=(3, 32, 32))
def plain32(num_classes: int = 10) -> CifarResNet:
    """Build the network with 32 layers, without shortcuts."""
    return CifarResNet(32, num_classes, None)


@register(input_shape=(3, 32, 32))
def plain44(num_classes: int = 10) -> CifarResNet:
    """Build the network with 44 layers, without shortcuts."""
    return CifarResNet(44, num_classes, None)


@register(input_shape=(3, 32, 32))
def plain56(num_classes: int = 10) -> CifarResNet:
    """Build the network with 56 layers, without shortcuts."""
    return CifarResNet(56, num_classes, None)


@register(input_shape=(3, 32, 32))
def plain110(num_classes: int = 10) -> CifarResNet:
    """Build the network with 110 layers, without shortcuts."""
    return CifarResNet(110, num_classes, None)
