"""VGG: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from convlane import nn
from convlane.functional import flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import layers_of, linear_layers
from convlane.models.keras import KerasVariant, State
from convlane.models.preparation import CAFFE, TORCHVISION
from convlane.models.registry import register
from convlane.weights.keras_file import Layers, names_for

# Output channels of the 3x3 convolutions of each stage; every stage ends with a 2x2 max pool. Table 1 of the paper.
STAGES = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


class VGG(nn.Module):
    """Stages of 3x3 convolutions, then three linear layers on a 7x7 map."""

    def __init__(self, depth: int, batch_norm: bool, num_classes: int = 1000, dropout: float = 0.5) -> None:
        with nn.init.skip():  # initialising 138 million weights twice would take twice as long
            self.features = _features(STAGES[depth], batch_norm)
            self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
            self.classifier = linear_layers(512 * 7 * 7, num_classes, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")
                module.bias = nn.init.constant((module.out_channels,), 0)
            elif isinstance(module, nn.Linear):
                module.weight = nn.init.normal(module.weight.shape, std=0.01)
                module.bias = nn.init.constant((module.out_features,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 32."""
        maps = self.avgpool(self.features(input))
        return self.classifier(flatten(maps))  # type: ignore[no-any-return]


def _features(stages: tuple[tuple[int, ...], ...], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    in_channels = 3
    for stage in stages:
        for out_channels in stage:
            layers.append(nn.Conv2d(in_channels, out_channels, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU())
            in_channels = out_channels
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


@register(preprocessing=TORCHVISION)
def vgg11(num_classes: int = 1000, *, dropout: float = 0.5) -> VGG:
    """Build configuration A of the paper."""
    return VGG(11, False, num_classes, dropout)


@register(preprocessing=TORCHVISION)
def vgg11_bn(num_classes: int = 1000, *, dropout: float = 0.5) -> VGG:
    """Build configuration A with batch norm."""
    return VGG(11, True, num_classes, dropout)


@register(preprocessing=TORCHVISION)
def vgg13(num_classes: int = 1000, *, dropout: float = 0.5) -> VGG:
    """Build configuration B of the paper."""
    return VGG(13, False, num_classes, dropout)


@register(preprocessing=TORCHVISION)
def vgg13_bn(num_classes: int = 1000, *, dropout: float = 0.5) -> VGG:
    """Build configuration B with batch norm."""
    return VGG(13, True, num_classes, dropout)


@register(preprocessing={**TORCHVISION, "keras": CAFFE}, keras=KerasVariant())
def vgg16(num_classes: int = 1000, *, dropout: float = 0.5) -> VGG:
    """Build configuration D of the paper."""
    return VGG(16, False, num_classes, dropout)


@register(preprocessing=TORCHVISION)
def vgg16_bn(num_classes: int = 1000, *, dropout: float = 0.5) -> VGG:
    """Build configuration D with batch norm."""
    return VGG(16, True, num_classes, dropout)


@register(preprocessing={**TORCHVISION, "keras": CAFFE})
def vgg19(num_classes: int = 1000, *, dropout: float = 0.5) -> VGG:
    """Build configuration E of the paper."""
    return VGG(19, False, num_classes, dropout)


@register(preprocessing=TORCHVISION)
def vgg19_bn(num_classes: int = 1000, *, dropout: float = 0.5) -> VGG:
    """Build configuration E with batch norm."""
    return VGG(19, True, num_classes, dropout)


@names_for("VGG16", "block1_conv1")
def _names_of_keras(layers: Layers) -> dict[str, NDArray[Any]]:
    state, index = State(layers), 0
    for block in range(1, 6):
        conv = 1
        while (name := f"block{block}_conv{conv}") in state:
            state.conv_with_bias(name, f"features.{index}")
            conv, index = conv + 1, index + 2
        index += 1  # the pooling
    if "fc1" in state:
        state.dense("fc1", "classifier.0", image=(7, 7, 512))
        state.dense("fc2", "classifier.3")
        state.dense("predictions", "classifier.6")
    return state.finished()
