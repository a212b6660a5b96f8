"""Filter a photograph, run well-known networks on it and tell how fast they were, then train LeNet-5 on digits."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convlane import _core, digits, functional, machine, models, nn, runtime
from convlane._progress import progress
from convlane.cli._common import CommandError, read_picture, require, time_network
from convlane.data import Loader, augment, preprocessing
from convlane.functional._arguments import Array
from convlane.graph import compile
from convlane.training import Adam, evaluate, fit, predict, schedule

if TYPE_CHECKING:
    from PIL import Image

_NETWORKS = ("resnet50", "vgg16", "mobilenet_v2")
_REPEAT, _WARMUP = 10, 2
_EPOCHS = 20  # of LeNet-5 on the digits
_COLUMNS, _ROWS, _CELL = 12, 5, 64  # of the picture, in pixels

# Prewitt's operators (1970): the difference of two neighbouring columns, or rows, averaged over three pixels.
_VERTICAL = np.array([[1, 0, -1]] * 3, np.float32)
_HORIZONTAL = np.ascontiguousarray(_VERTICAL.T)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. ITU-R BT.601


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for the picture (default: .)")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a photograph of your own")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    require({"PIL": "Pillow", "sklearn": "scikit-learn", "tqdm": "tqdm"})
    photograph = _photograph(args.image)
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / "convlane-demo.png"
    _edges(photograph).save(picture)
    print(f"The photograph, its vertical and its horizontal edges: {picture}\n")
    _networks(preprocessing("resnet50")(photograph)[None])
    _digits(args.out / "convlane-digits.png")


def _photograph(path: Path | None) -> Image.Image:
    """Read the user's picture, or the one that comes with scikit-learn."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image("china.jpg")) if path is None else read_picture(path).convert("RGB")
    if min(photograph.size) < len(_VERTICAL):
        raise CommandError(f"the picture {path} is smaller than the filters: {photograph.size} pixels")
    return photograph


def _edges(photograph: Image.Image) -> Image.Image:
    """Put the photograph and what the two edge detectors answer on its luminance side by side."""
    from PIL import Image

    pixels = np.asarray(photograph)
    # (H, W, 3) pixels are an image (3, H, W) that lies channels last in memory.
    luminance = functional.conv2d(pixels.astype(np.float32).transpose(2, 0, 1), _LUMA.reshape(1, 3, 1, 1))
    # Without padding: zeros around the picture would make its frame an edge.
    edges = np.abs(functional.conv2d(luminance, np.stack([_VERTICAL, _HORIZONTAL])[:, None]))
    white = max(float(np.percentile(edges, 99)), 1.0)
    grey = np.minimum(edges * (255 / white), 255).astype(np.uint8)
    gap = np.full((grey.shape[1], 8, 3), 255, np.uint8)
    vertical, horizontal = (np.repeat(channel[..., None], 3, axis=2) for channel in grey)
    return Image.fromarray(np.concatenate([pixels[1:-1, 1:-1], gap, vertical, gap, horizontal], axis=1))


def _networks(image: Array) -> None:
    """Build and time the networks, and print the table."""
    built: dict[str, Any] = {name: models.create(name) for name in progress(_NETWORKS, "building")}
    timings = {name: time_network(model, image, _REPEAT, _WARMUP, name) for name, model in built.items()}
    threads, isa = runtime.get_num_threads(), _core.active_isa()
    peak = machine.fma_peak() / 1e9
    print(f"One photograph of {image.shape[2]}x{image.shape[3]} pixels on {machine.cpu_name()},")
    print(f"whose FMA peak with {threads} threads and {isa}, measured just now, is {peak:.0f} GFLOP/s:\n")
    print(f"{'network':<14}{'ms':>9}{'GFLOP/s':>10}{'% of peak':>11}{'threads':>9}  instruction set")
    for name, timing in timings.items():
        speed = f"{timing.median_ms:>9.2f}{timing.gflops:>10.1f}{timing.percent_of_peak:>11.1f}"
        print(f"{name:<14}{speed}{threads:>9}  {isa}")
    print("\nThe weights are random, so what the networks predict means nothing; only their speed does.\n")


def _digits(path: Path) -> None:
    """Train LeNet-5, compile it, tell how good it is and draw what it says to some digits."""
    train, held_out = digits.training_data()
    distort = augment.Compose(augment.Rotation(10), augment.RandomCrop(32, padding=3))
    loader = Loader(train, batch_size=32, shuffle=True, augment=distort, workers=1)
    nn.init.seed(1)
    model = models.create("lenet5")
    optimizer = Adam(model, schedule.one_cycle(0.004, _EPOCHS * len(loader)))
    start = time.perf_counter()
    fit(model, loader, epochs=_EPOCHS, optimizer=optimizer, verbose=False)
    seconds = time.perf_counter() - start
    plan = compile(model, (None, *models.input_shape("lenet5")))
    right = evaluate(plan, held_out)["accuracy"]
    print(f"LeNet-5 has learned {len(train[1])} handwritten digits in {seconds:.1f} s ({_EPOCHS} epochs). Compiled, it")
    print(f"reads {right:.1%} of {len(held_out[1])} others correctly.")
    _sheet(held_out[0], predict(plan, held_out).argmax(1), held_out[1]).save(path)
    print(f"Some of them with its answers, and all that it got wrong: {path}")


def _sheet(images: Array, answers: Any, classes: Any) -> Image.Image:
    """Draw digits with the network's answers below them: those that are wrong first, and in red."""
    from PIL import Image, ImageDraw

    wrong_first = np.argsort(answers == classes, kind="stable")[: _COLUMNS * _ROWS]
    width, height = _CELL, _CELL + 16
    sheet = Image.new("RGB", (_COLUMNS * width, _ROWS * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(wrong_first):
        left, top = place % _COLUMNS * width, place // _COLUMNS * height
        digit = Image.fromarray(np.uint8(255 - 255 * images[index, 0]))
        sheet.paste(digit.resize((_CELL - 4, _CELL - 4)), (left + 2, top + 2))
        right = answers[index] == classes[index]
        text = str(answers[index]) if right else f"{answers[index]} (is {classes[index]})"
        draw.text((left + 4, top + _CELL), text, fill="black" if right else "red")
    return sheet
