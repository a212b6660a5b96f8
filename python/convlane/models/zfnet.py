"""ZFNet: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2013."""

from __future__ import annotations

from convlane import nn
from convlane.functional import flatten
from convlane.functional._arguments import Array
from convlane.models.alexnet import response_norm
from convlane.models.blocks import layers_of, linear_layers
from convlane.models.registry import register

# Output channels, kernel, stride, padding, whether pooled, whether normalised after pooling. Figure 3 of the paper.
CONVOLUTIONS = (
    (96, 7, 2, 1, True, True),
    (256, 5, 2, 0, True, True),
    (384, 3, 1, 1, False, False),
    (384, 3, 1, 1, False, False),
    (256, 3, 1, 1, True, False),
)


class ZFNet(nn.Module):
    """AlexNet with a smaller first kernel and stride, without groups, and with normalisation after pooling."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for out_channels, kernel, stride, padding, pooled, normalised in CONVOLUTIONS:
            layers += [nn.Conv2d(channels, out_channels, kernel, stride, padding), nn.ReLU()]
            if pooled:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))  # 110 -> 55 -> 26 -> 13 as in the figure
            if normalised:
                layers.append(response_norm())
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        with nn.init.skip():  # initialised below
            self.classifier = linear_layers(256 * 6 * 6, num_classes, dropout)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight = nn.init.normal(module.weight.shape, std=0.01)
                module.bias = nn.init.constant(module.weight.shape[:1], 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 25."""
        return self.classifier(flatten(self.avgpool(self.features(input))))  # type: ignore[no-any-return]


@register
def zfnet(num_classes: int = 1000, *, dropout: float = 0.5) -> ZFNet:
    """Build the network of the paper."""
    return ZFNet(num_classes, dropout)
