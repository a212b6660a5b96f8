"""Layers of several inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from convlane import functional as F
from convlane.bridges.keras.configuration import Config
from convlane.bridges.keras.network import Layer, flat
from convlane.bridges.keras.registry import Arrays, converts
from convlane.bridges.keras.value import Value, alike

_PAIRWISE: dict[str, Callable[[Any, Any], Any]] = {
    "Add": F.add,
    "Subtract": F.sub,
    "Multiply": F.mul,
    "Average": F.add,
    "Maximum": F.maximum,
    "Minimum": F.minimum,
}


@converts(*_PAIRWISE)
def _merge(config: Config, arrays: Arrays) -> Layer:
    return Layer(config.kind, partial(_run_merge, kind=config.kind))


def _run_merge(layer: Layer, *args: Any, kind: str) -> Value:
    values = _same_rank(flat(args))
    if kind == "Subtract" and len(values) != 2:
        raise ValueError(f"a difference is of two inputs, not of {len(values)}")
    result = reduce(_PAIRWISE[kind], [value.array for value in values])
    return Value(F.affine(result, 1 / len(values)) if kind == "Average" else result, values[0].moved)


def _same_rank(values: list[Value]) -> list[Value]:
    """Return values in one layout; those with fewer axes get more after the batch, as in Keras."""
    if not values:
        raise ValueError("there are no inputs")
    most = max(value.rank for value in values)
    if all(value.rank == most for value in values):
        return alike(values)
    arrays = [value.in_order for value in values]
    for i, array in enumerate(arrays):
        for _ in range(most - len(array.shape)):
            array = F.unsqueeze(array, 1)
        arrays[i] = array
    return [Value(array) for array in arrays]


@converts("Concatenate")
def _concatenate(config: Config, arrays: Arrays) -> Layer:
    axis = config.get("axis", -1)
    if type(axis) is not int:
        config.fail(f"axis must be an integer, got {axis!r}")
    return Layer(config.kind, partial(_run_concatenate, axis=axis), details=f"axis={axis}")


def _run_concatenate(layer: Layer, *args: Any, axis: int) -> Value:
    return joined(flat(args), axis)


def joined(values: list[Value], axis: int) -> Value:
    """Concatenate values along an axis."""
    values = alike(values)
    if not values:
        raise ValueError("there are no inputs")
    return Value(F.cat([value.array for value in values], values[0].dim(axis)), values[0].moved)


@converts("Dot")
def _dot(config: Config, arrays: Arrays) -> Layer:
    given = config.get("axes")
    axes = given if isinstance(given, list) else [given, given]
    if len(axes) != 2 or any(type(axis) is not int for axis in axes):
        config.fail(f"axes must be an integer or two, got {given!r}")
    return Layer(config.kind, partial(_run_dot, axes=tuple(axes), normalize=config.flag("normalize", False)))


def _run_dot(layer: Layer, *args: Any, axes: tuple[int, int], normalize: bool) -> Value:
    """Multiply along one axis of each, for every example; the other axes of the first come first."""
    values = flat(args)
    if len(values) != 2 or any(value.rank not in (2, 3) for value in values):
        raise ValueError("products are of two inputs of two or three axes")
    first, second = (_matrices(value, axis, normalize) for value, axis in zip(values, axes, strict=True))
    product = F.matmul(first, F.transpose(second, 1, 2))
    if values[0].rank == 2 and values[1].rank == 2:
        return Value(F.reshape(product, (-1, 1)))
    for axis, value in ((2, values[1]), (1, values[0])):
        if value.rank == 2:
            product = F.squeeze(product, axis)
    return Value(product)


def _matrices(value: Value, axis: int, normalize: bool) -> Any:
    """Return (N, others, axis)."""
    axis = value.axis(axis)
    if axis == 0:
        raise ValueError("a product along the batch is not computed")
    x = value.in_order
    if value.rank == 2:
        x = F.unsqueeze(x, 1)
    elif axis == 1:
        x = F.transpose(x, 1, 2)
    if normalize:
        x = F.mul(x, F.rsqrt(F.clamp(F.sum(F.square(x), -1, True), 1e-12)))
    return x
