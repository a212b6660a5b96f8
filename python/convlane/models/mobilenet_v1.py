"""MobileNet: Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, 2017.

The activation and the epsilon are those of the authors' code.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numpy.typing import NDArray

from convlane import nn
from convlane.functional import flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm, divisible, head, layers_of
from convlane.models.keras import EPSILON, KerasVariant, State, epsilon, pad_as_tensorflow
from convlane.models.preparation import BOTH_SIGNS
from convlane.models.registry import register
from convlane.weights.keras_file import Layers, names_for

STEM_CHANNELS = 32
# Output channels and stride of the 13 separable convolutions. Table 1 of the paper.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)

_conv_bn_relu6 = partial(conv_norm, norm=partial(nn.BatchNorm2d, eps=0.001, momentum=0.01), activation=nn.ReLU6)


class MobileNetV1(nn.Module):
    """A 3x3 stem, 13 pairs of a depthwise 3x3 and a 1x1 convolution, the mean over each map, and one linear layer.

    `width` scales all numbers of channels, which are then rounded to multiples of 8; the paper uses 0.25, 0.5, 0.75
    and 1.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.001) -> None:
        if not width > 0:
            raise ValueError(f"mobilenet_v1: width must be positive, got {width}")
        channels = divisible(STEM_CHANNELS * width)
        features: list[nn.Module] = [_conv_bn_relu6(3, channels, 3, 2)]
        for full_channels, stride in BLOCKS:
            out_channels = divisible(full_channels * width)
            depthwise = _conv_bn_relu6(channels, channels, 3, stride, groups=channels)
            features.append(nn.Sequential(depthwise, _conv_bn_relu6(channels, out_channels, 1)))
            channels = out_channels
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), head(channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")
            elif isinstance(module, nn.Linear):
                module.weight = nn.init.normal(module.weight.shape, std=0.01)
                module.bias = nn.init.constant((module.out_features,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        return layers_of(self, "features.*")

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        return self.classifier(flatten(self.avgpool(self.features(input))))  # type: ignore[no-any-return]


@register(preprocessing={"keras": BOTH_SIGNS}, keras=KerasVariant((epsilon(EPSILON), pad_as_tensorflow)))
def mobilenet_v1(num_classes: int = 1000, *, width: float = 1.0, dropout: float = 0.001) -> MobileNetV1:
    """Build the network of the paper."""
    return MobileNetV1(num_classes, width, dropout)


@names_for("MobileNet", "conv_dw_1")
def _names_of_keras(layers: Layers) -> dict[str, NDArray[Any]]:
    state = State(layers)
    state.block("conv1", "conv1_bn", "features.0")
    for i in range(1, 14):
        state.block(f"conv_dw_{i}", f"conv_dw_{i}_bn", f"features.{i}.0", depthwise=True)
        state.block(f"conv_pw_{i}", f"conv_pw_{i}_bn", f"features.{i}.1")
    if "conv_preds" in state:
        state.conv_with_bias("conv_preds", "classifier.1")
        weight = state.arrays["classifier.1.weight"]
        state.arrays["classifier.1.weight"] = weight.reshape(weight.shape[:2])
    return state.finished()
