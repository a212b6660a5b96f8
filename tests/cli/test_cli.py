"""The command line: what it prints, and with which code it leaves."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import convlane
from convlane import digits
from convlane.cli import _common, bench, demo, info, main

FAST = ["bench", "--model", "mobilenet_v2", "--size", "32", "--repeat", "2", "--warmup", "1"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice"),
        (["bench", "--model", "resnet51"], "did you mean resnet56, resnet50"),
        (["bench", "--threads", "0"], "between 1 and 1024"),
        (["bench", "--threads", "two"], "invalid"),
        (["bench", "--batch", "0"], "at least 1"),
        (["bench", "--repeat", "-3"], "at least 1"),
        (["info", "--model", "resnet50"], "unrecognized"),
        (["summary"], "MODEL"),
        (["summary", "vgg61"], "did you mean vgg19, vgg16"),
    ],
)
def test_wrong_usage(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"convlane {convlane.__version__}\n"


def test_module_runs_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "convlane", "bench", "--threads", "0"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "between 1 and 1024" in result.stderr


def test_info(capsys, monkeypatch):
    monkeypatch.setattr(info, "_BUFFERS", {"16 KB": 16 << 10})
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "FMA peak" in text
    assert "reading 16 KB" in text
    assert main(["info", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["convlane"] == convlane.__version__
    assert data["FMA peak GFLOP/s"]["1 thread"] > 0
    assert data["read GB/s"]["16 KB"]["1 thread"] > 0


def test_bench(capsys):
    before = convlane.get_num_threads()
    assert main([*FAST, "--batch", "3", "--threads", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["model"], data["batch"], data["size"], data["threads"]) == ("mobilenet_v2", 3, 32, 2)
    assert 0 < data["best ms"] <= data["median ms"] <= data["p90 ms"]
    assert data["images/s"] == pytest.approx(3000 / data["median ms"], rel=0.01)
    assert convlane.get_num_threads() == before
    assert main(FAST) == 0
    assert "% of FMA peak" in capsys.readouterr().out


def test_bench_compiled(capsys, monkeypatch, tmp_path):
    compiled = []

    def compile(*args, **options):
        compiled.append((*args[1:], options))
        return convlane.compile(*args, **options)

    monkeypatch.setattr(_common, "compile", compile)
    file = str(tmp_path / "choices.json")
    for arguments in ([], ["--compiled"], ["--autotune"], ["--compiled", "--autotune", file]):
        assert main([*FAST, *arguments, "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["compiled"] is bool(arguments)
        assert data["autotuned"] is ("--autotune" in arguments)
    assert compiled == [((1, 3, 32, 32), {"autotune": keep}) for keep in (False, True, file)]
    (tmp_path / "choices.json").write_text("damaged")
    assert main([*FAST, "--autotune", file]) == 1
    assert file in capsys.readouterr().err
    assert main([*FAST, "--autotune", str(tmp_path / "missing" / "choices.json")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_bench_of_impossible_shapes(capsys):
    assert main(["bench", "--model", "vgg16", "--size", "8"]) == 1
    assert main([*FAST, "--batch", str(10**30)]) == 1
    assert main([*FAST, "--batch", str(10**12)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3


def test_summary(capsys):
    assert main(["summary", "lenet5"]) == 0
    text = capsys.readouterr().out
    assert "features.3" in text
    assert "61,706" in text
    assert main(["summary", "mobilenet_v2", "--size", "64", "--batch", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["input_shape"] == [2, 3, 64, 64]
    assert data["parameters"] == 3_504_872
    assert main(["summary", "vgg16", "--size", "8"]) == 1
    assert "shape (1, 3, 8, 8)" in capsys.readouterr().err


def test_demo(capsys, monkeypatch, tmp_path):
    from PIL import Image

    monkeypatch.setattr(demo, "_NETWORKS", ("mobilenet_v2",))
    assert main(["demo", "--out", str(tmp_path / "new" / "folder")]) == 0
    out = capsys.readouterr().out
    assert "mobilenet_v2" in out
    assert "random" in out
    right = re.search(r"reads ([0-9.]+)% of 599 others", out)
    assert float(right.group(1)) >= 98.5
    with Image.open(tmp_path / "new" / "folder" / "convlane-demo.png") as picture:
        assert picture.size == (3 * 638 + 2 * 8, 425)
    with Image.open(tmp_path / "new" / "folder" / "convlane-digits.png") as picture:
        assert picture.size == (12 * 64, 5 * 80)


def test_demo_draws_what_is_wrong_first():
    images = np.zeros((70, 1, 32, 32), np.float32)
    images[65, 0, :16] = 1
    answers, classes = np.zeros(70, int), np.zeros(70, int)
    answers[65] = 3
    sheet = np.asarray(demo._sheet(images, answers, classes))
    first, second = sheet[:80, :64], sheet[:80, 64:128]
    assert (first[4:30, 4:60] == 0).all()
    assert (first[36:60, 4:60] == 255).all()
    assert (first[64:, :, 0] - first[64:, :, 1].astype(int) > 100).any()
    assert (second[4:60, 4:60] == 255).all()
    assert (second[64:] < 100).any()
    assert (second[..., 0] == second[..., 1]).all()


def test_demo_finds_the_edges_of_a_picture(tmp_path):
    from PIL import Image

    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, 15:] = 200  # one vertical edge
    picture = np.asarray(demo._edges(Image.fromarray(pixels)))
    vertical, horizontal = picture[:, 28 + 8 : 2 * 28 + 8], picture[:, 2 * 28 + 16 :]
    assert np.unique(np.nonzero(vertical)[1]).tolist() == [13, 14]
    assert not horizontal.any()


def test_demo_takes_any_picture(capsys, monkeypatch, tmp_path):
    from PIL import Image

    monkeypatch.setattr(demo, "_NETWORKS", ())
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    Image.new("P", (5, 40)).save(tmp_path / "palette.png")
    assert main(["demo", "--out", str(tmp_path), "--image", str(tmp_path / "palette.png")]) == 0
    capsys.readouterr()
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (2, 2)).save(tmp_path / "tiny.png")
    for name, message in {"text.png": "cannot read", "tiny.png": "smaller", "missing.png": "cannot read"}.items():
        assert main(["demo", "--out", str(tmp_path), "--image", str(tmp_path / name)]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1


def test_demo_cannot_write(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("convlane demo: ")


@pytest.mark.parametrize(("module", "package"), [("PIL", "Pillow"), ("sklearn", "scikit-learn"), ("tqdm", "tqdm")])
def test_demo_without_its_extra(module, package, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails now
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == f"convlane demo: {package} is not installed; pip install 'convlane[demo]' brings it\n"
    )


def digit_file(path, number=7, mode="L", ink=0, paper=255):
    """Write a picture of a digit that the embedded network has not seen."""
    from PIL import Image

    _, (images, classes) = digits.training_data()
    image = images[np.flatnonzero(classes == number)[0], 0]
    page = np.pad(np.kron(image, np.ones((6, 6))), 30)
    Image.fromarray(np.uint8(paper + (ink - paper) * page)).convert(mode).save(path)
    return str(path)


def test_predict(capsys, tmp_path):
    files = [digit_file(tmp_path / f"{number}.png", number) for number in range(10)]
    assert main(["predict", *files]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == 10
    for number, line in enumerate(lines):
        assert re.fullmatch(rf"{re.escape(files[number])}: {number} \([0-9.]+%; next \d, [0-9.]+%\)", line), line
    assert main(["predict", "--json", *files[:2]]) == 0
    for number, line in enumerate(capsys.readouterr().out.splitlines()):
        found = json.loads(line)
        assert (found["file"], found["digit"]) == (files[number], number)
        assert len(found["probabilities"]) == 10
        assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert int(np.argmax(found["probabilities"])) == number


def test_predict_reads_any_kind_of_picture(capsys, tmp_path):
    from PIL import Image

    files = [digit_file(tmp_path / f"{mode}.png", 7, mode) for mode in ("RGB", "P", "1", "LA", "RGBA")]
    files.append(digit_file(tmp_path / "white.jpg", 7, ink=255, paper=0))
    with Image.open(files[0]) as black:
        grey = np.asarray(black.convert("L"))
    transparent = np.zeros((*grey.shape, 4), np.uint8)
    transparent[..., 3] = 255 - grey
    Image.fromarray(transparent).save(tmp_path / "transparent.png")
    Image.fromarray(grey).rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=_turned())
    assert main(["predict", *files, str(tmp_path / "transparent.png"), str(tmp_path / "turned.jpg")]) == 0
    assert [line.split(": ")[1][0] for line in capsys.readouterr().out.splitlines()] == ["7"] * 8


def _turned():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    return exif


def test_predict_refuses(capsys, monkeypatch, tmp_path):
    from PIL import Image

    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (20, 20), 77).save(tmp_path / "blank.png")
    Image.new("I;16", (20, 20)).save(tmp_path / "deep.png")
    messages = {
        "text": "cannot read",
        "missing": "cannot read",
        "blank": "blank.png: the picture is blank",
        "deep": "8 bits",
    }
    for name, message in messages.items():
        assert main(["predict", str(tmp_path / f"{name}.png")]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("convlane predict: ")
        assert message in err
        assert len(err.splitlines()) == 1
    with pytest.raises(SystemExit) as exit_:
        main(["predict"])
    assert exit_.value.code == 2
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["predict", "seven.png"]) == 1
    assert "pip install 'convlane[demo]'" in capsys.readouterr().err


def test_bench_needs_no_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(FAST) == 0


def test_interrupt_inside_a_command(capsys, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.models, "create", interrupted)
    assert main(FAST) == 130
    assert capsys.readouterr().err == ""


def test_interrupt_while_running():
    program = f"""
import os, signal, sys, threading
from convlane.cli import main
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
sys.exit(main({[*FAST, "--repeat", "1000000000"]!r}))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 130
    assert result.stderr == ""
