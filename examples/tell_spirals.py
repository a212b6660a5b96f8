"""Train a network of 3-D convolutions to tell left-handed spirals from right-handed ones.

The program draws the volumes itself: a spiral around an axis, of any width, pitch and phase, in noise. Every single
slice shows a spot, and the sum of all slices an arc; neither shows which way the spiral turns. That depends on how the
slices follow each other, so a kernel has to reach through several of them. For comparison, another network sees only
the sum of all slices: it has to guess.

    pip install 'convlane[plot]'
    python examples/tell_spirals.py --out results
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from convlane import nn
from convlane.training import Adam, evaluate, fit, schedule

SIDE, BATCH = 16, 16


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return volumes (count, 1, SIDE, SIDE, SIDE) with spirals along the first axis, and 1 for right-handed spirals."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 2, count)
    z, y, x = np.indices((SIDE, SIDE, SIDE)) - (SIDE - 1) / 2
    volumes = rng.normal(0, 0.3, (count, 1, SIDE, SIDE, SIDE)).astype(np.float32)
    for volume, right in zip(volumes, classes, strict=True):
        radius, turns, phase = rng.uniform(3, 6), rng.uniform(0.8, 1.6), rng.uniform(0, 2 * np.pi)
        angle = phase + (1 if right else -1) * 2 * np.pi * turns * z / SIDE
        middle = rng.uniform(-1.5, 1.5, 2)
        distance = np.hypot(x - middle[0] - radius * np.cos(angle), y - middle[1] - radius * np.sin(angle))
        volume[0] += np.exp(-((distance / 1.2) ** 2))
    return volumes, classes


def volume_network() -> nn.Sequential:
    """Return the network of 3-D convolutions."""
    return nn.Sequential(
        *(nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(8, 16, 3, padding=1, bias=False), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(16, 32, 3, padding=1, bias=False), nn.BatchNorm3d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 2)),
    )


def picture_network() -> nn.Sequential:
    """Return the same network with one dimension less."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)),
    )


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder for the picture")
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    train, held_out = draw(400, seed=0), draw(200, seed=1)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.03))
    for name, network, seen in (
        ("volumes", volume_network, lambda volumes: volumes),
        ("sums of slices", picture_network, lambda volumes: volumes.sum(2) / 4),
    ):
        nn.init.seed(0)
        model = network()
        optimizer = Adam(model, schedule.one_cycle(0.01, args.epochs * -(-len(train[0]) // BATCH)))
        data, others = ((seen(volumes), classes) for volumes, classes in (train, held_out))
        settings = {"epochs": args.epochs, "optimizer": optimizer, "batch_size": BATCH, "verbose": False}
        history = fit(model, data, validation=others, **settings)
        print(f"{name:>14}: {evaluate(model, others)['accuracy']:.1%} of new spirals are right", flush=True)
        axes.plot(range(1, args.epochs + 1), history["validation_accuracy"], label=name)
    axes.legend(loc="lower left")
    figure.savefig(args.out / "tell_spirals.png")
    print(f"drawn in {args.out / 'tell_spirals.png'}")


if __name__ == "__main__":
    main()
