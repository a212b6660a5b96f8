"""The comparison of runtimes on ONNX files: what runs, with which shapes, and what counts as a problem."""

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import onnx_files  # noqa: E402
import onnx_files_worker  # noqa: E402

from runtimes import model_of  # noqa: E402


@pytest.fixture
def path(tmp_path, rng):
    weight = rng.standard_normal((4, 3, 3, 3), np.float32)
    path = tmp_path / "network.onnx"
    path.write_bytes(model_of("g (float[N, 3, 16, W] x) => (float[N, 4, 14, V] y) { y = Conv(x, w) }", w=weight))
    return path


@pytest.mark.onnxruntime
def test_runtimes_are_compared(path, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{onnx_files.BEGIN}\nold\n{onnx_files.END}\nafter\n")
    more = ["--threads", "1", "--rounds", "1", "--seconds", "0", "--out", str(tmp_path), "--markdown", str(page)]
    assert onnx_files.main([f"{path}:2x3x24x20", "--runtimes", "convlane,onnxruntime", *more]) == 0
    (row,) = json.loads((tmp_path / "onnx_files.json").read_text())["rows"]
    assert (row["model"], row["batch"], row["problems"]) == ("network 2x3x24x20", 2, {})
    assert row["ratio"]["best"] > 0
    assert capsys.readouterr().out.strip() in page.read_text()


def test_shapes(path):
    assert onnx_files_worker.opened(path, None, 2, 20)[1:] == ("x", (2, 3, 16, 20))
    data, _, shape = onnx_files_worker.opened(path, (1, 3, 24, 20), 2, 20)
    assert shape == (1, 3, 24, 20)
    assert not any(dim.dim_value for dim in onnx.ModelProto.FromString(data).graph.input[0].type.tensor_type.shape.dim)
    with pytest.raises(ValueError, match="its input has 4 dimensions, got the shape"):
        onnx_files_worker.opened(path, (1, 3), 1, 20)


@pytest.mark.parametrize("wrong", [np.ones((2, 3)), np.full((2, 4), np.nan), np.full((2, 4), 1.01)])
def test_wrong_outputs(wrong):
    onnx_files_worker.compare([np.full((2, 4), 1.0005)], [np.ones((2, 4))])
    with pytest.raises(ValueError, match="output"):
        onnx_files_worker.compare([wrong], [np.ones((2, 4))])


@pytest.mark.parametrize(("arguments", "message"), [([], "required: FILE"), (["gone.onnx"], "there is no file")])
def test_files_are_asked_for(arguments, message, capsys):
    with pytest.raises(SystemExit):
        onnx_files.main(arguments)
    assert message in capsys.readouterr().err
