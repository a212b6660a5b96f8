"""Transfer learning: a network that knows the digits 0 to 4 learns 5 to 9 from five examples of each.

LeNet-5 is trained on scikit-learn's small scans of 0 to 4. Then networks learn to tell 5 to 9 apart: one from scratch;
one with a new last layer on top of all that LeNet-5 has learned; one with a new classifier after its convolutions,
which know strokes but not yet digits; and one whose convolutions are trained further as well, at a much lower rate than
the classifier, on the examples as they are and on randomly distorted ones. Frozen layers run over the examples only
once. Needs scikit-learn: ``pip install 'convlane[demo]'``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits

from convlane import digits, models, nn
from convlane.data import Loader, augment
from convlane.training import (
    SGD,
    evaluate,
    fit,
    freeze,
    freeze_all_but,
    precompute_features,
    replace_head,
    split_head,
)

STEPS = augment.Compose(augment.RandomCrop(32, padding=3), augment.Rotation(12), augment.Shear(8))
SETTINGS = {"epochs": 50, "batch_size": 10, "verbose": False}


def main():
    """Train in all ways and print how well each did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=5, help="examples of each of the digits 5 to 9 (default 5)")
    parser.add_argument("--draws", type=int, default=5, help="draws of the examples to average over (default 5)")
    args = parser.parse_args()

    nn.init.seed(0)
    data = load_digits()
    images, classes = digits.from_8x8(data.images), data.target
    old = classes < 5
    known = models.create("lenet5", num_classes=5)
    began = time.perf_counter()
    batches = Loader((images[old], classes[old]), 64, shuffle=True, augment=STEPS, workers=1)
    history = fit(known, batches, epochs=12, optimizer=SGD(known, 0.05, momentum=0.9), verbose=False)
    seconds = time.perf_counter() - began
    print(f"0 to 4: {old.sum()} scans, {100 * history['accuracy'][-1]:.1f} % learned, {seconds:.1f} s\n")

    images, classes = images[~old], classes[~old] - 5
    count = 5 * args.examples
    print(f"5 to 9: {count} scans for training, the other {len(classes) - count} for testing")
    for name, way in (
        ("from scratch", from_scratch),
        ("new last layer", last_layer),
        ("new classifier", classifier),
        ("... and fine-tuned", fine_tuned),
        ("... on distorted examples", distorted),
    ):
        right, began = 0.0, time.perf_counter()
        for draw in range(args.draws):
            order = np.random.default_rng(draw).permutation(len(classes))
            few = np.concatenate([order[classes[order] == digit][: args.examples] for digit in range(5)])
            rest = np.setdiff1d(order, few)
            model = way(known, (images[few], classes[few]))
            right += evaluate(model, (images[rest], classes[rest]))["accuracy"]
        seconds = (time.perf_counter() - began) / args.draws
        print(f"  {name:<26}{100 * right / args.draws:5.1f} %{seconds:7.2f} s")


def from_scratch(known, examples):
    """Train a new network, without what the known one has learned."""
    model = models.create("lenet5", num_classes=5)
    fit(model, examples, optimizer=SGD(model, 0.02, momentum=0.9), **SETTINGS)
    return model


def copied(known):
    """Return a copy of the known network."""
    model = models.create("lenet5", num_classes=5)
    model.load_state_dict(known.state_dict())
    return model


def last_layer(known, examples):
    """Train a new last layer on the outputs of the others, which are frozen."""
    model = freeze_all_but(replace_head(copied(known), 5))
    trunk, head = split_head(model)
    fit(head, precompute_features(trunk, examples), optimizer=SGD(head, 0.05, momentum=0.9), **SETTINGS)
    return model


def classifier(known, examples):
    """Train one linear layer on the feature maps of the frozen convolutions."""
    model = freeze(copied(known), "features")
    model.classifier = nn.Sequential(nn.Linear(16 * 5 * 5, 5))
    trunk, head = split_head(model, "classifier")
    fit(head, precompute_features(trunk, examples), optimizer=SGD(head, 0.01, momentum=0.9), **SETTINGS)
    return model


def fine_tuned(known, examples, batches=None):
    """Train the whole network after that, the convolutions at a fifth of the classifier's learning rate."""
    model = classifier(known, examples).freeze(False)
    optimizer = SGD(model, 0.01, momentum=0.9, groups={"features": {"lr": 0.002}})
    fit(model, batches or examples, optimizer=optimizer, **SETTINGS)
    return model


def distorted(known, examples):
    """Do the same with new distortions in every epoch, made by a thread ahead of the network."""
    return fine_tuned(known, examples, Loader(examples, 10, shuffle=True, augment=STEPS, workers=1))


if __name__ == "__main__":
    main()
