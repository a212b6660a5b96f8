"""The comparison of torch.compile's backends: what runs, what is reported, what counts as a problem."""

import json

import pytest
import torch_compile

FAST = ["--models", "mobilenet_v2", "--size", "32", "--threads", "1", "--batch", "1", "--rounds", "1", "--seconds", "0"]


def run(tmp_path, *arguments):
    code = torch_compile.main([*FAST, "--out", str(tmp_path), *arguments])
    return code, json.loads((tmp_path / "torch_compile.json").read_text())["rows"]


@pytest.mark.torch
def test_runtimes_are_compared(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{torch_compile.BEGIN}\nold\n{torch_compile.END}\nafter\n")
    code, (row,) = run(tmp_path, "--runtimes", "convlane,eager", "--markdown", str(page))
    assert (code, row["problems"]) == (0, {})
    times = {name: figures["best"] for name, figures in row["runtimes"].items()}
    assert row["ratio"]["best"] == pytest.approx(times["eager"] / times["convlane"])
    assert capsys.readouterr().out.strip() in page.read_text()


def test_problems_are_reported(tmp_path, monkeypatch):
    def answer(worker, runtime, **task):
        if runtime == "eager":
            raise torch_compile.WorkerError("out of luck")
        return [2.0, 1.0]

    monkeypatch.setattr(torch_compile, "run_worker", answer)
    monkeypatch.setattr(torch_compile, "RUNTIMES", dict.fromkeys(torch_compile.RUNTIMES, ()))
    code, (row,) = run(tmp_path, "--runtimes", "convlane,eager")
    assert (code, row["problems"]) == (1, {"eager": "out of luck"})
    assert row["runtimes"]["convlane"] == {"calls": 2, "best": 1.0, "median": 1.5}


def test_unknown_runtimes_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--runtimes", "glow")
    assert "unknown runtime 'glow'; there are convlane, inductor, eager" in capsys.readouterr().err
