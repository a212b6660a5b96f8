"""The HTML page is well-formed and escaped, loads nothing, and says what the network does."""

import base64
import dataclasses
import importlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import convlane
from convlane import analysis, functional, models, nn
from convlane.analysis import roofline
from convlane.analysis.layers import anatomy
from convlane.functional import _op

# Functions of these names hide the modules.
page_module, fields_module = (
    importlib.import_module(f"convlane.analysis.{name}") for name in ("page", "receptive_field")
)
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Reads a page and refuses tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.rows = [], [], [], []
        self.text = text
        self.feed(text)
        self.close()
        assert not self.open
        self.data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def layer_rows(self):
        return {row[1]: row for row in self.rows if len(row) == 11 and row[1] != "layer"}

    def step_rows(self):
        return [row for row in self.rows if len(row) == 9 and row[0] != "step"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(roofline, "_MEMORY", 1 << 20)  # a large buffer takes long to measure
    monkeypatch.setattr(nn.init, "_seeds", np.random.SeedSequence(0))


def thumbnails(layer):
    kind, _, code = layer["png"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(code))) as file:
        assert file.info["transparency"] == 0
        return np.asarray(file)


def test_the_page_of_a_network(rng):
    model, image = models.create("resnet20"), rng.standard_normal((1, 3, 32, 32), np.float32)
    page = Page(analysis.page(model, image, title="ResNet", note="A note.", channels=5))
    table, fields = analysis.summary(model, image.shape), analysis.receptive_field(model, image.shape)
    assert "ResNet" in page.texts
    assert "A note." in page.texts
    rows = page.layer_rows()
    assert list(rows) == [row.name for row in table.rows[1:]]
    for row in table.rows[1:]:
        cells = rows[row.name]
        assert cells[4] == "x".join(map(str, row.output_shape[1:]))
        assert cells[5:8] == [f"{n:,}" if n else "" for n in (row.activations, row.parameters, row.multiply_adds)]
        assert cells[9].split("x")[0] == str(fields[row.name].size[0])
    assert [row[0] for row in rows.values() if row[0]] == [str(i) for i in range(1, 21)]
    plan = convlane.compile(model, image.shape)
    assert [row[3] for row in page.step_rows()] == ["x".join(map(str, s.output_shape)) for s in plan.describe().steps]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for layer, row in zip(page.data["layers"], table.rows[1:], strict=True):
        assert (layer["name"], layer["kind"], layer["shape"]) == (row.name, row.kind, list(row.output_shape[1:]))
        described = page.data["fields"][row.name]
        field = fields[row.name]
        last = page.data["axes"][described["rows"]][-1], page.data["axes"][described["columns"]][0]
        assert (*last[0], *last[1]) == field.box(len(field.rows) - 1, 0)


def test_times_are_shown_once_and_where_they_belong(rng):
    model, image = models.create("mobilenet_v2"), rng.standard_normal((1, 3, 64, 64), np.float32)
    plan = convlane.compile(model, image.shape)
    report, network = plan.profile(image, repeat=1), anatomy(model, image.shape)
    times = page_module._times(network, report.steps)
    shown = [seconds for seconds, _ in times.values() if seconds is not None]
    assert sum(shown) == pytest.approx(sum(step.seconds for step in report.steps))
    kinds = {layer.name: layer.kind for layer in network.layers}
    assert times.keys() == kinds.keys()
    for name, (seconds, within) in times.items():
        if seconds is not None:
            assert kinds[name] in ("Conv2d", "Linear", "mean", "global_avg_pool2d", "adaptive_avg_pool2d", "flatten")
        else:
            assert times[within.removeprefix("computed with ")][0] is not None
    # The steps' multiply-adds are those of the layers that are assigned to them.
    rows = {row.name: row for row in analysis.summary(model, image.shape).rows}
    held = {}
    for name, (_, within) in times.items():
        main = within.removeprefix("computed with ") or name
        held[main] = held.get(main, 0) + rows[name].multiply_adds
    assert sorted(held.values()) == sorted(step.multiply_adds for step in report.steps)


def test_thumbnails_are_the_feature_maps(rng):
    model, image = (
        nn.Sequential(nn.Conv2d(1, 11, 3), nn.ReLU(), nn.Flatten()).eval(),
        rng.random((1, 9, 12), np.float32),
    )
    page = Page(analysis.page(model, image, channels=10))
    layer = page.data["layers"][0]
    maps = analysis.feature_maps(model, image, "0")
    assert layer["maps"] == [10, 7, 10, 8, 1]
    assert layer["shape"] == [11, 7, 10]
    assert layer["range"] == pytest.approx([maps.min(), maps.max()], rel=1e-3)
    sheet = thumbnails(layer)
    assert sheet.shape == (2 * 7 + 2, 8 * 10 + 7 * 2)
    for i in range(10):
        top, left = i // 8 * 9, i % 8 * 12
        one = sheet[top : top + 7, left : left + 10]
        expected = 255 * (maps[i] - maps[i].min()) / np.ptp(maps[i])
        assert np.abs(one - expected).max() < 5
        assert (one > 0).all()
    assert not sheet[:, 10:12].any()
    assert not sheet[9:, 2 * 12 :].any()
    zeros = analysis.feature_maps(model, image, "1") == 0
    assert page.data["layers"][1]["zeros"] == pytest.approx(100 * zeros.mean(), abs=0.1)
    assert page.data["layers"][2]["vector"]
    assert page.data["layers"][2]["maps"] == [1, 8, 100, 1, 1]  # 770 numbers in rows of 100


