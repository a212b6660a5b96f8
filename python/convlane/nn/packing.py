"""Layers that keep their weight packed for the kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from convlane import _core
from convlane.functional._arguments import Array
from convlane.functional._op import is_recorded
from convlane.nn.module import Module


class PackingModule(Module, ABC):
    """A module that keeps a packed copy of its weight, made by the first run on arrays and again for each new weight.

    The copy is stored in one tuple with the array that it was made from, so that threads that share the module never
    see one without the other; at worst, two threads pack the same weight.
    """

    weight: Array
    _packed: tuple[Array, Any] | None = None
    _unsaved = frozenset({"_packed"})

    @abstractmethod
    def pack(self, weight: Array) -> Any:
        """Pack a weight for this layer."""

    def forget_packed(self) -> None:
        """Free the packed copy of a weight that is about to change."""
        self._packed = None

    def weight_for(self, input: Any) -> Any:
        """Return the packed weight for arrays, or the weight itself while it is recorded or traced."""
        weight, cached = self.weight, self._packed
        if is_recorded(input, weight):
            return weight
        if cached is None or cached[0] is not weight or cached[1].isa != _core.active_isa():
            cached = weight, self.pack(weight)
            self._packed = cached
        return cached[1]
