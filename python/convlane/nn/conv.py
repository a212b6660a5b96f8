"""The convolution layer."""

from __future__ import annotations

from convlane import _core
from convlane.functional import conv2d, pack_conv2d
from convlane.functional._arguments import Array, Padding, Pair, as_pair, as_positive, as_sides
from convlane.nn.init import default_weight_and_bias
from convlane.nn.packing import PackingModule


class Conv2d(PackingModule):
    """Convolution with learned filters, see `convlane.functional.conv2d`.

    Parameters
    ----------
    in_channels, out_channels
        C and O; `groups` must divide both.
    kernel_size, stride, dilation
        An integer or a pair (height, width).
    padding
        An integer, a pair, four sides (top, bottom, left, right), ``"valid"``, ``"same"`` or ``"same_tf"``.
    groups
        The channels fall into so many independent convolutions.
    bias
        Whether a learned number is added per output channel.

    Raises
    ------
    TypeError, ValueError
        As in `convlane.functional.conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    >>> layer(np.zeros((1, 3, 32, 32), np.float32)).shape
    (1, 8, 16, 16)
    >>> layer
    Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    """

    bias: Array | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        self.in_channels = as_positive(in_channels, "Conv2d", "in_channels")
        self.out_channels = as_positive(out_channels, "Conv2d", "out_channels")
        self.groups = as_positive(groups, "Conv2d", "groups")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"Conv2d: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.kernel_size = as_pair(kernel_size, "Conv2d", "kernel_size")
        self.stride = as_pair(stride, "Conv2d", "stride")
        self.dilation = as_pair(dilation, "Conv2d", "dilation")
        self.padding = as_pair(padding, "Conv2d", "padding") if isinstance(padding, int) else padding
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self._check(shape)
        weight, bias_array = default_weight_and_bias(shape, bias)
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias_array)

    def _check(self, weight: tuple[int, int, int, int]) -> None:
        """Let the operation's own rules judge the arguments, on the smallest image that the kernel fits into."""
        height, width = (self.dilation[i] * (self.kernel_size[i] - 1) + 1 for i in range(2))
        sides = as_sides(self.padding, "Conv2d", self.kernel_size, self.stride, self.dilation, (height, width))
        image = (1, self.in_channels, height, width)
        _core.conv2d_shape(image, weight, self.stride, sides, self.dilation, self.groups)

    def pack(self, weight: Array) -> _core.PackedWeight:
        """Pack a weight for this layer."""
        return pack_conv2d(weight, self.groups)

    def forward(self, input: Array) -> Array:
        """Convolve images (N, C, H, W)."""
        return conv2d(input, self.weight_for(input), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"
