"""The loop over the data: `fit` trains a network, `evaluate` measures it, `predict` runs it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane._progress import progress
from convlane.functional import cross_entropy
from convlane.functional._arguments import Array, as_float, as_int
from convlane.nn.module import Module
from convlane.safetensors_file import Path
from convlane.training.batches import Batch, Data, batch_count, batches, check_data, is_arrays, is_pair, kind
from convlane.training.checkpoint import read_checkpoint, restore, save_checkpoint
from convlane.training.distributed import Communicator, Loss, Ranks, ShardedGradients, as_shards, cut
from convlane.training.history import History
from convlane.training.metrics import Means, Metric, Metrics, named
from convlane.training.optim import Optimizer, clip_grad_norm

__all__ = ["evaluate", "fit", "predict"]


def fit(
    model: Module,
    data: Data,
    *,
    epochs: int,
    optimizer: Optimizer,
    loss: Loss = cross_entropy,
    metrics: Metrics = ("accuracy",),
    validation: Data | None = None,
    batch_size: int = 64,
    shuffle: bool = True,
    seed: int = 0,
    clip_norm: float | None = None,
    patience: int | None = None,
    monitor: str | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_nan: str = "raise",
    verbose: bool = True,
    shards: int | None = None,
    communicator: Communicator | None = None,
) -> History:
    """Train a network.

    The network is set to training mode, and back to its former mode afterwards; frozen modules stay in eval mode. All
    random numbers (the order of examples, dropout) depend on `seed` and the number of steps that the optimiser has
    done, so that the same call gives the same bits, for any number of threads, even if it was interrupted and resumed.

    Parameters
    ----------
    model
        The network.
    data
        The images and targets of all examples, a tuple of two arrays: float32 (N, C, H, W) and integers, (N,) or
        (N, H, W) for maps, or whatever the network and the loss take; or an iterable of such pairs, one for each batch,
        which is iterated over again in every epoch.
    epochs
        The number of passes over the data, including those of a resumed checkpoint.
    optimizer
        An optimiser of this network. For a schedule, its learning rate is a function.
    loss
        A function from the outputs and targets of a batch to a number, made of operations of `convlane.functional`.
    metrics
        ``"accuracy"``, ``"top5"``, ``"mean_iou"``, or functions from the outputs and targets of a batch to one number
        per example, or to their mean; a dict gives them names. A metric that is not a mean over examples is a `Tally`.
        If the network has several outputs, metrics get the first. If the targets are classes, examples whose target is
        not a class, such as `ignore_index`, count neither in the metrics nor in the average of the loss. In maps (N,
        classes, H, W), every pixel is an example.
    validation
        Data on which the network is measured after every epoch, in eval mode.
    batch_size, shuffle
        How two arrays are divided into batches, the last of which may be smaller. They do not apply to iterables.
    seed
        At least 0.
    clip_norm
        If the norm of all gradients together is larger than this, they are scaled down to it.
    patience
        Stop after this many epochs without an improvement of `monitor`. If given, the network always ends with the
        weights of the best epoch.
    monitor
        The column of the history that `patience` watches: by default ``"validation_loss"`` if there is validation data,
        else ``"loss"``. Columns with ``loss`` or ``error`` in their names are better if smaller, all others if larger.
    checkpoint
        A file to write after every epoch, atomically, with the network, the optimiser and the progress of training.
        Ctrl-C lets the step finish, writes the checkpoint and raises `KeyboardInterrupt`; a second Ctrl-C does not
        wait. This holds even if the process was started with Ctrl-C ignored, as by shells without job control for
        ``&``; a handler that the program has installed is not replaced.
    resume
        Whether to continue from `checkpoint` if that file exists. An iterable as `data` must yield the same batches for
        the same epoch; if it has an attribute ``epoch``, that is restored.
    on_nan
        ``"raise"``: stop if the loss, the norm of gradients that are clipped, or the norm of the parameters after an
        epoch is not finite. ``"ignore"``: continue.
    verbose
        Whether to print a line for every epoch and, if tqdm is installed, show a progress bar on terminals.
    shards
        The number of parts that every batch is cut into, whose sizes differ by at most one. Shards are computed one by
        one, by one process or, with `communicator`, by several, whose number is then the least and the default; else
        the default is 1. At most 4096. The gradients, weighted by the examples that count, are summed in a tree that
        depends only on this number. Batch norm normalises each shard separately, and its running statistics change by
        the mean of the shards' changes.
    communicator
        Several processes that train the same network together: ``mpi4py.MPI.COMM_WORLD``, or another object with the
        members of `convlane.training.distributed.Communicator`. All processes call `fit` with the same arguments, each
        reads and computes its own shards, and all end with the same bits, which are those of one process with as many
        `shards`. All begin with the parameters of the first process, which alone prints, and reads and writes the
        checkpoint; any number of processes can resume it. Two arrays are cut automatically, a `Loader` reads only what
        its process needs, and of the batches of any other iterable each process takes its part. See
        docs/distributed.md.

    Returns
    -------
    History
        The loss, the metrics, the learning rate and the seconds of every epoch. Losses and metrics of the training data
        are means over the steps of the epoch, during which the network changes.

    Raises
    ------
    FloatingPointError
        If something was not finite, see `on_nan`; the message says what, and in which epoch and step. The network has
        the last parameters that gave a finite loss, and its buffers from before that step; the optimiser is not reset.
    KeyboardInterrupt
        If training is interrupted; raised after writing the checkpoint, if there is one. The network has the state
        after the last step.
    OSError
        If the checkpoint cannot be written or read.
    RuntimeError
        If another `fit` is training this network or a part of it, perhaps in another thread, or if another process has
        failed (the message contains its error).
    TypeError, ValueError
        If an argument has the wrong type or is out of range, the data do not fit, or the checkpoint is of another
        network, optimiser or seed. An error within a step leaves the network as it was before that step.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> from convlane.training import SGD, fit
    >>> nn.init.seed(0)
    >>> model = nn.Linear(2, 2)
    >>> points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    >>> sides = (points.sum(1) > 0).astype(int)
    >>> history = fit(model, (points, sides), epochs=5, optimizer=SGD(model, 1.0), verbose=False)
    >>> history["accuracy"][-1] > 0.95
    True
    """
    with Ranks(communicator) as ranks:  # from here on, an error on one rank is reported to all
        check_data(data, batch_size, "fit")
        if validation is not None:
            check_data(validation, batch_size, "fit")
        scores = named(metrics, "fit")
        columns = ["loss", *scores]
        columns += [f"validation_{name}" for name in columns] if validation is not None else []
        monitor = monitor or ("validation_loss" if validation is not None else "loss")
        _check(epochs, seed, patience, clip_norm, on_nan)
        parts = as_shards(shards, ranks)
        if optimizer.model is not model:
            raise ValueError("fit: the optimiser was made for another network")
        if patience is not None and monitor not in columns:
            raise ValueError(f"fit: monitor must be one of {', '.join(columns)}, got {monitor!r}")
        if resume and checkpoint is None:
            raise ValueError("fit: resume needs a checkpoint")
        if checkpoint is not None and ranks.rank == 0:
            folder = os.path.dirname(os.path.realpath(checkpoint))
            if not os.path.isdir(folder):
                raise FileNotFoundError(
                    f"fit: there is no folder {folder} for the checkpoint"
                )  # now, rather than after an epoch
        if epochs > 1 and isinstance(data, Iterator):
            raise TypeError("fit: data can be iterated only once; pass a list, or an object that can be iterated again")
        ranks.check_same(
            {
                "batch_size": batch_size,
                "checkpoint": checkpoint is not None,
                "clip_norm": clip_norm,
                "epochs": epochs,
                "monitor": monitor,
                "on_nan": on_nan,
                "patience": patience,
                "seed": seed,
                "shards": parts,
                "shuffle": bool(shuffle),
                "the columns of the history": columns,
                "the optimiser": optimizer.settings(),
                "the instruction set (CONVLANE_ISA)": _core.active_isa(),
                "the number of batches": batch_count(data, batch_size),
                "the number of examples": len(data[0]) if is_arrays(data) else None,  # type: ignore[index]
            }
        )

        training = _Training(model, data, optimizer, loss, Means(scores), seed, clip_norm, on_nan, parts, ranks)
        verbose = verbose and ranks.rank == 0
        with _exclusively(model), _modes_restored(model), _Interrupts() as interrupts:
            if training.start(checkpoint if resume else None, columns) and verbose:
                print(f"continuing in {training.where}, from {os.fspath(checkpoint)}", flush=True)  # type: ignore[arg-type]
            try:
                while training.epoch < epochs and not (patience is not None and training.waited(monitor) >= patience):
                    label = f"epoch {training.epoch + 1}/{epochs}"
                    begin = time.perf_counter()
                    training.run_epoch(batch_size, shuffle, interrupts, label if verbose else None)
                    training.check_parameters()
                    training.check_same_parameters()
                    row = training.means.result()
                    if validation is not None:
                        found = _measured(model, validation, loss, scores, batch_size, parts, ranks)
                        row |= {f"validation_{name}": value for name, value in found.items()}
                        training.check_finite("the validation loss", found["loss"])
                    reports = ranks.gather((time.perf_counter() - begin, interrupts.waiting))
                    row |= {"learning_rate": training.learning_rate(), "seconds": reports[0][0]}
                    training.finish_epoch(row, monitor if patience is not None else None)
                    if verbose:
                        values = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
                        print(f"{label}: {values}", flush=True)
                    if checkpoint is not None:
                        training.save(checkpoint)
                    training.stop_if(any(waiting for _, waiting in reports))
            except KeyboardInterrupt:
                if checkpoint is not None and not interrupts.urgent:
                    training.save(checkpoint)
                    if verbose:
                        print(
                            f"interrupted in {training.where}; resume=True continues from {os.fspath(checkpoint)}",
                            flush=True,
                        )
                raise
            training.keep_best()
    return training.history


def evaluate(
    model: Callable[[Array], Any],
    data: Data,
    *,
    loss: Loss = cross_entropy,
    metrics: Metrics = ("accuracy",),
    batch_size: int = 64,
) -> dict[str, float]:
    """Measure a network: the loss and the metrics, averaged over all examples.

    Parameters
    ----------
    model
        A network, which is set to eval mode during the call, or a compiled plan for any batch size.
    data, loss, metrics, batch_size
        As for `fit`.

    Returns
    -------
    dict
        The loss and the metrics by name, ``"loss"`` first.

    Raises
    ------
    TypeError, ValueError
        As from `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.training import evaluate
    >>> scores = np.array([[0, 1], [0, 1]], np.float32)
    >>> evaluate(lambda batch: batch, (scores, np.array([0, 1])))["accuracy"]
    0.5
    """
    check_data(data, batch_size, "evaluate")
    return _measured(model, data, loss, named(metrics, "evaluate"), batch_size, 1, Ranks(None))


def predict(model: Callable[[Array], Any], data: Any, *, batch_size: int = 64) -> Array:
    """Run a network, in eval mode, on all images and return its outputs in order.

    Parameters
    ----------
    model
        A network, or a compiled plan for any batch size.
    data
        An array of images (N, C, H, W), data as for `fit` (whose targets are ignored), or an iterable of arrays.
    batch_size
        The number of images of an array that are run together. The result does not depend on it.

    Returns
    -------
    numpy.ndarray
        float32, (N, ...).

    Raises
    ------
    ValueError
        If there are no images.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import models
    >>> from convlane.training import predict
    >>> predict(models.create("lenet5"), np.zeros((3, 1, 32, 32), np.float32)).shape
    (3, 10)
    """
    if is_arrays(data):
        data = data[0]
    if hasattr(data, "shape"):
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}")
        data = [data[start : start + batch_size] for start in range(0, len(data), batch_size)]
    if isinstance(data, (tuple, list)) and not all(is_pair(part) or hasattr(part, "shape") for part in data):
        raise TypeError(f"predict: data must be arrays of images, or pairs (images, targets), got {kind(data)}")
    with _modes_restored(model):
        if isinstance(model, Module):
            model.eval()
        outputs = [model(batch[0] if isinstance(batch, (tuple, list)) else batch) for batch in data]
    if not outputs:
        raise ValueError("predict: the data is empty")
    return np.concatenate(outputs)


def _measured(
    model: Callable[[Array], Any],
    data: Data,
    loss: Loss,
    scores: Mapping[str, Metric],
    batch_size: int,
    shards: int,
    ranks: Ranks,
) -> dict[str, float]:
    """Return the loss and the metrics; every rank measures its own shards."""
    means = Means(scores)
    results: list[list[tuple[int, dict[str, Any]]]] = []
    with _modes_restored(model):
        if isinstance(model, Module):
            model.eval()
        for parts in batches(data, batch_size, "evaluate", cut(ranks.shards(shards), shards)):
            results.append([])
            for images, targets in parts:
                if shards == 1 or len(images):
                    outputs = model(images)
                    results[-1].append(means.measure(float(loss(outputs, targets)), outputs, targets))
    gathered = ranks.gather(results)
    counts = list(map(len, gathered))
    if len(set(counts)) > 1:
        ranks.fail(ValueError(f"fit: all ranks must have the same number of batches of validation data, got {counts}"))
    for batch in zip(*gathered, strict=True):
        for measured in chain(*batch):
            means.include(*measured)
    if not means.examples:
        raise ValueError("evaluate: the data is empty, or no target is a class")
    return means.result()


class _Training:
    """A training run: its steps, and the state that checkpoints hold."""

    def __init__(
        self,
        model: Module,
        data: Data,
        optimizer: Optimizer,
        loss: Loss,
        means: Means,
        seed: int,
        clip_norm: float | None,
        on_nan: str,
        shards: int,
        ranks: Ranks,
    ) -> None:
        self.model, self.data, self.optimizer, self.means = model, data, optimizer, means
        self.seed, self.clip_norm, self.on_nan = seed, clip_norm, on_nan
        self.history = History()
        self.epoch, self.step = 0, 0  # completed epochs, and completed steps of the next one
        self._best: dict[str, NDArray[Any]] = {}
        self._good = model.state_dict()  # the last state that gave finite numbers
        self._data_epoch: int | None = None
        self.shards, self.ranks = shards, ranks
        self._gradients = ShardedGradients(model, loss, means, shards, ranks)

    def run_epoch(self, batch_size: int, shuffle: bool, interrupts: _Interrupts, label: str | None) -> None:
        """Do the remaining steps of an epoch; with a label, under a progress bar."""
        self.model.train()
        order = None
        if shuffle and is_arrays(self.data):
            generator = np.random.default_rng((self.seed, self.optimizer.steps - self.step, 1))
            order = generator.permutation(len(self.data[0]))  # type: ignore[index]
        if self._data_epoch is not None:
            self.data.epoch = self._data_epoch  # type: ignore[union-attr]
        self._data_epoch = getattr(self.data, "epoch", None)
        count = batch_count(self.data, batch_size)
        left = None if count is None else count - self.step
        wanted = cut(self.ranks.shards(self.shards), self.shards)
        with closing(batches(self.data, batch_size, "fit", wanted, order)) as every:  # ends the data's threads
            todo = islice(every, self.step, None)
            for parts in todo if label is None else progress(todo, label, left):
                self.stop_if(self._do(parts, interrupts))
        self._gradients.check_end()
        if not self.step:
            raise ValueError("fit: the data is empty")

    def _do(self, parts: Sequence[Batch], interrupts: _Interrupts) -> bool:
        """Do one step, and return whether a rank was interrupted in it."""
        before = self.model.state_dict()
        with self._restored_after_errors(before):
            found = self._gradients(parts, (self.seed, self.optimizer.steps), lambda: interrupts.waiting)
            norm, factor = 0.0, found.factor
            if self.clip_norm is not None:
                norm, factor = clip_grad_norm(found.gradients, self.clip_norm / found.factor)
                norm, factor = norm * found.factor, factor * found.factor
        if found.examples:  # without examples the loss is NaN and the gradients are 0
            self.check_finite("the loss", found.loss)
        self.check_finite("the norm of the gradients", norm)
        self._good = before
        with self._restored_after_errors(before):
            self.optimizer.step(found.gradients, gradient_factor=factor if math.isfinite(norm) else found.factor)
        self.step += 1
        return found.interrupted

    def stop_if(self, interrupted: bool) -> None:
        """Raise a KeyboardInterrupt on all ranks if one of them was interrupted."""
        if interrupted:
            self.ranks.fail(KeyboardInterrupt())

    @contextmanager
    def _restored_after_errors(self, state: Mapping[str, NDArray[Any]]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.model.load_state_dict(state)
            raise

    def check_finite(self, what: str, value: float) -> None:
        """Raise if a number is not finite, after restoring the last parameters with which all numbers were finite."""
        if self.on_nan == "raise" and not math.isfinite(value):
            self.model.load_state_dict(self._good)
            self.ranks.fail(
                FloatingPointError(
                    f"fit: {what} is {value} in {self.where}. The network has the last parameters with which all "
                    "numbers were finite. A smaller learning rate or clip_norm may help, unless the data is the cause"
                )
            )

    @property
    def where(self) -> str:
        """Return the current epoch and step, in words."""
        return f"epoch {self.epoch + 1}, after step {self.step}"

    def learning_rate(self) -> float:
        """Return the learning rate of the last step, for the first parameter."""
        first = next(name for name, _ in self.model.named_parameters(trainable=True))
        return self.optimizer.learning_rate(first, self.optimizer.steps - 1)

    def check_parameters(self) -> None:
        """Raise if the last step's gradients were not finite, which otherwise only the next loss would reveal."""
        norm, _ = clip_grad_norm(dict(self.model.named_parameters(trainable=True)), math.inf)
        self.check_finite("the norm of the parameters", norm)

    def check_same_parameters(self) -> None:
        """Raise on all ranks if their parameters differ, because of something that cannot be compared directly."""
        if self.ranks.others and len(set(self.ranks.gather(self.optimizer.digest()))) > 1:
            self.ranks.fail(
                RuntimeError(
                    "fit: the parameters are not the same on all ranks after an epoch; check that the schedule, the "
                    "network and its random numbers are the same"
                )
            )

    def finish_epoch(self, row: Mapping[str, float], monitor: str | None) -> None:
        """Record the results of an epoch, and keep the weights if it was the best by `monitor`."""
        self.history.append(row)
        self.epoch, self.step, self._data_epoch = self.epoch + 1, 0, None
        self.means.start()
        if monitor is not None and not self.waited(monitor):
            self.history.best_epoch, self._best = self.epoch, self.model.state_dict()

    def waited(self, monitor: str) -> int:
        """Return the number of epochs since the (first) best one by `monitor`."""
        if not self.epoch:
            return 0
        sign = 1 if "loss" in monitor or "error" in monitor else -1
        values = [math.inf if math.isnan(value) else sign * value for value in self.history[monitor]]
        return self.epoch - 1 - values.index(min(values))

    def keep_best(self) -> None:
        """Load the weights of the best epoch into the network, if they have been kept."""
        if self._best:
            self.model.load_state_dict(self._best)

    def save(self, path: Path) -> None:
        """Write a checkpoint on the first rank, for all ranks."""
        if self.ranks.rank:
            return
        data_epoch = getattr(self.data, "epoch", None) if self._data_epoch is None else self._data_epoch
        counters = {
            "epoch": self.epoch,
            "step": self.step,
            "seed": self.seed,
            "shards": self.shards,
            "examples": self.means.examples,
            "best_epoch": self.history.best_epoch,
            "data_epoch": data_epoch,
        }
        save_checkpoint(
            path,
            self.model,
            self.optimizer,
            progress={name: count for name, count in counters.items() if count is not None},
            sums=self.means.sums,
            history=self.history,
            best=self._best,
        )

    def start(self, path: Path | None, columns: Sequence[str]) -> bool:
        """Begin with the state of the first rank, or with its checkpoint; return whether there is a checkpoint."""
        groups = None
        if self.ranks.rank == 0 and path is not None and os.path.exists(path):
            groups = read_checkpoint(path)
        if (groups := self.ranks.gather(groups)[0]) is not None:
            self._load(groups, path, columns)  # type: ignore[arg-type]
            return True
        if self.ranks.others:
            state = (self.model.state_dict(), self.optimizer.state_dict()) if self.ranks.rank == 0 else None
            state = self.ranks.gather(state)[0]
            self.model.load_state_dict(state[0])
            self.optimizer.load_state_dict(state[1])
            self._good = self.model.state_dict()
        return False

    def _load(self, groups: dict[str, dict[str, NDArray[Any]]], path: Path, columns: Sequence[str]) -> None:
        """Continue from the contents of a checkpoint, whose history must have these columns."""
        try:
            counters = {name: int(array) for name, array in groups.get("progress", {}).items()}
            epoch, step, seed, examples = (counters[name] for name in ("epoch", "step", "seed", "examples"))
            sums = {
                name: array.astype(np.float64) if array.ndim else float(array) for name, array in groups["sums"].items()
            }
            history = {name: array.tolist() for name, array in groups.get("history", {}).items()}
            known = {*columns, "learning_rate", "seconds"}
            if not self.means.fits(sums) or (history and history.keys() != known):
                raise ValueError("it has other metrics or validation data")
            if any(len(column) != epoch for column in history.values()):
                raise ValueError("its history does not have one row for each epoch")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: not a checkpoint of this fit: {error}") from error
        if seed != self.seed:
            raise ValueError(f"{os.fspath(path)}: it was written with seed={seed}, but fit was given {self.seed}")
        if (shards := counters.get("shards", 1)) != self.shards:
            raise ValueError(f"{os.fspath(path)}: it was written with shards={shards}, but fit has {self.shards}")
        restore(groups, path, self.model, self.optimizer)
        self._good = self.model.state_dict()
        self.epoch, self.step, self._data_epoch = epoch, step, counters.get("data_epoch")
        self.means.start(sums, examples)
        self.history = History({name: history[name] for name in (*columns, "learning_rate", "seconds") if history})
        self.history.best_epoch, self._best = counters.get("best_epoch"), groups.get("best", {})


class _Interrupts:
    """Keeps Ctrl-C from interrupting a step: the first is recorded in `waiting`, the second acts at once."""

    def __init__(self) -> None:
        self.urgent = self.waiting = False
        self._installed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.waiting:
            self.urgent = True
            raise KeyboardInterrupt
        self.waiting = True

    def __enter__(self) -> _Interrupts:
        # Only the main thread gets signals, and the program's own handler is not replaced. An ignored signal only means
        # that a shell without job control started the process in the background.
        in_main = threading.current_thread() is threading.main_thread()
        self._before = signal.getsignal(signal.SIGINT)
        self._installed = in_main and self._before in (signal.default_int_handler, signal.SIG_IGN)
        if self._installed:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)


_in_training: set[int] = set()
"""The ids of the modules of all networks that are being trained."""
_in_training_lock = threading.Lock()


@contextmanager
def _exclusively(model: Module) -> Iterator[None]:
    """Raise a RuntimeError if another `fit` is training one of the modules."""
    modules = {id(module) for module in model.modules()}
    with _in_training_lock:
        if not modules.isdisjoint(_in_training):
            raise RuntimeError("fit: another fit is training this network, or a part of it")
        _in_training.update(modules)
    try:
        yield
    finally:
        with _in_training_lock:
            _in_training.difference_update(modules)


@contextmanager
def _modes_restored(model: Any) -> Iterator[None]:
    """Restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, Module) else []
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check(epochs: int, seed: int, patience: int | None, clip_norm: float | None, on_nan: str) -> None:
    """Raise an error for numbers out of range."""
    for name, value, least in [("epochs", epochs, 0), ("seed", seed, 0), ("patience", patience, 1)]:
        if value is not None and as_int(value, "fit", name) < least:
            raise ValueError(f"fit: {name} must be at least {least}, got {value}")
    if clip_norm is not None and not as_float(clip_norm, "fit", "clip_norm") > 0:
        raise ValueError(f"fit: clip_norm must be positive, got {clip_norm}")
    if on_nan not in ("raise", "ignore"):
        raise ValueError(f"fit: on_nan must be 'raise' or 'ignore', got {on_nan!r}")
