"""Checkpoints: a network, its optimiser and the progress of training, in one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane.nn.module import Module
from convlane.safetensors_file import Path, open_tensors, shown, write_tensors
from convlane.training.optim import Optimizer
from convlane.weights.files import CHECKPOINT

__all__ = ["load_checkpoint", "save_checkpoint"]

_FORMAT = "1"  # increased by changes that would make older versions misread a file


def save_checkpoint(path: Path, model: Module, optimizer: Optimizer, **more: Mapping[str, Any]) -> None:
    """Write a network, its optimiser and whatever else is needed to resume training.

    The file is written atomically: an existing file is replaced only when the new one is complete.
    `convlane.load_weights` reads the network's weights from it.

    Parameters
    ----------
    path
        The file to write; a symbolic link is followed.
    model, optimizer
        Their state dicts are written.
    more
        Further dictionaries of numbers or arrays, under any names: ``progress={"epoch": 3}``.

    Raises
    ------
    OSError
        If it cannot be written. Nothing is left behind then.
    TypeError
        If a value is neither a number nor an array of numbers.

    Examples
    --------
    >>> import os, tempfile
    >>> from convlane import nn
    >>> from convlane.training import SGD, load_checkpoint, save_checkpoint
    >>> model = nn.Linear(3, 2)
    >>> optimizer = SGD(model, 0.1, momentum=0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "checkpoint.safetensors")
    ...     save_checkpoint(path, model, optimizer, progress={"epoch": 3})
    ...     more = load_checkpoint(path, model, optimizer)
    >>> int(more["progress"]["epoch"])
    3
    """
    groups = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}
    arrays = {f"{group}.{name}": np.asarray(value) for group, parts in groups.items() for name, value in parts.items()}
    write_tensors(path, arrays, {"format": CHECKPOINT, "format_version": _FORMAT})


def load_checkpoint(path: Path, model: Module, optimizer: Optimizer) -> dict[str, dict[str, NDArray[Any]]]:
    """Restore a network and its optimiser from a checkpoint, and return the rest of its contents.

    Nothing in the file is executed, so files from untrusted sources do no harm.

    Raises
    ------
    OSError
        If the file cannot be opened or read.
    ValueError
        If it is damaged, not a checkpoint, or one of another network or optimiser. Nothing has been changed then.
    """
    groups = read_checkpoint(path)
    restore(groups, path, model, optimizer)
    return groups


def restore(groups: dict[str, dict[str, NDArray[Any]]], path: Path, model: Module, optimizer: Optimizer) -> None:
    """Restore a network and its optimiser from the contents of a file, and remove these from `groups`."""
    before = model.state_dict()
    try:
        model.load_state_dict(groups.pop("model"))
        optimizer.load_state_dict(groups.pop("optimizer"))
    except (TypeError, ValueError) as error:
        model.load_state_dict(before)
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def read_checkpoint(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the contents of a checkpoint."""
    with open_tensors(path) as file:
        kind, version = file.metadata.get("format"), file.metadata.get("format_version")
        if kind != CHECKPOINT:
            raise ValueError(f"{file.path}: not a checkpoint, according to its metadata")
        if version != _FORMAT:
            raise ValueError(f"{file.path}: a checkpoint of format {shown(version)}; this convlane reads {_FORMAT}")
        groups: dict[str, dict[str, NDArray[Any]]] = {"model": {}, "optimizer": {}}
        for key in file.tensors:
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = file.read(key)
    return groups
