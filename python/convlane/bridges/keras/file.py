"""From a Keras file to a configuration and arrays, checked: nothing in it is executed.

Two kinds of files describe their network: the zip files of Keras 3 (``.keras``), and HDF5 files of whole networks
(``.h5``) as written by every version.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from convlane._files import open_regular
from convlane.bridges.keras.configuration import LayerSpec, ModelSpec, read_model
from convlane.bridges.keras.registry import Variables
from convlane.onnx import LoadError
from convlane.safetensors_file import Path, shown
from convlane.weights.archive import Archive
from convlane.weights.files import as_weight
from convlane.weights.keras_file import Hdf5File, candidates, open_hdf5

_ZIP = b"PK\3\4"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_CONFIGURATION, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MOST_TEXT = 1 << 26  # bytes of a configuration


class KerasFile(NamedTuple):
    """What a file holds."""

    model: ModelSpec
    arrays: Mapping[tuple[str, ...], list[NDArray[Any]]]
    """The arrays of each layer, in Keras's order, by its name after those of the models around it."""


def read_file(path: Path, variables: Callable[[LayerSpec], Variables], check: Callable[[ModelSpec], None]) -> KerasFile:
    """Read a file.

    Parameters
    ----------
    path
        The file.
    variables
        Returns which arrays a layer has.
    check
        Called with the configuration before any array is read; refuses it with a LoadError.

    Raises
    ------
    LoadError
        It is damaged or hostile, or does not describe its network.
    OSError
        It cannot be read.
    ImportError
        h5py is not installed.
    """
    path = os.fspath(path)
    with open_regular(path) as stream:
        start = stream.read(len(_HDF5))
        stream.seek(0)
        if start.startswith(_ZIP):
            return _read_zip(stream, path, variables, check)
        if start == _HDF5:
            return _read_hdf5(path, variables, check)
    raise LoadError(f"it is not a Keras file, neither zip nor HDF5: it begins with {start!r}")


def _read_zip(stream: BinaryIO, path: str, variables: Any, check: Any) -> KerasFile:
    archive = Archive(stream)
    for name in (_CONFIGURATION, _WEIGHTS):
        if name not in archive.entries:
            raise LoadError(f"it is not a Keras 3 file: it has no {name}, but {shown(sorted(archive.entries))}")
    version = 3
    if _METADATA in archive.entries:
        metadata = _parsed(archive.read(_METADATA, _MOST_TEXT))
        version = _version(metadata.get("keras_version") if isinstance(metadata, dict) else None)
    model = read_model(_parsed(archive.read(_CONFIGURATION, _MOST_TEXT)), version)
    check(model)
    weights = archive.read(_WEIGHTS, archive.entries[_WEIGHTS].file_size)
    with open_hdf5(io.BytesIO(weights), len(weights), path) as file:
        arrays = {names: as_weights(file.arrays_at(where)) for names, where in _groups(model)}
    return KerasFile(model, arrays)


def _read_hdf5(path: str, variables: Callable[[LayerSpec], Variables], check: Any) -> KerasFile:
    with open_hdf5(path, os.path.getsize(path), path) as file:
        text = file.configuration()
        if text is None:
            _refuse(file)
        model = read_model(_parsed(text), _version(file.text("keras_version")))
        check(model)
        arrays: dict[tuple[str, ...], list[NDArray[Any]]] = {}
        for spec in model.layers:
            if not spec.is_operation:
                _share_out(spec, as_weights(file.arrays_of(spec.name)), variables, arrays)
    return KerasFile(model, arrays)


def _refuse(file: Hdf5File) -> NoReturn:
    """Refuse a file of weights alone."""
    importlib.import_module("convlane.models")  # its families register the names of Keras's layers
    layers = file.layers()
    hint = "convlane knows no network with these layers"
    if names := candidates(layers):
        hint = f"it could be {' or '.join(names)}, for which convlane.models.create takes it as weights"
    raise LoadError(f"it holds weights alone, without saying of which network; {hint}: {shown(sorted(layers))}")


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"its configuration is not JSON: {error}") from None


def _version(text: Any) -> int:
    """Return the first number of Keras's version."""
    found = re.match(r"\d{1,3}", text) if isinstance(text, str) else None
    return int(found[0]) if found else 2


def as_weights(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return arrays as `load_weights` does."""
    return [as_weight(str(i), np.asarray(array)) for i, array in enumerate(arrays)]


def _groups(model: ModelSpec, names: tuple[str, ...] = (), where: str = "") -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each layer's path and the group of its arrays.

    Keras 3 numbers the layers of a class, in order, within each model.
    """
    counts: Counter[str] = Counter()
    for spec in model.layers:
        if spec.is_operation:
            continue
        kind = _snake(spec.kind.rpartition(">")[2])
        number = counts[kind]
        counts[kind] += 1
        group = f"{where}layers/{kind}{f'_{number}' if number else ''}"
        if spec.model is None:
            yield (*names, spec.name), group
        else:
            yield from _groups(spec.model, (*names, spec.name), f"{group}/")


def _snake(name: str) -> str:
    """Return ``re_lu`` of ``ReLU``, as Keras does."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _share_out(
    spec: LayerSpec,
    given: list[NDArray[Any]],
    variables: Callable[[LayerSpec], Variables],
    arrays: dict[tuple[str, ...], list[NDArray[Any]]],
) -> None:
    """Distribute the arrays of a model to its layers: the trainable ones of all layers come first, then the others."""
    if spec.model is None:
        arrays[spec.name,] = given
        return
    learned, others = [], []
    for names, leaf, trainable in _leaves(spec, (), True):
        of_leaf = variables(leaf)
        slots = [(names, name) for name in (*of_leaf.trainable, *of_leaf.others)]
        count = len(of_leaf.trainable) if trainable else 0
        learned += slots[:count]
        others += slots[count:]
        arrays[names] = []
    if len(given) != len(learned) + len(others):
        spec.config.fail(f"it has {len(given)} arrays, but its layers have {len(learned) + len(others)}")
    sorted_out: dict[tuple[tuple[str, ...], str], NDArray[Any]] = dict(zip((*learned, *others), given, strict=True))
    for names, leaf, _ in _leaves(spec, (), True):
        of_leaf = variables(leaf)
        arrays[names] = [sorted_out[names, name] for name in (*of_leaf.trainable, *of_leaf.others)]


def _leaves(
    spec: LayerSpec, names: tuple[str, ...], trainable: bool
) -> Iterator[tuple[tuple[str, ...], LayerSpec, bool]]:
    names, trainable = (*names, spec.name), trainable and spec.trainable
    if spec.model is None:
        if not spec.is_operation:
            yield names, spec, trainable
        return
    for inner in spec.model.layers:
        yield from _leaves(inner, names, trainable)


@contextmanager
def telling(path: str) -> Iterator[None]:
    """Turn all errors that a file can cause into one kind that names the file."""
    try:
        yield
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise LoadError(f"{path}: {error}") from error
