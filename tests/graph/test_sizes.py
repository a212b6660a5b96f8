"""Networks that compute with open sizes are traced once and saved, and give the bits of a plan for the size."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane.functional._size import Size, Term, computed
from convlane.safetensors_file import open_tensors, write_tensors

WEIGHT = np.random.default_rng(3).standard_normal((4, 4, 3, 3), np.float32) / 6
FILTERS = np.random.default_rng(4).standard_normal((4, 4, 3), np.float32) / 4
OUTPUTS = np.random.default_rng(5).standard_normal((4, 24, 1, 1), np.float32) / 2


def unet(x):
    """A U-Net that also takes odd sizes: it pads what pooling has rounded off, as many implementations do."""
    first = F.relu(F.conv2d(x, WEIGHT, padding=1))
    second = F.relu(F.conv2d(F.max_pool2d(first, 2), WEIGHT, padding=1))
    up = F.interpolate(second, scale_factor=2, mode="bilinear")
    rows, columns = first.shape[2] - up.shape[2], first.shape[3] - up.shape[3]
    up = F.pad(up, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return F.conv2d(F.cat([first, up], 1), np.concatenate([WEIGHT, WEIGHT], 1), padding=1)


def pyramid(x):
    """Features of two scales added in the size of the larger one, as in feature pyramids."""
    fine = F.conv2d(x, WEIGHT, padding=1)
    coarse = F.conv2d(fine, WEIGHT, stride=2, padding=1)
    return {"coarse": coarse, "fine": fine + F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")}


def head(x):
    """The head of a detector: scores of all anchors of two maps in one list."""
    found = []
    for stride in (1, 2):
        scores = F.conv2d(x, OUTPUTS.transpose(1, 0, 2, 3), stride=stride)
        n, _, height, width = scores.shape
        scores = F.permute(scores.reshape(n, 6, 4, height, width), (0, 3, 4, 1, 2))
        found.append(scores.reshape(n, height * width * 6, 4))
    return F.cat(found, 1)


def attention(x):
    n, c, h, w = x.shape
    flat = x.reshape(n, c, h * w)
    weights = F.softmax(F.matmul(F.permute(flat, (0, 2, 1)), flat) / c**0.5, -1)
    return F.matmul(flat, F.permute(weights, (0, 2, 1))).reshape(n, c, h, w)


def quarters(x):
    """Slices, single rows and steps with computed bounds, at both ends."""
    rows, columns = x.shape[2:]
    top, bottom = x[:, :, : rows // 2], x[:, :, rows - rows // 2 :]
    middle = x[:, :, rows // 2][:, :, None]
    return (top + bottom) * middle, x[..., 1 : columns - 1 : 2], F.flip(x, 3)[..., -(columns // 3) :]


def parts(x):
    first, second = F.chunk(x, 2, 3)
    return F.cat([second, first], 3), *F.split(x, x.shape[2] // 2 + 1, 2)


IMAGES = {
    "unet": (unet, [(16, 16), (17, 31), (8, 10), (33, 9)]),
    "pyramid": (pyramid, [(8, 8), (9, 13), (6, 11)]),
    "head": (head, [(8, 8), (9, 13), (6, 11)]),
    "attention": (attention, [(8, 8), (9, 13), (6, 11)]),
    "quarters": (quarters, [(8, 9), (9, 14), (6, 11)]),
    "parts": (parts, [(8, 9), (9, 14), (6, 11), (13, 30)]),
    "global mean": (
        lambda x: F.sum(x, (2, 3)) / (x.shape[2] * x.shape[3]) + 1 / x.shape[2] - x.shape[3] * x.mean((2, 3)),
        [(8, 9), (9, 14)],
    ),
    "multiples": (
        lambda x: F.conv2d(F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)), WEIGHT, stride=4),
        [(8, 9), (9, 14), (7, 12)],
    ),
    "shrunk": (
        lambda x: F.interpolate(x, size=(math.ceil(x.shape[2] / 2), math.floor(x.shape[3] * 0.7)), mode="bilinear"),
        [(8, 9), (9, 14)],
    ),
    "stacked": (lambda x: F.stack([x, F.relu(x)], 2).reshape(x.shape[0], -1, *x.shape[2:]), [(8, 9), (9, 14)]),
}

SIGNALS = {
    "halves": lambda x: F.conv1d(x[:, :, : x.shape[-1] // 2], FILTERS, padding=1) + x[:, :, -(x.shape[-1] // 2) :],
    "centred": lambda x: x - F.sum(x, 2, keepdim=True) / x.shape[2],
    "middle": lambda x: F.conv1d(x, FILTERS)[:, :, (x.shape[2] - 2) // 2],
    "padded to eight": lambda x: F.conv1d(F.pad(x, (0, -x.shape[2] % 8)), FILTERS, stride=2),
    "upsampled": lambda x: F.interpolate(F.conv1d(x, FILTERS, stride=2), scale_factor=1.5, mode="linear"),
    "frames": lambda x: x[:, :, : x.shape[2] // 4 * 4].reshape(x.shape[0], 4, -1, 4).mean(3),
}


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = tuple(found.values()), tuple(expected.values())
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class Counted:
    def __init__(self, network):
        self.network, self.calls = network, 0

    def __call__(self, x):
        self.calls += 1
        return self.network(x)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("batch", [1, 3])
def test_images(name, batch, rng, tmp_path):
    network, sizes = IMAGES[name]
    check(network, (4, None, None), [(4, *size) for size in sizes], batch, rng, tmp_path / "plan")


@pytest.mark.parametrize("name", SIGNALS)
def test_signals(name, rng, tmp_path):
    check(SIGNALS[name], (4, None), [(4, 12), (4, 13), (4, 31), (4, 8)], 2, rng, tmp_path / "plan")


def check(network, opened, sizes, batch, rng, path):
    counted = Counted(network)
    plan = convlane.compile(counted, (None, *opened))
    given = [rng.standard_normal((batch, *size), np.float32) for size in (*sizes, sizes[0])]
    expected = [convlane.compile(network, (None, *x.shape[1:]))(x) for x in given]
    for x, right in zip(given, expected, strict=True):
        assert_same(plan(x), right)
    assert counted.calls == 1
    plan.save(path)
    loaded = convlane.load_plan(path)
    for again in (loaded, pickle.loads(pickle.dumps(loaded))):
        for x, right in zip(given, expected, strict=True):
            assert_same(again(x), right)
    loaded.save(path.with_suffix(".again"))
    assert path.with_suffix(".again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda x: F.relu(x) if x.shape[2] % 2 else F.tanh(x), r"\(input.shape\[2\] % 2\) != 0"),
        (lambda x: x[:, :, : int(x.shape[2] / 2)], r"input.shape\[2\] / 2"),
        (lambda x: F.narrow(x, 2, 0, min(x.shape[2:])), r"input.shape\[3\] < input.shape\[2\]"),
        (lambda x: x * np.arange(x.shape[3], dtype=np.float32), r"input.shape\[3\] - 0"),
        (lambda x: F.tanh(x) if x.shape == F.max_pool2d(x, 2).shape else x + x.shape[2] ** 2, "input.shape"),
        (lambda x: [x := F.relu(x) for _ in range(x.shape[2] // 4)][-1], r"input.shape\[2\] // 4"),
    ],
)
def test_outcomes_of_comparisons_are_checked_again(network, reason, rng, tmp_path):
    plan = convlane.compile(network, (None, 4, None, None))
    for size in [(8, 8), (9, 8), (10, 12), (8, 12), (12, 9), (8, 8)]:
        x = rng.standard_normal((1, 4, *size), np.float32)
        np.testing.assert_array_equal(plan(x), convlane.compile(network, (None, *x.shape[1:]))(x))
    with pytest.raises(ValueError, match=f"depends on open sizes.*{reason}"):
        plan.save(tmp_path / "plan")


def test_a_saved_network_refuses_what_it_was_not_traced_for(rng, tmp_path):
    """Only multiples of 64 differ, and saving does not try any of these."""
    plan = convlane.compile(lambda x: F.relu(x) if x.shape[2] % 64 else x, (None, 4, None))
    plan(np.ones((1, 4, 5), np.float32))
    plan.save(tmp_path / "plan")
    again = convlane.load_plan(tmp_path / "plan")
    x = rng.standard_normal((1, 4, 63), np.float32)
    np.testing.assert_array_equal(again(x), F.relu(x))
    with pytest.raises(
        ValueError, match=r"may behave differently .* for \(1, 4, 64\).*\(\(input.shape\[2\] % 64\) != 0\)"
    ):
        again(np.ones((1, 4, 64), np.float32))


def test_a_number_that_cannot_be_computed(tmp_path):
    def network(x):
        return x / (x.shape[2] - 5)

    plan = convlane.compile(network, (None, 4, None))
    plan(np.ones((1, 4, 8), np.float32))
    with pytest.raises(ZeroDivisionError):
        plan(np.ones((1, 4, 5), np.float32))
    plan(np.ones((1, 4, 8), np.float32))
    plan.save(tmp_path / "plan")
    with pytest.raises(ValueError, match="computes what cannot be: "):
        convlane.load_plan(tmp_path / "plan")(np.ones((1, 4, 5), np.float32))


def test_long_terms_become_noted_numbers():
    notes: dict[Term, int] = {}
    n = Size(3, Term("size", (0, 2)), notes)
    for _ in range(500):
        n = n + n
        n = n - n + 3
    assert n == 3
    assert notes
    assert all(computed(term, lambda value, dim: 3) == number for term, number in notes.items())


def test_sizes_behave_like_python_s_numbers(rng):
    """Every operation on a size gives the same as on its number."""
    for number in (1, 7, 12):
        size = Size(number, Term("size", (0, 2)), {})
        for other in (1, 3, 2.5, -2):
            for compute in (
                lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a // b, lambda a, b: a / b,
                lambda a, b: a % b, divmod, lambda a, b: a**2 + b, max, min, lambda a, b: (a < b, a == b, a >= b),
                lambda a, b: round(a / b), lambda a, b: math.ceil(a / b), lambda a, b: math.floor(a * b),
                lambda a, b: math.trunc(a / b), lambda a, b: int(a / b), lambda a, b: float(a) + b,
                lambda a, b: abs(-a * b),
                lambda a, b: f"{a}{b}", lambda a, b: [*range(int(a))], lambda a, b: {a: b}, lambda a, b: bool(a - a),
                lambda a, b: np.sqrt(a * a + b * b), lambda a, b: list(np.arange(a)), lambda a, b: math.sqrt(a * a),
            ):  # fmt: skip
                for pair in ((size, other), (other, size)):
                    plain = [each.number if isinstance(each, Size) else each for each in pair]
                    assert compute(*pair) == compute(*plain)
        for term, noted in size.notes.items():
            assert computed(term, lambda value, dim, number=number: number) == noted


def test_older_files_are_loaded(rng, tmp_path):
    """They list only the sizes that the network has read."""
    weight = rng.standard_normal((4, 4, 3), np.float32)
    plan = convlane.compile(lambda x: F.conv1d(x, weight, padding=1), (None, 4, None))
    plan.save(tmp_path / "plan")
    rewrite(
        tmp_path / "plan", lambda opened: [opened.pop("known"), opened.pop("computed"), opened.update(seen=[[0, 1]])]
    )
    x = rng.standard_normal((1, 4, 9), np.float32)
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan")(x), plan(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda opened: opened.update(known=[[{"size": [0, 9]}, 1]]), "no value has the size"),
        (lambda opened: opened.update(known=[[{"size": [99, 0]}, 1]]), "no value has the size"),
        (lambda opened: opened.update(known=[[{"system": [1]}, 1]]), "computed by an operation"),
        (lambda opened: opened.update(known=[[{"add": [1]}, 1]]), "computed by an operation"),
        (lambda opened: opened.update(known=[[{"add": [1, "2"]}, 1]]), "must be a number"),
        (lambda opened: opened.update(known=[[{"add": [1, 2]}, "3"]]), "must be a number"),
        (lambda opened: opened.update(known=[3]), "lists of 2"),
        (lambda opened: opened["computed"][0].__setitem__(1, "nothing"), "no node has the argument"),
        (lambda opened: opened["computed"][0].__setitem__(2, [{"size": [4, 0]}]), "comes after it"),
        (lambda opened: opened["computed"][0].__setitem__(2, "text"), "is not"),
        (lambda opened: opened.update(seen="all"), "'seen' is unknown"),
    ],
)
def test_damaged_files(change, message, tmp_path):
    def network(x):
        return F.relu(F.relu(F.relu(F.relu(x[:, :, : x.shape[2] // 2]))))

    plan = convlane.compile(network, (None, 4, None))
    plan.save(tmp_path / "plan")
    rewrite(tmp_path / "plan", change)
    with pytest.raises(ValueError, match=message):
        convlane.load_plan(tmp_path / "plan")(np.ones((1, 4, 9), np.float32))


def rewrite(path, change):
    with open_tensors(path) as file:
        metadata, tensors = dict(file.metadata), {name: file.read(name).copy() for name in file.tensors}
    plan = json.loads(metadata["plan"])
    change(plan["options"]["open"])
    write_tensors(path, tensors, metadata | {"plan": json.dumps(plan)})
