"""Files of weights: those that other libraries write, and hostile files."""

import contextlib
import io
import pickle
import struct
import time
import tracemalloc
import zipfile

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import convlane
from convlane import load_weights, models, nn
from convlane.safetensors_file import write_tensors
from convlane.weights import npz_file, torch_file  # noqa: F401 - or the first test would count the memory of their import
from networks import torchvision_network


def zipped(entries, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values):
    return b"(" + b"".join(integer(value) for value in values) + b"t"


def storage(kind="FloatStorage", key="0", count=6):
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + integer(count) + b"tQ"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, source=None, rest=b"\x89}"):
    view = (source or storage()) + integer(offset) + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + rest + b"tR"


def pickled(*items):
    """Return a pickle of a dictionary of names and of values given as pickle programs."""
    return b"\x80\x02}" + b"".join(text(name) + program + b"s" for name, program in items) + b"."


DATA = np.arange(6, dtype="<f4").tobytes()


def archive(program, *more, data=DATA, method=zipfile.ZIP_STORED):
    return zipped([("a/data.pkl", program), ("a/data/0", data), *more], method)


OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
OLD_MACHINE = b"\x80\x02}" + text("protocol_version") + b"M\xe9\x03s" + text("little_endian") + b"\x88s."


def old_storage(kind="FloatStorage", key="7", count=6, part=b"N"):
    """A storage as torch wrote it before 1.6, with the storage of which it is a part."""
    return storage(kind, key, count).removesuffix(b"tQ") + part + b"tQ"


def old(program, keys=("7",), data=None, version=b"\x80\x02M\xe9\x03.", machine=OLD_MACHINE):
    """A file in the format of torch before 1.6."""
    storages = (6).to_bytes(8, "little") + DATA if data is None else data
    listed = b"\x80\x02](" + b"".join(text(key) for key in keys) + b"e."
    return OLD_MAGIC + version + machine + program + listed + storages


def old_tensor(**source):
    return tensor(source=old_storage(**source))


def npy(header, data=b"", version=b"\1\0"):
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def npz(header, data=b""):
    return zipped([("x.npy", npy(header, data))])


def npy_header(kind="<f4", shape="2,", order="False"):
    return f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': ({shape}), }}\n".encode()


def test_handmade_torch_file(tmp_path):
    (tmp_path / "a").write_bytes(archive(pickled(("w", tensor()), ("t", tensor((3, 2), (1, 3))))))
    weights = load_weights(tmp_path / "a")
    np.testing.assert_array_equal(weights["w"], np.arange(6, dtype=np.float32).reshape(2, 3), strict=True)
    np.testing.assert_array_equal(weights["t"], weights["w"].T, strict=True)
    assert not weights["w"].flags.writeable


