"""Pooling: the maximum, the average or the p-norm of windows of each channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane.functional._arguments import (
    Array,
    Indices,
    Padding,
    Pair,
    as_array,
    as_float,
    as_image,
    as_int,
    as_window,
)
from convlane.functional._op import DType, Pullback, Shape, Traits, float32, int64, op, unless_shape_changes
from convlane.functional._receptive import ROWS_AND_COLUMNS, Axis, Receptive, first_shape, windows

OutputSize: TypeAlias = "int | tuple[int | None, int | None] | None"


_TRAITS = Traits(reads_any_layout=True, reads_slices=True, writes_slices=True)
"""The traits of every pooling."""

_ADAPTIVE = replace(_TRAITS, identity=unless_shape_changes)  # if the size stays the same, windows are single pixels


def _window(op_name: str) -> Callable[..., Any]:
    def window(
        input: Any, kernel_size: Any, stride: Any, padding: Padding = 0, dilation: Any = 1, **_: Any
    ) -> tuple[Pair, Pair, Any, Pair]:
        return as_window(op_name, input.shape[-2:], kernel_size, stride, padding, dilation)

    return window


def _adaptive(shape: Callable[..., Any]) -> Receptive:
    def rule(axis: Axis, name: str, **arguments: Any) -> Axis:
        return axis.adaptive(first_shape(shape(**arguments))[axis.dim]) if axis.dim in ROWS_AND_COLUMNS else axis

    return rule


def _global(axis: Axis, name: str, **arguments: Any) -> Axis:
    return axis.whole() if axis.dim in ROWS_AND_COLUMNS else axis


def _window_shape(
    op_name: str, input: Any, kernel_size: Any, stride: Any, padding: Padding, dilation: Any, ceil_mode: bool
) -> Shape:
    batch = (1,) if len(input.shape) == 3 else ()
    geometry = as_window(op_name, input.shape[-2:], kernel_size, stride, padding, dilation)
    return _core.pool2d_shape(op_name, (*batch, *input.shape), *geometry, bool(ceil_mode))[len(batch) :]


def _max_pool2d_shape(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Padding = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    shape = _window_shape("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    return (shape, shape) if return_indices else shape


def _max_dtype(*_: Any, return_indices: bool = False, **__: Any) -> DType | tuple[DType, DType]:
    return (float32(), int64()) if return_indices else float32()


def _image_rule(output: Any, single: bool, back: Callable[[Array], Array]) -> tuple[Any, Pullback]:
    """Return the output or outputs and the pullback for a batch, or for the single image that was given."""
    if single:
        return _unbatched(output, single), lambda gradient: {"input": back(gradient[None])[0]}
    return output, lambda gradient: {"input": back(gradient)}


def _max_pool2d_vjp(
    wanted: frozenset[str],
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Padding,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> tuple[Any, Pullback]:
    x, single = as_image(input, "max_pool2d")
    geometry = (*as_window("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation), bool(ceil_mode))
    output, indices = _core.max_pool2d_with_indices32(x, *geometry)
    shape = x.shape
    found = (output, _as_indices(indices)) if return_indices else output
    return _image_rule(found, single, lambda g: _core.max_pool2d_gradient(g, indices, shape, *geometry))


def _as_indices(indices: NDArray[np.int32]) -> Indices:
    """Convert indices for gradients to those for users: 0 for windows in the padding."""
    return np.maximum(indices, 0).astype(np.int64)


@op(
    shape=_max_pool2d_shape,
    dtype=_max_dtype,
    vjp=_max_pool2d_vjp,
    traits=_TRAITS,
    receptive=windows(_window("max_pool2d"), _max_pool2d_shape),
)
def max_pool2d(
    input: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Indices]:
    """Take the maximum of each window.

    Padding is ignored: only values inside the image are compared. The maximum of a window with a NaN is NaN.

    Parameters
    ----------
    input
        float32, (N, C, H, W) or one image (C, H, W), any strides; channels last is read without a copy.
    kernel_size, dilation
        An integer or a pair (height, width).
    stride
        The same; None means the kernel's size.
    padding
        As in `conv2d`; at most half of the dilated kernel on each side.
    ceil_mode
        Whether to keep a last window that extends beyond the right or bottom edge, if it starts inside the image or
        its left or top padding.
    return_indices
        Whether to also return the indices of the maxima.

    Returns
    -------
    numpy.ndarray or tuple of two
        float32, (N, C, OH, OW), channels last in memory. With `return_indices` also int64 of the same shape: the
        position ``h * W + w`` in the input's plane, that of the first among equal values and of the last NaN. A dilated
        window with all taps in the padding gives minus infinity and index 0.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import max_pool2d
    >>> image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> values, indices = max_pool2d(image, 2, return_indices=True)
    >>> values
    array([[[[ 5.,  7.],
             [13., 15.]]]], dtype=float32)
    >>> indices
    array([[[[ 5,  7],
             [13, 15]]]])
    """
    x, single = as_image(input, "max_pool2d")
    geometry = as_window("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation)
    return _unbatched(_core.max_pool2d(x, *geometry, bool(ceil_mode), bool(return_indices)), single)


@op(
    shape=_max_pool2d_shape,
    dtype=int64,
    vjp="it returns indices",
    differentiable=(),
    receptive=windows(_window("max_pool2d"), _max_pool2d_shape),
)
def max_pool2d_indices(
    input: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None,
    padding: Padding,
    dilation: int | Pair,
    ceil_mode: bool,
) -> Indices:
    """Return only the second result of `max_pool2d`, for plans.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional.pool import max_pool2d_indices
    >>> max_pool2d_indices(np.array([[[1, 5, 2, 4]]], np.float32), (1, 2), None, 0, 1, False)
    array([[[1, 3]]])
    """
    x = as_array(input, "max_pool2d_indices", "input")
    _, indices = max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, True)
    return indices


def _avg_pool2d_shape(
    input: Any, kernel_size: Any, stride: Any = None, padding: Padding = 0, ceil_mode: bool = False, *_: Any, **__: Any
) -> Shape:
    return _window_shape("avg_pool2d", input, kernel_size, stride, padding, 1, ceil_mode)


def _avg_pool2d_vjp(
    wanted: frozenset[str],
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Padding,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> tuple[Array, Pullback]:
    x, single = as_image(input, "avg_pool2d")
    output = avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    kernel, stride, padding, _ = as_window("avg_pool2d", x.shape[2:], kernel_size, stride, padding, 1)
    geometry = (x.shape, kernel, stride, padding, bool(ceil_mode), bool(count_include_pad), divisor_override)
    return _image_rule(output, single, lambda g: _core.avg_pool2d_gradient(g, *geometry))


@op(
    shape=_avg_pool2d_shape,
    vjp=_avg_pool2d_vjp,
    traits=_TRAITS,
    receptive=windows(_window("avg_pool2d"), _avg_pool2d_shape),
)
def avg_pool2d(
    input: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Take the average of each window.

    Parameters
    ----------
    input, kernel_size, stride, padding, ceil_mode
        As in `max_pool2d`.
    count_include_pad
        If true, divide by the window's size inside the *padded* image, else by the number of pixels that it covers.
        (What `ceil_mode` adds beyond the padding counts in neither case.)
    divisor_override
        The number to divide the sums by instead.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, OH, OW), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range, for example a divisor of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import avg_pool2d
    >>> avg_pool2d(np.ones((1, 1, 2, 2), np.float32), 2, stride=1, padding=1)
    array([[[[0.25, 0.5 , 0.25],
             [0.5 , 1.  , 0.5 ],
             [0.25, 0.5 , 0.25]]]], dtype=float32)
    """
    x, single = as_image(input, "avg_pool2d")
    kernel, stride, padding, _ = as_window("avg_pool2d", x.shape[2:], kernel_size, stride, padding, 1)
    divisor = _divisor(divisor_override)
    y = _core.avg_pool2d(x, kernel, stride, padding, bool(ceil_mode), bool(count_include_pad), divisor)
    return y[0] if single else y


