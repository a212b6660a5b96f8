"""Resampling of signals, images and volumes along their axes.

Every way to resize is one linear map per axis, given by a small table (the inputs of each output, and their weights).
A single kernel applies all of these tables, and transposed tables for the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_float, as_positive, shape_of
from convlane.functional._op import Pullback, Shape, Traits, op
from convlane.functional._receptive import Axis
from convlane.functional.shape import channels_last

Table: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32]]
"""The table of one axis, two arrays (outputs, taps): the inputs of each output and their weights, 0 for unused taps."""

COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "half_pixel_symmetric",
    "tf_half_pixel_for_nn",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
MODES = ("nearest", "linear", "cubic", "area")


class _Rule(NamedTuple):
    """Everything that the table of an axis depends on besides its sizes."""

    mode: str = "linear"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    divide: bool = False


def _resize_shape(input: Any, size: Sequence[int], *args: Any, **kwargs: Any) -> Shape:
    n, channels, *axes = _checked_shape(tuple(input.shape), "resize")
    return (n, channels, *_as_sizes(size, axes, "resize", "size"))


def _resize_adds(output: Shape, input: Any, size: Any, mode: str = "linear", *args: Any, **kwargs: Any) -> int:
    return math.prod(output) * {"nearest": 0, "linear": 2, "cubic": 4, "area": 1}.get(mode, 0)


def _resize_vjp(wanted: frozenset[str], input: Any, **options: Any) -> tuple[Array, Pullback]:
    x = as_array(input, "resize", "input")
    tables, shape = tables_of(x, **options), x.shape

    def pullback(gradient: Array) -> dict[str, Array]:
        sizes = (1, 1, 1, *shape[2:])[-3:]
        transposed = [_transposed(table, size) for table, size in zip(tables, sizes, strict=True)]
        return {"input": _run(gradient, transposed)}

    return _run(x, tables), pullback


def _resize_receptive(axis: Axis, name: str, input: Any, **options: Any) -> Axis:
    if axis.dim is None or axis.dim < 2 - len(input.shape):
        return axis
    positions, weights = tables_of(input, **options)[axis.dim]
    return axis.gathered(positions, weights != 0)


@op(
    shape=_resize_shape,
    multiply_adds=_resize_adds,
    vjp=_resize_vjp,
    traits=Traits(reads_any_layout=True),
    receptive=_resize_receptive,
)
def resize(
    input: Array,
    size: Sequence[int],
    mode: str = "linear",
    coordinates: str = "half_pixel",
    *,
    scales: Sequence[float] | None = None,
    rounding: str = "round_prefer_floor",
    cubic_a: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
    divide: bool = False,
) -> Array:
    """Resample to a size by the rules that ONNX defines; `interpolate` has torch's arguments.

    Parameters
    ----------
    input
        (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    size
        The sizes of the axes after C.
    mode
        ``"nearest"``, ``"linear"``, ``"cubic"`` (Keys 1981), or ``"area"``: the mean of all inputs that an output
        covers, as in adaptive pooling.
    coordinates
        The coordinate of output i among the inputs: ``"half_pixel"`` (i + 1/2) / scale - 1/2; ``"pytorch_half_pixel"``
        the same, but 0 if there is only one output; ``"align_corners"`` i (inputs - 1) / (outputs - 1);
        ``"asymmetric"`` i / scale; ``"half_pixel_symmetric"`` like ``"half_pixel"``, but shifted so that the centres of
        input and output coincide if the size is not the scale times the input's; ``"tf_half_pixel_for_nn"``
        (i + 1/2) / scale.
    scales
        One for each axis; by default the number of outputs divided by that of inputs.
    rounding
        Which input is the nearest: ``"round_prefer_floor"`` and ``"round_prefer_ceil"`` round to the nearest, and
        differ halfway between two inputs; ``"floor"`` and ``"ceil"`` round down and up.
    cubic_a
        The coefficient *a* of cubic convolution, which is its slope at distance 1.
    exclude_outside
        Whether inputs outside the image are left out; otherwise those at the border are repeated.
    antialias
        Whether linear and cubic filters widen with the step when there are fewer outputs than inputs.
    divide
        Whether the nearest input is found as in ONNX Runtime, which divides by the scale and rounds in float32, rather
        than as in torch, which multiplies by its reciprocal; the last bit decides between two equally near inputs.

    Returns
    -------
    numpy.ndarray
        (N, C, *size).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is a name not listed above, or the input is empty along an axis.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import functional as F
    >>> F.resize(np.array([[[0, 3]]], np.float32), [4])
    array([[[0.  , 0.75, 2.25, 3.  ]]], dtype=float32)
    """
    x = as_array(input, "resize", "input")
    tables = tables_of(
        x,
        size,
        scales=scales,
        mode=mode,
        coordinates=coordinates,
        rounding=rounding,
        cubic_a=cubic_a,
        exclude_outside=exclude_outside,
        antialias=antialias,
        divide=divide,
    )
    return _run(x, tables)


def interpolate(
    input: Array,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Array:
    """Resample to a size, or by a factor, as ``torch.nn.functional.interpolate`` does.

    Parameters
    ----------
    input
        (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    size, scale_factor
        Exactly one of the two: a size or a factor for all axes after C, or one for each. A factor gives
        ``floor(size * factor)``.
    mode
        ``"nearest"`` (which rounds down), ``"nearest-exact"``, ``"linear"``, ``"bilinear"``, ``"trilinear"``,
        ``"bicubic"`` or ``"area"``.
    align_corners
        For the linear modes and the cubic one: whether the first and last pixels of input and output coincide.
    recompute_scale_factor
        Whether the output's size, rather than the factor, determines the sampling distance.
    antialias
        For ``"bilinear"`` and ``"bicubic"``: whether the filter widens with the step when the image shrinks, as in
        Pillow.

    Returns
    -------
    numpy.ndarray
        (N, C, *size).

    Raises
    ------
    TypeError, ValueError
        As in `resize`, or if the mode does not fit the number of axes, or an option does not fit the mode.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import functional as F
    >>> image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> F.interpolate(image, scale_factor=2)[0, 0]
    array([[0., 0., 1., 1.],
           [0., 0., 1., 1.],
           [2., 2., 3., 3.],
           [2., 2., 3., 3.]], dtype=float32)
    >>> F.interpolate(image, size=3, mode="bilinear", align_corners=True)[0, 0]
    array([[0. , 0.5, 1. ],
           [1. , 1.5, 2. ],
           [2. , 2.5, 3. ]], dtype=float32)
    """
    _, _, *axes = _checked_shape(shape_of(input, "interpolate"), "interpolate")
    ranks = INTERPOLATION_AXES.get(mode)
    if ranks is None:
        raise ValueError(f"interpolate: mode must be one of {', '.join(INTERPOLATION_AXES)}, got {mode!r}")
    if len(axes) not in ranks:
        raise ValueError(f"interpolate: mode {mode!r} does not take {len(axes) + 2} dimensions")
    smooth = mode.endswith("linear") or mode == "bicubic"
    if align_corners is not None and not smooth:
        raise ValueError(f"interpolate: align_corners is for the linear and cubic modes, not for {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolate: antialias is for 'bilinear' and 'bicubic', not for {mode!r}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    if size is not None and recompute_scale_factor:
        raise ValueError("interpolate: recompute_scale_factor is for scale_factor, not for size")
    scales = None
    if size is not None:
        sizes = _as_sizes(size, axes, "interpolate", "size")
    else:
        factors = _as_factors(scale_factor, axes)
        sizes = tuple(math.floor(length * factor) for length, factor in zip(axes, factors, strict=True))
        if any(length < 1 for length in sizes):
            raise ValueError(f"interpolate: scale_factor={scale_factor!r} makes {tuple(axes)} empty")
        scales = None if recompute_scale_factor or mode == "area" else factors
    if mode == "nearest":
        return resize(input, sizes, "nearest", "asymmetric", scales=scales, rounding="floor")
    if mode == "nearest-exact":
        return resize(input, sizes, "nearest", scales=scales, rounding="round_prefer_ceil")
    if mode == "area":
        return resize(input, sizes, "area")
    coordinates = "align_corners" if align_corners else "half_pixel"
    cubic_a = -0.5 if antialias else -0.75  # Pillow's and OpenCV's, as in torch
    kind = "cubic" if mode == "bicubic" else "linear"
    # A filter that extends beyond the image uses only the pixels inside, as in Pillow.
    return resize(
        input, sizes, kind, coordinates, scales=scales, cubic_a=cubic_a, antialias=antialias, exclude_outside=antialias
    )


INTERPOLATION_AXES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "trilinear": (3,),
    "bicubic": (2,),
    "area": (1, 2, 3),
}
"""The modes of `interpolate`, and the numbers of axes that they take."""


def _checked_shape(shape: Shape, op: str) -> Shape:
    if not 3 <= len(shape) <= 5:
        raise ValueError(f"{op}: input must be (N, C, L), (N, C, H, W) or (N, C, D, H, W), got shape {shape}")
    if 0 in shape[2:]:
        raise ValueError(f"{op}: input {shape} is empty")
    return shape


def _as_sizes(value: Any, axes: Sequence[int], op: str, name: str) -> Shape:
    if not isinstance(value, (list, tuple)):
        value = [value] * len(axes)
    if len(value) != len(axes):
        raise ValueError(f"{op}: {name} must be a number or {len(axes)} of them, got {value!r}")
    return tuple(as_positive(one, op, name) for one in value)


def _as_factors(value: Any, axes: Sequence[int]) -> tuple[float, ...]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * len(axes)
    factors = tuple(as_float(factor, "interpolate", "scale_factor") for factor in values)
    if len(factors) != len(axes) or not all(0 < factor < math.inf for factor in factors):
        raise ValueError(f"interpolate: scale_factor must be a positive number or {len(axes)} of them, got {value!r}")
    return factors


def tables_of(x: Any, size: Sequence[int], *, scales: Sequence[float] | None = None, **arguments: Any) -> list[Table]:
    """Return the tables of D, H and W from the arguments of `resize`; axes that the input lacks are one pixel long."""
    rule = _Rule(**arguments)
    for name, value, known in (
        ("mode", rule.mode, MODES),
        ("coordinates", rule.coordinates, COORDINATES),
        ("rounding", rule.rounding, ROUNDINGS),
    ):
        if value not in known:
            raise ValueError(f"resize: {name} must be one of {', '.join(known)}, got {value!r}")
    _, _, *axes = _checked_shape(x.shape, "resize")
    sizes = _as_sizes(size, axes, "resize", "size")
    if scales is not None and len(scales) != len(axes):
        raise ValueError(f"resize: scales must be {len(axes)} numbers, got {scales!r}")
    one = _table(1, 1, None, rule)
    return [one] * (3 - len(axes)) + [
        _table(before, after, None if scales is None else float(scales[i]), rule)
        for i, (before, after) in enumerate(zip(axes, sizes, strict=True))
    ]


def _run(x: Array, tables: Sequence[Table]) -> Array:
    """Apply a table to each axis of (N, D, H, W, C)."""
    n, channels, *sizes = x.shape
    if x.ndim == 4:
        return _core.resize(channels_last(x).transpose(0, 2, 3, 1)[:, None], tables)[:, 0].transpose(0, 3, 1, 2)
    dense = np.ascontiguousarray(np.moveaxis(x, 1, -1)).reshape(n, *(1,) * (3 - len(sizes)), *sizes, channels)
    result = _core.resize(dense, tables)
    return np.moveaxis(result.reshape(n, *result.shape[4 - len(sizes) : 4], channels), -1, 1)


@lru_cache(maxsize=256)
def _table(before: int, after: int, scale: float | None, rule: _Rule) -> Table:
    """Return the table of one axis of `before` inputs and `after` outputs."""
    if before == after and scale is None:  # every rule leaves an axis as it is if its length stays
        return np.arange(after)[:, None], np.ones((after, 1), np.float32)
    if rule.mode == "area":
        return _packed(*_area(before, after))
    step = before / after if scale is None else 1 / scale
    if rule.coordinates == "align_corners":
        step = (before - 1) / (after - 1) if after > 1 else 0.0
    if rule.antialias and rule.mode != "nearest":
        return _packed(*_stretched(before, after, step, rule))
    if rule.mode == "nearest" and rule.divide:
        nearest = nearest_inputs(before, after, scale, rule.coordinates, rule.rounding)
        return nearest[:, None], np.ones((after, 1), np.float32)
    at = _coordinates(before, after, step, rule)
    if rule.mode == "nearest":
        index = np.clip(_ROUND[rule.rounding](at), 0, before - 1).astype(np.int64)
        return index[:, None], np.ones((after, 1), np.float32)
    taps = np.arange(2) if rule.mode == "linear" else np.arange(-1, 3)
    index = np.floor(at).astype(np.int64)[:, None] + taps
    weight = _filter(at[:, None] - index, rule)
    if rule.exclude_outside:
        weight = np.where((index >= 0) & (index < before), weight, 0)
        weight /= weight.sum(1, keepdims=True)
    return np.clip(index, 0, before - 1), weight.astype(np.float32)


def _coordinates(before: int, after: int, step: float, rule: _Rule) -> NDArray[Any]:
    """Return the coordinate of each output among the inputs.

    The last bit decides between two inputs that are equally near. As in torch, the step, the coordinate (once: torch
    multiplies and subtracts in one instruction) and the sum that is truncated are rounded to float32.
    """
    if rule.coordinates == "pytorch_half_pixel" and after == 1:
        return np.zeros(1)
    offset = 0.0 if rule.coordinates in ("align_corners", "asymmetric") else 0.5
    shift = 0.0 if rule.coordinates == "tf_half_pixel_for_nn" else offset
    if rule.coordinates == "half_pixel_symmetric":
        shift -= (before - after * step) / 2
    nearest = rule.mode == "nearest"
    at = (np.arange(after) + offset) * (float(np.float32(step)) if nearest else step) - shift
    return at.astype(np.float32) if nearest else at


def nearest_inputs(before: int, after: int, scale: float | None, coordinates: str, rounding: str) -> NDArray[np.int64]:
    """Return the input that is nearest to each output, exactly as ONNX Runtime finds it.

    Coordinates are float32 and computed in the order of ``GetOriginalCoordinateFromResizedCoordinate`` in its
    upsamplebase.h. Two inputs count as equally near if their distances agree to a millionth (determined by experiment
    with ONNX Runtime 1.32: 2^-20 is a tie, 1.19e-6 is not). ONNX's reference computes in float64 and has exact ties
    only.
    """
    i, one, half = np.arange(after, dtype=np.float32), np.float32(1), np.float32(0.5)
    inputs, outputs = np.float32(before), np.float32(after)
    factor = outputs / inputs if scale is None else np.float32(scale)
    if coordinates == "align_corners":
        at = i * (inputs - one) / (outputs - one) if after > 1 else np.zeros(1, np.float32)
    elif coordinates == "asymmetric":
        at = i / factor
    elif coordinates == "tf_half_pixel_for_nn":
        at = (i + half) / factor
    elif coordinates == "half_pixel_symmetric":
        offset = inputs / 2 * (one - outputs / (factor * inputs))
        at = (float(offset) + (i.astype(np.float64) + 0.5) / float(factor) - 0.5).astype(np.float32)
    elif coordinates == "pytorch_half_pixel" and after == 1:
        at = np.zeros(1, np.float32)
    else:
        at = (i + half) / factor - half
    at = at.astype(np.float64)
    below = np.floor(at)
    at = np.where(np.abs(at - below - 0.5) <= 1e-6, below + 0.5, at)
    rounded = _ROUND[rounding](at)
    return np.asarray(np.clip(rounded, 0, before - 1)).astype(np.int64)


_ROUND: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda at: np.ceil(at - np.float32(0.5)),
    "round_prefer_ceil": lambda at: np.floor(at + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _filter(distance: NDArray[np.float64], rule: _Rule) -> NDArray[np.float64]:
    """Return the weights of inputs at these distances: a triangle, or Keys' cubic convolution (1981)."""
    d = np.abs(distance)
    if rule.mode == "linear":
        return np.asarray(np.maximum(1 - d, 0))
    a = rule.cubic_a
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))