def test_handmade_file_of_old_torch(tmp_path):
    views = ("w", old_tensor()), ("t", tensor((3, 2), (1, 3), source=old_storage()))
    first = b"ctorch._utils\n_rebuild_tensor\n(" + old_storage(key="8", count=2) + integer(1) + numbers([1]) * 2 + b"tR"
    program = pickled(*views, ("older", first), ("epoch", b"K\3"))
    numbers_of_8 = (2).to_bytes(8, "little") + np.array([1, 5], "<f4").tobytes()
    (tmp_path / "a").write_bytes(old(program, ("8", "7"), numbers_of_8 + (6).to_bytes(8, "little") + DATA))
    weights = load_weights(tmp_path / "a")
    np.testing.assert_array_equal(weights["w"], np.arange(6, dtype=np.float32).reshape(2, 3), strict=True)
    np.testing.assert_array_equal(weights["t"], weights["w"].T, strict=True)
    np.testing.assert_array_equal(weights["older"], np.array([5], np.float32), strict=True)
    assert len(weights) == 3
    assert not weights["w"].flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is not a file of safetensors"),
        (b"garbage", "it is not a file of safetensors"),
        (pickle.dumps({}, 4), "a Python pickle"),
        (npy(npy_header(), bytes(8)), "a single array"),
        (bytes(8) + b"{", "not a valid safetensors file"),
        (b"PK\3\4 and no more", "not a zip file"),
        (zipped([("config.json", b"")]), "neither of torch"),
        (zipped([("a/data.pkl", b""), ("b/data.pkl", b"")]), r"must have one data\.pkl"),
        (archive(pickled(), ("a/code/x.py", b"")), "a TorchScript program"),
        (archive(pickled(), method=zipfile.ZIP_DEFLATED), "is compressed"),
        (archive(pickled(), ("a/byteorder", b"big")), "its byte order is b'big'"),
        (archive(b"\x80\x04}."), "has the protocol 4"),
        (archive(b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R."), "refers to 'os.system'"),
        (archive(b"\x80\x02cbuiltins\neval\n."), "refers to 'builtins.eval'"),
        (archive(pickled(("w", b"ctorch\nload\n"))), "refers to 'torch.load'"),
        (archive(pickled(("w", b"(ios\nsystem\n"))), "has the operation INST"),
        (archive(b"\x80\x02\xff"), "has the operation"),
        (archive(b"\x80\x02}"), "its pickle is cut off"),
        (archive(b"\x80\x02."), "takes more from the stack"),
        (archive(b"\x80\x02}(a."), "takes more from the stack"),
        (archive(b"\x80\x02t."), "lacks a mark"),
        (archive(b"\x80\x02}}."), "goes on after its end"),
        (archive(b"\x80\x02}..."), "goes on after its end"),
        (archive(b"\x80\x02h\7."), "recalls 7"),
        (archive(b"\x80\x02X\xff\xff\xff\xff."), "is cut off"),
        (archive(b"\x80\x02c" + b"a" * 5000), "a name without an end"),
        (archive(b"\x80\x02K\1}b."), "as if it were a dict"),
        (archive(b"\x80\x02}]" + tensor() + b"s."), "under _Key.*list.* it has a tensor"),
        (archive(pickled(("w", tensor()), ("w", tensor()))), "the key 'w' twice"),
        (archive(b"\x80\x02}K\1R."), "calls"),
        (archive(b"\x80\x02ccollections\nOrderedDict\nK\1\x85R."), "makes an OrderedDict of"),
        (archive(b"\x80\x02]."), "it holds a list"),
        (archive(pickled(("w", b"K\1"))), "under 'w' it has a int"),
        (archive(pickled(("model", b"}"), ("state_dict", b"}"))), "holds state_dict and model"),
        (archive(pickled(("w", tensor(source=storage(key="1"))))), "storage '1', which is missing"),
        (archive(pickled(("w", tensor(source=storage(key="../x"))))), "which is missing"),
        (archive(pickled(("w", tensor(source=storage(count=7))))), "has 24 bytes, but the tensor 'w' expects 28"),
        (archive(pickled(("w", tensor(source=storage("DoubleStorage"))))), "has 24 bytes.* expects 48"),
        (archive(pickled(("w", tensor(source=storage(count=-1))))), "which torch.save never writes"),
        (archive(pickled(("w", tensor(offset=1)))), "does not lie within"),
        (archive(pickled(("w", tensor(strides=(4, 1))))), "does not lie within"),
        (archive(pickled(("w", tensor(strides=(2**62, 2**62))))), "does not lie within"),
        (archive(pickled(("w", tensor(offset=-1)))), "none negative"),
        (archive(pickled(("w", tensor(strides=(-3, 1))))), "none negative"),
        (archive(pickled(("w", tensor((-2, 3))))), "none negative"),
        (archive(pickled(("w", tensor((2**64, 3))))), "none negative"),
        (archive(pickled(("w", tensor((6,), (1, 1))))), "one stride for each"),
        (archive(pickled(("w", tensor((1,) * 33, (1,) * 33)))), "one stride for each"),
        (archive(pickled(("w", tensor((0, 2**62, 2**62), (1, 1, 1))))), "the product overflows"),
        (archive(pickled(("w", tensor((2**40,), (0,))))), "describe 43980465111[0-9]+ bytes"),
        (archive(pickled(("w", tensor(rest=b"\x89}}" + text("neg") + b"\x88s")))), "lazily negated"),
        (OLD_MAGIC, "its pickle is cut off"),
        (OLD_MAGIC + b"more", "has the operation APPENDS|has the operation"),
        (old(pickled(("w", old_tensor())), version=b"\x80\x02M\xe8\x03."), "it is of version 1000"),
        (old(pickled(("w", old_tensor())), machine=b"\x80\x02}" + text("little_endian") + b"\x89s."), "the machine"),
        (old(pickled(("w", old_tensor())), machine=b"\x80\x02]."), "the machine"),
        (old(b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R."), "refers to 'os.system'"),
        (old(pickled(("w", b"(ios\nsystem\n"))), "has the operation INST"),
        (old(pickled(("w", old_tensor()))) + b"\0", "1 bytes after its last storage"),
        (old(pickled(("w", old_tensor())))[:-1], "is cut off"),
        (old(pickled(("w", old_tensor())), data=DATA), "is cut off"),
        (old(pickled(("w", old_tensor())), ()), "are not those that its pickle describes"),
        (old(pickled(("w", old_tensor())), ("7", "7")), "are not those that its pickle describes"),
        (old(pickled(("w", old_tensor())), ("6",)), "are not those that its pickle describes"),
        (old(pickled(("w", old_tensor(count=7)))), "has 6 numbers or is cut off, of 7"),
        (old(pickled(("w", old_tensor(count=2**62)))), "describe [0-9]+ bytes of content"),
        (old(pickled(("w", old_tensor()), ("v", old_tensor(kind="DoubleStorage")))), "has two storages '7'"),
        (old(pickled(("w", old_tensor(part=b"K\1")))), "which torch.save never writes"),
        (old(pickled(("w", old_tensor(kind="UntypedStorage")))), "'torch.UntypedStorage'"),
        (old(pickled(("w", tensor(offset=1, source=old_storage())))), "does not lie within"),
        (old(pickled(("w", tensor((2**40,), (0,), source=old_storage())))), "describe 43980465111[0-9]+ bytes"),
        (npz(b"{}"), "header must give"),
        (npz(npy_header("|O"), bytes(16)), r"'\|O'.*nothing that needs pickle is read"),
        (npz(npy_header("<f1"), bytes(2)), "unknown type '<f1'"),
        (npz(npy_header("<c8"), bytes(16)), "not plain numbers"),
        (npz(npy_header(shape="-2,"), bytes(8)), "header must give"),
        (npz(npy_header(shape="2,,"), bytes(8)), "it has the shape '2,,'"),
        (npz(npy_header(shape="1," * 33), bytes(4)), "up to 32 sizes"),
        (npz(npy_header(shape="2" * 20), bytes(8)), "it has the shape"),
        (npz(npy_header(shape="1000000000000,")), "cannot have 0 bytes"),
        (npz(npy_header(shape="0, 9000000000000000000, 9000000000000000000")), "whose product overflows"),
        (npz(b" " * 20000), "header would take 20000 bytes"),
        (zipped([("x.npy", b"none")]), "not an array of NumPy's format"),
        (zipped([("x.npy", bytes(2**27))], zipfile.ZIP_DEFLATED), "bytes of content; at most 67108864"),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, message):
    path = tmp_path / "hostile"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as error:
            load_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(content) + 2**20
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(f"{path}: ")


def test_twice_the_same_entry(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        content = archive(pickled(), ("a/data/0", b""))
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="the entry 'a/data/0' occurs twice"):
        load_weights(tmp_path / "a")


def valid_files():
    stream = io.BytesIO()
    np.savez_compressed(stream, w=np.arange(6, dtype=np.float32).reshape(2, 3))
    return [archive(pickled(("w", tensor()))), stream.getvalue()]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_files_of_old_torch_never_crash(tmp_path, changes):
    content = bytearray(old(pickled(("w", old_tensor()), ("t", tensor((3, 2), (1, 3), source=old_storage())))))
    for place, byte in changes:
        content[place % len(content)] = byte
    (tmp_path / "a").write_bytes(content)
    with contextlib.suppress(ValueError):
        assert all(array.size == 6 for array in load_weights(tmp_path / "a").values() if array.ndim == 2)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(which=st.integers(0, 1), changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4))
def test_changed_bytes_are_noticed(tmp_path, which, changes):
    content = bytearray(valid_files()[which])
    for place, byte in changes:
        content[place % len(content)] = byte
    (tmp_path / "a").write_bytes(content)
    with contextlib.suppress(ValueError):
        weights = load_weights(tmp_path / "a")
        np.testing.assert_array_equal(weights["w"], np.arange(6, dtype=np.float32).reshape(2, 3), strict=True)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_pickles_never_crash(tmp_path, changes):
    program = bytearray(pickled(("w", tensor()), ("t", tensor((3, 2), (1, 3)))))
    for place, byte in changes:
        program[place % len(program)] = byte
    (tmp_path / "a").write_bytes(archive(bytes(program)))
    with contextlib.suppress(ValueError):
        assert all(set(array.ravel()) <= set(range(6)) for array in load_weights(tmp_path / "a").values())


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz(tmp_path, write):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.ones((2, 3), "f2") * [1, 2, 3]).astype("f2"),
        "big": np.arange(3, dtype=">f4"),
        "scalar": np.array(3),
        "empty": np.zeros((0, 2), np.float32),
        "mask": np.array([True, False]),
    }
    write(tmp_path / "a.npz", **arrays)
    weights = load_weights(tmp_path / "a.npz")
    assert list(weights) == list(arrays)
    for name, array in arrays.items():
        expected = array.astype(np.float32) if array.dtype.kind == "f" else array
        np.testing.assert_array_equal(weights[name], expected, strict=True)


