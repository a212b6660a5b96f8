"""Files of Keras: its own networks with random weights, and hostile files."""

import contextlib
import os
import sys

import h5py
import numpy as np
import pytest

import convlane
from convlane import load_weights, models, nn
from convlane.weights.keras_file import map_layers


def keras_of():
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    return keras


APPLICATIONS = {
    "resnet50": ("ResNet50", 64),
    "inception_v3": ("InceptionV3", 107),
    "mobilenet_v1": ("MobileNet", 64),
    "mobilenet_v2": ("MobileNetV2", 64),
    "efficientnet_b0": ("EfficientNetB0", 64),
}


def application(name, rng, **config):
    """Return Keras's network with random batch norms and statistics of noise; otherwise the image would be lost."""
    keras = keras_of()
    kind, size = APPLICATIONS.get(name, ("VGG16", 64))
    keras.utils.set_random_seed(5)
    config = {"classes": 10, "classifier_activation": None, **config}
    network = getattr(keras.applications, kind)(weights=None, input_shape=(size, size, 3), **config)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            *scale, shift, mean, variance = layer.get_weights()
            scale = [rng.uniform(0.5, 1.5, array.shape) for array in scale]
            layer.set_weights([*scale, rng.uniform(-0.3, 0.3, shift.shape), mean, variance])
            layer.momentum = 0.0
    network(rng.uniform(-1, 1, (4, size, size, 3)).astype(np.float32), training=True)
    return network


def outputs(network, images):
    """Return the outputs of Keras's network for images (N, C, H, W)."""
    return np.asarray(network(images.transpose(0, 2, 3, 1)).detach().cpu())


