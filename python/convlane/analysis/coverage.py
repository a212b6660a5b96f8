"""How often a convolution uses each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlane.functional._arguments import Padding, Pair, as_pair, as_positive, as_window


@dataclass(frozen=True, eq=False)
class Coverage:
    """How often each pixel is used, printed as a small map. `convlane.analysis.draw.coverage` draws it."""

    map: NDArray[np.int64]
    """(height, width): the number of windows that contain each pixel."""

    @property
    def histogram(self) -> dict[int, int]:
        """The number of pixels for each number of uses, in ascending order: ``{uses: pixels}``."""
        uses, pixels = np.unique(self.map, return_counts=True)
        return dict(zip(uses.tolist(), pixels.tolist(), strict=True))

    def __str__(self) -> str:
        width = len(str(self.map.max()))
        return "\n".join(" ".join(str(uses).rjust(width) for uses in row) for row in self.map.tolist())

    __repr__ = __str__


def coverage(
    height: int,
    width: int,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    *,
    transposed: bool = False,
) -> Coverage:
    """Count the windows of a convolution that contain each pixel of its input.

    Without padding, pixels near an edge are used less, and if the stride does not divide the kernel, the interior is
    also uneven. A transposed convolution writes where the convolution reads, so the same map shows how many terms are
    summed in each pixel of its *output*: the checkerboard in generated pictures (Odena, Dumoulin and Olah,
    "Deconvolution and Checkerboard Artifacts", Distill, 2016).

    Parameters
    ----------
    height, width
        The size of the input, also for a transposed convolution.
    kernel_size, stride, padding, dilation
        As in `convlane.functional.conv2d`.
    transposed
        Whether to count for the output of the transposed convolution, which has ``(height - 1) * stride - 2 * padding +
        dilation * (kernel_size - 1) + 1`` rows.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the kernel does not fit into the padded input, or the map has more than 2**26
        pixels or an axis more than 2**26 taps of windows.

    Examples
    --------
    >>> from convlane import analysis
    >>> analysis.coverage(5, 5, kernel_size=3, padding=1)
    4 6 6 6 4
    6 9 9 9 6
    6 9 9 9 6
    6 9 9 9 6
    4 6 6 6 4
    >>> uneven = analysis.coverage(6, 6, kernel_size=3, stride=2, padding=1)
    >>> uneven
    1 2 1 2 1 1
    2 4 2 4 2 2
    1 2 1 2 1 1
    2 4 2 4 2 2
    1 2 1 2 1 1
    1 2 1 2 1 1
    >>> uneven.histogram
    {1: 16, 2: 16, 4: 4}
    """
    size = as_positive(height, "coverage", "height"), as_positive(width, "coverage", "width")
    kernel, steps = (
        as_pair(value, "coverage", name) for value, name in ((kernel_size, "kernel_size"), (stride, "stride"))
    )
    spacing = as_pair(dilation, "coverage", "dilation")
    for name, pair in {"kernel_size": kernel, "stride": steps, "dilation": spacing}.items():
        if min(pair) < 1:
            raise ValueError(f"coverage: {name} must be at least 1, got {pair}")
    sides = as_window("coverage", size, kernel, steps, padding, spacing)[2]
    if min(sides) < 0:
        raise ValueError(f"coverage: padding must not be negative, got {padding}")
    axes = [_Axis(size[i], kernel[i], steps[i], sides[2 * i : 2 * i + 2], spacing[i], transposed) for i in range(2)]
    pixels = axes[0].size * axes[1].size
    if max(pixels, *(axis.windows * axis.kernel for axis in axes)) > _MAX_SIZE:
        raise ValueError(f"coverage: a map of {axes[0].size} x {axes[1].size} pixels, {kernel} taps each, is too large")
    return Coverage(np.outer(*(axis.uses() for axis in axes)))


_MAX_SIZE = 2**26


class _Axis:
    """The windows along one axis, and the number of pixels of the map."""

    def __init__(
        self, size: int, kernel: int, stride: int, sides: tuple[int, ...], dilation: int, transposed: bool
    ) -> None:
        before, after = sides
        reach = dilation * (kernel - 1) + 1
        if transposed:
            windows, size = size, (size - 1) * stride + reach - before - after
            if size < 1:
                raise ValueError(f"coverage: padding {sides} leaves no output")
        elif reach > size + before + after:
            raise ValueError(
                f"coverage: a kernel of extent {reach} does not fit into {size + before + after} padded pixels"
            )
        else:
            windows = (size + before + after - reach) // stride + 1
        self.size, self.windows, self.kernel = size, windows, kernel
        self._stride, self._before, self._dilation = stride, before, dilation

    def uses(self) -> NDArray[np.int64]:
        """Return the number of windows that contain each pixel."""
        taps = np.arange(self.windows)[:, None] * self._stride + np.arange(self.kernel) * self._dilation - self._before
        return np.bincount(taps[(taps >= 0) & (taps < self.size)], minlength=self.size)