def test_safetensors_are_cast(tmp_path):
    write_tensors(tmp_path / "a", {"h": np.ones(2, np.float16), "d": np.ones(2), "i": np.ones(2, np.int64)})
    assert {k: v.dtype.name for k, v in load_weights(tmp_path / "a").items()} == {
        "d": "float32", "i": "int64", "h": "float32",
    }  # fmt: skip
    write_tensors(tmp_path / "a", {"d": np.array([1e300])})
    with pytest.raises(ValueError, match="'d' has numbers that float32 cannot hold"):
        load_weights(tmp_path / "a")


def test_plans_are_refused(tmp_path):
    convlane.compile(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (None, 3, 8, 8)).save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"which convlane\.load_plan reads"):
        load_weights(tmp_path / "a")


@pytest.mark.torch
@pytest.mark.parametrize(
    "kind", ["float16", "bfloat16", "float32", "float64", "int64", "int32", "int16", "uint8", "bool"]
)
def test_views_that_torch_saves(tmp_path, kind):
    import torch

    base = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, kind))
    tensors = {
        "whole": base, "transposed": base.transpose(0, 2), "part": base[1:, ::2, 1:3], "scalar": base[1, 2, 3],
        "empty": base[:0], "expanded": base[:1, :1].expand(5, 3, 4), "parameter": base,
        "last": base.permute(2, 0, 1)[3],
    }  # fmt: skip
    if base.is_floating_point():
        tensors["parameter"] = torch.nn.Parameter(base)
    torch.save(tensors, tmp_path / "a")
    weights = load_weights(tmp_path / "a")
    assert list(weights) == list(tensors)
    for name, value in tensors.items():
        value = value.detach()
        expected = (value.float() if value.is_floating_point() else value).numpy()
        np.testing.assert_array_equal(weights[name], expected, strict=True)


