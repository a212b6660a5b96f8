"""Networks that learn a real task: both LeNet-5s on scikit-learn's digits, and the trained one in the package."""

import sys
from functools import partial

import numpy as np
import pytest

import convlane
from convlane import digits, models, nn
from convlane.data import Loader, augment
from convlane.functional import cross_entropy
from convlane.models.lenet import map_criterion
from convlane.training import Adam, evaluate, fit, schedule

GOAL = 0.985


def least(penalties, targets):
    return penalties.argmin(1) == targets


def test_lenet5_reads_digits():
    train, held_out = digits.training_data()
    distort = augment.Compose(augment.Rotation(10), augment.RandomCrop(32, padding=3))
    loader = Loader(train, 32, shuffle=True, augment=distort)
    nn.init.seed(1)
    model = models.create("lenet5")
    fit(model, loader, epochs=20, optimizer=Adam(model, schedule.one_cycle(0.004, 20 * len(loader))), verbose=False)
    assert evaluate(model, held_out)["accuracy"] >= GOAL


def test_lenet5_of_1998_reads_digits():
    train, held_out = (
        (np.float32(-0.1) + np.float32(1.275) * images, classes) for images, classes in digits.training_data()
    )
    distort = augment.Compose(augment.Rotation(8, fill=-0.1), augment.RandomCrop(32, padding=2, fill=-0.1))
    loader = Loader(train, 32, shuffle=True, augment=distort)
    nn.init.seed(1)
    model = models.create("lenet5_1998")
    optimizer = Adam(model, schedule.one_cycle(0.004, 25 * len(loader)))
    options = {"loss": partial(map_criterion, rubbish=10.0), "metrics": {"accuracy": least}}
    fit(model, loader, epochs=25, optimizer=optimizer, verbose=False, **options)
    assert evaluate(model, held_out, **options)["accuracy"] >= GOAL


def test_map_criterion_is_formula_9(rng):
    penalties = rng.uniform(0, 5, (7, 10)).astype(np.float32)
    targets = rng.integers(0, 10, 7)
    exact = penalties.astype(np.float64)
    for rubbish in (0.5, 3.0):
        others = np.log(np.exp(-rubbish) + np.exp(-exact).sum(1))
        expected = (exact[np.arange(7), targets] + others).mean()
        np.testing.assert_allclose(map_criterion(penalties, targets, rubbish), expected, rtol=1e-5)
    np.testing.assert_allclose(map_criterion(penalties, targets, 1e4), cross_entropy(-penalties, targets), rtol=1e-5)


def test_the_embedded_network_reads_digits_it_has_not_seen():
    model = digits.classifier()
    _, held_out = digits.training_data()
    assert not model.training
    assert evaluate(model, held_out)["accuracy"] >= GOAL
    assert evaluate(convlane.compile(model, (None, 1, 32, 32)), held_out)["accuracy"] >= GOAL


def test_a_third_is_held_out():
    (images, classes), (held_out, held_out_classes) = digits.training_data()
    assert (len(classes), len(held_out_classes)) == (1198, 599)
    assert images.shape[1:] == held_out.shape[1:] == (1, 32, 32)
    assert images.dtype == np.float32
    assert classes.dtype == np.int64
    assert images.min() == 0
    assert 0.99 < images.max() <= 1
    seen = {image.tobytes() for image in images}
    assert sum(image.tobytes() in seen for image in held_out) == 0


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="scikit-learn"):
        digits.training_data()


def drawn(image, scale=9):
    """Draw a digit of the data set as a scan would show it: large, dark on light, with a margin."""
    large = np.kron(image[0], np.ones((scale, scale)))
    page = np.pad(large, ((40, 25), (60, 90)))
    return np.uint8(235 - 200 * page)


def test_pictures_are_read_as_the_data_set_is():
    model = digits.classifier()
    _, (images, classes) = digits.training_data()
    right = {"dark": 0, "light": 0}
    for image, number in zip(images[:100], classes[:100], strict=True):
        page = drawn(image)
        for ink, picture in [("dark", page), ("light", 255 - page)]:
            right[ink] += int(model(digits.from_picture(picture)).argmax()) == number
    assert min(right.values()) >= 90
    np.testing.assert_allclose(
        digits.from_picture(page), digits.from_picture((page / 255).astype(np.float32)), atol=1e-5
    )


def test_a_picture_is_cropped_and_averaged():
    page = np.zeros((50, 70), np.uint8)
    page[5:37, 40:56] = 200  # 32 high and 16 wide: the middle four of eight columns
    found = digits.from_picture(page)
    expected = np.zeros((1, 8, 8))
    expected[:, :, 2:6] = 16
    np.testing.assert_allclose(found, digits.from_8x8(expected), atol=1e-6)
    assert found.dtype == np.float32


def test_a_pen_may_be_thin():
    model = digits.classifier()
    for width in range(1, 13):
        page = np.full((40, 40), 255, np.uint8)
        page[5:35, 14 : 14 + width] = 0
        image = digits.from_picture(page)
        assert image.max() > 0.99
        assert model(image).argmax() == 1, width


def test_interpolation_is_linear_between_the_middles():
    ramp = np.tile(np.arange(8.0) * 2, (1, 8, 1))
    found = digits.from_8x8(ramp)[0, 0]
    np.testing.assert_allclose(found[7], np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7) / 8, atol=1e-6)
    np.testing.assert_array_equal(digits.from_8x8(ramp.reshape(1, 64))[0, 0], found)


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (np.zeros((3, 20, 20), np.uint8), ValueError, "shape"),
        (np.zeros((1, 20), np.uint8), ValueError, "shape"),
        (np.zeros((20, 20), np.int64), TypeError, "int64"),
        (np.full((20, 20), 130, np.uint8), ValueError, "blank"),
        (np.full((20, 20), np.nan), ValueError, "NaN"),
    ],
)
def test_what_is_not_a_picture(picture, error, message):
    with pytest.raises(error, match=message):
        digits.from_picture(picture)
    with pytest.raises(ValueError, match="8, 8"):
        digits.from_8x8(np.zeros((8, 8)))
