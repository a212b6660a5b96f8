"""Networks in the workers of engines that distribute work over processes and machines: Ray, Dask, Spark and the like.

Nothing here imports an engine, starts a process or moves data, which the engines do. docs/scale.md shows each engine.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convlane.functional import softmax
from convlane.functional._arguments import Array
from convlane.graph import OpenPlan, Plan, load_plan
from convlane.runtime import checked_threads, get_num_threads, num_threads

__all__ = ["BatchPredictor", "BestClass", "worker_threads"]


class BatchPredictor:
    """A saved plan as a function of batches, which an engine sends to its workers.

    It is pickled as the path of the plan and its other arguments; a process reads the plan for the first batch, and
    keeps it for all further batches and predictors. It thus works as an actor, as the function of a task, and within a
    single process.

    Parameters
    ----------
    plan_path
        A file that `Plan.save` has written for a batch of any size, which must exist under this path on every machine.
        If it has been replaced since the last batch, the new file is read.
    preprocess
        A function from one item (for example, the path of a picture) to an example as the plan takes it, float32;
        `convlane.data.preprocessing` returns one. As many items are prepared at once as there are threads. By default,
        the items are such examples.
    postprocess
        A function from the plan's result for a batch to an array with a row for each example, or to a dict of such
        arrays, which are the columns of the result; `BestClass` is one. By default, results are as returned by the
        plan.
    column
        The column with the items if a batch is a table.
    threads
        The number of threads that the network may use; by default what `worker_threads` returns for each batch.
    mmap
        Whether the workers of a machine share packed weights, if the plan was saved with ``packed=True``. See
        `convlane.load_plan`, which warns (once in a process) if they cannot.

    Notes
    -----
    The type of the batch determines what is returned:

    - an array of numbers, one item after the other (Dask's ``map_blocks``): the result of `postprocess`. An item that
      cannot be prepared raises an error.
    - a dict of columns (Ray's ``map_batches``): the dict with the columns of the result and ``error`` added.
    - a pandas data frame (Dask's ``map_partitions``): the same.
    - an array of text or objects (Spark's ``predict_batch_udf``): a dict of the columns of the result and ``error``.
    - any other sequence of items (a partition of a Dask bag): a list with a dict for each item, with the item under
      `column`.

    If `postprocess` returns an array, its column is called ``result``. An item for which `preprocess` raises a
    ValueError or OSError, such as a damaged picture, does not affect the others: its error is in the column ``error``,
    which is empty for all others, and its results are NaN, -1, False or empty, depending on the columns' types, and 0
    for unsigned types. Other exceptions are considered mistakes of the program and end the call.

    Calls in several threads of a process run the network one at a time, so that together they use no more than its
    threads.

    Examples
    --------
    >>> import os, pickle, tempfile
    >>> import numpy as np, convlane
    >>> from convlane import nn
    >>> from convlane.scale import BatchPredictor, BestClass
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "network.plan")
    >>> convlane.compile(network, (None, 1, 2, 2)).save(path, packed=True)
    >>> predictor = pickle.loads(pickle.dumps(BatchPredictor(path, column="pixels", postprocess=BestClass())))
    >>> batch = {"name": np.array(["a", "b"]), "pixels": np.zeros((2, 1, 2, 2), np.float32)}
    >>> sorted(predictor(batch))
    ['class_index', 'error', 'name', 'pixels', 'probability']
    >>> sorted(predictor(batch["pixels"]))
    ['class_index', 'probability']
    >>> folder.cleanup()
    """

    def __init__(
        self,
        plan_path: str | os.PathLike[str],
        preprocess: Callable[[Any], Array] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        *,
        column: str = "path",
        threads: int | None = None,
        mmap: bool = True,
    ) -> None:
        self.plan_path = os.path.abspath(plan_path)
        self.preprocess, self.postprocess, self.column, self.mmap = preprocess, postprocess, column, bool(mmap)
        self.threads = None if threads is None else checked_threads(threads)
        for name, function in (("preprocess", preprocess), ("postprocess", postprocess)):
            if function is not None and not callable(function):
                raise TypeError(f"BatchPredictor: {name} must be a function, got {type(function).__name__}")

    def __call__(self, batch: Any) -> Any:
        """Return the network's results for a batch, see the notes of the class.

        Raises
        ------
        OSError, ValueError
            If the plan cannot be read, or was compiled for a batch of one size only.
        TypeError, ValueError
            If the batch, or what `preprocess` and `postprocess` return, does not fit.
        """
        if isinstance(batch, np.ndarray) and batch.dtype.kind not in _TEXT:
            return self._results(batch)
        if isinstance(batch, np.ndarray):
            return self._columns(batch)
        if isinstance(batch, Mapping):
            return {**batch, **self._new_columns(batch, self._items(batch))}
        if hasattr(batch, "assign"):
            columns = self._new_columns(batch, np.asarray(self._items(batch)))
            text = {name: "str" for name, values in columns.items() if values.dtype == object}  # also without rows
            return batch.assign(**{name: _flat(values) for name, values in columns.items()}).astype(text)
        items = list(batch)
        columns = self._columns(items)
        return [
            {self.column: item, **{name: _plain(values[row]) for name, values in columns.items()}}
            for row, item in enumerate(items)
        ]

    def __repr__(self) -> str:
        return f"BatchPredictor({self.plan_path!r})"

    def _items(self, table: Any) -> Any:
        if self.column not in table:
            raise ValueError(
                f"BatchPredictor: the batch has the columns {', '.join(map(repr, table))}, but the items must be in "
                f"column={self.column!r}"
            )
        return table[self.column]

    def _results(self, items: Array) -> Any:
        """Return the results for items, all of which must be valid."""
        if self.preprocess is None:
            return self._processed(self._plan().run(items))
        result, errors = self._attempted(items)
        if errors:
            raise next(iter(errors.values()))
        return result

    def _new_columns(self, table: Any, items: Any) -> dict[str, Any]:
        columns = self._columns(items)
        if taken := [name for name in columns if name in table]:
            raise ValueError(f"BatchPredictor: the batch already has a column {taken[0]!r}; rename it, or drop it")
        return columns

    def _columns(self, items: Any) -> dict[str, Any]:
        """Return the columns of the result, and the errors."""
        result, errors = self._attempted(items)
        given = result if isinstance(result, Mapping) else {"result": result}
        valid = np.array([row not in errors for row in range(len(items))], bool)
        columns = {name: _spread(np.asarray(values), valid, name) for name, values in given.items()}
        if "error" in columns or self.column in columns:
            raise ValueError("BatchPredictor: postprocess must not return a column 'error' or one with the items' name")
        messages = [_message(errors[row]) if row in errors else "" for row in range(len(items))]
        return {**columns, "error": np.array(messages, object)}

    def _attempted(self, items: Any) -> tuple[Any, dict[int, Exception]]:
        """Return the result for all valid items, and the errors of the others by their index."""
        plan = self._plan()
        prepared, errors = plan.prepare(np.asarray if self.preprocess is None else self.preprocess, items)
        return self._processed(plan.run(_stacked(prepared)) if prepared else plan.run_empty()), errors

    def _processed(self, result: Any) -> Any:
        return result if self.postprocess is None else self.postprocess(result)

    def _plan(self) -> _Loaded:
        return _loaded(self.plan_path, worker_threads() if self.threads is None else self.threads, self.mmap)


@dataclass(frozen=True)
class BestClass:
    """A `postprocess` for logits (N, classes) that returns the most probable class, its probability and its name.

    Parameters
    ----------
    categories
        The names of the classes; without them, there is no column ``category``.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.scale import BestClass
    >>> columns = BestClass(("cat", "dog"))(np.array([[0, 30], [7, 7]], np.float32))
    >>> {name: column.tolist() for name, column in columns.items()}
    {'class_index': [1, 0], 'probability': [1.0, 0.5], 'category': ['dog', 'cat']}
    """

    categories: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.categories, str):
            raise TypeError(f"BestClass: categories must be a sequence of names, got the string {self.categories!r}")

    def __call__(self, logits: Array) -> dict[str, Any]:
        """Return the columns ``class_index`` (int64), ``probability`` (float32) and ``category`` (text)."""
        if not isinstance(logits, np.ndarray) or logits.ndim != 2:
            raise ValueError("BestClass: the network must return logits (N, classes)")
        probabilities = softmax(logits, 1)
        best = np.argmax(probabilities, 1)
        columns: dict[str, Any] = {"class_index": best, "probability": probabilities[np.arange(len(best)), best]}
        if self.categories is None:
            return columns
        if len(self.categories) < logits.shape[1]:
            raise ValueError(
                f"BestClass: the network has {logits.shape[1]} classes, but there are {len(self.categories)} names"
            )
        return {**columns, "category": np.array(self.categories, object)[best]}


def worker_threads() -> int:
    """Return the number of threads that an engine has assigned to the worker in which this is called.

    In a Ray task or actor, these are its CPUs (``num_cpus``), rounded down, but at least one; in a worker of
    ``dask.distributed``, the worker's threads (``threads_per_worker``). Everywhere else, and if the environment
    variable ``CONVLANE_NUM_THREADS`` is set, it is `convlane.get_num_threads`.
    """
    if os.environ.get("CONVLANE_NUM_THREADS", "").strip():
        return get_num_threads()
    # In a worker, the engine's module has already been imported.
    return _ray_threads(sys.modules.get("ray")) or _dask_threads(sys.modules.get("distributed")) or get_num_threads()


def _ray_threads(ray: Any) -> int | None:
    if ray is None or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    if getattr(getattr(context, "worker", None), "mode", None) != ray.WORKER_MODE:  # the driver program, not a worker
        return None
    return max(1, int(context.get_assigned_resources().get("CPU", 1)))


def _dask_threads(distributed: Any) -> int | None:
    if distributed is None:
        return None
    try:
        return int(distributed.get_worker().state.nthreads)
    except ValueError:  # not in a worker
        return None


@dataclass(frozen=True)
class _Loaded:
    """A plan that has been loaded in this process."""

    plan: Plan | OpenPlan
    threads: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, images: Array) -> Any:
        with self.lock, num_threads(self.threads):
            return self.plan(images)

    def run_empty(self) -> Any:
        """Return the network's results for a batch without examples, of any size that it takes."""
        *others, last = (224, 32, 64, 128, 512, 1)
        for size in others:
            with suppress(ValueError):
                return self.run(self._empty_batch(size))
        return self.run(self._empty_batch(last))

    def _empty_batch(self, open_size: int) -> Array:
        return np.zeros((0, *(open_size if size is None else size for size in self.plan.input_shape[1:])), np.float32)

    def prepare(self, function: Callable[[Any], Array], items: Any) -> tuple[list[Array], dict[int, Exception]]:
        """Return the examples of all valid items, and the errors of the others by their index."""

        def attempt(item: Any) -> Array | Exception:
            try:
                return function(str(item) if isinstance(item, np.str_) else item)  # errors quote it
            except (OSError, ValueError) as error:
                return error

        if self.threads == 1:
            outcomes = [attempt(item) for item in items]
        else:  # threads of this call only, because a function may itself prepare items
            with ThreadPoolExecutor(self.threads) as pool:
                outcomes = list(pool.map(attempt, items))
        prepared, errors = [], {}
        for row, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):
                errors[row] = outcome
            else:
                prepared.append(outcome)
        return prepared, errors


_MAX_PLANS = 4  # in one process; a predictor uses one
_plans: dict[tuple[Any, ...], _Loaded] = {}
_plans_lock = threading.Lock()


def _loaded(path: str, threads: int, mmap: bool) -> _Loaded:
    """Return the loaded plan of a file in its current version."""
    status = os.stat(path)
    key = path, threads, mmap, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    with _plans_lock:
        if (found := _plans.pop(key, None)) is None:
            with num_threads(threads):
                plan = load_plan(path, mmap=mmap)
            _check_batch(plan, path)
            found = _Loaded(plan, threads)
        for old in [old for old in _plans if old[:3] == key[:3]]:  # the file has been replaced
            del _plans[old]
        _plans[key] = found
        while len(_plans) > _MAX_PLANS:
            del _plans[next(iter(_plans))]
        return found


def _check_batch(plan: Plan | OpenPlan, path: str) -> None:
    shape = plan.input_shape
    if isinstance(shape, dict):
        raise ValueError(f"BatchPredictor: {path} must have one input, but has {', '.join(shape)}")
    if shape[0] is not None:
        raise ValueError(
            f"BatchPredictor: {path} was compiled for inputs {shape}; compile it with None as the batch size"
        )


def _reset_after_fork() -> None:
    global _plans_lock
    _plans.clear()
    _plans_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)  # the thread that held the lock does not exist in the child


_TEXT = "OSU"
_MISSING: dict[str, Any] = {"f": np.nan, "i": -1, "u": 0, "b": False, "O": ""}


def _stacked(prepared: Sequence[Array]) -> Array:
    shapes = {np.shape(example) for example in prepared}
    if len(shapes) > 1:
        raise ValueError(
            f"BatchPredictor: the examples of a batch must have one shape, preprocess returned {sorted(shapes)}"
        )
    return np.stack(prepared)


def _spread(values: Any, valid: Any, name: str) -> Any:
    """Return a column with missing values for items that are not valid."""
    if values.ndim == 0 or len(values) != valid.sum():
        raise ValueError(
            f"BatchPredictor: postprocess must return a row for each of {valid.sum()} examples, but {name!r} has the "
            f"shape {values.shape}"
        )
    if values.dtype.kind == "U":
        values = values.astype(object)
    if values.dtype.kind not in _MISSING:
        raise TypeError(f"BatchPredictor: {name!r} has the type {values.dtype}, which has no missing value")
    if valid.all():
        return values
    column = np.full((len(valid), *values.shape[1:]), _MISSING[values.dtype.kind], values.dtype)
    column[valid] = values
    return column


def _flat(values: Any) -> Any:
    """Return a column for a data frame, in which several numbers for an item are an array."""
    return values if values.ndim == 1 else list(values)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
