"""Training data: two arrays, or any iterable of batches that can be iterated over repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence, Sized
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane.functional._arguments import Array

Batch: TypeAlias = tuple[Array, NDArray[Any]]
"""The images and targets of a batch."""
Data: TypeAlias = Batch | Iterable[Batch]
"""The images and targets of all examples, or an iterable of batches."""
Cut: TypeAlias = Callable[[int], Sequence[slice]]
"""A function from the number of examples of a batch to the parts of it that are wanted."""


def is_arrays(data: Any) -> bool:
    """Return whether data consists of two arrays."""
    return isinstance(data, tuple) and len(data) == 2 and all(hasattr(part, "shape") for part in data)


def check_data(data: Any, batch_size: int, caller: str) -> None:
    """Raise an error for anything that is not training data."""
    if batch_size < 1:
        raise ValueError(f"{caller}: batch_size must be at least 1, got {batch_size}")
    if is_arrays(data):
        images, targets = data
        if len(images) != len(targets):
            raise ValueError(f"{caller}: there are {len(images)} images, but {len(targets)} targets")
    elif not isinstance(data, Iterable) or (isinstance(data, (tuple, list)) and not all(map(is_pair, data))):
        raise TypeError(
            f"{caller}: data must be a tuple (images, targets) of arrays or an iterable of such pairs, got {kind(data)}"
        )


def batches(
    data: Data, batch_size: int, caller: str, cut: Cut | None = None, order: NDArray[np.integer[Any]] | None = None
) -> Generator[list[Batch], None, None]:
    """Yield the parts of each batch: the images and targets of each slice, or of the whole batch without `cut`.

    `order` is the order of the examples if the data is two arrays. Data with a method `parts`, such as a `Loader`,
    reads only these parts.
    """
    if is_arrays(data):
        images, targets = data
        for start in range(0, len(images), batch_size):
            end = min(start + batch_size, len(images))
            wanted = [slice(start, end)]
            if cut is not None:
                wanted = [slice(start + part.start, start + part.stop) for part in cut(end - start)]
            indices = wanted if order is None else [order[part] for part in wanted]
            yield [(images[part], targets[part]) for part in indices]
    elif cut is not None and hasattr(data, "parts"):
        for parts in data.parts(cut):  # type: ignore[union-attr]
            yield [_checked(part, caller) for part in parts]
    else:
        for batch in data:
            images, targets = _checked(batch, caller)
            yield [(images, targets)] if cut is None else [(images[part], targets[part]) for part in cut(len(images))]


def _checked(batch: Any, caller: str) -> Batch:
    if not is_pair(batch):
        raise TypeError(f"{caller}: data must yield pairs (images, targets), got {type(batch).__name__}")
    images, targets = batch
    if len(images) != len(targets):
        raise ValueError(f"{caller}: a batch has {len(images)} images, but {len(targets)} targets")
    return images, targets


def is_pair(batch: Any) -> bool:
    """Return whether this may be the images and the targets of a batch."""
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and all(hasattr(part, "__len__") for part in batch)


def kind(data: Any) -> str:
    """Describe the type of data for an error message: ``tuple of ndarray, list``."""
    name = type(data).__name__
    if not isinstance(data, (tuple, list)):
        return name
    return f"{name} of {', '.join(type(part).__name__ for part in data[:4])}"


def batch_count(data: Data, batch_size: int) -> int | None:
    """Return how many batches there will be, if that is known."""
    if is_arrays(data):
        return -(-len(data[0]) // batch_size)  # type: ignore[index]
    return len(data) if isinstance(data, Sized) else None
