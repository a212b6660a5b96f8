"""AlexNet: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014.

The network for one machine, without the local response normalisation and the two groups of the paper of 2012.
"""

from __future__ import annotations

from convlane import nn
from convlane.functional import flatten
from convlane.functional._arguments import Array
from convlane.models.registry import register


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
            nn.Linear(4096, num_classes),
        )

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 63."""
        maps = self.avgpool(self.features(input))
        return self.classifier(flatten(maps))  # type: ignore[no-any-return]


@register
def alexnet(num_classes: int = 1000, *, dropout: float = 0.5) -> AlexNet:
    """Build the network of the paper."""
    return AlexNet(num_classes, dropout)
