"""EfficientNet: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from convlane import nn
from convlane.functional import add, flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm, divisible, head
from convlane.models.registry import register

STEM_CHANNELS = 32
# Expansion, kernel, stride of the first block, output channels, number of blocks. Table 1 of the paper.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# What the number of channels and the number of blocks are multiplied by, and the dropout before the classifier.
# The authors' code, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet.
VARIANTS = (
    (1.0, 1.0, 0.2),
    (1.0, 1.1, 0.2),
    (1.1, 1.2, 0.3),
    (1.2, 1.4, 0.3),
    (1.4, 1.8, 0.4),
    (1.6, 2.2, 0.4),
    (1.8, 2.6, 0.5),
    (2.0, 3.1, 0.5),
)


class MBConv(nn.Module):
    """Widen by a 1x1 convolution, filter each channel, weigh the channels, narrow by a 1x1; a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        expansion: int,
        drop: float,
        norm: Callable[[int], nn.Module],
    ) -> None:
        width = in_channels * expansion
        widen = [] if expansion == 1 else [conv_norm(in_channels, width, 1, norm=norm, activation=nn.SiLU)]
        self.block = nn.Sequential(
            *widen,
            conv_norm(width, width, kernel, stride, groups=width, norm=norm, activation=nn.SiLU),
            nn.SqueezeExcitation(width, max(1, in_channels // 4), activation=nn.SiLU),
            conv_norm(width, out_channels, 1, norm=norm),
        )
        self.use_res_connect = stride == 1 and in_channels == out_channels
        self.stochastic_depth = nn.StochasticDepth(drop)

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps: Array = self.block(input)
        return add(self.stochastic_depth(maps), input) if self.use_res_connect else maps


class EfficientNet(nn.Module):
    """A 3x3 stem, seven stages of inverted residuals, a 1x1 convolution, the mean over each map, one linear layer.

    `stochastic_depth_prob` is the probability to drop the last residual branch; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        variant: int,
        num_classes: int = 1000,
        dropout: float | None = None,
        stochastic_depth_prob: float = 0.2,
    ) -> None:
        width, depth, usual_dropout = VARIANTS[variant]
        # As in torchvision, whose larger networks have TensorFlow's defaults.
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01) if variant >= 5 else nn.BatchNorm2d
        channels = divisible(STEM_CHANNELS * width)
        counts = [math.ceil(stage[-1] * depth) for stage in STAGES]
        features = [conv_norm(3, channels, 3, 2, norm=norm, activation=nn.SiLU)]
        done = 0
        for (expansion, kernel, stride, stage_channels, _), count in zip(STAGES, counts, strict=True):
            out_channels = divisible(stage_channels * width)
            blocks = []
            for i in range(count):
                drop = stochastic_depth_prob * done / sum(counts)
                blocks.append(MBConv(channels, out_channels, kernel, stride if i == 0 else 1, expansion, drop, norm))
                channels = out_channels
                done += 1
            features.append(nn.Sequential(*blocks))
        features.append(conv_norm(channels, 4 * channels, 1, norm=norm, activation=nn.SiLU))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(
            nn.Dropout(usual_dropout if dropout is None else dropout), head(4 * channels, num_classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")
                if module.bias is not None:
                    module.bias = nn.init.constant((module.out_channels,), 0)
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.out_features)
                module.weight = nn.init.uniform(module.weight.shape, -bound, bound)
                module.bias = nn.init.constant((module.out_features,), 0)

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        return self.classifier(flatten(self.avgpool(self.features(input))))  # type: ignore[no-any-return]


@register
def efficientnet_b0(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline."""
    return EfficientNet(0, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 240, 240))
def efficientnet_b1(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B1."""
    return EfficientNet(1, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 260, 260))
def efficientnet_b2(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B2."""
    return EfficientNet(2, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 300, 300))
def efficientnet_b3(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B3."""
    return EfficientNet(3, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 380, 380))
def efficientnet_b4(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B4."""
    return EfficientNet(4, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 456, 456))
def efficientnet_b5(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B5."""
    return EfficientNet(5, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 528, 528))
def efficientnet_b6(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B6."""
    return EfficientNet(6, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 600, 600))
def efficientnet_b7(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B7."""
    return EfficientNet(7, num_classes, dropout, stochastic_depth_prob)
