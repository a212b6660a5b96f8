"""Measure how much of a loader's time is hidden behind training: ``python benchmarks/loader_overlap.py``.

A small residual network is trained on coloured 32x32 pictures that are cropped, mirrored, rotated and warped; the
batches are made by the training thread or by worker threads ahead of it. The network computes with `--threads` threads;
workers need cores of their own to hide their work. Times are medians per batch; "hidden" is the share of the loader's
own time for which training does not wait.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import convlane
from convlane.data import Loader, augment
from convlane.functional import cross_entropy
from convlane.training import SGD


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of the network (default 1)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="threads that load (default 1 2)")
    parser.add_argument("--model", default="resnet20", help="a network for 32x32 pictures (default resnet20)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=32, help="batches per row (default 32)")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    count = args.batch * args.batches
    data = rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count)
    steps = augment.Compose(
        augment.RandomCrop(32, padding=4),
        augment.Mirror(),
        augment.Rotation(15),
        augment.Elastic(20, 4),
        augment.ColorJitter(0.2, 0.2, 0.2),
    )
    model = convlane.models.create(args.model, num_classes=10).train()
    optimizer = SGD(model, lr=0.01, momentum=0.9)
    step = convlane.value_and_grad(lambda images, classes: cross_entropy(model(images), classes), model)

    def train(images, classes):
        optimizer.step(step(images, classes)[1])

    with convlane.num_threads(args.threads):
        loading = time_batches(Loader(data, args.batch, augment=steps), lambda *_: None)
        training = time_batches([next(iter(Loader(data, args.batch)))] * args.batches, train)
        print(f"{args.model}, batch {args.batch}, {args.threads} thread(s); per batch:")
        print(f"loading alone   {1e3 * loading:7.1f} ms\ntraining alone  {1e3 * training:7.1f} ms")
        for workers in (0, *args.workers):
            both = time_batches(Loader(data, args.batch, augment=steps, workers=workers), train)
            hidden = 100 * (training + loading - both) / loading
            print(f"{workers} worker(s)     {1e3 * both:7.1f} ms, {hidden:5.0f} % of the loading hidden")


def time_batches(batches, use):
    """Return the median time from one batch to the next; the first two of an epoch do not count."""
    times = []
    before = time.perf_counter()
    for images, targets in batches:
        use(images, targets)
        now = time.perf_counter()
        times.append(now - before)
        before = now
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
