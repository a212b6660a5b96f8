"""The safetensors reader and writer, against the reference implementation and damaged files."""

import contextlib
import json
import os
import stat
import subprocess
import sys
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy as reference
from hypothesis import HealthCheck, given, settings

from convlane import safetensors_file
from convlane.safetensors_file import open_tensors, strict_json, whole_file, write_tensors

TYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]


def example():
    """Return arrays of every type, of all numbers of dimensions, in all layouts."""
    rng = np.random.default_rng(3)
    arrays = {f"type {kind}": (10 * rng.standard_normal((2, 3))).astype(kind) for kind in TYPES}
    arrays |= {f"{n} dimensions": rng.standard_normal([2] * n) for n in range(6)}
    arrays |= {"empty": np.zeros((3, 0, 2), np.float32), "nothing": np.zeros(0, np.int8)}
    arrays["fortran"] = np.asfortranarray(rng.standard_normal((3, 4)))
    arrays["strided"] = rng.standard_normal((6, 8))[::2, ::-3]
    arrays["big endian"] = rng.standard_normal(5).astype(">f4")
    arrays['"Ä\n\\'] = np.array([np.nan, -0.0, np.inf], np.float32)
    return arrays


def read(path):
    with open_tensors(path) as file:
        return {name: file.read(name) for name in file.tensors}, file.metadata


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(actual[name], array)
        assert actual[name].shape == array.shape


def packed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def info(dtype="F32", shape=(1,), data_offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(data_offsets)}


def test_writing_without_locks_as_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_file, "fcntl", None)
    for _ in range(2):
        write_tensors(tmp_path / "a", example())
    assert_same(read(tmp_path / "a")[0], example())
    with pytest.raises(TypeError), whole_file(tmp_path / "a") as stream:
        stream.write(None)
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_written_is_read(tmp_path):
    write_tensors(tmp_path / "a", example(), {"name": "value", "": "{}"})
    tensors, metadata = read(tmp_path / "a")
    assert_same(tensors, example())
    assert metadata == {"name": "value", "": "{}"}
    write_tensors(tmp_path / "a", {})
    assert read(tmp_path / "a") == ({}, {})


def test_the_reference_reads_what_is_written(tmp_path):
    write_tensors(tmp_path / "a", example(), {"name": "value"})
    assert_same(reference.load_file(tmp_path / "a"), example())


def test_what_the_reference_writes_is_read(tmp_path):
    arrays = {name: np.ascontiguousarray(array) for name, array in example().items() if array.dtype.isnative}
    reference.save_file(arrays, tmp_path / "a", {"name": "value"})
    tensors, metadata = read(tmp_path / "a")
    assert_same(tensors, arrays)
    assert metadata == {"name": "value"}


