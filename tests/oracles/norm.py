"""Batch, layer and local response normalisation by their definitions."""

import numpy as np


def batch_norm(x, mean, var, weight=None, bias=None, eps=1e-5):
    """Batch norm with given statistics, channel by channel; x is (N, C, ...)."""
    out = np.empty(x.shape)
    for c in range(x.shape[1]):
        normal = (x[:, c].astype(np.float64) - mean[c]) / np.sqrt(np.float64(var[c]) + eps)
        out[:, c] = normal * (1 if weight is None else weight[c]) + (0 if bias is None else bias[c])
    return out


def statistics(x):
    """Return the mean and the biased and unbiased variance of every channel."""
    values = np.moveaxis(x.astype(np.float64), 1, 0).reshape(x.shape[1], -1)
    return values.mean(axis=1), values.var(axis=1), values.var(axis=1, ddof=1)


def batch_norm_gradient(x, gradient, mean, var, weight=None, eps=1e-5, training=True):
    """Gradients of input, weight and bias, channel by channel; in training, mean and var depend on x."""
    dx, dweight, dbias = np.empty(x.shape), np.empty(x.shape[1]), np.empty(x.shape[1])
    for c in range(x.shape[1]):
        dy, deviation = gradient[:, c].astype(np.float64), 1 / np.sqrt(np.float64(var[c]) + eps)
        normal = (x[:, c].astype(np.float64) - mean[c]) * deviation
        dweight[c], dbias[c] = (dy * normal).sum(), dy.sum()
        through_statistics = (dy.mean() + normal * (dy * normal).mean()) if training else 0
        dx[:, c] = (1 if weight is None else weight[c]) * deviation * (dy - through_statistics)
    return dx, dweight, dbias


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    """Row by row over the last dimension."""
    out = np.empty(x.shape)
    for index in np.ndindex(x.shape[:-1]):
        row = x[index].astype(np.float64)
        normal = (row - row.mean()) / np.sqrt(row.var() + eps)
        out[index] = normal * (1 if weight is None else weight) + (0 if bias is None else bias)
    return out


def layer_norm_gradient(x, gradient, weight=None, eps=1e-5):
    """Gradients of input, weight and bias, row by row."""
    dx, dweight, dbias = np.empty(x.shape), np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    for index in np.ndindex(x.shape[:-1]):
        row, dy = x[index].astype(np.float64), gradient[index].astype(np.float64)
        deviation = 1 / np.sqrt(row.var() + eps)
        normal = (row - row.mean()) * deviation
        dweight += dy * normal
        dbias += dy
        dnormal = dy * (1 if weight is None else weight)
        dx[index] = deviation * (dnormal - dnormal.mean() - normal * (dnormal * normal).mean())
    return dx, dweight, dbias


def rms_norm(x, weight=None, eps=2**-23):
    """Row by row over the last dimension."""
    out = np.empty(x.shape)
    for index in np.ndindex(x.shape[:-1]):
        row = x[index].astype(np.float64)
        out[index] = row / np.sqrt((row * row).mean() + eps) * (1 if weight is None else weight)
    return out


def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
    """Group norm, group by group; x is (N, C, ...)."""
    out, size = np.empty(x.shape), x.shape[1] // groups
    for n, g in np.ndindex(x.shape[0], groups):
        values = x[n, g * size : (g + 1) * size].astype(np.float64)
        out[n, g * size : (g + 1) * size] = (values - values.mean()) / np.sqrt(values.var() + eps)
    column = (-1, *(1,) * (x.ndim - 2))
    out *= 1 if weight is None else weight.astype(np.float64).reshape(column)
    return out + (0 if bias is None else bias.astype(np.float64).reshape(column))


def group_norm_gradient(x, gradient, groups, weight=None, eps=1e-5):
    """Gradients of input, weight and bias, group by group."""
    size, axes = x.shape[1] // groups, tuple(range(1, x.ndim - 1))
    dx, dweight, dbias = np.empty(x.shape), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    factors = np.ones(x.shape[1]) if weight is None else weight.astype(np.float64)
    for n, g in np.ndindex(x.shape[0], groups):
        own = slice(g * size, (g + 1) * size)
        values, dy = x[n, own].astype(np.float64), gradient[n, own].astype(np.float64)
        deviation = 1 / np.sqrt(values.var() + eps)
        normal = (values - values.mean()) * deviation
        dweight[own] += (dy * normal).sum(axes)
        dbias[own] += dy.sum(axes)
        dnormal = dy * factors[own].reshape(-1, *(1,) * len(axes))
        dx[n, own] = deviation * (dnormal - dnormal.mean() - normal * (dnormal * normal).mean())
    return dx, dweight, dbias


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    """One output at a time; the window reaches size // 2 channels back and (size - 1) // 2 ahead."""
    x = x.astype(np.float64)
    out = np.empty(x.shape)
    for n, c, h, w in np.ndindex(x.shape):
        total = 0.0
        for i in range(c - size // 2, c + (size - 1) // 2 + 1):
            if 0 <= i < x.shape[1]:
                total += x[n, i, h, w] ** 2
        out[n, c, h, w] = x[n, c, h, w] / (k + alpha / size * total) ** beta
    return out


def local_response_norm_gradient(x, gradient, size, alpha=1e-4, beta=0.75, k=1.0):
    """One output at a time: add its gradient to each input in its window."""
    x = x.astype(np.float64)
    out = np.zeros(x.shape)
    for n, c, h, w in np.ndindex(x.shape):
        window = [i for i in range(c - size // 2, c + (size - 1) // 2 + 1) if 0 <= i < x.shape[1]]
        base = k + alpha / size * sum(x[n, i, h, w] ** 2 for i in window)
        out[n, c, h, w] += gradient[n, c, h, w] / base**beta
        for i in window:
            slope = -beta * x[n, c, h, w] / base ** (beta + 1) * alpha / size * 2 * x[n, i, h, w]
            out[n, i, h, w] += gradient[n, c, h, w] * slope
    return out
