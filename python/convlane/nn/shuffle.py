"""Layers that turn channels into pixels and back."""

from __future__ import annotations

from convlane.functional import pixel_shuffle, pixel_unshuffle
from convlane.functional._arguments import Array, as_positive
from convlane.nn.module import Module


class PixelShuffle(Module):
    """Turn each pixel into a square of pixels, see `convlane.functional.pixel_shuffle`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.PixelShuffle(3)(np.zeros((1, 9, 4, 4), np.float32)).shape
    (1, 1, 12, 12)
    """

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = as_positive(upscale_factor, "PixelShuffle", "upscale_factor")

    def forward(self, input: Array) -> Array:
        """Shuffle (..., C * upscale_factor**2, H, W)."""
        return pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        """Return the factor."""
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Turn each square of pixels into one pixel, see `convlane.functional.pixel_unshuffle`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.PixelUnshuffle(3)(np.zeros((1, 1, 12, 12), np.float32)).shape
    (1, 9, 4, 4)
    """

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = as_positive(downscale_factor, "PixelUnshuffle", "downscale_factor")

    def forward(self, input: Array) -> Array:
        """Unshuffle (..., C, H * downscale_factor, W * downscale_factor)."""
        return pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        """Return the factor."""
        return f"downscale_factor={self.downscale_factor}"
