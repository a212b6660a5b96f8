"""What stands for an array where there is none to compute with: it refuses whatever is not one of our operations.

Python's arithmetic is: with numbers, with arrays and with each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from convlane.functional._op import Shape
from convlane.functional.elementwise import add, affine, div, mul
from convlane.functional.functions import abs as absolute
from convlane.functional.functions import square


class Placeholder(ABC):
    """An array's shape and type; NumPy's functions and most attributes are TypeErrors that name what to use."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Return what arrays in a network hold."""
        return np.dtype(np.float32)

    @abstractmethod
    def _why(self, what: str) -> str:
        """Say why `what` cannot be done."""

    def _refuse(self, what: str) -> NoReturn:
        raise TypeError(f"{self._why(what)}. Use the functions of convlane.functional, or + - * / with numbers")

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("conversion to an array")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = _OPERATORS.get(ufunc)
        if name is not None and method == "__call__" and not kwargs:
            left, right = inputs
            mine = isinstance(left, Placeholder)
            return getattr(left, f"__{name}__")(right) if mine else getattr(right, f"__r{name}__")(left)
        self._refuse(f"numpy.{ufunc.__name__}{_instead(ufunc.__name__)}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        self._refuse(f"numpy.{function.__name__}{_instead(function.__name__)}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # protocols that Python and NumPy look for
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
        return _paired(div, np.full(self.shape, other, np.float32) if number is not None else other, self)

    def __neg__(self: Any) -> Any:
        return affine(self, -1)

    def __abs__(self: Any) -> Any:
        return absolute(self)

    def __pow__(self: Any, exponent: Any) -> Any:
        return square(self) if _number(exponent) == 2 else self._refuse(f"__pow__{_instead('power')}")


_ARRAYS: tuple[type[Any], ...] = (Placeholder, np.ndarray)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float, np.integer, np.floating)) else None


def _paired(operation: Callable[..., Any], left: Any, right: Any) -> Any:
    return operation(left, right) if isinstance(left, _ARRAYS) and isinstance(right, _ARRAYS) else NotImplemented


def _difference(left: Any, right: Any) -> Any:
    return add(left, affine(right, -1))


_OPERATORS = {np.add: "add", np.subtract: "sub", np.multiply: "mul", np.divide: "truediv"}
"""NumPy's functions for Python's operators, which it calls where an array stands to the left of a placeholder."""


_INSTEAD = {
    "absolute": "abs",
    "add": "add",
    "concatenate": "cat",
    "divide": "div",
    "exp": "exp",
    "log": "log",
    "matmul": "linear",
    "maximum": "relu",
    "mean": "mean",
    "mul": "mul",
    "multiply": "mul",
    "pad": "pad",
    "power": "square",
    "ravel": "flatten",
    "reshape": "flatten",
    "square": "square",
    "sum": "sum",
    "tanh": "tanh",
}


def _instead(name: str) -> str:
    return f" (here: convlane.functional.{_INSTEAD[name]})" if name in _INSTEAD else ""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def method(self: Placeholder, *args: Any) -> NoReturn:
        self._refuse(f"__{name}__{_instead(name)}")

    return method


for _name in (
    *(prefix + name for name in ("floordiv", "mod", "matmul") for prefix in ("", "r", "i")),
    *("rpow", "ipow", "pos", "lt", "le", "eq", "ne", "gt", "ge"),
    *("bool", "int", "float", "index", "len", "iter", "getitem", "setitem", "contains"),
):
    setattr(Placeholder, f"__{_name}__", _refusing(_name))
