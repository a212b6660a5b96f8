"""The tests in the package onnx for backends, eagerly and compiled."""

import contextlib
import functools
import io
import warnings
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import convlane  # noqa: E402
from convlane.onnx import backend  # noqa: E402
from onnx import numpy_helper  # noqa: E402

AS_ONNXRUNTIME = [
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
]
"""ONNX's reference divides by a fractional output size; onnxruntime and convlane divide by the number of outputs."""

NODE = [
    pytest.param("node", name, id=name)
    for name in Path(__file__).with_name("node_tests.txt").read_text().split()
    if name not in AS_ONNXRUNTIME
]
"""The tests of operators of convolutional networks on float32, int32, int64 and bool."""

OTHERS = [
    pytest.param("node", name, id=name) for name in Path(__file__).with_name("other_node_tests.txt").read_text().split()
]
"""The tests of operators that occur around such networks."""

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
CONVERTED = [
    pytest.param(kind, path.name, id=path.name)
    for kind, count in (("pytorch-converted", 82), ("pytorch-operator", 35))
    for path in sorted((DATA / kind).iterdir())[:count]
]
LIGHT = sorted(path.stem for path in (DATA / "light").glob("*.onnx"))

NO_PLAN = (
    "there is no float32 input",
    "plans take float32, but there is a large integer input",
    "plans are for arrays that are not empty",
    "batch_norm with a computed running_mean",  # which its training mode computes
    "nodes after a plan",  # the rest: dropout masks, indices into a whole batch, sizes that depend on the data
)
"""The reasons for which nodes may be computed from arrays, outside a plan."""


@functools.cache
def node_tests():
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return {test.name: test for test in load_model_tests(kind="node")}


def tensors(folder, kind):
    """Return the arrays of a folder's files in their order."""
    paths = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return [numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) for path in paths]


def cases(kind, name):
    """Return a model, pairs of inputs and outputs, and the tolerances."""
    if kind == "node":
        test = node_tests()[name]
        return test.model, test.data_sets, {"rtol": test.rtol, "atol": test.atol}
    folder = DATA / kind / name
    sets = [(tensors(each, "input"), tensors(each, "output")) for each in sorted(folder.glob("test_data_set_*"))]
    return onnx.load(folder / "model.onnx"), sets, {"rtol": 1e-3, "atol": 1e-7}


def check(found, expected, **near):
    assert len(found) == len(expected)
    for array, reference in zip(found, map(np.asarray, expected), strict=True):
        assert (array.shape, array.dtype) == (reference.shape, reference.dtype)
        np.testing.assert_allclose(array, reference, **near)


def with_constants(model, inputs):
    """Return the model with all inputs but the first as initialisers."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    known = {each.name for each in model.graph.initializer}
    names = [each.name for each in model.graph.input if each.name not in known]
    for name, array in list(zip(names, inputs, strict=True))[1:]:
        fixed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return fixed


@pytest.mark.onnxruntime
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", AS_ONNXRUNTIME)
def test_sizes_with_a_fraction(name, compiled):
    import onnxruntime

    model, [(inputs, _)], near = cases("node", name)
    theirs = onnxruntime.InferenceSession(model.SerializeToString())
    expected = theirs.run(None, dict(zip([each.name for each in model.graph.input], inputs, strict=True)))
    if compiled:
        model, inputs = with_constants(model, inputs), inputs[:1]
    check(backend.prepare(model, compiled=compiled).run(inputs), expected, **near)


@pytest.mark.parametrize(("kind", "name"), NODE + OTHERS + CONVERTED)
class TestOperators:
    def test_eagerly(self, kind, name):
        model, sets, near = cases(kind, name)
        for inputs, outputs in sets:
            check(backend.prepare(model, compiled=False).run(inputs), outputs, **near)

    def test_compiled(self, kind, name):
        model, sets, near = cases(kind, name)
        for inputs, outputs in sets:
            rep = backend.prepare(with_constants(model, inputs))
            check(rep.run(inputs[:1]), outputs, **near)
            names = [info.name for info in rep.network.inputs]
            way = rep.runner.way(dict(zip(names, inputs[:1], strict=True)))
            assert way == "plan" or any(reason in way for reason in NO_PLAN), way


def test_all_of_them_are_here():
    assert len(NODE) + len(AS_ONNXRUNTIME) == 483
    assert len(AS_ONNXRUNTIME) <= 0.05 * len(NODE)
    assert len(CONVERTED) == 82 + 35
    assert len(LIGHT) == 9


def dummy(model):
    """Return the input with which the package's own runner tests the light networks."""
    names = {each.name for each in model.graph.initializer}
    (picture,) = (each for each in model.graph.input if each.name not in names)
    shape = [dim.dim_value or 1 for dim in picture.type.tensor_type.shape.dim]
    return picture.name, (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)


@pytest.mark.parametrize("name", LIGHT)
def test_light_networks(name):
    model = onnx.load(DATA / "light" / f"{name}.onnx")
    _, picture = dummy(model)
    reference = numpy_helper.to_array(
        onnx.TensorProto.FromString((DATA / "light" / f"{name}_output_0.pb").read_bytes())
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = backend.prepare(model).run([picture])
    assert found.shape == reference.shape
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-6)


@pytest.mark.onnxruntime
@pytest.mark.parametrize("name", [name for name in LIGHT if "vgg" not in name])
def test_light_networks_with_numbers(name, rng):
    """All weights of a network in the package are equal, which tests little: here they are random."""
    import onnxruntime

    model = onnx.load(DATA / "light" / f"{name}.onnx")
    known = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    variances = {node.input[4] for node in nodes if node.op_type == "BatchNormalization"}
    for node in nodes:
        if node.op_type != "ConstantOfShape":
            model.graph.node.append(node)
            continue
        shape = tuple(int(size) for size in known[node.input[0]])
        array = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / max(np.prod(shape[1:]), 4)))
        array = np.abs(array) + np.float32(0.5) if node.output[0] in variances else array
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    model.ir_version = max(model.ir_version, 4)
    data = model.SerializeToString()
    picture_name, picture = dummy(model)
    (reference,) = onnxruntime.InferenceSession(data).run(None, {picture_name: picture})
    network = convlane.load_onnx(data)
    (found,) = backend.prepare(model).run([picture])
    np.testing.assert_allclose(found, reference, rtol=2e-3, atol=1e-5 + 1e-4 * np.abs(reference).max())
    np.testing.assert_allclose(network(picture), reference, rtol=2e-3, atol=1e-5 + 1e-4 * np.abs(reference).max())


def test_devices():
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA:0")
    model = node_tests()["test_relu"].model
    assert backend.is_compatible(model)
    with pytest.raises(ValueError, match="not on 'CUDA'"):
        backend.prepare(model, "CUDA")
