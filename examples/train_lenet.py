"""Train LeNet-5 on handwritten digits, and write its weights and the history of its training.

The digits are scikit-learn's, 1797 of them; a third is held out. In every epoch, the training digits are distorted
anew: they get thicker or thinner strokes and are stretched, rotated, sheared, warped and shifted.
``convlane.load("lenet5_digits.safetensors")`` loads the network; the file that `convlane predict` uses, in
python/convlane/models/data, was written by this script.

    pip install 'convlane[demo,plot]'
    python examples/train_lenet.py --out results

Ctrl-C leaves a checkpoint, from which the same command continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from convlane import digits, models, nn
from convlane.data import Loader, augment, resample
from convlane.training import Adam, evaluate, fit, schedule

BATCH = 32


def thicker_or_thinner(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the picture with strokes of another width, by making their soft edges darker or lighter."""
    return image ** np.float32(np.exp(rng.uniform(-0.8, 0.8)))


def wider_or_higher(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the picture stretched or compressed in both directions."""
    across, down = np.exp(rng.uniform(-0.25, 0.25, 2))
    return resample(image, [[across, 0, 0], [0, down, 0]])


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder for the results")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    train, held_out = digits.training_data()
    distort = augment.Compose(
        *(thicker_or_thinner, wider_or_higher, augment.Rotation(12), augment.Shear(14)),
        *(augment.Elastic(28, 4), augment.RandomCrop(32, padding=2)),
    )
    loader = Loader(train, BATCH, shuffle=True, augment=distort, workers=1)

    nn.init.seed(0)
    model = models.create("lenet5")
    history = fit(
        model,
        loader,
        epochs=args.epochs,
        optimizer=Adam(model, schedule.one_cycle(0.004, args.epochs * len(loader))),
        validation=held_out,
        checkpoint=args.out / "checkpoint.safetensors",
        resume=True,
    )
    print(f"accuracy on the held-out digits: {evaluate(model, held_out)['accuracy']:.2%}")
    model.save(args.out / "lenet5_digits.safetensors")
    history.plot(args.out / "history.png")
    print(f"weights, history.png and the checkpoint are in {args.out}")


if __name__ == "__main__":
    main()
