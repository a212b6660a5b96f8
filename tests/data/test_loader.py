"""Loaders: the contents of batches, whichever thread makes them, and what happens when something goes wrong."""

import gc
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from convlane import nn
from convlane.data import ImageFolder, Loader, augment
from convlane.training import SGD, fit

STEPS = augment.Compose(augment.RandomCrop(8, 2), augment.Mirror(), augment.Rotation(20), augment.Elastic(5, 2))


def arrays(count=23, dtype=np.float32):
    rng = np.random.default_rng(7)
    if dtype == np.uint8:
        return rng.integers(0, 256, (count, 3, 8, 8), dtype), np.arange(count)
    return rng.random((count, 3, 8, 8)).astype(dtype), np.arange(count)


def threads_of_loaders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("convlane.data")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    gc.collect()
    assert not threads_of_loaders()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(3)
    for name in ("cat", "dog", "eel"):
        (tmp_path / name).mkdir()
        for i, place in enumerate(("b.png", "a.png", "c.png")):
            Image.fromarray(rng.integers(0, 256, (9 + i, 10, 3), np.uint8)).save(tmp_path / name / place)
    return tmp_path


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_batches_hold_the_data_in_order(dtype):
    images, classes = arrays(dtype=dtype)
    batches = list(Loader((images, classes), 5))
    assert [len(batch) for batch, _ in batches] == [5, 5, 5, 5, 3]
    assert all(batch.dtype == np.float32 and targets.dtype == np.int64 for batch, targets in batches)
    scale = 255 if dtype == np.uint8 else 1
    np.testing.assert_allclose(np.concatenate([batch for batch, _ in batches]), images / scale, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([targets for _, targets in batches]), classes)


