"""Autotuning chooses the fastest algorithm, keeps the times that it measured, and changes only the algorithms."""

import copy
import json
import pickle

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import functional as F
from convlane import models, nn
from convlane.graph import autotune

SHAPE = (None, 16, 12, 12)
WAYS = ["winograd4", "winograd2", "direct"]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(autotune, "_known", {})


class Clock:
    """Replaces the measurement: returns given times for each algorithm, and remembers the layers that were timed."""

    def __init__(self):
        self.seconds = {}  # by algorithm; others take one second
        self.timed = []

    def time(self, bench, layer):
        self.timed.append(layer.name)
        return {name: self.seconds.get(name, 1.0) for name in layer.ways}


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(autotune._Bench, "time", lambda *arguments: clock.time(*arguments))
    return clock


class Block(nn.Module):
    """An inverted residual between two 3x3 convolutions with a choice of algorithms, and one without."""

    def __init__(self):
        nn.init.seed(3)
        self.first = nn.Conv2d(16, 24, 3, padding=1)
        self.expand, self.project = nn.Conv2d(24, 48, 1), nn.Conv2d(48, 24, 1)
        self.depthwise = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.last, self.strided = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 8, 3, 2)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.add(x, self.project(F.relu6(self.depthwise(F.relu6(self.expand(x))))))
        return self.strided(F.add(F.relu(self.last(x)), x))


def network():
    return Block().eval()


def layer():
    nn.init.seed(5)
    return nn.Conv2d(16, 24, 3, padding=1).eval()


def images(rng, count=3):
    return rng.standard_normal((count, *SHAPE[1:]), np.float32)


def algorithms(plan):
    return [step.algorithm for step in plan.describe().steps if step.op.startswith(("conv2d", "depthwise"))]


def tuned(model=None, keep=True, **options):
    return convlane.compile(model or layer(), SHAPE, autotune=keep, **options)


@pytest.mark.parametrize("fastest", WAYS)
def test_the_fastest_algorithm_runs(rng, clock, fastest):
    clock.seconds = {fastest: 0.5}
    plan = tuned()
    model = layer()
    asked = convlane.compile(lambda x: F.conv2d(x, model.weight, model.bias, padding=1, algorithm=fastest), SHAPE)
    x = images(rng)
    np.testing.assert_array_equal(plan(x), asked(x))
    (step,) = plan.describe().steps
    assert step.algorithm == fastest
    assert step.why.startswith(f"measured: {fastest} 500.000 ms, ")
    assert step.measured.seconds == {way: 0.5 if way == fastest else 1.0 for way in WAYS}
    (untuned,) = convlane.compile(model, SHAPE).describe().steps
    assert step.measured.expected == untuned.algorithm
    assert untuned.measured is None
    gain = 0.0 if fastest == untuned.algorithm else 0.5
    assert plan.describe().tuning_gain == step.measured.gain == gain
    assert f"{int(gain > 0)} of 1 choices differ from the cost model's, {1e3 * gain:.3f} ms" in str(plan.describe())


def test_small_gains_are_ignored(clock):
    (expected,) = algorithms(convlane.compile(layer(), SHAPE))
    other = next(way for way in WAYS if way != expected)
    clock.seconds = {other: 0.98}
    assert algorithms(tuned()) == [expected]


@pytest.mark.parametrize("residual", [False, True])
def test_blocks_can_be_taken_apart(rng, clock, residual):
    model = network()
    function = model if residual else nn.Sequential(model.expand, model.depthwise, model.project).eval()
    shape = SHAPE if residual else (None, 24, 9, 11)
    x = rng.standard_normal((2, *shape[1:]), np.float32)
    expected = convlane.compile(function, shape)
    clock.seconds = {"apart": 0.5}
    plan = convlane.compile(function, shape, autotune=True)
    steps = plan.describe().steps
    assert [step.algorithm for step in steps[-6 if residual else 0 :]][:3] == ["pointwise", "depthwise", "pointwise"]
    (last,) = (step for step in steps if step.measured and "apart" in step.measured.seconds)
    assert last.op == ("conv2d + add" if residual else "conv2d")
    assert last.why == "measured: apart 500.000 ms, row bands 1000.000"
    assert sum(step.multiply_adds for step in steps) == expected.multiply_adds
    np.testing.assert_array_equal(plan(x), expected(x))
    clock.seconds = {}
    autotune._known.clear()
    assert "row bands" in algorithms(convlane.compile(function, shape, autotune=True))


