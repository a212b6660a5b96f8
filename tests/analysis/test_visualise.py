"""Feature maps, filters, pictures that maximise a channel's output, and how they are drawn."""

import io
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from convlane import analysis, digits, functional, models, nn
from convlane.analysis import draw, pixels
from networks import with_statistics


@pytest.fixture(autouse=True)
def _same_weights(monkeypatch):
    monkeypatch.setattr(nn.init, "_seeds", np.random.SeedSequence(0))


def test_feature_maps_are_what_the_layers_return(rng):
    model = with_statistics(models.create("resnet20"), rng, 32)
    images = rng.standard_normal((2, 3, 32, 32), np.float32)
    stem = model.relu(model.bn1(model.conv1(images)))
    for layer, expected in {
        "relu": stem,
        "layer1": model.layer1(stem),
        "layer1.0.bn1": model.layer1[0].bn1(model.layer1[0].conv1(stem)),
        "layer1.0.add": model.layer1[0](stem),
        "fc": model(images),
    }.items():
        maps = analysis.feature_maps(model, images, layer)
        np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(analysis.feature_maps(model, images[0], layer), maps[0])


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "mobilenet_v3_small", "densenet121"])
def test_all_operations_run_again_as_they_were_traced(name, rng):
    model = models.create(name, 5)
    x = rng.standard_normal((1, 3, 96, 96), np.float32)
    last = analysis.summary(model, x.shape).rows[-1].name
    expected = model(x)
    np.testing.assert_allclose(
        analysis.feature_maps(model, x, last), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_feature_maps_of_a_function_and_of_a_network_in_training(rng):
    x = rng.standard_normal((1, 2, 5, 5), np.float32)
    maps = analysis.feature_maps(lambda x: functional.add(functional.relu(x), x), x, "relu")
    np.testing.assert_array_equal(maps, np.maximum(x, 0))
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())
    np.testing.assert_allclose(analysis.feature_maps(model, x, "1"), x, rtol=1e-4)
    assert model[0].num_batches_tracked == 0


def test_unknown_layers_name_the_nearest():
    model, x = models.create("resnet20"), np.zeros((3, 32, 32), np.float32)
    with pytest.raises(
        ValueError, match=r"feature_maps: there is no layer 'layer1.0.con1'; did you mean layer1.0.conv1"
    ):
        analysis.feature_maps(model, x, "layer1.0.con1")
    with pytest.raises(ValueError, match="maximise: there is no layer 'zzz'; did you mean conv1"):
        analysis.maximise(model, "zzz", 0)
    with pytest.raises(ValueError, match=r"there is no convolution 'layer1.0.bn1'; did you mean layer1"):
        analysis.filters(model, "layer1.0.bn1")
    with pytest.raises(ValueError, match="Linear has no convolution"):
        analysis.filters(nn.Linear(2, 2))


def test_filters():
    model = models.create("resnet20")
    assert analysis.filters(model) is model.conv1.weight
    assert analysis.filters(model, "layer2.0.conv2") is model.layer2[0].conv2.weight


def test_maximising_finds_the_filter_itself():
    # Of all pictures of one norm, a filter has the largest response to itself.
    layer = nn.Conv2d(3, 2, 5)
    picture = analysis.maximise(layer, "Conv2d", 1, (1, 3, 5, 5), smoothing=0, jitter=0)
    cosine = (picture * layer.weight[1]).sum() / np.linalg.norm(picture) / np.linalg.norm(layer.weight[1])
    assert cosine > 0.99


@pytest.mark.parametrize(("layer", "channel"), [("layer1.1.conv2", 3), ("layer2.0.add", 0), ("fc", 7)])
def test_maximising_a_channel_of_a_network(layer, channel, rng):
    model = with_statistics(models.create("resnet20"), rng, 32)

    def answer(picture):
        return analysis.feature_maps(model, picture, layer)[channel].mean()

    before = analysis.maximise(model, layer, channel, steps=0)
    picture = analysis.maximise(model, layer, channel, steps=40, step_size=0.03, jitter=1)
    others = [analysis.maximise(model, layer, channel, steps=0, seed=seed) for seed in range(20)]
    assert picture.shape == (3, 32, 32)
    assert answer(picture) > answer(before)
    assert answer(picture) > max(map(answer, others))


