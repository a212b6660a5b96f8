"""The most probable classes, ten crops, ensembles."""

import numpy as np
import pytest
from PIL import Image

import convlane
from convlane import models, nn
from convlane.data import imagenet_categories, preprocessing
from convlane.functional import softmax
from convlane.inference import _preparation
from torchvision_import import import_torchvision


@pytest.fixture(scope="module")
def squeezenet():
    return models.create("squeezenet1_1")


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (3, 260, 300), np.uint8)


def logits_of(*scores):
    """Return a network that gives the same result for every image."""
    return lambda images: np.repeat(np.array([scores], np.float32), len(images), axis=0)


def test_classify_prepares_names_and_sorts(squeezenet, picture, tmp_path):
    best = convlane.classify(squeezenet, picture)
    probabilities = softmax(squeezenet(preprocessing("squeezenet1_1")(picture)[None]), 1)[0]
    order = np.argsort(-probabilities)[:5]
    assert [prediction.class_index for prediction in best] == order.tolist()
    np.testing.assert_array_equal([prediction.probability for prediction in best], probabilities[order])
    assert [prediction.category for prediction in best] == [imagenet_categories()[i] for i in order]
    path = tmp_path / "picture.png"
    Image.fromarray(picture.transpose(1, 2, 0)).save(path)
    for same in (path, str(path), Image.open(path)):
        assert convlane.classify(squeezenet, same) == best


def test_classify_takes_plans_ensembles_and_crops(squeezenet, picture):
    prepare = preprocessing("squeezenet1_1")
    best = convlane.classify(squeezenet, picture)
    plan = convlane.compile(squeezenet, (1, 3, 224, 224))
    for network in (plan, convlane.Ensemble([squeezenet, plan])):
        result = convlane.classify(network, picture, prepare=prepare)
        assert result[0].category == best[0].category
        assert abs(result[0].probability - best[0].probability) < 1e-5
    crops = convlane.TenCrop(squeezenet, 224)
    assert len(convlane.classify(crops, picture, prepare=preprocessing("squeezenet1_1"))) == 5


def test_keras_networks_get_keras_pictures():
    assert _preparation(models.create("mobilenet_v2", keras=True)) == preprocessing("mobilenet_v2", "keras")
    assert _preparation(models.create("mobilenet_v2")) == preprocessing("mobilenet_v2")


def test_user_s_classes(rng):
    network, image = logits_of(1, 3, 2), rng.random((1, 4, 4)).astype(np.float32)
    best = convlane.classify(network, image, top=2, prepare=lambda picture: picture)
    assert [(name, number) for name, _, number in best] == [("class 1", 1), ("class 2", 2)]
    named = convlane.classify(network, image, prepare=lambda picture: picture, categories=["a", "b", "c"])
    assert [prediction.category for prediction in named] == ["b", "c", "a"]
    assert abs(sum(prediction.probability for prediction in named) - 1) < 1e-6


def test_classify_refuses(rng, picture):
    image = rng.random((1, 4, 4)).astype(np.float32)
    with pytest.raises(ValueError, match="3 classes, but there are 2 names"):
        convlane.classify(logits_of(1, 3, 2), image, prepare=lambda picture: picture, categories=["a", "b"])
    with pytest.raises(ValueError, match="pass prepare="):
        convlane.classify(logits_of(1, 3, 2), picture)
    with pytest.raises(ValueError, match="torchvision has no weights for 'lenet5'"):
        convlane.classify(models.create("lenet5"), picture)
    with pytest.raises(ValueError, match=r"in training mode; call its eval\(\)"):
        convlane.classify(models.create("resnet18").train(), picture)
    with pytest.raises(ValueError, match="must return logits"):
        convlane.classify(lambda images: images, picture, prepare=preprocessing("resnet18"))
    with pytest.raises(ValueError, match="top"):
        convlane.classify(logits_of(1, 3, 2), image, prepare=lambda picture: picture, top=0)


def test_ten_crops(rng):
    images = rng.random((2, 3, 7, 10)).astype(np.float32)
    result = convlane.ten_crop(images, (4, 5))
    assert result.shape == (2, 10, 3, 4, 5)
    for i, (y, x) in enumerate(((0, 0), (0, 5), (3, 0), (3, 5), (2, 2))):
        expected = images[:, :, y : y + 4, x : x + 5]
        np.testing.assert_array_equal(result[:, i], expected)
        mirrored = images[..., ::-1][:, :, y : y + 4, x : x + 5]
        np.testing.assert_array_equal(result[:, i + 5], mirrored)
    np.testing.assert_array_equal(convlane.ten_crop(images[0], (4, 5)), result[0])
    np.testing.assert_array_equal(convlane.ten_crop(images, (7, 10))[:, 3], images)
    for size in (8, (4, 11), 0):
        with pytest.raises(ValueError, match="do not fit"):
            convlane.ten_crop(images, size)


@pytest.mark.torch
@pytest.mark.parametrize(("height", "width"), [(256, 256), (257, 261), (300, 231)])
def test_ten_crops_are_those_of_torchvision(rng, height, width):
    import_torchvision()
    import torch
    from torchvision.transforms import functional

    image = rng.random((3, height, width)).astype(np.float32)
    expected = functional.ten_crop(torch.from_numpy(image), [224, 224])
    np.testing.assert_array_equal(convlane.ten_crop(image, 224), np.stack([crop.numpy() for crop in expected]))


def test_crops_are_averaged_as_probabilities(rng):
    model = models.create("lenet5")
    images = rng.random((3, 1, 36, 36)).astype(np.float32)
    crops = convlane.ten_crop(images, 32)
    expected = np.mean([softmax(model(crops[:, i]), 1) for i in range(10)], axis=0)
    np.testing.assert_allclose(convlane.TenCrop(model, 32)(images), expected, rtol=1e-5)


def test_ensembles_average_probabilities(rng):
    networks = [models.create("lenet5") for _ in range(3)]
    images = rng.random((3, 1, 36, 36)).astype(np.float32)
    crop = images[:, :, 2:34, 2:34]
    expected = np.mean([softmax(network(crop), 1) for network in networks], axis=0)
    np.testing.assert_allclose(convlane.Ensemble(networks)(crop), expected, rtol=1e-6)
    crops = [convlane.TenCrop(network, 32) for network in networks]
    expected = np.mean([network(images) for network in crops], axis=0)
    np.testing.assert_allclose(convlane.Ensemble(crops)(images), expected, rtol=1e-6)
    nested = convlane.TenCrop(convlane.Ensemble(networks), 32)(images)
    np.testing.assert_allclose(nested, expected, rtol=1e-5)


def test_ensembles_refuse():
    with pytest.raises(ValueError, match="at least one"):
        convlane.Ensemble([])
    with pytest.raises(TypeError, match=r"models\[1\]"):
        convlane.Ensemble([nn.Identity(), 3])
    with pytest.raises(ValueError, match="different numbers of classes: 2, 3"):
        convlane.Ensemble([logits_of(1, 2), logits_of(1, 2, 3)])(np.zeros((1, 1, 2, 2), np.float32))
    with pytest.raises(ValueError, match="training mode"):
        convlane.Ensemble([models.create("lenet5").train()])(np.zeros((1, 1, 32, 32), np.float32))
