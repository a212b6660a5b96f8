"""Building blocks that the families share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convlane import nn
from convlane.functional import batch_norm
from convlane.functional._arguments import Array, Pair


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    *,
    dilation: int = 1,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Return a convolution padded by half its kernel, a normalisation and, if given, an activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2 * dilation, dilation, groups, bias=False),
        norm(out_channels),
        *([] if activation is None else [activation()]),
    )


def named_conv(
    in_channels: int, out_channels: int, kernel: int | Pair, stride: int = 1, padding: int | Pair | None = None
) -> nn.Sequential:
    """Return a convolution, a batch norm and a ReLU with the names that they have in the Inception networks.

    The padding is half the kernel by default.
    """
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        {
            "conv": nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False),
            "bn": nn.BatchNorm2d(out_channels, eps=0.001),
            "relu": nn.ReLU(),
        }
    )


def head(in_features: int, num_classes: int, layer: Callable[[int, int], nn.Module] = nn.Linear) -> nn.Module:
    """Return the last classifier of a network, or the identity for 0 classes."""
    return layer(in_features, num_classes) if num_classes else nn.Identity()


def layers_of(network: nn.Module, *names: str) -> dict[str, nn.Module]:
    """Return layers of a network by their names; ``name.*`` stands for all layers of the sequence `name`."""
    layers: dict[str, nn.Module] = {}
    for name in names:
        first, _, rest = name.partition(".")
        child = getattr(network, first)
        layers |= {f"{first}.{key}": layer for key, layer in child.named_children()} if rest else {first: child}
    return layers


def linear_layers(in_features: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Return two hidden layers of 4096 units, each followed by dropout, and the last classifier."""
    return nn.Sequential(
        nn.Linear(in_features, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
        head(4096, num_classes),
    )


def scale_and_shift(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return every channel times its own factor plus its own offset: batch norm without statistics."""
    channels = weight.shape[0]
    neutral = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    return batch_norm(input, *neutral, weight, bias, eps=0.0)


def from_imagenet(input: Array) -> Array:
    """Replace the normalisation ``(x - mean) / deviation`` of ImageNet's colours by ``(x - 0.5) / 0.5``."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    weight, bias = (deviation / 0.5).astype(np.float32), ((mean - 0.5) / 0.5).astype(np.float32)
    return scale_and_shift(input, weight, bias)


class FromImageNet(nn.Module):
    """`from_imagenet` as a layer."""

    def forward(self, input: Array) -> Array:
        """Scale images (N, 3, H, W)."""
        return from_imagenet(input)


def divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of the divisor, but not down by more than 10 % (the rule used by MobileNet's authors)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
