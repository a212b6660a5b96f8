"""Batches of pictures and classes, prepared by threads while the network trains.

The contents of a batch depend only on the seed and the number of the epoch. Each thread makes whole batches, which are
returned in order, so that any number of threads, including none, gives the same bits.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane.data.augment import Step
from convlane.data.geometry import as_picture
from convlane.functional._arguments import Array, as_int, as_positive
from convlane.runtime import num_threads

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Loader"]

Batch: TypeAlias = tuple[Array, NDArray[Any]]

_WAITING = 2  # finished batches that wait for the network, besides those in preparation


class Samples(Protocol):
    """Pictures with their targets, by index. Errors use the method `name(index)` if there is one."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        """Return a picture (C, H, W), float32 or uint8, and its target."""


class Loader:
    """Batches ``(images, targets)`` of a data set: float32 (N, C, H, W), and int64 (N,) for classes.

    Each iteration over the loader is one epoch: it goes through all data once, in a new order (with `shuffle`) and with
    new augmentations. `epoch` is the number of the next epoch; set it to repeat an epoch or to resume training.

    Parameters
    ----------
    data
        A tuple ``(images, targets)`` of arrays, (N, C, H, W) and (N, ...), or features (N, C), which are not
        augmented; or anything with a length that returns ``(image, target)`` for an index, such as an `ImageFolder`.
        uint8 images are divided by 255.
    batch_size
        N. The last batch of an epoch may be smaller, unless `drop_last` is true.
    shuffle
        Whether every epoch has its own random order.
    seed
        Determines all random numbers, together with the epoch.
    drop_last
        Whether to leave out a last batch that is smaller than the others.
    augment
        A function that is called with every image and a generator for it, see `convlane.data.augment`. It must return
        images of one size.
    workers
        The number of threads that prepare batches in advance, up to two batches more than there are threads; with 0,
        each batch is made when it is needed. One thread is enough if preparing a batch takes less time than training on
        it. Threads read and resample pictures in parallel.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range. During iteration, an image that cannot be read or has
        another shape raises a ValueError that names it when its batch is due.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.data import Loader, augment
    >>> images, classes = np.zeros((10, 1, 8, 8), np.float32), np.arange(10)
    >>> loader = Loader((images, classes), batch_size=4, augment=augment.Rotation(10), workers=1)
    >>> for batch, targets in loader:
    ...     print(batch.shape, targets)
    (4, 1, 8, 8) [0 1 2 3]
    (4, 1, 8, 8) [4 5 6 7]
    (2, 1, 8, 8) [8 9]
    """

    def __init__(
        self,
        data: tuple[Any, Any] | Samples,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        augment: Step | None = None,
        workers: int = 0,
    ) -> None:
        self.data = _samples(data)
        self.batch_size = as_positive(batch_size, "Loader", "batch_size")
        self.shuffle, self.drop_last, self.augment = bool(shuffle), bool(drop_last), augment
        self.seed, self.workers = as_int(seed, "Loader", "seed"), as_int(workers, "Loader", "workers")
        for name in ("seed", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"Loader: {name} must not be negative, got {getattr(self, name)}")
        if augment is not None and not callable(augment):
            raise TypeError(f"Loader: augment must be a function of (image, rng), got {type(augment).__name__}")
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        count = len(self.data)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the batches of the next epoch; the epoch is counted when its first batch is requested."""
        for (whole,) in self.parts(lambda count: [slice(0, count)]):
            yield whole

    def parts(self, cut: Callable[[int], Sequence[slice]]) -> Iterator[list[Batch]]:
        """Iterate over the next epoch like the loader itself, but make only some parts of every batch.

        Parameters
        ----------
        cut
            A function from the number of examples of a batch to the slices of it that are wanted.

        Yields
        ------
        list
            The images and targets of each slice, the same as in the whole batch.

        Examples
        --------
        >>> import numpy as np
        >>> from convlane.data import Loader
        >>> loader = Loader((np.zeros((10, 1, 8, 8), np.float32), np.arange(10)), batch_size=4)
        >>> for first, last in loader.parts(lambda count: [slice(0, 1), slice(count - 1, count)]):
        ...     print(first[1], last[1])
        [0] [3]
        [4] [7]
        [8] [9]
        """
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = self._order(epoch)
        whole = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]
        parts = [[batch[part] for part in cut(len(batch))] for batch in whole]
        flat = [part for group in parts for part in group]
        made = (self._batch(part, epoch) for part in flat) if self.workers == 0 else self._prefetched(flat, epoch)
        with closing(made):
            for group in parts:
                yield list(islice(made, len(group)))

    def _prefetched(self, parts: Sequence[NDArray[np.int64]], epoch: int) -> Generator[Batch, None, None]:
        """Yield the batches in order while threads prepare the next ones."""
        from concurrent.futures import ThreadPoolExecutor  # imported only when threads are needed

        process, stop = os.getpid(), Event()
        pool = ThreadPoolExecutor(self.workers, "convlane.data")
        waiting: deque[Future[Batch]] = deque()
        try:
            started = 0
            for done, part in enumerate(parts):
                if os.getpid() != process:  # a forked child has no threads and continues without them
                    yield self._batch(part, epoch)
                    continue
                started = max(started, done)
                while started < len(parts) and len(waiting) < self.workers + _WAITING:
                    waiting.append(pool.submit(self._batch_in_thread, parts[started], epoch, stop))
                    started += 1
                yield waiting.popleft().result()
        finally:
            if os.getpid() == process:
                stop.set()
                pool.shutdown(cancel_futures=True)

    def _batch_in_thread(self, part: NDArray[np.int64], epoch: int, stop: Event) -> Batch:
        with num_threads(1):  # the network has the other cores
            return self._batch(part, epoch, stop)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        count = len(self.data)
        return _generator(self.seed, 0, epoch).permutation(count) if self.shuffle else np.arange(count)

    def _batch(self, part: NDArray[np.int64], epoch: int, stop: Event | None = None) -> Batch:
        if isinstance(self.data, _Arrays) and self.augment is None:
            return self.data.take(part)
        images: Array | None = None
        targets = []
        for row, index in enumerate(part.tolist()):
            if stop is not None and stop.is_set():
                break
            try:
                image, target = self._sample(index, epoch)
                if images is None:  # channels last in memory, as the kernels need them
                    channels, height, width = image.shape
                    images = np.empty((len(part), height, width, channels), np.float32).transpose(0, 3, 1, 2)
                elif image.shape != images.shape[1:]:
                    raise ValueError(
                        f"it has the shape {image.shape}, but the first of its batch {images.shape[1:]}; add a "
                        "crop to `augment`, or read the images at one size"
                    )
            except Exception as error:
                name = self.data.name(index) if hasattr(self.data, "name") else f"image {index}"
                raise ValueError(f"Loader: {name}: {str(error) or type(error).__name__}") from error
            images[row] = image
            targets.append(target)
        return (np.zeros((0, 0, 0, 0), np.float32) if images is None else images), _as_targets(np.asarray(targets))

    def _sample(self, index: int, epoch: int) -> tuple[Array, Any]:
        sample = self.data[index]
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            raise TypeError(f"the data must return a pair (image, target) for an index, got {type(sample).__name__}")
        image, target = sample
        image = as_picture(image, "Loader")
        if self.augment is not None:
            image = as_picture(self.augment(image, _generator(self.seed, 1, epoch, index)), "Loader")
        return image, target


