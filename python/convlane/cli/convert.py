"""Compile the network of an ONNX or Keras file to a plan in a file, which runs with NumPy alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from convlane.cli._common import CommandError, positive
from convlane.cli._networks import input_shape, read_network
from convlane.graph import compile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a file of ONNX (.onnx) or Keras (.keras, .h5)")
    parser.add_argument("plan", type=Path, metavar="PLAN", help="the file to write, for convlane.load_plan")
    parser.add_argument("--size", type=positive, help="height and width where the file leaves them open (default 224)")
    parser.add_argument("--shape", metavar="1,3,H,W", help="the whole shape of the input instead")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    network = read_network(args.model)
    try:
        shape = tuple(map(int, args.shape.split(","))) if args.shape else input_shape(network, 1, args.size)
        plan: Any
        try:
            plan = compile(network, (None, *shape[1:]))
        except ValueError:  # it mixes the images of a batch
            plan = compile(network, shape, whole=True)
        plan.save(args.plan)
    except (OverflowError, ValueError) as error:
        raise CommandError(f"{args.model}: {error}") from None
    print(f"{args.plan}: {plan}, {args.plan.stat().st_size / 1e6:.1f} MB")
