"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, for devices that have neither.

The authors' code is at https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, 2020. Unlike
the networks in `convlane.models.efficientnet`, these pad as TensorFlow does, as the published weights require. The
names of layers are those of the common port of these weights to torch
(https://github.com/RangiLyu/EfficientNet-Lite).
"""

from __future__ import annotations

import math

from convlane import nn
from convlane.functional import add, flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import divisible, head, layers_of
from convlane.models.efficientnet import STAGES, STEM_CHANNELS
from convlane.models.preparation import Preparation, Preparations
from convlane.models.registry import register

HEAD_CHANNELS = 1280
# Factors of the number of channels and of the number of blocks, and the dropout before the classifier.
VARIANTS = ((1.0, 1.0, 0.2), (1.0, 1.1, 0.2), (1.1, 1.2, 0.3), (1.2, 1.4, 0.3), (1.4, 1.8, 0.3))
_EPSILON, _MOMENTUM = 0.001, 0.01  # 1 minus TensorFlow's 0.99


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=_EPSILON, momentum=_MOMENTUM)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    padding = "same_tf" if kernel > 1 else 0
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)


class LiteBlock(nn.Module):
    """An inverted residual: a 1x1 convolution that widens, a depthwise one, a 1x1 that narrows, and a shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, drop: float
    ) -> None:
        width = in_channels * expansion
        self._expand_conv = _conv(in_channels, width, 1) if expansion > 1 else None
        self._bn0 = _norm(width) if expansion > 1 else None
        self._depthwise_conv = _conv(width, width, kernel, stride, width)
        self._bn1 = _norm(width)
        self._project_conv = _conv(width, out_channels, 1)
        self._bn2 = _norm(out_channels)
        self._relu = nn.ReLU6()
        self._has_shortcut = stride == 1 and in_channels == out_channels
        self._stochastic_depth = nn.StochasticDepth(drop)

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps = input
        if self._expand_conv is not None and self._bn0 is not None:
            maps = self._relu(self._bn0(self._expand_conv(maps)))
        maps = self._relu(self._bn1(self._depthwise_conv(maps)))
        maps = self._bn2(self._project_conv(maps))
        return add(self._stochastic_depth(maps), input) if self._has_shortcut else maps


class EfficientNetLite(nn.Module):
    """A 3x3 stem, seven stages of inverted residuals, a 1x1 convolution, the mean over each map, and a linear layer.

    The stem and the last convolution do not grow with `width`, nor the first and the last stage with `depth`.
    `stochastic_depth_prob` is the probability of dropping the last residual branch; it grows linearly from 0.
    """

    def __init__(
        self, width: float, depth: float, num_classes: int, dropout: float, stochastic_depth_prob: float
    ) -> None:
        last = len(STAGES) - 1
        counts = [stage[-1] if i in (0, last) else math.ceil(stage[-1] * depth) for i, stage in enumerate(STAGES)]
        self._conv_stem = _conv(3, STEM_CHANNELS, 3, 2)
        self._bn0 = _norm(STEM_CHANNELS)
        self._relu = nn.ReLU6()
        channels = STEM_CHANNELS
        blocks: list[nn.Module] = []
        for (expansion, kernel, stride, stage_channels, _), count in zip(STAGES, counts, strict=True):
            out_channels = divisible(stage_channels * width)
            for i in range(count):
                drop = stochastic_depth_prob * len(blocks) / sum(counts)
                blocks.append(LiteBlock(channels, out_channels, kernel, stride if i == 0 else 1, expansion, drop))
                channels = out_channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _conv(channels, HEAD_CHANNELS, 1)
        self._bn1 = _norm(HEAD_CHANNELS)
        self._avg_pooling = nn.AdaptiveAvgPool2d((1, 1))
        self._dropout = nn.Dropout(dropout)
        self._fc = head(HEAD_CHANNELS, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "_conv_stem", "_bn0", "_relu", "_blocks.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        maps = self._blocks(self._relu(self._bn0(self._conv_stem(input))))
        maps = self._relu(self._bn1(self._conv_head(maps)))
        return self._fc(self._dropout(flatten(self._avg_pooling(maps))))  # type: ignore[no-any-return]


def _prepared(size: int) -> Preparations:
    """Return how the authors prepare pictures: cropped to about the middle 7/8, then resized."""
    return {"tensorflow": Preparation(crop=size, resize=size + 32, interpolation="bicubic", **_COLOURS)}


_COLOURS = Preparation(divisor=128.0, mean=(127 / 128,) * 3, std=(1.0, 1.0, 1.0))  # (x - 127) / 128


def _variant(number: int, num_classes: int, dropout: float | None, stochastic_depth_prob: float) -> EfficientNetLite:
    width, depth, default_dropout = VARIANTS[number]
    dropout = default_dropout if dropout is None else dropout
    return EfficientNetLite(width, depth, num_classes, dropout, stochastic_depth_prob)


@register(preprocessing=_prepared(224))
def efficientnet_lite0(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNetLite:
    """Build the baseline."""
    return _variant(0, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 240, 240), preprocessing=_prepared(240))
def efficientnet_lite1(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNetLite:
    """Build the baseline with the coefficients of Lite1."""
    return _variant(1, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 260, 260), preprocessing=_prepared(260))
def efficientnet_lite2(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNetLite:
    """Build the baseline with the coefficients of Lite2."""
    return _variant(2, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 280, 280), preprocessing=_prepared(280))
def efficientnet_lite3(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNetLite:
    """Build the baseline with the coefficients of Lite3."""
    return _variant(3, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 300, 300), preprocessing=_prepared(300))
def efficientnet_lite4(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNetLite:
    """Build the baseline with the coefficients of Lite4."""
    return _variant(4, num_classes, dropout, stochastic_depth_prob)
