"""Weights of a graph: references to arrays, and what is still to be applied to them when they are packed.

A network's parameters are read-only and replaced, never changed, so a graph may refer to them. No pass copies a weight;
and once a weight is packed, the plan keeps only the packed one if the original can be recovered from it bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane.functional._arguments import Array, Pair
from convlane.functional._op import Shape
from convlane.functional.conv3d import as_rows
from convlane.graph.mapped import MappedWeight
from convlane.graph.trace import Graph, Node


class Source(Protocol):
    """The source of a weight: an array, or something that `numpy.asarray` converts to one."""

    @property
    def shape(self) -> Shape:
        """Shape of the array."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight (O, ...) that is computed from its source when needed: sorted, multiplied and rounded once."""

    source: Source
    factor: NDArray[np.float64] | None = None
    """One factor for each output channel."""
    image: Shape | None = None
    """The weight reads flattened images (C, H, W); its columns are to be sorted for channels last."""
    transposed: int | None = None
    """The groups of a transposed convolution: the weight is (C, O / groups, KH, KW)."""

    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> Shape:
        """Shape of the array."""
        return tuple(self.source.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return 4 * math.prod(self.shape)

    def times(self, factor: NDArray[np.float64]) -> Weight:
        """Return the weight with its output channels multiplied."""
        return replace(self, factor=factor if self.factor is None else self.factor * factor)

    def loaded(self) -> Weight:
        """Return the weight with its source in memory, or in a mapped file."""
        stays = isinstance(self.source, (np.ndarray, MappedWeight, _Packed))
        return self if stays else replace(self, source=np.asarray(self.source))

    def pack(self, groups: int = 1, algorithm: str = "auto") -> _core.PackedWeight:
        """Pack the weight of a convolution, of images or volumes, (O, C / groups, ...), or of a linear layer (O, I)."""
        if isinstance(self.source, MappedWeight) and self.factor is None and self.image is None:
            packed = self.source.packed(groups, algorithm)
            if packed is not None:
                return packed
        array = np.asarray(self.source)
        if array.ndim == 5:
            return _core.PackedWeight(as_rows(array), groups, algorithm, self.factor, slices=array.shape[2])
        if array.ndim == 4:
            return _core.PackedWeight(array, groups, algorithm, self.factor)
        if self.image is None:
            return _core.PackedWeight(array[:, :, None, None], 1, "pointwise", self.factor)
        return _core.PackedWeight(array.reshape(-1, *self.image), 1, "im2col", self.factor, flat=True)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = np.asarray(self.source)
        if self.image is not None:
            c, *size = self.image
            array = array.reshape(-1, c, math.prod(size)).transpose(0, 2, 1).reshape(array.shape)
        if self.factor is not None:
            scaled = np.empty(array.shape, np.float32)
            factor = self.factor.reshape(-1, *[1] * (array.ndim - 1))
            if self.transposed is not None:  # all inputs of a group share the factors of its outputs
                each = self.factor.reshape(self.transposed, 1, -1)
                inputs = len(array) // self.transposed
                factor = np.broadcast_to(each, (self.transposed, inputs, each.shape[2])).reshape(*array.shape[:2], 1, 1)
            with np.errstate(all="ignore"):
                array = np.multiply(array, factor, out=scaled, casting="same_kind")
        return array

    def __reduce__(self) -> Any:
        return Weight, (np.asarray(self),)  # packed weights are specific to a machine


@dataclass(frozen=True, eq=False)
class _Packed:
    """A weight that exists only in packed form."""

    packed: _core.PackedWeight | _core.TransposedWeight
    shape: Shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.packed.unpack().reshape(self.shape)


class Packer:
    """Packs the weights of graphs, each once, and remembers where they can be recovered from afterwards.

    Two weights are the same if they are computed in the same way from one array; the arrays are kept alive, because
    they are compared by identity.
    """

    def __init__(self) -> None:
        self._packed: dict[tuple[Any, int, str], _core.PackedWeight] = {}
        self._transposed: dict[tuple[Any, Pair, Pair, int, str], _core.TransposedWeight] = {}
        self._moved: dict[Any, Weight] = {}
        self._sources: list[Any] = []

    def pack(self, weight: Array | Weight, groups: int = 1, algorithm: str = "auto") -> _core.PackedWeight:
        """Pack a weight of the graph."""
        same = _identity(weight)
        key = same, groups, algorithm
        if key not in self._packed:
            loaded = weight.loaded() if isinstance(weight, Weight) else Weight(weight)
            packed = loaded.pack(groups, algorithm)
            moved = self._keep(weight, loaded, packed)
            self._packed[key] = self._packed[_identity(moved), groups, algorithm] = packed
        return self._packed[key]

    def found(self, weight: Array | Weight) -> list[tuple[int, str, _core.PackedWeight]]:
        """Return groups, algorithm and packed weight for each way in which a weight was packed."""
        same = _identity(weight)
        return [(groups, way, packed) for (other, groups, way), packed in self._packed.items() if other == same]

    def pack_transposed(
        self, weight: Array | Weight, stride: Pair, dilation: Pair, groups: int, algorithm: str
    ) -> _core.TransposedWeight:
        """Pack the weight of a transposed convolution of the graph."""
        same = _identity(weight)
        key = same, stride, dilation, groups, algorithm
        if key not in self._transposed:
            loaded = weight.loaded() if isinstance(weight, Weight) else Weight(weight)
            packed = _core.TransposedWeight(np.asarray(loaded), stride, dilation, groups, algorithm)
            moved = self._keep(weight, loaded, packed)
            self._transposed[key] = self._transposed[_identity(moved), stride, dilation, groups, algorithm] = packed
        return self._transposed[key]

    def _keep(
        self, weight: Array | Weight, loaded: Weight, packed: _core.PackedWeight | _core.TransposedWeight
    ) -> Weight:
        """Remember where a packed weight can be recovered from; return what it is from then on."""
        here = Weight(_Packed(packed, loaded.shape)) if packed.reversible else loaded
        moved = self._moved.setdefault(_identity(weight), here)
        self._moved[_identity(moved)] = moved
        self._sources += [weight.source if isinstance(weight, Weight) else weight, moved.source]
        return moved

    def relieve(self, graph: Graph) -> Graph:
        """Return the graph with its weights taken from their packed forms; the originals may be freed."""
        relieved = replace(graph, nodes={value: self._relieve(node) for value, node in graph.nodes.items()})
        kept = {_identity(moved): moved for moved in self._moved.values()}
        self._packed = {key: packed for key, packed in self._packed.items() if key[0] in kept}
        self._transposed = {key: packed for key, packed in self._transposed.items() if key[0] in kept}
        self._moved, self._sources = kept, [moved.source for moved in kept.values()]
        return relieved

    def _relieve(self, node: Node) -> Node:
        attributes: Mapping[str, Any] = {name: self._find(value) for name, value in node.attributes.items()}
        return replace(node, attributes=attributes)

    def _find(self, value: Any) -> Any:
        if isinstance(value, tuple) and value and isinstance(value[0], Node):
            return tuple(self._relieve(part) for part in value)
        if isinstance(value, (np.ndarray, Weight)) and (moved := self._moved.get(_identity(value))) is not None:
            return moved
        return value.loaded() if isinstance(value, Weight) else value


def _identity(weight: Array | Weight) -> Any:
    """Return a key that two weights share if and only if they are the same, while their sources are alive.

    Arrays are identified by the memory that they view: each call of a network may see a parameter in a different view.
    """
    if not isinstance(weight, Weight):
        return _memory_key(weight), None, None, None
    factor = None if weight.factor is None else weight.factor.tobytes()
    return _memory_key(weight.source), factor, weight.image, weight.transposed


def _memory_key(source: Source) -> Any:
    if not isinstance(source, np.ndarray):
        return id(source)
    return source.__array_interface__["data"][0], source.shape, source.strides
