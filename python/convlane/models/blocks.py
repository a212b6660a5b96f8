"""What the families share."""

from __future__ import annotations

from collections.abc import Callable

from convlane import nn


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    *,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Return a convolution that pads by half its kernel, its normalisation and, where given, its activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        norm(out_channels),
        *([] if activation is None else [activation()]),
    )


def divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of the divisor, but not down by more than 10 % (the rule of MobileNet's authors)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
