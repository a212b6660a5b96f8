"""Write an HTML page that explains a network on a picture: its layers, feature maps, receptive fields and times."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convlane import analysis, digits, models, runtime
from convlane.cli._common import CommandError, positive, read_picture, require, thread_count
from convlane.cli._networks import KNOWN, input_shape, is_file, model_or_file, read_input, read_network
from convlane.cli.predict import prepared_digit
from convlane.data import Preprocessing, preprocessing
from convlane.functional._arguments import Array

_LEARNED = "lenet5"  # comes with weights trained on digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", type=model_or_file, metavar="MODEL", help=KNOWN)
    parser.add_argument(
        "picture", type=Path, metavar="PICTURE", help="a photograph, or a digit for networks that read digits"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page, for example page.html")
    weights = f"trained weights (default: random ones; for {_LEARNED} those that come with convlane)"
    parser.add_argument("--weights", type=Path, metavar="FILE", help=weights)
    parser.add_argument("--size", type=positive, help="height and width of the image (default: the network's own)")
    parser.add_argument("--channels", type=positive, default=16, help="feature maps shown per layer (default 16)")
    parser.add_argument("--threads", type=thread_count, default=runtime.get_num_threads(), help="default: all")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    require({"PIL": "Pillow"})
    if is_file(args.model):
        _explain_file(args)
        return
    image, pixels = _prepared(args.picture, args.model, args.size)
    note = f"On {args.picture.name}, as {image.shape[2]} x {image.shape[3]} pixels."
    learned = args.model == _LEARNED and args.weights is None
    if args.weights is None and not learned:
        note += " The weights are random, so the feature maps show the architecture only, and nothing learned."
    try:
        model = digits.classifier() if learned else models.create(args.model, weights=args.weights)
        with runtime.num_threads(args.threads):
            text = analysis.page(model, image, title=args.model, picture=pixels, note=note, channels=args.channels)
    except ValueError as error:
        raise CommandError(f"{args.model} with an input of shape {image.shape}: {error}") from None
    args.out.write_text(text, "utf-8", "backslashreplace")  # file names need not be text
    print(f"{args.out}: {len(text) / 1e6:.1f} MB")


def _explain_file(args: argparse.Namespace) -> None:
    """Explain the network of a file, on pixels from 0 to 1."""
    network = read_network(args.model)
    shape = input_shape(network, 1, args.size)
    image = read_input(args.picture, shape, (0.0,), (255.0,))
    channels_first = image if shape[1] in (1, 3, 4) else image.transpose(0, 3, 1, 2)
    colours = channels_first[0, :3].transpose(1, 2, 0)
    pixels = np.rint(255 * (colours[:, :, 0] if colours.shape[2] == 1 else colours)).astype(np.uint8)
    name = Path(args.model).name
    note = f"{name} on {args.picture.name}, as {shape[2]} x {shape[3]} pixels."
    try:
        with runtime.num_threads(args.threads):
            text = analysis.page(network, image, title=name, picture=pixels, note=note, channels=args.channels)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{name} with an input of shape {image.shape}: {error}") from None
    args.out.write_text(text, "utf-8", "backslashreplace")
    print(f"{args.out}: {len(text) / 1e6:.1f} MB")


def _prepared(path: Path, name: str, size: int | None) -> tuple[Array, NDArray[np.uint8]]:
    """Return the picture as the network's input, and as pixels to show."""
    channels, side, _ = models.input_shape(name)
    if models.input_shape(name) == models.input_shape(_LEARNED):
        if size not in (None, side):
            raise CommandError(f"{name} takes digits of {side} x {side} pixels, not of {size} x {size}")
        digit = prepared_digit(path)
        return digit, np.rint(255 * digit[0, 0]).astype(np.uint8)
    try:
        prepare = preprocessing(name)
    except ValueError:  # torchvision has no weights for it
        prepare = Preprocessing()
    side = size or side
    if prepare.crop != side:
        prepare = replace(prepare, crop=side, resize=-(-side * (prepare.resize or side) // (prepare.crop or side)))
    image = prepare(read_picture(path))
    colours = (image.transpose(1, 2, 0) * np.array(prepare.std) + np.array(prepare.mean)) * prepare.divisor
    grey = image.mean(0, keepdims=True)
    return (grey if channels == 1 else image)[None], np.rint(colours).astype(np.uint8)
