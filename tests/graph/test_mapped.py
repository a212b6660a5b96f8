"""Packed weights that processes share: where they are, what is packed again, and files that change while mapped."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors

import convlane
from convlane import _core, nn
from convlane.functional import conv3d
from convlane.graph import mapped
from convlane.safetensors_file import open_tensors, page_size, write_tensors

nn.init.seed(4)
LARGE = nn.Conv2d(64, 64, 3, padding=1)  # takes Winograd's algorithm, whose weights cannot be unpacked
NETWORK = nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1),  # small
    nn.BatchNorm2d(64),
    LARGE,
    nn.ReLU(),
    nn.Conv2d(64, 300, 1),
    nn.Conv2d(300, 300, 3, groups=2),
    nn.Flatten(),
    nn.Linear(300 * 6 * 6, 7),  # reads an image
    nn.Linear(7, 5000),
).eval()
PLAN = convlane.compile(NETWORK, (None, 3, 8, 8))
IMAGES = np.random.default_rng(3).standard_normal((2, 3, 8, 8), np.float32)
EXPECTED = PLAN(IMAGES)


@pytest.fixture
def path(tmp_path):
    PLAN.save(tmp_path / "plan", packed=True)
    return tmp_path / "plan"


def lies_in(packed, path):
    """Return whether a packed weight is in memory to which this process has mapped a file."""
    address = packed.packed.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(number, 16) for number in line.split()[0].split("-"))
        if begin <= address < end:
            return line.endswith(str(path))
    return False


def contents(path):
    with open_tensors(path) as file:
        names = [name for name in file.tensors if not name.startswith("packed.")]
        packed = [name for name in file.tensors if name.startswith("packed.")]
        return {n: file.read(n) for n in names}, {n: file.read(n) for n in packed}, dict(file.metadata)


def test_large_weights_stay_in_the_file(path):
    plan = convlane.load_plan(path, mmap=True)
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)
    weights = {packed.shape: lies_in(packed, path) for packed in plan._built.packer._packed.values()}
    assert weights == {
        (64, 3, 3, 3): False,
        (64, 64, 3, 3): True,
        (300, 64, 1, 1): True,
        (300, 150, 3, 3): True,
        (7, 10800, 1, 1): True,
        (5000, 7, 1, 1): True,
    }


def test_each_instruction_set_s_own_packing_is_used(isa, tmp_path):
    plan = convlane.compile(NETWORK, (None, 3, 8, 8))
    plan.save(tmp_path / "plan", packed=True)
    again = convlane.load_plan(tmp_path / "plan", mmap=True)
    np.testing.assert_array_equal(again(IMAGES), plan(IMAGES))
    assert any(lies_in(packed, tmp_path / "plan") for packed in again._built.packer._packed.values())


@pytest.mark.skipif(len(_core.supported_isas()) < 2, reason="there is one instruction set")
def test_another_instruction_set_packs_again_and_warns(path):
    active, other = _core.active_isa(), _core.supported_isas()[0]
    assert active != other
    _core.set_active_isa(other)
    try:
        with pytest.warns(RuntimeWarning, match=f"packed for '{active}' and version .*has packed its own, for {other}"):
            plan = convlane.load_plan(path, mmap=True)
        np.testing.assert_array_equal(plan(IMAGES), convlane.load_plan(path)(IMAGES))
    finally:
        _core.set_active_isa(active)
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)


def test_another_version_packs_again_and_warns(path, monkeypatch):
    monkeypatch.setattr(mapped, "__version__", "9")
    with pytest.warns(
        RuntimeWarning, match=r"and version '0.*so this process has packed its own, for .* and version 9"
    ):
        plan = convlane.load_plan(path, mmap=True)
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)


def test_other_algorithms_pack_again_and_warn(path):
    tensors, packed, metadata = contents(path)
    record = json.loads(metadata["packed"])
    record["weights"][0][3] = "im2col"
    write_tensors(path, tensors, {**metadata, "packed": json.dumps(record)}, packed)
    with pytest.warns(RuntimeWarning, match="1 of its weights are packed for other algorithms"):
        plan = convlane.load_plan(path, mmap=True)
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)


def test_files_without_packed_weights(tmp_path):
    PLAN.save(tmp_path / "plan")
    with pytest.warns(RuntimeWarning, match="it has no packed weights that could be shared"):
        plan = convlane.load_plan(tmp_path / "plan", mmap=True)
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)


def test_networks_of_small_weights_do_not_warn(tmp_path):
    convlane.compile(nn.Conv2d(3, 8, 3).eval(), (None, 3, 8, 8)).save(tmp_path / "plan", packed=True)
    assert convlane.load_plan(tmp_path / "plan", mmap=True)(IMAGES).shape == (2, 8, 6, 6)


def test_files_are_pages_and_remain_safetensors(path, tmp_path):
    with open_tensors(path) as file:
        packed = {name: info for name, info in file.tensors.items() if name.startswith("packed.")}
        assert len(packed) == 5
        for info in packed.values():
            assert info.begin % page_size == info.nbytes % page_size == 0
    with safetensors.safe_open(path, "np") as file:
        assert "packed.0" in file.keys()  # noqa: SIM118 - it is not a dict
    np.testing.assert_array_equal(convlane.load_plan(path)(IMAGES), EXPECTED)
    PLAN.save(tmp_path / "plain")
    plain, _, metadata = contents(tmp_path / "plain")
    assert contents(path)[0].keys() == plain.keys()
    assert "packed" not in metadata


def test_a_mapped_plan_is_saved_and_pickled_like_any_other(path, tmp_path):
    plan = convlane.load_plan(path, mmap=True)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(plan))(IMAGES), EXPECTED)
    plan.save(tmp_path / "plain")
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plain")(IMAGES), EXPECTED)
    plan.save(tmp_path / "packed", packed=True)
    assert (tmp_path / "packed").read_bytes() == path.read_bytes()


def test_a_plan_may_be_saved_over_the_file_that_it_is_mapped_from(path):
    plan = convlane.load_plan(path, mmap=True)
    plan.save(path, packed=True)
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)
    np.testing.assert_array_equal(convlane.load_plan(path, mmap=True)(IMAGES), EXPECTED)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Conv3d(16, 40, 3), (None, 16, 4, 5, 6)),
        (nn.ConvTranspose2d(64, 64, 2, 2), (None, 64, 4, 4)),
        (lambda x: conv3d(x, np.ones((128, 1, 4, 4, 9), np.float32), groups=64), (None, 64, 4, 5, 9)),
    ],
)
def test_other_kinds_of_weights(network, shape, tmp_path, rng):
    network = network.eval() if isinstance(network, nn.Module) else network
    plan = convlane.compile(network, shape)
    plan.save(tmp_path / "plan", packed=True)
    array = rng.standard_normal((2, *shape[1:]), np.float32)
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan", mmap=True)(array), plan(array))


def test_whole_plans_and_plans_of_open_size(tmp_path):
    convlane.compile(NETWORK, (2, 3, 8, 8), whole=True).save(tmp_path / "whole", packed=True)
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "whole", mmap=True)(IMAGES), EXPECTED)
    convlane.compile(LARGE.eval(), (None, 64, None, None)).save(tmp_path / "open")
    with pytest.warns(RuntimeWarning, match="its sizes are open, so each process packs its own"):
        plan = convlane.load_plan(tmp_path / "open", mmap=True)
    images = np.ones((1, 64, 6, 6), np.float32)
    np.testing.assert_array_equal(plan(images), convlane.load_plan(tmp_path / "open")(images))
    plan.at((64, 6, 6)).save(tmp_path / "one", packed=True)
    one = convlane.load_plan(tmp_path / "one", mmap=True)
    np.testing.assert_array_equal(one(images), plan(images))
    assert all(lies_in(packed, tmp_path / "one") for packed in one._built.packer._packed.values())


def test_a_file_that_is_replaced_or_removed_stays(path):
    plan = convlane.load_plan(path, mmap=True)
    other = convlane.compile(nn.Conv2d(3, 4, 1).eval(), (None, 3, 8, 8))
    other.save(path)
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)
    path.unlink()
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)


def test_a_truncated_file_is_refused(path):
    plan = convlane.load_plan(path, mmap=True)
    os.truncate(path, page_size)
    for _ in range(2):
        with pytest.raises(ValueError, match="it is mapped and was changed in place: it was cut off"):
            plan(IMAGES)


@pytest.mark.parametrize("name", ["packed.1", "packed.4"])
def test_a_file_that_is_changed_in_place_is_refused(name, path):
    plan = convlane.load_plan(path, mmap=True)
    with open_tensors(path) as file:
        begin = file.tensors[name].begin
    with open(path, "r+b") as stream:
        stream.seek(begin + 40)
        stream.write(b"\x01\x02")
    with pytest.raises(ValueError, match=f"tensor '{name}' is damaged"):
        plan(IMAGES)
    with pytest.raises(ValueError, match=f"not a valid plan.*tensor '{name}' is damaged"):
        convlane.load_plan(path, mmap=True)
    np.testing.assert_array_equal(convlane.load_plan(path)(IMAGES), EXPECTED)  # packed from the weights


def test_a_file_that_has_changed_is_not_copied(path, tmp_path):
    plan = convlane.load_plan(path, mmap=True)
    os.truncate(path, 5000)
    for copied in (pickle.dumps, copy.deepcopy, lambda plan: plan.save(tmp_path / "copy")):
        with pytest.raises(ValueError, match="was changed in place"):
            copied(plan)
    assert not (tmp_path / "copy").exists()


def test_a_file_that_is_written_again_with_the_same_bytes_is_the_same(path):
    plan = convlane.load_plan(path, mmap=True)
    os.utime(path, (1, 1))
    np.testing.assert_array_equal(plan(IMAGES), EXPECTED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: [], "packed must have isa, version and weights"),
        (lambda record: {**record, "more": 1}, "packed must have isa, version and weights"),
        (lambda record: {**record, "isa": 3}, "isa and version must be text"),
        (lambda record: {**record, "weights": {}}, "weights a list"),
        (lambda record: {**record, "weights": [*record["weights"], 3]}, "a weight must be tensor"),
        (lambda record: row(record, 2, "1"), "a weight must be tensor"),
        (lambda record: row(record, 0, "packed.77"), "there is no such weight"),
        (lambda record: row(record, 1, "nowhere"), "there is no such weight"),
        (lambda record: row(record, 5, 10**12), "there is no such weight"),
        (lambda record: row(record, 5, -1), "there is no such weight"),
        (lambda record: row(record, 5, 64), "numbers packed, got 64"),
        (lambda record: row(record, 4, "plain"), "is 'plain', expected "),
        (lambda record: {**record, "weights": record["weights"][1:]}, "no node has the tensor 'packed.0'"),
        (lambda record: row(record, 0, record["weights"][0][1]), "there is no such weight"),
    ],
)
def test_invalid_metadata(change, message, path):
    tensors, packed, metadata = contents(path)
    record = change(json.loads(metadata["packed"]))
    write_tensors(path, tensors, {**metadata, "packed": json.dumps(record)}, packed)
    with pytest.raises(ValueError, match=message):
        convlane.load_plan(path, mmap=True)


def row(record, place, value):
    """Return the record with a change in its first row."""
    first, *others = record["weights"]
    return {**record, "weights": [[*first[:place], value, *first[place + 1 :]], *others]}


def test_packed_weights_must_be_as_many_and_aligned():
    numbers = np.zeros(4096, np.float32)
    begin = -numbers.__array_interface__["data"][0] // 4 % 16
    shape = (1, 16, 1, 1)
    size = _core.PackedWeight(np.zeros(shape, np.float32), 1, "auto").packed.size
    assert _core.PackedWeight.over(numbers[begin : begin + size], shape, 1, "auto").nbytes == 4 * size
    with pytest.raises(ValueError, match=f"takes {size} numbers packed, got {size + 1}"):
        _core.PackedWeight.over(numbers[begin : begin + size + 1], shape, 1, "auto")
    with pytest.raises(ValueError, match="must be aligned"):
        _core.PackedWeight.over(numbers[begin + 1 : begin + 1 + size], shape, 1, "auto")
    with pytest.raises(ValueError, match="must be contiguous float32"):
        _core.PackedWeight.over(numbers[begin : begin + 2 * size : 2], shape, 1, "auto")
    with pytest.raises(ValueError, match="product overflows"):
        _core.PackedWeight.over(numbers[:16], (2**40, 2**40, 1, 1), 1, "auto")
    with pytest.raises(ValueError, match="is empty"):
        _core.PackedWeight.over(numbers[:0], (0, 1, 1, 1), 1, "auto")


OWN = """
import re, sys
import convlane

def own():
    return int(re.search("RssAnon:\\s*([0-9]+)", open("/proc/self/status").read())[1]) * 1024

before = own()
plan = convlane.load_plan(sys.argv[1], mmap=sys.argv[2] == "mapped")
print(own() - before)
"""


def test_processes_take_no_memory_for_weights_of_their_own(tmp_path):
    network = nn.Sequential(nn.Linear(2048, 2048), nn.Linear(2048, 1024)).eval()  # 25 MB
    convlane.compile(network, (None, 2048)).save(tmp_path / "plan", packed=True)
    taken = {
        how: int(subprocess.check_output([sys.executable, "-c", OWN, tmp_path / "plan", how], text=True, timeout=60))
        for how in ("mapped", "packed")
    }
    assert taken["packed"] > 20e6
    assert taken["mapped"] < 8e6
