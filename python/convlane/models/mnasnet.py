"""MNASNet: Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile, 2018."""

from __future__ import annotations

from functools import partial

from convlane import nn
from convlane.functional import add, flatten, global_avg_pool2d
from convlane.functional._arguments import Array
from convlane.models.blocks import divisible, head, layers_of
from convlane.models.preparation import TORCHVISION
from convlane.models.registry import register

STEM_CHANNELS, FIRST_CHANNELS, LAST_CHANNELS = 32, 16, 1280
# Output channels, kernel, stride of the first block, expansion, number of blocks. Figure 7 of the paper, without
# squeeze-and-excitation, as in torchvision.
STAGES = ((24, 3, 2, 3, 3), (40, 5, 2, 3, 3), (80, 5, 2, 6, 3), (96, 3, 1, 6, 2), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1))

_norm = partial(nn.BatchNorm2d, momentum=1 - 0.9997)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, _norm(out_channels)]


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise one, a 1x1 that narrows, without activation, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        width = in_channels * expansion
        self.layers = nn.Sequential(
            *_conv(in_channels, width, 1),
            nn.ReLU(),
            *_conv(width, width, kernel, stride, width),
            nn.ReLU(),
            *_conv(width, out_channels, 1),
        )
        self.use_res_connect = stride == 1 and in_channels == out_channels

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps: Array = self.layers(input)
        return add(maps, input) if self.use_res_connect else maps


class MNASNet(nn.Module):
    """A 3x3 stem, a separable convolution, six stages of inverted residuals, a 1x1 convolution, and a linear layer.

    `alpha` multiplies all numbers of channels but the last, 1280.
    """

    def __init__(self, alpha: float, num_classes: int = 1000, dropout: float = 0.2) -> None:
        stem, channels = divisible(STEM_CHANNELS * alpha), divisible(FIRST_CHANNELS * alpha)
        layers = [*_conv(3, stem, 3, 2), nn.ReLU(), *_conv(stem, stem, 3, groups=stem), nn.ReLU()]
        layers += _conv(stem, channels, 1)
        for stage_channels, kernel, stride, expansion, count in STAGES:
            out_channels = divisible(stage_channels * alpha)
            blocks = [InvertedResidual(channels, out_channels, kernel, stride, expansion)]
            blocks += [InvertedResidual(out_channels, out_channels, kernel, 1, expansion) for _ in range(count - 1)]
            layers.append(nn.Sequential(*blocks))
            channels = out_channels
        self.layers = nn.Sequential(*layers, *_conv(channels, LAST_CHANNELS, 1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(dropout), head(LAST_CHANNELS, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")
            elif isinstance(module, nn.Linear):
                bound = (3 / module.out_features) ** 0.5  # He et al. with fan_out and the gain of the sigmoid, 1
                module.weight = nn.init.uniform(module.weight.shape, -bound, bound)
                module.bias = nn.init.constant((module.out_features,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        layers = layers_of(self, "layers.*")
        for _ in range(3):  # the convolution before the classifier
            layers.popitem()
        return layers

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        return self.classifier(flatten(global_avg_pool2d(self.layers(input))))  # type: ignore[no-any-return]


@register(preprocessing=TORCHVISION)
def mnasnet0_5(num_classes: int = 1000, *, dropout: float = 0.2) -> MNASNet:
    """Build the network with half the channels."""
    return MNASNet(0.5, num_classes, dropout)


@register(preprocessing={"torchvision": {"resize": 232}})
def mnasnet0_75(num_classes: int = 1000, *, dropout: float = 0.2) -> MNASNet:
    """Build the network with three quarters of the channels."""
    return MNASNet(0.75, num_classes, dropout)


@register(preprocessing=TORCHVISION)
def mnasnet1_0(num_classes: int = 1000, *, dropout: float = 0.2) -> MNASNet:
    """Build the network of the paper."""
    return MNASNet(1.0, num_classes, dropout)


@register(preprocessing={"torchvision": {"resize": 232}})
def mnasnet1_3(num_classes: int = 1000, *, dropout: float = 0.2) -> MNASNet:
    """Build the network with 1.3 times the channels."""
    return MNASNet(1.3, num_classes, dropout)
