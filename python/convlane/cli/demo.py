"""Filter a photograph, then run well-known networks on it and tell how fast they were."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convlane import _core, functional, machine, models, runtime
from convlane._progress import progress
from convlane.cli._common import CommandError, time_network
from convlane.functional._arguments import Array

if TYPE_CHECKING:
    from PIL import Image

_NETWORKS = ("resnet50", "vgg16", "mobilenet_v2")
_REPEAT, _WARMUP = 10, 2

# Prewitt's operators (1970): the difference of two neighbouring columns, or rows, averaged over three pixels.
_VERTICAL = np.array([[1, 0, -1]] * 3, np.float32)
_HORIZONTAL = np.ascontiguousarray(_VERTICAL.T)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. ITU-R BT.601

# What torchvision's weights were trained with: the mean and deviation of ImageNet's colours, and 224 pixels out of 256.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_CROP = 224
_BORDER = (1 - _CROP / 256) / 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for the picture (default: .)")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a photograph of your own")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    for module, package in {"PIL": "Pillow", "sklearn": "scikit-learn", "tqdm": "tqdm"}.items():
        try:
            importlib.import_module(module)
        except ImportError:
            raise CommandError(f"{package} is not installed; pip install 'convlane[demo]' brings it") from None
    photograph = _photograph(args.image)
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / "convlane-demo.png"
    _edges(photograph).save(picture)
    print(f"The photograph, its vertical and its horizontal edges: {picture}\n")
    _networks(_prepared(photograph))


def _photograph(path: Path | None) -> Image.Image:
    """Read the user's picture, or the one that comes with scikit-learn."""
    from PIL import Image, ImageOps
    from sklearn.datasets import load_sample_image

    if path is None:
        return Image.fromarray(load_sample_image("china.jpg"))
    try:
        with Image.open(path) as file:
            photograph = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow raises
        raise CommandError(f"cannot read the picture {path}: {error}") from None
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


def _prepared(photograph: Image.Image) -> Array:
    """Crop, scale and normalise the photograph as networks trained on ImageNet expect it."""
    from PIL import Image, ImageOps

    crop = ImageOps.fit(photograph, (_CROP, _CROP), Image.Resampling.BILINEAR, bleed=_BORDER)
    colours = (np.asarray(crop, np.float32) / np.float32(255) - _MEAN) / _STD
    return colours.transpose(2, 0, 1)[None]


def _networks(image: Array) -> None:
    """Build and time the networks, and print the table."""
    built: dict[str, Any] = {name: models.create(name) for name in progress(_NETWORKS, "building")}
    timings = {name: time_network(model, image, _REPEAT, _WARMUP, name) for name, model in built.items()}
    threads, isa = runtime.get_num_threads(), _core.active_isa()
    peak = machine.fma_peak() / 1e9
    print(f"One photograph of {_CROP}x{_CROP} pixels on {machine.cpu_name()},")
    print(f"whose FMA peak with {threads} threads and {isa}, measured just now, is {peak:.0f} GFLOP/s:\n")
    print(f"{'network':<14}{'ms':>9}{'GFLOP/s':>10}{'% of peak':>11}{'threads':>9}  instruction set")
    for name, timing in timings.items():
        speed = f"{timing.median_ms:>9.2f}{timing.gflops:>10.1f}{timing.percent_of_peak:>11.1f}"
        print(f"{name:<14}{speed}{threads:>9}  {isa}")
    print("\nThe weights are random, so what the networks predict means nothing; only their speed does.")