def test_length_and_the_last_batch():
    data = arrays(23)
    for size, drop_last, expected in ((5, False, 5), (5, True, 4), (23, True, 1), (24, False, 1), (24, True, 0)):
        loader = Loader(data, size, drop_last=drop_last)
        assert len(loader) == expected == len(list(loader))
    assert list(Loader(arrays(0))) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_are_slices_of_the_whole_batches(workers):
    def thirds(count):
        return [slice(0, count // 3), slice(2 * count // 3, count), slice(count, count)]

    whole, parts = (Loader(arrays(), 10, shuffle=True, augment=STEPS, workers=workers) for _ in range(2))
    for epoch in (1, 2):
        for (images, targets), found in zip(whole, parts.parts(thirds), strict=True):
            for part, (some, classes) in zip(thirds(len(images)), found, strict=True):
                np.testing.assert_array_equal(classes, targets[part])
                if len(some):
                    np.testing.assert_array_equal(some, images[part])
        assert parts.epoch == epoch


def test_no_augmentation_gives_the_bits_of_an_empty_augmentation():
    for dtype in (np.float32, np.uint8):
        plain, empty = (Loader(arrays(dtype=dtype), 6, augment=step) for step in (None, augment.Compose()))
        for (a, _), (b, _) in zip(plain, empty, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_epoch_is_a_permutation_and_the_next_another():
    loader = Loader(arrays(), 5, shuffle=True, seed=3)
    epochs = [np.concatenate([targets for _, targets in loader]) for _ in range(3)]
    assert loader.epoch == 3
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(23))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()
    other = np.concatenate([targets for _, targets in Loader(arrays(), 5, shuffle=True, seed=4)])
    assert (other != epochs[0]).any()


def gathered(loader):
    images, targets = zip(*loader, strict=True)
    return np.concatenate(images), np.concatenate(targets)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_threads_change_no_bit(workers):
    make = {"batch_size": 4, "shuffle": True, "seed": 11, "augment": STEPS}
    alone, aside = Loader(arrays(), **make), Loader(arrays(), workers=workers, **make)
    for _ in range(3):
        for expected, result in zip(gathered(alone), gathered(aside), strict=True):
            np.testing.assert_array_equal(result, expected)


def test_an_epoch_can_be_repeated_and_skipped_to():
    make = {"batch_size": 4, "shuffle": True, "augment": STEPS}
    loader = Loader(arrays(), **make)
    epochs = [gathered(loader) for _ in range(3)]
    resumed = Loader(arrays(), workers=2, **make)
    resumed.epoch = 2
    for expected, result in zip(epochs[2], gathered(resumed), strict=True):
        np.testing.assert_array_equal(result, expected)
    assert (epochs[0][0] != epochs[1][0]).any()


def test_distortions_belong_to_the_picture_not_to_its_position():
    def by_class(loader):
        images, targets = gathered(loader)
        return images[np.argsort(targets)]

    plain, shuffled = Loader(arrays(), 4, augment=STEPS), Loader(arrays(), 7, shuffle=True, augment=STEPS)
    np.testing.assert_array_equal(by_class(plain), by_class(shuffled))


def test_two_pictures_are_distorted_differently():
    images = np.repeat(arrays(1)[0], 8, axis=0)
    batch, _ = next(iter(Loader((images, np.arange(8)), 8, augment=augment.ColorShift(0.2))))
    assert len({image.tobytes() for image in batch}) == 8


def test_targets_may_be_numbers_or_vectors():
    images, _ = arrays(6)
    _, targets = next(iter(Loader((images, np.zeros((6, 2))), 3, augment=augment.Compose())))
    assert (targets.dtype, targets.shape) == (np.float32, (3, 2))
    _, targets = next(iter(Loader((images, np.arange(6) > 2), 6)))
    assert targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_any_sequence_of_pairs_is_data():
    images, classes = arrays(6)
    pairs = list(zip(images, classes, strict=True))
    for expected, result in zip(gathered(Loader((images, classes), 4)), gathered(Loader(pairs, 4)), strict=True):
        np.testing.assert_array_equal(result, expected)


def test_reading_in_threads_changes_no_bit(folder):
    make = {"batch_size": 2, "shuffle": True, "augment": augment.RandomResizedCrop(6)}
    alone, aside = Loader(ImageFolder(folder), **make), Loader(ImageFolder(folder), workers=3, **make)
    for expected, result in zip(gathered(alone), gathered(aside), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("data", [[5, 6, 7], [arrays()[0], arrays()[1]]], ids=["labels", "two arrays"])
def test_data_that_are_not_pairs_are_refused(data):
    with pytest.raises(ValueError, match=r"image 0: the data must return a pair \(image, target\) .*got (int|ndarray)"):
        next(iter(Loader(data)))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_cannot_be_read_is_named(folder, workers):
    bad = folder / "dog" / "b.png"
    bad.write_bytes(bad.read_bytes()[:60])
    loader = Loader(ImageFolder(folder), 2, augment=augment.RandomResizedCrop(6), workers=workers)
    batches = iter(loader)
    next(batches), next(batches)  # the batches before it are returned
    with pytest.raises(ValueError, match=r"dog.b\.png: .*not a readable picture"):
        next(batches)
    assert not threads_of_loaders()
    assert next(iter(loader))[0].shape == (2, 3, 6, 6)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_augmentation_names_the_picture(workers):
    def fails(image, rng):
        if image[0, 0, 0] == images[5, 0, 0, 0]:
            raise KeyError("lost")
        return image

    images, classes = arrays()
    with pytest.raises(ValueError, match=r"image 5: 'lost'") as caught:
        list(Loader((images, classes), 4, augment=fails, workers=workers))
    assert isinstance(caught.value.__cause__, KeyError)


def test_pictures_of_two_sizes_cannot_be_a_batch(folder):
    with pytest.raises(ValueError, match=r"cat.b\.png: it has the shape \(3, 9, 10\), but the first .*\(3, 10, 10\)"):
        next(iter(Loader(ImageFolder(folder), 2)))


def test_closing_early_leaves_no_thread():
    made = []

    def slow(image, rng):
        made.append(0)
        time.sleep(0.01)
        return image

    loader = Loader(arrays(400), 4, augment=slow, workers=3)
    for _ in range(2):
        for i, _ in enumerate(loader):
            if i == 2:
                assert threads_of_loaders()
                break
        gc.collect()
        assert not threads_of_loaders()
    batches = iter(loader)
    next(batches)
    made.clear()
    batches.close()
    assert not threads_of_loaders()
    assert len(made) < 100  # it has not waited for the rest of nearly 400


def test_an_epoch_that_nobody_begins_starts_no_thread():
    loader = Loader(arrays(), 4, workers=2)
    iter(loader)
    assert not threads_of_loaders()
    assert loader.epoch == 0


def test_not_all_batches_are_made_at_once():
    made = []

    def counted(image, rng):
        made.append(0)
        return image

    batches = iter(Loader(arrays(200), 2, augment=counted, workers=2))
    next(batches)
    deadline = time.monotonic() + 60
    while len(made) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 2 * 4  # two workers and two more; the next request replaces the batch that was taken
    batches.close()


def test_batches_are_made_while_the_caller_does_something_else():
    started = threading.Event()

    def noted(image, rng):
        if image[0, 0, 0] == images[2, 0, 0, 0]:
            started.set()
        return image

    images, classes = arrays(6)
    batches = iter(Loader((images, classes), 1, augment=noted, workers=1))
    next(batches)
    assert started.wait(5)  # the third picture, without another request
    batches.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_children_go_on():
    loader = Loader(arrays(), 4, shuffle=True, augment=STEPS, workers=2)
    expected = gathered(loader)
    loader.epoch = 0
    batches = iter(loader)
    first = next(batches)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # a fork in the middle of an epoch, and a whole epoch in the child
        try:
            rest = gathered([first, *batches])
            loader.epoch = 0
            again = gathered(loader)
            same = all((a == b).all() and (a == c).all() for a, b, c in zip(expected, rest, again, strict=True))
            os.write(writer, b"same" if same else b"other")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"same"
    os.waitpid(child, 0)
    for a, b in zip(gathered([first, *batches]), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_from_a_loader_has_the_same_bits_and_continues_where_it_stopped(tmp_path):
    def trained(workers, epochs, **options):
        nn.init.seed(5)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(4, 23))
        loader = Loader(arrays(), 4, shuffle=True, augment=STEPS, workers=workers)
        fit(model, loader, epochs=epochs, optimizer=SGD(model, 0.1), verbose=False, **options)
        return model.state_dict()

    expected = trained(0, 4)
    path = tmp_path / "run.safetensors"
    trained(2, 2, checkpoint=path)
    for state in (trained(3, 4), trained(2, 4, checkpoint=path, resume=True)):
        for key, array in state.items():
            np.testing.assert_array_equal(array, expected[key])


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (np.zeros((2, 1, 4, 4), np.float32), {}, TypeError, "a tuple of two arrays"),
        (3, {}, TypeError, "a tuple of two arrays"),
        ((1, 2, 3), {}, TypeError, "a tuple of two arrays"),
        ((np.zeros((2, 4, 4), np.float32), np.zeros(2, int)), {}, ValueError, r"images\[:, None\]"),
        ((np.zeros((2, 1, 4, 4)), np.zeros(2, int)), {}, TypeError, "float32 or uint8, got float64"),
        ((np.zeros((2, 1, 4, 4), np.float32), np.zeros(3, int)), {}, ValueError, "2 images, but targets"),
        ((np.zeros((2, 1, 4, 4), np.float32), np.array(["a", "b"])), {}, TypeError, "targets must be"),
        (arrays(), {"batch_size": 0}, ValueError, "batch_size"),
        (arrays(), {"batch_size": 1.5}, TypeError, "batch_size"),
        (arrays(), {"workers": -1}, ValueError, "workers"),
        (arrays(), {"seed": -1}, ValueError, "seed"),
        (arrays(), {"augment": 3}, TypeError, "augment"),
    ],
)
def test_bad_arguments(data, options, error, message):
    with pytest.raises(error, match=message):
        Loader(data, **options)
