"""Every augmentation: what it may do to a picture and how much, and that only the generator decides."""

import dataclasses
import math

import numpy as np
import pytest

from compare import assert_close
from convlane.data import augment
from oracles import resample as oracle

STEPS = {
    "mirror": augment.Mirror(),
    "crop": augment.RandomCrop((9, 11), padding=2, border="reflect"),
    "resized crop": augment.RandomResizedCrop((8, 6)),
    "rotation": augment.Rotation(30),
    "shear": augment.Shear(20),
    "elastic": augment.Elastic(8, 2),
    "shift": augment.ColorShift(0.2),
    "jitter": augment.ColorJitter(0.3, 0.3, 0.3),
    "pca": augment.PCAColor((0.3, 0.02, 0.01), ((1, 0, 0), (0, 0.6, 0.8), (0, -0.8, 0.6))),
    "normalize": augment.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    "all": augment.Compose(augment.RandomCrop(9, 1), augment.Mirror(), augment.Elastic(), augment.ColorShift()),
}


@pytest.fixture
def image(rng):
    return rng.random((3, 12, 13)).astype(np.float32)


def seeded(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_only_the_generator_decides(step, image):
    before = image.copy()
    first, again = step(image, seeded(3)), step(image, seeded(3))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert first.ndim == 3
    np.testing.assert_array_equal(image, before)
    if not isinstance(step, augment.Normalize):
        assert any((step(image, seeded(seed)) != first).any() for seed in range(8))


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_bytes_are_accepted(step):
    image = np.random.default_rng(1).integers(0, 256, (3, 12, 13), np.uint8)
    as_floats = image / np.float32(255)
    np.testing.assert_array_equal(step(image, seeded()), step(as_floats, seeded()))


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_steps_are_frozen_and_equal_by_value(step):
    assert step == dataclasses.replace(step) if not isinstance(step, augment.Compose) else augment.Compose(*step.steps)
    hash(step)
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.fill = 3


@pytest.mark.parametrize(
    "step",
    [
        augment.Mirror(0),
        augment.RandomCrop((12, 13)),
        augment.RandomResizedCrop((12, 13), (1, 1), (13 / 12, 13 / 12)),
        augment.Rotation(0),
        augment.Shear(0),
        augment.Elastic(0),
        augment.ColorShift(0),
        augment.PCAColor((1, 1, 1), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), std=0),
        augment.Normalize((0, 0, 0), (1, 1, 1)),
        augment.Compose(),
    ],
    ids=lambda step: type(step).__name__,
)
def test_nothing_to_do_keeps_every_bit(step, image):
    np.testing.assert_array_equal(step(image, seeded()), image)


def test_jitter_by_nothing_keeps_the_picture(image):
    np.testing.assert_allclose(augment.ColorJitter()(image, seeded()), image, rtol=0, atol=2e-7)


def test_mirror(image):
    np.testing.assert_array_equal(augment.Mirror(1)(image, seeded()), image[:, :, ::-1])
    np.testing.assert_array_equal(augment.Mirror(1, vertical=True)(image, seeded()), image[:, ::-1])
    rng = seeded()
    mirrored = sum((augment.Mirror(0.25)(image, rng) != image).any() for _ in range(400))
    assert abs(mirrored - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize(("border", "mode"), [("constant", "constant"), ("edge", "edge"), ("reflect", "reflect")])
def test_crops_are_parts_of_the_padded_picture(image, border, mode):
    fill = {"constant_values": 0.5} if mode == "constant" else {}
    padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode, **fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (10, 9), (1, 2))
    step, found = augment.RandomCrop((10, 9), 3, border, 0.5), set()
    rng = seeded()
    for _ in range(600):
        crop = step(image, rng)
        matches = np.argwhere((windows == crop[:, None, None]).all(axis=(0, 3, 4)))
        assert len(matches) == 1
        found.add(tuple(matches[0]))
    assert len(found) == 9 * 11  # every position occurs


def test_resized_crops_are_resampled_parts(image):
    step = augment.RandomResizedCrop((5, 4), scale=(0.2, 0.7), ratio=(0.5, 2))
    for seed in range(20):
        top, left, rows, columns = step._part(12, 13, seeded(seed))
        assert 0 <= top <= 12 - rows
        assert 0 <= left <= 13 - columns
        samples = max(1, math.ceil(max(rows / 5, columns / 4)))
        matrix = [[columns / 4, 0, 0], [0, rows / 5, 0]]
        part = image[:, top : top + rows, left : left + columns]
        expected = oracle.resample(part, matrix, (5, 4), border="edge", samples=samples)
        assert_close(step(image, seeded(seed)), expected, terms=4 * samples**2)