def _samples(data: Any) -> Samples:
    if isinstance(data, tuple) and len(data) == 2:
        return _Arrays(*data)
    if isinstance(data, (tuple, np.ndarray)) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(
            "Loader: data must be a tuple of two arrays (images, targets), or have a length and return (image, "
            f"target) for an index, got {type(data).__name__}"
        )
    return data  # type: ignore[no-any-return]


class _Arrays:
    """Two arrays as samples."""

    def __init__(self, images: Any, targets: Any) -> None:
        self.images, self.targets = np.asarray(images), _as_targets(np.asarray(targets))
        if self.images.ndim not in (2, 4):  # features, or images
            raise ValueError(
                f"Loader: images must be (N, C, H, W), got the shape {self.images.shape}; images[:, None] adds a "
                "channel"
            )
        if self.images.dtype not in (np.float32, np.uint8):
            raise TypeError(f"Loader: images must be float32 or uint8, got {self.images.dtype}")
        if self.targets.ndim == 0 or len(self.targets) != len(self.images):
            raise ValueError(f"Loader: {len(self.images)} images, but targets of the shape {self.targets.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.targets[index]

    def take(self, part: NDArray[np.int64]) -> Batch:
        """Return a batch of images without augmentation."""
        images = self.images[part]
        if images.dtype == np.uint8:
            images = np.divide(images, np.float32(255), dtype=np.float32)
        return images, self.targets[part]


def _as_targets(targets: NDArray[Any]) -> NDArray[Any]:
    if targets.dtype.kind in "iub":
        return targets.astype(np.int64)
    if targets.dtype.kind == "f":
        return targets.astype(np.float32)
    raise TypeError(f"Loader: targets must be classes or floating-point numbers, got {targets.dtype}")


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))
