"""Files of Keras that are damaged, hostile, or use what cannot be computed here; Keras is not needed."""

import contextlib
import copy
import io
import json
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import convlane
from convlane.bridges.keras import registry
from convlane.onnx import LoadError
from keras_files import functional, layer, sequential, write

CONV = layer("Conv2D", "conv", ["x"], filters=3, kernel_size=[3, 3])
RELU = layer("ReLU", "relu", ["x"])


def changed(model, **changes):
    """A model whose second layer has other settings."""
    model = copy.deepcopy(model)
    model["config"]["layers"][1]["config"].update(changes)
    return model


def nested(depth):
    model = functional(RELU)
    for _ in range(depth):
        inner = {**model, "name": "m", "inbound_nodes": [[["x", 0, 0, {}]]]}
        inner["config"]["name"] = "m"
        model = functional(inner)
    return model


def doubling(depth):
    """Each model calls the one within it twice."""
    model = functional(RELU)
    for _ in range(depth):
        inner = {**model, "name": "m", "inbound_nodes": [[["x", 0, 0, {}]], [["m", 0, 0, {}]]]}
        model = functional(inner, outputs=[["m", 1, 0]])
    return model


KERNEL = {"conv": [np.ones((3, 3, 2, 3), "f4"), np.ones(3, "f4")]}
HOSTILE = {
    "no JSON": ("{", {}, "not JSON"),
    "deep JSON": ("[" * 100_000, {}, "not JSON"),
    "a list": ([], {}, "must be a dict"),
    "no class": ({"config": {}}, {}, "no class_name"),
    "another class": ({"class_name": "MyModel", "config": {}}, {}, "its class is 'MyModel'"),
    "no layers": ({"class_name": "Functional", "config": {}}, {}, "layers must be a list"),
    "layers of numbers": ({"class_name": "Functional", "config": {"layers": [1, 2]}}, {}, "must be a dict"),
    "many layers": ({"class_name": "Sequential", "config": {"layers": [RELU] * 10_001}}, {}, "at most 10000"),
    "a layer twice": (functional(RELU, RELU), {}, "'relu' occurs twice"),
    "a layer without a name": (functional({"class_name": "ReLU", "config": {}}, outputs=[["x", 0, 0]]), {}, "no name"),
    "a cycle": (functional(layer("ReLU", "a", ["b"]), layer("ReLU", "b", ["a"])), {}, "wait for each other"),
    "itself": (functional(layer("ReLU", "a", ["a"])), {}, "wait for each other"),
    "nobody's result": (functional(layer("ReLU", "a", ["who"])), {}, "'who' is read, but does not exist"),
    "no such output": (functional(RELU, outputs=[["relu", 0, 5]]), {}, "number 5"),
    "a call that is not there": (functional(RELU, outputs=[["relu", 7, 0]]), {}, "call 7"),
    "outputs of text": (functional(RELU, outputs=["relu"]), {}, "does not name the result"),
    "outputs of numbers": (functional(RELU, outputs=[[1, 2, 3]]), {}, "must name layers"),
    "a negative call": (functional(RELU, outputs=[["relu", -1, 0]]), {}, "does not name the result"),
    "an input that is none": (
        {"class_name": "Functional", "config": {**functional(RELU)["config"], "input_layers": [["relu", 0, 0]]}},
        {},
        "not an InputLayer",
    ),
    "a shape of text": (functional(RELU, shape=(None, "4", 4, 2)), {}, "has the shape"),
    "a shape below zero": (functional(RELU, shape=(None, -4, 4, 2)), {}, "has the shape"),
    "a huge shape": (functional(RELU, shape=(None, 2**24, 2**24, 2**24)), {}, "would make an array"),
    "nine axes": (functional(RELU, shape=(None, *[1] * 8)), {}, "has the shape"),
    "models within models": (nested(40), {}, "more than 16 deep"),
    "models that double": (doubling(16), {}, "calls layers 32768 times"),
    "code": (
        sequential(layer("Lambda", "code", function=["4wEAAAAAAAAA", None, None]), layer("Magic>Layer", "own"), CONV),
        {},
        r"2 layers cannot be computed:\n  'code' \(Lambda\): it is code.*\n  'own' \(Magic>Layer\): the class",
    ),
    "somebody's class": (sequential({**RELU, "module": "os.path", "registered_name": "ReLU"}), {}, "os.path.ReLU"),
    "a recurrent layer": (sequential(layer("LSTM", "l", units=3)), {}, "recurrent layers are not computed"),
    "an unknown activation": (sequential({**CONV, "config": {**CONV["config"], "activation": "evil"}}), KERNEL, "evil"),
    "an activation of code": (
        changed(sequential(CONV), activation={"class_name": "Lambda", "config": {}}),
        KERNEL,
        "the activation 'Lambda' is unknown",
    ),
    "no arrays": (sequential(CONV), {}, "it has 0 arrays, not 2: kernel, bias"),
    "too many arrays": (sequential(CONV), {"conv": KERNEL["conv"] * 2}, "it has 4 arrays"),
    "another kernel": (sequential(CONV), {"conv": [np.ones((3, 3, 2, 4)), np.ones(3)]}, "kernel has the shape"),
    "a flat kernel": (sequential(CONV), {"conv": [np.ones(3), np.ones(3)]}, "kernel has the shape"),
    "another bias": (sequential(CONV), {"conv": [np.ones((3, 3, 2, 3)), np.ones(2)]}, "bias has the shape"),
    "an empty kernel": (
        sequential(layer("Conv2D", "conv", filters=3, kernel_size=[3, 3])),
        {"conv": [np.ones((3, 3, 0, 3)), np.ones(3)]},
        "kernel has the shape",
    ),
    "filters of text": (changed(sequential(CONV), filters="3"), KERNEL, "filters must be an integer"),
    "strides of a million zeros": (
        changed(sequential(CONV), strides=[0] * 10**6),
        KERNEL,
        "strides must be 2 integers",
    ),
    "strides below zero": (changed(sequential(CONV), strides=-1), KERNEL, "strides must be 2 integers"),
    "groups that do not fit": (changed(sequential(CONV), groups=2), KERNEL, "2 groups do not divide 3 filters"),
    "a padding of its own": (changed(sequential(CONV), padding="full"), KERNEL, "padding must be one of"),
    "a huge padding": (
        sequential(layer("ZeroPadding2D", "p", padding=2**24), CONV),
        KERNEL,
        "would make an array|cannot be",
    ),
    "a padding without end": (sequential(layer("ZeroPadding2D", "p", padding=2**60)), {}, "2 pairs of integers"),
    "cropped away": (sequential(layer("Cropping2D", "p", cropping=3)), {}, "'p': pad"),
    "a huge repetition": (
        sequential(layer("RepeatVector", "r", n=2**24), shape=(None, 2**12)),
        {},
        "would make an array of shape",
    ),
    "a huge size": (sequential(layer("UpSampling2D", "u", size=[2**20, 2**20])), {}, "would make an array of shape"),
    "a reshape that does not fit": (sequential(layer("Reshape", "r", target_shape=[5])), {}, "cannot become"),
    "a reshape to nothing": (sequential(layer("Reshape", "r", target_shape=[0])), {}, "no 0"),
    "a dense layer on other sizes": (
        sequential(layer("Dense", "d", units=3)),
        {"d": [np.ones((5, 3)), np.ones(3)]},
        "'d': linear",
    ),
    "text for arrays": (sequential(CONV), {"conv": [np.bytes_("a"), np.bytes_("b")]}, "not numbers"),
    "slices without end": (
        sequential(
            layer("Conv3DTranspose", "t", filters=1, kernel_size=1, strides=[2**12, 1, 1], use_bias=False),
            shape=(None, 9, 1, 1, 1),
        ),
        {"t": [np.ones((1, 1, 1, 1, 1))]},
        "more than 4096 slices",
    ),
    "called with a mask": (
        functional({**RELU, "inbound_nodes": [[["x", 0, 0, {"mask": ["x", 0, 0]}]]]}),
        {},
        "called with mask",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name, tmp_path):
    model, arrays, message = HOSTILE[name]
    path = write(tmp_path / "a.h5", model, arrays)
    start = time.process_time()
    with pytest.raises(LoadError, match=message) as error:
        convlane.load_keras(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 2000
    assert time.process_time() - start < 20


def zipped(path, **entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name.replace("__", "."), data)
    return path


def stored(arrays):
    """Return the bytes of a file of weights as Keras 3 writes it."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for path, own in arrays.items():
            for i, array in enumerate(own):
                file[f"{path}/vars/{i}"] = array
    return stream.getvalue()


def test_zip_files(tmp_path):
    config, weights = json.dumps(sequential(CONV)), stored({"layers/conv2d": KERNEL["conv"]})
    good = zipped(tmp_path / "good.keras", config__json=config, model__weights__h5=weights)
    image = np.ones((1, 2, 4, 4), np.float32)
    np.testing.assert_array_equal(convlane.load_keras(good)(image), np.full((1, 3, 2, 2), 19, np.float32))
    cases = {
        "no weights": ({"config__json": config}, "it has no model.weights.h5"),
        "no configuration": ({"model__weights__h5": weights}, "it has no config.json"),
        "a bomb": ({"config__json": b" " * (2**26 + 1), "model__weights__h5": weights}, "bytes of content"),
        "no HDF5": ({"config__json": config, "model__weights__h5": b"nothing" * 9}, "it is damaged"),
        "half of it": ({"config__json": config, "model__weights__h5": weights[: len(weights) // 2]}, "it is damaged"),
        "other layers": (
            {"config__json": config, "model__weights__h5": stored({"layers/dense": [1.0]})},
            "has 0 arrays",
        ),
        "an odd version": ({"config__json": config, "metadata__json": "[]", "model__weights__h5": weights}, None),
    }
    for name, (entries, message) in cases.items():
        path = zipped(tmp_path / f"{name}.keras", **entries)
        if message is None:
            convlane.load_keras(path)
            continue
        with pytest.raises(LoadError, match=message):
            convlane.load_keras(path)
    data = good.read_bytes()
    for end in (3, 100, len(data) - 1):
        (tmp_path / "cut.keras").write_bytes(data[:end])
        with pytest.raises(LoadError):
            convlane.load_keras(tmp_path / "cut.keras")


def test_links_out_of_the_file(tmp_path):
    path = write(tmp_path / "a.h5", sequential(CONV), KERNEL)
    with h5py.File(path, "a") as file:
        del file["model_weights/conv"]
        file["model_weights/conv"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(LoadError, match="is a link"):
        convlane.load_keras(path)


def test_damaged_bytes_are_refused_or_read(rng, tmp_path):
    """Flip bytes: the result is always a network or a LoadError."""
    model = sequential(CONV, layer("Flatten", "f"), layer("Dense", "d", units=2, activation="softmax"))
    arrays = {**KERNEL, "d": [np.ones((12, 2), "f4"), np.ones(2, "f4")]}
    data = bytearray(write(tmp_path / "a.h5", model, arrays).read_bytes())
    text = data.index(b'{"class_name"')
    places = [*rng.integers(0, len(data), 60), *rng.integers(text, text + 900, 60)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.h5").write_bytes(damaged)
        with contextlib.suppress(LoadError):
            convlane.load_keras(tmp_path / "b.h5")


def test_weights_alone_name_the_networks_that_they_fit(tmp_path):
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        for name, shape in {"conv2d": (3, 3, 1, 8), "separable_conv2d": (3, 3, 8, 1)}.items():
            file[f"layers/{name}/vars/0"] = np.ones(shape, "f4")
    with pytest.raises(LoadError, match=r"weights alone.*convlane knows no network"):
        convlane.load_keras(path)
    with pytest.raises(ValueError, match=r"no network that convlane knows .*InceptionV3"):
        convlane.load_weights(path)
    whole = write(tmp_path / "b.h5", sequential(CONV), KERNEL)
    with h5py.File(whole, "a") as file:
        file["model_weights"].attrs["layer_names"] = [b"conv"]
    with pytest.raises(ValueError, match=r"convlane\.load_keras makes a network of it"):
        convlane.load_weights(whole)
    (tmp_path / "text").write_text("nothing")
    with pytest.raises(LoadError, match="not a Keras file"):
        convlane.load_keras(tmp_path / "text")
    with pytest.raises(OSError):
        convlane.load_keras(tmp_path / "missing")


def test_names_of_layers_that_attributes_cannot_have(tmp_path):
    names = ["a.b", "a_b", "forward", "training"]
    model = sequential(*(layer("Dense", name, units=2, use_bias=False) for name in names), shape=(None, 2))
    network = convlane.load_keras(write(tmp_path / "a.h5", model, {name: [np.eye(2)] for name in names}))
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(network(x), x)
    assert list(network.state_dict()) == ["a_b.weight", "a_b_.weight", "forward_.weight", "training_.weight"]


def test_calls_of_models_are_counted_as_keras_2_does(tmp_path):
    """Keras 2 counts the call that built a nested model, so the first call in the file is number 1."""
    inner = {**sequential(layer("Dense", "d", units=2, use_bias=False), shape=(None, 2)), "name": "s"}
    inner["inbound_nodes"] = [[["x", 0, 0, {}]]]
    for number in (0, 1):
        model = functional(inner, layer("ReLU", "r", []), outputs=[["r", 0, 0]], shape=(None, 2))
        model["config"]["layers"][2]["inbound_nodes"] = [[["s", number, 0, {}]]]
        network = convlane.load_keras(write(tmp_path / "a.h5", model, {"s": [2 * np.eye(2)]}))
        np.testing.assert_array_equal(network(np.ones((1, 2), np.float32)), [[2, 2]])


def test_hard_sigmoid_changed_with_keras_3(tmp_path):
    model = sequential(layer("Activation", "a", activation="hard_sigmoid"), shape=(None, 2))
    x = np.array([[1.0, 2.6]], np.float32)
    old = convlane.load_keras(write(tmp_path / "a.h5", model, version="2.3.1"))
    np.testing.assert_allclose(old(x), [[0.7, 1.0]], rtol=1e-6)
    new = convlane.load_keras(write(tmp_path / "a.h5", model, version="3.1.0"))
    np.testing.assert_allclose(new(x), [[4 / 6, 5.6 / 6]], rtol=1e-6)


def test_open_sizes(tmp_path):
    model = sequential(CONV, layer("GlobalAveragePooling2D", "g"), shape=(None, None, None, 2))
    network = convlane.load_keras(write(tmp_path / "a.h5", model, KERNEL))
    assert network.inputs[0].shape == (None, 2, None, None)
    plan = convlane.compile(network, (None, 2, None, None))
    for side in (4, 9):
        image = np.ones((2, 2, side, side), np.float32)
        np.testing.assert_array_equal(plan(image), network(image))


def test_every_class_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "coming-from-keras.md").read_text("utf-8")
    missing = [name for name in (*registry.layer_names(), *registry.operation_names()) if f"`{name}`" not in text]
    assert not missing


def test_functions_of_tensorflow(tmp_path):
    """This is how Keras 2 writes 1 - relu(x * 2 + y), with tensors and numbers among the named arguments."""

    def call(function, name, source, **kwargs):
        made = layer("TFOpLambda", name, function=function)
        return {**made, "inbound_nodes": [[*source, {**kwargs, "name": None}]]}

    steps = (
        call("math.multiply", "twice", ["x", 0, 0], y=2.0),
        call("__operators__.add", "sum", ["twice", 0, 0], y=["x", 0, 0]),
        call("nn.relu", "relu", ["sum", 0, 0]),
        call("math.subtract", "rest", ["_CONSTANT_VALUE", -1, 1.0], y=["relu", 0, 0]),
    )
    network = convlane.load_keras(write(tmp_path / "a.h5", functional(*steps)))
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 2, 4, 4)
    np.testing.assert_allclose(network(x), 1 - np.maximum(3 * x, 0), rtol=1e-6)
    unknown = functional(call("image.adjust_hue", "hue", ["x", 0, 0], delta=0.1))
    with pytest.raises(LoadError, match=r"'hue' \(TFOpLambda\): this function of TensorFlow has no counterpart"):
        convlane.load_keras(write(tmp_path / "b.h5", unknown))


def test_padding_is_part_of_the_convolution_in_plans(tmp_path):
    model = sequential(layer("ZeroPadding2D", "pad", padding=[[0, 1], [1, 2]]), CONV, layer("ReLU", "relu"))
    network = convlane.load_keras(write(tmp_path / "a.h5", model, KERNEL))
    plan = convlane.compile(network, (1, 2, 4, 4))
    assert "1 step" in repr(plan)
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 2, 4, 4)
    np.testing.assert_allclose(plan(x), network(x), rtol=1e-5)