def test_a_network_takes_what_it_looks_for_for_a_digit():
    model = digits.classifier()
    for digit in range(10):
        picture = analysis.maximise(model, "classifier.4", digit, steps=40)
        assert model(picture[None]).argmax() == digit


def test_maximising_again_gives_the_same_picture():
    model = models.create("lenet5")
    first = analysis.maximise(model, "features.3", 2, steps=5, seed=3)
    np.testing.assert_array_equal(analysis.maximise(model, "features.3", 2, steps=5, seed=3), first)
    assert (analysis.maximise(model, "features.3", 2, steps=5, seed=4) != first).any()


def test_regularised_pictures_are_fainter_and_smoother(rng):
    model = with_statistics(models.create("resnet20"), rng, 32)

    def roughness(**options):
        picture = analysis.maximise(model, "layer2", 1, steps=20, jitter=0, **options)
        return np.abs(np.diff(picture)).mean() / np.abs(picture).mean(), np.abs(picture).mean()

    rough, strong = roughness(decay=0, smoothing=0)
    assert roughness(decay=0.1, smoothing=0)[1] < strong
    assert roughness(decay=0, smoothing=0.3)[0] < rough


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel": 6}, "not one of the channels"),
        ({"channel": -1}, "not one of the channels"),
        ({"input_shape": (2, 1, 32, 32)}, "input_shape must be"),
        ({"decay": 1.5}, "decay must be between 0 and 1"),
        ({"smoothing": -0.1}, "smoothing must be"),
        ({"step_size": np.nan}, "step_size must be"),
        ({"steps": -1}, "steps"),
        ({"jitter": -1}, "jitter"),
    ],
)
def test_bad_arguments_of_maximise(arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.maximise(models.create("lenet5"), **{"layer": "features.0", "channel": 0, **arguments})
    with pytest.raises(TypeError, match="channel"):
        analysis.maximise(models.create("lenet5"), "features.0", 0.5)


def test_pixels_and_png():
    assert pixels.pixels(np.array([[-1.0, 0.0], [1.0, np.nan]])).tolist() == [[0, 128], [255, 0]]
    assert pixels.pixels(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]
    assert pixels.pixels(np.full((1, 1), np.inf)).tolist() == [[0]]
    picture = np.random.default_rng(0).random((3, 5, 7))
    assert pixels.colours(picture).shape == (5, 7, 3)
    assert pixels.colours(picture[:2]).shape == (5, 7)
    for image in (pixels.colours(picture), pixels.colours(picture[:1])):
        with Image.open(io.BytesIO(pixels.png(image))) as file:
            np.testing.assert_array_equal(np.asarray(file), image)


def test_drawings(rng, tmp_path):
    maps, weight = rng.standard_normal((10, 4, 5)), rng.standard_normal((6, 3, 3, 3))
    for figure, images in (
        (draw.maps(maps), 10),
        (draw.maps(maps, limit=3), 3),
        (draw.filters(weight), 6),
        (draw.filters(weight[:, :2], limit=5), 5),
        (draw.picture(maps[:3]), 1),
    ):
        assert sum(len(axes.images) for axes in figure.axes) == images
        figure.savefig(tmp_path / "drawing.png")
        with Image.open(tmp_path / "drawing.png") as file:
            assert len(set(zlib.compress(file.tobytes()))) > 1
    figure = draw.coverage(analysis.coverage(7, 7, 3))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), analysis.coverage(7, 7, 3).map)
    assert [bar.get_height() for bar in figure.axes[1].patches] == list(analysis.coverage(7, 7, 3).histogram.values())
    for drawing, array in ((draw.maps, maps[0]), (draw.filters, maps), (draw.picture, weight), (draw.maps, maps[:0])):
        with pytest.raises(ValueError, match="dimensions"):
            drawing(array)


def test_drawing_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # importing it fails now
    with pytest.raises(ImportError, match=r"pip install 'convlane\[plot\]'"):
        draw.coverage(analysis.coverage(7, 7, 3))
