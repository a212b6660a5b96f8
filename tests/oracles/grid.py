"""Images and volumes sampled at points, one point at a time."""

import math

import numpy as np

from oracles.resize import cubic


def grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False):
    n_images, channels, *sizes = x.shape
    out = np.zeros((n_images, channels, *grid.shape[1:-1]))
    for n, *index in np.ndindex(grid.shape[:-1]):
        point = grid[(n, *index)][::-1]  # x comes first
        axes = [
            taps(number, size, mode, padding_mode, align_corners) for number, size in zip(point, sizes, strict=True)
        ]
        for pixel in np.ndindex(*map(len, axes)):
            chosen = [axis[k] for axis, k in zip(axes, pixel, strict=True)]
            if None not in [i for i, _ in chosen]:
                weight = math.prod(weight for _, weight in chosen)
                out[(n, slice(None), *index)] += weight * x[(n, slice(None), *(i for i, _ in chosen))]
    return out


def taps(number, size, mode, padding_mode, align_corners):
    """Return (index, weight) of the pixels along one axis; the index is None outside the image."""
    at = (number + 1) / 2 * (size - 1) if align_corners else ((number + 1) * size - 1) / 2
    if mode != "bicubic":
        at = inside(at, size, padding_mode, align_corners)
    first = math.floor(at)
    if mode == "nearest":
        found = [(round(at), 1)]
    elif mode == "bilinear":
        found = [(i, 1 - abs(at - i)) for i in (first, first + 1)]
    else:
        found = [
            (round(inside(i, size, padding_mode, align_corners)), cubic(abs(at - i), -0.75))
            for i in range(first - 1, first + 3)
        ]
    return [(i if 0 <= i < size else None, weight) for i, weight in found]


def inside(at, size, padding_mode, align_corners):
    """Move a coordinate into the image, unless there are zeros outside."""
    if padding_mode == "zeros":
        return at
    if padding_mode == "reflection":
        low, high = (0, size - 1) if align_corners else (-0.5, size - 0.5)
        while high > low and not low <= at <= high:
            at = 2 * low - at if at < low else 2 * high - at
    return min(max(at, 0), size - 1)


def affine_grid(theta, size, align_corners=False):
    n_images, _, *sizes = size
    out = np.empty((n_images, *sizes, len(sizes)))
    for n, *index in np.ndindex(n_images, *sizes):
        point = [
            2 * i / max(length - 1, 1) - (length > 1) if align_corners else (2 * i + 1) / length - 1
            for i, length in zip(index, sizes, strict=True)
        ]
        out[(n, *index)] = theta[n] @ [*point[::-1], 1]
    return out
