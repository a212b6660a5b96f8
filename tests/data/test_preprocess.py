"""Pictures prepared as in the networks' training."""

import numpy as np
import pytest
from PIL import Image

from convlane import models, nn
from convlane.data import Preprocessing, imagenet_categories, preprocessing
from convlane.models import registry
from convlane.models.registry import preparations
from torchvision_import import import_torchvision


@pytest.fixture(params=[(300, 400), (401, 260), (256, 256), (100, 90), (224, 1000)], ids=str)
def picture(request, rng):
    """Return smooth noise, uint8 (H, W, 3)."""
    height, width = request.param
    small = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def test_the_crop_is_the_size_that_the_network_is_made_for():
    for source, table in preparations().items():
        for name in table:
            prepare = preprocessing(name, source)
            side = prepare.crop or prepare.resize
            assert name == "efficientnet_b2" or models.input_shape(name) == (3, side, side)  # evaluated at 288


def test_a_user_s_network_brings_its_preparation(monkeypatch):
    monkeypatch.setattr(registry, "_NETWORKS", dict(registry._NETWORKS))

    @models.register(input_shape=(3, 8, 8), preprocessing={"mine": {"crop": 8, "resize": 9}})
    def own(num_classes=2):
        return nn.Identity()

    assert preprocessing("own", "mine") == Preprocessing(8, 9)
    with pytest.raises(ValueError, match="torchvision has no weights for 'own'"):
        preprocessing("own")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("version", "source"),
    [
        ("IMAGENET1K_V1", "torchvision"),
        ("IMAGENET1K_V2", "torchvision_v2"),
        ("IMAGENET1K_SWAG_LINEAR_V1", "torchvision_swag"),
        ("COCO_WITH_VOC_LABELS_V1", "torchvision_voc"),
    ],
)
def test_preparations_are_those_of_torchvision(version, source):
    torchvision = import_torchvision()
    names = set(torchvision.models.list_models()) & set(models.list())
    having = {name for name in names if version in torchvision.models.get_model_weights(name).__members__}
    assert having == preparations()[source].keys()
    for name in having:
        theirs, ours = torchvision.models.get_model_weights(name)[version].transforms(), preprocessing(name, source)
        crop = getattr(theirs, "crop_size", [None])
        assert ([ours.crop], [ours.resize], ours.interpolation, list(ours.mean), list(ours.std)) == (
            *(crop, theirs.resize_size, theirs.interpolation.value, theirs.mean, theirs.std),
        )


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "version", "source"),
    [
        ("resnet50", "IMAGENET1K_V1", "torchvision"),
        ("inception_v3", "IMAGENET1K_V1", "torchvision"),
        ("efficientnet_b0", "IMAGENET1K_V1", "torchvision"),
        ("fcn_resnet50", "COCO_WITH_VOC_LABELS_V1", "torchvision_voc"),
    ],
)
def test_bits_are_those_of_torchvision(picture, name, version, source):
    weights = import_torchvision().models.get_model_weights(name)
    theirs = weights[version].transforms()(Image.fromarray(picture)).numpy()
    ours = preprocessing(name, source)(Image.fromarray(picture))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)


def test_categories_are_imagenets():
    names = imagenet_categories()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


@pytest.mark.torch
def test_categories_are_those_of_torchvision():
    meta = import_torchvision().models.resnet.ResNet18_Weights.IMAGENET1K_V1.meta
    assert list(imagenet_categories()) == meta["categories"]


def test_conventions_of_keras(picture):
    """The formulas are those of keras.applications.imagenet_utils.preprocess_input."""

    def pixels(size):
        resized = Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST)
        return np.asarray(resized, np.float32).transpose(2, 0, 1)

    caffe = pixels(224)[::-1] - np.array([103.939, 116.779, 123.68], np.float32)[:, None, None]
    np.testing.assert_array_equal(preprocessing("vgg16", "keras")(Image.fromarray(picture)), caffe)
    for name, size in (("mobilenet_v2", 224), ("inception_v3", 299)):
        both_signs = pixels(size) / np.float32(127.5) - 1
        np.testing.assert_array_equal(preprocessing(name, "keras")(Image.fromarray(picture)), both_signs)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch = (pixels(224) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(preprocessing("densenet121", "keras")(Image.fromarray(picture)), torch)


def test_every_kind_of_picture_gives_the_same_result(picture, tmp_path):
    prepare = Preprocessing(crop=48, resize=50)
    expected = prepare(Image.fromarray(picture))
    assert expected.shape == (3, 48, 48)
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    for same in (path, str(path), picture.transpose(2, 0, 1), np.asfortranarray(picture.transpose(2, 0, 1))):
        np.testing.assert_array_equal(prepare(same), expected)


@pytest.mark.parametrize("size", [(20000, 1), (1, 19999), (1000, 20), (31, 1001)])
def test_long_pictures_are_cropped_before_they_are_resized(size, monkeypatch):
    """The result is the middle of the resized whole picture, up to a fraction of a pixel."""
    sizes = []
    resize = Image.Image.resize

    def noted(image, size, *args):
        sizes.append(size)
        return resize(image, size, *args)

    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    waves = 127 + 127 * np.sin((x + y) * (np.pi / 6 / min(size)))
    picture = Image.fromarray(waves.astype(np.uint8)).convert("RGB")
    whole = np.asarray(picture.resize([8 * side // min(size) for side in size], Image.Resampling.BILINEAR))
    left, top = (round((side - 8) / 2) for side in whole.shape[1::-1])
    monkeypatch.setattr(Image.Image, "resize", noted)
    prepared = Preprocessing(8, 8, divisor=1, mean=(0, 0, 0), std=(1, 1, 1))(picture)
    np.testing.assert_allclose(prepared, whole[top : top + 8, left : left + 8].transpose(2, 0, 1), atol=5)
    assert max(sizes[0]) <= 8 * 33


def test_grey_and_transparent_pictures_become_colours(rng):
    grey = Image.fromarray(rng.integers(0, 256, (40, 40), np.uint8))
    prepare = Preprocessing(32, 32)
    np.testing.assert_array_equal(prepare(grey), prepare(grey.convert("RGB")))
    np.testing.assert_array_equal(prepare(grey.convert("RGBA")), prepare(grey.convert("RGB")))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: preprocessing("resnet5"), ValueError, "no weights for 'resnet5'; it has them for resnet50"),
        (lambda: preprocessing("alexnet", "keras"), ValueError, "keras has no weights for 'alexnet'"),
        (
            lambda: preprocessing("alexnet", "caffe"),
            ValueError,
            "source must be one of keras, tensorflow, torchvision, ",
        ),
        (lambda: Preprocessing(0), ValueError, "crop must be positive"),
        (lambda: Preprocessing(8, 7), ValueError, "resize not smaller"),
        (lambda: Preprocessing(interpolation="cubic"), ValueError, "interpolation"),
        (lambda: Preprocessing()(np.zeros((3, 4, 4), np.float32)), ValueError, r"uint8 \(3, H, W\), got float32"),
        (lambda: Preprocessing()(np.zeros((4, 4, 3), np.uint8)), ValueError, r"transpose\(2, 0, 1\)"),
        (lambda: Preprocessing()(3), TypeError, "got int"),
        (lambda: Preprocessing()("missing.png"), FileNotFoundError, "missing.png"),
        (lambda: Preprocessing()(__file__), ValueError, "not a readable picture"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
