"""The comparison of training steps: what runs, what is reported, what counts as wrong."""

import json

import pytest
import training_peers

FAST = ["--models", "lenet5", "--batch", "4", "--threads", "1", "--rounds", "1", "--seconds", "0"]


def run(tmp_path, *arguments):
    code = training_peers.main([*FAST, "--out", str(tmp_path), *arguments])
    return code, json.loads((tmp_path / "training_peers.json").read_text())["rows"]


def test_convlane_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(training_peers.RUNTIMES, "torch", ("convlane_no_such_package",))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{training_peers.BEGIN}\nold\n{training_peers.END}\nafter\n")
    code, (row,) = run(tmp_path, "--markdown", str(page))
    assert code == 0
    assert (row["model"], row["batch"], row["runtimes"]["convlane"]["calls"]) == ("lenet5", 4, 3)
    assert row["megabytes"]["convlane"] > 0
    assert row["losses"]["convlane"][-1] < row["losses"]["convlane"][0]
    text = page.read_text()
    assert capsys.readouterr().out.strip() in text
    assert "old" not in text


@pytest.mark.torch
def test_both_take_the_same_steps(tmp_path):
    code, (row,) = run(tmp_path)
    assert (code, row["problems"]) == (0, {})
    assert row["losses"]["torch"] == pytest.approx(row["losses"]["convlane"], rel=1e-4)
    times = {name: figures["best"] for name, figures in row["runtimes"].items()}
    assert row["ratio"]["best"] == pytest.approx(times["torch"] / times["convlane"])


def test_other_losses_are_wrong(tmp_path, monkeypatch):
    answers = {"convlane": [2.0, 1.0, 0.5], "torch": [2.0, 1.0, 0.6]}
    monkeypatch.setattr(
        training_peers,
        "run_worker",
        lambda worker, runtime, **task: {"losses": answers[runtime], "ms": [1.0], "megabytes": 1.0},
    )
    monkeypatch.setitem(training_peers.RUNTIMES, "torch", ())
    code, (row,) = run(tmp_path)
    assert code == 1
    assert "losses differ" in row["problems"]["torch"]
    assert row["runtimes"]["convlane"]["best"] == 1.0
