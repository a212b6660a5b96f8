"""AlexNet, in the version of 2014, as in torchvision, and in that of 2012.

alexnet: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014: the network for one machine,
without local response normalisation and groups. alexnet_2012: Krizhevsky, Sutskever and Hinton, ImageNet Classification
with Deep Convolutional Neural Networks, 2012.
"""

from __future__ import annotations

from convlane import nn
from convlane.functional import flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import head, layers_of, linear_layers
from convlane.models.preparation import TORCHVISION
from convlane.models.registry import register

# Output channels, kernel, stride, padding, groups, initial bias, whether normalised, whether pooled.
# Sections 3.5 and 5 of the paper of 2012, where each of the two groups was on its own GPU.
CONVOLUTIONS_2012 = (
    (96, 11, 4, 0, 1, 0, True, True),
    (256, 5, 1, 2, 2, 1, True, True),
    (384, 3, 1, 1, 1, 0, False, False),
    (384, 3, 1, 1, 2, 1, False, False),
    (256, 3, 1, 1, 2, 1, False, True),
)


class AlexNet(nn.Module):
    """Five convolutions with three max pools between them, then three linear layers on a 6x6 map."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            head(4096, num_classes),
        )

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 63."""
        maps = self.avgpool(self.features(input))
        return self.classifier(flatten(maps))  # type: ignore[no-any-return]


class AlexNet2012(nn.Module):
    """Five convolutions, some in two groups, local response normalisation, overlapping max pools, linear layers.

    The paper says 224 pixels, but its first maps of 55x55 need 227, as in Caffe.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for out_channels, kernel, stride, padding, groups, bias, normalised, pooled in CONVOLUTIONS_2012:
            conv = nn.Conv2d(channels, out_channels, kernel, stride, padding, groups=groups)
            conv.weight = nn.init.normal(conv.weight.shape, std=0.01)
            conv.bias = nn.init.constant((out_channels,), bias)
            layers += [conv, nn.ReLU()]
            if normalised:
                layers.append(response_norm())
            if pooled:
                layers.append(nn.MaxPool2d(3, 2))
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        with nn.init.skip():  # initialised below
            self.classifier = linear_layers(256 * 6 * 6, num_classes, dropout)
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                module.weight = nn.init.normal(module.weight.shape, std=0.01)
                module.bias = nn.init.constant((module.out_features,), module is not self.classifier[-1])

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 67."""
        return self.classifier(flatten(self.avgpool(self.features(input))))  # type: ignore[no-any-return]


def response_norm() -> nn.LocalResponseNorm:
    """Return the normalisation of the paper of 2012, which does not divide alpha by the window as torch does."""
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


@register(preprocessing=TORCHVISION)
def alexnet(num_classes: int = 1000, *, dropout: float = 0.5) -> AlexNet:
    """Build the network of 2014."""
    return AlexNet(num_classes, dropout)


@register(input_shape=(3, 227, 227))
def alexnet_2012(num_classes: int = 1000, *, dropout: float = 0.5) -> AlexNet2012:
    """Build the network of 2012."""
    return AlexNet2012(num_classes, dropout)
