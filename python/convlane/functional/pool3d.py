"""Pooling of volumes (N, C, D, H, W): first each plane as an image, then the depth as the rows of an image.

The maximum, sum or norm of a box is that of its planes' results, and so is the average, whose divisor is a product of
one factor per axis. In memory, a volume that is channels last is both a batch of planes and an image whose rows are
whole planes, so both passes run the kernels for images without a copy.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

from convlane import _core
from convlane.functional._arguments import Array, Indices, Triple, as_array, as_int, shape_of
from convlane.functional._axes import Padding3d, as_numbers, as_sides_of_axes
from convlane.functional._op import DType, Pullback, Shape, float32, int64, op, rules, signature_of
from convlane.functional._receptive import Axis, first_shape
from convlane.functional.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    lp_pool2d,
    max_pool2d,
    pool_geometry,
)
from convlane.functional.rearrange import dense_unless_view
from convlane.functional.shape import channels_last

P = ParamSpec("P")
R = TypeVar("R")

OutputSize3d: TypeAlias = "int | tuple[int | None, int | None, int | None] | None"


class _Passes(NamedTuple):
    """A pooling of volumes as two poolings of images: the arguments for the planes and for the depth."""

    operation: Callable[..., Any]
    planes: Mapping[str, Any]
    depth: Mapping[str, Any]

    def geometries(self, shape: Shape, op_name: str) -> tuple[_core.PoolGeometry, _core.PoolGeometry]:
        """Return the geometries of both passes over a volume of this shape."""
        n, c, d, h, w = shape
        planes = pool_geometry(self.operation.__name__, op_name, (n * d, c, h, w), self.planes)
        image = (n, c, d, math.prod(planes.shape[2:]))
        return planes, pool_geometry(self.operation.__name__, op_name, image, self.depth)


_PASSES: dict[str, Callable[..., _Passes]] = {}
"""For the name of each operation, the function that returns its passes from its arguments."""


def volume_geometries(
    operation: str, shape: Shape, arguments: Mapping[str, Any]
) -> tuple[_core.PoolGeometry, _core.PoolGeometry]:
    """Return the geometry of the planes, (N * D, C, H, W), and of the depth, (N, C, D, OH * OW).

    Parameters
    ----------
    operation
        The name of a function of this file.
    shape
        (N, C, D, H, W) of the input.
    arguments
        The other arguments, by name.
    """
    return _PASSES[operation](SimpleNamespace(shape=shape), **arguments).geometries(shape, operation)


def _pooling(passes: Callable[..., _Passes]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Turn a function into an operation; `passes` takes its arguments, the first of which may only have a shape."""

    def decorate(forward: Callable[P, R]) -> Callable[P, R]:
        name, signature = forward.__name__, inspect.signature(forward)
        _PASSES[name] = passes

        def arguments(args: Any, kwargs: Any) -> dict[str, Any]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return bound.arguments

        def shape(*args: Any, **kwargs: Any) -> Any:
            given = arguments(args, kwargs)
            whole = _volume_shape(given["input"], name)
            planes, depth = passes(**given).geometries(whole, name)
            pooled = (*whole[:2], depth.shape[2], *planes.shape[2:])[5 - len(given["input"].shape) :]
            return (pooled, pooled) if given.get("return_indices") else pooled

        def dtype(*args: Any, return_indices: bool = False, **kwargs: Any) -> DType | tuple[DType, DType]:
            return (float32(), int64()) if return_indices else float32()

        def vjp(wanted: frozenset[str], **given: Any) -> tuple[Any, Pullback]:
            x = as_array(given.pop("input"), name, "input")
            shape(x, **given)
            return _recorded(x, passes(x, **given), bool(given.get("return_indices")))

        def receptive(axis: Axis, _: str, **given: Any) -> Axis:
            if axis.dim not in (-3, -2, -1):
                return axis
            found = passes(**given)
            at, i = (found.depth, 0) if axis.dim == -3 else (found.planes, axis.dim + 2)
            count = first_shape(shape(**given))[axis.dim]
            if "output_size" in at:
                return axis.adaptive(count)
            before, dilation = at.get("padding", (0, 0, 0, 0))[2 * i], at.get("dilation", (1, 1))[i]
            return axis.windows(at["kernel_size"][i], at["stride"][i], before, dilation, count)

        return op(shape=shape, dtype=dtype, vjp=vjp, receptive=receptive)(forward)

    return decorate


