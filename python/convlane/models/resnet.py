"""ResNet: He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2015.

Wide ResNet: Zagoruyko and Komodakis, Wide Residual Networks, 2016. ResNeXt: Xie, Girshick, Dollar, Tu and He,
Aggregated Residual Transformations for Deep Neural Networks, 2016. Both change the 3x3 convolution of a bottleneck.

As in torchvision, the stride of a bottleneck is on its 3x3 convolution, not on the first 1x1 as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from convlane import nn
from convlane.functional import add, flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import head, layers_of
from convlane.models.keras import KerasVariant, State, epsilon, with_head
from convlane.models.preparation import CAFFE, TORCHVISION, TORCHVISION_V2
from convlane.models.registry import register
from convlane.weights.keras_file import Layers, names_for

WIDTHS = (64, 128, 256, 512)
NO_DILATION = (False, False, False)
KERAS_EPSILON = 1.001e-5
# Whether the blocks are bottlenecks, and the number of blocks in each of the four stages. Table 1 of the paper.
STAGES = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the identity if it fits, otherwise a projection (option B of the paper)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        shortcut: Callable[[int, int, int], nn.Module] = projection,
    ) -> None:
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(in_channels, width, stride)

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps = self.relu(self.bn1(self.conv1(input)))
        maps = self.bn2(self.conv2(maps))
        return add(maps, self.downsample(input), activation="relu")


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions that narrow and widen, and a shortcut."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilation: int = 1,
        groups: int = 1,
        width_per_group: int = WIDTHS[0],
    ) -> None:
        out_channels = width * self.expansion
        inner = width * width_per_group // WIDTHS[0] * groups
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample = projection(in_channels, out_channels, stride)

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps = self.relu(self.bn1(self.conv1(input)))
        maps = self.relu(self.bn2(self.conv2(maps)))
        maps = self.bn3(self.conv3(maps))
        return add(maps, self.downsample(input), activation="relu")


class ResNet(nn.Module):
    """A 7x7 stem, four stages of residual blocks, the mean over each map, and one linear layer.

    The 3x3 convolutions of bottlenecks have `groups` groups, of `width_per_group` channels in the first stage. Each of
    the last three stages halves the maps, unless `replace_stride_with_dilation` is true for the stage: then the
    dilation of all 3x3 kernels after its first block, including those of later stages, is doubled instead.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depth: int,
        num_classes: int = 1000,
        groups: int = 1,
        width_per_group: int = WIDTHS[0],
        replace_stride_with_dilation: Sequence[bool] = NO_DILATION,
    ) -> None:
        bottleneck, counts = STAGES[depth]
        block: Callable[..., nn.Module] = BasicBlock
        expansion = BasicBlock.expansion
        if bottleneck:
            block = partial(Bottleneck, groups=groups, width_per_group=width_per_group)
            expansion = Bottleneck.expansion
        dilated = (False, *_checked(replace_stride_with_dilation))
        channels, dilation = WIDTHS[0], 1
        with nn.init.skip():  # initialised below
            self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.relu = nn.ReLU()
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            for i, (width, count) in enumerate(zip(WIDTHS, counts, strict=True)):
                blocks, stride = [], 1 if i == 0 or dilated[i] else 2
                for j in range(count):
                    step = stride if j == 0 else 1
                    blocks.append(block(channels, width, step, *([dilation] if bottleneck else [])))
                    channels = width * expansion
                    dilation *= 2 if dilated[i] and j == 0 else 1
                setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = head(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return self.fc(flatten(self.avgpool(maps)))  # type: ignore[no-any-return]


def _checked(stages: Sequence[bool]) -> Sequence[bool]:
    if (
        not isinstance(stages, (list, tuple))
        or len(stages) != 3
        or not all(isinstance(stage, bool) for stage in stages)
    ):
        raise ValueError(f"ResNet: replace_stride_with_dilation must be three bools, got {stages!r}")
    return stages


def _stride_first(module: nn.Module) -> None:
    """Give the stride to the first convolution of a block, not the second, as in the first version of the paper."""
    if isinstance(module, Bottleneck):
        module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride


@register(preprocessing=TORCHVISION)
def resnet18(num_classes: int = 1000) -> ResNet:
    """Build the network with 18 layers of basic blocks."""
    return ResNet(18, num_classes)


@register(preprocessing=TORCHVISION)
def resnet34(num_classes: int = 1000) -> ResNet:
    """Build the network with 34 layers of basic blocks."""
    return ResNet(34, num_classes)


@register(preprocessing={**TORCHVISION_V2, "keras": CAFFE}, keras=KerasVariant((epsilon(KERAS_EPSILON), _stride_first)))
def resnet50(num_classes: int = 1000, *, replace_stride_with_dilation: Sequence[bool] = NO_DILATION) -> ResNet:
    """Build the network with 50 layers of bottlenecks."""
    return ResNet(50, num_classes, replace_stride_with_dilation=replace_stride_with_dilation)


@register(preprocessing={**TORCHVISION_V2, "keras": CAFFE})
def resnet101(num_classes: int = 1000, *, replace_stride_with_dilation: Sequence[bool] = NO_DILATION) -> ResNet:
    """Build the network with 101 layers of bottlenecks."""
    return ResNet(101, num_classes, replace_stride_with_dilation=replace_stride_with_dilation)


@register(preprocessing={**TORCHVISION_V2, "keras": CAFFE})
def resnet152(num_classes: int = 1000, *, replace_stride_with_dilation: Sequence[bool] = NO_DILATION) -> ResNet:
    """Build the network with 152 layers of bottlenecks."""
    return ResNet(152, num_classes, replace_stride_with_dilation=replace_stride_with_dilation)


@register(preprocessing=TORCHVISION_V2)
def wide_resnet50_2(num_classes: int = 1000, *, replace_stride_with_dilation: Sequence[bool] = NO_DILATION) -> ResNet:
    """Build the network with 50 layers of bottlenecks that are twice as wide inside."""
    return ResNet(50, num_classes, width_per_group=128, replace_stride_with_dilation=replace_stride_with_dilation)


@register(preprocessing=TORCHVISION_V2)
def wide_resnet101_2(num_classes: int = 1000, *, replace_stride_with_dilation: Sequence[bool] = NO_DILATION) -> ResNet:
    """Build the network with 101 layers of bottlenecks that are twice as wide inside."""
    return ResNet(101, num_classes, width_per_group=128, replace_stride_with_dilation=replace_stride_with_dilation)


@register(preprocessing=TORCHVISION_V2)
def resnext50_32x4d(num_classes: int = 1000, *, replace_stride_with_dilation: Sequence[bool] = NO_DILATION) -> ResNet:
    """Build the network with 50 layers of bottlenecks with 32 groups of 4 or more channels."""
    return ResNet(
        50, num_classes, groups=32, width_per_group=4, replace_stride_with_dilation=replace_stride_with_dilation
    )


@register(preprocessing=TORCHVISION_V2)
def resnext101_32x8d(num_classes: int = 1000, *, replace_stride_with_dilation: Sequence[bool] = NO_DILATION) -> ResNet:
    """Build the network with 101 layers of bottlenecks with 32 groups of 8 or more channels."""
    return ResNet(
        101, num_classes, groups=32, width_per_group=8, replace_stride_with_dilation=replace_stride_with_dilation
    )


@register(preprocessing={"torchvision": {"resize": 232}})
def resnext101_64x4d(num_classes: int = 1000, *, replace_stride_with_dilation: Sequence[bool] = NO_DILATION) -> ResNet:
    """Build the network with 101 layers of bottlenecks with 64 groups of 4 or more channels."""
    return ResNet(
        101, num_classes, groups=64, width_per_group=4, replace_stride_with_dilation=replace_stride_with_dilation
    )


@names_for("ResNet50", "conv2_block1_1_conv")
def _names_of_keras(layers: Layers) -> dict[str, NDArray[Any]]:
    state = State(layers)
    state.norm("conv1_bn", "bn1", state.conv("conv1_conv", "conv1"))
    for stage in range(2, 6):
        block = 1
        while (name := f"conv{stage}_block{block}") + "_1_conv" in state:
            key = f"layer{stage - 1}.{block - 1}"
            for i in (1, 2, 3):
                state.norm(f"{name}_{i}_bn", f"{key}.bn{i}", state.conv(f"{name}_{i}_conv", f"{key}.conv{i}"))
            if f"{name}_0_conv" in state:
                state.block(f"{name}_0_conv", f"{name}_0_bn", f"{key}.downsample")
            block += 1
    return with_head(state, "fc")
