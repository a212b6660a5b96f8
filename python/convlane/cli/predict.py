"""Recognise the digit in a picture with the trained LeNet-5 that comes with the package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from convlane import digits
from convlane.cli._common import CommandError, read_picture, require
from convlane.functional import softmax
from convlane.functional._arguments import Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("pictures", type=Path, nargs="+", metavar="FILE", help="a picture of one digit, upright")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each picture")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    require({"PIL": "Pillow"})
    model = digits.classifier()
    for path in args.pictures:
        probabilities = softmax(model(prepared_digit(path)), 1)[0].astype(np.float64)
        first, second = np.argsort(-probabilities, kind="stable")[:2]
        if args.json:
            found = {"file": str(path), "digit": int(first), "probabilities": probabilities.round(6).tolist()}
            print(json.dumps(found), flush=True)
        else:
            print(
                f"{path}: {first} ({probabilities[first]:.1%}; next {second}, {probabilities[second]:.1%})", flush=True
            )


def prepared_digit(path: Path) -> Array:
    """Read a picture of a digit, with transparent pixels on white paper."""
    from PIL import Image

    coloured = read_picture(path).convert("RGBA")
    paper = Image.new("RGBA", coloured.size, "white")
    try:
        return digits.from_picture(np.asarray(Image.alpha_composite(paper, coloured).convert("L")))
    except ValueError as error:
        raise CommandError(f"{path}: {str(error).removeprefix('from_picture: ')}") from None
