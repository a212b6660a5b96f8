"""Operations that move numbers, and matrix products, one index at a time."""

import numpy as np


def permute(x, dims):
    out = np.empty([x.shape[dim] for dim in dims], x.dtype)
    for index in np.ndindex(x.shape):
        out[tuple(index[dim] for dim in dims)] = x[index]
    return out


def tile(x, dims):
    ndim = max(x.ndim, len(dims))
    shape, repeats = (1,) * (ndim - x.ndim) + x.shape, (1,) * (ndim - len(dims)) + tuple(dims)
    out = np.empty([size * repeat for size, repeat in zip(shape, repeats, strict=True)], x.dtype)
    for index in np.ndindex(out.shape):
        out[index] = x.reshape(shape)[tuple(i % size for i, size in zip(index, shape, strict=True))]
    return out


def index_select(x, dim, index):
    rows = np.moveaxis(x, dim, 0)
    return np.moveaxis(np.stack([rows[i] for i in index]), 0, dim)


def gather(x, dim, index):
    out = np.empty(index.shape, x.dtype)
    for position in np.ndindex(index.shape):
        source = list(position)
        source[dim] = index[position]
        out[position] = x[tuple(source)]
    return out


def matmul(a, b):
    """The product of matrices, or of stacks of them, whose leading dimensions broadcast."""
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, stack + a.shape[-2:]), np.broadcast_to(b, stack + b.shape[-2:])
    out = np.zeros((*stack, a.shape[-2], b.shape[-1]))
    for k in range(a.shape[-1]):
        out += a[..., :, k, None] * b[..., k, None, :]
    return out
