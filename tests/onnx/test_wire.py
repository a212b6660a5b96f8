"""Files are read without the data of their initialisers, which are then read in place."""

import io

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import convlane  # noqa: E402
from convlane.onnx import LoadError  # noqa: E402
from convlane.onnx.wire import without_numbers  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from runtimes import model_of  # noqa: E402

TEXT = "g (float[N, 300] x) => (float[N, 300] y) { a = Gemm(x, first, small) y = Gemm<transB = 1>(a, second) }"


@pytest.fixture
def weights(rng):
    return {
        "first": rng.standard_normal((300, 300), np.float32),
        "small": rng.standard_normal(300, np.float32),
        "second": rng.standard_normal((300, 300), np.float32),
    }


def split(data):
    return without_numbers(io.BytesIO(data), len(data))


def test_what_remains_and_where_the_data_are(weights):
    data = model_of(TEXT, **weights)
    message, places = split(data)
    assert len(message) < 2000
    assert places.keys() == {0, 2}
    for i, name in ((0, "first"), (2, "second")):
        start, size = places[i]
        assert data[start : start + size] == weights[name].tobytes()
    left, whole = onnx.ModelProto.FromString(message), onnx.ModelProto.FromString(data)
    assert [each.name for each in left.graph.initializer] == list(weights)
    for tensor in (left.graph.initializer[0], whole.graph.initializer[0]):
        tensor.ClearField("raw_data")
    for tensor in (left.graph.initializer[2], whole.graph.initializer[2]):
        tensor.ClearField("raw_data")
    assert left == whole


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_networks_have_their_data(kind, weights, rng, tmp_path):
    model = onnx.ModelProto.FromString(model_of(TEXT, **weights))
    for tensor in model.graph.initializer:
        array = helper.tensor_dtype_to_np_dtype(kind)
        values = weights[tensor.name].astype(array)
        weights[tensor.name] = values.astype(np.float32)
        tensor.CopyFrom(helper.make_tensor(tensor.name, kind, values.shape, values.tobytes(), raw=True))
    onnx.save(model, tmp_path / "m.onnx")
    x = rng.standard_normal((2, 300), np.float32)
    expected = (x @ weights["first"] + weights["small"]) @ weights["second"].T
    for source in (tmp_path / "m.onnx", model.SerializeToString()):
        network = convlane.load_onnx(source)
        np.testing.assert_array_equal(network.first, weights["first"])
        assert not network.first.flags.writeable
        np.testing.assert_allclose(network(x), expected, rtol=1e-3, atol=1e-2)


def test_graphs_in_pieces_are_one(weights, rng):
    """A message field that occurs several times is merged."""
    data = model_of(TEXT, **weights)
    more = onnx.ModelProto(graph=onnx.GraphProto())
    extra = rng.standard_normal((40, 40), np.float32)
    more.graph.initializer.append(onnx.numpy_helper.from_array(extra, "extra"))
    _, places = split(data + more.SerializeToString())
    assert places.keys() == {0, 2, 3}
    network = convlane.load_onnx(data + more.SerializeToString())
    np.testing.assert_array_equal(network.file.graph.nodes[0].inputs, ["x", "first", "small"])


@pytest.mark.parametrize("end", [b"\x0b", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 11, b"\x3a\x7f\x2a\x7d"])
def test_what_is_odd_is_left_to_protobuf(end, weights):
    data = model_of(TEXT, **weights) + end
    assert split(data) == (data, {})
    with pytest.raises(LoadError, match="not an ONNX file, or a truncated one"):
        convlane.load_onnx(data)


@pytest.mark.parametrize("shape", [(300, 301), (2**40, 2**30), (300,)])
def test_shapes_that_do_not_fit(shape, weights):
    model = onnx.ModelProto.FromString(model_of(TEXT, **weights))
    model.graph.initializer[0].dims[:] = shape
    with pytest.raises(LoadError, match=r"initialiser 'first' has the shape \(.*\), but 360000 bytes are there"):
        convlane.load_onnx(model.SerializeToString())