def _stretched(before: int, after: int, step: float, rule: _Rule) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the inputs of each output and their weights for a filter as wide as the step, as in Pillow."""
    stretch = max(step, 1.0)
    support = stretch * (1 if rule.mode == "linear" else 2)
    centre = step * (np.arange(after) + 0.5)
    first, last = (np.floor(centre + side + 0.5).astype(np.int64) for side in (-support, support))
    if rule.exclude_outside:
        first, last = np.maximum(first, 0), np.minimum(last, before)
    index = first[:, None] + np.arange(int((last - first).max()))
    inside = index < last[:, None]
    weight = np.where(inside, _filter((index + 0.5 - centre[:, None]) / stretch, rule), 0)
    index = np.clip(np.where(inside, index, first[:, None]), 0, before - 1)
    return index, weight / weight.sum(1, keepdims=True)


def _area(before: int, after: int) -> tuple[NDArray[Any], NDArray[Any]]:
    i = np.arange(after)
    first, last = i * before // after, -(-(i + 1) * before // after)
    index = first[:, None] + np.arange(int((last - first).max()))
    inside = index < last[:, None]
    return np.where(inside, index, first[:, None]), inside / (last - first)[:, None]


def _packed(index: NDArray[Any], weight: NDArray[Any]) -> Table:
    return np.ascontiguousarray(index, np.int64), np.ascontiguousarray(weight, np.float32)


def _transposed(table: Table, before: int) -> Table:
    """Return the table of the gradient: for each of the `before` inputs the outputs that it contributes to."""
    index, weight = table
    output = np.repeat(np.arange(len(index)), index.shape[1])
    source, share = index.reshape(-1), weight.reshape(-1)
    order = np.argsort(source[share != 0], kind="stable")
    output, source, share = (values[share != 0][order] for values in (output, source, share))
    counts = np.bincount(source, minlength=before)
    column = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = before, max(int(counts.max(initial=0)), 1)
    outputs, shares = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    outputs[source, column], shares[source, column] = output, share
    return outputs, shares