def test_parts_have_the_area_and_ratio_asked_for():
    step = augment.RandomResizedCrop(8, scale=(0.1, 0.5), ratio=(0.5, 2))
    rng = seeded()
    parts = np.array([step._part(300, 300, rng) for _ in range(2000)], np.float64)
    shares, ratios = parts[:, 2] * parts[:, 3] / 300**2, parts[:, 3] / parts[:, 2]
    assert 0.098 < shares.min() < 0.105
    assert 0.495 < shares.max() < 0.51
    assert abs(shares.mean() - 0.3) < 0.01
    assert 0.49 < ratios.min() < 0.52
    assert 1.92 < ratios.max() < 2.04
    assert abs(np.log(ratios).mean()) < 0.04


def test_a_part_of_no_permitted_ratio_is_the_middle():
    step = augment.RandomResizedCrop(8, scale=(1, 1))
    assert step._part(10, 100, seeded()) == (0, 43, 10, 13)
    assert step._part(100, 10, seeded()) == (43, 0, 13, 10)


def test_a_rotation_turns_by_its_angle():
    y, x = np.mgrid[-20:21, -20:21]
    blob = np.exp(-((x - 4) ** 2 + (y + 2) ** 2) / 160)[None].astype(np.float32)
    angle = math.radians(seeded(5).uniform(-30, 30))
    turned = augment.Rotation(30)(blob, seeded(5))
    cos, sin = math.cos(angle), math.sin(angle)
    expected = np.exp(-((cos * x - sin * y - 4) ** 2 + (sin * x + cos * y + 2) ** 2) / 160)
    middle = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(turned[0][middle], expected[middle], atol=0.004)  # bilinear: 1/8 of the curvature


def test_a_shear_moves_rows_and_columns_by_their_angles():
    y, x = np.mgrid[-10:11, -10:11].astype(np.float32)
    rng = seeded(2)
    across, down = (math.tan(math.radians(rng.uniform(-20, 20))) for _ in range(2))
    step = augment.Shear(20, border="edge")
    moved = step(np.stack([x, y]), seeded(2))
    middle = np.s_[5:-5, 5:-5]
    np.testing.assert_allclose(moved[0][middle], (x + across * y)[middle], atol=1e-4)
    np.testing.assert_allclose(moved[1][middle], (down * x + y)[middle], atol=1e-4)


def test_elastic_fields_are_smoothed_noise():
    step = augment.Elastic(alpha=34, sigma=2)
    field = step.field(30, 24, seeded(1))
    noise = 2 * seeded(1).random((2, 30, 24), np.float32) - 1
    reach = 8
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 2) ** 2)
    weights /= weights.sum()
    expected = np.zeros(noise.shape)
    padded = np.pad(noise, ((0, 0), (reach, reach), (reach, reach)))
    for i, a in enumerate(weights):
        for j, b in enumerate(weights):
            expected += 34 * a * b * padded[:, i : i + 30, j : j + 24]
    np.testing.assert_allclose(field, expected, atol=1e-4)


def test_elastic_fields_have_the_documented_deviation():
    field = augment.Elastic(alpha=34, sigma=4).field(400, 400, seeded())[:, 30:-30, 30:-30]
    assert abs(field.std() / (0.16 * 34 / 4) - 1) < 0.1


def test_color_shifts_are_one_number_per_channel(image):
    shifts = augment.ColorShift(0.2)(image, seeded(4)) - image
    np.testing.assert_allclose(shifts, shifts[:, :1, :1] + 0 * shifts, atol=2e-7)
    np.testing.assert_allclose(shifts[:, 0, 0], seeded(4).uniform(-0.2, 0.2, 3), atol=2e-7)


