"""Weights in the HDF5 files of Keras, under the names that convlane's networks give them.

Only arrays of numbers and words are read, along hard links within the file: links, external storage and virtual
datasets, which lead out of the file, are refused.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane.safetensors_file import shown

Layers: TypeAlias = dict[str, list[NDArray[Any]]]
"""The arrays of every layer that has some, in Keras's order, by the layer's name."""

Names: TypeAlias = Callable[[Layers], dict[str, NDArray[Any]]]
"""From the layers of a Keras network to convlane's state dict."""

_NETWORKS: dict[str, tuple[str, Names]] = {}  # a layer unique to each, and a renaming; filled by the families in models

_CONFIGURATION = "model_config"  # Keras's name for the attribute
_MOST_GROWTH = 20  # times its file that what it describes may take, as in archives
_ALWAYS_ALLOWED = 2**26  # bytes
_MOST_LAYERS = 10_000
_COMPRESSIONS = (None, "gzip", "lzf")  # others need programs that HDF5 looks for and loads


def read_keras(path: str) -> dict[str, NDArray[Any]]:
    """Return the weights in a file, mapped; ValueError says what is wrong.

    Raises
    ------
    ImportError
        h5py is not installed.
    """
    with open_hdf5(path, os.path.getsize(path), path) as file:
        layers, described = file.layers(), file.has_configuration
    try:
        return map_layers(layers)
    except ValueError as error:
        if described:
            raise ValueError(f"{error}; convlane.load_keras makes a network of it") from error
        raise


