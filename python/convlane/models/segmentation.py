"""Segmentation: a class for every pixel, from networks with large receptive fields on maps of an eighth of the size.

FCN: Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015. DeepLab v3: Chen,
Papandreou, Schroff and Adam, Rethinking Atrous Convolution for Semantic Image Segmentation, 2017. LR-ASPP: Howard et
al., Searching for MobileNetV3, 2019.

As in torchvision, the backbone of the first two is a ResNet whose last two stages have dilated kernels instead of
strides, and the classes are those of Pascal VOC with the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from convlane import nn
from convlane.functional import add, cat, interpolate, scale
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm, head
from convlane.models.mobilenet_v3 import MobileNetV3
from convlane.models.preparation import TORCHVISION_VOC
from convlane.models.registry import register
from convlane.models.resnet import ResNet

CLASSES = 21
ASPP_CHANNELS = 256
ASPP_RATES = (12, 24, 36)  # dilations, for maps of an eighth of the picture's size
LRASPP_CHANNELS = 128


class Tap(NamedTuple):
    """A layer whose maps are used, and their number of channels."""

    layer: str
    channels: int


# One layer in the middle and the last one. In MobileNet, the first with maps of an eighth of the picture's size.
RESNET_TAPS = Tap("layer3", 1024), Tap("layer4", 2048)
MOBILENET_TAPS = Tap("4", 40), Tap("16", 960)

_classifier = partial(head, layer=partial(nn.Conv2d, kernel_size=1))
_conv_norm = partial(conv_norm, activation=nn.ReLU)
_register = register(input_shape=(3, 520, 520), preprocessing=TORCHVISION_VOC)


class Backbone(nn.Module):
    """The layers of a classifier up to the last one whose maps are used, with their names.

    Parameters
    ----------
    layers
        The layers in order, by names without dots.
    taps
        For each layer whose maps are returned, the name under which they are returned.
    """

    def __init__(self, layers: Mapping[str, nn.Module], taps: Mapping[str, str]) -> None:
        self.taps = dict(taps)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, input: Array) -> dict[str, Array]:
        """Return the maps by name."""
        maps, tapped = input, {}
        for name, layer in self.named_children():
            maps = layer(maps)
            if name in self.taps:
                tapped[self.taps[name]] = maps
        return tapped


class SegmentationNetwork(nn.Module):
    """A backbone, a classifier of its last maps and, for training, one of maps from its middle.

    Parameters
    ----------
    backbone
        Returns the maps ``"out"`` and, if those are also classified, ``"aux"``.
    """

    def __init__(self, backbone: Backbone, classifier: nn.Module, aux_classifier: nn.Module | None = None) -> None:
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, aux_classifier

    def forward(self, input: Array) -> dict[str, Array]:
        """Return logits (N, num_classes, H, W) as ``"out"``, and maybe as ``"aux"``, for images (N, 3, H, W)."""
        maps = self.backbone(input)
        logits = {"out": self.classifier(maps["out"])}
        if self.aux_classifier is not None:
            logits["aux"] = self.aux_classifier(maps["aux"])
        return {name: _resized(each, input) for name, each in logits.items()}


class FCNHead(nn.Sequential):
    """A 3x3 convolution to a quarter of the channels, and a classifier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        channels = in_channels // 4
        super().__init__(*_conv_norm(in_channels, channels, 3), nn.Dropout(0.1), _classifier(channels, num_classes))


class DeepLabHead(nn.Sequential):
    """Atrous spatial pyramid pooling, a 3x3 convolution and a classifier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(
            ASPP(in_channels), *_conv_norm(ASPP_CHANNELS, ASPP_CHANNELS, 3), _classifier(ASPP_CHANNELS, num_classes)
        )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: each pixel, its surroundings at several dilations, and the whole picture."""

    def __init__(self, in_channels: int) -> None:
        self.convs = nn.Concat(
            _conv_norm(in_channels, ASPP_CHANNELS, 1),
            *(_conv_norm(in_channels, ASPP_CHANNELS, 3, dilation=rate) for rate in ASPP_RATES),
            WholePicture(in_channels, ASPP_CHANNELS),
        )
        joined = (2 + len(ASPP_RATES)) * ASPP_CHANNELS
        self.project = nn.Sequential(*_conv_norm(joined, ASPP_CHANNELS, 1), nn.Dropout(0.5))

    def forward(self, input: Array) -> Array:
        """Return maps of the same size."""
        return self.project(self.convs(input))  # type: ignore[no-any-return]


