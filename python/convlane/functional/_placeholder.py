"""Placeholders for arrays while a network is traced or recorded: they refuse everything but convlane's operations.

Python's arithmetic and comparison operators count as such, with numbers, arrays and other placeholders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from convlane.functional._op import Shape
from convlane.functional._size import Size
from convlane.functional.compare import eq, ge, gt, le, lt, ne
from convlane.functional.elementwise import add, affine, div, mul
from convlane.functional.elementwise import pow as power
from convlane.functional.functions import abs as absolute
from convlane.functional.functions import square
from convlane.functional.matmul import matmul
from convlane.functional.rearrange import getitem, permute, reshape, squeeze
from convlane.functional.reduce import Dims, amax, amin, mean
from convlane.functional.reduce import sum as total


class Placeholder(ABC):
    """A shape and a type; NumPy's functions and most attributes raise a TypeError that says what to use instead."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Return the type of the array's elements."""
        return np.dtype(np.float32)

    @abstractmethod
    def _why(self, what: str) -> str:
        """Say why `what` cannot be done."""

    def _refuse(self, what: str) -> NoReturn:
        raise TypeError(f"{self._why(what)}. Use the functions of convlane.functional, or Python's operators")

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("conversion to an array")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = _OPERATORS.get(ufunc)
        if name is not None and method == "__call__" and not kwargs:
            left, right = inputs
            on_left = isinstance(left, Placeholder)
            return getattr(left, f"__{name}__")(right) if on_left else getattr(right, f"__r{name}__")(left)
        self._refuse(f"numpy.{ufunc.__name__}{_instead(ufunc.__name__)}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        self._refuse(f"numpy.{function.__name__}{_instead(function.__name__)}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # Python and NumPy probe for protocols
            raise AttributeError(name)
        self._refuse(f"the array's attribute {name!r}{_instead(name)}")

    def __add__(self: Any, other: Any) -> Any:
        number = _number(other)
        return _paired(add, self, other) if number is None else affine(self, 1, number)

    def __radd__(self: Any, other: Any) -> Any:
        return self.__add__(other)

    def __sub__(self: Any, other: Any) -> Any:
        number = _number(other)
        return _paired(_difference, self, other) if number is None else affine(self, 1, -number)

    def __rsub__(self: Any, other: Any) -> Any:
        number = _number(other)
        return _paired(_difference, other, self) if number is None else affine(self, -1, number)

    def __mul__(self: Any, other: Any) -> Any:
        number = _number(other)
        return _paired(mul, self, other) if number is None else affine(self, number)

    def __rmul__(self: Any, other: Any) -> Any:
        return self.__mul__(other)

    def __truediv__(self: Any, other: Any) -> Any:
        number = _number(other)
        return _paired(div, self, other) if number is None else affine(self, 1 / number)

    def __rtruediv__(self: Any, other: Any) -> Any:
        number = _number(other)
        return _paired(div, other, self) if number is None else div(number, self)

    def __neg__(self: Any) -> Any:
        return affine(self, -1)

    def __abs__(self: Any) -> Any:
        return absolute(self)

    def __pow__(self: Any, exponent: Any) -> Any:
        number = _number(exponent)
        if number is None:
            return _paired(power, self, exponent)
        return square(self) if number == 2 else power(self, number)

    def __rpow__(self: Any, base: Any) -> Any:
        number = _number(base)
        return _paired(power, base, self) if number is None else power(number, self)

    def __matmul__(self: Any, other: Any) -> Any:
        return _paired(matmul, self, other)

    def __rmatmul__(self: Any, other: Any) -> Any:
        return _paired(matmul, other, self)

    def __getitem__(self: Any, key: Any) -> Any:
        return getitem(self, key)

    def __eq__(self: Any, other: Any) -> Any:
        return _compared(eq, self, other)

    def __ne__(self: Any, other: Any) -> Any:
        return _compared(ne, self, other)

    def __lt__(self: Any, other: Any) -> Any:
        return _compared(lt, self, other)

    def __le__(self: Any, other: Any) -> Any:
        return _compared(le, self, other)

    def __gt__(self: Any, other: Any) -> Any:
        return _compared(gt, self, other)

    def __ge__(self: Any, other: Any) -> Any:
        return _compared(ge, self, other)

    @property
    def T(self: Any) -> Any:
        """Return the dimensions in reverse order."""
        return permute(self, tuple(range(self.ndim))[::-1])

    def reshape(self: Any, *shape: Any) -> Any:
        """Return the same elements in another shape."""
        return reshape(self, _one_or_many(shape))

    def permute(self: Any, *dims: Any) -> Any:
        """Return the dimensions in another order."""
        return permute(self, _one_or_many(dims))

    def transpose(self: Any, *axes: Any) -> Any:
        """Return the dimensions in another order; as for NumPy's arrays, reversed if none are given."""
        return permute(self, _one_or_many(axes)) if axes else self.T

    def squeeze(self: Any, axis: Dims = None) -> Any:
        """Return the array without dimensions of size 1."""
        return squeeze(self, axis)

    def sum(self: Any, axis: Dims = None, *, keepdims: bool = False) -> Any:
        """Return sums over dimensions."""
        return total(self, axis, keepdims)

    def mean(self: Any, axis: Dims = None, *, keepdims: bool = False) -> Any:
        """Return means over dimensions."""
        return mean(self, axis, keepdims)

    def max(self: Any, axis: Dims = None, *, keepdims: bool = False) -> Any:
        """Return the largest numbers over dimensions."""
        return amax(self, axis, keepdims)

    def min(self: Any, axis: Dims = None, *, keepdims: bool = False) -> Any:
        """Return the smallest numbers over dimensions."""
        return amin(self, axis, keepdims)


