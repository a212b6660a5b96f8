"""ShuffleNet v2: Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, 2018."""

from __future__ import annotations

from convlane import nn
from convlane.functional import flatten, global_avg_pool2d, interleave, narrow
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm, head, layers_of
from convlane.models.registry import register

STEM_CHANNELS, LAST_CHANNELS = 24, 1024
# Output channels and number of units of the three stages. Table 5 of the paper, for 1x.
STAGES = ((116, 4), (232, 8), (464, 4))


class InvertedResidual(nn.Module):
    """One half of the channels stays as it is, the other is filtered; then both are shuffled.

    Where the stride is 2 both branches filter all channels, and halve height and width.
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
    """A 3x3 stem and pooling, three stages of units, a 1x1 convolution, the mean over each map, one linear layer."""

    def __init__(self, num_classes: int = 1000) -> None:
        self.conv1 = conv_norm(3, STEM_CHANNELS, 3, 2, activation=nn.ReLU)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = STEM_CHANNELS, []
        for out_channels, count in STAGES:
            units = [InvertedResidual(channels, out_channels, 2)]
            units += [InvertedResidual(out_channels, out_channels, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*units))
            channels = out_channels
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = conv_norm(channels, LAST_CHANNELS, 1, activation=nn.ReLU)
        self.fc = head(LAST_CHANNELS, num_classes)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return what runs one after the other before the head."""
        return layers_of(self, "conv1", "maxpool", "stage2", "stage3", "stage4")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        maps = self.maxpool(self.conv1(input))
        maps = self.conv5(self.stage4(self.stage3(self.stage2(maps))))
        return self.fc(flatten(global_avg_pool2d(maps)))  # type: ignore[no-any-return]


@register
def shufflenet_v2_x1_0(num_classes: int = 1000) -> ShuffleNetV2:
    """Build the network of the paper."""
    return ShuffleNetV2(num_classes)
