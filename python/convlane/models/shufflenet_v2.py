"""ShuffleNet v2: Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, 2018."""

from __future__ import annotations

from convlane import nn
from convlane.functional import flatten, global_avg_pool2d, interleave, narrow
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm, head, layers_of
from convlane.models.preparation import TORCHVISION
from convlane.models.registry import register

STEM_CHANNELS = 24
UNITS = (4, 8, 4)
# Output channels of the three stages and of the last convolution. Table 5 of the paper.
WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class InvertedResidual(nn.Module):
    """A unit that leaves half of the channels as they are, convolves the others, and shuffles both.

    With stride 2, both branches convolve all channels, and halve height and width.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        half = out_channels // 2
        self.stride = stride
        if stride > 1:
            self.branch1 = nn.Sequential(
                *conv_norm(in_channels, in_channels, 3, stride, groups=in_channels),
                *conv_norm(in_channels, half, 1, activation=nn.ReLU),
            )
        else:
            self.branch1 = nn.Sequential()
        self.branch2 = nn.Sequential(
            *conv_norm(in_channels if stride > 1 else half, half, 1, activation=nn.ReLU),
            *conv_norm(half, half, 3, stride, groups=half),
            *conv_norm(half, half, 1, activation=nn.ReLU),
        )

    def forward(self, input: Array) -> Array:
        """Return the unit's maps."""
        if self.stride > 1:
            return interleave([self.branch1(input), self.branch2(input)])
        half = input.shape[1] // 2
        return interleave([narrow(input, 1, 0, half), self.branch2(narrow(input, 1, half, half))])


class ShuffleNetV2(nn.Module):
    """A 3x3 stem and pooling, three stages of units, a 1x1 convolution, the mean over each map, and a linear layer."""

    def __init__(self, width: float, num_classes: int = 1000) -> None:
        *widths, last_channels = WIDTHS[width]
        self.conv1 = conv_norm(3, STEM_CHANNELS, 3, 2, activation=nn.ReLU)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = STEM_CHANNELS, []
        for out_channels, count in zip(widths, UNITS, strict=True):
            units = [InvertedResidual(channels, out_channels, 2)]
            units += [InvertedResidual(out_channels, out_channels, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*units))
            channels = out_channels
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = conv_norm(channels, last_channels, 1, activation=nn.ReLU)
        self.fc = head(last_channels, num_classes)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "conv1", "maxpool", "stage2", "stage3", "stage4")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        maps = self.maxpool(self.conv1(input))
        maps = self.conv5(self.stage4(self.stage3(self.stage2(maps))))
        return self.fc(flatten(global_avg_pool2d(maps)))  # type: ignore[no-any-return]


@register(preprocessing=TORCHVISION)
def shufflenet_v2_x0_5(num_classes: int = 1000) -> ShuffleNetV2:
    """Build the network with half the channels or slightly fewer."""
    return ShuffleNetV2(0.5, num_classes)


@register(preprocessing=TORCHVISION)
def shufflenet_v2_x1_0(num_classes: int = 1000) -> ShuffleNetV2:
    """Build the network with the channels of the paper's first table."""
    return ShuffleNetV2(1.0, num_classes)


@register(preprocessing={"torchvision": {"resize": 232}})
def shufflenet_v2_x1_5(num_classes: int = 1000) -> ShuffleNetV2:
    """Build the network with one and a half times the channels."""
    return ShuffleNetV2(1.5, num_classes)


@register(preprocessing={"torchvision": {"resize": 232}})
def shufflenet_v2_x2_0(num_classes: int = 1000) -> ShuffleNetV2:
    """Build the network with slightly more than twice the channels."""
    return ShuffleNetV2(2.0, num_classes)
