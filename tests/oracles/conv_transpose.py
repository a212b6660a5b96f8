"""Transposed convolution by its definition, for any number of dimensions, and its gradients."""

import numpy as np

_ALL = slice(None)


@np.errstate(invalid="ignore")  # of products with an infinity
def conv_transpose(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Each position adds the filters, times its channels, to a window; the padding is cropped from the result.

    `padding` has one number for each dimension, or two: before and after it.
    """
    windows = _Windows(x.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    x, weight = windows.grouped(x), windows.grouped_weight(weight)
    out = np.zeros(windows.shape)
    for position, tap, at in windows:
        for g in range(groups):
            out[(_ALL, g, _ALL, *at)] += x[(_ALL, g, _ALL, *position)] @ weight[(g, _ALL, _ALL, *tap)]
    out = windows.cropped(out)
    return out if bias is None else out + bias.astype(np.float64).reshape(-1, *[1] * (out.ndim - 2))


def conv_transpose_gradients(gradient, x, weight, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Return the gradients of every product of `conv_transpose`, summed for its input and its weight."""
    windows = _Windows(x.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    x_shape, weight_shape = x.shape, weight.shape
    x, weight = windows.grouped(x), windows.grouped_weight(weight)
    of_x, of_weight = np.zeros_like(x), np.zeros_like(weight)
    whole = np.zeros(windows.shape)
    windows.cropped(whole)[...] = gradient
    for position, tap, at in windows:
        for g in range(groups):
            found = whole[(_ALL, g, _ALL, *at)]
            of_x[(_ALL, g, _ALL, *position)] += found @ weight[(g, _ALL, _ALL, *tap)].T
            of_weight[(g, _ALL, _ALL, *tap)] += x[(_ALL, g, _ALL, *position)].T @ found
    return of_x.reshape(x_shape), of_weight.reshape(weight_shape)


class _Windows:
    """Yields positions, taps, and the index of their product in the uncropped result: (N, groups, O / groups, ...)."""

    def __init__(self, x_shape, weight_shape, stride, padding, output_padding, groups, dilation):
        n_images, channels, *self.size = x_shape
        _, self.per_group, *self.kernel = weight_shape
        axes = len(self.size)
        self.stride, added, self.dilation = (
            np.broadcast_to(each, axes).tolist() for each in (stride, output_padding, dilation)
        )
        pairs = np.reshape(padding, (-1, 2) if np.size(padding) == 2 * axes else (-1, 1))
        self.before, after = np.broadcast_to(pairs, (axes, 2)).T
        self.groups, self.each = groups, channels // groups
        reach = [
            (self.size[i] - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + added[i] + 1
            for i in range(axes)
        ]
        self.after = [reach[i] - after[i] for i in range(axes)]
        self.shape = (n_images, groups, self.per_group, *reach)

    def __iter__(self):
        for position in np.ndindex(*self.size):
            for tap in np.ndindex(*self.kernel):
                yield (
                    position,
                    tap,
                    [position[i] * self.stride[i] + tap[i] * self.dilation[i] for i in range(len(self.size))],
                )

    def grouped(self, x):
        return x.astype(np.float64).reshape(len(x), self.groups, self.each, *self.size)

    def grouped_weight(self, weight):
        return weight.astype(np.float64).reshape(self.groups, self.each, self.per_group, *self.kernel)

    def cropped(self, out):
        kept = (slice(before, after) for before, after in zip(self.before, self.after, strict=True))
        whole = out.view()
        whole.shape = (len(out), self.groups * self.per_group, *out.shape[3:])
        return whole[(_ALL, _ALL, *kept)]
