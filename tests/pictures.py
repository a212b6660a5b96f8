"""A small network in a file, a folder of small pictures, some of them broken, and functions for workers."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import convlane
from convlane import nn
from convlane.data import Preprocessing
from convlane.scale import BatchPredictor, BestClass, worker_threads

NAMES = ("cat", "dog", "fox", "owl", "yak")
PREPARE = Preprocessing(crop=16, resize=16)
BROKEN = ("half.jpg", "notes.txt")


def save_plan(path, seed=1):
    """Save a network for 16 x 16 pixels and five classes."""
    nn.init.seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    convlane.compile(network.eval(), (None, 3, 16, 16)).save(path, packed=True)


def write_pictures(folder, count=18):
    """Write pictures, half of a picture, and a file that is not a picture."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    for i in range(count):
        pixels = rng.integers(0, 256, (20 + i, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.jpg")
    whole = (folder / "00.jpg").read_bytes()
    (folder / BROKEN[0]).write_bytes(whole[: len(whole) // 2])
    (folder / BROKEN[1]).write_text("no picture")


def files(folder):
    return [str(path) for path in sorted(folder.iterdir())]


def rows_of_one_process(plan, folder):
    """Return a plan's results for all files of a folder, without an engine."""
    return BatchPredictor(plan, PREPARE, BestClass(NAMES))(files(folder))


@dataclass(frozen=True)
class DiesOnce:
    """Prepares pictures like `PREPARE`; the first process that prepares the named one is killed."""

    name: str
    marker: Path

    def __call__(self, path):
        if os.path.basename(path) == self.name:
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                return PREPARE(path)
            os.kill(os.getpid(), signal.SIGKILL)
        return PREPARE(path)


def threads_in_force(result):
    """A `postprocess` that returns the number of threads with which the network ran, and the process."""
    return {"threads": np.full(len(result), worker_threads()), "process": np.full(len(result), os.getpid())}
