"""MobileNet v2: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018."""

from __future__ import annotations

from functools import partial
from typing import Any

from numpy.typing import NDArray

from convlane import nn
from convlane.functional import adaptive_avg_pool2d, add, flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm, divisible, head, layers_of
from convlane.models.keras import EPSILON, KerasVariant, State, epsilon, pad_as_tensorflow, with_head
from convlane.models.preparation import BOTH_SIGNS, TORCHVISION_V2
from convlane.models.registry import register
from convlane.weights.keras_file import Layers, names_for

STEM_CHANNELS, LAST_CHANNELS = 32, 1280
# Expansion, output channels, number of blocks, stride of the first block. Table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

_conv_bn_relu6 = partial(conv_norm, activation=nn.ReLU6)


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise 3x3, a 1x1 that narrows, without activation, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        width = in_channels * expansion
        widen = [] if expansion == 1 else [_conv_bn_relu6(in_channels, width, 1)]
        self.conv = nn.Sequential(
            *widen,
            _conv_bn_relu6(width, width, 3, stride, groups=width),
            *conv_norm(width, out_channels, 1),
        )
        self.use_res_connect = stride == 1 and in_channels == out_channels

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps: Array = self.conv(input)
        return add(input, maps) if self.use_res_connect else maps


class MobileNetV2(nn.Module):
    """A 3x3 stem, seven stages of inverted residuals, a 1x1 convolution, the mean over each map, and a linear layer.

    `width_mult` scales all numbers of channels, which are then rounded to multiples of 8.
    """

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2) -> None:
        if not width_mult > 0:
            raise ValueError(f"mobilenet_v2: width_mult must be positive, got {width_mult}")
        channels = divisible(STEM_CHANNELS * width_mult)
        features: list[nn.Module] = [_conv_bn_relu6(3, channels, 3, 2)]
        for expansion, width, count, stride in STAGES:
            for i in range(count):
                out_channels = divisible(width * width_mult)
                features.append(InvertedResidual(channels, out_channels, stride if i == 0 else 1, expansion))
                channels = out_channels
        last = divisible(LAST_CHANNELS * max(1.0, width_mult))
        features.append(_conv_bn_relu6(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), head(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")
            elif isinstance(module, nn.Linear):
                module.weight = nn.init.normal(module.weight.shape, std=0.01)
                module.bias = nn.init.constant((module.out_features,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        layers = layers_of(self, "features.*")
        layers.popitem()  # the convolution before the classifier
        return layers

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        maps = adaptive_avg_pool2d(self.features(input), (1, 1))
        return self.classifier(flatten(maps))  # type: ignore[no-any-return]


@register(
    preprocessing={**TORCHVISION_V2, "keras": BOTH_SIGNS}, keras=KerasVariant((epsilon(EPSILON), pad_as_tensorflow))
)
def mobilenet_v2(num_classes: int = 1000, *, width_mult: float = 1.0, dropout: float = 0.2) -> MobileNetV2:
    """Build the network of the paper."""
    return MobileNetV2(num_classes, width_mult, dropout)


@names_for("MobileNetV2", "expanded_conv_depthwise")
def _names_of_keras(layers: Layers) -> dict[str, NDArray[Any]]:
    state = State(layers)
    state.block("Conv1", "bn_Conv1", "features.0")
    for i in range(17):
        name, key = f"block_{i}" if i else "expanded_conv", f"features.{i + 1}.conv"
        index = 0
        if i:
            state.block(f"{name}_expand", f"{name}_expand_BN", f"{key}.0")
            index = 1
        state.block(f"{name}_depthwise", f"{name}_depthwise_BN", f"{key}.{index}", depthwise=True)
        state.norm(f"{name}_project_BN", f"{key}.{index + 2}", state.conv(f"{name}_project", f"{key}.{index + 1}"))
    state.block("Conv_1", "Conv_1_bn", "features.18")
    return with_head(state, "classifier.1")
