"""The convolution layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from convlane import _core
from convlane.functional import conv1d, conv2d, conv3d, pack_conv1d, pack_conv2d, pack_conv3d, pad
from convlane.functional._arguments import Array, Padding, Pair, Triple, as_positive, as_sides
from convlane.functional._axes import Padding1d, Padding3d, as_numbers, as_sides_of_axes
from convlane.functional._op import Shape
from convlane.functional.conv1d import conv1d_geometry
from convlane.functional.conv3d import conv3d_geometry
from convlane.nn.init import default_weight_and_bias
from convlane.nn.packing import PackingModule

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(PackingModule):
    """The base class of the convolution layers over any number of axes."""

    bias: Array | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Any
    _axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        name = type(self).__name__
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"{name}: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        self.in_channels = as_positive(in_channels, name, "in_channels")
        self.out_channels = as_positive(out_channels, name, "out_channels")
        self.groups = as_positive(groups, name, "groups")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"{name}: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.kernel_size = as_numbers(kernel_size, name, "kernel_size", self._axes)
        self.stride = as_numbers(stride, name, "stride", self._axes)
        self.dilation = as_numbers(dilation, name, "dilation", self._axes)
        self.padding = as_numbers(padding, name, "padding", self._axes) if isinstance(padding, int) else padding
        self.padding_mode = padding_mode
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        reach = (spacing * (size - 1) + 1 for spacing, size in zip(self.dilation, self.kernel_size, strict=True))
        self._check((1, self.in_channels, *reach), shape)
        weight, bias_array = default_weight_and_bias(shape, bias)
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias_array)

    @abstractmethod
    def _check(self, input: Shape, weight: Shape) -> None:
        """Check the arguments with the operation's own rules, for the smallest input that the kernel fits into."""

    def _padded(self, input: Array) -> tuple[Array, Any]:
        """Return the input, padded if that is not with zeros, and the padding that is left for the operation."""
        if self.padding_mode == "zeros" or not hasattr(input, "shape"):
            return input, self.padding
        name, size = type(self).__name__, input.shape[-self._axes :]
        sides = as_sides_of_axes(self.padding, name, self.kernel_size, self.stride, self.dilation, size)
        return pad(input, [side for pair in reversed(sides) for side in pair], self.padding_mode), 0

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self._axes:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._axes:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode!r}"
        return text if self.bias is not None else text + ", bias=False"


class Conv1d(_Convolution):
    """Convolution of sequences with learned filters, see `convlane.functional.conv1d`; parameters as in `Conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.Conv1d(1, 8, 9, stride=4, padding=4)(np.zeros((1, 1, 64), np.float32)).shape
    (1, 8, 16)
    """

    kernel_size: tuple[int]
    stride: tuple[int]
    dilation: tuple[int]
    padding: Padding1d
    _axes = 1

    def _check(self, input: Shape, weight: Shape) -> None:
        conv1d_geometry(input, weight, self.stride[0], self.padding, self.dilation[0], self.groups)

    def pack(self, weight: Array) -> _core.PackedWeight:
        """Pack a weight for this layer."""
        return pack_conv1d(weight, self.groups)

    def forward(self, input: Array) -> Array:
        """Convolve sequences (N, C, L)."""
        input, padding = self._padded(input)
        return conv1d(input, self.weight_for(input), self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Convolution):
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
        The number of independent convolutions that the channels are divided among.
    bias
        Whether to add a learned bias to each output channel.
    padding_mode
        What the input is padded with: ``"zeros"``, or as the modes ``"reflect"``, ``"replicate"`` and ``"circular"`` of
        `convlane.functional.pad` do.

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

    kernel_size: Pair
    stride: Pair
    dilation: Pair
    padding: Padding
    _axes = 2

    def _check(self, input: Shape, weight: Shape) -> None:
        sides = as_sides(self.padding, "Conv2d", self.kernel_size, self.stride, self.dilation, input[2:])  # type: ignore[arg-type]
        _core.conv2d_shape(input, weight, self.stride, sides, self.dilation, self.groups)  # type: ignore[arg-type]

    def pack(self, weight: Array) -> _core.PackedWeight:
        """Pack a weight for this layer."""
        return pack_conv2d(weight, self.groups)

    def forward(self, input: Array) -> Array:
        """Convolve images (N, C, H, W)."""
        input, padding = self._padded(input)
        return conv2d(input, self.weight_for(input), self.bias, self.stride, padding, self.dilation, self.groups)


class Conv3d(_Convolution):
    """Convolution of volumes with learned filters, see `convlane.functional.conv3d`; parameters as in `Conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> layer = nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1))
    >>> layer(np.zeros((1, 3, 4, 16, 16), np.float32)).shape
    (1, 8, 4, 16, 16)
    """

    kernel_size: Triple
    stride: Triple
    dilation: Triple
    padding: Padding3d
    _axes = 3

    def _check(self, input: Shape, weight: Shape) -> None:
        _core.Conv3dGeometry(*conv3d_geometry(input, weight, self.stride, self.padding, self.dilation, self.groups))

    def pack(self, weight: Array) -> _core.PackedWeight:
        """Pack a weight for this layer."""
        return pack_conv3d(weight, self.groups)

    def forward(self, input: Array) -> Array:
        """Convolve volumes (N, C, D, H, W)."""
        input, padding = self._padded(input)
        return conv3d(input, self.weight_for(input), self.bias, self.stride, padding, self.dilation, self.groups)