@pytest.mark.torch
def test_checkpoints(tmp_path):
    import torch

    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    prefixed = {f"module.{key}": value for key, value in layer.state_dict().items()}
    for key in ("state_dict", "model_state_dict", "model"):
        torch.save({"epoch": 3, key: prefixed, "optimizer": optimizer.state_dict()}, tmp_path / "a")
        weights = load_weights(tmp_path / "a")
        assert list(weights) == ["weight", "bias"]
        np.testing.assert_array_equal(weights["weight"], layer.weight.detach().numpy())
    torch.save(layer, tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"refers to 'torch\.nn\.modules\.linear\.Linear'; only dictionaries of tensors"
    ):
        load_weights(tmp_path / "a")
    torch.save(layer.state_dict(), tmp_path / "a", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(load_weights(tmp_path / "a")["weight"], layer.weight.detach().numpy())


@pytest.mark.torch
def test_objects_beside_tensors_are_skipped(tmp_path):
    import torch

    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    more = {
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]).state_dict(),
        "values": (torch.Size([3]), torch.device("cpu"), torch.float32, {1, 2}, b"abc", bytearray(b"a"), 1j),
        "keys": {0.5: 1, (1, 2): 3, None: 4, b"x": 5, 7: 6},
        "tensors": [torch.eye(2).to_sparse(), torch.ones(2, device="meta"), torch.ones(2).to(torch.uint16)],
    }
    torch.save({"state_dict": layer.state_dict(), **more}, tmp_path / "a")
    torch.load(tmp_path / "a", weights_only=True)
    assert list(load_weights(tmp_path / "a")) == ["weight", "bias"]
    torch.save({**layer.state_dict(), **more}, tmp_path / "a")
    assert list(load_weights(tmp_path / "a")) == ["weight", "bias"]
    torch.save({"weight": torch.eye(2).to_sparse(), "bias": torch.ones(2)}, tmp_path / "a")
    with pytest.raises(ValueError, match=r"under 'weight' it has torch\._utils\._rebuild_sparse_tensor.*not read"):
        load_weights(tmp_path / "a")


