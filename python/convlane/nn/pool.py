"""Pooling layers, each with the arguments of the function of that name in `convlane.functional`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from convlane.functional import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from convlane.functional._arguments import Array, Indices
from convlane.functional._op import Shape, rules, signature_of
from convlane.nn.module import Module


class _MaxPool(Module):
    _pool: ClassVar[Callable[..., Any]]
    _axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode
        _check(self._pool, self._axes, kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, input: Array) -> Any:
        """Pool a batch; with `return_indices`, return a pair (output, indices)."""
        return self._pool(
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


class MaxPool1d(_MaxPool):
    """Largest value of every window of signals (N, C, L), see `convlane.functional.max_pool1d`."""

    _pool, _axes = staticmethod(max_pool1d), 1


class MaxPool2d(_MaxPool):
    """Largest value of every window of images (N, C, H, W), see `convlane.functional.max_pool2d`.

    Examples
    --------
    >>> from convlane import nn
    >>> nn.MaxPool2d(3, stride=2, padding=1)
    MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)
    """

    _pool, _axes = staticmethod(max_pool2d), 2


class MaxPool3d(_MaxPool):
    """Largest value of every window of volumes (N, C, D, H, W), see `convlane.functional.max_pool3d`."""

    _pool, _axes = staticmethod(max_pool3d), 3


class _MaxUnpool(Module):
    _unpool: ClassVar[Callable[..., Any]]
    _axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
    ) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding = padding
        pooled = _Sized((1, 1, *(2**20,) * self._axes))
        self._unpool(pooled, pooled, kernel_size, stride, padding)

    def forward(self, input: Array, indices: Indices, output_size: Sequence[int] | None = None) -> Any:
        """Put the values of a batch at the indices that max pooling returned."""
        return self._unpool(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Put the results of `MaxPool1d` back in position, see `convlane.functional.max_unpool1d`."""

    _unpool, _axes = staticmethod(max_unpool1d), 1


class MaxUnpool2d(_MaxUnpool):
    """Put the results of `MaxPool2d` back in position, see `convlane.functional.max_unpool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    >>> unpool(*pool(np.arange(4, dtype=np.float32).reshape(1, 2, 2)))
    array([[[0., 0.],
            [0., 3.]]], dtype=float32)
    """

    _unpool, _axes = staticmethod(max_unpool2d), 2


class MaxUnpool3d(_MaxUnpool):
    """Put the results of `MaxPool3d` back in position, see `convlane.functional.max_unpool3d`."""

    _unpool, _axes = staticmethod(max_unpool3d), 3


class AvgPool1d(Module):
    """Mean of every window of signals (N, C, L), see `convlane.functional.avg_pool1d`."""

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] | str = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        _check(avg_pool1d, 1, kernel_size, stride, padding, ceil_mode)

    def forward(self, input: Array) -> Any:
        """Pool a batch."""
        arguments: Any = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return avg_pool1d(input, *arguments)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AvgPool(Module):
    _pool: ClassVar[Callable[..., Any]]
    _axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] | str = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override
        _check(self._pool, self._axes, kernel_size, stride, padding, ceil_mode)

    def forward(self, input: Array) -> Any:
        """Pool a batch."""
        return self._pool(
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


class AvgPool2d(_AvgPool):
    """Mean of every window of images (N, C, H, W), see `convlane.functional.avg_pool2d`."""

    _pool, _axes = staticmethod(avg_pool2d), 2


class AvgPool3d(_AvgPool):
    """Mean of every window of volumes (N, C, D, H, W), see `convlane.functional.avg_pool3d`."""

    _pool, _axes = staticmethod(avg_pool3d), 3


class _LPPool(Module):
    _pool: ClassVar[Callable[..., Any]]
    _axes: ClassVar[int]

    def __init__(
        self,
        norm_type: float,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        ceil_mode: bool = False,
    ) -> None:
        self.norm_type, self.ceil_mode = norm_type, ceil_mode
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        _check(self._pool, self._axes, norm_type, kernel_size, stride, ceil_mode)

    def forward(self, input: Array) -> Any:
        """Pool a batch."""
        return self._pool(input, self.norm_type, self.kernel_size, self.stride, ceil_mode=self.ceil_mode)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}"


class LPPool1d(_LPPool):
    """p-norm of every window of signals (N, C, L), see `convlane.functional.lp_pool1d`."""

    _pool, _axes = staticmethod(lp_pool1d), 1


class LPPool2d(_LPPool):
    """p-norm of every window of images (N, C, H, W), see `convlane.functional.lp_pool2d`."""

    _pool, _axes = staticmethod(lp_pool2d), 2


class LPPool3d(_LPPool):
    """p-norm of every window of volumes (N, C, D, H, W), see `convlane.functional.lp_pool3d`."""

    _pool, _axes = staticmethod(lp_pool3d), 3


class _AdaptiveAvgPool(Module):
    _pool: ClassVar[Callable[..., Any]]
    _axes: ClassVar[int]

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        self.output_size = output_size
        _check(self._pool, self._axes, output_size)

    def forward(self, input: Array) -> Any:
        """Pool a batch."""
        return self._pool(input, self.output_size)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Mean over windows of signals chosen so that the output has `output_size`.

    See `convlane.functional.adaptive_avg_pool1d`.
    """

    _pool, _axes = staticmethod(adaptive_avg_pool1d), 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Mean over windows of images chosen to give `output_size`, see `convlane.functional.adaptive_avg_pool2d`."""

    _pool, _axes = staticmethod(adaptive_avg_pool2d), 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Mean over windows of volumes chosen so that the output has `output_size`.

    See `convlane.functional.adaptive_avg_pool3d`.
    """

    _pool, _axes = staticmethod(adaptive_avg_pool3d), 3


class _AdaptiveMaxPool(Module):
    _pool: ClassVar[Callable[..., Any]]
    _axes: ClassVar[int]

    def __init__(self, output_size: int | Sequence[int | None] | None, return_indices: bool = False) -> None:
        self.output_size, self.return_indices = output_size, return_indices
        _check(self._pool, self._axes, output_size)

    def forward(self, input: Array) -> Any:
        """Pool a batch; with `return_indices`, return a pair (output, indices)."""
        return self._pool(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maximum over windows of signals chosen so that the output has `output_size`.

    See `convlane.functional.adaptive_max_pool1d`.
    """

    _pool, _axes = staticmethod(adaptive_max_pool1d), 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Maximum over windows of images chosen to give `output_size`, see `convlane.functional.adaptive_max_pool2d`."""

    _pool, _axes = staticmethod(adaptive_max_pool2d), 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Maximum over windows of volumes chosen so that the output has `output_size`.

    See `convlane.functional.adaptive_max_pool3d`.
    """

    _pool, _axes = staticmethod(adaptive_max_pool3d), 3


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


class _Sized:
    """A placeholder for an array whose shape is all that is checked."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    @staticmethod
    def __convlane_op__(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> _Sized:
        arguments = signature_of(operation).bind(*args, **kwargs)
        arguments.apply_defaults()
        return _Sized(rules(operation).shape(**arguments.arguments))


def _check(operation: Callable[..., Any], axes: int, *args: Any) -> None:
    """Check the arguments with the shape rules, for an input larger than any sensible window."""
    sizes = {1: (2**24,), 2: (2**24, 2**24), 3: (2**24, 2**15, 2**15)}[axes]
    operation(_Sized((1, 1, *sizes)), *args)
