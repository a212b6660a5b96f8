"""Plots of the results of `convlane.analysis`, with matplotlib.

Each function returns a figure: ``figure.savefig("maps.png")`` writes it, and a notebook displays it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane.analysis.coverage import Coverage
from convlane.analysis.pixels import Pixels, colours, pixels
from convlane.functional._arguments import as_positive

__all__ = ["coverage", "filters", "maps", "picture"]


def coverage(coverage: Coverage) -> Any:
    """Draw how often each pixel is used, as a map beside its histogram.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from convlane import analysis
    >>> figure = analysis.draw.coverage(analysis.coverage(7, 7, kernel_size=3, padding=1))
    """
    figure = _figure((9, 4))
    left, right = figure.subplots(1, 2)
    image = left.imshow(coverage.map, cmap="viridis", vmin=0)
    left.set_title("windows that contain a pixel")
    left.set_xlabel("column")
    left.set_ylabel("row")
    figure.colorbar(image, ax=left)
    uses = coverage.histogram
    right.bar([str(number) for number in uses], list(uses.values()))
    right.set_title("histogram")
    right.set_xlabel("windows")
    right.set_ylabel("pixels")
    return figure


def maps(maps: NDArray[Any], limit: int = 64) -> Any:
    """Draw feature maps (channels, H, W) in a grid, each from its smallest value (black) to its largest (white).

    Parameters
    ----------
    maps
        As returned by `convlane.analysis.feature_maps` for one image.
    limit
        The number of channels to draw, from the first on.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If `maps` does not have three dimensions, or is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import analysis, models
    >>> image = np.random.default_rng(0).random((1, 32, 32), np.float32)
    >>> figure = analysis.draw.maps(analysis.feature_maps(models.create("lenet5"), image, "features.0"))
    """
    _check("maps", maps, 3)
    return _grid(map(pixels, maps[: as_positive(limit, "maps", "limit")]))


def filters(filters: NDArray[Any], limit: int = 64) -> Any:
    """Draw filters (filters, channels, H, W) in a grid: with three channels in colour, others channel by channel.

    Parameters
    ----------
    filters
        As returned by `convlane.analysis.filters`.
    limit
        The number of filters to draw, from the first on.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If `filters` does not have four dimensions, or is empty.

    Examples
    --------
    >>> from convlane import analysis, models
    >>> figure = analysis.draw.filters(analysis.filters(models.create("lenet5")))
    """
    _check("filters", filters, 4)
    limit = as_positive(limit, "filters", "limit")
    if filters.shape[1] == 3:
        return _grid(map(colours, filters[:limit]))
    return _grid(map(pixels, filters.reshape(-1, *filters.shape[2:])[:limit]))


def picture(picture: NDArray[Any]) -> Any:
    """Draw one picture (channels, H, W), as returned by `convlane.analysis.maximise`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If `picture` does not have three dimensions, or is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import analysis
    >>> figure = analysis.draw.picture(np.zeros((3, 8, 8), np.float32))
    """
    _check("picture", picture, 3)
    return _grid([colours(picture)])


def _grid(images: Iterable[Pixels]) -> Any:
    shown = list(images)
    columns = int(np.ceil(np.sqrt(len(shown))))
    rows = -(-len(shown) // columns)
    figure = _figure((max(columns, 3), max(rows, 3)))
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
        if shown:
            axes.imshow(shown.pop(0), cmap="gray", vmin=0, vmax=255)
    return figure


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("matplotlib is not installed; pip install 'convlane[plot]' installs it") from None
    return Figure(size, layout="constrained")


def _check(name: str, array: NDArray[Any], dimensions: int) -> None:
    if array.ndim != dimensions or array.size == 0:
        raise ValueError(f"draw.{name}: expected a non-empty array of {dimensions} dimensions, got shape {array.shape}")