def _volume_shape(input: Any, name: str) -> Shape:
    """Return the shape (N, C, D, H, W) of an argument, which may lack the batch dimension."""
    shape = shape_of(input, name)
    if len(shape) not in (4, 5):
        raise ValueError(f"{name}: input must be (N, C, D, H, W) or one volume (C, D, H, W), got shape {shape}")
    return (1,) * (5 - len(shape)) + shape


def _pooled(name: str, **arguments: Any) -> Any:
    """Run an operation on an array."""
    x = as_array(arguments.pop("input"), name, "input")
    passes = _PASSES[name](x, **arguments)
    passes.geometries(_volume_shape(x, name), name)  # raises if the arguments do not fit
    if x.ndim == 4:
        return _first(_run(x[None], passes, bool(arguments.get("return_indices"))))
    return _run(x, passes, bool(arguments.get("return_indices")))


def _first(result: Any) -> Any:
    return (result[0][0], result[1][0]) if isinstance(result, tuple) else result[0]


def _run(x: Array, passes: _Passes, return_indices: bool) -> Any:
    n, _, d, h, w = x.shape
    if not return_indices:
        y = passes.operation(_as_planes(x), **passes.planes)
        return _as_volumes(passes.operation(_as_rows(y, n, d), **passes.depth), y.shape[2:])
    y, within = passes.operation(_as_planes(x), **passes.planes, return_indices=True)
    values, rows = passes.operation(_as_rows(y, n, d), **passes.depth, return_indices=True)
    return tuple(_as_volumes(each, y.shape[2:]) for each in (values, _core.indices_in_volumes(within, rows, h * w)))


def _recorded(x: Array, passes: _Passes, return_indices: bool) -> tuple[Any, Pullback]:
    single = x.ndim == 4
    whole = x[None] if single else x
    n, _, d, h, w = whole.shape
    located = {"return_indices": True} if return_indices else {}
    first, of_planes = _vjp(passes.operation, _as_planes(whole), **passes.planes, **located)
    y = first[0] if return_indices else first
    second, of_rows = _vjp(passes.operation, _as_rows(y, n, d), **passes.depth, **located)
    values = second[0] if return_indices else second
    plane, shape = y.shape[2:], values.shape

    def pullback(gradient: Array) -> dict[str, Array]:
        of_pooled = of_rows(dense_unless_view(gradient, shape))["input"]
        found = of_planes(_rows_as_planes(of_pooled, plane))["input"]
        volume = _as_volumes(_as_rows(found, n, d), (h, w))
        return {"input": volume[0] if single else volume}

    output = _as_volumes(values, plane)
    if return_indices:
        output = output, _as_volumes(_core.indices_in_volumes(first[1], second[1], h * w), plane)
    return _first(output) if single else output, pullback


def _vjp(operation: Callable[..., Any], x: Array, **arguments: Any) -> tuple[Any, Pullback]:
    bound = signature_of(operation).bind(x, **arguments)
    bound.apply_defaults()
    rule: Any = rules(operation).vjp
    return rule(frozenset({"input"}), **bound.arguments)  # type: ignore[no-any-return]


# Volumes, planes and rows: the same elements in the same order, channels last in memory.


def _as_planes(x: Array) -> Array:
    """Return (N, C, D, H, W) as (N * D, C, H, W)."""
    n, c, d, h, w = x.shape
    flat = channels_last(dense_unless_view(x, (n, c, d * h, w)))
    return flat.transpose(0, 2, 3, 1).reshape(n * d, h, w, c).transpose(0, 3, 1, 2)


def _as_rows(planes: Array, n: int, d: int) -> Array:
    """Return (N * D, C, H, W) as (N, C, D, H * W)."""
    _, c, h, w = planes.shape
    return planes.transpose(0, 2, 3, 1).reshape(n, d, h * w, c).transpose(0, 3, 1, 2)


def _rows_as_planes(rows: Array, plane: tuple[int, ...]) -> Array:
    """Return (N, C, D, H * W) as (N * D, C, H, W)."""
    n, c, d, _ = rows.shape
    return rows.transpose(0, 2, 3, 1).reshape(n * d, *plane, c).transpose(0, 3, 1, 2)


def _as_volumes(rows: Any, plane: tuple[int, ...]) -> Any:
    """Return (N, C, D, H * W) as (N, C, D, H, W)."""
    n, c, d, _ = rows.shape
    return rows.transpose(0, 2, 3, 1).reshape(n, d, *plane, c).transpose(0, 4, 1, 2, 3)


