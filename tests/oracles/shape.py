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


def interleave(tensors):
    n_images, channels, height, width = tensors[0].shape
    out = np.empty((n_images, len(tensors) * channels, height, width))
    for c in range(channels):
        for i, tensor in enumerate(tensors):
            out[:, c * len(tensors) + i] = tensor[:, c]
    return out


def channel_shuffle(x, groups):
    """As in the paper: a matrix of groups by channels is transposed."""
    n_images, channels, height, width = x.shape
    matrix = np.reshape(x, (n_images, groups, channels // groups, height, width))
    return matrix.transpose(0, 2, 1, 3, 4).reshape(x.shape)
