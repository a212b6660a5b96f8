"""Without activations between its layers, a network of any depth is one linear layer.

Three convolutions, an average pooling and a linear layer learn whether a handwritten digit is odd, once with ReLU after
the convolutions and once without. The outputs of the network without ReLU for an empty picture and for every single
pixel are the bias and the columns of a matrix that gives the same outputs for every picture. So that network cannot be
better than this one layer, and neither can one with a hundred layers.

    pip install 'convlane[demo,plot]'
    python examples/linear_collapse.py --out results
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from convlane import digits, nn
from convlane.training import Adam, evaluate, fit, predict

SIDE = 16


def network(activation: type[nn.Module]) -> nn.Sequential:
    """Return the network with an activation after each of its convolutions."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), activation()),
        *(nn.Conv2d(16, 16, 3, padding=1), activation()),
        *(nn.Conv2d(16, 16, 3, padding=1), activation()),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * (SIDE // 2) ** 2, 2)),
    )


def collapsed(model: nn.Module) -> nn.Sequential:
    """Return the one linear layer to which a network without activations is equal."""
    nothing = np.zeros((1, 1, SIDE, SIDE), np.float32)
    pixels = np.eye(SIDE * SIDE, dtype=np.float32).reshape(-1, 1, SIDE, SIDE)
    layer = nn.Linear(SIDE * SIDE, 2)
    layer.bias = predict(model, nothing)[0]
    layer.weight = (predict(model, pixels) - layer.bias).T
    return nn.Sequential(nn.Flatten(), layer)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder for the picture")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    (train_images, train_classes), (test_images, test_classes) = digits.training_data()
    train = train_images[:, :, ::2, ::2], train_classes % 2
    held_out = test_images[:, :, ::2, ::2], test_classes % 2

    models = {}
    for name, activation in [("without activations", nn.Identity), ("with ReLU", nn.ReLU)]:
        nn.init.seed(0)
        models[name] = network(activation)
        fit(models[name], train, epochs=args.epochs, optimizer=Adam(models[name], 0.003), verbose=False)
    models["one linear layer instead"] = collapsed(models["without activations"])

    for name, model in models.items():
        numbers = f"{model.num_parameters()} parameters"
        print(f"{name:>24}: {numbers:>16}, {evaluate(model, held_out)['accuracy']:.2%} of held-out digits are right")
    deep, single = (predict(models[name], held_out) for name in ("without activations", "one linear layer instead"))
    print(f"largest difference between the outputs of all layers and of one: {np.abs(deep - single).max():.1e}")

    odd = models["one linear layer instead"][1].weight
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot(title="what it looks for: odd (red), even (blue)")
    limit = float(np.abs(odd[1] - odd[0]).max())
    axes.imshow((odd[1] - odd[0]).reshape(SIDE, SIDE), cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.savefig(args.out / "linear_collapse.png")
    print(f"drawn in {args.out / 'linear_collapse.png'}")


if __name__ == "__main__":
    main()