@contextmanager
def open_hdf5(source: str | BinaryIO, size: int, path: str) -> Iterator[Hdf5File]:
    """Open an HDF5 file, or a stream of one, of a given size in bytes; errors in it become ValueErrors.

    Raises
    ------
    ImportError
        h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path}: reading HDF5 files needs h5py; pip install 'convlane[keras]'") from error
    with _damage(), h5py.File(source, "r") as file:
        yield Hdf5File(file, size, h5py)


class Hdf5File:
    """An open HDF5 file, which is not trusted."""

    def __init__(self, file: Any, size: int, h5py: Any) -> None:
        self._file, self._size, self._h5py, self._left = file, size, h5py, max(_ALWAYS_ALLOWED, _MOST_GROWTH * size)

    @property
    def has_configuration(self) -> bool:
        """Whether it describes its network."""
        return _CONFIGURATION in self._file.attrs

    def text(self, attribute: str) -> str | None:
        """Return an attribute of the file that is text; None where there is none."""
        if attribute not in self._file.attrs:
            return None
        if self._file.attrs.get_id(attribute).get_storage_size() > self._size:
            raise ValueError(f"its attribute {attribute} is larger than the file")
        value = self._file.attrs[attribute]
        value = value.decode() if isinstance(value, bytes) else value
        if not isinstance(value, str):
            raise ValueError(f"its attribute {attribute} is not text")
        return value

    def configuration(self) -> str | None:
        """Return what the file says of the network, as JSON; None where it says nothing."""
        return self.text(_CONFIGURATION)

    def arrays_of(self, layer: str) -> list[NDArray[Any]]:
        """Return the arrays of a layer, or of a model within the network, of a file that has a configuration."""
        root = self._group(self._file, "model_weights")
        if layer not in root:
            return []
        group = self._group(root, layer)
        return [self._array(group, weight) for weight in self._names(group, "weight_names")]

    def arrays_at(self, path: str) -> list[NDArray[Any]]:
        """Return the arrays at a path of a file of weights alone, as Keras 3 has them; none where there is no group."""
        group: Any = self._file
        for part in (*path.split("/"), "vars"):
            if not isinstance(group, self._h5py.Group) or part not in group:
                return []
            group = self._walk(group, part)
        if not isinstance(group, self._h5py.Group):
            raise ValueError(f"{shown(path)} is not a group")
        return [self._array(group, str(i)) for i in range(len(list(_few(group))))]

    def layers(self) -> Layers:
        """Return all layers, whether Keras 3 has written them or an older one."""
        if "layers" in self._file:
            return self._new_layers()
        root = self._group(self._file, "model_weights") if "model_weights" in self._file else self._file
        layers: Layers = {}
        for name in self._names(root, "layer_names"):
            group = self._group(root, name)
            arrays = [self._array(group, weight) for weight in self._names(group, "weight_names")]
            if arrays:
                _add(layers, name, arrays)
        return layers

    def _new_layers(self) -> Layers:
        layers: Layers = {}
        for key in _few(self._group(self._file, "layers")):
            group = self._group(self._file, f"layers/{key}")
            variables = self._group(group, "vars") if "vars" in group else None
            if variables is not None and len(variables) > 0:
                name = variables.attrs.get("name", key)
                arrays = [self._array(variables, str(i)) for i in range(len(variables))]
                _add(layers, name if isinstance(name, str) else key, arrays)
        return layers

    def _names(self, group: Any, attribute: str) -> list[str]:
        """Return the names in an attribute, which Keras splits where it is large."""
        parts = [attribute] if attribute in group.attrs else []
        while not parts or parts[0] != attribute:
            if f"{attribute}{len(parts)}" not in group.attrs:
                break
            parts.append(f"{attribute}{len(parts)}")
        if not parts:
            raise ValueError(f"it is not a Keras weights file: {shown(group.name)} has no {attribute}")
        names = [name for part in parts for name in np.atleast_1d(group.attrs[part]).ravel().tolist()]
        return [name.decode() if isinstance(name, bytes) else str(name) for name in _few(names)]

    def _walk(self, group: Any, path: str) -> Any:
        """Return the object at a path, following hard links only."""
        for part in path.split("/"):
            if not isinstance(group, self._h5py.Group):
                raise ValueError(f"it has no {shown(path)}")
            link = group.get(part, getlink=True) if part else None
            if link is None:
                raise ValueError(f"it has no {shown(path)}")
            if not isinstance(link, self._h5py.HardLink):
                raise ValueError(f"{shown(path)} is a link, which may lead out of the file")
            group = group[part]
        return group

    def _group(self, parent: Any, path: str) -> Any:
        group = self._walk(parent, path)
        if not isinstance(group, self._h5py.Group):
            raise ValueError(f"{shown(path)} is not a group")
        return group

    def _array(self, parent: Any, path: str) -> NDArray[Any]:
        dataset = self._walk(parent, path)
        name = shown(path)
        if not isinstance(dataset, self._h5py.Dataset) or dataset.shape is None:
            raise ValueError(f"{name} is not an array")
        if dataset.is_virtual or dataset.external:
            raise ValueError(f"{name} has its numbers in another file")
        if dataset.compression not in _COMPRESSIONS:
            raise ValueError(f"{name} is compressed by {shown(dataset.compression)}, not by gzip or lzf")
        if dataset.dtype.kind not in "fiu":
            raise ValueError(f"{name} holds {dataset.dtype}, not numbers")
        self._left -= math.prod(dataset.shape) * dataset.dtype.itemsize
        if self._left < 0:
            most = max(_ALWAYS_ALLOWED, _MOST_GROWTH * self._size)
            raise ValueError(f"its {self._size} bytes describe more than {most} bytes of content")
        array: NDArray[Any] = dataset[()]
        return np.asarray(array)


def names_for(network: str, pattern: str) -> Callable[[Names], Names]:
    """Register a function from layers to a state dict for one of Keras's networks.

    `pattern` matches the name of a layer that only this network has.
    """

    def add(names: Names) -> Names:
        _NETWORKS[network] = pattern, names
        return names

    return add


def map_layers(layers: Layers) -> dict[str, NDArray[Any]]:
    """Return the arrays of one of the known networks, under convlane's names.

    They are a network's if all of its layers are there, and no others. If several networks fit, none is chosen: nothing
    is guessed.
    """
    found, near = _fitting(layers)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ValueError(f"its layers could be those of {' or of '.join(found)}, and it does not say which it is")
    rest = "".join(f"; not those of {network}: {why}" for network, why in near.items())
    known = ", ".join(_NETWORKS)
    raise ValueError(f"its layers fit no network that convlane knows ({known}): {shown(sorted(layers))}{rest}")


def candidates(layers: Layers) -> list[str]:
    """Return Keras's names of the networks that these layers could belong to."""
    return list(_fitting(layers)[0])


def _fitting(layers: Layers) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, str]]:
    """Return the arrays by the networks that they fit, and why they do not fit those that they resemble."""
    found, near = {}, {}
    for network, (pattern, names) in _NETWORKS.items():
        if any(re.fullmatch(pattern, name) for name in layers):
            try:
                found[network] = names(layers)
            except (KeyError, IndexError, ValueError) as error:
                near[network] = str(error)
    return found, near


def _add(layers: Layers, name: str, arrays: list[NDArray[Any]]) -> None:
    if name in layers:
        raise ValueError(f"the layer {shown(name)} occurs twice")
    layers[name] = arrays


def _few(names: Sequence[Any]) -> Iterator[Any]:
    if len(names) > _MOST_LAYERS:
        raise ValueError(f"it has {len(names)} names in one group; at most {_MOST_LAYERS} are allowed")
    return iter(names)


@contextmanager
def _damage() -> Iterator[None]:
    """Turn HDF5's errors about a file into a ValueError."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, TypeError, UnicodeError, OverflowError, SystemError) as error:
        raise ValueError(f"it is damaged: {error}") from error
