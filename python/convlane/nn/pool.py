"""Pooling layers. Each takes the arguments of its namesake in `convlane.functional`."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from convlane.functional import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
)
from convlane.functional._arguments import Array, Padding, Pair
from convlane.functional._op import rules
from convlane.functional.pool import OutputSize
from convlane.nn.module import Module


class MaxPool2d(Module):
    """Largest value of every window, see `convlane.functional.max_pool2d`.

    Examples
    --------
    >>> from convlane import nn
    >>> nn.MaxPool2d(3, stride=2, padding=1)
    MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode
        _check(max_pool2d, kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, input: Array) -> Any:
        """Pool images (N, C, H, W); a pair (output, indices) if the indices are asked for."""
        return max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """Mean of every window, see `convlane.functional.avg_pool2d`."""

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override
        _check(avg_pool2d, kernel_size, stride, padding, ceil_mode)

    def forward(self, input: Array) -> Array:
        """Pool images (N, C, H, W)."""
        return avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            divisor_override=self.divisor_override,
        )

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class LPPool2d(Module):
    """Root of the sum of powers of every window, see `convlane.functional.lp_pool2d`."""

    def __init__(
        self,
        norm_type: float,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        ceil_mode: bool = False,
    ) -> None:
        self.norm_type, self.ceil_mode = norm_type, ceil_mode
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        _check(lp_pool2d, norm_type, kernel_size, stride, ceil_mode)

    def forward(self, input: Array) -> Array:
        """Pool images (N, C, H, W)."""
        return lp_pool2d(input, self.norm_type, self.kernel_size, self.stride, ceil_mode=self.ceil_mode)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}"


class AdaptiveAvgPool2d(Module):
    """Mean over windows that make the output `output_size`, see `convlane.functional.adaptive_avg_pool2d`."""

    def __init__(self, output_size: OutputSize) -> None:
        self.output_size = output_size
        _check(adaptive_avg_pool2d, output_size)

    def forward(self, input: Array) -> Array:
        """Pool images (N, C, H, W)."""
        return adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(Module):
    """Maximum over windows that make the output `output_size`, see `convlane.functional.adaptive_max_pool2d`."""

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        self.output_size, self.return_indices = output_size, return_indices
        _check(adaptive_max_pool2d, output_size)

    def forward(self, input: Array) -> Any:
        """Pool images (N, C, H, W); a pair (output, indices) if the indices are asked for."""
        return adaptive_max_pool2d(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"output_size={self.output_size}"


class GlobalAvgPool2d(Module):
    """Mean of every channel of every image: (N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, input: Array) -> Array:
        """Pool images (N, C, H, W)."""
        return global_avg_pool2d(input)


class GlobalMaxPool2d(Module):
    """Maximum of every channel of every image: (N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, input: Array) -> Array:
        """Pool images (N, C, H, W)."""
        return global_max_pool2d(input)


def _check(operation: Callable[..., Any], *args: Any) -> None:
    """Let the operation's shape rule judge the arguments, on an image that no sensible window is too large for."""
    rules(operation).shape(SimpleNamespace(shape=(1, 1, 2**24, 2**24)), *args)
