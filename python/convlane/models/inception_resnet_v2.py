"""Inception-ResNet v2: Szegedy et al., Inception-v4, Inception-ResNet and the Impact of Residual Connections, 2016.

Layers and state dict keys are those of timm. The network takes colours between -1 and 1: ``(x - 0.5) / 0.5``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convlane import nn
from convlane.functional import add, cat, flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import head, named_conv, scale_and_shift
from convlane.models.preparation import BOTH_SIGNS
from convlane.models.registry import register

# A convolution is given by its output channels, its kernel and, if it is 2, its stride; it is then not padded. Figures
# 3, 7 and 16 to 19 of the paper, with the channels of the authors' code.
MIXED_5B = ([(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], ["average", (64, 1)])
MIXED_6A = ([(384, 3, 2)], [(256, 1), (256, 3), (384, 3, 2)], ["maximum"])
MIXED_7A = ([(256, 1), (384, 3, 2)], [(256, 1), (288, 3, 2)], [(256, 1), (288, 3), (320, 3, 2)], ["maximum"])
# Channels, number of blocks, the factor of the branch, and its convolutions.
STAGES = {
    "repeat": (320, 10, 0.17, ([(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)])),
    "repeat_1": (1088, 20, 0.10, ([(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))])),
    "repeat_2": (2080, 9, 0.20, ([(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))])),
}
LAST_CHANNELS = 1536

_POOLS: dict[str, Callable[[], nn.Module]] = {
    "average": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "maximum": lambda: nn.MaxPool2d(3, 2),
}


class Mixed(nn.Concat):
    """Parallel branches of convolutions, with their maps concatenated."""

    def __init__(self, in_channels: int, branches: Sequence[Sequence[Any]]) -> None:
        for name, branch in _branches(in_channels, branches).items():
            setattr(self, name, branch)


def _branches(in_channels: int, branches: Sequence[Sequence[Any]]) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {}
    for i, steps in enumerate(branches):
        channels, layers = in_channels, []
        for step in steps:
            layers.append(_POOLS[step]() if isinstance(step, str) else _convolution(channels, *step))
            channels = channels if isinstance(step, str) else step[0]
        modules[f"branch{i}"] = nn.Sequential(*layers) if len(layers) > 1 else layers[0]
    return modules


def _convolution(in_channels: int, out_channels: int, kernel: Any, stride: int = 1) -> nn.Sequential:
    return named_conv(in_channels, out_channels, kernel, stride, None if stride == 1 else 0)


class Residual(nn.Module):
    """The input plus a fraction of the output of parallel branches, which a 1x1 convolution maps to its channels."""

    def __init__(self, channels: int, scale: float, branches: Sequence[Sequence[Any]], activation: bool = True) -> None:
        for name, branch in _branches(channels, branches).items():
            setattr(self, name, branch)
        self.conv2d = nn.Conv2d(sum(steps[-1][0] for steps in branches), channels, 1)
        self.scale, self.activation = scale, "relu" if activation else "none"

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps = cat([branch(input) for name, branch in self.named_children() if name != "conv2d"])
        maps = self.conv2d(maps)
        maps = scale_and_shift(maps, np.full(maps.shape[1], self.scale, np.float32))
        return add(maps, input, activation=self.activation)


class InceptionResNetV2(nn.Module):
    """A stem of convolutions, three stages of residual inception blocks, the mean over each map, and a linear layer."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.0) -> None:
        self.conv2d_1a = named_conv(3, 32, 3, 2, 0)
        self.conv2d_2a = named_conv(32, 32, 3, padding=0)
        self.conv2d_2b = named_conv(32, 64, 3)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = named_conv(64, 80, 1)
        self.conv2d_4a = named_conv(80, 192, 3, padding=0)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = Mixed(192, MIXED_5B)
        self.repeat = _stage("repeat")
        self.mixed_6a = Mixed(320, MIXED_6A)
        self.repeat_1 = _stage("repeat_1")
        self.mixed_7a = Mixed(1088, MIXED_7A)
        self.repeat_2 = _stage("repeat_2")
        channels, _, _, branches = STAGES["repeat_2"]
        self.block8 = Residual(channels, 1.0, branches, activation=False)
        self.conv2d_7b = named_conv(channels, LAST_CHANNELS, 1)
        self.global_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.head_drop = nn.Dropout(dropout)
        self.classif = head(LAST_CHANNELS, num_classes)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        heads = {"global_pool", "head_drop", "classif"}
        return {name: child for name, child in self.named_children() if name not in heads}

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 75."""
        maps = input
        for layer in self.feature_layers().values():
            maps = layer(maps)
        return self.classif(self.head_drop(flatten(self.global_pool(maps))))  # type: ignore[no-any-return]


def _stage(name: str) -> nn.Sequential:
    channels, count, scale, branches = STAGES[name]
    return nn.Sequential(*[Residual(channels, scale, branches) for _ in range(count)])


@register(input_shape=(3, 299, 299), preprocessing={"keras": {**BOTH_SIGNS, "crop": 299}})
def inception_resnet_v2(num_classes: int = 1000, *, dropout: float = 0.0) -> InceptionResNetV2:
    """Build the network of the paper."""
    return InceptionResNetV2(num_classes, dropout)
