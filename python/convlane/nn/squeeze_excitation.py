"""Squeeze-and-excitation: channels scaled by factors computed from the whole image."""

from __future__ import annotations

from collections.abc import Callable

from convlane.functional import scale
from convlane.functional._arguments import Array
from convlane.nn.activation import ReLU, Sigmoid
from convlane.nn.conv import Conv2d
from convlane.nn.module import Module
from convlane.nn.pool import GlobalAvgPool2d


class SqueezeExcitation(Module):
    """Multiply every channel by a factor that two small layers compute from the means of all channels.

    As in torchvision, the layers are 1x1 convolutions (Hu, Shen and Sun 2018, figure 1).

    Parameters
    ----------
    input_channels
        The number of channels, C.
    squeeze_channels
        The number of channels between the two layers.
    activation, scale_activation
        Functions that make the modules after the first and after the second layer.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.SqueezeExcitation(8, 2)(np.zeros((1, 8, 5, 5), np.float32)).shape
    (1, 8, 5, 5)
    """

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int,
        activation: Callable[[], Module] = ReLU,
        scale_activation: Callable[[], Module] = Sigmoid,
    ) -> None:
        self.avgpool = GlobalAvgPool2d()
        self.fc1 = Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = Conv2d(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def forward(self, input: Array) -> Array:
        """Scale images (N, C, H, W)."""
        squeezed = self.activation(self.fc1(self.avgpool(input)))
        return scale(input, self.scale_activation(self.fc2(squeezed)))
