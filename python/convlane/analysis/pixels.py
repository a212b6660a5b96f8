"""Arrays as pixels, for viewing."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def pixels(array: NDArray[Any]) -> Pixels:
    """Scale numbers to the range from 0 (black) to 255 (white); non-finite numbers are black."""
    numbers = np.asarray(array, np.float64)
    finite = np.isfinite(numbers)
    low, high = (numbers[finite].min(), numbers[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = (np.where(finite, numbers, low) - low) * (255 / (high - low) if high > low else 0.0)
    return np.asarray(np.rint(scaled), np.uint8)


def colours(picture: NDArray[Any]) -> Pixels:
    """Return a picture (C, H, W) as pixels: (H, W, 3) for three channels, else (H, W), their mean."""
    return pixels(picture.transpose(1, 2, 0) if len(picture) == 3 else picture.mean(0))


def png(image: Pixels, transparent: int | None = None) -> bytes:
    """Return grey (H, W) or coloured (H, W, 3) pixels as a PNG file; one grey level may be transparent."""
    height, width = image.shape[:2]
    lines = np.zeros((height, 1 + image[0].size), np.uint8)  # each begins with its filter type: none
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if image.ndim == 2 else 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    if transparent is not None:
        chunks.insert(1, (b"tRNS", struct.pack(">H", transparent)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
