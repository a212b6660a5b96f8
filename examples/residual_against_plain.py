"""Train a plain network and its residual twin, of 20 and of 56 layers, on handwritten digits.

A deeper network could do what the shallower one does, with further layers that do nothing. Gradient descent does not
find that solution for the plain network: with 56 layers its training loss is higher than with 20, so this is not
overfitting. With shortcuts, which add the input of each pair of layers to its output, depth does no harm. This is
figure 6 of He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, on a small scale.

    pip install 'convlane[demo,plot]'
    python examples/residual_against_plain.py --out results
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from convlane import digits, models, nn
from convlane.training import SGD, History, fit, schedule

BATCH = 64


def train(name: str, epochs: int) -> History:
    """Return the history of one network."""
    (images, classes), _ = digits.training_data()
    colours = np.repeat(images[:, :, 2::4, 2::4], 3, axis=1)  # 8x8 pixels, in the three colours that the network takes
    steps = epochs * -(-len(classes) // BATCH)
    nn.init.seed(0)
    model = models.create(name)
    optimizer = SGD(model, schedule.one_cycle(0.05, steps), momentum=0.9, weight_decay=1e-4)
    return fit(model, (colours, classes), epochs=epochs, optimizer=optimizer, batch_size=BATCH, verbose=False)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder for the picture")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="training loss", yscale="log")
    for name in ("plain20", "plain56", "resnet20", "resnet56"):
        history = train(name, args.epochs)
        print(f"{name:>8}: loss {history['loss'][-1]:.4f}, accuracy {history['accuracy'][-1]:.2%}", flush=True)
        line = "--" if name.startswith("plain") else "-"
        axes.plot(range(1, args.epochs + 1), history["loss"], line, color="C0" if "20" in name else "C3", label=name)
    axes.legend()
    figure.savefig(args.out / "residual_against_plain.png")
    print(f"drawn in {args.out / 'residual_against_plain.png'}")


if __name__ == "__main__":
    main()
