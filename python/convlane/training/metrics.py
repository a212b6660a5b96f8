"""Metrics of a network besides its loss, and their averages over a data set."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane.functional._arguments import Array

__all__ = ["MeanIoU", "Tally", "accuracy", "top5"]

Metric: TypeAlias = Callable[[Array, Any], Any]
"""A function from the outputs and targets of a batch to one number per example, or to their mean."""
Metrics: TypeAlias = Iterable[str | Metric] | Mapping[str, Metric]


def accuracy(outputs: Array, targets: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return for every example whether its class has the largest output.

    Parameters
    ----------
    outputs
        float32, (N, classes), or (N, classes, H, W) for maps.
    targets
        Integers, (N,) or (N, H, W). A target that is not a class, such as an ignored one, is never right.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.training import accuracy
    >>> accuracy(np.array([[1, 3], [2, 0]], np.float32), np.array([1, 1]))
    array([ True, False])
    """
    right: NDArray[np.bool_] = outputs.argmax(1) == targets
    return right


def top5(outputs: Array, targets: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return for every example whether its class is among those with the five largest outputs.

    Shapes and targets are as in `accuracy`. Among equal outputs, the first classes rank higher, as in `accuracy`; NaN
    ranks lowest.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.training import top5
    >>> top5(np.arange(14, dtype=np.float32).reshape(2, 7), np.array([1, 2]))
    array([False,  True])
    """
    classes = np.asarray(targets)
    exists = _is_class(classes, outputs.shape[1])
    target = np.where(exists, classes, 0)[:, None]
    own = np.take_along_axis(outputs, target, 1)
    numbers = np.arange(outputs.shape[1]).reshape(-1, *(1,) * (outputs.ndim - 2))
    larger = ((outputs > own) | ((outputs == own) & (numbers < target))).sum(1)
    among: NDArray[np.bool_] = exists & (larger < 5) & ~np.isnan(own[:, 0])
    return among


class Tally(ABC):
    """A metric that is not a mean over examples: it is computed from counts that are summed over all batches."""

    @abstractmethod
    def count(self, outputs: Array, targets: Any) -> NDArray[np.float64]:
        """Return the counts of a batch, always in the same shape."""

    @abstractmethod
    def score(self, counts: NDArray[np.float64]) -> float:
        """Return the metric from the sum of the counts."""

    def __call__(self, outputs: Array, targets: Any) -> float:
        """Return the metric of a single batch."""
        return self.score(self.count(outputs, targets))


class MeanIoU(Tally):
    """Intersection over union of predicted and true regions, averaged over the classes.

    Both are counted over all positions of all images, as for Pascal VOC and Cityscapes. A class that is neither
    predicted nor true anywhere does not count, nor does a position whose target is not a class, such as an ignored one.

    Outputs are float32, (N, classes, ...), and targets integers, (N, ...). The metric's name in `fit` and `evaluate` is
    ``"mean_iou"``.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.training import MeanIoU
    >>> maps = np.array([[[9, 9, 9, 0]], [[0, 0, 0, 9]]], np.float32)[None]  # classes 0, 0, 0, 1
    >>> round(MeanIoU()(maps, np.array([[[0, 0, 1, 1]]])), 4)  # (2 / 3 + 1 / 2) / 2
    0.5833
    """

    def count(self, outputs: Array, targets: Any) -> NDArray[np.float64]:
        """Return the numbers of positions in every class's intersection and union, (2, classes)."""
        classes, shape = np.asarray(targets), tuple(outputs.shape)
        if classes.dtype.kind not in "iu":
            raise TypeError(f"mean_iou: targets must hold integers (classes), got {classes.dtype}")
        if len(shape) < 2 or classes.shape != (shape[0], *shape[2:]):
            raise ValueError(f"mean_iou: outputs have shape {shape}, but targets {classes.shape}")
        exists = _is_class(classes, shape[1])
        found, right = outputs.argmax(1)[exists], classes[exists].astype(np.int64)
        both, found_only, right_only = (
            np.bincount(classes, minlength=shape[1]) for classes in (right[found == right], found, right)
        )
        return np.stack([both, found_only + right_only - both]).astype(np.float64)

    def score(self, counts: NDArray[np.float64]) -> float:
        """Return the mean over the classes that have a union, NaN if none has."""
        both, union = counts[:, counts[1] > 0]
        return float((both / union).mean()) if union.size else math.nan


_BY_NAME: dict[str, Metric] = {"accuracy": accuracy, "top5": top5, "mean_iou": MeanIoU()}


def named(metrics: Metrics, caller: str) -> dict[str, Metric]:
    """Return the metrics by their names."""
    if isinstance(metrics, Mapping):
        result = dict(metrics)
    else:
        result = {}
        for metric in [metrics] if isinstance(metrics, str) else metrics:
            if isinstance(metric, str) and metric not in _BY_NAME:
                raise ValueError(f"{caller}: there is no metric {metric!r}; known metrics are {', '.join(_BY_NAME)}")
            name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
            if name in result:
                raise ValueError(f"{caller}: there are two metrics {name!r}; pass a dict to give them different names")
            result[name] = _BY_NAME[metric] if isinstance(metric, str) else metric
    if taken := result.keys() & {"loss", "learning_rate", "seconds"}:
        raise ValueError(f"{caller}: a metric cannot have the name {min(taken)!r}")
    for name, metric in result.items():
        if not callable(metric):
            raise TypeError(f"{caller}: the metric {name!r} must be a function, got {type(metric).__name__}")
    return result


def _is_class(targets: NDArray[np.integer[Any]], classes: int) -> NDArray[np.bool_]:
    exists: NDArray[np.bool_] = (targets >= 0) & (targets < classes)
    return exists


def _counted(outputs: Any, targets: Any) -> NDArray[np.bool_]:
    """Return which examples count: if targets are classes, those whose class exists, not those a loss ignores."""
    classes = np.asarray(targets)
    shape = tuple(outputs.shape)
    if len(shape) > 1 and shape[1] > 1 and classes.dtype.kind in "iu" and classes.shape == (shape[0], *shape[2:]):
        return _is_class(classes, shape[1])
    return np.ones(shape[:1], np.bool_)


def count_examples(outputs: Any, targets: Any) -> int:
    """Return how many examples of a batch count, according to the first of several outputs."""
    return int(_counted(_first(outputs), targets).sum())


def _first(outputs: Any) -> Any:
    several = tuple(outputs.values()) if isinstance(outputs, Mapping) else outputs
    return several[0] if isinstance(several, tuple) else several


class Means:
    """The loss and the metrics, averaged (or, for tallies, summed) over all examples that count.

    If every pixel has its own class, the pixels are the examples.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics
        self.start()

    def start(self, sums: Mapping[str, Any] | None = None, examples: int = 0) -> None:
        """Start from zero, or from given sums."""
        self.sums: dict[str, Any] = dict(sums) if sums is not None else dict.fromkeys(["loss", *self._metrics], 0.0)
        self.examples = examples

    def fits(self, sums: Mapping[str, Any]) -> bool:
        """Return whether these are sums of the loss and the metrics."""
        return sums.keys() == {"loss", *self._metrics} and not any(
            np.ndim(total) and not isinstance(self._metrics.get(name), Tally) for name, total in sums.items()
        )

    def add(self, loss: float, outputs: Any, targets: Any) -> int:
        """Add a batch, using the first of several outputs; return how many of its examples count."""
        count, found = self.measure(loss, outputs, targets)
        self.include(count, found)
        return count

    def measure(self, loss: float, outputs: Any, targets: Any) -> tuple[int, dict[str, Any]]:
        """Return what `include` takes for a batch: how many of its examples count, and their sums."""
        first = _first(outputs)
        counted = _counted(first, targets)
        count = int(counted.sum())
        found: dict[str, Any] = {"loss": loss * count if count else 0.0}  # the mean over nothing is NaN
        for name, metric in self._metrics.items():
            if isinstance(metric, Tally):
                found[name] = metric.count(first, targets)
                continue
            value = np.asarray(metric(first, targets), np.float64)
            if value.shape not in ((), counted.shape):
                shape = f"or {len(counted)}" if counted.ndim == 1 else f"or numbers of shape {counted.shape}"
                raise ValueError(f"the metric {name!r} must return one number {shape}, got shape {value.shape}")
            found[name] = float(value[counted].sum() if value.ndim else value * count) if count else 0.0
        return count, found

    def include(self, count: int, found: Mapping[str, Any]) -> None:
        """Add what has been measured."""
        for name, total in found.items():
            self.sums[name] = self.sums[name] + total
        self.examples += count

    def result(self) -> dict[str, float]:
        """Return the averages and scores by name, NaN if nothing counts."""
        return {name: self._value_of(name, total) if self.examples else math.nan for name, total in self.sums.items()}

    def _value_of(self, name: str, total: Any) -> float:
        metric = self._metrics.get(name)  # the loss has none
        return metric.score(total) if isinstance(metric, Tally) else float(total / self.examples)
