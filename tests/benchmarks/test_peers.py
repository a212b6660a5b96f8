"""The comparison with other runtimes, with convlane alone: what runs, what is refused, what is reported."""

import json
import math
import os
import signal
import subprocess
import time

import numpy as np
import peer_worker
import peers
import pytest
import training_peers

import children
import convlane

FAST = ["--models", "mobilenet_v2", "--size", "32", "--batch", "1,2", "--rounds", "2", "--seconds", "0"]
ALONE = [*FAST, "--threads", "1", "--runtimes", "convlane"]
MARKED = f"# Title\n\n{peers.BEGIN}\nold\n{peers.END}\n\nafter\n"


def row(**ms):
    return peers.Row("net", 1, 1, ms)


def test_convlane_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(peers.PACKAGES, "torch", ("convlane_no_such_package",))
    page = tmp_path / "page.md"
    page.write_text(MARKED)
    arguments = [*ALONE[:-1], "convlane,torch", "--out", str(tmp_path / "new" / "out"), "--markdown", str(page)]
    assert peers.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "torch is left out: convlane_no_such_package not installed" in err
    report = json.loads((tmp_path / "new" / "out" / "peers.json").read_text())
    assert report["versions"] == {"convlane": convlane.__version__}
    assert [(row["model"], row["threads"], row["batch"]) for row in report["rows"]] == [
        ("mobilenet_v2", 1, 1),
        ("mobilenet_v2", 1, 2),
    ]
    for measured in report["rows"]:
        figures = measured["runtimes"]["convlane"]
        assert figures["calls"] == 6
        assert 0 < figures["best"] <= figures["median"]
        assert measured["ratio"] == {"best": None, "median": None}
    assert page.read_text() == MARKED.replace("old", f"\n{out.strip()}\n")
    assert out.count("| mobilenet_v2 ") == 2


@pytest.mark.torch
def test_torch_runs_the_same_network(tmp_path):
    arguments = ["--models", "mobilenet_v2", "--size", "64", "--batch", "2", "--rounds", "1", "--seconds", "0"]
    assert peers.main([*arguments, "--threads", "1", "--runtimes", "convlane,torch", "--out", str(tmp_path)]) == 0
    (measured,) = json.loads((tmp_path / "peers.json").read_text())["rows"]
    times = {name: figures["best"] for name, figures in measured["runtimes"].items()}
    assert measured["ratio"]["best"] == pytest.approx(times["torch"] / times["convlane"])


def test_wrong_output_is_not_timed(tmp_path):
    task = {"folder": str(tmp_path), "model": "mobilenet_v2"}
    options = {"batches": [1], "size": 32, "seed": 3, "runtimes": ["convlane"]}
    assert peers.run_worker(peers.WORKER, task="prepare", **task, **options) == {}
    expected = np.load(tmp_path / "expected-1.npy")
    assert expected.std() > 0.1 * np.abs(expected).max()
    np.save(tmp_path / "expected-1.npy", expected[:, ::-1])
    measured = row(convlane=[])
    peers.measure(measured, "convlane", {**task, "seconds": 0})
    assert "wrong output" in measured.problems["convlane"]
    assert measured.figure("convlane", min) is None


def test_failures_are_reported(capsys, tmp_path):
    arguments = ["--models", "vgg16", "--size", "8", "--threads", "1", "--batch", "1", "--runtimes", "convlane"]
    assert peers.main([*arguments, "--out", str(tmp_path)]) == 1
    assert "- convlane, vgg16, 1 thread, batch 1: ValueError" in capsys.readouterr().out


def test_relative_error():
    expected = np.array([[1.0, -4.0]])
    assert peer_worker.relative_error(expected + 0.5, expected) == 0.125
    assert peer_worker.relative_error(expected[:, :1], expected) == math.inf
    assert peer_worker.relative_error(np.array([[1.0, np.nan]]), expected) == math.inf


def test_ratio_takes_the_best_peer():
    rows = [row(convlane=[2.0, 4.0], ncnn=[3.0, 9.0], torch=[8.0, 6.0]), row(convlane=[1.0], ncnn=[6.0], torch=[])]
    assert rows[0].ratio(min) == 1.5
    assert rows[0].ratio(max) == 2.0
    assert peers.geometric_mean(rows, min) == pytest.approx(3.0)
    rows[1].problems["ncnn"] = "failed in the second round"
    assert rows[1].ratio(min) is None
    assert peers.geometric_mean(rows, min) == pytest.approx(1.5)
    assert peers.geometric_mean([], min) is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--models", "resnet50x"], "did you mean resnet50"),
        (["--models", ""], "unknown network"),
        (["--runtimes", "convlane,caffe"], "unknown runtime 'caffe'"),
        (["--runtimes", "torch"], "convlane must be among them"),
        (["--threads", "1,0"], "between 1 and 1024"),
        (["--batch", "0"], "at least 1"),
        (["--size", "x"], "invalid"),
        (["--rounds", "0"], "at least 1"),
        (["--seconds", "nan"], "between 0 and 3600"),
        (["--seed", "-1"], "at least 0"),
        (["--out", __file__], "File exists"),
        (["--markdown", "nowhere.md"], "No such file"),
        (["--markdown", __file__], "must contain the lines"),
    ],
)
def test_wrong_usage(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        peers.main(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "interrupts", "code"),
    [(signal.SIGINT, "SIG_DFL", 130), (signal.SIGINT, "SIG_IGN", 130), (signal.SIGTERM, "SIG_IGN", 143)],
)
@pytest.mark.parametrize("program", [peers, training_peers], ids=lambda module: module.__name__)
def test_a_signal_leaves_nothing_behind(program, number, interrupts, code, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = [program.__file__, "--models", "lenet5", "--batch", "1", "--threads", "1", "--rounds", "1"]
    arguments += ["--seconds", "60", "--out", str(tmp_path / "out")]
    arguments += ["--size", "32", "--runtimes", "convlane"] if program is peers else []
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = children.python(interrupts, *arguments)
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as parent:
        while not (started := children.workers(temporary)) and parent.poll() is None:
            time.sleep(0.02)
        assert started
        parent.send_signal(number)
        assert parent.wait() == code  # if the signal were ignored, the program would end with code 0
    assert not children.workers(temporary)
    assert not list(temporary.iterdir())


def test_beside_busy_processes(tmp_path, capsys):
    assert peers.main([*ALONE, "--batch", "1", "--beside", "2", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "peers.json").read_text())["beside"] == 2
    assert "beside 2 busy processes, 2 rounds" in capsys.readouterr().out


def test_busy_processes_end_with_their_parent():
    with peers.beside(2) as found:
        for pid in found:
            os.kill(pid, 0)
    for pid in found:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_busy_processes_are_counted():
    with pytest.raises(SystemExit):
        peers.parse(["--beside", "-1"])
