"""DenseNet: Huang, Liu, van der Maaten and Weinberger, Densely Connected Convolutional Networks, 2016."""

from __future__ import annotations

from convlane import nn
from convlane.functional import cat, flatten, relu
from convlane.functional._arguments import Array
from convlane.models.blocks import head, layers_of
from convlane.models.preparation import TORCHVISION, WHOLE
from convlane.models.registry import register

BOTTLENECK = 4
# Channels after the stem, channels that each layer adds, layers in each of the four blocks. Table 1 of the paper; the
# network of 161 layers is from the authors' code.
VARIANTS = {
    121: (64, 32, (6, 12, 24, 16)),
    161: (96, 48, (6, 12, 36, 24)),
    169: (64, 32, (6, 12, 32, 32)),
    201: (64, 32, (6, 12, 48, 32)),
}


class DenseLayer(nn.Sequential):
    """A 1x1 convolution that reduces the channels and a 3x3 convolution, each after batch norm and ReLU."""

    def __init__(self, in_channels: int, growth: int) -> None:
        width = BOTTLENECK * growth
        super().__init__(
            {
                "norm1": nn.BatchNorm2d(in_channels),
                "relu1": nn.ReLU(),
                "conv1": nn.Conv2d(in_channels, width, 1, bias=False),
                "norm2": nn.BatchNorm2d(width),
                "relu2": nn.ReLU(),
                "conv2": nn.Conv2d(width, growth, 3, padding=1, bias=False),
            }
        )


class DenseBlock(nn.Sequential):
    """Layers, each of which reads the results of all layers before it."""

    def __init__(self, in_channels: int, growth: int, count: int) -> None:
        super().__init__({f"denselayer{i + 1}": DenseLayer(in_channels + i * growth, growth) for i in range(count)})

    def forward(self, input: Array) -> Array:
        """Return the input and the maps of all layers, joined along the channels."""
        for layer in self:
            input = cat([input, layer(input)], 1)
        return input


class DenseNet(nn.Module):
    """A 7x7 stem, four dense blocks with transitions that halve channels and size, the mean, and one linear layer."""

    def __init__(self, depth: int, num_classes: int = 1000) -> None:
        channels, growth, blocks = VARIANTS[depth]
        features: dict[str, nn.Module] = {
            "conv0": nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            "norm0": nn.BatchNorm2d(channels),
            "relu0": nn.ReLU(),
            "pool0": nn.MaxPool2d(3, 2, 1),
        }
        for i, count in enumerate(blocks, 1):
            features[f"denseblock{i}"] = DenseBlock(channels, growth, count)
            channels += count * growth
            if i < len(blocks):
                features[f"transition{i}"] = _transition(channels, channels // 2)
                channels //= 2
        features["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(features)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = head(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape)
            elif isinstance(module, nn.Linear):
                module.bias = nn.init.constant((module.out_features,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return {**layers_of(self, "features.*"), "relu": nn.ReLU()}

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 29."""
        maps = self.avgpool(relu(self.features(input)))
        return self.classifier(flatten(maps))  # type: ignore[no-any-return]


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        {
            "norm": nn.BatchNorm2d(in_channels),
            "relu": nn.ReLU(),
            "conv": nn.Conv2d(in_channels, out_channels, 1, bias=False),
            "pool": nn.AvgPool2d(2, 2),
        }
    )


@register(preprocessing={**TORCHVISION, "keras": WHOLE})
def densenet121(num_classes: int = 1000) -> DenseNet:
    """Build the network with 121 layers."""
    return DenseNet(121, num_classes)


@register(preprocessing=TORCHVISION)
def densenet161(num_classes: int = 1000) -> DenseNet:
    """Build the network with 161 layers, each of which adds 48 channels instead of 32."""
    return DenseNet(161, num_classes)


@register(preprocessing=TORCHVISION)
def densenet169(num_classes: int = 1000) -> DenseNet:
    """Build the network with 169 layers."""
    return DenseNet(169, num_classes)


@register(preprocessing=TORCHVISION)
def densenet201(num_classes: int = 1000) -> DenseNet:
    """Build the network with 201 layers."""
    return DenseNet(201, num_classes)
