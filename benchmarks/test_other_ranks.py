"""Convolutions of signals and volumes with bias and ReLU, weights packed beforehand, input channels last."""

import numpy as np
import pytest

from convlane import functional

LENGTH = 16_000  # a second of speech
SIGNALS = [(1, 64, 3), (1, 64, 9), (64, 64, 3), (64, 64, 9)]  # channels, filters, kernel
VOLUME = (16, 112, 112)  # a clip of video
VOLUMES = [(3, 64, 3), (64, 64, 3)]


def _channels_last(array):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


@pytest.mark.parametrize(("channels", "filters", "kernel"), SIGNALS)
def test_conv1d(channels, filters, kernel, report, random):
    src, bias = _channels_last(random(1, channels, LENGTH)), random(filters)
    weight = functional.pack_conv1d(random(filters, channels, kernel))
    report(
        lambda: functional.conv1d(src, weight, bias, padding=kernel // 2, activation="relu"),
        f"conv1d {channels} -> {filters}, kernel {kernel}",
        multiply_adds=LENGTH * channels * filters * kernel,
        moved_bytes=4 * LENGTH * (channels + filters),
    )


@pytest.mark.parametrize("algorithm", ["auto", "winograd4"])
@pytest.mark.parametrize(("channels", "filters", "kernel"), VOLUMES)
def test_conv3d(channels, filters, kernel, algorithm, report, random):
    src, bias = _channels_last(random(1, channels, *VOLUME)), random(filters)
    weight = random(filters, channels, kernel, kernel, kernel)
    if algorithm == "auto":
        weight = functional.pack_conv3d(weight)
    report(
        lambda: functional.conv3d(src, weight, bias, padding=1, algorithm=algorithm, activation="relu"),
        f"conv3d {channels} -> {filters}, {kernel}x{kernel}x{kernel} {algorithm}",
        multiply_adds=int(np.prod(VOLUME)) * channels * filters * kernel**3,
    )
