"""The comparison of single convolutions, with convlane alone: what runs, what is refused, what is reported."""

import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import children

# Import by path: `shapes` is the name of the package with the layer tables.
_PROGRAM = Path(__file__).parents[2] / "benchmarks" / "shapes.py"
_spec = importlib.util.spec_from_file_location("shapes_program", _PROGRAM)
shapes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)

SMALL = {
    "batch": 1,
    "channels": 8,
    "height": 6,
    "width": 7,
    "filters": 4,
    "kernel": [3, 3],
    "stride": [1, 2],
    "padding": [1, 0],
    "dilation": [1, 1],
    "groups": 2,
}
FILTER = {**SMALL, "channels": 1, "filters": 1, "groups": 1, "stride": [1, 1], "batch": 2}


def run(tmp_path, *entries, runtimes="convlane", threads="1"):
    file = tmp_path / "given.json"
    file.write_text(json.dumps(entries))
    arguments = ["--shapes", str(file), "--runtimes", runtimes, "--threads", threads, "--seconds", "0", "--rounds", "2"]
    code = shapes.main([*arguments, "--out", str(tmp_path / "out")])
    return code, json.loads((tmp_path / "out" / "shapes.json").read_text())


def test_convlane_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.MODULES, "torch", "convlane_no_such_module")
    code, report = run(tmp_path, SMALL, FILTER, runtimes="convlane,torch", threads="1,2")
    out, err = capsys.readouterr()
    assert code == 0
    assert "torch is left out: convlane_no_such_module is not installed" in err
    assert [(row["kind"], row["threads"]) for row in report["rows"]] == [
        ("grouped", 1),
        ("image filter", 1),
        ("grouped", 2),
        ("image filter", 2),
    ]
    for row in report["rows"]:
        figures = row["runtimes"]["convlane"]
        assert figures["calls"] == 4
        assert 0 < figures["best"] <= figures["median"]
    assert report["rows"][0]["shape"] == SMALL
    assert report["rows"][0]["model"] == "8x6x7 to 4 by 3x3 s1x2 p1x0 g2"
    assert report["kinds"] == {}
    assert "| kind |" in out


@pytest.mark.torch
def test_others_compute_the_same(tmp_path):
    code, report = run(tmp_path, SMALL, FILTER, runtimes="convlane,torch,scipy")
    assert code == 0
    grouped, image_filter = report["rows"]
    assert set(report["kinds"]) == {"grouped", "image filter", "all"}
    assert grouped["runtimes"].get("scipy", {"calls": 0})["calls"] == 0
    times = {name: figures["best"] for name, figures in grouped["runtimes"].items() if figures["best"] is not None}
    assert grouped["ratio"]["best"] == pytest.approx(times["torch"] / times["convlane"])
    assert image_filter["problems"] == {}


def test_other_results_are_wrong(tmp_path):
    row = shapes.ShapeRow(SMALL, 1, ["convlane", "torch"])
    row.ms = {"convlane": [1.0], "torch": [1.0]}
    for name, number in {"convlane": 1.0, "torch": 1.1}.items():
        np.save(tmp_path / f"{name}.npy", np.full((1, 4, 6, 3), number, np.float32))
    shapes.check(row, tmp_path)
    assert "the result differs from convlane's by 1.0e-01" in row.problems["torch"]
    assert row.ratio(min) is None


def test_an_instruction_set_is_that_of_all(monkeypatch):
    seen = []

    def started(command, env, **options):
        seen.append(env)
        raise InterruptedError

    monkeypatch.setattr(shapes, "started", started)
    with pytest.raises(InterruptedError), shapes.worker("torch", 1, "avx2"):
        pass
    expected = {"CONVLANE_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    assert expected.items() <= seen[0].items()


def test_a_process_that_ends_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "_WORKER", tmp_path / "missing.py")
    code, report = run(tmp_path, SMALL)
    assert code == 1
    assert report["rows"][0]["problems"] == {"convlane": "the process has ended"}


def test_kinds():
    def kind(**changes):
        return shapes.kind_of({**SMALL, "channels": 8, "filters": 8, "groups": 1, "stride": [1, 1], **changes})

    assert kind() == "3x3"
    assert kind(stride=[2, 2]) == "3x3 stride 2"
    assert kind(kernel=[1, 1]) == "1x1"
    assert kind(kernel=[1, 7]) == "other dense kernels"
    assert kind(kernel=[1, 7], height=1) == "1-D"
    assert kind(dilation=[2, 2]) == "dilated"
    assert kind(channels=3) == "few input channels"
    assert kind(filters=3) == "few output channels"
    assert kind(channels=1, filters=1) == "image filter"
    assert kind(groups=8) == "depthwise"
    assert kind(groups=2) == "grouped"


def test_the_committed_shapes():
    all_shapes = shapes.read_shapes(shapes.SHAPES)
    smoke = shapes.parse(["--smoke"]).shapes
    assert {shapes.kind_of(shape) for shape in smoke} == {shapes.kind_of(shape) for shape in all_shapes}
    assert max(map(shapes.multiply_adds, smoke)) <= 100_000_000
    assert shapes.multiply_adds(SMALL) == 4 * 6 * 3 * 9 * 4


def test_by_kind():
    rows = [shapes.ShapeRow(SMALL, 1, []) for _ in range(3)]
    for row, theirs in zip(rows, (1.0, 4.0), strict=False):
        row.ms = {"convlane": [2.0], "torch": [theirs]}
    figures = shapes.by_kind(rows)
    assert figures["grouped"] == {"shapes": 2, "geometric mean": pytest.approx(1.0), "worst": 0.5, "below 1": 1}
    assert shapes.kind_table(figures)[2] == "| grouped | 2 | 1.00 | 0.50 | 1 (50 %) |"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a list of shapes"),
        ("{", "Expecting"),
        (json.dumps([{**SMALL, "more": 1}]), "a shape has the entries"),
        (json.dumps([{**SMALL, "kernel": 3}]), "are pairs"),
        (json.dumps([{**SMALL, "stride": [0, 1]}]), "stride must be at least 1"),
        (json.dumps([{**SMALL, "batch": True}]), "batch must be at least 1"),
        (json.dumps([{**SMALL, "groups": 3}]), "groups must divide"),
        (json.dumps([{**SMALL, "dilation": [9, 1]}]), "would be empty"),
    ],
)
def test_files_that_are_refused(content, message, capsys, tmp_path):
    file = tmp_path / "shapes.json"
    file.write_text(content)
    with pytest.raises(SystemExit) as exit_:
        shapes.main(["--shapes", str(file)])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--runtimes", "torch"], "convlane must be among them"),
        (["--runtimes", "caffe"], "unknown runtime 'caffe'"),
        (["--kinds", "round"], "no shape is of the kind round"),
        (["--isa", "mmx"], "invalid choice"),
        (["--seed", "-1"], "at least 0"),
        (["--shapes", "nowhere.json"], "No such file"),
    ],
)
def test_wrong_usage(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        shapes.main(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(number, code, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = [str(_PROGRAM), "--runtimes", "convlane", "--seconds", "60", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(children.python("SIG_DFL", *arguments), env=environment, stderr=subprocess.DEVNULL) as parent:
        while not (started := children.workers(temporary)) and parent.poll() is None:
            time.sleep(0.02)
        assert started
        parent.send_signal(number)
        assert parent.wait() == code
    assert not children.workers(temporary)
    assert not list(temporary.iterdir())