def test_tensors_are_aligned(tmp_path):
    write_tensors(tmp_path / "a", example())
    with open_tensors(tmp_path / "a") as file:
        for tensor in file.tensors.values():
            assert tensor.begin % max(tensor.nbytes // max(int(np.prod(tensor.shape)), 1), 1) == 0
        assert min(tensor.begin for tensor in file.tensors.values()) % 64 == 0


def test_bfloat16_is_cast_up(tmp_path):
    values = np.array([1.0, -2.5, np.inf, 2.0**-130], np.float32)  # all of them have a short mantissa
    bits = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    (tmp_path / "a").write_bytes(packed({"x": info("BF16", (4,), (0, 8))}, bits))
    np.testing.assert_array_equal(read(tmp_path / "a")[0]["x"], values, strict=True)


def test_any_byte_is_a_bool(tmp_path):
    (tmp_path / "a").write_bytes(packed({"x": info("BOOL", (3,), (0, 3))}, b"\0\1\7"))
    assert read(tmp_path / "a")[0]["x"].view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes, fewer than the 8"),
        (b"\0" * 7, "it has 7 bytes"),
        (packed({})[:-1], "its header would take 2 bytes of a file of 9"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "its header would take 18446744073709551615 bytes"),
        (b"\0" * 8, "its header is not JSON"),
        (packed(b"\xff{}"), "its header is not JSON: 'utf-8' codec"),
        (packed(b"{"), "its header is not JSON"),
        (packed(b"[]"), "not a JSON object"),
        (packed(b"[" * 100_000), "its header is not JSON: too many nested brackets"),
        (packed(b'{"a":' * 100_000), "its header is not JSON: too many nested brackets"),
        (packed(b'{"a":NaN}'), "its header is not JSON: NaN is not a number"),
        (packed(b'{"a":1,"a":1}'), "its header is not JSON: the key 'a' occurs twice"),
        (packed(b'{"a":' + b"1" * 5000 + b"}"), "its header is not JSON"),
        (packed({"__metadata__": {"a": 1}}), "its __metadata__ must be an object of strings"),
        (packed({"__metadata__": []}), "its __metadata__ must be an object of strings"),
        (packed({"a": 1}), "tensor 'a' must have dtype, shape and data_offsets"),
        (packed({"a": {**info(), "extra": 1}}, bytes(4)), "and nothing else"),
        (packed({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "must have dtype"),
        (
            packed({"a": info("F8_E4M3", data_offsets=(0, 1))}, bytes(1)),
            "has the type 'F8_E4M3'; known types are BF16, BOOL",
        ),
        (packed({"a": info(["F32"])}, bytes(4)), r"has the type \['F32'\]"),
        (packed({"a": info(shape=(-1,))}, bytes(4)), r"has the shape \[-1\]"),
        (packed({"a": info(shape=(1.0,))}, bytes(4)), r"has the shape \[1\.0\]"),
        (packed({"a": info(shape=(True,))}, bytes(4)), r"has the shape \[True\]"),
        (packed({"a": info(shape=[1] * 33)}, bytes(4)), "must have at most 32 sizes"),
        (packed({"a": {**info(), "shape": 1}}, bytes(4)), "has the shape 1"),
        (packed({"a": info(shape=(2**63,))}, bytes(4)), "has the shape"),
        (packed({"a": info(shape=(2**31, 2**31, 2))}, bytes(4)), "whose product overflows"),
        (packed({"a": info(shape=(0, 2**62, 2**62), data_offsets=(0, 0))}), "whose product overflows"),
        (packed({"a": info(shape=(2,))}, bytes(4)), r"of shape \[2\] and type F32 cannot have 4 bytes"),
        (packed({"a": info(data_offsets=(4, 0))}, bytes(4)), r"has the data_offsets \[4, 0\]"),
        (packed({"a": info(data_offsets=(-4, 0))}, bytes(4)), r"has the data_offsets \[-4, 0\]"),
        (packed({"a": info(data_offsets=(0, 4, 4))}, bytes(4)), r"has the data_offsets \[0, 4, 4\]"),
        (packed({"a": info(data_offsets=(0, 4))}), "describes 73 bytes, but it has 69"),
        (packed({"a": info(data_offsets=(0, 4))}, bytes(5)), "describes 73 bytes, but it has 74"),
        (packed({"a": info(data_offsets=(4, 8))}, bytes(8)), "tensor 'a' leaves a gap before it"),
        (packed({"a": info(), "b": info()}, bytes(4)), "tensor 'b' overlaps the one before it"),
        (packed({"a": info(), "b": info(data_offsets=(2, 6))}, bytes(6)), "tensor 'b' overlaps the one before it"),
        (packed({"a": info(), "b": info(data_offsets=(8, 12))}, bytes(12)), "tensor 'b' leaves a gap before it"),
        (packed({"a": info(shape=(2**40,), data_offsets=(0, 2**42))}), "describes 4398046511"),
        (packed({"a" * 1000: 1}), "tensor 'aaaaaaaaaaaa...aaaaaaaaaaaaa' must"),
        (packed(b'{"\\ud800":1}'), r"tensor '\\ud800' must"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as error:
            open_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(content) + 2**20
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(f"{path}: not a valid safetensors file: ")


def test_large_headers_are_refused(tmp_path):
    path = tmp_path / "a"
    with path.open("wb") as stream:
        stream.write((2**24 + 1).to_bytes(8, "little"))
        stream.truncate(2 * 10**8)  # takes no space on disk
    with pytest.raises(ValueError, match="at most 16777216 are allowed"):
        open_tensors(path)


def test_every_truncation_is_refused(tmp_path):
    write_tensors(tmp_path / "whole", {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.int8)}, {"c": "d"})
    content = (tmp_path / "whole").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a valid safetensors file"):
            open_tensors(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        open_tensors(tmp_path / "cut")


def test_a_file_that_shrinks_while_it_is_open(tmp_path):
    write_tensors(tmp_path / "a", {"a": np.ones(100_000, np.float32)})
    with open_tensors(tmp_path / "a") as file:
        os.truncate(tmp_path / "a", 1000)
        with pytest.raises(ValueError, match="it was changed while it was read"):
            file.read("a")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_never_crash(tmp_path, changes):
    path = tmp_path / "a"
    write_tensors(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.int8)}, {"c": "d"})
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[place % len(content)] = byte
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        tensors, _ = read(path)
        assert sum(array.nbytes for array in tensors.values()) <= len(content)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_tensors(tmp_path / "missing")
    with pytest.raises(OSError, match="directory"):
        open_tensors(tmp_path)


class Unreadable:
    """An object whose conversion to an array fails."""

    shape, dtype = (4,), np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
        raise MemoryError("no array today")


def test_a_failed_write_leaves_everything_as_it_was(tmp_path):
    write_tensors(tmp_path / "a", {"x": np.ones(3, np.float32)})
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(MemoryError, match="no array today"):
        write_tensors(tmp_path / "a", {"x": np.ones(3, np.float32), "y": Unreadable()})
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == before
    with pytest.raises(FileNotFoundError):
        write_tensors(tmp_path / "missing" / "a", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_tensors(tmp_path / "folder", {})
    assert sorted(os.listdir(tmp_path)) == ["a", "folder"]


def test_files_are_written_like_any_other(tmp_path):
    write_tensors(tmp_path / "a", {})
    (tmp_path / "other").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    (tmp_path / "link").symlink_to("a")
    write_tensors(tmp_path / "link", {"x": np.ones(1)})
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "a")[0].keys() == {"x"}


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"x": np.ones(1, complex)}, TypeError, "tensor 'x' has the type complex128"),
        ({"x": np.array(["a"])}, TypeError, "tensor 'x' has the type <U1"),
        ({"__metadata__": np.ones(1)}, ValueError, "cannot have the name '__metadata__'"),
    ],
)
def test_what_cannot_be_written(tmp_path, tensors, error, message):
    with pytest.raises(error, match=message):
        write_tensors(tmp_path / "a", tensors)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Infinity", "Infinity is not a number"),
        ("-Infinity", "-Infinity is not a number"),
        ("1e999", "1e999 is too large"),
        ('[{"a": {"b": 1, "b": 2}}]', "the key 'b' occurs twice"),
        ("[1,]", "line 1 column"),
    ],
)
def test_strict_json(text, message):
    with pytest.raises(ValueError, match=message):
        strict_json(text)
    assert strict_json('{"a": [1, 2.5, null, true, "x"]}') == {"a": [1, 2.5, None, True, "x"]}


def test_every_changed_bit_is_noticed(tmp_path):
    write_tensors(tmp_path / "whole", {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.int8)}, {"c": "d"})
    content = (tmp_path / "whole").read_bytes()
    name = content.index(b"crc32")  # without it the file counts as another library's, and nothing else has changed
    for place in sorted(set(range(len(content))) - set(range(name, name + 5))):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(ValueError, match="not a valid safetensors file"):
            read_all(tmp_path / "changed")


def read_all(path):
    with open_tensors(path) as file:
        return {name: file.read(name) for name in file.tensors}


def test_files_of_killed_writers_are_removed(tmp_path):
    program = "import os, sys\nfrom convlane.safetensors_file import whole_file\n"
    program += "with whole_file(sys.argv[1]): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "a"]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    write_tensors(tmp_path / "a", {"a": np.ones(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    with whole_file(tmp_path / "a") as stream:
        stream.write(b"first")
        with whole_file(tmp_path / "a") as other:
            other.write(b"second")
        assert (tmp_path / "a").read_bytes() == b"second"
        assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