def _windows(
    name: str, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the windows over the planes and along the depth."""
    kernel, dilation = as_numbers(kernel_size, name, "kernel_size", 3), as_numbers(dilation, name, "dilation", 3)
    stride = kernel if stride is None else as_numbers(stride, name, "stride", 3)
    depth, height, width = as_sides_of_axes(padding, name, kernel, stride, dilation, _volume_shape(input, name)[2:])
    ceil = {"ceil_mode": bool(ceil_mode)}
    planes = {"kernel_size": kernel[1:], "stride": stride[1:], "padding": (*height, *width), "dilation": dilation[1:]}
    rows = {
        "kernel_size": (kernel[0], 1),
        "stride": (stride[0], 1),
        "padding": (*depth, 0, 0),
        "dilation": (dilation[0], 1),
    }
    return planes | ceil, rows | ceil


def _max_passes(
    input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any, return_indices: Any = False
) -> _Passes:
    return _Passes(max_pool2d, *_windows("max_pool3d", input, kernel_size, stride, padding, dilation, ceil_mode))


@_pooling(_max_passes)
def max_pool3d(
    input: Array,
    kernel_size: int | Triple,
    stride: int | Triple | None = None,
    padding: Padding3d = 0,
    dilation: int | Triple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Indices]:
    """Take the maximum of each window of a volume.

    Parameters
    ----------
    input
        float32, (N, C, D, H, W) or one volume (C, D, H, W), any strides; channels last, (N, D, H, W, C) in memory, is
        read without a copy.
    kernel_size, dilation
        An integer or three integers (depth, height, width).
    stride
        The same; None means the kernel's size.
    padding
        An integer, three integers, six sides (front, back, top, bottom, left, right) or a name as in `conv2d`; at most
        half of the dilated kernel on each side.
    ceil_mode
        As in `max_pool2d`, also for NaNs.
    return_indices
        Whether to also return the indices of the maxima.

    Returns
    -------
    numpy.ndarray or tuple of two
        float32, (N, C, OD, OH, OW), channels last in memory. With `return_indices` also int64 of the same shape: the
        position ``(d * H + h) * W + w`` in the input's volume, that of the first among equal values and of the last
        NaN. A dilated window with all taps in the padding gives minus infinity and a meaningless index.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import max_pool3d
    >>> max_pool3d(np.arange(8, dtype=np.float32).reshape(1, 1, 2, 2, 2), (1, 2, 2)).ravel()
    array([3., 7.], dtype=float32)
    """
    return _pooled(  # type: ignore[no-any-return]
        "max_pool3d",
        input=input,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        return_indices=return_indices,
    )


@op(
    shape=rules(max_pool3d).shape,
    dtype=int64,
    vjp="it returns indices",
    differentiable=(),
    receptive=rules(max_pool3d).receptive,
)
def max_pool3d_indices(
    input: Array,
    kernel_size: int | Triple,
    stride: int | Triple | None,
    padding: Padding3d,
    dilation: int | Triple,
    ceil_mode: bool,
) -> Indices:
    """Return only the second result of `max_pool3d`, for plans.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional.pool3d import max_pool3d_indices
    >>> max_pool3d_indices(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2), 2, None, 0, 1, False).ravel()
    array([7])
    """
    x = as_array(input, "max_pool3d_indices", "input")
    _, indices = max_pool3d(x, kernel_size, stride, padding, dilation, ceil_mode, True)
    return indices


def _avg_passes(
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    divisor_override: Any,
) -> _Passes:
    planes, depth = _windows("avg_pool3d", input, kernel_size, stride, padding, 1, ceil_mode)
    for part, divisor in ((planes, None if divisor_override is None else 1), (depth, divisor_override)):
        del part["dilation"]
        part |= {"count_include_pad": bool(count_include_pad), "divisor_override": divisor}
    return _Passes(avg_pool2d, planes, depth)


@_pooling(_avg_passes)
def avg_pool3d(
    input: Array,
    kernel_size: int | Triple,
    stride: int | Triple | None = None,
    padding: Padding3d = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Take the average of each window of a volume.

    Parameters
    ----------
    input, kernel_size, stride, padding, ceil_mode
        As in `max_pool3d`.
    count_include_pad, divisor_override
        As in `avg_pool2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, OD, OH, OW), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range, for example a divisor of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import avg_pool3d
    >>> avg_pool3d(np.arange(8, dtype=np.float32).reshape(1, 1, 2, 2, 2), (2, 1, 2)).ravel()
    array([2.5, 4.5], dtype=float32)
    """
    return _pooled(  # type: ignore[no-any-return]
        "avg_pool3d",
        input=input,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )


