"""Batch normalisation and local response normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_float, as_int
from convlane.functional._op import Shape, check_vector, op


def _batch_norm_shape(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> Shape:
    shape = tuple(input.shape)
    if len(shape) not in (2, 4):
        raise ValueError(f"batch_norm: input must be (N, C, H, W) or (N, C), got shape {shape}")
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, vector in vectors.items():
        check_vector("batch_norm", name, vector, shape[1])
    if not training:
        _check_present(running_mean, running_var)
    return shape


def _local_response_shape(input: Any, *args: Any, **kwargs: Any) -> Shape:
    shape = tuple(input.shape)
    if len(shape) != 4:
        raise ValueError(f"local_response_norm: input must be (N, C, H, W), got shape {shape}")
    return shape


@op(shape=_batch_norm_shape)
def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    """Normalise every channel: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    When training, mean and (biased) variance are those of the batch, and the running ones move towards them by
    ``running = (1 - momentum) * running + momentum * batch``, for the variance with the unbiased one, n / (n - 1)
    times as large, as torch has it. The statistics are summed in an order that depends on the shape only.

    Parameters
    ----------
    input
        float32, (N, C, H, W) or (N, C).
    running_mean, running_var
        float32, (C,). When training they are updated in place and may be None.
    weight, bias
        float32, (C,); 1 and 0 where not given.
    training
        Normalise with the statistics of this batch, not with the running ones.
    momentum
        The weight of the batch in the running statistics.
    eps
        Added to the variance.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`, channels last in memory. A negative variance gives NaN.

    Raises
    ------
    TypeError
        An argument of the wrong kind; when training, also running statistics that cannot be updated in place.
    ValueError
        Shapes that do not fit, missing or read-only running statistics, or training with a single value per channel.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import batch_norm
    >>> x = np.array([[1], [3]], np.float32)
    >>> mean, var = np.zeros(1, np.float32), np.ones(1, np.float32)
    >>> batch_norm(x, mean, var, training=True, eps=0)
    array([[-1.],
           [ 1.]], dtype=float32)
    >>> mean, var
    (array([0.2], dtype=float32), array([1.1], dtype=float32))

    References
    ----------
    Ioffe, Szegedy, "Batch normalization", ICML 2015. Chan, Golub, LeVeque, "Algorithms for computing the sample
    variance", The American Statistician 37, 1983.
    """
    x = as_array(input, "batch_norm", "input")
    shape = _batch_norm_shape(x, None, None, training=True)
    image = x if x.ndim == 4 else x[:, :, None, None]
    weight = None if weight is None else as_array(weight, "batch_norm", "weight")
    bias = None if bias is None else as_array(bias, "batch_norm", "bias")
    eps = as_float(eps, "batch_norm", "eps")
    if training:
        y = _train(image, running_mean, running_var, weight, bias, as_float(momentum, "batch_norm", "momentum"), eps)
    else:
        _check_present(running_mean, running_var)
        mean = as_array(running_mean, "batch_norm", "running_mean")
        y = _core.batch_norm(image, mean, as_array(running_var, "batch_norm", "running_var"), weight, bias, eps)
    return y if x.ndim == 4 else y.reshape(shape)


@op(shape=_local_response_shape)
def local_response_norm(input: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """Divide every value by a power of the mean square of its neighbours in the channels.

    ``y[c] = x[c] / (k + alpha / size * sum of x[i]^2)^beta`` over ``c - size // 2 <= i <= c + (size - 1) // 2``, with
    zeros beyond the first and the last channel. This is torch's formula; Caffe's and the paper's `alpha` differ by
    the factor `size`.

    Parameters
    ----------
    input
        float32, (N, C, H, W).
    size
        Channels in the window, at least 1.
    alpha, beta, k
        As in the formula. The exponent 0.75 is the fast one.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`, channels last in memory.

    Raises
    ------
    TypeError
        An argument of the wrong kind.
    ValueError
        If `input` is not an image, or `size` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import local_response_norm
    >>> local_response_norm(np.full((1, 1, 1, 1), 2, np.float32), size=1, alpha=1, beta=1, k=0)
    array([[[[0.5]]]], dtype=float32)

    References
    ----------
    Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012.
    """
    op = "local_response_norm"
    x = as_array(input, op, "input")
    _local_response_shape(x)
    alpha, beta, k = (as_float(value, op, name) for value, name in ((alpha, "alpha"), (beta, "beta"), (k, "k")))
    return _core.local_response_norm(x, as_int(size, op, "size"), alpha, beta, k)


def _train(
    image: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    momentum: float,
    eps: float,
) -> Array:
    channels = image.shape[1]
    _check_updatable(running_mean, "running_mean", channels)
    _check_updatable(running_var, "running_var", channels)
    values = image.shape[0] * math.prod(image.shape[2:])
    if values < 2:
        raise ValueError(f"batch_norm: training needs more than 1 value per channel, got input shape {image.shape}")
    y, mean, var = _core.batch_norm_train(image, weight, bias, eps)
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean
    if running_var is not None:
        running_var[...] = (1 - momentum) * running_var + momentum * (values / (values - 1)) * var
    return y


def _check_present(running_mean: Any, running_var: Any) -> None:
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm: running_mean and running_var are needed when not training")


def _check_updatable(running: Any, name: str, channels: int) -> None:
    if running is None:
        return
    if not isinstance(running, np.ndarray) or running.dtype != np.float32:
        kind = getattr(running, "dtype", type(running).__name__)
        raise TypeError(f"batch_norm: {name} must be a float32 array, to be updated in place, got {kind}")
    if running.shape != (channels,):
        raise ValueError(f"batch_norm: {name} must have shape ({channels},), got {running.shape}")
    if not running.flags.writeable:
        raise ValueError(f"batch_norm: {name} is read-only, but training updates it in place")
