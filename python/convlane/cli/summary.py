"""List the layers of a network: shapes, activations, parameters, multiply-adds and memory."""

from __future__ import annotations

import argparse
from typing import Any

from convlane import models
from convlane.analysis import summary
from convlane.cli._common import CommandError, positive
from convlane.cli._networks import KNOWN, input_shape, is_file, model_or_file, read_network
from convlane.nn import init


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", type=model_or_file, metavar="MODEL", help=KNOWN)
    parser.add_argument("--batch", type=positive, default=1, help="images per call (default 1)")
    parser.add_argument("--size", type=positive, help="height and width of an image (default: the network's own)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    model: Any
    if is_file(args.model):
        model = read_network(args.model)
        shape = input_shape(model, args.batch, args.size)
    else:
        channels, *size = models.input_shape(args.model)
        shape = (args.batch, channels, *([args.size] * 2 if args.size else size))
        with init.skip():
            model = models.create(args.model)
    try:
        result = summary(model, shape)
    except (OverflowError, ValueError) as error:
        raise CommandError(f"{args.model} with an input of shape {shape}: {error}") from None
    print(result.to_json() if args.json else result)
