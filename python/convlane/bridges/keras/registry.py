"""The converters: which Keras classes become layers, and how. Anything else is refused by its name.

A converter is given the settings of a layer and its arrays under Keras's names, in Keras's order of axes, and returns a
`Layer`. Whatever a file holds, nothing else of Keras is computed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

from convlane.bridges.keras.configuration import Config, LayerSpec
from convlane.bridges.keras.network import Layer

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Converter: TypeAlias = Callable[[Config, Arrays], Layer]


class Variables(NamedTuple):
    """The arrays of a layer, by Keras's names in Keras's order."""

    trainable: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A converter in the registry."""

    convert: Converter
    variables: Callable[[Config], Variables]


_FAMILIES = ("activation", "convolution", "merge", "norm", "operation", "pool", "resample", "shape")
_LAYERS: dict[str, Entry] = {}
_OPERATIONS: dict[str, Entry] = {}


def _none(config: Config) -> Variables:
    return Variables()


def converts(*kinds: str, variables: Callable[[Config], Variables] = _none) -> Callable[[Converter], Converter]:
    """Register a function as the converter of some classes of layers."""

    def register(convert: Converter) -> Converter:
        _LAYERS.update(dict.fromkeys(kinds, Entry(convert, variables)))
        return convert

    return register


def converts_operations(*kinds: str) -> Callable[[Converter], Converter]:
    """Register a function as the converter of some classes of `keras.ops`."""

    def register(convert: Converter) -> Converter:
        _OPERATIONS.update(dict.fromkeys(kinds, Entry(convert, _none)))
        return convert

    return register


@cache
def _load_families() -> None:
    for family in _FAMILIES:
        importlib.import_module(f"convlane.bridges.keras.layers.{family}")


def layer_names() -> list[str]:
    """Return the classes of layers that have a converter."""
    _load_families()
    return sorted(_LAYERS)


def operation_names() -> list[str]:
    """Return the classes of operations that have one."""
    _load_families()
    return sorted(_OPERATIONS)


def find(spec: LayerSpec) -> Entry | str:
    """Return the converter of a layer, or why there is none."""
    _load_families()
    entry = (_OPERATIONS if spec.is_operation else _LAYERS).get(spec.kind)
    if entry is not None:
        return entry
    if spec.is_operation:
        return f"the operation {spec.kind} of keras.ops has no counterpart"
    return _WHY_NOT.get(spec.kind, f"the class {spec.kind} is unknown, and code of others is never run")


_WHY_NOT = {
    "Lambda": "it is code in the file, which is never run",
    **dict.fromkeys(("TFOpLambda", "SlicingOpLambda"), "this function of TensorFlow has no counterpart"),
    **dict.fromkeys(
        ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
        "recurrent layers are not computed",
    ),
    **dict.fromkeys(("MultiHeadAttention", "Attention", "AdditiveAttention"), "attention is not computed"),
}
