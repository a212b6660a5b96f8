"""MobileNet v3: Howard et al., Searching for MobileNetV3, 2019."""

from __future__ import annotations

from functools import partial

from convlane import nn
from convlane.functional import add, flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm, divisible, head, layers_of
from convlane.models.preparation import TORCHVISION, TORCHVISION_V2
from convlane.models.registry import register

STEM_CHANNELS = 16
DILATED = 3  # the number of last blocks that can keep the size of their maps
# Kernel, inner channels, output channels, squeeze-and-excitation, hard swish instead of ReLU, stride; and the size of
# the hidden linear layer. Tables 1 and 2 of the paper.
VARIANTS = {
    "large": (
        (
            (3, 16, 16, False, False, 1),
            (3, 64, 24, False, False, 2),
            (3, 72, 24, False, False, 1),
            (5, 72, 40, True, False, 2),
            (5, 120, 40, True, False, 1),
            (5, 120, 40, True, False, 1),
            (3, 240, 80, False, True, 2),
            (3, 200, 80, False, True, 1),
            (3, 184, 80, False, True, 1),
            (3, 184, 80, False, True, 1),
            (3, 480, 112, True, True, 1),
            (3, 672, 112, True, True, 1),
            (5, 672, 160, True, True, 2),
            (5, 960, 160, True, True, 1),
            (5, 960, 160, True, True, 1),
        ),
        1280,
    ),
    "small": (
        (
            (3, 16, 16, True, False, 2),
            (3, 72, 24, False, False, 2),
            (3, 88, 24, False, False, 1),
            (5, 96, 40, True, True, 2),
            (5, 240, 40, True, True, 1),
            (5, 240, 40, True, True, 1),
            (5, 120, 48, True, True, 1),
            (5, 144, 48, True, True, 1),
            (5, 288, 96, True, True, 2),
            (5, 576, 96, True, True, 1),
            (5, 576, 96, True, True, 1),
        ),
        1024,
    ),
}

_conv_bn = partial(conv_norm, norm=partial(nn.BatchNorm2d, eps=0.001, momentum=0.01))


class InvertedResidual(nn.Module):
    """1x1 that widens, depthwise convolution, optional squeeze-and-excitation, 1x1 that narrows, and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        kernel: int,
        width: int,
        out_channels: int,
        squeeze: bool,
        hard: bool,
        stride: int,
        dilation: int = 1,
    ) -> None:
        activation = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = []
        if width != in_channels:
            layers.append(_conv_bn(in_channels, width, 1, activation=activation))
        step = 1 if dilation > 1 else stride
        layers.append(_conv_bn(width, width, kernel, step, width, dilation=dilation, activation=activation))
        if squeeze:
            layers.append(nn.SqueezeExcitation(width, divisible(width // 4), scale_activation=nn.Hardsigmoid))
        layers.append(_conv_bn(width, out_channels, 1))
        self.block = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and in_channels == out_channels

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps: Array = self.block(input)
        return add(maps, input) if self.use_res_connect else maps


class MobileNetV3(nn.Module):
    """A 3x3 stem, inverted residuals, a 1x1 convolution, the mean over each map, and two linear layers.

    With `dilated`, the last three blocks do not halve the maps; their depthwise kernels are dilated instead.
    """

    def __init__(self, variant: str, num_classes: int = 1000, dropout: float = 0.2, dilated: bool = False) -> None:
        blocks, hidden = VARIANTS[variant]
        channels = STEM_CHANNELS
        features: list[nn.Module] = [_conv_bn(3, channels, 3, 2, activation=nn.Hardswish)]
        for i, (kernel, width, out_channels, squeeze, hard, stride) in enumerate(blocks):
            dilation = 2 if dilated and i >= len(blocks) - DILATED else 1
            features.append(InvertedResidual(channels, kernel, width, out_channels, squeeze, hard, stride, dilation))
            channels = out_channels
        features.append(_conv_bn(channels, 6 * channels, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden), nn.Hardswish(), nn.Dropout(dropout), head(hidden, num_classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")
                if module.bias is not None:
                    module.bias = nn.init.constant((module.out_channels,), 0)
            elif isinstance(module, nn.Linear):
                module.weight = nn.init.normal(module.weight.shape, std=0.01)
                module.bias = nn.init.constant((module.out_features,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        return self.classifier(flatten(self.avgpool(self.features(input))))  # type: ignore[no-any-return]


@register(preprocessing=TORCHVISION_V2)
def mobilenet_v3_large(num_classes: int = 1000, *, dropout: float = 0.2, dilated: bool = False) -> MobileNetV3:
    """Build the larger network."""
    return MobileNetV3("large", num_classes, dropout, dilated)


@register(preprocessing=TORCHVISION)
def mobilenet_v3_small(num_classes: int = 1000, *, dropout: float = 0.2, dilated: bool = False) -> MobileNetV3:
    """Build the smaller network."""
    return MobileNetV3("small", num_classes, dropout, dilated)
