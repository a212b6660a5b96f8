"""ConvNeXt: Liu et al., A ConvNet for the 2020s, 2022."""

from __future__ import annotations

from functools import partial

import numpy as np

from convlane import _core, nn
from convlane.functional import add, conv2d, flatten, pack_conv2d, unflatten
from convlane.functional._arguments import Array
from convlane.models.blocks import head, layers_of, scale_and_shift
from convlane.models.registry import register

# Channels and number of blocks of the four stages. Section 3 of the paper.
STAGES = {
    "tiny": ((96, 3), (192, 3), (384, 9), (768, 3)),
    "small": ((96, 3), (192, 3), (384, 27), (768, 3)),
    "base": ((128, 3), (256, 3), (512, 27), (1024, 3)),
    "large": ((192, 3), (384, 3), (768, 27), (1536, 3)),
}
LAYER_SCALE = 1e-6

_norm = partial(nn.LayerNorm2d, eps=1e-6)


class PixelLinear(nn.Linear):
    """A linear layer over the channels of each pixel: a 1x1 convolution with the weight of a linear layer."""

    def pack(self, weight: Array) -> _core.PackedWeight:
        """Pack a weight for this layer."""
        return pack_conv2d(self._as_filters(weight))

    def forward(self, input: Array) -> Array:
        """Map images (N, in_features, H, W) to (N, out_features, H, W)."""
        weight = self.weight_for(input)
        return conv2d(input, self._as_filters(weight) if isinstance(weight, np.ndarray) else weight, self.bias)

    def _as_filters(self, weight: Array) -> Array:
        return unflatten(weight, 1, (self.in_features, 1, 1))


class CNBlock(nn.Module):
    """A depthwise 7x7 convolution, layer norm, two linear layers that widen and narrow each pixel, and a shortcut.

    The branch is multiplied by a learned factor for each channel, which is initially close to 0.
    """

    def __init__(self, channels: int, drop: float) -> None:
        self.register_parameter("layer_scale", nn.init.constant((channels, 1, 1), LAYER_SCALE))
        self.block = nn.Sequential(
            {
                # torchvision permutes dimensions in layers 1 and 6, which are not needed here.
                "0": nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
                "2": _norm(channels),
                "3": PixelLinear(channels, 4 * channels),
                "4": nn.GELU(),
                "5": PixelLinear(4 * channels, channels),
            }
        )
        self.stochastic_depth = nn.StochasticDepth(drop)

    layer_scale: Array

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        branch = scale_and_shift(self.block(input), flatten(self.layer_scale, 0))
        return add(self.stochastic_depth(branch), input)


class ConvNeXt(nn.Module):
    """A 4x4 stem of stride 4, four stages with 2x2 convolutions between them, the mean over each map, a linear layer.

    `stochastic_depth_prob` is the probability of dropping the last residual branch; it grows linearly from 0.
    """

    def __init__(self, variant: str, num_classes: int = 1000, stochastic_depth_prob: float = 0.1) -> None:
        stages = STAGES[variant]
        total = sum(count for _, count in stages)
        features: list[nn.Module] = []
        before, done = 0, 0
        for channels, count in stages:
            if before:
                features.append(nn.Sequential(_norm(before), nn.Conv2d(before, channels, 2, 2)))
            else:
                features.append(nn.Sequential(nn.Conv2d(3, channels, 4, 4), _norm(channels)))
            drops = [stochastic_depth_prob * (done + i) / (total - 1) for i in range(count)]
            features.append(nn.Sequential(*[CNBlock(channels, drop) for drop in drops]))
            before, done = channels, done + count
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(_norm(before), nn.Flatten(1), head(before, num_classes))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # torchvision truncates this at 100 standard deviations, which has no effect.
                module.weight = nn.init.normal(module.weight.shape, std=0.02)
                module.bias = nn.init.constant(module.weight.shape[:1], 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        return self.classifier(self.avgpool(self.features(input)))  # type: ignore[no-any-return]


@register(preprocessing={"torchvision": {"resize": 236}})
def convnext_tiny(num_classes: int = 1000, *, stochastic_depth_prob: float = 0.1) -> ConvNeXt:
    """Build the smallest network of the paper."""
    return ConvNeXt("tiny", num_classes, stochastic_depth_prob)


@register(preprocessing={"torchvision": {"resize": 230}})
def convnext_small(num_classes: int = 1000, *, stochastic_depth_prob: float = 0.4) -> ConvNeXt:
    """Build the tiny network with three times as many blocks in the third stage."""
    return ConvNeXt("small", num_classes, stochastic_depth_prob)


@register(preprocessing={"torchvision": {"resize": 232}})
def convnext_base(num_classes: int = 1000, *, stochastic_depth_prob: float = 0.5) -> ConvNeXt:
    """Build the small network with a third more channels."""
    return ConvNeXt("base", num_classes, stochastic_depth_prob)


@register(preprocessing={"torchvision": {"resize": 232}})
def convnext_large(num_classes: int = 1000, *, stochastic_depth_prob: float = 0.5) -> ConvNeXt:
    """Build the small network with twice the channels."""
    return ConvNeXt("large", num_classes, stochastic_depth_prob)
