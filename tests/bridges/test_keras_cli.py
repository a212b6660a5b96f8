"""Commands on files of Keras."""

import json

import numpy as np
import pytest
from PIL import Image

import convlane
from convlane.cli import main
from keras_files import layer, sequential, write


@pytest.fixture
def files(tmp_path, rng):
    """A network, a picture and an array."""
    model = sequential(
        layer("Conv2D", "conv", filters=8, kernel_size=3, activation="relu"),
        layer("GlobalAveragePooling2D", "pool"),
        layer("Dense", "top", units=4),
        shape=(None, 20, 30, 3),
    )
    shapes = {"conv": [(3, 3, 3, 8), (8,)], "top": [(8, 4), (4,)]}
    arrays = {name: [rng.standard_normal(shape) for shape in own] for name, own in shapes.items()}
    write(tmp_path / "small.h5", model, arrays)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "picture.png")
    np.save(tmp_path / "array.npy", rng.standard_normal((1, 3, 20, 30), np.float32))
    return tmp_path


def test_run(files, capsys):
    model, array = str(files / "small.h5"), np.load(files / "array.npy")
    assert main(["run", model, str(files / "array.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["outputs"]["output"]
    np.testing.assert_allclose(found["values"], convlane.load_keras(model)(array), rtol=1e-5)
    assert main(["run", model, str(files / "picture.png")]) == 0
    assert capsys.readouterr().out.startswith("output: 1 x 4, float32, ")


def test_other_commands(files, capsys):
    model = str(files / "small.h5")
    assert main(["summary", model]) == 0
    assert "conv" in capsys.readouterr().out
    assert main(["convert", model, str(files / "small.plan")]) == 0
    assert "Plan((None, 3, 20, 30) to (None, 4)" in capsys.readouterr().out
    assert main(["explain", model, str(files / "picture.png"), "--out", str(files / "page.html")]) == 0
    assert "conv" in (files / "page.html").read_text()


def test_errors(files, capsys):
    (files / "bad.keras").write_bytes(b"nothing")
    assert main(["summary", str(files / "bad.keras")]) == 1
    assert "not a Keras file" in capsys.readouterr().err
