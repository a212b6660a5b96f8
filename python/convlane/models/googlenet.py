"""GoogLeNet, also called Inception v1: Szegedy et al., Going Deeper with Convolutions, 2014.

As in torchvision, with batch norm, and with 3x3 convolutions where the paper has 5x5.
"""

from __future__ import annotations

from typing import NamedTuple

from convlane import nn
from convlane.functional import flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import from_imagenet, head, named_conv
from convlane.models.preparation import TORCHVISION
from convlane.models.registry import register


class GoogLeNetOutputs(NamedTuple):
    """Logits in training mode: those of the network and of its auxiliary classifiers, the later one first."""

    logits: Array
    aux_logits2: Array
    aux_logits1: Array


class Inception(nn.Concat):
    """Four branches: a 1x1 convolution, twice a 1x1 and a 3x3 convolution, and a max pool with a 1x1 convolution."""

    def __init__(
        self, in_channels: int, ch1x1: int, ch3x3red: int, ch3x3: int, ch5x5red: int, ch5x5: int, pool_proj: int
    ) -> None:
        self.branch1 = named_conv(in_channels, ch1x1, 1)
        self.branch2 = nn.Sequential(named_conv(in_channels, ch3x3red, 1), named_conv(ch3x3red, ch3x3, 3))
        self.branch3 = nn.Sequential(named_conv(in_channels, ch5x5red, 1), named_conv(ch5x5red, ch5x5, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), named_conv(in_channels, pool_proj, 1))


class InceptionAux(nn.Module):
    """A classifier on maps from the middle of the network, which sends gradients into its first half."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.7) -> None:
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.conv = named_conv(in_channels, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes)."""
        features = flatten(self.conv(self.avgpool(input)))
        return self.fc2(self.dropout(self.relu(self.fc1(features))))  # type: ignore[no-any-return]


class GoogLeNet(nn.Module):
    """A stem of three convolutions, nine inception blocks, the mean over each map, and one linear layer.

    `aux_logits` adds two auxiliary classifiers, which run in training mode only. `transform_input` maps images that
    were normalised with the mean and standard deviation of ImageNet's colours to the range from -1 to 1, which
    torchvision's pretrained weights expect.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
    ) -> None:
        self.transform_input = transform_input
        self.conv1 = named_conv(3, 64, 7, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = named_conv(64, 64, 1)
        self.conv3 = named_conv(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        # Table 1 of the paper.
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        auxiliary = aux_logits and num_classes > 0
        self.aux1 = InceptionAux(512, num_classes, dropout_aux) if auxiliary else None
        self.aux2 = InceptionAux(528, num_classes, dropout_aux) if auxiliary else None
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = head(1024, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # torchvision truncates this at 200 standard deviations, which has no effect.
                module.weight = nn.init.normal(module.weight.shape, std=0.01)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        heads = {"aux1", "aux2", "avgpool", "dropout", "fc"}
        return {name: layer for name, layer in self.named_children() if name not in heads}

    def forward(self, input: Array) -> Array | GoogLeNetOutputs:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 15.

        In training mode with auxiliary classifiers, return `GoogLeNetOutputs`.
        """
        maps = self.maxpool1(self.conv1(from_imagenet(input) if self.transform_input else input))
        maps = self.maxpool2(self.conv3(self.conv2(maps)))
        maps = self.maxpool3(self.inception3b(self.inception3a(maps)))
        early = self.inception4a(maps)
        late = self.inception4d(self.inception4c(self.inception4b(early)))
        maps = self.maxpool4(self.inception4e(late))
        maps = self.inception5b(self.inception5a(maps))
        logits: Array = self.fc(self.dropout(flatten(self.avgpool(maps))))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return GoogLeNetOutputs(logits, self.aux2(late), self.aux1(early))
        return logits


@register(preprocessing=TORCHVISION)
def googlenet(
    num_classes: int = 1000,
    *,
    aux_logits: bool = True,
    transform_input: bool = False,
    dropout: float = 0.2,
    dropout_aux: float = 0.7,
) -> GoogLeNet:
    """Build the network of the paper."""
    return GoogLeNet(num_classes, aux_logits, transform_input, dropout, dropout_aux)
