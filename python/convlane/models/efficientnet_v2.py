"""EfficientNetV2: Tan and Le, EfficientNetV2: Smaller Models and Faster Training, 2021."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from convlane import nn
from convlane.functional import add
from convlane.functional._arguments import Array
from convlane.models.blocks import conv_norm
from convlane.models.efficientnet import Classifier, MBConv
from convlane.models.registry import register

LAST_CHANNELS = 1280
# Stem channels, dropout before the classifier, and stages: fused or not, expansion, stride of the first block, output
# channels, number of blocks; all kernels are 3x3. Table 4 of the paper and its code,
# https://github.com/google/automl/blob/master/efficientnetv2/effnetv2_configs.py.
VARIANTS = {
    "s": (
        24,
        0.2,
        (
            (True, 1, 1, 24, 2),
            (True, 4, 2, 48, 4),
            (True, 4, 2, 64, 4),
            (False, 4, 2, 128, 6),
            (False, 6, 1, 160, 9),
            (False, 6, 2, 256, 15),
        ),
    ),
    "m": (
        24,
        0.3,
        (
            (True, 1, 1, 24, 3),
            (True, 4, 2, 48, 5),
            (True, 4, 2, 80, 5),
            (False, 4, 2, 160, 7),
            (False, 6, 1, 176, 14),
            (False, 6, 2, 304, 18),
            (False, 6, 1, 512, 5),
        ),
    ),
    "l": (
        32,
        0.4,
        (
            (True, 1, 1, 32, 4),
            (True, 4, 2, 64, 7),
            (True, 4, 2, 96, 7),
            (False, 4, 2, 192, 10),
            (False, 6, 1, 224, 19),
            (False, 6, 2, 384, 25),
            (False, 6, 1, 640, 7),
        ),
    ),
}

_norm = partial(nn.BatchNorm2d, eps=0.001)


class FusedMBConv(nn.Module):
    """A 3x3 convolution that widens and a 1x1 that narrows, or only a 3x3 if `expansion` is 1, and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        drop: float,
        norm: Callable[[int], nn.Module],
    ) -> None:
        width = in_channels * expansion if expansion > 1 else out_channels
        narrow = [conv_norm(width, out_channels, 1, norm=norm)] if expansion > 1 else []
        self.block = nn.Sequential(
            conv_norm(in_channels, width, 3, stride, norm=norm, activation=nn.SiLU),
            *narrow,
        )
        self.use_res_connect = stride == 1 and in_channels == out_channels
        self.stochastic_depth = nn.StochasticDepth(drop)

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps: Array = self.block(input)
        return add(self.stochastic_depth(maps), input) if self.use_res_connect else maps


class EfficientNetV2(Classifier):
    """A 3x3 stem, stages of fused and plain inverted residuals, a 1x1 convolution, the mean, and a linear layer.

    `stochastic_depth_prob` is the probability of dropping the last residual branch; it grows linearly from 0.
    """

    def __init__(
        self,
        variant: str,
        num_classes: int = 1000,
        dropout: float | None = None,
        stochastic_depth_prob: float = 0.2,
    ) -> None:
        channels, default_dropout, stages = VARIANTS[variant]
        features = [conv_norm(3, channels, 3, 2, norm=_norm, activation=nn.SiLU)]
        total, done = sum(count for *_, count in stages), 0
        for fused, expansion, first_stride, out_channels, count in stages:
            blocks: list[nn.Module] = []
            for i in range(count):
                stride, drop = 1 if i else first_stride, stochastic_depth_prob * done / total
                if fused:
                    blocks.append(FusedMBConv(channels, out_channels, stride, expansion, drop, _norm))
                else:
                    blocks.append(MBConv(channels, out_channels, 3, stride, expansion, drop, _norm))
                channels, done = out_channels, done + 1
            features.append(nn.Sequential(*blocks))
        features.append(conv_norm(channels, LAST_CHANNELS, 1, norm=_norm, activation=nn.SiLU))
        super().__init__(features, LAST_CHANNELS, num_classes, default_dropout if dropout is None else dropout)


@register(input_shape=(3, 384, 384), preprocessing={"torchvision": {"crop": 384, "resize": 384}})
def efficientnet_v2_s(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNetV2:
    """Build the small network."""
    return EfficientNetV2("s", num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 480, 480), preprocessing={"torchvision": {"crop": 480, "resize": 480}})
def efficientnet_v2_m(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNetV2:
    """Build the medium network."""
    return EfficientNetV2("m", num_classes, dropout, stochastic_depth_prob)


@register(
    input_shape=(3, 480, 480),
    preprocessing={
        "torchvision": {
            **{"crop": 480, "resize": 480, "interpolation": "bicubic"},
            **{"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        }
    },
)
def efficientnet_v2_l(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNetV2:
    """Build the large network."""
    return EfficientNetV2("l", num_classes, dropout, stochastic_depth_prob)
