"""Files that are inconsistent, point elsewhere or need the impossible are refused quickly, with little memory."""

import contextlib
import os
import resource
import time

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import convlane  # noqa: E402
from convlane.onnx import LoadError  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def model(nodes=None, initializers=(), inputs=(("x", [1, 2]),), outputs=("y",)):
    nodes = [helper.make_node("Relu", ["x"], ["y"])] if nodes is None else nodes
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def external(location, length=8, offset=0):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], [tensor])


def tensor(**fields):
    return TensorProto(name="w", **{"data_type": TensorProto.FLOAT, **fields})


def nested(depth):
    graph = model().graph
    for _ in range(depth):
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=model().graph)
        graph = model([node]).graph
    return helper.make_model(graph)


RELU = helper.make_node("Relu", ["x"], ["y"])
DAMAGED = {
    "nothing": (b"", "there is no graph"),
    "text": (b"no file of any kind", "not an ONNX file"),
    "truncated": (model().SerializeToString()[:-9], "not an ONNX file|not a valid"),
    "huge shape": (model(initializers=[tensor(dims=[2**40, 2**40])]), "values are there|has the shape"),
    "negative shape": (model(initializers=[tensor(dims=[-1])]), "has the shape"),
    "short data": (model(initializers=[tensor(dims=[1000], raw_data=b"1234")]), "4 values are there"),
    "long data": (model(initializers=[tensor(dims=[1], raw_data=b"1234" * 9)]), "not a valid ONNX file"),
    "unknown type": (model(initializers=[tensor(dims=[1], raw_data=b"1234", data_type=99)]), "unknown type 99"),
    "text as numbers": (model(initializers=[tensor(dims=[1], data_type=8, string_data=[b"a"])]), "holds text"),
    "a cycle": (
        model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"]), RELU]),
        "reads 'b', which no node before it computes",
    ),
    "itself": (model([helper.make_node("Add", ["x", "y"], ["y"])]), "reads 'y'"),
    "twice": (model([RELU, RELU]), "computes 'y', which already exists"),
    "two initialisers": (
        model(initializers=[numpy_helper.from_array(np.ones(2, np.float32), "w")] * 2),
        "there are two",
    ),
    "no output": (model(outputs=["z"]), "no node computes the output 'z'"),
    "graphs within graphs": (nested(18), "more than 16 deep|not an ONNX file"),
    "a tensor that is computed without end": (
        model(
            [
                helper.make_node("Constant", [], ["s"], value_ints=[2**40]),
                helper.make_node("ConstantOfShape", ["s"], ["y"]),
            ]
        ),
        "too large",
    ),
    "repeats": (
        model(
            [
                helper.make_node("Constant", [], ["c"], value_ints=[1]),
                helper.make_node("Constant", [], ["s"], value_ints=[2**40]),
                helper.make_node("Tile", ["c", "s"], ["y"]),
            ]
        ),
        "too large",
    ),
    "wrong attribute": (model([helper.make_node("Relu", ["x"], ["y"], alpha=1.0)] * 2), "already exists"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(kind):
    data, message = DAMAGED[kind]
    data = data if isinstance(data, bytes) else data.SerializeToString()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(LoadError, match=message):
        convlane.load_onnx(data)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/hostname", "..", ".", "", "a/b", "a\\b", "gone.bin", "pipe", "link"]
)
def test_files_elsewhere(tmp_path, location):
    (tmp_path / "folder").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(64))
    os.mkfifo(tmp_path / "folder" / "pipe")
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "w.bin")
    path = tmp_path / "folder" / "m.onnx"
    path.write_bytes(external(location).SerializeToString())
    with pytest.raises(LoadError, match=r"which is not the plain name|cannot be read|bytes at"):
        convlane.load_onnx(path)


@pytest.mark.parametrize("span", [{"length": 4}, {"offset": 60}, {"offset": -8}, {"length": 2**40}, {"offset": "a"}])
def test_parts_beyond_the_end_of_a_file(tmp_path, span):
    (tmp_path / "w.bin").write_bytes(bytes(64))
    path = tmp_path / "m.onnx"
    path.write_bytes(external("w.bin", **span).SerializeToString())
    with pytest.raises(LoadError, match=r"bytes at|not a number"):
        convlane.load_onnx(path)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="not a regular file"):
        convlane.load_onnx(tmp_path / "m.onnx")


def test_changed_bytes(rng):
    """Whatever a file contains, it is a network or is refused; no other error is raised."""
    data = bytearray(model(initializers=[numpy_helper.from_array(np.ones(2, np.float32), "w")]).SerializeToString())
    for _ in range(300):
        changed = bytearray(data)
        for at in rng.integers(len(data), size=rng.integers(1, 4)):
            changed[at] = rng.integers(256)
        with contextlib.suppress(LoadError):
            convlane.load_onnx(bytes(changed))
