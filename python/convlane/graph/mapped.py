"""Packed weights in a plan's file, used in place through a mapping, so that a machine's processes share the memory.

Beside the weights, such a file holds them as packed on the machine that saved it, each at the start of a memory page,
and its metadata says for which instruction set and version. Elsewhere the weights are packed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convlane import _core
from convlane._version import __version__
from convlane.functional._arguments import Array
from convlane.functional._op import Shape
from convlane.safetensors_file import TensorFile, TensorMap, page_size, shown, strict_json

SMALL = 1 << 16
"""Bytes below which a weight is copied: less than a mapping of its own would cost."""


@dataclass(frozen=True)
class Packing:
    """Where and how a weight is packed in a file."""

    tensor: str
    weight: str
    groups: int
    algorithm: str
    layout: str
    count: int
    """The count of its numbers; zeros follow them, up to the end of the page."""


@dataclass(frozen=True)
class Packings:
    """All packed weights of a file."""

    isa: str = ""
    version: str = ""
    weights: tuple[Packing, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether this version packs the same way for the active instruction set."""
        return (self.isa, self.version) == (_core.active_isa(), __version__)


def packings_of(file: TensorFile) -> Packings:
    """Return what a file's metadata say about packed weights, none if nothing; ValueError if that is invalid."""
    text = file.metadata.get("packed")
    if text is None:
        return Packings()
    record = strict_json(text)
    if not isinstance(record, dict) or record.keys() != {"isa", "version", "weights"}:
        raise ValueError(f"packed must have isa, version and weights, got {shown(record)}")
    rows, fields = record["weights"], (str, str, int, str, str, int)
    if not (isinstance(record["isa"], str) and isinstance(record["version"], str) and isinstance(rows, list)):
        raise ValueError(f"packed: isa and version must be text, and weights a list, got {shown(record)}")
    for row in rows:
        if not (isinstance(row, list) and tuple(map(type, row)) == fields):
            raise ValueError(f"packed: a weight must be tensor, weight, groups, algorithm, layout, count: {shown(row)}")
        info = file.tensors.get(row[0])
        if row[1] not in file.tensors or info is None or info.type != "F32" or not 0 <= row[5] <= info.nbytes // 4:
            raise ValueError(f"packed: there is no such weight as {shown(row)}")
    return Packings(record["isa"], record["version"], tuple(Packing(*row) for row in rows))


def packed_parts(
    tensors: Mapping[str, Any], packed: Mapping[str, Sequence[tuple[int, str, _core.PackedWeight]]], isa: str
) -> tuple[dict[str, Any], str]:
    """Return tensors of packed weights, padded to whole pages, and their entry in the metadata.

    `packed` maps names of tensors to groups, algorithm and packed weight.
    """
    pages: dict[str, Any] = {}
    rows = []
    for name, kinds in packed.items():
        for groups, algorithm, weight in kinds if tensors[name].nbytes >= SMALL else ():
            tensor = f"packed.{len(pages)}"
            pages[tensor] = _Pages(weight)
            rows.append([tensor, name, groups, algorithm, weight.layout, weight.nbytes // 4])
    record = {"isa": isa, "version": __version__, "weights": rows}
    return pages, json.dumps(record, separators=(",", ":"))


@dataclass(frozen=True, eq=False)
class _Pages:
    """A packed weight, padded to whole pages."""

    packed: _core.PackedWeight
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> Shape:
        return (-(-self.packed.nbytes // page_size) * page_size // 4,)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        pages = np.zeros(self.shape, np.float32)
        pages[: self.packed.nbytes // 4] = self.packed.packed
        return pages


@dataclass
class MappedFile:
    """The weights of a plan in a mapped file."""

    tensors: TensorMap
    packings: Packings
    anew: set[str] = field(default_factory=set)
    """Names of weights that were packed again."""

    def weight(self, name: str, shape: Shape) -> MappedWeight:
        """Return a weight of the plan."""
        return MappedWeight(self, name, shape, {(p.groups, p.algorithm): p for p in self._packings(name)})

    def _packings(self, name: str) -> Iterator[Packing]:
        return (packing for packing in self.packings.weights if packing.weight == name)

    def repacked(self) -> str:
        """Return why weights were packed again, empty if none was."""
        if not self.anew:
            return ""
        packings = self.packings
        if not packings.isa:
            return "it has no packed weights that could be shared; save(path, packed=True) writes them"
        if not packings.usable:
            return (
                f"its weights are packed for {shown(packings.isa)} and version {shown(packings.version)}, so this "
                f"process has packed its own, for {_core.active_isa()} and version {__version__}; "
                "save(path, packed=True) here writes such"
            )
        return f"{len(self.anew)} of its weights are packed for other algorithms than this machine takes: packed again"


@dataclass(frozen=True, eq=False)
class MappedWeight:
    """A weight in a file, and how it is packed there, by groups and algorithm."""

    file: MappedFile
    name: str
    shape: Shape
    packings: Mapping[tuple[int, str], Packing]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.file.tensors.read(self.name)

    def packed(self, groups: int, algorithm: str) -> _core.PackedWeight | None:
        """Return the packed weight in the file, if it is packed there in this way."""
        packing = self.packings.get((groups, algorithm))
        if packing is None or not self.file.packings.usable:
            self.file.anew.add(self.name)
            return None
        o, i, *kernel = self.shape
        slices = kernel[0] if len(kernel) == 3 else 0
        shape = (o, i, kernel[-2] * max(slices, 1), kernel[-1]) if kernel else (o, i, 1, 1)
        numbers = self.file.tensors.read(packing.tensor).reshape(-1)[: packing.count]
        packed = _core.PackedWeight.over(numbers, shape, groups, algorithm if kernel else "pointwise", slices)
        if packed.layout != packing.layout:
            raise ValueError(f"packed: {self.name} is {shown(packing.layout)}, expected {packed.layout}")
        return packed
