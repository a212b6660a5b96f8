"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlane.functional import (
    batch_norm,
    channel_norm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    rms_norm,
    squeeze,
    unsqueeze,
)
from convlane.functional._arguments import Array, as_positive, checking, shape_of
from convlane.nn import init
from convlane.nn.module import Module


class BatchNorm2d(Module):
    """Normalise every channel, then scale and shift it (Ioffe and Szegedy 2015).

    In training mode, it uses the mean and variance of the batch and updates the running statistics with them; in eval
    mode, it uses the running statistics.

    Parameters
    ----------
    num_features
        The number of channels, C.
    eps
        Added to the variance.
    momentum
        The weight of the batch in the running statistics; None for the cumulative average of all batches.
    affine
        Whether there are a learned scale (weight) and shift (bias).
    track_running_stats
        Whether there are running statistics; without them, eval mode also uses the statistics of the batch.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> layer = nn.BatchNorm2d(1, eps=0).eval()
    >>> layer.running_mean = np.array([3], np.float32)
    >>> layer(np.array([3, 5], np.float32).reshape(1, 1, 1, 2))
    array([[[[0., 2.]]]], dtype=float32)
    """

    weight: Array | None
    bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: np.ndarray[tuple[()], np.dtype[np.int64]] | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self.num_features = as_positive(num_features, type(self).__name__, "num_features")
        self.eps, self.momentum = eps, momentum
        zeros, ones = (init.constant((self.num_features,), value) for value in (0, 1))
        self.register_parameter("weight", ones if affine else None)
        self.register_parameter("bias", zeros if affine else None)
        self.register_buffer("running_mean", zeros if track_running_stats else None)
        self.register_buffer("running_var", ones if track_running_stats else None)
        # Files from before torch 0.4.1 do not have it.
        self.register_buffer(
            "num_batches_tracked", np.array(0, np.int64) if track_running_stats else None, optional=True
        )

    def forward(self, input: Array) -> Array:
        """Normalise images (N, C, H, W)."""
        tracked = self.num_batches_tracked
        momentum = self.momentum
        if momentum is None:
            momentum = 0.0 if tracked is None else 1 / (int(tracked) + 1)
        output = batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            momentum,
            self.eps,
        )
        if self.training and tracked is not None:
            tracked += 1
        return output

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.weight is not None}, "
            f"track_running_stats={self.running_mean is not None}"
        )


class BatchNorm1d(BatchNorm2d):
    """`BatchNorm2d` for sequences (N, C, L) and vectors (N, C).

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.BatchNorm1d(3)(np.zeros((2, 3, 5), np.float32)).shape
    (2, 3, 5)
    """

    def forward(self, input: Array) -> Array:
        """Normalise sequences or vectors."""
        if input.ndim not in (2, 3):
            raise ValueError(f"BatchNorm1d: input must be (N, C) or (N, C, L), got shape {tuple(input.shape)}")
        return super().forward(input)


class BatchNorm3d(BatchNorm2d):
    """`BatchNorm2d` for volumes (N, C, D, H, W).

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.BatchNorm3d(3)(np.zeros((2, 3, 4, 5, 5), np.float32)).shape
    (2, 3, 4, 5, 5)
    """

    def forward(self, input: Array) -> Array:
        """Normalise volumes."""
        if input.ndim != 5:
            raise ValueError(f"BatchNorm3d: input must be (N, C, D, H, W), got shape {tuple(input.shape)}")
        return super().forward(input)


class LayerNorm(Module):
    """Normalise over the last dimensions, then scale and shift, see `convlane.functional.layer_norm`.

    Examples
    --------
    >>> from convlane import nn
    >>> nn.LayerNorm(8)
    LayerNorm((8,), eps=1e-05, elementwise_affine=True)
    """

    weight: Array | None
    bias: Array | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.normalized_shape = _sizes(normalized_shape, type(self).__name__)
        self.eps = eps
        ones, zeros = (init.constant(self.normalized_shape, value) for value in (1, 0))
        self.register_parameter("weight", ones if elementwise_affine else None)
        self.register_parameter("bias", zeros if elementwise_affine and bias else None)

    def forward(self, input: Array) -> Array:
        """Normalise arrays whose shape ends in `normalized_shape`."""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class LayerNorm2d(LayerNorm):
    """Normalise every pixel over its channels, then scale and shift, see `convlane.functional.channel_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.LayerNorm2d(2, eps=0)(np.array([5, 9], np.float32).reshape(1, 2, 1, 1)).ravel()
    array([-1.,  1.], dtype=float32)
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, elementwise_affine: bool = True) -> None:
        super().__init__(num_channels, eps, elementwise_affine)

    def forward(self, input: Array) -> Array:
        """Normalise images (N, C, H, W)."""
        return channel_norm(input, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Divide by the root of the mean square over the last dimensions, see `convlane.functional.rms_norm`.

    Examples
    --------
    >>> from convlane import nn
    >>> nn.RMSNorm(8)
    RMSNorm((8,), eps=None, elementwise_affine=True)
    """

    weight: Array | None

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True
    ) -> None:
        self.normalized_shape, self.eps = _sizes(normalized_shape, "RMSNorm"), eps
        ones = init.constant(self.normalized_shape, 1)
        self.register_parameter("weight", ones if elementwise_affine else None)

    def forward(self, input: Array) -> Array:
        """Normalise arrays whose shape ends in `normalized_shape`."""
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


