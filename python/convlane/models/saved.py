"""Networks in files: the name and configuration as JSON in a safetensors file of the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping

from convlane import nn
from convlane._version import __version__
from convlane.models import registry
from convlane.nn import Module
from convlane.safetensors_file import Path, open_tensors, shown, strict_json, write_tensors
from convlane.weights.files import as_weight

_KIND = "convlane model"
_FORMAT = 1  # increased by changes that would make older versions misread a file


def load(path: Path) -> Module:
    """Load a network that `Module.save` has written: the same layers and weights, in eval mode.

    The file names one of `convlane.models.list`, so your own networks must be registered with
    ``convlane.models.register`` first. Nothing in the file is executed, so files from untrusted sources do no harm.

    Raises
    ------
    OSError
        If the file cannot be opened or read.
    ValueError
        If it is damaged, or holds no network, one that is not registered, or one in the format of another version; the
        message names the file and says what is wrong.
    MemoryError
        If the network does not fit into memory.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, convlane
    >>> model = convlane.models.create("mobilenet_v2", num_classes=10, width_mult=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "network.safetensors")
    ...     model.save(path)
    ...     again = convlane.load(path)
    >>> image = np.ones((1, 3, 32, 32), np.float32)
    >>> bool((again(image) == model(image)).all())
    True
    """
    with open_tensors(path) as file:
        try:
            name, num_classes, config = _architecture(file.metadata)
            numbers = sum(info.nbytes for info in file.tensors.values()) // 4
            with nn.init.skip(at_most=numbers):
                model = registry.build(name, num_classes, config)
            model.load_state_dict({key: as_weight(key, file.read(key)) for key in file.tensors})
        except MemoryError as error:
            raise MemoryError(f"{file.path}: the network does not fit into memory: {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file.path}: not a valid saved network: {error}") from error
    return model


def save(model: Module, path: Path) -> None:
    """Write a network that `convlane.models.create` or `load` has made; see `Module.save`."""
    architecture = registry.architecture(model)
    if architecture is None:
        raise ValueError(
            f"save: convlane.models.create has not made this {type(model).__name__}, so a file could not say how to "
            "rebuild it; convlane.save_weights(path, model.state_dict()) writes its weights"
        )
    name, num_classes, config = architecture
    try:
        text = json.dumps({"name": name, "num_classes": num_classes, "config": config}, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"save: {name} was created with {shown(config)}, which cannot all be written as JSON"
        ) from None
    state = model.state_dict()
    with nn.init.skip():
        rebuilt = registry.build(*_architecture(_metadata(text, __version__)))
    try:
        rebuilt.load_state_dict(state)  # so that nothing is written that cannot be read
        changed = repr(rebuilt) != repr(model)
    except ValueError:
        changed = True
    if changed:
        raise ValueError(
            f"save: the layers of this {name} have been changed since it was created, so a file could not say how to "
            "rebuild it; convlane.save_weights(path, model.state_dict()) writes its weights"
        )
    write_tensors(path, state, _metadata(text, __version__))


def _metadata(architecture: str, version: str) -> dict[str, str]:
    return {
        "format": _KIND,
        "format_version": str(_FORMAT),
        "convlane_version": version,
        "model": architecture,
    }


def _architecture(metadata: Mapping[str, str]) -> registry.Architecture:
    if metadata.get("format") != _KIND:
        raise ValueError(
            "its metadata do not say that it is one; convlane.load_weights reads weights alone, for a network that "
            "convlane.models.create has built"
        )
    version, writer = metadata.get("format_version"), shown(metadata.get("convlane_version"))
    if version != str(_FORMAT):
        raise ValueError(f"it has the format {shown(version)} of convlane {writer}, but this convlane reads {_FORMAT}")
    record = strict_json(metadata.get("model", "null"))
    if not isinstance(record, dict) or record.keys() != {"name", "num_classes", "config"}:
        raise ValueError(f"its model must be an object with name, num_classes and config, got {shown(record)}")
    name, num_classes, config = record["name"], record["num_classes"], record["config"]
    if not isinstance(name, str) or type(num_classes) is not int or not isinstance(config, dict):
        raise ValueError(f"its model has values of the wrong types: {shown(record)}")
    return registry.Architecture(name, num_classes, config)
