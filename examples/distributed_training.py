"""Train a small network by several processes, which end with the same bits as one.

Every picture shows a ring, a cross or a square somewhere, in noise. Each batch is split into four shards, and each
process computes some of them: one process all four, two processes two each, four processes one each. The last line of
the output has a digest of the parameters, which is the same each time.

    pip install 'convlane[mpi]'
    python examples/distributed_training.py --out results
    OMP_NUM_THREADS=1 mpiexec -n 2 python -m mpi4py examples/distributed_training.py --mpi --out results
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from convlane import nn
from convlane.data import Loader
from convlane.training import SGD, fit, schedule

SIDE, BATCH, SHARDS = 24, 64, 4


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (count, 1, SIDE, SIDE) and their classes: 0 for rings, 1 for crosses, 2 for squares."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, count)
    y, x = np.indices((SIDE, SIDE))
    pictures = rng.normal(0, 0.5, (count, 1, SIDE, SIDE)).astype(np.float32)
    for picture, kind in zip(pictures, classes, strict=True):
        radius = rng.uniform(4, 7)
        down, right = np.abs(y - rng.uniform(8, SIDE - 9)), np.abs(x - rng.uniform(8, SIDE - 9))
        distance = (np.hypot(down, right), np.minimum(down, right) + radius, np.maximum(down, right))[kind]
        picture[0] += (np.abs(distance - radius) < 1) & (np.maximum(down, right) < radius + 1)
    return pictures, classes


def network() -> nn.Sequential:
    """Return a network like LeNet, with batch norm."""
    nn.init.seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 5, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(144, 3)),
    )


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder for the checkpoint")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--mpi", action="store_true", help="run as one of the processes that mpiexec has started")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    communicator = None
    if args.mpi:
        from mpi4py import MPI

        communicator = MPI.COMM_WORLD

    model = network()
    train = Loader(draw(2000, seed=0), BATCH, shuffle=True)
    optimizer = SGD(model, schedule.one_cycle(0.1, args.epochs * len(train)), momentum=0.9)
    history = fit(
        model,
        train,
        epochs=args.epochs,
        optimizer=optimizer,
        validation=draw(500, seed=1),
        checkpoint=args.out / "checkpoint.safetensors",
        shards=SHARDS,
        communicator=communicator,
    )
    if communicator is None or communicator.rank == 0:
        digest = hashlib.sha256(b"".join(array.tobytes() for array in model.state_dict().values())).hexdigest()
        accuracy = history["validation_accuracy"][-1]
        print(f"{accuracy:.1%} of new pictures are right; digest {digest[:16]}; checkpoint in {args.out}")


if __name__ == "__main__":
    main()
