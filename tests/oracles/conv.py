"""Convolution by its definition, and as a matrix product."""

import numpy as np


def pad_sides(x, padding):
    """Pad H and W with zeros; `padding` is (top, bottom, left, right)."""
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def conv2d_loops(x, weight, bias=None, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """The definition: one output at a time."""
    x = pad_sides(x.astype(np.float64), padding)
    n_images, _, height, width = x.shape
    filters, per_group, kh, kw = weight.shape
    oh = (height - ((kh - 1) * dilation[0] + 1)) // stride[0] + 1
    ow = (width - ((kw - 1) * dilation[1] + 1)) // stride[1] + 1
    out = np.zeros((n_images, filters, oh, ow))
    for n in range(n_images):
        for o in range(filters):
            g = o // (filters // groups)
            for y in range(oh):
                for xx in range(ow):
                    for c in range(per_group):
                        for r in range(kh):
                            for s in range(kw):
                                h, w = y * stride[0] + r * dilation[0], xx * stride[1] + s * dilation[1]
                                out[n, o, y, xx] += x[n, g * per_group + c, h, w] * np.float64(weight[o, c, r, s])
            if bias is not None:
                out[n, o] += bias[o]
    return out


def im2col(x, kernel, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)):
    """Return columns of unrolled windows, (N, C * KH * KW, OH * OW), channels slowest: X_col of the textbooks."""
    x = pad_sides(x.astype(np.float64), padding)
    n_images, channels, height, width = x.shape
    oh = (height - ((kernel[0] - 1) * dilation[0] + 1)) // stride[0] + 1
    ow = (width - ((kernel[1] - 1) * dilation[1] + 1)) // stride[1] + 1
    columns = np.zeros((n_images, channels, *kernel, oh, ow))
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            h, w = r * dilation[0], s * dilation[1]
            columns[:, :, r, s] = x[:, :, h : h + oh * stride[0] : stride[0], w : w + ow * stride[1] : stride[1]]
    return columns.reshape(n_images, channels * kernel[0] * kernel[1], oh * ow), (oh, ow)


def col2im(columns, size, kernel, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)):
    """Add every entry of the columns to the pixel that im2col took it from."""
    pixels = np.arange(size[0] * size[1]).reshape(1, 1, *size) + 1.0  # 0 stands for the padding
    source, _ = im2col(pixels, kernel, stride, padding, dilation)
    taps = kernel[0] * kernel[1]
    channels = columns.shape[1] // taps
    image = np.zeros((len(columns), channels, size[0] * size[1] + 1))
    for n in range(len(columns)):
        for c in range(channels):
            np.add.at(image[n, c], source[0].astype(int), columns[n, c * taps : (c + 1) * taps])
    return image[:, :, 1:].reshape(len(columns), channels, *size)


