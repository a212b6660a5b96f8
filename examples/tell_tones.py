"""Train a network of 1-D convolutions to hear whether a tone in noise rises, falls or stays the same.

The program generates the signals itself: a tone of any pitch and phase, whose pitch changes by a little or not at all,
in noise that is as strong as the tone. The first convolutions learn to hear pitches; the others, after pooling, how the
pitches follow each other.

    pip install 'convlane[plot]'
    python examples/tell_tones.py --out results
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from convlane import nn
from convlane.training import Adam, fit, predict, schedule

CLASSES = ("falls", "stays", "rises")
LENGTH, BATCH = 256, 32


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signals (count, 1, LENGTH) and their classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(CLASSES), count)
    pitch = rng.uniform(0.08, 0.16, count)  # in the middle of the signal, in turns per sample
    change = (classes - 1) * rng.uniform(0.04, 0.1, count)  # from the beginning to the end
    time = np.linspace(-0.5, 0.5, LENGTH)
    turns = LENGTH * (pitch[:, None] * time + change[:, None] * time**2 / 2) + rng.uniform(0, 1, (count, 1))
    signals = np.sin(2 * np.pi * turns) + rng.normal(0, 0.7, turns.shape)
    return signals[:, None].astype(np.float32), classes


def network() -> nn.Sequential:
    """Return the network, in which the signal becomes shorter and gets more channels."""

    def layers(in_channels: int, out_channels: int, kernel: int) -> tuple[nn.Module, ...]:
        conv = nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        return conv, nn.BatchNorm1d(out_channels), nn.ReLU(), nn.MaxPool1d(4)

    return nn.Sequential(
        *(*layers(1, 16, 15), *layers(16, 32, 5), *layers(32, 64, 5)),
        *(nn.Flatten(), nn.Linear(64 * LENGTH // 4**3, len(CLASSES))),
    )


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder for the picture")
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    train, (signals, classes) = draw(1000, seed=0), draw(500, seed=1)
    nn.init.seed(0)
    model = network()
    steps = args.epochs * -(-len(train[0]) // BATCH)
    optimizer = Adam(model, schedule.one_cycle(0.005, steps))
    fit(model, train, epochs=args.epochs, optimizer=optimizer, batch_size=BATCH, validation=(signals, classes))
    found = predict(model, signals).argmax(1)
    for number, name in enumerate(CLASSES):
        print(f"{name}: {(found[classes == number] == number).mean():.1%} of new signals are right")

    shown = 4
    figure = Figure(figsize=(10, 5), layout="constrained")
    grid = figure.subplots(len(CLASSES), shown, sharex=True, sharey=True)
    for number, line in enumerate(grid):
        for axes, i in zip(line, np.flatnonzero(classes == number), strict=False):
            axes.plot(signals[i, 0], linewidth=0.6, color="C0" if found[i] == number else "C3")
            axes.set_title(f"{CLASSES[number]}; it says: {CLASSES[found[i]]}", fontsize=8)
    figure.savefig(args.out / "tell_tones.png")
    print(f"drawn in {args.out / 'tell_tones.png'}")


if __name__ == "__main__":
    main()
