"""Pooling of signals (N, C, L), computed as that of images of one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from convlane.functional._arguments import Array, Indices, checking, shape_of
from convlane.functional._axes import Padding1d, as_numbers, as_sides_of_axes
from convlane.functional.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    lp_pool2d,
    max_pool2d,
    pool_geometry,
)
from convlane.functional.rearrange import squeeze, unsqueeze

Single: TypeAlias = "int | tuple[int]"


def max_pool1d(
    input: Array,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Padding1d = 0,
    dilation: Single = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Indices]:
    """Take the maximum of each window of a signal.

    Parameters
    ----------
    input
        float32, (N, C, L) or one signal (C, L), any strides; channels last, (N, L, C) in memory, is read without a
        copy.
    kernel_size, dilation
        An integer.
    stride
        The same; None means the kernel's size.
    padding
        An integer, a pair (left, right) or a name as in `conv2d`; at most half of the dilated kernel on each side.
    ceil_mode
        As in `max_pool2d`, also for NaNs.
    return_indices
        Whether to also return the indices of the maxima.

    Returns
    -------
    numpy.ndarray or tuple of two
        float32, (N, C, OL), channels last in memory. With `return_indices` also int64 of the same shape, the positions
        in the signal, as from `max_pool2d`.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import max_pool1d
    >>> max_pool1d(np.array([[1, 5, 2, 4]], np.float32), 2, return_indices=True)
    (array([[5., 4.]], dtype=float32), array([[1, 3]]))
    """
    windows = _windows("max_pool1d", input, kernel_size, stride, padding, dilation, ceil_mode)
    return _pooled("max_pool1d", max_pool2d, input, windows, return_indices=bool(return_indices))  # type: ignore[no-any-return]


def avg_pool1d(
    input: Array,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Padding1d = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Take the average of each window of a signal.

    Parameters
    ----------
    input, kernel_size, stride, padding, ceil_mode
        As in `max_pool1d`.
    count_include_pad
        As in `avg_pool2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, OL), channels last in memory.

    Raises
    ------
    TypeError, ValueError
        As in `max_pool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import avg_pool1d
    >>> avg_pool1d(np.array([[1, 5, 2, 4]], np.float32), 2)
    array([[3., 3.]], dtype=float32)
    """
    windows = _windows("avg_pool1d", input, kernel_size, stride, padding, 1, ceil_mode)
    del windows["dilation"]
    return _pooled("avg_pool1d", avg_pool2d, input, windows, count_include_pad=bool(count_include_pad))  # type: ignore[no-any-return]


def lp_pool1d(
    input: Array, norm_type: float, kernel_size: Single, stride: Single | None = None, ceil_mode: bool = False
) -> Array:
    """Take the p-norm of each window of a signal: ``(sum of |x|**p) ** (1 / p)``.

    It differs from torch's function as `lp_pool2d` does, also in its gradients.

    Parameters
    ----------
    input, kernel_size, stride, ceil_mode
        As in `max_pool1d`.
    norm_type
        As in `lp_pool2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, OL), channels last in memory.

    Raises
    ------
    TypeError, ValueError
        As in `max_pool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import lp_pool1d
    >>> lp_pool1d(np.array([[3, -4, 0, 1]], np.float32), 2, 2)
    array([[5., 1.]], dtype=float32)
    """
    windows = _windows("lp_pool1d", input, kernel_size, stride, 0, 1, ceil_mode)
    del windows["dilation"], windows["padding"]
    return _pooled("lp_pool1d", lp_pool2d, input, windows, norm_type=norm_type)  # type: ignore[no-any-return]


def adaptive_avg_pool1d(input: Array, output_size: Single) -> Array:
    """Average windows of a signal, chosen so that the output has a given size.

    Parameters
    ----------
    input
        As in `max_pool1d`.
    output_size
        An integer; the windows are those of `adaptive_avg_pool2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, output_size), channels last in memory.

    Raises
    ------
    TypeError, ValueError
        As in `max_pool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import adaptive_avg_pool1d
    >>> adaptive_avg_pool1d(np.arange(5, dtype=np.float32).reshape(1, 5), 2)
    array([[1., 3.]], dtype=float32)
    """
    return _pooled("adaptive_avg_pool1d", adaptive_avg_pool2d, input, _size("adaptive_avg_pool1d", output_size))  # type: ignore[no-any-return]


def adaptive_max_pool1d(
    input: Array, output_size: Single, return_indices: bool = False
) -> Array | tuple[Array, Indices]:
    """Take the maximum of windows of a signal, chosen so that the output has a given size.

    Parameters
    ----------
    input, output_size
        As in `adaptive_avg_pool1d`.
    return_indices
        As in `max_pool1d`.

    Returns
    -------
    numpy.ndarray or tuple of two
        As from `max_pool1d`.

    Raises
    ------
    TypeError, ValueError
        As in `max_pool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import adaptive_max_pool1d
    >>> adaptive_max_pool1d(np.arange(5, dtype=np.float32).reshape(1, 5), 2)
    array([[2., 4.]], dtype=float32)
    """
    size = _size("adaptive_max_pool1d", output_size)
    return _pooled("adaptive_max_pool1d", adaptive_max_pool2d, input, size, return_indices=bool(return_indices))  # type: ignore[no-any-return]


def _pooled(name: str, operation: Callable[..., Any], input: Any, windows: dict[str, Any], **options: Any) -> Any:
    """Pool a signal as an image with an operation and these arguments; errors name the function `name`."""
    arguments = windows | options
    with checking(input):
        shape = _signal_shape(name, input)
        pool_geometry(operation.__name__, name, ((1, *shape)[-3], shape[-2], 1, shape[-1]), arguments)
    result = operation(unsqueeze(input, -2), **arguments)
    return tuple(map(_as_signal, result)) if isinstance(result, tuple) else _as_signal(result)


def _as_signal(image: Any) -> Any:
    return squeeze(image, -2)


def _signal_shape(name: str, input: Any) -> tuple[int, ...]:
    shape = shape_of(input, name)
    if len(shape) not in (2, 3):
        raise ValueError(f"{name}: input must be (N, C, L) or one signal (C, L), got shape {shape}")
    return shape


def _windows(
    name: str, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> dict[str, Any]:
    kernel, dilation = as_numbers(kernel_size, name, "kernel_size", 1), as_numbers(dilation, name, "dilation", 1)
    stride = kernel if stride is None else as_numbers(stride, name, "stride", 1)
    with checking(input):
        length = _signal_shape(name, input)[-1:]
        (sides,) = as_sides_of_axes(padding, name, kernel, stride, dilation, length)
    return {
        "kernel_size": (1, *kernel),
        "stride": (1, *stride),
        "padding": padding if isinstance(padding, str) else (0, 0, *sides),
        "dilation": (1, *dilation),
        "ceil_mode": bool(ceil_mode),
    }


def _size(name: str, output_size: Any) -> dict[str, Any]:
    return {"output_size": (1, *as_numbers(output_size, name, "output_size", 1))}