def test_explicit_algorithms_stay(clock):
    model = layer()
    plan = tuned(lambda x: F.conv2d(x, model.weight, algorithm="im2col"))
    assert [(step.algorithm, step.why) for step in plan.describe().steps] == [("im2col", "asked for")]
    assert not clock.timed


@pytest.mark.parametrize("fastest", WAYS)
def test_poolings_stay_with_their_convolutions(rng, clock, tmp_path, fastest):
    clock.seconds = {fastest: 0.5}
    model = layer()
    plan = tuned(nn.Sequential(model, nn.ReLU(), nn.MaxPool2d(2)).eval())
    (step,) = plan.describe().steps
    assert (step.op, step.algorithm) == ("conv2d + relu + max_pool2d", fastest)
    assert clock.timed[0].endswith("bias relu then max_pool2d 2x2, stride 2x2, padding 0x0x0x0, to 24x6x6; first")
    x = images(rng)
    maps = F.conv2d(x, model.weight, model.bias, padding=1, algorithm=fastest, activation="relu")
    np.testing.assert_array_equal(plan(x), F.max_pool2d(maps, 2))
    np.testing.assert_array_equal(saved(plan, tmp_path)(x), plan(x))
    tuned(nn.Sequential(model, nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)).eval())
    tuned(nn.Sequential(model, nn.ReLU()).eval())
    assert len(clock.timed) == 2


def test_without_winograd(clock):
    clock.seconds = {"winograd4": 0.1, "winograd2": 0.1}
    assert algorithms(tuned()) == ["winograd4"]
    assert algorithms(tuned(winograd=False)) == ["direct"]
    assert len(clock.timed) == 1  # direct is the only candidate
    stem = nn.Conv2d(3, 8, 3, padding=1).eval()
    convlane.compile(stem, (1, 3, 9, 9), autotune=True, winograd=False)
    assert set(next(iter(autotune._known.values()))[clock.timed[-1]]) == {"stem", "direct"}


def test_times_are_kept_for_the_process(clock):
    plan = tuned(network())
    assert len(clock.timed) == len(set(clock.timed)) == 3
    assert algorithms(tuned(network())) == algorithms(plan)
    assert len(clock.timed) == 3


@pytest.mark.parametrize("other", ["threads", "batch", "isa", "shape", "activation", "version"])
def test_other_settings_are_timed_again(clock, monkeypatch, other):
    model = layer()
    with convlane.num_threads(2):
        convlane.compile(model, (1, *SHAPE[1:]), autotune=True)
    tuned_before = len(clock.timed)
    isas = convlane._core.supported_isas()
    before = convlane._core.active_isa()
    if other == "version":
        monkeypatch.setattr(autotune, "__version__", "99")
    try:
        if other == "isa":
            convlane._core.set_active_isa(next(isa for isa in isas if isa != before))
        with convlane.num_threads(1 if other == "threads" else 2):
            shape = (2 if other == "batch" else 1, 16, 12, 13 if other == "shape" else 12)
            function = (lambda x: F.silu(model(x))) if other == "activation" else model
            convlane.compile(function, shape, autotune=True)
            assert len(clock.timed) == tuned_before + 1
            convlane.compile(function, shape, autotune=True)
    finally:
        convlane._core.set_active_isa(before)
    assert len(clock.timed) == tuned_before + 1


def test_open_batch_is_tuned_for_one_image(clock):
    tuned()
    convlane.compile(layer(), (1, *SHAPE[1:]), autotune=True)
    assert len(clock.timed) == 1


def test_batches_that_run_in_parts_are_tuned_for_a_part(clock):
    def images(size, *layers):
        autotune._known.clear()
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), *layers).eval()
        convlane.compile(model, (7, 3, size, size), autotune=True)
        (setting,) = autotune._known
        return int(setting.rpartition("images=")[2])

    assert [images(size) for size in (64, 250, 700)] == [7, 2, 1]
    assert images(250, nn.AvgPool2d(16), nn.Flatten(), nn.Linear(8 * 15 * 15, 1500)) == 7


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_files(clock, tmp_path, kind):
    path = tmp_path / "choices.json"
    clock.seconds = {"direct": 0.5, "apart": 0.25}
    plan = tuned(network(), kind(path))
    assert [file.name for file in tmp_path.iterdir()] == ["choices.json"]
    autotune._known.clear()
    clock.timed.clear()
    clock.seconds = {}
    written = path.read_bytes()
    assert algorithms(tuned(network(), kind(path))) == algorithms(plan)
    assert not clock.timed
    assert path.read_bytes() == written
    other = nn.Conv2d(16, 8, 3).eval()
    tuned(other, kind(path))
    assert len(clock.timed) == 1
    autotune._known.clear()
    tuned(network(), kind(path))
    tuned(other, kind(path))
    assert len(clock.timed) == 1