def _lp_pool2d_shape(
    input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Shape:
    return _window_shape("lp_pool2d", input, kernel_size, stride, 0, 1, ceil_mode)


def _lp_pool2d_vjp(
    wanted: frozenset[str], input: Any, norm_type: Any, kernel_size: Any, stride: Any, ceil_mode: bool
) -> tuple[Array, Pullback]:
    x, single = as_image(input, "lp_pool2d")
    power = _norm_power(norm_type)
    if math.isinf(power):
        return _largest_rule(as_array(input, "lp_pool2d", "input"), kernel_size, stride, ceil_mode)
    output = lp_pool2d(x, power, kernel_size, stride, ceil_mode)
    kernel, stride, padding, _ = as_window("lp_pool2d", x.shape[2:], kernel_size, stride, 0, 1)
    average = (x.shape, kernel, stride, padding, bool(ceil_mode), False, None)

    def back(gradient: Array) -> Array:
        # y**p is the mean of |x|**p times the kernel's size, so dy/dx is x's share of the mean times y**(1 - p), which
        # depends on the window, times |x|**(p - 1) and x's sign, which depend on the pixel.
        with np.errstate(all="ignore"):
            of_window = np.float32(math.prod(kernel)) * gradient * output ** np.float32(1 - power)
            of_window[output == 0] = 0
            of_pixel = x if power == 2 else np.sign(x) * np.abs(x) ** np.float32(power - 1)
            if power < 1:
                of_pixel[x == 0] = 0
        return _core.binary("mul", _core.avg_pool2d_gradient(of_window, *average), of_pixel)

    return _image_rule(output, single, back)


def _largest_rule(x: Array, kernel_size: Any, stride: Any, ceil_mode: bool) -> tuple[Array, Pullback]:
    """Return the largest absolute values, and the pullback that puts gradients, with signs, at their positions."""
    wanted = frozenset({"input"})
    output, of_largest = _max_pool2d_vjp(wanted, np.abs(x), kernel_size, stride, 0, 1, ceil_mode, False)
    signs = np.sign(x)
    return output, lambda gradient: {"input": of_largest(gradient)["input"] * signs}


@op(
    shape=_lp_pool2d_shape,
    vjp=_lp_pool2d_vjp,
    traits=_TRAITS,
    receptive=windows(_window("lp_pool2d"), _lp_pool2d_shape),
)
def lp_pool2d(
    input: Array,
    norm_type: float,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    ceil_mode: bool = False,
) -> Array:
    """Take the p-norm of each window: ``(sum of |x|**p) ** (1 / p)``.

    torch sums ``x**p`` instead, which is the same for even p; for other p it gives NaN where negative values outweigh
    the others. As in torch, a window that `ceil_mode` lets extend beyond the edge has its sum scaled up to the full
    kernel. Values of 0 and windows of zeros, where the norm may have no derivative, have a gradient of 0 (in torch,
    often NaN).

    Parameters
    ----------
    input, kernel_size, stride, ceil_mode
        As in `max_pool2d`.
    norm_type
        The exponent p, larger than 0; 2 is fast, and infinity means the maximum of the absolute values.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, OH, OW), channels last in memory. A power that exceeds the range of float32 is infinite.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import lp_pool2d
    >>> lp_pool2d(np.array([[[3, -4]]], np.float32), 2, (1, 2))
    array([[[5.]]], dtype=float32)
    """
    x, single = as_image(input, "lp_pool2d")
    power = _norm_power(norm_type)
    kernel, stride, padding, dilation = as_window("lp_pool2d", x.shape[2:], kernel_size, stride, 0, 1)
    if math.isinf(power):
        y: Any = _core.max_pool2d(np.abs(x), kernel, stride, padding, dilation, bool(ceil_mode), False)
    else:
        y = _core.lp_pool2d(x, power, kernel, stride, bool(ceil_mode))
    return y[0] if single else y  # type: ignore[no-any-return]


def _norm_power(norm_type: Any, op_name: str = "lp_pool2d") -> float:
    power = as_float(norm_type, op_name, "norm_type")
    if not power > 0:
        raise ValueError(f"{op_name}: norm_type must be larger than 0, got {norm_type}")
    return power


def _divisor(divisor_override: Any, op_name: str = "avg_pool2d") -> int | None:
    divisor = None if divisor_override is None else as_int(divisor_override, op_name, "divisor_override")
    if divisor == 0:
        raise ValueError(f"{op_name}: divisor_override must not be 0")
    return divisor


def pool_geometry(operation: str, op_name: str, image: Any, at: Mapping[str, Any]) -> _core.PoolGeometry:
    """Return the geometry of pooling images.

    Parameters
    ----------
    operation
        One of the functions of this file.
    op_name
        The name of the function in error messages.
    image
        The shape of the images, (N, C, H, W).
    at
        The function's arguments by name, without the input. Those with defaults may be left out, except `stride` and
        `ceil_mode`.
    """
    kind = "max" if "max" in operation else "power" if operation == "lp_pool2d" else "average"
    if "kernel_size" not in at:
        size = pooled_size(op_name, at.get("output_size", 1), image[2:])
        return _core.PoolGeometry.adaptive(op_name, kind, image, size)
    window = as_window(op_name, image[2:], at["kernel_size"], at["stride"], at.get("padding", 0), at.get("dilation", 1))
    counted, divisor = bool(at.get("count_include_pad", True)), _divisor(at.get("divisor_override"), op_name)
    power = _norm_power(at["norm_type"], op_name) if kind == "power" else 0.0
    return _core.PoolGeometry(op_name, kind, image, *window, bool(at["ceil_mode"]), counted, divisor, power)


def pooled_size(op_name: str, value: Any, size: Any) -> Pair:
    """Return an output size as a pair; None keeps the input's size."""
    height, width = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    return (
        size[0] if height is None else as_int(height, op_name, "output_size"),
        size[1] if width is None else as_int(width, op_name, "output_size"),
    )


def _adaptive_shape(op_name: str, input: Any, output_size: Any) -> Shape:
    batch = (1,) if len(input.shape) == 3 else ()
    output = pooled_size(op_name, output_size, input.shape[-2:])
    return _core.adaptive_pool2d_shape(op_name, (*batch, *input.shape), output)[len(batch) :]


def _adaptive_avg_pool2d_shape(input: Any, output_size: Any) -> Shape:
    return _adaptive_shape("adaptive_avg_pool2d", input, output_size)


def _adaptive_max_pool2d_shape(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    shape = _adaptive_shape("adaptive_max_pool2d", input, output_size)
    return (shape, shape) if return_indices else shape


def _adaptive_avg_rule(op_name: str, input: Any, output_size: Any) -> tuple[Array, Pullback]:
    x, single = as_image(input, op_name)
    shape, size = x.shape, pooled_size(op_name, output_size, x.shape[2:])
    output = _core.adaptive_avg_pool2d(op_name, x, size)
    return _image_rule(output, single, lambda g: _core.adaptive_avg_pool2d_gradient(g, shape, size))


def _adaptive_max_rule(
    op_name: str, input: Any, output_size: Any, return_indices: bool = False
) -> tuple[Any, Pullback]:
    x, single = as_image(input, op_name)
    shape, size = x.shape, pooled_size(op_name, output_size, x.shape[2:])
    output, indices = _core.adaptive_max_pool2d_with_indices32(op_name, x, size)
    found = (output, _as_indices(indices)) if return_indices else output
    return _image_rule(found, single, lambda g: _core.adaptive_max_pool2d_gradient(g, indices, shape, size))


def _adaptive_avg_pool2d_vjp(wanted: frozenset[str], input: Any, output_size: Any) -> tuple[Array, Pullback]:
    return _adaptive_avg_rule("adaptive_avg_pool2d", input, output_size)


def _adaptive_max_pool2d_vjp(
    wanted: frozenset[str], input: Any, output_size: Any, return_indices: bool
) -> tuple[Any, Pullback]:
    return _adaptive_max_rule("adaptive_max_pool2d", input, output_size, return_indices)


def _global_avg_pool2d_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    return _adaptive_avg_rule("global_avg_pool2d", input, 1)


def _global_max_pool2d_vjp(wanted: frozenset[str], input: Any) -> tuple[Array, Pullback]:
    return _adaptive_max_rule("global_max_pool2d", input, 1)


@op(
    shape=_adaptive_avg_pool2d_shape,
    vjp=_adaptive_avg_pool2d_vjp,
    traits=replace(_ADAPTIVE, averages=True),
    receptive=_adaptive(_adaptive_avg_pool2d_shape),
)
def adaptive_avg_pool2d(input: Array, output_size: OutputSize) -> Array:
    """Average windows chosen so that the output has a given size.

    Output row y covers the input rows from ``floor(y * H / OH)`` to ``ceil((y + 1) * H / OH) - 1``, columns likewise.

    Parameters
    ----------
    input
        As in `max_pool2d`.
    output_size
        An integer or a pair (height, width); None keeps the input's size.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, OH, OW), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import adaptive_avg_pool2d
    >>> adaptive_avg_pool2d(np.arange(5, dtype=np.float32).reshape(1, 1, 5), (1, 2))
    array([[[1., 3.]]], dtype=float32)
    """
    x, single = as_image(input, "adaptive_avg_pool2d")
    y = _core.adaptive_avg_pool2d(
        "adaptive_avg_pool2d", x, pooled_size("adaptive_avg_pool2d", output_size, x.shape[2:])
    )
    return y[0] if single else y


@op(
    shape=_adaptive_max_pool2d_shape,
    dtype=_max_dtype,
    vjp=_adaptive_max_pool2d_vjp,
    traits=_ADAPTIVE,
    receptive=_adaptive(_adaptive_max_pool2d_shape),
)
def adaptive_max_pool2d(
    input: Array, output_size: OutputSize, return_indices: bool = False
) -> Array | tuple[Array, Indices]:
    """Take the maximum of windows chosen so that the output has a given size.

    Parameters
    ----------
    input, output_size
        As in `adaptive_avg_pool2d`, with the same windows.
    return_indices
        As in `max_pool2d`, also for NaNs and equal values.

    Returns
    -------
    numpy.ndarray or tuple of two
        As returned by `max_pool2d`.

    Raises
    ------
    TypeError, ValueError
        As in `adaptive_avg_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import adaptive_max_pool2d
    >>> adaptive_max_pool2d(np.arange(5, dtype=np.float32).reshape(1, 1, 5), (None, 2))
    array([[[2., 4.]]], dtype=float32)
    """
    x, single = as_image(input, "adaptive_max_pool2d")
    output = pooled_size("adaptive_max_pool2d", output_size, x.shape[2:])
    return _unbatched(_core.adaptive_max_pool2d("adaptive_max_pool2d", x, output, bool(return_indices)), single)


@op(
    shape=_adaptive_max_pool2d_shape,
    dtype=int64,
    vjp="it returns indices",
    differentiable=(),
    receptive=_adaptive(_adaptive_max_pool2d_shape),
)
def adaptive_max_pool2d_indices(input: Array, output_size: OutputSize) -> Indices:
    """Return only the second result of `adaptive_max_pool2d`, for plans.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional.pool import adaptive_max_pool2d_indices
    >>> adaptive_max_pool2d_indices(np.array([[[1, 5, 2, 4]]], np.float32), (1, 2))
    array([[[1, 3]]])
    """
    _, indices = adaptive_max_pool2d(as_array(input, "adaptive_max_pool2d_indices", "input"), output_size, True)
    return indices


def _global_avg_pool2d_shape(input: Any) -> Shape:
    return _adaptive_shape("global_avg_pool2d", input, 1)


def _global_max_pool2d_shape(input: Any) -> Shape:
    return _adaptive_shape("global_max_pool2d", input, 1)


@op(
    shape=_global_avg_pool2d_shape,
    vjp=_global_avg_pool2d_vjp,
    traits=replace(_TRAITS, averages=True),
    receptive=_global,
)
def global_avg_pool2d(input: Array) -> Array:
    """Average each channel's plane: (N, C, H, W) to (N, C, 1, 1).

    Parameters
    ----------
    input
        As in `max_pool2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, 1, 1).

    Raises
    ------
    TypeError, ValueError
        As in `adaptive_avg_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import global_avg_pool2d
    >>> global_avg_pool2d(np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2))
    array([[[[1.5]]]], dtype=float32)
    """
    x, single = as_image(input, "global_avg_pool2d")
    y = _core.adaptive_avg_pool2d("global_avg_pool2d", x, (1, 1))
    return y[0] if single else y


@op(shape=_global_max_pool2d_shape, vjp=_global_max_pool2d_vjp, traits=_TRAITS, receptive=_global)
def global_max_pool2d(input: Array) -> Array:
    """Take the maximum of each channel's plane: (N, C, H, W) to (N, C, 1, 1).

    Parameters
    ----------
    input
        As in `max_pool2d`, also for NaNs.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, 1, 1).

    Raises
    ------
    TypeError, ValueError
        As in `adaptive_avg_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import global_max_pool2d
    >>> global_max_pool2d(np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2))
    array([[[[3.]]]], dtype=float32)
    """
    x, single = as_image(input, "global_max_pool2d")
    y: Any = _core.adaptive_max_pool2d("global_max_pool2d", x, (1, 1), False)
    return y[0] if single else y  # type: ignore[no-any-return]


def _unbatched(result: Array | tuple[Array, Indices], single: bool) -> Array | tuple[Array, Indices]:
    if not single:
        return result
    return (result[0][0], result[1][0]) if isinstance(result, tuple) else result[0]
