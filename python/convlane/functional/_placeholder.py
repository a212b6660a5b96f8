"""What stands for an array where there is none to compute with: it refuses whatever is not one of our operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from convlane.functional._op import Shape


class Placeholder(ABC):
    """An array's shape and type; NumPy's functions and Python's operators are TypeErrors that name what to use."""

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
        raise TypeError(f"{self._why(what)}. Use the functions of convlane.functional")

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("conversion to an array")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> NoReturn:
        self._refuse(f"numpy.{ufunc.__name__}{_instead(ufunc.__name__)}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        self._refuse(f"numpy.{function.__name__}{_instead(function.__name__)}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # protocols that Python and NumPy look for
            raise AttributeError(name)
        self._refuse(f"the array's attribute {name!r}{_instead(name)}")


_INSTEAD = {
    "add": "add",
    "concatenate": "cat",
    "iadd": "add",
    "imul": "mul",
    "maximum": "relu",
    "mul": "mul",
    "multiply": "mul",
    "pad": "pad",
    "radd": "add",
    "ravel": "flatten",
    "reshape": "flatten",
    "rmul": "mul",
    "tanh": "tanh",
}


def _instead(name: str) -> str:
    return f" (here: convlane.functional.{_INSTEAD[name]})" if name in _INSTEAD else ""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def method(self: Placeholder, *args: Any) -> NoReturn:
        self._refuse(f"__{name}__{_instead(name)}")

    return method


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
for _name in (
    *(prefix + name for name in _ARITHMETIC for prefix in ("", "r", "i")),
    *("neg", "pos", "abs", "lt", "le", "eq", "ne", "gt", "ge"),
    *("bool", "int", "float", "index", "len", "iter", "getitem", "setitem", "contains"),
):
    setattr(Placeholder, f"__{_name}__", _refusing(_name))