def conv2d(x, weight, bias=None, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """Multiply W_row by X_col, group by group: the same sums as `conv2d_loops`, but fast enough for many shapes."""
    filters, per_group, kh, kw = weight.shape
    outputs = []
    for g in range(groups):
        columns, (oh, ow) = im2col(x[:, g * per_group : (g + 1) * per_group], (kh, kw), stride, padding, dilation)
        rows = weight[g * filters // groups : (g + 1) * filters // groups].reshape(filters // groups, -1)
        outputs.append((rows.astype(np.float64) @ columns).reshape(len(x), filters // groups, oh, ow))
    out = np.concatenate(outputs, axis=1)
    return out if bias is None else out + bias.astype(np.float64)[:, None, None]


def _pairs(x_shape, weight_shape, stride, padding, dilation, groups):
    """Yield the products of the definition: indices of the output, of the input (inside the image) and the weight."""
    n_images, _, height, width = x_shape
    filters, per_group, kh, kw = weight_shape
    oh = (height + padding[0] + padding[1] - ((kh - 1) * dilation[0] + 1)) // stride[0] + 1
    ow = (width + padding[2] + padding[3] - ((kw - 1) * dilation[1] + 1)) // stride[1] + 1
    for n, o, y, x, c, r, s in np.ndindex(n_images, filters, oh, ow, per_group, kh, kw):
        h, w = y * stride[0] + r * dilation[0] - padding[0], x * stride[1] + s * dilation[1] - padding[2]
        if 0 <= h < height and 0 <= w < width:
            yield (n, o, y, x), (n, o // (filters // groups) * per_group + c, h, w), (o, c, r, s)


def conv2d_input_gradient_loops(gradient, weight, x_shape, stride, padding, dilation, groups):
    """The definition: add the gradient of every product of the convolution to its input."""
    out = np.zeros(x_shape)
    for output, source, tap in _pairs(x_shape, weight.shape, stride, padding, dilation, groups):
        out[source] += np.float64(gradient[output]) * weight[tap]
    return out


def conv2d_weight_gradient_loops(gradient, x, weight_shape, stride, padding, dilation, groups):
    """The definition: add the gradient of every product of the convolution to its weight."""
    out = np.zeros(weight_shape)
    for output, source, tap in _pairs(x.shape, weight_shape, stride, padding, dilation, groups):
        out[tap] += np.float64(gradient[output]) * x[source]
    return out


def _as_matrices(images):
    """Reshape to (N, C, H * W)."""
    return images.astype(np.float64).reshape(*images.shape[:2], images.shape[2] * images.shape[3])


def conv2d_input_gradient(gradient, weight, x_shape, stride, padding, dilation, groups):
    """The adjoint of `conv2d`: the transposed W_row times the gradient, and then col2im."""
    filters, _, kh, kw = weight.shape
    each = filters // groups
    images = []
    for g in range(groups):
        rows = weight[g * each : (g + 1) * each].reshape(each, -1).astype(np.float64)
        columns = rows.T @ _as_matrices(gradient[:, g * each : (g + 1) * each])
        images.append(col2im(columns, x_shape[2:], (kh, kw), stride, padding, dilation))
    return np.concatenate(images, axis=1)


def conv2d_weight_gradient(gradient, x, weight_shape, stride, padding, dilation, groups):
    """The gradient times the transposed X_col, summed over the images."""
    filters, per_group, kh, kw = weight_shape
    each = filters // groups
    weights = []
    for g in range(groups):
        columns, _ = im2col(x[:, g * per_group : (g + 1) * per_group], (kh, kw), stride, padding, dilation)
        rows = _as_matrices(gradient[:, g * each : (g + 1) * each])
        weights.append((rows @ columns.transpose(0, 2, 1)).sum(axis=0).reshape(each, per_group, kh, kw))
    return np.concatenate(weights)


def conv1d_loops(x, weight, bias=None, stride=1, padding=(0, 0), dilation=1, groups=1):
    """The definition: one output at a time."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), padding))
    filters, per_group, kernel = weight.shape
    length = (x.shape[2] - ((kernel - 1) * dilation + 1)) // stride + 1
    out = np.zeros((len(x), filters, length))
    for n, o, i, c, s in np.ndindex(*out.shape, per_group, kernel):
        channel = o // (filters // groups) * per_group + c
        out[n, o, i] += x[n, channel, i * stride + s * dilation] * np.float64(weight[o, c, s])
    return out if bias is None else out + bias.astype(np.float64)[:, None]


def _taps_3d(x_shape, weight_shape, stride, padding, dilation, groups):
    """Return the padded shape, the output size and, for each tap, the slices of the padded input that it reads."""
    padded = [size + padding[2 * i] + padding[2 * i + 1] for i, size in enumerate(x_shape[2:])]
    kernel = weight_shape[2:]
    sizes = [(padded[i] - ((kernel[i] - 1) * dilation[i] + 1)) // stride[i] + 1 for i in range(3)]
    each, per_group = weight_shape[0] // groups, weight_shape[1]
    taps = []
    for tap in np.ndindex(*kernel):
        first = [tap[i] * dilation[i] for i in range(3)]
        met = tuple(slice(first[i], first[i] + (sizes[i] - 1) * stride[i] + 1, stride[i]) for i in range(3))
        for g in range(groups):
            outputs, inputs = slice(g * each, (g + 1) * each), slice(g * per_group, (g + 1) * per_group)
            taps.append(((outputs, slice(None), *tap), (slice(None), inputs, *met), outputs))
    return (*x_shape[:2], *padded), sizes, taps


def conv3d(x, weight, bias=None, stride=(1, 1, 1), padding=(0,) * 6, dilation=(1, 1, 1), groups=1):
    """The definition, tap by tap; `padding` is (front, back, top, bottom, left, right)."""
    _, sizes, taps = _taps_3d(x.shape, weight.shape, stride, padding, dilation, groups)
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *zip(padding[::2], padding[1::2], strict=True)))
    out = np.zeros((len(x), len(weight), *sizes))
    for tap, met, outputs in taps:
        out[:, outputs] += np.einsum("ncdhw,oc->nodhw", x[met], weight[tap].astype(np.float64))
    return out if bias is None else out + bias.astype(np.float64)[:, None, None, None]


def conv3d_input_gradient(gradient, weight, x_shape, stride, padding, dilation, groups):
    """Add each tap's gradient to the input that it reads."""
    padded, _, taps = _taps_3d(x_shape, weight.shape, stride, padding, dilation, groups)
    out = np.zeros(padded)
    for tap, met, outputs in taps:
        out[met] += np.einsum("nodhw,oc->ncdhw", gradient[:, outputs].astype(np.float64), weight[tap])
    inside = (slice(padding[2 * i], padding[2 * i] + size) for i, size in enumerate(x_shape[2:]))
    return out[(slice(None), slice(None), *inside)]


def conv3d_weight_gradient(gradient, x, weight_shape, stride, padding, dilation, groups):
    """Sum each tap's gradient for its weights."""
    _, _, taps = _taps_3d(x.shape, weight_shape, stride, padding, dilation, groups)
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *zip(padding[::2], padding[1::2], strict=True)))
    out = np.zeros(weight_shape)
    for tap, met, outputs in taps:
        out[tap] = np.einsum("nodhw,ncdhw->oc", gradient[:, outputs].astype(np.float64), x[met])
    return out
