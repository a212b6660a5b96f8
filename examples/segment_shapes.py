"""Train a small U-Net to classify every pixel of a picture as background, disc or bar.

The program draws the pictures itself: shapes of any colour, size and direction, some in front of others, and noise over
all of it. So the colour of a pixel says nothing about its class, and a pixel in the middle of a shape can be classified
only from the distant outline. For every class, the program prints how well the predicted and the true pixels overlap:
the intersection over the union (IoU), on pictures that the network has not seen.

    pip install 'convlane[plot]'
    python examples/segment_shapes.py --out results
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from convlane import models, nn
from convlane.training import Adam, MeanIoU, fit, predict, schedule

CLASSES = ("background", "disc", "bar")
SIDE, BATCH = 32, 8


def shape(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return a mask (SIDE, SIDE) of the pixels that a shape at a random position covers."""
    y, x = np.indices((SIDE, SIDE)) - rng.uniform(4, SIDE - 4, (2, 1, 1))
    size, angle = rng.uniform(4, 7), rng.uniform(0, np.pi)
    if kind == "disc":
        return np.hypot(x, y) < size
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return (np.abs(along) < 2 * size) & (np.abs(across) < size / 2)


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (count, 3, SIDE, SIDE) and the classes of their pixels, (count, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    pictures = np.empty((count, 3, SIDE, SIDE), np.float32)
    classes = np.zeros((count, SIDE, SIDE), np.int64)
    for picture, mask in zip(pictures, classes, strict=True):
        picture[:] = rng.uniform(0, 1, (3, 1, 1))
        for _ in range(rng.integers(1, 4)):
            number = int(rng.integers(1, len(CLASSES)))
            covered = shape(CLASSES[number], rng)
            picture[:, covered] = rng.uniform(0, 1, (3, 1))
            mask[covered] = number
    return pictures + rng.normal(0, 0.1, pictures.shape).astype(np.float32), classes


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder for the picture")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    train, (pictures, classes) = draw(640, seed=0), draw(64, seed=1)
    nn.init.seed(0)
    model = models.create("unet", len(CLASSES), width=8, depth=3)
    steps = args.epochs * -(-len(train[0]) // BATCH)
    fit(
        model,
        train,
        epochs=args.epochs,
        optimizer=Adam(model, schedule.one_cycle(0.01, steps)),
        batch_size=BATCH,
        validation=(pictures, classes),
    )
    scores = predict(model, pictures)
    for name, both, either in zip(CLASSES, *MeanIoU().count(scores, classes), strict=True):
        print(f"{name:>10}: IoU {both / either:.1%}")

    shown = 6
    figure = Figure(figsize=(1.5 * shown, 4.6), layout="constrained")
    rows = {
        "picture": pictures.transpose(0, 2, 3, 1).clip(0, 1),
        "what is there": classes,
        "what it says": scores.argmax(1),
    }
    grid = figure.subplots(len(rows), shown)
    for line, (title, images) in zip(grid, rows.items(), strict=True):
        line[0].set_title(title, loc="left")
        for axes, image in zip(line, images, strict=False):
            axes.imshow(image, cmap="viridis", vmin=0, vmax=len(CLASSES) - 1)
            axes.set_axis_off()
    figure.savefig(args.out / "segment_shapes.png")
    print(f"drawn in {args.out / 'segment_shapes.png'}")


if __name__ == "__main__":
    main()
