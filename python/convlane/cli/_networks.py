"""ONNX and Keras files in commands: reading files, choosing the size of the input, preparing a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convlane.bridges.keras import load_keras
from convlane.cli._common import CommandError, model_name, read_picture
from convlane.functional._arguments import Array
from convlane.onnx import load_onnx

KNOWN = "a name of convlane.models.list(), or a file of ONNX (.onnx) or Keras (.keras, .h5)"
"""The help text for the networks that commands take."""

_KERAS = (".keras", ".h5", ".hdf5")
_SIDE = 224  # of pictures whose size the file leaves open
_CHANNELS = 3


def model_or_file(text: str) -> str:
    """Argument type: a network that `convlane.models` knows, or the path of a file."""
    return text if is_file(text) else model_name(text)


def is_file(model: str) -> bool:
    """Return whether a model is given as a file."""
    return model.lower().endswith((".onnx", *_KERAS))


def is_of_keras(path: str) -> bool:
    """Return whether a file is a Keras file, judging by its name."""
    return path.lower().endswith(_KERAS)


def read_network(path: str) -> Any:
    """Read a network with one input: a module whose `inputs` have names and shapes."""
    try:
        network: Any = load_keras(path) if is_of_keras(path) else load_onnx(path)
    except (ImportError, ValueError) as error:
        raise CommandError(str(error)) from None
    if len(network.inputs) != 1:
        names = ", ".join(info.name for info in network.inputs)
        raise CommandError(f"{path} has the inputs {names}; this command is for networks with one input")
    return network


def input_shape(network: Any, batch: int = 1, size: int | None = None) -> tuple[int, ...]:
    """Return the shape of the input; sizes that the file leaves open are the batch, three channels and `size`."""
    declared = network.inputs[0].shape or (None,) * 4
    channels_last = len(declared) == 4 and declared[3] in (1, 3, 4) and declared[1] not in (1, 3, 4)
    default = (
        (batch, size or _SIDE, size or _SIDE, _CHANNELS) if channels_last else (batch, _CHANNELS, *[size or _SIDE] * 8)
    )
    return tuple(dim if isinstance(dim, int) else default[i] for i, dim in enumerate(declared))


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments for turning a picture into an input."""
    parser.add_argument("--size", type=int, help=f"height and width where the file leaves them open (default {_SIDE})")
    parser.add_argument("--mean", type=_numbers, default=(0.0,), help="subtracted from pixels of 0 to 255 (default 0)")
    parser.add_argument("--std", type=_numbers, default=(255.0,), help="pixels are then divided by this (default 255)")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def read_input(path: Path, shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> Array:
    """Return the array of a .npy file as it is, or a picture resized to a shape."""
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise CommandError(f"{path} is not an array: {error}") from None
        return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array  # type: ignore[no-any-return]
    if len(shape) != 4:
        raise CommandError(f"the network does not take pictures, but the shape {tuple(shape)}; give a .npy file")
    channels_last = shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    channels, (height, width) = (shape[3], shape[1:3]) if channels_last else (shape[1], shape[2:])
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise CommandError(f"a picture has 1, 3 or 4 channels, but the network takes {channels}")
    picture = read_picture(path).convert(modes[channels]).resize((width, height))
    pixels: Any = np.asarray(picture, np.float32).reshape(height, width, channels)
    pixels = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return pixels[None] if channels_last else np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
