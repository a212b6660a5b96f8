"""The transposed convolution layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from convlane import _core
from convlane.functional import conv_transpose1d, conv_transpose2d, conv_transpose3d, pack_conv_transpose2d
from convlane.functional._arguments import Array, as_int, as_positive
from convlane.nn.init import default_weight_and_bias
from convlane.nn.module import Module
from convlane.nn.packing import PackingModule


class _ConvTranspose(Module):
    """The base class of these layers over any number of axes: arguments, parameters and the rule for `output_size`."""

    bias: Array | None
    _axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
    ) -> None:
        name = type(self).__name__
        self.in_channels = as_positive(in_channels, name, "in_channels")
        self.out_channels = as_positive(out_channels, name, "out_channels")
        self.groups = as_positive(groups, name, "groups")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"{name}: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.kernel_size = self._sizes(kernel_size, "kernel_size", 1)
        self.stride = self._sizes(stride, "stride", 1)
        self.padding = self._sizes(padding, "padding", 0)
        self.output_padding = self._sizes(output_padding, "output_padding", 0)
        self.dilation = self._sizes(dilation, "dilation", 1)
        for added, step, spacing in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if added >= max(step, spacing):
                raise ValueError(
                    f"{name}: output_padding must be smaller than stride or dilation, got {self.output_padding} "
                    f"with stride={self.stride} and dilation={self.dilation}"
                )
        shape = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        weight, bias_array = default_weight_and_bias(shape, bias, self.out_channels)
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias_array)

    def _sizes(self, value: Any, name: str, least: int) -> Any:
        """Return one number for each axis."""
        op, axes = type(self).__name__, self._axes
        given = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
        if len(given) != axes:
            raise ValueError(f"{op}: {name} must be an integer or a tuple of {axes}, got {value!r}")
        sizes = tuple(as_int(size, op, name) for size in given)
        if min(sizes) < least:
            raise ValueError(f"{op}: {name} must be at least {least}, got {value!r}")
        return sizes

    @abstractmethod
    def _run(self, input: Array, output_padding: Any) -> Array: ...

    def forward(self, input: Array, output_size: Sequence[int] | None = None) -> Array:
        """Convolve; `output_size` chooses among the sizes that a convolution would reduce to the input's."""
        return self._run(input, self.output_padding if output_size is None else self._added(input, output_size))

    def _added(self, input: Array, output_size: Sequence[int]) -> tuple[int, ...]:
        """Return the output padding that gives `output_size`."""
        name, axes = type(self).__name__, self._axes
        wanted = [as_int(size, name, "output_size") for size in output_size]
        if len(wanted) not in (axes, len(input.shape)):
            raise ValueError(f"{name}: output_size must have {axes} or {len(input.shape)} sizes, got {output_size}")
        wanted, added = wanted[-axes:], []
        for i, size in enumerate(input.shape[-axes:]):
            reach = self.dilation[i] * (self.kernel_size[i] - 1)
            least = (size - 1) * self.stride[i] - 2 * self.padding[i] + reach + 1
            added.append(wanted[i] - least)
            if not 0 <= added[i] < self.stride[i]:
                raise ValueError(
                    f"{name}: output_size[{i}] must be from {least} to {least + self.stride[i] - 1} for an input of "
                    f"shape {tuple(input.shape)}, got {wanted[i]}"
                )
        return tuple(added)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        zeros, ones = (0,) * self._axes, (1,) * self._axes
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != zeros:
            text += f", padding={self.padding}"
        if self.dilation != ones:
            text += f", dilation={self.dilation}"
        if self.output_padding != zeros:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"


class ConvTranspose1d(_ConvTranspose, PackingModule):
    """Transposed convolution of sequences with learned filters, see `convlane.functional.conv_transpose1d`.

    Parameters
    ----------
    in_channels, out_channels
        C and O; `groups` must divide both.
    kernel_size, stride, padding, output_padding, dilation
        An integer or a tuple of one.
    groups
        The number of independent convolutions that the channels are divided among.
    bias
        Whether to add a learned bias to each output channel.

    Raises
    ------
    TypeError, ValueError
        As in `convlane.functional.conv_transpose1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> layer = nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1)
    >>> layer(np.zeros((1, 8, 100), np.float32)).shape
    (1, 4, 200)
    """

    _axes = 1

    def pack(self, weight: Array) -> _core.TransposedWeight:
        """Pack a weight for this layer."""
        return pack_conv_transpose2d(weight[:, :, None], (1, *self.stride), self.groups, (1, *self.dilation))

    def _run(self, input: Array, output_padding: Any) -> Array:
        weight = self.weight_for(input)
        return conv_transpose1d(
            input, weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class ConvTranspose2d(_ConvTranspose, PackingModule):
    """Transposed convolution with learned filters, see `convlane.functional.conv_transpose2d`.

    Parameters
    ----------
    in_channels, out_channels
        C and O; `groups` must divide both.
    kernel_size, stride, padding, output_padding, dilation
        An integer or a pair (height, width).
    groups
        The number of independent convolutions that the channels are divided among.
    bias
        Whether to add a learned bias to each output channel.

    Raises
    ------
    TypeError, ValueError
        As in `convlane.functional.conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> layer = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1)
    >>> image = np.zeros((1, 8, 16, 16), np.float32)
    >>> layer(image).shape
    (1, 4, 31, 31)
    >>> layer(image, output_size=(32, 32)).shape
    (1, 4, 32, 32)
    >>> layer
    ConvTranspose2d(8, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    """

    _axes = 2

    def pack(self, weight: Array) -> _core.TransposedWeight:
        """Pack a weight for this layer."""
        return pack_conv_transpose2d(weight, self.stride, self.groups, self.dilation)

    def _run(self, input: Array, output_padding: Any) -> Array:
        weight = self.weight_for(input)
        return conv_transpose2d(
            input, weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of volumes with learned filters, see `convlane.functional.conv_transpose3d`.

    Parameters
    ----------
    in_channels, out_channels
        C and O; `groups` must divide both.
    kernel_size, stride, padding, output_padding, dilation
        An integer or a tuple (depth, height, width).
    groups
        The number of independent convolutions that the channels are divided among.
    bias
        Whether to add a learned bias to each output channel.

    Raises
    ------
    TypeError, ValueError
        As in `convlane.functional.conv_transpose3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> layer = nn.ConvTranspose3d(4, 2, 2, stride=2)
    >>> layer(np.zeros((1, 4, 3, 5, 5), np.float32)).shape
    (1, 2, 6, 10, 10)
    """

    weight: Array
    _axes = 3

    def _run(self, input: Array, output_padding: Any) -> Array:
        return conv_transpose3d(
            input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )
