"""Containers: modules that run other modules in sequence or in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, overload

from convlane.functional import add, cat
from convlane.functional._arguments import Array
from convlane.nn.module import Module


class Sequential(Module):
    """A chain of modules, each of which takes the result of the one before.

    The modules are named "0", "1", ... or by the keys of a dictionary. Indexing takes integers, also for assignment,
    and slices, which give a `Sequential` that shares modules (and their names) with this one.

    Examples
    --------
    >>> from convlane import nn
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> network[-1] = nn.Linear(3, 10)
    >>> network[1:]
    Sequential(
      (1): ReLU()
      (2): Linear(in_features=3, out_features=10, bias=True)
    )
    """

    def __init__(self, *modules: Module | dict[str, Module]) -> None:
        first = modules[0] if len(modules) == 1 else None
        _add_children(self, first if isinstance(first, dict) else _numbered(modules))

    def forward(self, input: Any) -> Any:
        """Run the modules in order."""
        for module in self:
            input = module(input)
        return input

    def __len__(self) -> int:
        return len(self._child_names)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return Sequential({name: vars(self)[name] for name in self._child_names[index]})
        module: Module = vars(self)[self._child_names[index]]
        return module

    def __setitem__(self, index: int, module: Module) -> None:
        _add_children(self, {self._child_names[index]: module})


class Add(Module):
    """Parallel branches with one input; their results, which must have the same shape, are added.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> block = nn.Add(nn.Identity(), nn.ReLU())
    >>> block(np.array([[-1, 2]], np.float32))
    array([[-1.,  4.]], dtype=float32)
    """

    def __init__(self, *branches: Module) -> None:
        _add_branches(self, branches)

    def forward(self, input: Any) -> Any:
        """Run the branches and add their results from first to last."""
        return reduce(add, [branch(input) for branch in self.children()])


class Concat(Module):
    """Parallel branches with one input; their results are concatenated along the channels.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> block = nn.Concat(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 3, padding=1))
    >>> block(np.zeros((1, 3, 5, 5), np.float32)).shape
    (1, 12, 5, 5)
    """

    def __init__(self, *branches: Module) -> None:
        _add_branches(self, branches)

    def forward(self, input: Any) -> Array:
        """Run the branches and concatenate their results."""
        return cat([branch(input) for branch in self.children()], 1)


def _add_branches(parent: Module, branches: tuple[Module, ...]) -> None:
    if not branches:
        raise ValueError(f"{type(parent).__name__}: at least one branch is needed")
    _add_children(parent, _numbered(branches))


def _numbered(modules: Iterable[Any]) -> dict[str, Any]:
    return {str(i): module for i, module in enumerate(modules)}


def _add_children(parent: Module, children: dict[str, Any]) -> None:
    for name, child in children.items():
        kind = type(parent).__name__
        if not isinstance(child, Module):
            raise TypeError(f"{kind}: {name!r} must be a Module, got {type(child).__name__}")
        if name not in parent._child_names and (not name or "." in name or hasattr(parent, name)):
            raise ValueError(f"{kind}: {name!r} cannot be the name of a module")
        setattr(parent, name, child)
