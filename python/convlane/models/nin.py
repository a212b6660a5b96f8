"""Network in Network: Lin, Chen and Yan, Network In Network, 2013; the authors' variant for ImageNet."""

from __future__ import annotations

from functools import partial

from convlane import nn
from convlane.functional import flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import head, layers_of
from convlane.models.registry import register

# Output channels, kernel, stride and padding of the spatial convolutions; two 1x1 convolutions follow each of them.
# The authors' Caffe model; between the blocks is a 3x3 max pool with stride 2.
CONVOLUTIONS = ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1), (1024, 3, 1, 1))


class NIN(nn.Module):
    """Four small networks that slide over the image; the last has one map per class, whose mean is the logit."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for out_channels, kernel, stride, padding in CONVOLUTIONS:
            if layers:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            if out_channels == CONVOLUTIONS[-1][0]:
                layers.append(nn.Dropout(dropout))
            layers += [nn.Conv2d(channels, out_channels, kernel, stride, padding), nn.ReLU()]
            layers += [nn.Conv2d(out_channels, out_channels, 1), nn.ReLU()]
            layers += [nn.Conv2d(out_channels, out_channels, 1), nn.ReLU()]
            channels = out_channels
        layers[-2] = head(channels, num_classes, partial(nn.Conv2d, kernel_size=1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape)
                module.bias = nn.init.constant((module.out_channels,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes), none negative, for images (N, 3, H, W), H and W at least 27."""
        return flatten(self.avgpool(self.features(input)))


@register
def nin(num_classes: int = 1000, *, dropout: float = 0.5) -> NIN:
    """Build the network."""
    return NIN(num_classes, dropout)
