"""Layers that resample signals, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence

from convlane.functional import interpolate
from convlane.functional._arguments import Array
from convlane.functional.resize import INTERPOLATION_AXES
from convlane.nn.module import Module


class Upsample(Module):
    """Resample to a size or by a factor, see `convlane.functional.interpolate`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.Upsample(scale_factor=2, mode="bilinear")(np.zeros((1, 8, 5, 5), np.float32)).shape
    (1, 8, 10, 10)
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        if (size is None) == (scale_factor is None):
            raise ValueError("Upsample: give either size or scale_factor")
        if mode not in INTERPOLATION_AXES:
            raise ValueError(f"Upsample: mode must be one of {', '.join(INTERPOLATION_AXES)}, got {mode!r}")
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def forward(self, input: Array) -> Array:
        """Resample (N, C, L), (N, C, H, W) or (N, C, D, H, W)."""
        return interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        given = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{given}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Repeat the pixels of images, see `convlane.functional.interpolate`.

    Examples
    --------
    >>> from convlane import nn
    >>> nn.UpsamplingNearest2d(scale_factor=2)
    UpsamplingNearest2d(scale_factor=2, mode='nearest')
    """

    def __init__(
        self, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Enlarge images bilinearly with aligned corners, see `convlane.functional.interpolate`.

    Examples
    --------
    >>> from convlane import nn
    >>> nn.UpsamplingBilinear2d(size=(8, 8))
    UpsamplingBilinear2d(size=(8, 8), mode='bilinear')
    """

    def __init__(
        self, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)