def _sizes(normalized_shape: int | Sequence[int], layer: str) -> tuple[int, ...]:
    sizes = normalized_shape if isinstance(normalized_shape, (list, tuple)) else [normalized_shape]
    return tuple(as_positive(size, layer, "normalized_shape") for size in sizes)


class GroupNorm(Module):
    """Normalise groups of channels of every image, then scale and shift, see `convlane.functional.group_norm`.

    Examples
    --------
    >>> from convlane import nn
    >>> nn.GroupNorm(2, 8)
    GroupNorm(2, 8, eps=1e-05, affine=True)
    """

    weight: Array | None
    bias: Array | None

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        self.num_groups = as_positive(num_groups, "GroupNorm", "num_groups")
        self.num_channels = as_positive(num_channels, "GroupNorm", "num_channels")
        if self.num_channels % self.num_groups:
            raise ValueError(f"GroupNorm: num_groups={num_groups} does not divide num_channels={num_channels}")
        self.eps = eps
        ones, zeros = (init.constant((self.num_channels,), value) for value in (1, 0))
        self.register_parameter("weight", ones if affine else None)
        self.register_parameter("bias", zeros if affine else None)

    def forward(self, input: Array) -> Array:
        """Normalise arrays (N, C, ...)."""
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.weight is not None}"


class _InstanceNorm(Module):
    """The base class of the instance norms of signals, images and volumes."""

    weight: Array | None
    bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: np.ndarray[tuple[()], np.dtype[np.int64]] | None
    _ndim: int

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        self.num_features = as_positive(num_features, type(self).__name__, "num_features")
        self.eps, self.momentum = eps, momentum
        zeros, ones = (init.constant((self.num_features,), value) for value in (0, 1))
        self.register_parameter("weight", ones if affine else None)
        self.register_parameter("bias", zeros if affine else None)
        self.register_buffer("running_mean", zeros if track_running_stats else None)
        self.register_buffer("running_var", ones if track_running_stats else None)
        self.register_buffer(
            "num_batches_tracked", np.array(0, np.int64) if track_running_stats else None, optional=True
        )

    def forward(self, input: Array) -> Array:
        """Normalise a batch, or a single signal, image or volume."""
        with checking(input):
            shape = shape_of(input, type(self).__name__)
        if len(shape) == self._ndim - 1:
            return squeeze(self.forward(unsqueeze(input, 0)), 0)
        if len(shape) != self._ndim:
            raise ValueError(
                f"{type(self).__name__}: input must have {self._ndim} dimensions, or {self._ndim - 1} without a batch, "
                f"got shape {shape}"
            )
        return instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.weight is not None}, "
            f"track_running_stats={self.running_mean is not None}"
        )


class InstanceNorm1d(_InstanceNorm):
    """Normalise every channel of every signal (N, C, L) or (C, L), see `InstanceNorm2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.InstanceNorm1d(2, eps=0)(np.array([[1, 3], [10, 30]], np.float32))
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    _ndim = 3


class InstanceNorm2d(_InstanceNorm):
    """Normalise every channel of every image, see `convlane.functional.instance_norm`.

    In training mode, or without running statistics, it uses the mean and variance of each image, with which it updates
    the running statistics if there are any; otherwise it uses the running statistics.

    Parameters
    ----------
    num_features
        The number of channels, C.
    eps
        Added to the variance.
    momentum
        The weight of the batch in the running statistics; None leaves them as they are.
    affine
        Whether there are a learned scale (weight) and shift (bias).
    track_running_stats
        Whether there are running statistics.
    """

    _ndim = 4


class InstanceNorm3d(_InstanceNorm):
    """Normalise every channel of every volume (N, C, D, H, W) or (C, D, H, W), see `InstanceNorm2d`."""

    _ndim = 5


class LocalResponseNorm(Module):
    """Divide by a power of the mean square over neighbouring channels, see `convlane.functional.local_response_norm`.

    Examples
    --------
    >>> from convlane import nn
    >>> nn.LocalResponseNorm(5, k=2.0)
    LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=2.0)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size = as_positive(size, "LocalResponseNorm", "size")
        self.alpha, self.beta, self.k = alpha, beta, k

    def forward(self, input: Array) -> Array:
        """Normalise images (N, C, H, W)."""
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
