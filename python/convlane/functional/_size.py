"""Sizes of arrays while a network is traced for any input size: numbers that record how they were computed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

Number: TypeAlias = "int | float"


class Term(NamedTuple):
    """How a number follows from sizes: an operation of `OPERATIONS` on numbers and other terms.

    ``Term("size", (value, dim))`` is the size of a result of the network in a dimension.
    """

    op: str
    operands: tuple[Any, ...]

    def last(self) -> int:
        """Return the index of the last result that the number depends on."""
        if self.op == "size":
            return int(self.operands[0])
        return max((each.last() for each in self.operands if isinstance(each, Term)), default=0)

    def as_python(self, name_of: Callable[[int], str]) -> str:
        """Return the expression in Python, with names for results."""
        if self.op == "size":
            return f"{name_of(self.operands[0])}.shape[{self.operands[1]}]"
        parts = [each.as_python(name_of) if isinstance(each, Term) else str(each) for each in self.operands]
        sign = _SIGNS.get(self.op)
        return f"({parts[0]} {sign} {parts[1]})" if sign else f"{self.op}({parts[0]})"


SizeOf: TypeAlias = Callable[[int, int], int]


def computed(template: Any, size_of: SizeOf) -> Any:
    """Return a number, or a container of numbers, with the terms in it computed."""
    if isinstance(template, Term):
        if template.op == "size":
            return size_of(*template.operands)
        return OPERATIONS[template.op](*(computed(each, size_of) for each in template.operands))
    if isinstance(template, (list, tuple)):
        return type(template)([computed(each, size_of) for each in template])
    return template


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "abs")},
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: getattr(math, name) for name in ("ceil", "floor", "trunc")},
}


_MAX_LENGTH = 64  # sizes in a term; a network that computes longer terms is traced for each input size

_SIGNS = dict(
    zip(
        ("add", "sub", "mul", "floordiv", "truediv", "mod", "eq", "ne", "lt", "le", "gt", "ge"),
        ("+", "-", "*", "//", "/", "%", "==", "!=", "<", "<=", ">", ">="),
        strict=True,
    )
)


class Size:
    """A number, an integer or a float, that was computed from sizes.

    Arithmetic with it gives further ones. Code that needs its value (a comparison, a range, a shape for NumPy) gets the
    one for the current sizes, which is recorded: for sizes that give another value, the network may behave differently.
    """

    __slots__ = ("length", "notes", "number", "term")

    def __init__(self, number: Number, term: Term, notes: dict[Term, Number], length: int = 1) -> None:
        self.number, self.term, self.notes, self.length = number, term, notes, length

    def known(self) -> Any:
        """Return the number, on which the network depends from now on."""
        self.notes[self.term] = self.number
        return self.number

    def __index__(self) -> int:
        return operator.index(self.known())

    def __int__(self) -> int:
        return int(self.known())

    def __float__(self) -> float:
        return float(self.known())

    def __bool__(self) -> bool:
        return bool(self.__ne__(0))

    def __hash__(self) -> int:
        return hash(self.known())

    def __repr__(self) -> str:
        return repr(self.known())

    def __format__(self, spec: str) -> str:
        return format(self.known(), spec)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        import numpy as np

        return np.asarray(self.known(), *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # Python and NumPy probe for protocols
            raise AttributeError(name)
        return getattr(self.known(), name)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self

    def __pow__(self, other: Any) -> Any:
        return self.known() ** (other.known() if isinstance(other, Size) else other)

    def __rpow__(self, other: Any) -> Any:
        return other ** self.known()

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.known(), digits)

    def __pos__(self) -> Size:
        return self


def template_of(value: Any) -> Any:
    """Return an argument with terms for the sizes in it."""
    if isinstance(value, (list, tuple)):
        return type(value)([template_of(each) for each in value])
    return value.term if isinstance(value, Size) else value


def number_of(value: Any) -> Any:
    """Return an argument with numbers for the sizes in it."""
    if isinstance(value, (list, tuple)):
        return type(value)([number_of(each) for each in value])
    return value.number if isinstance(value, Size) else value


def has_sizes(value: Any) -> bool:
    """Return whether an argument is or contains a `Size`."""
    return any(map(has_sizes, value)) if isinstance(value, (list, tuple)) else isinstance(value, Size)


def _method(name: str, *, reflected: bool = False) -> Callable[..., Any]:
    compute, compares = OPERATIONS[name], name in ("eq", "ne", "lt", "le", "gt", "ge")

    def method(self: Size, *others: Any) -> Any:
        if not all(isinstance(other, (int, float, Size)) for other in others):
            return NotImplemented
        given = (*others, self) if reflected else (self, *others)
        number, term = compute(*map(number_of, given)), Term(name, tuple(map(template_of, given)))
        length = self.length + sum(other.length for other in others if isinstance(other, Size))
        result = Size(number, term, self.notes, length)
        return result.known() if compares or length > _MAX_LENGTH else result

    return method


for _name in OPERATIONS:
    setattr(Size, f"__{_name}__", _method(_name))
for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod"):
    setattr(Size, f"__r{_name}__", _method(_name, reflected=True))