def _lp_passes(input: Any, norm_type: Any, kernel_size: Any, stride: Any, ceil_mode: Any) -> _Passes:
    planes, depth = _windows("lp_pool3d", input, kernel_size, stride, 0, 1, ceil_mode)
    for part in (planes, depth):
        del part["dilation"], part["padding"]
        part["norm_type"] = norm_type
    return _Passes(lp_pool2d, planes, depth)


@_pooling(_lp_passes)
def lp_pool3d(
    input: Array,
    norm_type: float,
    kernel_size: int | Triple,
    stride: int | Triple | None = None,
    ceil_mode: bool = False,
) -> Array:
    """Take the p-norm of each window of a volume: ``(sum of |x|**p) ** (1 / p)``.

    It differs from torch's function as `lp_pool2d` does, also in its gradients.

    Parameters
    ----------
    input, kernel_size, stride, ceil_mode
        As in `max_pool3d`.
    norm_type
        As in `lp_pool2d`.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, OD, OH, OW), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import lp_pool3d
    >>> lp_pool3d(np.array([2, 1, 2, 4], np.float32).reshape(1, 2, 2, 1), 2, (2, 2, 1))
    array([[[[5.]]]], dtype=float32)
    """
    return _pooled(  # type: ignore[no-any-return]
        "lp_pool3d", input=input, norm_type=norm_type, kernel_size=kernel_size, stride=stride, ceil_mode=ceil_mode
    )


def _adaptive_passes(operation: Callable[..., Any], name: str) -> Callable[..., _Passes]:
    def passes(input: Any, output_size: Any, return_indices: Any = False) -> _Passes:
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 3
        if len(sizes) != 3:
            raise ValueError(f"{name}: output_size must be an integer, None or a tuple of 3, got {output_size!r}")
        given = zip(sizes, _volume_shape(input, name)[2:], strict=True)
        depth, *plane = (old if new is None else as_int(new, name, "output_size") for new, old in given)
        return _Passes(operation, {"output_size": tuple(plane)}, {"output_size": (depth, None)})

    return passes


@_pooling(_adaptive_passes(adaptive_avg_pool2d, "adaptive_avg_pool3d"))
def adaptive_avg_pool3d(input: Array, output_size: OutputSize3d) -> Array:
    """Average windows of a volume, chosen so that the output has a given size.

    Parameters
    ----------
    input
        As in `max_pool3d`.
    output_size
        An integer or three integers (depth, height, width); None keeps the input's size. The windows are those of
        `adaptive_avg_pool2d` along each axis.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, OD, OH, OW), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type, for example float64 input.
    ValueError
        If the shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import adaptive_avg_pool3d
    >>> adaptive_avg_pool3d(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2), (2, None, 1)).ravel()
    array([0.5, 2.5, 4.5, 6.5], dtype=float32)
    """
    return _pooled("adaptive_avg_pool3d", input=input, output_size=output_size)  # type: ignore[no-any-return]


@_pooling(_adaptive_passes(adaptive_max_pool2d, "adaptive_max_pool3d"))
def adaptive_max_pool3d(
    input: Array, output_size: OutputSize3d, return_indices: bool = False
) -> Array | tuple[Array, Indices]:
    """Take the maximum of windows of a volume, chosen so that the output has a given size.

    Parameters
    ----------
    input, output_size
        As in `adaptive_avg_pool3d`.
    return_indices
        As in `max_pool3d`.

    Returns
    -------
    numpy.ndarray or tuple of two
        As returned by `max_pool3d`.

    Raises
    ------
    TypeError, ValueError
        As in `adaptive_avg_pool3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import adaptive_max_pool3d
    >>> adaptive_max_pool3d(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2), (2, 1, 1)).ravel()
    array([3., 7.], dtype=float32)
    """
    return _pooled(  # type: ignore[no-any-return]
        "adaptive_max_pool3d", input=input, output_size=output_size, return_indices=return_indices
    )


@op(
    shape=rules(adaptive_max_pool3d).shape,
    dtype=int64,
    vjp="it returns indices",
    differentiable=(),
    receptive=rules(adaptive_max_pool3d).receptive,
)
def adaptive_max_pool3d_indices(input: Array, output_size: OutputSize3d) -> Indices:
    """Return only the second result of `adaptive_max_pool3d`, for plans.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional.pool3d import adaptive_max_pool3d_indices
    >>> adaptive_max_pool3d_indices(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2), 1).ravel()
    array([7])
    """
    _, indices = adaptive_max_pool3d(as_array(input, "adaptive_max_pool3d_indices", "input"), output_size, True)
    return indices
