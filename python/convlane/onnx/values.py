"""What converters need to know of values: whether NumPy should compute with them, and numbers that must be known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 2**31  # numbers in an array that NumPy is to make


class Untraceable(ValueError):
    """Something that depends on the input and so cannot be part of a plan, but can be computed on arrays."""


def is_array(value: Any) -> bool:
    """Whether a value is an array with its numbers: a constant, or anything while a network runs eagerly."""
    return isinstance(value, np.ndarray)


def in_numpy(*values: Any) -> bool:
    """Whether NumPy computes with these: all of them are arrays, and not all are float32."""
    given = [value for value in values if value is not None]
    return all(map(is_array, given)) and any(value.dtype != np.float32 for value in given)


def is_float(value: Any) -> bool:
    """Whether a value holds float32."""
    return bool(value.dtype == np.float32)


def known(value: Any, what: str) -> NDArray[Any]:
    """Return an argument that must be an array."""
    if is_array(value):
        return value  # type: ignore[no-any-return]
    raise Untraceable(f"{what} must not depend on the input")


def ints(value: Any, what: str) -> tuple[int, ...]:
    """Return the integers in an argument or an attribute."""
    if isinstance(value, (tuple, list)):
        return tuple(int(each) for each in value)
    return tuple(int(each) for each in known(value, what).reshape(-1))


def integer(value: Any, what: str) -> int:
    """Return the single integer in an argument."""
    numbers = ints(value, what)
    if len(numbers) != 1:
        raise ValueError(f"{what} must be one number, got {len(numbers)}")
    return numbers[0]


def floats(value: Any, what: str) -> tuple[float, ...]:
    """Return the numbers in an argument or an attribute."""
    if isinstance(value, (tuple, list)):
        return tuple(float(each) for each in value)
    return tuple(float(each) for each in known(value, what).reshape(-1))


def number(value: Any, what: str, default: float | None = None) -> float | None:
    """Return the single number in an argument, or the default if it was left out."""
    if value is None:
        return default
    array = known(value, what)
    if array.size != 1:
        raise ValueError(f"{what} must be one number, got shape {array.shape}")
    return float(array.reshape(-1)[0])


def scalar_or(value: Any, partner: Any) -> Any:
    """Return a constant of one number as that number, where the shape of its partner is that of the result."""
    if is_array(value) and value.size == 1 and not is_array(partner) and value.ndim <= len(partner.shape):
        return value.reshape(-1)[0].item()
    return value


def as_many(what: str, numbers: Any, count: int) -> Any:
    """Return a sequence; ValueError if it has not so many numbers."""
    if len(numbers) != count:
        raise ValueError(f"{what} must be {count} number{'s' * (count != 1)}, got {len(numbers)}")
    return numbers


def bounded(shape: Any) -> tuple[int, ...]:
    """Return a shape for NumPy to allocate; ValueError if no sane file would ask for it."""
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes) or math.prod(sizes) > LARGEST:
        raise ValueError(f"an array of the shape {sizes} is too large")
    return sizes


def axis_of(axis: int, ndim: int, what: str = "axis") -> int:
    """Return a dimension counted from the front."""
    if not -ndim <= axis < max(ndim, 1):
        raise ValueError(f"{what}={axis} is out of range for {ndim} dimensions")
    return axis % ndim if ndim else 0
