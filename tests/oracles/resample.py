"""Bilinear resampling of one picture, point by point."""

import numpy as np


def pixel(image, row, column, border, fill):
    """Return the channels of one pixel, which may be outside the picture."""
    height, width = image.shape[1:]
    if border == "constant" and not (0 <= row < height and 0 <= column < width):
        return np.full(len(image), fill, np.float64)
    where = []
    for position, size in ((row, height), (column, width)):
        if border == "reflect":
            while not 0 <= position < size:
                position = -position if position < 0 else 2 * (size - 1) - position
                position = 0 if size == 1 else position
        where.append(min(max(position, 0), size - 1))
    return image[:, where[0], where[1]].astype(np.float64)


def read(image, y, x, border, fill):
    """Return the channels at a point, in pixels from the upper left one."""
    top, left = int(np.floor(y)), int(np.floor(x))
    down, across = y - top, x - left
    return (
        (1 - down) * (1 - across) * pixel(image, top, left, border, fill)
        + (1 - down) * across * pixel(image, top, left + 1, border, fill)
        + down * (1 - across) * pixel(image, top + 1, left, border, fill)
        + down * across * pixel(image, top + 1, left + 1, border, fill)
    )


def resample(image, matrix, size, field=None, border="constant", fill=0.0, samples=1):
    """Like `convlane.data.resample`."""
    height, width = size
    out = np.zeros((len(image), height, width))
    for row in range(height):
        for column in range(width):
            shift = (0, 0) if field is None else field[:, row, column]
            for i in range(samples):
                for j in range(samples):
                    y = row + (i + 0.5) / samples - 0.5 - (height - 1) / 2
                    x = column + (j + 0.5) / samples - 0.5 - (width - 1) / 2
                    source_x, source_y = np.asarray(matrix) @ (x, y, 1)
                    source_x += shift[0] + (image.shape[2] - 1) / 2
                    source_y += shift[1] + (image.shape[1] - 1) / 2
                    out[:, row, column] += read(image, source_y, source_x, border, fill) / samples**2
    return out
