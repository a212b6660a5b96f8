"""Handwritten digits: the trained LeNet-5 that comes with this package, and the preparation of its pictures.

The network was trained by ``examples/train_lenet.py`` on the digits that come with scikit-learn, 1797 pictures of 8x8
numbers between 0 (paper) and 16 (ink) from the UCI repository (E. Alpaydin and C. Kaynak, 1998).

>>> import numpy as np
>>> from convlane import digits
>>> page = np.full((40, 30), 255, np.uint8)  # white
>>> page[5:35, 14:17] = 0  # a stroke of black ink
>>> scores = digits.classifier()(digits.from_picture(page))
>>> int(scores.argmax())
1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane.functional._arguments import Array
from convlane.models import load
from convlane.nn import Module

__all__ = ["classifier", "from_8x8", "from_picture", "training_data"]

_CELLS, _SIDE, _INK = 8, 32, 16
_WEIGHTS = Path(__file__).parent / "models" / "data" / "lenet5_digits.safetensors"
_MIN_CONTRAST = 0.1  # as a share of white minus black
_STROKE = 0.4  # the share of the darkest pixel from which a pixel is ink rather than shadow


def classifier() -> Module:
    """Return a trained LeNet-5 in eval mode, from the results of `from_8x8` and `from_picture` to logits (N, 10)."""
    return load(_WEIGHTS)


def training_data() -> tuple[tuple[Array, NDArray[np.int64]], tuple[Array, NDArray[np.int64]]]:
    """Return scikit-learn's digits, images (N, 1, 32, 32) and classes (N,): training data and a third held out.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError(
            "digits.training_data needs scikit-learn, which is not installed; pip install 'convlane[demo]' installs it"
        ) from None
    digits = load_digits()
    images, classes = from_8x8(digits.images), digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(classes))
    held_out, rest = np.split(order, [len(classes) // 3])
    return (images[rest], classes[rest]), (images[held_out], classes[held_out])


def from_8x8(images: Any) -> Array:
    """Return the network's input for digits in scikit-learn's format.

    Parameters
    ----------
    images
        Numbers from 0 (paper) to 16 (ink), (N, 8, 8) or (N, 64).

    Returns
    -------
    numpy.ndarray
        float32, (N, 1, 32, 32), from 0 to 1, interpolated linearly.
    """
    cells = np.asarray(images, np.float32)
    if cells.ndim < 2 or cells.shape[1:] not in ((_CELLS, _CELLS), (_CELLS * _CELLS,)):
        raise ValueError(f"from_8x8: images must be (N, 8, 8) or (N, 64), got shape {cells.shape}")
    rows = _interpolation()
    large = rows @ (cells.reshape(-1, _CELLS, _CELLS) / np.float32(_INK)) @ rows.T
    return np.ascontiguousarray(large[:, None])


def from_picture(grey: NDArray[Any]) -> Array:
    """Return the network's input for a picture of one digit.

    Ink may be darker or lighter than paper, whose brightness is the median at the picture's edge. The digit is cut out,
    centred in a square and reduced to 8x8 cells by averaging. The cells are scaled so that the darkest one is all ink,
    however thin the pen was, and interpolated to 32x32 pixels.

    Parameters
    ----------
    grey
        The brightness (H, W), uint8 or floats from 0 to 1.

    Returns
    -------
    numpy.ndarray
        float32, (1, 1, 32, 32).

    Raises
    ------
    TypeError
        If the array holds anything but such numbers.
    ValueError
        If it has another shape, or its brightness is almost uniform.
    """
    grey = np.asarray(grey)
    if grey.ndim != 2 or min(grey.shape) < 2:
        raise ValueError(f"from_picture: a picture must be (H, W) with at least 2x2 pixels, got shape {grey.shape}")
    if grey.dtype != np.uint8 and grey.dtype.kind != "f":
        raise TypeError(f"from_picture: a picture must hold uint8 or floats, got {grey.dtype}")
    bright = grey / 255 if grey.dtype == np.uint8 else grey.astype(np.float64)
    if not np.isfinite(bright).all():
        raise ValueError("from_picture: the picture holds NaN or infinities")
    paper = np.median(np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]]))
    darker, lighter = np.maximum(paper - bright, 0), np.maximum(bright - paper, 0)
    ink = darker if darker.sum() >= lighter.sum() else lighter
    darkest = ink.max()
    if darkest < _MIN_CONTRAST:
        raise ValueError("from_picture: the picture is blank")
    ink = np.clip((ink / darkest - _STROKE / 2) / (1 - _STROKE), 0, 1)  # removes shadows and makes strokes full ink
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.5) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(ink.shape)
    top, left = (side - ink.shape[0]) / 2, (side - ink.shape[1]) / 2
    cells = _average(ink.shape[0], top, side) @ ink @ _average(ink.shape[1], left, side).T
    return from_8x8(_INK / cells.max() * cells[None])


def _average(count: int, begin: float, side: int) -> NDArray[np.float64]:
    """Return the matrix that averages a row of pixels, which begins at `begin` within a square, into cells."""
    edges = np.linspace(0, side, _CELLS + 1)
    pixels = begin + np.arange(count)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: NDArray[np.float64] = np.maximum(overlap, 0) * _CELLS / side
    return shares


def _interpolation() -> Array:
    """Return the matrix that interpolates 8 numbers linearly to 32, between the centres of the cells."""
    positions = np.clip((np.arange(_SIDE) + 0.5) * _CELLS / _SIDE - 0.5, 0, _CELLS - 1)
    shares: Array = np.maximum(1 - np.abs(positions[:, None] - np.arange(_CELLS)), 0).astype(np.float32)
    return shares
