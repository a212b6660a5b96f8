"""Networks of Keras from their files, by the classes of their layers.

Neither Keras nor TensorFlow is needed, and nothing in a file is executed: a configuration is data, and only classes
that have a converter (`convlane.bridges.keras.registry`) become layers. h5py reads HDF5
(``pip install 'convlane[keras]'``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from convlane.bridges.keras import registry
from convlane.bridges.keras.configuration import LayerSpec, ModelSpec
from convlane.bridges.keras.file import read_file, telling
from convlane.bridges.keras.network import Layer, Network
from convlane.graph.trace import record
from convlane.nn.module import Module
from convlane.onnx import LoadError
from convlane.safetensors_file import Path

__all__ = ["Layer", "Network", "load_keras"]

_MOST_NUMBERS = 2**33  # numbers in one array that a network computes for one example


def load_keras(path: Path) -> Network:
    """Load a network from a file in which Keras saved a whole model.

    Parameters
    ----------
    path
        A ``.keras`` file, or an HDF5 file that includes the architecture, as ``model.save("model.h5")`` writes it in
        any version of Keras.

    Returns
    -------
    Network
        A module in eval mode. It can be called, compiled (`convlane.compile`), trained and saved as weights.

    Raises
    ------
    LoadError
        The file is damaged, or has layers that cannot be computed; all of them are named, with the reasons. Or it holds
        weights alone; the message then names the networks of `convlane.models` that they could belong to. It is a
        ValueError.
    OSError
        The file cannot be read.
    ImportError
        h5py is not installed; the extra ``keras`` installs it.

    Notes
    -----
    Arrays are in convlane's layout: what Keras takes or returns as (N, H, W, C) is (N, C, H, W), and likewise (N, C, L)
    for sequences and (N, C, D, H, W) for volumes: Keras's last axis comes second wherever there are three or more.
    Within the network, axes have Keras's meaning, so that `Flatten`, `Reshape` and softmax give the same numbers. If
    all layers of a network say ``channels_first``, arrays are as in Keras.

    A network of several inputs takes them in order, or by the names of its input layers; several outputs are returned
    as Keras returns them, in a list or a dict. A list of one output is returned as that output.

    The state dict has the names of Keras's layers (dots become underscores) and of torch's arrays: ``weight`` and
    ``bias`` with torch's axes, ``running_mean`` and ``running_var``; for a separable convolution ``depthwise_weight``
    and ``pointwise_weight``. A module that is assigned to the name of a layer replaces it, and is then called on (N, C,
    ...).

    During training, dropout is active and batch norm updates its statistics, with Keras's momentum; layers that add
    noise or change pictures at random do nothing.

    Examples
    --------
    >>> import json, os, tempfile
    >>> import convlane, h5py, numpy as np
    >>> layers = [{"class_name": "Dense", "config": {"name": "top", "units": 1, "batch_input_shape": [None, 2]}}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "tiny.h5")
    ...     with h5py.File(path, "w") as file:
    ...         file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
    ...         group = file.create_group("model_weights/top")
    ...         group.attrs["weight_names"] = ["kernel", "bias"]
    ...         group["kernel"], group["bias"] = np.ones((2, 1)), np.zeros(1)
    ...     network = convlane.load_keras(path)
    >>> network(np.array([[3, 4]], np.float32))
    array([[7.]], dtype=float32)
    >>> list(network.state_dict())
    ['top.weight', 'top.bias']
    """
    path = os.fspath(path)
    with telling(path):
        found = read_file(path, _variables, _refuse_unsupported)
        network = _network(found.model, found.arrays)
        _try(network)
    return network


def _entry(spec: LayerSpec) -> registry.Entry:
    entry = registry.find(spec)
    if isinstance(entry, str):
        spec.config.fail(entry)
    return entry


def _variables(spec: LayerSpec) -> registry.Variables:
    return _entry(spec).variables(spec.config)


def _refuse_unsupported(model: ModelSpec) -> None:
    """Raise one error that names every layer that cannot be computed, with the reasons."""
    refused: dict[str, list[str]] = {}
    for spec, _ in model.leaves():
        if isinstance(found := registry.find(spec), str):
            refused.setdefault(found, []).append(f"{spec.name!r} ({spec.kind})")
    for spec, call in model.extra_calls():
        if spec.model is not None or not isinstance(registry.find(spec), str):
            why = f"called with {', '.join(call.kwargs)}, which is not computed"
            refused.setdefault(why, []).append(f"{spec.name!r} ({spec.kind})")
    if refused:
        count = sum(map(len, refused.values()))
        lines = [f"  {', '.join(names[:20])}{' ...' * (len(names) > 20)}: {why}" for why, names in refused.items()]
        raise LoadError(f"{count} layer{'s' * (count > 1)} cannot be computed:\n" + "\n".join(lines))


def _network(model: ModelSpec, arrays: Mapping[tuple[str, ...], list[NDArray[Any]]]) -> Network:
    problems: list[str] = []
    network = _made(model, arrays, (), model.formats() == {"channels_first"}, problems)
    if problems:
        raise LoadError(problems[0] if len(problems) == 1 else "\n  ".join(["", *problems]))
    return network


def _made(
    model: ModelSpec,
    arrays: Mapping[tuple[str, ...], list[NDArray[Any]]],
    names: tuple[str, ...],
    channels_first: bool,
    problems: list[str],
) -> Network:
    layers: dict[str, Module] = {}
    for spec in model.layers:
        path = (*names, spec.name)
        if spec.model is not None:
            layers[spec.name] = _made(spec.model, arrays, path, channels_first, problems)
            continue
        try:
            layers[spec.name] = _layer(spec, arrays.get(path, []))
        except (TypeError, ValueError) as error:
            problems.append(str(error) if isinstance(error, LoadError) else f"{spec.name!r} ({spec.kind}): {error}")
            layers[spec.name] = Module()
    return Network(model, layers, channels_first)


def _layer(spec: LayerSpec, arrays: list[NDArray[Any]]) -> Layer:
    entry = _entry(spec)
    of_layer = entry.variables(spec.config)
    names = (*of_layer.trainable, *of_layer.others)
    if len(arrays) != len(names):
        spec.config.fail(f"it has {len(arrays)} arrays, not {len(names)}: {', '.join(names) or 'none'}")
    return entry.convert(spec.config, dict(zip(names, arrays, strict=True)))


def _try(network: Network) -> None:
    """Run the network on shapes, if the file has all of them, so that mismatches are found at once."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, declared in network.inputs:
        sizes = [size for size in (declared or (None, None))[1:] if size is not None]
        if declared is None or len(sizes) < len(declared) - 1:
            return
        shapes[name] = (1, *sizes)
    nodes, _ = record(network, shapes)
    for node in nodes.values():
        for shape in (node.shape, *(shape for shape, _ in node.results)):
            if math.prod(shape) > _MOST_NUMBERS:
                raise LoadError(f"{node.op} would make an array of shape {tuple(shape)}")
