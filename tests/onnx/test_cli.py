"""Commands on ONNX files."""

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from PIL import Image  # noqa: E402

import convlane  # noqa: E402
from convlane import nn  # noqa: E402
from convlane.cli import main  # noqa: E402
from onnx import numpy_helper, parser  # noqa: E402


@pytest.fixture
def files(tmp_path, rng):
    """A network, a picture and an array."""
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> small (float[N, 3, H, W] image) => (float[N, 4] scores) {
            a = Conv<pads = [1, 1, 1, 1]>(image, w) b = Relu(a) c = GlobalAveragePool(b) d = Flatten(c)
            scores = Gemm<transB = 1>(d, v) }""")
    for name, shape in {"w": (8, 3, 3, 3), "v": (4, 8)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape, np.float32), name))
    onnx.save(model, tmp_path / "small.onnx")
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "picture.png")
    np.save(tmp_path / "array.npy", rng.standard_normal((2, 3, 9, 7), np.float32))
    return tmp_path


def test_run_on_an_array(files, capsys):
    model, array = str(files / "small.onnx"), np.load(files / "array.npy")
    assert main(["run", model, str(files / "array.npy"), "--json", "--out", str(files / "out.npz")]) == 0
    found = json.loads(capsys.readouterr().out)["outputs"]["scores"]
    expected = convlane.load_onnx(model)(array)
    np.testing.assert_allclose(found["values"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.load(files / "out.npz")["scores"], expected, rtol=1e-4, atol=1e-5)


def test_run_on_a_picture(files, capsys):
    sized = [
        str(files / "small.onnx"),
        str(files / "picture.png"),
        "--size",
        "32",
        "--mean",
        "123,117,104",
        "--std",
        "58",
    ]
    assert main(["run", *sized]) == 0
    assert capsys.readouterr().out.startswith("scores: 1 x 4, float32, ")


def test_convert(files, capsys):
    assert main(["convert", str(files / "small.onnx"), str(files / "small.plan"), "--size", "16"]) == 0
    assert "Plan((None, 3, 16, 16) to (None, 4)" in capsys.readouterr().out
    x = np.ones((1, 3, 16, 16), np.float32)
    expected = convlane.load_onnx(files / "small.onnx")(x)
    np.testing.assert_allclose(convlane.load_plan(files / "small.plan")(x), expected, rtol=1e-4, atol=1e-5)


def test_bench_summary_and_explain(files, capsys):
    model = str(files / "small.onnx")
    assert main(["bench", "--model", model, "--size", "16", "--repeat", "1", "--warmup", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == 16
    assert main(["summary", model, "--size", "16"]) == 0
    assert "2 layers with weights" in capsys.readouterr().out
    page = files / "page.html"
    assert main(["explain", model, str(files / "picture.png"), "--size", "16", "--out", str(page)]) == 0
    assert "small.onnx" in page.read_text()


def test_summary_where_a_module_only_contains_others(tmp_path, capsys):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    convlane.onnx.export(network, tmp_path / "network.onnx", (None, 3, 8, 8))
    assert main(["summary", str(tmp_path / "network.onnx"), "--size", "8"]) == 0
    assert "Conv" in capsys.readouterr().out


def test_errors(files, capsys):
    (files / "damaged.onnx").write_bytes(b"no network")
    assert main(["run", str(files / "damaged.onnx"), str(files / "picture.png")]) == 1
    assert "not an ONNX file" in capsys.readouterr().err
    np.save(files / "other.npy", np.ones((1, 2, 5, 5), np.float32))
    assert main(["run", str(files / "small.onnx"), str(files / "other.npy")]) == 1
    assert "shape (1, 2, 5, 5)" in capsys.readouterr().err
