"""Pooling by its definition: one window at a time."""

import itertools
import math

import numpy as np


def out_size(size, kernel, stride, before, after, dilation=1, ceil_mode=False):
    """Return the number of windows along an axis."""
    last = size + before + after - (dilation * (kernel - 1) + 1)
    if not ceil_mode:
        return last // stride + 1
    count = -(-last // stride) + 1
    starts_past_the_image = (count - 1) * stride >= size + before
    return count - 1 if starts_past_the_image else count


def windows(x, kernel, stride, padding=(0, 0, 0, 0), dilation=(1, 1), ceil_mode=False):
    """Yield (y, x) of each output and the lists of input rows and columns that its taps find inside the image."""
    top, bottom, left, right = padding
    oh = out_size(x.shape[2], kernel[0], stride[0], top, bottom, dilation[0], ceil_mode)
    ow = out_size(x.shape[3], kernel[1], stride[1], left, right, dilation[1], ceil_mode)
    for y in range(oh):
        for xx in range(ow):
            rows = [y * stride[0] - top + r * dilation[0] for r in range(kernel[0])]
            columns = [xx * stride[1] - left + s * dilation[1] for s in range(kernel[1])]
            yield (y, xx), [h for h in rows if 0 <= h < x.shape[2]], [w for w in columns if 0 <= w < x.shape[3]]


def adaptive_windows(x, output):
    """Like `windows`, for the windows that give an output of this size."""
    for y in range(output[0]):
        for xx in range(output[1]):
            first = [(i * size) // out for i, size, out in zip((y, xx), x.shape[2:], output, strict=True)]
            end = [math.ceil((i + 1) * size / out) for i, size, out in zip((y, xx), x.shape[2:], output, strict=True)]
            yield (y, xx), list(range(first[0], end[0])), list(range(first[1], end[1]))


def pool(x, all_windows, fold):
    """``fold(window, y, x)`` of each of `all_windows`, in float64; fold gets (N, C, rows, columns)."""
    all_windows = list(all_windows)
    oh, ow = (max((at[axis] for at, _, _ in all_windows), default=-1) + 1 for axis in range(2))
    out = np.zeros((*x.shape[:2], oh, ow))
    for (y, xx), rows, columns in all_windows:
        out[:, :, y, xx] = fold(x[:, :, rows][..., columns].astype(np.float64), y, xx)
    return out


def max_pool(x, all_windows):
    """Maxima; NaN wins. A window without pixels gives minus infinity."""
    return pool(x, all_windows, lambda window, y, xx: window.max(axis=(2, 3), initial=-np.inf))


def argmax_pool(x, all_windows):
    """Positions h * W + w of the maxima: the first of equal values, the last NaN, 0 for a window without pixels."""
    all_windows = list(all_windows)
    out = np.zeros(max_pool(x, all_windows).shape, np.int64)
    for (y, xx), rows, columns in all_windows:
        taps = [(h, w) for h in rows for w in columns]
        for n in range(x.shape[0]):
            for c in range(x.shape[1]):
                best, position = -np.inf, taps[0] if taps else (0, 0)
                for h, w in taps:
                    if x[n, c, h, w] > best or np.isnan(x[n, c, h, w]):
                        best, position = x[n, c, h, w], (h, w)
                out[n, c, y, xx] = position[0] * x.shape[3] + position[1]
    return out


def avg_pool(x, all_windows):
    """Averages over the part of each window inside the image."""
    return pool(x, all_windows, lambda window, y, xx: window.mean(axis=(2, 3)))


def avg_pool2d(x, kernel, stride, padding=(0, 0, 0, 0), ceil_mode=False, count_include_pad=True, divisor=None):
    """Sums over the part of each window inside the image, divided as torch does."""
    top, bottom, left, right = padding

    def fold(window, y, xx):
        if divisor is not None:
            count = divisor
        elif count_include_pad:
            count = min(kernel[0], x.shape[2] + top + bottom - y * stride[0])
            count *= min(kernel[1], x.shape[3] + left + right - xx * stride[1])
        else:
            count = window.shape[2] * window.shape[3]
        return window.sum(axis=(2, 3)) / count

    return pool(x, windows(x, kernel, stride, padding, ceil_mode=ceil_mode), fold)


def lp_pool2d(x, p, kernel, stride, ceil_mode=False):
    """p-norms; the sum of a window that extends beyond the edge is scaled up to the size of a whole window."""

    def fold(window, y, xx):
        return ((np.abs(window) ** p).mean(axis=(2, 3)) * kernel[0] * kernel[1]) ** (1 / p)

    return pool(x, windows(x, kernel, stride, ceil_mode=ceil_mode), fold)


def max_pool_gradient(x, gradient, all_windows):
    """Add each output's gradient to the position of its maximum; a window without pixels passes nothing."""
    all_windows = list(all_windows)
    out, indices = np.zeros(x.shape), argmax_pool(x, all_windows)
    for (y, xx), rows, columns in all_windows:
        for n, c in np.ndindex(x.shape[:2]):
            if rows and columns:
                h, w = divmod(indices[n, c, y, xx], x.shape[3])
                out[n, c, h, w] += gradient[n, c, y, xx]
    return out


def linear_gradient(forward, shape, gradient):
    """The gradient of any linear pooling: for one input pixel at a time, its contributions times the gradient."""
    out = np.zeros(shape)
    for at in np.ndindex(shape[2:]):
        one = np.zeros((1, 1, *shape[2:]))
        one[(0, 0, *at)] = 1
        out[(slice(None), slice(None), *at)] = (forward(one) * gradient).sum(axis=tuple(range(2, len(shape))))
    return out


def lp_pool2d_gradient(x, gradient, p, kernel, stride, ceil_mode=False):
    """One window and one of its pixels at a time; where the value or the norm is 0, nothing is passed."""
    x = x.astype(np.float64)
    out, norms = np.zeros(x.shape), lp_pool2d(x, p, kernel, stride, ceil_mode)
    for (y, xx), rows, columns in windows(x, kernel, stride, ceil_mode=ceil_mode):
        share = kernel[0] * kernel[1] / (len(rows) * len(columns))
        for n, c in np.ndindex(x.shape[:2]):
            for h in rows:
                for w in columns:
                    value, norm = x[n, c, h, w], norms[n, c, y, xx]
                    if value != 0 and norm != 0:
                        slope = share * (abs(value) / norm) ** (p - 1) * np.sign(value)
                        out[n, c, h, w] += slope * gradient[n, c, y, xx]
    return out


def boxes(x, kernel, stride, sides, dilation, ceil_mode=False):
    """Like `windows`, over any number of axes: yield the output's index and the window's indices along each axis.

    `sides` are pairs of padding, before and behind each axis.
    """
    axes = range(x.ndim - 2)
    counts = [out_size(x.shape[2 + i], kernel[i], stride[i], *sides[i], dilation[i], ceil_mode) for i in axes]
    for at in np.ndindex(*counts):
        taps = [[at[i] * stride[i] - sides[i][0] + tap * dilation[i] for tap in range(kernel[i])] for i in axes]
        yield at, [[tap for tap in taps[i] if 0 <= tap < x.shape[2 + i]] for i in axes]


def adaptive_boxes(x, output):
    """Like `boxes`, for the windows that give an output of this size."""
    for at in np.ndindex(*output):
        each = list(zip(at, x.shape[2:], output, strict=True))
        yield at, [list(range(i * size // out, math.ceil((i + 1) * size / out))) for i, size, out in each]


def pool_boxes(x, all_windows, fold):
    """``fold(window, at)`` of each of `all_windows`, in float64; fold gets (N, C, ...) and the index."""
    all_windows = list(all_windows)
    sizes = [max(at[axis] for at, _ in all_windows) + 1 for axis in range(x.ndim - 2)]
    out = np.zeros((*x.shape[:2], *sizes))
    for at, taps in all_windows:
        window = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *taps)].astype(np.float64)
        out[(slice(None), slice(None), *at)] = fold(window, at)
    return out


def _numbers(window):
    return window.reshape(*window.shape[:2], -1)


def max_boxes(x, all_windows):
    """Maxima; NaN wins. A window without numbers gives minus infinity."""
    return pool_boxes(x, all_windows, lambda window, at: _numbers(window).max(axis=2, initial=-np.inf))


def argmax_boxes(x, all_windows):
    """Flat indices of the maxima: the first of equal values, the last NaN."""
    all_windows = list(all_windows)
    out = np.zeros(max_boxes(x, all_windows).shape, np.int64)
    for at, taps in all_windows:
        for n, c in np.ndindex(x.shape[:2]):
            best, found = -np.inf, None
            for tap in itertools.product(*taps):
                value = x[(n, c, *tap)]
                if found is None or value > best or np.isnan(value):
                    best, found = value, tap
            out[(n, c, *at)] = 0 if found is None else np.ravel_multi_index(found, x.shape[2:])
    return out


def avg_boxes(x, all_windows):
    """Averages over each window."""
    return pool_boxes(x, all_windows, lambda window, at: _numbers(window).mean(axis=2))


def avg_pool3d(x, kernel, stride, sides, ceil_mode=False, count_include_pad=True, divisor=None):
    """Sums over each window, divided as torch does."""

    def fold(window, at):
        count = math.prod(window.shape[2:])
        if divisor is not None:
            count = divisor
        elif count_include_pad:
            ends = [x.shape[2 + i] + sum(sides[i]) - at[i] * stride[i] for i in range(3)]
            count = math.prod(min(size, end) for size, end in zip(kernel, ends, strict=True))
        return _numbers(window).sum(axis=2) / count

    return pool_boxes(x, boxes(x, kernel, stride, sides, (1, 1, 1), ceil_mode), fold)


def lp_pool3d(x, p, kernel, stride, ceil_mode=False):
    """p-norms; the sum of a window that extends beyond the edge is scaled up to the size of a whole window."""

    def fold(window, at):
        return ((np.abs(_numbers(window)) ** p).mean(axis=2) * math.prod(kernel)) ** (1 / p)

    return pool_boxes(x, boxes(x, kernel, stride, [(0, 0)] * 3, (1, 1, 1), ceil_mode), fold)


def max_boxes_gradient(x, gradient, all_windows):
    """Add each output's gradient to the position of its maximum."""
    all_windows = list(all_windows)
    out = np.zeros(x.shape)
    flat, where = out.reshape(*x.shape[:2], -1), argmax_boxes(x, all_windows)
    for at, taps in all_windows:
        for n, c in np.ndindex(x.shape[:2]):
            if all(taps):
                flat[n, c, where[(n, c, *at)]] += gradient[(n, c, *at)]
    return out


def max_unpool(x, indices, sizes):
    """Numbers at their indices in planes or volumes of these sizes, zeros elsewhere; the last of an index stays."""
    out = np.zeros((*x.shape[:2], math.prod(sizes)), x.dtype)
    for n, c in np.ndindex(x.shape[:2]):
        for value, index in zip(x[n, c].ravel(), indices[n, c].ravel(), strict=True):
            out[n, c, index] = value
    return out.reshape(*x.shape[:2], *sizes)
