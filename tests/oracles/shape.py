"""Operations that move values, one value at a time."""

import numpy as np


def cat(tensors, dim):
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    out = np.empty(shape)
    start = 0
    for tensor in tensors:
        for index in np.ndindex(tensor.shape):
            target = list(index)
            target[dim] += start
            out[tuple(target)] = tensor[index]
        start += tensor.shape[dim]
    return out


def pad(x, left, right, top, bottom):
    n_images, channels, height, width = x.shape
    out = np.zeros((n_images, channels, top + height + bottom, left + width + right))
    for n, c, h, w in np.ndindex(x.shape):
        out[n, c, top + h, left + w] = x[n, c, h, w]
    return out