def test_files_take_what_the_process_knows(clock, tmp_path):
    tuned()
    tuned(keep=tmp_path / "choices.json")
    assert len(clock.timed) == 1
    autotune._known.clear()
    tuned(keep=tmp_path / "choices.json")
    assert len(clock.timed) == 1


def test_files_come_before_what_the_process_knows(clock, tmp_path):
    clock.seconds = {"direct": 0.5}
    tuned(keep=tmp_path / "choices.json")
    autotune._known.clear()
    clock.seconds = {"winograd2": 0.5}
    assert algorithms(tuned()) == ["winograd2"]
    assert algorithms(tuned(keep=tmp_path / "choices.json")) == ["direct"]


def test_files_of_other_machines_are_not_matched(clock, tmp_path, monkeypatch):
    path = tmp_path / "choices.json"
    with monkeypatch.context() as patch:
        patch.setattr(convlane.machine, "cpu_model", lambda: "Abacus")
        tuned(keep=path)
    tuned(keep=path)
    assert len(clock.timed) == 2
    assert len(json.loads(path.read_text())["seconds"]) == 2


def test_layers_with_a_new_candidate_are_timed_again(clock, tmp_path):
    path = tmp_path / "choices.json"
    tuned(keep=path)
    data = json.loads(path.read_text())
    (layers,) = data["seconds"].values()
    (times,) = layers.values()
    del times["direct"]
    times["strassen"] = 1e-9
    path.write_text(json.dumps(data))
    autotune._known.clear()
    assert algorithms(tuned(keep=path))[0] in WAYS
    assert len(clock.timed) == 2


GOOD = {"format": "convlane autotune 1", "seconds": {"here": {"layer": {"direct": 1.0}}}}