def assert_the_same(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max(), "the images make a difference"


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")
@pytest.mark.parametrize("name", APPLICATIONS)
def test_networks_compute_as_in_keras(name, rng, tmp_path):
    theirs = application(name, rng)
    path = tmp_path / "of_keras.weights.h5"
    theirs.save_weights(path)
    ours = models.create(name, 10, weights=path)
    size = APPLICATIONS[name][1]
    images = rng.uniform(-1, 1, (2, 3, size, size)).astype(np.float32)
    images[1] *= 0.3
    # EfficientNet begins with a division by 255.
    expected = outputs(theirs, 255 * images if name == "efficientnet_b0" else images)
    assert_the_same(ours(images), expected)
    compiled = convlane.compile(ours, images.shape, winograd=False)(images)
    assert_the_same(compiled, expected)
    ours.save(tmp_path / "ours")
    np.testing.assert_array_equal(convlane.load(tmp_path / "ours")(images), ours(images))


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")
def test_files_of_older_keras(rng, tmp_path):
    theirs = application("mobilenet_v2", rng)
    theirs.save(tmp_path / "whole.h5")
    theirs.save_weights(tmp_path / "new.weights.h5")
    old, new = load_weights(tmp_path / "whole.h5"), load_weights(tmp_path / "new.weights.h5")
    assert old.keys() == new.keys()
    for key, array in old.items():
        np.testing.assert_array_equal(array, new[key], err_msg=key)
        assert not array.flags.writeable


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")
def test_vgg16(rng, tmp_path):
    theirs = application("vgg16", rng, include_top=False)
    theirs.save_weights(tmp_path / "a.weights.h5")
    ours = models.create("vgg16", weights=tmp_path / "a.weights.h5", features_only=True)
    images = rng.uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    images[1] *= 0.3
    assert_the_same(ours(images)[-1], outputs(theirs, images).transpose(0, 3, 1, 2))


def test_linear_layers_read_images_in_another_order(rng):
    convs = {
        f"block{block}_conv{i}": [np.zeros((3, 3, 1, 1), np.float32), np.zeros(1, np.float32)]
        for block, count in enumerate((2, 2, 3, 3, 3), 1)
        for i in range(1, count + 1)
    }
    kernel = rng.standard_normal((7 * 7 * 512, 2))
    tops = {"fc1": kernel, "fc2": np.ones((2, 4)), "predictions": np.ones((4, 3))}
    state = map_layers({**convs, **{name: [array, np.zeros(array.shape[1])] for name, array in tops.items()}})
    assert state["features.28.weight"].shape == (1, 1, 3, 3)
    image = rng.standard_normal((1, 512, 7, 7))
    expected = image.transpose(0, 2, 3, 1).reshape(1, -1) @ kernel
    np.testing.assert_allclose(image.reshape(1, -1) @ state["classifier.0.weight"].T, expected, rtol=1e-10)
    assert state["classifier.6.weight"].shape == (3, 4)


def test_create_refuses_networks_that_keras_does_not_have():
    with pytest.raises(ValueError, match="resnet18 has no variant for Keras"):
        models.create("resnet18", keras=True)
    with nn.init.skip():
        network = models.create("resnet50", keras=True)
        assert (network.layer2[0].conv1.stride, network.layer2[0].conv2.stride) == ((2, 2), (1, 1))
        assert network.bn1.eps == 1.001e-5
        network = models.create("inception_v3", keras=True)
        assert not network.Mixed_5b.pool.count_include_pad
        assert network.AuxLogits is None
        network = models.create("mobilenet_v2", keras=True, width_mult=0.5)
        assert [m.padding for m in network.features[0].modules() if isinstance(m, nn.Conv2d)] == ["same_tf"]


def mobilenet(file, group="", **changes):
    """Write a MobileNet of few channels in the old format."""
    root = file.create_group(group) if group else file
    layers = {}
    channels = 2

    def norm(name):
        layers[name] = [np.ones(channels, "f4")] * 4

    layers["conv1"] = [np.ones((3, 3, 3, channels), "f4")]
    norm("conv1_bn")
    for i in range(1, 14):
        layers[f"conv_dw_{i}"] = [np.ones((3, 3, channels, 1), "f4")]
        norm(f"conv_dw_{i}_bn")
        layers[f"conv_pw_{i}"] = [np.ones((1, 1, channels, channels), "f4")]
        norm(f"conv_pw_{i}_bn")
    layers.update(changes)
    layers = {name: arrays for name, arrays in layers.items() if arrays is not None}
    root.attrs["layer_names"] = [name.encode() for name in layers]
    for name, arrays in layers.items():
        own = root.create_group(name)
        own.attrs["weight_names"] = [f"{name}/{i}:0".encode() for i in range(len(arrays))]
        for i, array in enumerate(arrays):
            own[f"{name}/{i}:0"] = array
    return root


@pytest.mark.parametrize("group", ["", "model_weights"])
def test_handmade_files(group, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        mobilenet(file, group, dropout=[], conv_preds=[np.ones((1, 1, 2, 5), "f4"), np.arange(5, dtype="f4")])
    weights = load_weights(tmp_path / "a.h5")
    assert weights["features.0.0.weight"].shape == (2, 3, 3, 3)
    assert weights["features.13.0.0.weight"].shape == (2, 1, 3, 3)
    assert weights["classifier.1.weight"].shape == (5, 2)
    np.testing.assert_array_equal(weights["classifier.1.bias"], np.arange(5))


def replaced(path, how):
    """Replace an array of conv1."""

    def change(file):
        mobilenet(file)
        del file[path]
        how(file)

    return change


def virtual(file):
    layout = h5py.VirtualLayout(shape=(3, 3, 3, 2), dtype="f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape=(3, 3, 3, 2))
    file.create_virtual_dataset(KERNEL, layout)


def bomb(file):
    for i in range(4):
        file.create_dataset(KERNEL if i == 0 else f"conv1/more{i}", (2**20, 2**12), "f4", chunks=(2**10, 2**10))


def huge(file):
    file.create_dataset(KERNEL, (2**40, 2**40), "f4", chunks=(2**10, 2**10))


KERNEL = "conv1/conv1/0:0"
HOSTILE = {
    "nothing": (lambda file: None, "it is not a Keras weights file"),
    "a layer that is missing": (lambda file: mobilenet(file, conv_dw_7=None), "no layer 'conv_dw_7'"),
    "a layer too many": (lambda file: mobilenet(file, other=[np.ones(1, "f4")]), "'other' is unexpected"),
    "too many arrays": (lambda file: mobilenet(file, conv1=[np.ones(1, "f4")] * 3), "'conv1' has 3 arrays"),
    "a vector as kernel": (lambda file: mobilenet(file, conv1=[np.ones(3, "f4")]), r"a kernel of shape \(3,\)"),
    "another network": (lambda file: file.attrs.__setitem__("layer_names", []), "no network that convlane knows"),
    "a soft link": (replaced(KERNEL, lambda f: f.__setitem__(KERNEL, h5py.SoftLink("/conv1"))), "is a link"),
    "an external link": (
        replaced(KERNEL, lambda f: f.__setitem__(KERNEL, h5py.ExternalLink("/etc/passwd", "x"))),
        "is a link",
    ),
    "a linked group": (replaced("conv1", lambda f: f.__setitem__("conv1", h5py.SoftLink("/conv_pw_1"))), "is a link"),
    "external storage": (
        replaced(KERNEL, lambda f: f.create_dataset(KERNEL, (6,), "f4", external=[("/etc/passwd", 0, 24)])),
        "in another file",
    ),
    "a virtual dataset": (replaced(KERNEL, virtual), "in another file"),
    "a bomb": (replaced(KERNEL, bomb), "bytes of content"),
    "more than any memory": (replaced(KERNEL, huge), "bytes of content"),
    "text": (replaced(KERNEL, lambda f: f.__setitem__(KERNEL, "text")), "not numbers"),
    "objects": (
        replaced(KERNEL, lambda f: f.create_dataset(KERNEL, (2,), h5py.vlen_dtype(np.float32))),
        "not numbers",
    ),
    "a group as an array": (replaced(KERNEL, lambda f: f.create_group(KERNEL)), "is not an array"),
    "no array at all": (replaced(KERNEL, lambda f: f.__setitem__(KERNEL, h5py.Empty("f4"))), "is not an array"),
    "an array as a group": (replaced("conv1", lambda f: f.__setitem__("conv1", 1.0)), "is not a group"),
    "a loop": (replaced("conv1/conv1", lambda f: f.__setitem__("conv1/conv1", f)), "it has no"),
}


def test_too_few_layers_are_counted():
    with pytest.raises(ValueError, match="InceptionV3: it has 1 convolutions and 0 batch norms, not 94 of each"):
        map_layers({"conv2d": [np.zeros((3, 3, 3, 32), np.float32)]})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name, tmp_path):
    change, message = HOSTILE[name]
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        change(file)
    with pytest.raises(ValueError, match=message) as error:
        load_weights(path)
    assert str(path) in str(error.value)


def test_damaged_files(tmp_path, rng):
    """A file that is truncated anywhere or has changed bytes is read or refused."""
    path = tmp_path / "a.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\nmore")
    with pytest.raises(ValueError, match="it is damaged"):
        load_weights(path)
    with h5py.File(path, "w") as file:
        mobilenet(file)
    whole = path.read_bytes()
    refused = 0
    for i in range(60):
        data = bytearray(whole)
        if i % 2:
            data = data[: rng.integers(9, len(data))]
        else:
            data[rng.integers(8, min(len(data), 4000))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            load_weights(path)
            refused -= 1
        refused += 1
    assert refused >= 30


def test_without_h5py(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        mobilenet(file)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'convlane\[keras\]'"):
        load_weights(path)