class WholePicture(nn.Sequential):
    """The mean over each map and a 1x1 convolution, with the result repeated at every position."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv_norm(in_channels, channels, 1))

    def forward(self, input: Array) -> Array:
        """Return maps of the same size."""
        return _resized(super().forward(input), input)


class LRASPP(nn.Module):
    """Classify the last maps of a backbone, scaled by the whole picture, together with finer maps from its middle."""

    def __init__(self, backbone: Backbone, low_channels: int, high_channels: int, num_classes: int) -> None:
        self.backbone = backbone
        self.classifier = LRASPPHead(low_channels, high_channels, num_classes)

    def forward(self, input: Array) -> dict[str, Array]:
        """Return logits (N, num_classes, H, W) as ``"out"`` for images (N, 3, H, W)."""
        return {"out": _resized(self.classifier(**self.backbone(input)), input)}


class LRASPPHead(nn.Module):
    """The layers that `LRASPP` adds to its backbone."""

    def __init__(self, low_channels: int, high_channels: int, num_classes: int) -> None:
        self.cbr = _conv_norm(high_channels, LRASPP_CHANNELS, 1)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(high_channels, LRASPP_CHANNELS, 1, bias=False), nn.Sigmoid()
        )
        self.low_classifier = _classifier(low_channels, num_classes)
        self.high_classifier = _classifier(LRASPP_CHANNELS, num_classes)

    def forward(self, low: Array, high: Array) -> Array:
        """Return logits of the size of the finer maps; for no classes, the inputs of both classifiers."""
        maps = _resized(scale(self.cbr(high), self.scale(high)), low)
        if isinstance(self.low_classifier, nn.Identity):
            return cat([low, maps], 1)
        return add(self.low_classifier(low), self.high_classifier(maps))


def _resized(maps: Array, like: Array) -> Array:
    return interpolate(maps, like.shape[2:], mode="bilinear")


def _resnet(depth: int) -> dict[str, nn.Module]:
    return ResNet(depth, 0, replace_stride_with_dilation=(False, True, True)).feature_layers()


def _mobilenet() -> dict[str, nn.Module]:
    return dict(MobileNetV3("large", 0, dilated=True).features.named_children())


def _network(
    layers: Mapping[str, nn.Module],
    tapped: tuple[Tap, Tap],
    classifier: type[FCNHead | DeepLabHead],
    num_classes: int,
    aux_loss: bool,
) -> SegmentationNetwork:
    middle, last = tapped
    if not (aux_loss and num_classes):
        return SegmentationNetwork(Backbone(layers, {last.layer: "out"}), classifier(last.channels, num_classes))
    backbone = Backbone(layers, {middle.layer: "aux", last.layer: "out"})
    return SegmentationNetwork(backbone, classifier(last.channels, num_classes), FCNHead(middle.channels, num_classes))


@_register
def fcn_resnet50(num_classes: int = CLASSES, *, aux_loss: bool = False) -> SegmentationNetwork:
    """Build FCN on ResNet-50; published weights have `aux_loss`, a classifier of the third stage's maps."""
    return _network(_resnet(50), RESNET_TAPS, FCNHead, num_classes, aux_loss)


@_register
def fcn_resnet101(num_classes: int = CLASSES, *, aux_loss: bool = False) -> SegmentationNetwork:
    """Build FCN on ResNet-101; published weights have `aux_loss`, a classifier of the third stage's maps."""
    return _network(_resnet(101), RESNET_TAPS, FCNHead, num_classes, aux_loss)


@_register
def deeplabv3_resnet50(num_classes: int = CLASSES, *, aux_loss: bool = False) -> SegmentationNetwork:
    """Build DeepLab v3 on ResNet-50; published weights have `aux_loss`, a classifier of the third stage's maps."""
    return _network(_resnet(50), RESNET_TAPS, DeepLabHead, num_classes, aux_loss)


@_register
def deeplabv3_resnet101(num_classes: int = CLASSES, *, aux_loss: bool = False) -> SegmentationNetwork:
    """Build DeepLab v3 on ResNet-101; published weights have `aux_loss`, a classifier of the third stage's maps."""
    return _network(_resnet(101), RESNET_TAPS, DeepLabHead, num_classes, aux_loss)


@_register
def deeplabv3_mobilenet_v3_large(num_classes: int = CLASSES, *, aux_loss: bool = False) -> SegmentationNetwork:
    """Build DeepLab v3 on MobileNet v3; published weights have `aux_loss`, a classifier of maps from its middle."""
    return _network(_mobilenet(), MOBILENET_TAPS, DeepLabHead, num_classes, aux_loss)


@_register
def lraspp_mobilenet_v3_large(num_classes: int = CLASSES) -> LRASPP:
    """Build LR-ASPP on MobileNet v3."""
    low, high = MOBILENET_TAPS
    backbone = Backbone(_mobilenet(), {low.layer: "low", high.layer: "high"})
    return LRASPP(backbone, low.channels, high.channels, num_classes)