_ARRAYS: tuple[type[Any], ...] = (Placeholder, np.ndarray)


def _number(value: Any) -> Any:
    """Return a number as a float, one computed from sizes as it is, and None for anything else."""
    if isinstance(value, Size):
        return value
    return float(value) if isinstance(value, (int, float, np.integer, np.floating)) else None


def _one_or_many(given: tuple[Any, ...]) -> Any:
    """Return integers that were given as separate arguments or as one sequence."""
    return given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given


def _compared(operation: Callable[..., Any], left: Any, right: Any) -> Any:
    number = _number(right)
    return _paired(operation, left, right) if number is None else operation(left, number)


def _paired(operation: Callable[..., Any], left: Any, right: Any) -> Any:
    return operation(left, right) if isinstance(left, _ARRAYS) and isinstance(right, _ARRAYS) else NotImplemented


def _difference(left: Any, right: Any) -> Any:
    """Compute what `sub` does, to the last bit, from operations that plans have steps for."""
    return add(left, affine(right, -1))


_OPERATORS = {
    np.add: "add",
    np.subtract: "sub",
    np.multiply: "mul",
    np.divide: "truediv",
    np.power: "pow",
    np.matmul: "matmul",
}
"""The ufuncs that NumPy calls for an operator with an array on the left and a placeholder on the right."""


_INSTEAD = {
    "absolute": "abs",
    "add": "add",
    "concatenate": "cat",
    "divide": "div",
    "exp": "exp",
    "log": "log",
    "maximum": "maximum",
    "minimum": "minimum",
    "mean": "mean",
    "mul": "mul",
    "multiply": "mul",
    "pad": "pad",
    "ravel": "flatten",
    "reshape": "reshape",
    "transpose": "permute",
    "sqrt": "sqrt",
    "where": "where",
    "square": "square",
    "sum": "sum",
    "tanh": "tanh",
}


def _instead(name: str) -> str:
    return f" (use convlane.functional.{_INSTEAD[name]})" if name in _INSTEAD else ""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def method(self: Placeholder, *args: Any) -> NoReturn:
        self._refuse(f"__{name}__{_instead(name)}")

    return method


for _name in (
    *(prefix + name for name in ("floordiv", "mod") for prefix in ("", "r", "i")),
    *("imatmul", "ipow", "pos"),
    *("bool", "int", "float", "index", "len", "iter", "setitem", "contains"),
):
    setattr(Placeholder, f"__{_name}__", _refusing(_name))