def test_jitter_of_each_kind(image):
    factor = seeded(6).uniform(0.5, 1.5)
    grey = (image * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(axis=0)
    brighter = augment.ColorJitter(brightness=0.5)(image, seeded(6))
    np.testing.assert_allclose(brighter, image * factor, atol=1e-6)
    harder = augment.ColorJitter(contrast=0.5)(image, _second(6))
    np.testing.assert_allclose(harder, grey.mean() + factor * (image - grey.mean()), atol=1e-6)
    fuller = augment.ColorJitter(saturation=0.5)(image, _third(6))
    np.testing.assert_allclose(fuller, grey + factor * (image - grey), atol=1e-6)


class _Later:
    """A generator whose first draws are replaced by the middle of their range."""

    def __init__(self, seed, skipped):
        self.rng, self.skipped = seeded(seed), skipped

    def uniform(self, low, high):
        if self.skipped:
            self.skipped -= 1
            return (low + high) / 2
        return self.rng.uniform(low, high)


def _second(seed):
    return _Later(seed, 1)


def _third(seed):
    return _Later(seed, 2)


def test_pca_finds_the_covariance(rng):
    mixing = np.array([[0.3, 0, 0], [0.1, 0.2, 0], [0.05, -0.1, 0.1]])
    images = (0.5 + np.einsum("ij,njhw->nihw", mixing, rng.standard_normal((6, 3, 20, 20)))).astype(np.float32)
    step = augment.PCAColor.fit(images)
    covariance = np.cov(images.transpose(1, 0, 2, 3).reshape(3, -1), bias=True)
    vectors = np.array(step.eigenvectors)
    np.testing.assert_allclose(vectors.T @ np.diag(step.eigenvalues) @ vectors, covariance, atol=1e-6)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-12)
    assert list(step.eigenvalues) == sorted(step.eigenvalues, reverse=True)
    assert step == augment.PCAColor.fit(iter(images))
    assert step == augment.PCAColor.fit([images[0], images[1], *images[2:]])


def test_pca_noise_has_the_mean_and_covariance_of_the_paper():
    step = augment.PCAColor((0.3, 0.2, 0.1), ((1, 0, 0), (0, 0.6, 0.8), (0, -0.8, 0.6)), std=0.1)
    image, rng = np.full((3, 2, 2), 0.5, np.float32), seeded()
    shifts = np.array([step(image, rng) - image for _ in range(4000)])
    assert (shifts == shifts[:, :, :1, :1]).all()
    shifts = shifts[:, :, 0, 0]
    vectors, scales = np.array(step.eigenvectors), 0.1 * np.array(step.eigenvalues)
    expected = vectors.T @ np.diag(scales**2) @ vectors
    assert np.abs(shifts.mean(axis=0)).max() < 4 * 0.03 / math.sqrt(4000)
    np.testing.assert_allclose(np.cov(shifts.T), expected, atol=5 * 0.03**2 / math.sqrt(4000))


def test_normalize(image):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    expected = (image - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    assert_close(augment.Normalize(mean, std)(image, seeded()), expected)


def test_compose_passes_one_generator_on(image):
    steps = augment.Mirror(), augment.Rotation(10), augment.ColorShift()
    rng = seeded(9)
    expected = image
    for step in steps:
        expected = step(expected, rng)
    np.testing.assert_array_equal(augment.Compose(*steps)(image, seeded(9)), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.Mirror(1.5), "Mirror: probability"),
        (lambda: augment.RandomCrop(0), "RandomCrop: size"),
        (lambda: augment.RandomCrop(4, padding=-1), "RandomCrop: padding"),
        (lambda: augment.RandomCrop(4, border="wrap"), "RandomCrop: border"),
        (lambda: augment.RandomResizedCrop(4, scale=(0.5, 0.1)), "RandomResizedCrop: scale"),
        (lambda: augment.RandomResizedCrop(4, ratio=(0, 1)), "RandomResizedCrop: ratio"),
        (lambda: augment.Rotation(-1), "Rotation: degrees"),
        (lambda: augment.Rotation(math.nan), "Rotation: degrees"),
        (lambda: augment.Shear(45), "Shear: degrees"),
        (lambda: augment.Elastic(sigma=0), "Elastic: sigma"),
        (lambda: augment.Elastic(alpha=math.inf), "Elastic: alpha"),
        (lambda: augment.ColorJitter(contrast=2), "ColorJitter: contrast"),
        (lambda: augment.PCAColor((1, 2), ((1, 0),)), "PCAColor: there must be"),
        (lambda: augment.PCAColor.fit([]), "there are no images"),
        (lambda: augment.Normalize((1,), (0,)), "Normalize: mean and std"),
        (lambda: augment.RandomCrop(9)(np.zeros((1, 8, 8), np.float32), seeded()), "does not fit"),
        (lambda: augment.Normalize((1,), (1,))(np.zeros((3, 8, 8), np.float32), seeded()), "made for 1 channels"),
        (lambda: augment.Mirror()(np.zeros((8, 8), np.float32), seeded()), "Mirror: the image must be"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_step_must_be_a_function():
    with pytest.raises(TypeError, match="step 1 must be a function"):
        augment.Compose(augment.Mirror(), 3)
