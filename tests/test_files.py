"""Every function that reads files refuses what is not a regular file, instead of blocking."""

import os

import pytest

import convlane
from convlane import models
from convlane.training import SGD, load_checkpoint


def load_into_training(path):
    model = models.create("lenet5")
    return load_checkpoint(path, model, SGD(model, 0.1))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without such files")
@pytest.mark.parametrize(
    "read",
    [
        convlane.load,
        convlane.load_plan,
        convlane.load_weights,
        load_into_training,
        lambda path: models.create("lenet5", weights=path),
        lambda path: convlane.compile(models.create("lenet5"), (1, 1, 32, 32), autotune=path),
    ],
)
def test_pipes_are_refused(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)  # so that opening it would not wait
    try:
        with pytest.raises(ValueError, match="pipe: it is not a regular file"):
            read(tmp_path / "pipe")
    finally:
        os.close(writer)