def with_time(seconds):
    return json.dumps({**GOOD, "seconds": {"here": {"layer": {"direct": "TIME"}}}}).replace('"TIME"', seconds).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        b"PK\x03\x04 or any other file",
        b"[" * 100_000,
        json.dumps({**GOOD, "format": "convlane autotune 2"}).encode(),
        json.dumps({**GOOD, "more": 1}).encode(),
        json.dumps({"format": GOOD["format"]}).encode(),
        json.dumps({**GOOD, "seconds": []}).encode(),
        json.dumps({**GOOD, "seconds": {"here": 3}}).encode(),
        json.dumps({**GOOD, "seconds": {"here": {"layer": ["direct"]}}}).encode(),
        *map(
            with_time, ["0", "-1.5", "NaN", "Infinity", "1e400", "1" * 5000, "1" * 400, '"1.0"', "true", "null", "[]"]
        ),
        b" " * ((1 << 24) + 1),
    ],
    ids=lambda content: content[:60].decode(errors="replace") + f"_{len(content)}",
)
def test_damaged_files_are_refused(clock, tmp_path, content):
    path = tmp_path / "choices.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a file of choices written by convlane") as error:
        tuned(keep=path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000
    assert path.read_bytes() == content
    assert not clock.timed


def test_well_formed_files_are_accepted(clock, tmp_path):
    path = tmp_path / "choices.json"
    path.write_text(json.dumps(GOOD))
    tuned(keep=path)
    assert json.loads(path.read_text())["seconds"]["here"] == GOOD["seconds"]["here"]


@pytest.mark.parametrize("keep", [None, 1, 1.5, b"choices.json", ["choices.json"], np.True_])
def test_other_values_are_refused(keep, clock):
    with pytest.raises(TypeError, match="autotune must be True, False or the path of a file, got"):
        tuned(keep=keep)


def test_paths_where_no_file_can_be(clock, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing"):
        tuned(keep=tmp_path / "missing" / "choices.json")
    with pytest.raises(IsADirectoryError):
        tuned(keep=tmp_path)
    assert not clock.timed


def test_links_stay_links(clock, tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "choices.json")
    tuned(keep=tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "choices.json").is_file()


def test_interrupts_leave_the_old_file(clock, tmp_path, monkeypatch):
    path = tmp_path / "choices.json"
    tuned(keep=path)
    old = path.read_bytes()

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(autotune._Bench, "time", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuned(network(), path)
    assert path.read_bytes() == old
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuned(network(), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    clock.timed.clear()
    tuned(network(), path)  # nothing is left locked, and the times are not lost
    assert not clock.timed
    assert path.read_bytes() != old


def saved(plan, folder):
    plan.save(folder / "plan")
    return convlane.load_plan(folder / "plan")


@pytest.mark.parametrize(
    "twin", [lambda plan, _: copy.deepcopy(plan), lambda plan, _: pickle.loads(pickle.dumps(plan)), saved]
)
@pytest.mark.parametrize("block", ["apart", "row bands"])
def test_copies_keep_the_choices(rng, clock, tmp_path, twin, block):
    clock.seconds = {"direct": 0.5, block: 0.5}
    plan = tuned(network())
    other = twin(plan, tmp_path)
    assert str(other.describe()) == str(plan.describe())
    x = images(rng)
    np.testing.assert_array_equal(other(x), plan(x))


@pytest.mark.parametrize("batch", [None, 3])
def test_measured_plans_compute_the_same(rng, isa, threads, batch):
    model, x = network(), images(rng)
    plan = convlane.compile(model, (batch, *SHAPE[1:]), autotune=True)
    assert_close(plan(x), model(x), terms=400, factor=10)
    measured = [step.measured for step in plan.describe().steps if step.measured]
    assert [set(one.seconds) for one in measured] == [set(WAYS), {"row bands", "apart"}, set(WAYS)]
    for one in measured:
        assert all(0 < seconds < 1 for seconds in one.seconds.values())
        assert one.chosen == one.expected or one.seconds[one.chosen] < 0.97 * one.seconds[one.expected]
        assert one.gain >= 0


def test_same_bits_for_every_batch_split_and_number_of_threads(rng):
    plan, x = tuned(network()), images(rng, 5)
    with convlane.num_threads(1):
        whole = plan(x)
    with convlane.num_threads(3):
        np.testing.assert_array_equal(np.concatenate([plan(x[:2]), plan(x[2:])]), whole)


@pytest.mark.parametrize("pooling", [nn.Identity(), nn.MaxPool2d(3, 1, 1)])
def test_first_layers_are_timed_on_what_callers_pass(monkeypatch, pooling):
    seen = []
    run = autotune._Bench._images
    monkeypatch.setattr(autotune._Bench, "_images", lambda bench, layer: seen.append(run(bench, layer)) or seen[-1])
    model = nn.Sequential(nn.Conv2d(3, 16, 3), pooling, nn.Conv2d(16, 16, 3)).eval()
    convlane.compile(model, (2, 3, 9, 11), autotune=True)
    first, second = seen
    assert first.shape == (2, 3, 9, 11)
    assert first.flags.c_contiguous
    assert second.shape == (2, 16, 7, 9)
    assert second.transpose(0, 2, 3, 1).flags.c_contiguous


def test_a_network_with_every_kind_of_choice(rng):
    model = models.create("mobilenet_v2", 10)
    plan = convlane.compile(model, (1, 3, 32, 32), autotune=True)
    x = rng.standard_normal((1, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(plan(x).argmax(), convlane.compile(model, x.shape)(x).argmax())
    assert sum(step.measured is not None for step in plan.describe().steps) >= 18


def test_volumes_are_timed(rng, clock):
    clock.seconds = {"direct": 0.5}
    weight = rng.standard_normal((8, 8, 3, 3, 3), np.float32)

    def network(x):
        return F.conv3d(F.relu(x), weight, padding=1)

    plan = convlane.compile(network, (1, 8, 4, 9, 9), autotune=True)
    assert plan.describe().steps[-1].algorithm == "direct"
    assert clock.timed == [
        "conv3d 8x4x9x9 with 8x8x3x3x3, stride 1x1x1, padding 1x1x1x1x1x1, dilation 1x1x1, groups 1, none"
    ]


def test_the_measurement_of_volumes(rng):
    weight = rng.standard_normal((8, 8, 3, 3, 3), np.float32)
    plan = convlane.compile(lambda x: F.conv3d(F.relu(x), weight, padding=1), (1, 8, 4, 9, 9), autotune=True)
    assert plan.describe().steps[-1].algorithm in WAYS