def test_large_maps_are_averaged(rng):
    maps = rng.standard_normal((3, 130, 57), np.float32)
    found = page_module._thumbnails(maps, 2)
    assert found["maps"] == [2, 44, 19, 2, 3]
    expected = maps[0, :129].reshape(43, 3, 19, 3).mean((1, 3))
    np.testing.assert_allclose(
        page_module._averaged(page_module._averaged(maps, 3, 1), 3, 2)[0, :43], expected, atol=1e-6
    )


def test_nothing_is_loaded_and_all_text_is_escaped(rng):
    evil = '</script><img src=x onerror=alert(1)>&"'
    model = nn.Sequential({evil: nn.Conv2d(3, 4, 3)}).eval()
    text = analysis.page(model, rng.random((3, 8, 8), np.float32), title=evil, note=f"$data {evil}")
    page = Page(text)
    assert page.texts.count(evil) == 4  # title, heading, the layer's button and its step
    assert f"$data {evil}" in page.texts
    assert page.data["layers"][0]["name"] == evil
    assert evil in page.data["fields"]
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"iframe", "object", "embed", "base", "form", "video", "audio"}
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), tag
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|import\(", text)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_a_page_is_of_modest_size(rng):
    with nn.init.skip():
        model = models.create("resnet50")
    text = analysis.page(model, rng.standard_normal((1, 3, 224, 224), np.float32), repeat=1)
    assert len(text) < 4e6


def test_numbers_that_are_not_finite(rng):
    image = np.zeros((1, 1, 6, 6), np.float32)
    model = nn.Sequential(nn.Conv2d(1, 1, 1)).eval()
    model[0].bias = np.full(1, np.inf, np.float32)
    layer = Page(analysis.page(model, image)).data["layers"][0]
    assert layer["range"] is None


class Unknown(nn.Module):
    """Uses an operation whose receptive field is not known."""

    def forward(self, input):
        return functional.conv2d(functional.relu(input), np.ones((2, 1, 3, 3), np.float32), activation="relu")


def test_a_page_without_receptive_fields(monkeypatch):
    without = dataclasses.replace(_op.rules(functional.conv2d), receptive="nobody knows")
    monkeypatch.setitem(_op._RULES, functional.conv2d, without)
    page = Page(analysis.page(Unknown().eval(), np.zeros((1, 8, 8), np.float32)))
    assert page.data["fields"] == {}
    assert [row[9] for row in page.layer_rows().values()] == [""]


def test_roofline():
    step = (
        convlane.compile(nn.Conv2d(3, 4, 3).eval(), (1, 3, 8, 8)).profile(np.zeros((1, 3, 8, 8), np.float32)).steps[0]
    )
    svg = Page(f'<script type="application/json" id="data">{{}}</script>{roofline.roofline([step])}')
    dots = [attributes for tag, attributes in svg.tags if tag == "circle"]
    assert [dot["data-step"] for dot in dots] == [str(step.number)]
    assert any("multiply-add peak" in text for text in svg.texts)
    winograd = dataclasses.replace(step, algorithm="winograd4")
    assert '<circle class="winograd"' in roofline._plot([winograd], 100.0, {"memory": 10.0})
    plot = roofline._plot([], 100.0, {"memory": 10.0})
    assert "<circle" not in plot
    # The ridge point is where peak and bandwidth meet: at 10 FLOP per byte, at a power of ten on both axes.
    bend = re.search(r'class="roofline" points="\S+ (\S+),(\S+) ', plot)
    assert f'x1="{bend[1]}"' in plot
    assert f'y1="{bend[2]}"' in plot


def test_bad_input(rng):
    model = models.create("lenet5")
    with pytest.raises(ValueError, match="one image"):
        analysis.page(model, np.zeros((2, 1, 32, 32), np.float32))
    with pytest.raises(ValueError, match="channels"):
        analysis.page(model, np.zeros((1, 1, 32, 32), np.float32), channels=0)
    with pytest.raises(ValueError, match="eval"):
        analysis.page(models.create("lenet5").train(), np.zeros((1, 1, 32, 32), np.float32))
