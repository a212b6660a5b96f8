"""Helpers that commands share: types of arguments, errors and the timing of networks."""

from __future__ import annotations

import argparse
import difflib
import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convlane import machine, models
from convlane._progress import progress
from convlane.analysis import multiply_adds
from convlane.data.picture import open_picture
from convlane.functional._arguments import Array
from convlane.graph import compile
from convlane.runtime import checked_threads

if TYPE_CHECKING:
    from PIL import Image


class CommandError(Exception):
    """Ends a command with a one-line message and exit code 1."""


def require(packages: Mapping[str, str]) -> None:
    """Raise a CommandError if one of these modules, given with their packages, is not installed."""
    for module, package in packages.items():
        try:
            importlib.import_module(module)
        except ImportError:
            raise CommandError(f"{package} is not installed; pip install 'convlane[demo]' installs it") from None


def read_picture(path: Path) -> Image.Image:
    """Read a picture, rotated upright."""
    try:
        return open_picture(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read the picture: {error}") from None


def positive(text: str) -> int:
    """Argument type: an integer from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def thread_count(text: str) -> int:
    """Argument type: a valid number of threads."""
    number = int(text)
    try:
        return checked_threads(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def model_name(text: str) -> str:
    """Argument type: a network that `convlane.models` knows."""
    names = models.list()
    if text not in names:
        near = difflib.get_close_matches(text, names, n=3, cutoff=0.4) or names
        raise argparse.ArgumentTypeError(f"unknown network {text!r}; did you mean {', '.join(near)}?")
    return text


@dataclass(frozen=True)
class Timing:
    """The times of the calls of a network, and how they compare with this machine's peak."""

    seconds: tuple[float, ...]
    images: int
    multiply_adds: int
    peak: float

    @property
    def best_ms(self) -> float:
        return min(self.seconds) * 1e3

    @property
    def median_ms(self) -> float:
        return float(np.median(self.seconds)) * 1e3

    @property
    def p90_ms(self) -> float:
        return float(np.percentile(self.seconds, 90)) * 1e3

    @property
    def images_per_second(self) -> float:
        return self.images / self.median_ms * 1e3

    @property
    def gflops(self) -> float:
        """GFLOP/s at the median time; a multiply-add counts two operations."""
        return 2 * self.multiply_adds / self.median_ms / 1e6

    @property
    def percent_of_peak(self) -> float:
        return 1e11 * self.gflops / self.peak


def time_network(
    model: Callable[[Any], Any],
    image: Array,
    repeat: int,
    warmup: int,
    label: str,
    *,
    compiled: bool = False,
    autotune: bool | str = False,
) -> Timing:
    """Time the calls of a network, or of a plan for it, on one image or batch; see `time_calls`."""
    cost = multiply_adds(model, image.shape)
    if compiled:
        model = compile(model, image.shape, autotune=autotune)
    seconds = time_calls(model, image, repeat, warmup, label)
    return Timing(seconds, len(image), cost, machine.fma_peak())


def time_calls(
    function: Callable[[Array], Any], image: Array, repeat: int, warmup: int, label: str
) -> tuple[float, ...]:
    """Call a function `warmup` times, then `repeat` times, and return the seconds of each of the latter calls."""
    seconds = []
    for call in progress(range(warmup + repeat), label):
        start = time.perf_counter()
        function(image)
        if call >= warmup:
            seconds.append(time.perf_counter() - start)
    return tuple(seconds)
