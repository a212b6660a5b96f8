"""The converters, found by domain, operator and the version they apply from, and the context that each is given.

A converter is called with a `Call` and the node's inputs, None for those left out, and returns the output, or a tuple
of several. An input is a NumPy array or something on which `convlane.functional` works: a symbol while a network is
compiled, a variable while gradients are recorded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from convlane.onnx.file import FileGraph, Node

Converter: TypeAlias = Callable[..., Any]
Refusal: TypeAlias = Callable[[Node], str]
"""Return why a node cannot be computed, judging by its attributes; empty if it can."""

_FAMILIES = (
    "activation",
    "arithmetic",
    "control",
    "convolution",
    "norm",
    "pool",
    "quantize",
    "reduce",
    "resize",
    "shape",
)


@dataclass(frozen=True)
class Call:
    """One node during a walk."""

    node: Node
    training: bool
    """Whether dropout is active and batch norm uses the batch's statistics."""
    run: Callable[[FileGraph], tuple[Any, ...]]
    """Runs a graph that is an attribute, with access to the values around it."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.node.attributes.get(name, default)

    @property
    def outputs(self) -> int:
        """How many outputs are requested."""
        return len(self.node.outputs)


class Entry(NamedTuple):
    """A registered converter."""

    since: int
    convert: Converter
    refuse: Refusal | None
    wide: bool
    """It computes float64 too; others are given float32 instead."""


_ENTRIES: dict[tuple[str, str], list[Entry]] = {}


def converts(
    *ops: str, since: int = 1, domain: str = "", refuse: Refusal | None = None, wide: bool = False
) -> Callable[[Converter], Converter]:
    """Register a function as the converter of operators from a version on, until another one replaces it."""

    def register(convert: Converter) -> Converter:
        for op in ops:
            entries = _ENTRIES.setdefault((domain, op), [])
            entries.append(Entry(since, convert, refuse, wide))
            entries.sort(key=lambda entry: entry.since)
        return convert

    return register


def registered() -> Mapping[tuple[str, str], list[Entry]]:
    """Return all converters."""
    _load_families()
    return _ENTRIES


@cache
def _load_families() -> None:
    for family in _FAMILIES:
        importlib.import_module(f"convlane.onnx.ops.{family}")


def find(node: Node) -> Entry | str:
    """Return the converter of a node, or why there is none."""
    entries = registered().get((node.domain, node.op))
    if entries is None:
        why = _WHY_NOT.get(node.op, "there is no converter for this operator")
        return why if node.domain == "" else f"there is no converter for operators of the domain {node.domain!r}"
    fitting = [entry for entry in entries if entry.since <= node.opset]
    if not fitting:
        return f"it exists since opset {entries[0].since}"
    refuse = fitting[-1].refuse
    return (refuse is not None and refuse(node)) or fitting[-1]


_WHY_NOT = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "recurrent layers are not computed; run the part before them"),
    **dict.fromkeys(
        ("Loop", "Scan", "SequenceMap"), "loops are not computed; export with a fixed size, or unroll it first"
    ),
    **dict.fromkeys(("StringNormalizer", "TfIdfVectorizer", "StringConcat", "StringSplit"), "text is not computed"),
}
