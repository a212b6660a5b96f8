"""Run the network of an ONNX or Keras file on a picture or an array, and describe its outputs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from convlane.cli._common import CommandError, require
from convlane.cli._networks import add_picture_arguments, input_shape, is_of_keras, read_input, read_network
from convlane.onnx import InferenceSession

_MAX_VALUES = 1000  # the largest output whose values are in the JSON
_BEST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a file of ONNX (.onnx) or Keras (.keras, .h5)")
    parser.add_argument("input", type=Path, metavar="PICTURE|ARRAY.npy", help="the input")
    add_picture_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.npz", help="write all outputs to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.input.suffix.lower() != ".npy":
        require({"PIL": "Pillow"})
    network = read_network(args.model)
    array = read_input(args.input, input_shape(network, 1, args.size), args.mean, args.std)
    try:
        named = _outputs(args.model, network, array)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{args.model} with an input of shape {array.shape}: {error}") from None
    if args.out is not None:
        np.savez(args.out, **named)
    described = {name: _described(result) for name, result in named.items()}
    if args.json:
        print(json.dumps({"file": str(args.input), "outputs": described}))
        return
    for name, facts in described.items():
        print(f"{name}: {' x '.join(map(str, facts['shape'])) or 'one number'}, {facts['type']}", end="")
        print(f", {facts['least']:.6g} to {facts['most']:.6g}" if "least" in facts else "")
        for index, score in facts.get("best", []):
            print(f"{index:>8}: {score:.6g}")


def _outputs(path: str, network: Any, array: Any) -> dict[str, Any]:
    """Return all outputs by name; outputs of Keras networks without names are numbered."""
    if not is_of_keras(path):
        results = InferenceSession(path).run(None, {network.inputs[0].name: array})
        return {info.name: result for info, result in zip(network.outputs, results, strict=True)}
    found = network(array)
    if isinstance(found, dict):
        return found
    several = found if isinstance(found, (list, tuple)) else [found]
    return {f"output{i}" if len(several) > 1 else "output": result for i, result in enumerate(several)}


def _described(result: Any) -> dict[str, Any]:
    """Describe an output, with the best classes if it holds scores of classes."""
    facts: dict[str, Any] = {"shape": list(result.shape), "type": str(result.dtype)}
    if result.size:
        facts |= {"least": float(result.min()), "most": float(result.max())}
    if result.ndim == 2 and len(result) == 1 and result.shape[1] > 1:
        best = np.argsort(-result[0], kind="stable")[:_BEST]
        facts["best"] = [(int(index), float(result[0, index])) for index in best]
    if result.size <= _MAX_VALUES:
        facts["values"] = result.tolist()
    return facts