@pytest.mark.torch
def test_tensors_with_attributes_and_complex_ones(tmp_path):
    import torch

    marked = torch.nn.Parameter(torch.ones(2))
    marked.mark = {"a": 1}
    tensors = {"buffer": torch.nn.Buffer(torch.ones(2)), "marked": marked, "complex": torch.ones(2) * 1j}
    torch.save(tensors, tmp_path / "a")
    weights = load_weights(tmp_path / "a")
    for name, value in tensors.items():
        np.testing.assert_array_equal(weights[name], value.detach().numpy(), strict=True)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers(tmp_path, prefix):
    arrays = {f"{prefix}{name}": np.ones(2, np.float32) for name in ("a", "module.b")}
    outside = prefix.partition("module.")[0]
    np.savez(tmp_path / "a.npz", **arrays, **({f"{outside}n_averaged": np.array(3)} if "module." in prefix else {}))
    assert list(load_weights(tmp_path / "a.npz")) == ["a", "module.b"]


def test_a_prefix_of_some_stays(tmp_path):
    names = ["module.a", "_orig_mod.b", "n_averaged"]
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, np.ones(2, np.float32)))
    assert list(load_weights(tmp_path / "a.npz")) == names


def costly_files():
    colliding = b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little", signed=True) for i in range(20_000))
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    arguments = tensor().removeprefix(rebuild).removesuffix(b"R")
    again = b"h\0h\1R" * 83_000
    half = tensor((33_000_000,), (0,), source=storage("HalfStorage", count=12))
    stream = io.BytesIO()
    np.savez_compressed(stream, w=np.zeros(30_000_000, np.float16))
    return {
        "colliding keys": archive(b"\x80\x02}(" + colliding + b"u."),
        "lists in an old file": old(b"\x80\x02" + b"]" * 2_000_000 + b"."),
        "half precision in an old file": old(
            pickled(("w", tensor((33_000_000,), (0,), source=old_storage("HalfStorage", count=12)))),
            data=(12).to_bytes(8, "little") + DATA,
        ),
        "lists": archive(b"\x80\x02" + b"]" * 2_000_000 + b"."),
        "memory": archive(b"\x80\x02" + b"".join(b"}r" + struct.pack("<I", i) for i in range(120_000)) + b"."),
        "tensors": archive(b"\x80\x02" + rebuild + b"q\0" + arguments + b"q\1" + again + b"."),
        "half precision": archive(pickled(("w", half))),
        "bfloat16": archive(pickled(("w", half.replace(b"HalfStorage", b"BFloat16Storage")))),
        "compressed half precision": stream.getvalue(),
        "header of objects": safetensors_of('{"a":[' + '{"":0},' * 500_000 + "0]}"),
        "header of names": safetensors_of("{" + ",".join(f'"{i}":0' for i in range(190_000)) + "}"),
        "header of brackets": safetensors_of("[" * 390_000),
    }


def safetensors_of(header):
    return len(header).to_bytes(8, "little") + header.encode()


@pytest.mark.parametrize("name", costly_files())
def test_no_file_costs_much(tmp_path, name):
    content = costly_files()[name]
    path = tmp_path / "a"
    path.write_bytes(content)
    start = time.process_time()
    with contextlib.suppress(ValueError):
        load_weights(path)
    assert time.process_time() - start < 5
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            load_weights(path)
        assert tracemalloc.get_traced_memory()[1] < max(64 << 20, 20 * len(content))
    finally:
        tracemalloc.stop()


@pytest.mark.torch
@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_before_its_version_1_6(tmp_path, wrapped):
    import torch

    shared = torch.arange(12, dtype=torch.float32)
    state = {
        "a": shared[:6].reshape(2, 3),
        "b": shared.reshape(3, 4).T,
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "int": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "empty": torch.empty(0, 3),
    }
    saved = {"state_dict": state, "optimizer": {"momentum": [torch.ones(7).double()]}, "epoch": 3} if wrapped else state
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    weights = load_weights(tmp_path / "a.pth")
    assert weights.keys() == state.keys()
    for name, tensor_ in state.items():
        expected = tensor_.detach().float().numpy() if tensor_.is_floating_point() else tensor_.numpy()
        np.testing.assert_array_equal(weights[name], expected, strict=True)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2", "resnet18"])
def test_networks_of_torchvision(tmp_path, name):
    import torch

    state = {
        key: torch.full(value.shape, 3) if value.dtype == torch.int64 else torch.randn(value.shape)
        for key, value in torchvision_network(name).state_dict().items()
    }
    torch.save(state, tmp_path / "a.pth")
    model = models.create(name, weights=tmp_path / "a.pth")
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[key].numpy(), err_msg=key)
