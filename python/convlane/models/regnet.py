"""RegNet: Radosavovic, Kosaraju, Girshick, He and Dollar, Designing Network Design Spaces, 2020."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from convlane import nn
from convlane.functional import add, flatten, relu
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm, divisible, head, layers_of
from convlane.models.preparation import TORCHVISION_SWAG, TORCHVISION_V2
from convlane.models.registry import register


class Design(NamedTuple):
    """The parameters that determine all widths of a network; see section 3.3 of the paper."""

    depth: int
    initial_width: int
    slope: float
    step: float
    """The factor by which the width grows from one stage to the next."""
    group_width: int
    squeezed: bool = False
    """Whether blocks have squeeze-and-excitation (the networks Y)."""


# Tables 5 and 6 of the paper, as torchvision rounds them.
DESIGNS = {
    "regnet_x_400mf": Design(22, 24, 24.48, 2.54, 16),
    "regnet_x_800mf": Design(16, 56, 35.73, 2.28, 16),
    "regnet_x_1_6gf": Design(18, 80, 34.01, 2.25, 24),
    "regnet_x_3_2gf": Design(25, 88, 26.31, 2.25, 48),
    "regnet_x_8gf": Design(23, 80, 49.56, 2.88, 120),
    "regnet_x_16gf": Design(22, 216, 55.59, 2.1, 128),
    "regnet_x_32gf": Design(23, 320, 69.86, 2.0, 168),
    "regnet_y_400mf": Design(16, 48, 27.89, 2.09, 8, True),
    "regnet_y_800mf": Design(14, 56, 38.84, 2.4, 16, True),
    "regnet_y_1_6gf": Design(27, 48, 20.71, 2.65, 24, True),
    "regnet_y_3_2gf": Design(21, 80, 42.63, 2.66, 24, True),
    "regnet_y_8gf": Design(17, 192, 76.82, 2.19, 56, True),
    "regnet_y_16gf": Design(18, 200, 106.23, 2.48, 112, True),
    "regnet_y_32gf": Design(20, 232, 115.89, 2.53, 232, True),
    "regnet_y_128gf": Design(27, 456, 160.83, 2.52, 264, True),
}
# The networks whose weights torchvision has, trained on ImageNet only and pretrained on other pictures.
V1 = DESIGNS.keys() - {"regnet_y_128gf"}
SWAG = {"regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf"}
STEM_CHANNELS = 32
SQUEEZE_RATIO = 0.25


def stages_of(design: Design) -> list[tuple[int, int]]:
    """Return width and number of blocks of each stage: equations 2 to 4 of the paper, rounded to whole groups."""
    widths = []
    for block in range(design.depth):
        linear = design.initial_width + design.slope * block
        exponent = round(math.log(linear / design.initial_width) / math.log(design.step))
        widths.append(8 * round(design.initial_width * design.step**exponent / 8))
    return [(divisible(width, min(design.group_width, width)), len(list(blocks))) for width, blocks in groupby(widths)]


class Block(nn.Module):
    """A bottleneck of constant width: 1x1, grouped 3x3, optional squeeze-and-excitation, 1x1, and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, group_width: int, squeezed: bool) -> None:
        if in_channels != channels or stride != 1:
            self.proj = conv_norm(in_channels, channels, 1, stride)
        layers: dict[str, nn.Module] = {
            "a": conv_norm(in_channels, channels, 1, activation=nn.ReLU),
            "b": conv_norm(channels, channels, 3, stride, channels // group_width, activation=nn.ReLU),
        }
        if squeezed:
            layers["se"] = nn.SqueezeExcitation(channels, round(SQUEEZE_RATIO * in_channels))
        layers["c"] = conv_norm(channels, channels, 1)
        self.f = nn.Sequential(layers)

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        shortcut = self.proj(input) if hasattr(self, "proj") else input
        return relu(add(shortcut, self.f(input)))


class RegNet(nn.Module):
    """A 3x3 stem, stages of blocks that begin with stride 2, the mean over each map, and one linear layer."""

    def __init__(self, design: Design, num_classes: int = 1000) -> None:
        channels = STEM_CHANNELS
        self.stem = conv_norm(3, channels, 3, 2, activation=nn.ReLU)
        stages: dict[str, nn.Module] = {}
        for number, (width, count) in enumerate(stages_of(design), 1):
            group_width = min(design.group_width, width)
            blocks: dict[str, nn.Module] = {}
            for i in range(count):
                blocks[f"block{number}-{i}"] = Block(channels, width, 1 if i else 2, group_width, design.squeezed)
                channels = width
            stages[f"block{number}"] = nn.Sequential(blocks)
        self.trunk_output = nn.Sequential(stages)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = head(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = _initial(module.weight.shape)
            elif isinstance(module, nn.Linear):
                module.weight = nn.init.normal(module.weight.shape, std=0.01)
                module.bias = nn.init.constant((module.out_features,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "stem", "trunk_output.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        return self.fc(flatten(self.avgpool(self.trunk_output(self.stem(input)))))  # type: ignore[no-any-return]


def _initial(shape: Sequence[int]) -> Array:
    """Initialise filters as torchvision does, which counts all output channels regardless of the groups."""
    out_channels, _, *kernel = shape
    return nn.init.normal(shape, std=math.sqrt(2 / (out_channels * math.prod(kernel))))


def _register(name: str, design: Design) -> None:
    def build(num_classes: int = 1000) -> RegNet:
        return RegNet(design, num_classes)

    build.__name__ = name
    build.__doc__ = f"Build the {design.depth} blocks of {name.replace('_', ' ')}."
    preprocessing = {**(TORCHVISION_V2 if name in V1 else {}), **(TORCHVISION_SWAG if name in SWAG else {})}
    register(preprocessing=preprocessing)(build)


for _name, _design in DESIGNS.items():
    _register(_name, _design)
