"""SqueezeNet: Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016."""

from __future__ import annotations

from functools import partial

from convlane import nn
from convlane.functional import cat, flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import head, layers_of
from convlane.models.preparation import TORCHVISION
from convlane.models.registry import register

# Channels and kernel of the stem, then for each fire module its input, squeezed and expanded channels (as many of 1x1
# as of 3x3); None is a pooling layer. Table 1 of the paper, and version 1.1 of the authors' repository.
VARIANTS = {
    "1_0": (
        (96, 7),
        (
            None,
            (96, 16, 64),
            (128, 16, 64),
            (128, 32, 128),
            None,
            (256, 32, 128),
            (256, 48, 192),
            (384, 48, 192),
            (384, 64, 256),
            None,
            (512, 64, 256),
        ),
    ),
    "1_1": (
        (64, 3),
        (
            None,
            (64, 16, 64),
            (128, 16, 64),
            None,
            (128, 32, 128),
            (256, 32, 128),
            None,
            (256, 48, 192),
            (384, 48, 192),
            (384, 64, 256),
            (512, 64, 256),
        ),
    ),
}


class Fire(nn.Module):
    """A 1x1 convolution to fewer channels, then 1x1 and 3x3 convolutions in parallel."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps = self.squeeze_activation(self.squeeze(input))
        return cat(
            [self.expand1x1_activation(self.expand1x1(maps)), self.expand3x3_activation(self.expand3x3(maps))], 1
        )


class SqueezeNet(nn.Module):
    """A stem, eight fire modules, a 1x1 convolution to one map per class, and the mean over each map."""

    def __init__(self, variant: str, num_classes: int = 1000, dropout: float = 0.5) -> None:
        (channels, kernel), blocks = VARIANTS[variant]
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, kernel, 2),
            nn.ReLU(),
            *(nn.MaxPool2d(3, 2, ceil_mode=True) if block is None else Fire(*block) for block in blocks),
        )
        last = head(512, num_classes, partial(nn.Conv2d, kernel_size=1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                shape = module.weight.shape
                module.weight = nn.init.normal(shape, std=0.01) if module is last else nn.init.kaiming_uniform(shape)
                module.bias = nn.init.constant((module.out_channels,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 21 (1.1: 17)."""
        return flatten(self.classifier(self.features(input)))


@register(preprocessing=TORCHVISION)
def squeezenet1_0(num_classes: int = 1000, *, dropout: float = 0.5) -> SqueezeNet:
    """Build the network of the paper."""
    return SqueezeNet("1_0", num_classes, dropout)


@register(preprocessing=TORCHVISION)
def squeezenet1_1(num_classes: int = 1000, *, dropout: float = 0.5) -> SqueezeNet:
    """Build the authors' later version, which needs 2.4 times fewer operations."""
    return SqueezeNet("1_1", num_classes, dropout)
