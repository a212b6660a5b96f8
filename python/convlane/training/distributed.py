"""Training by several processes: their messages, and how the gradients of shards become those of a batch.

A batch is cut into a fixed number of shards, and each process (rank) computes a range of them. Sums over shards are
computed in a tree that depends only on their number: neighbours of equal size are added, 0 and 1, 2 and 3, then these
two sums, and so on. A rank adds the nodes within its range; the others are added by one rank for all, so that any
number of ranks gives the same bits as one, and no rank diverges. Each rank adds a different part of every bucket of
parameters (reduce-scatter, then all-gather) while the gradients of earlier layers are still being computed.

Nothing blocks within the communicator: a rank that waits also checks for ranks that have failed. Background: Li et al.,
"PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020 (buckets, overlap); Thakur,
Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane.autograd import value_and_grad
from convlane.functional import seeded
from convlane.functional._arguments import Array, as_positive
from convlane.nn.module import Module
from convlane.training.batches import Batch, Cut
from convlane.training.metrics import Means, count_examples

__all__ = ["Communicator", "Request"]

Loss: TypeAlias = Callable[[Any, Any], Any]
"""A function from the outputs and targets of a batch to one number."""

_SIZES, _OBJECTS, _STATUSES, _BUCKETS = range(4)  # tags; each bucket has two, from the last one on
_STATUS = 1024  # bytes of the message about how a rank has ended
_BUCKET = 1 << 20  # floats; a quarter or four times as many made no difference for ResNet-18 on two ranks, 2026-11-26
_MAX_SHARDS = 4096  # each takes the time of a sum over all gradients, even without examples
_PAUSE = 50e-6  # seconds for which a rank that waits leaves its core to the others
_FAILURE_TIMEOUT = 5.0  # seconds for sending the others the error of this rank


class Request(Protocol):
    """A message in transit."""

    def Test(self) -> bool:
        """Return, without waiting, whether it has arrived or been sent, and make progress if that needs calls."""


class Communicator(Protocol):
    """The interface that `fit` needs for several processes: a subset of ``mpi4py.MPI.Comm``.

    Another library can be used through a class with these six members. Arrays are contiguous. Messages with the same
    sender, receiver and tag arrive in order. If a process is lost, the launcher ends the others, as ``mpiexec`` does,
    or `Request.Test` raises.
    """

    @property
    def rank(self) -> int:
        """The index of this process, from 0 on."""

    @property
    def size(self) -> int:
        """The number of processes."""

    def Isend(self, buf: Any, dest: int, tag: int) -> Request:
        """Begin to send an array, which must not change until the request is done."""

    def Irecv(self, buf: Any, source: int, tag: int) -> Request:
        """Begin to receive a message into an array of its size."""

    def Dup(self) -> Communicator:
        """Return a communicator of the same processes with separate messages; all processes call this together."""

    def Free(self) -> None:
        """Free a duplicate; all processes call this together."""


_MEMBERS = [name for name in vars(Communicator) if not name.startswith("_")]


class Ranks:
    """The processes of a training run, one without a communicator; a context that all of them leave together.

    If one leaves it with an error, the others get a `RuntimeError` with its message as soon as they wait for something.
    An error that all ranks raise, because they have the same information, is stored in `agreed` before it is raised.
    """

    def __init__(self, communicator: Communicator | None) -> None:
        missing = [name for name in _MEMBERS if communicator is not None and not hasattr(communicator, name)]
        if missing:
            kind = type(communicator).__name__
            raise TypeError(f"fit: communicator must be like mpi4py.MPI.Comm, but a {kind} has no {', '.join(missing)}")
        self.rank = 0 if communicator is None else communicator.rank
        self.size = 1 if communicator is None else communicator.size
        self.others = [rank for rank in range(self.size) if rank != self.rank]
        self.agreed: BaseException | None = None
        self._failure = ""  # the error of another rank
        self.while_waiting: Callable[[], Any] | None = None  # called while this rank waits
        self._communicator = None if communicator is None or not self.others else communicator.Dup()
        self._sent: list[tuple[Request, Any]] = []  # with arrays, which must exist until they have been sent
        self._received: list[tuple[Request, Any]] = []
        self._statuses = {rank: np.zeros(_STATUS, np.uint8) for rank in self.others}
        self._listening = {rank: self.receive(status, rank, _STATUSES) for rank, status in self._statuses.items()}

    def shards(self, count: int) -> range:
        """Return which of `count` shards this rank computes."""
        return _range(count, self.rank, self.size)

    def send(self, array: Any, rank: int, tag: int) -> None:
        """Begin to send an array."""
        self._sent.append((self._open().Isend(array, rank, tag), array))

    def receive(self, array: Any, rank: int, tag: int) -> Request:
        """Begin to receive an array."""
        request = self._open().Irecv(array, rank, tag)
        self._received.append((request, array))
        return request

    def gather(self, item: Any) -> list[Any]:
        """Return the items of all ranks, in their order, on every rank."""
        if not self.others:
            return [item]
        own = np.frombuffer(pickle.dumps(item), np.uint8)
        sizes = np.full(self.size, len(own), np.int64)
        arriving = [self.receive(sizes[rank : rank + 1], rank, _SIZES) for rank in self.others]
        for rank in self.others:
            self.send(np.array([len(own)], np.int64), rank, _SIZES)
            self.send(own, rank, _OBJECTS)
        self.wait(arriving)
        arrays = [own if rank == self.rank else np.empty(size, np.uint8) for rank, size in enumerate(sizes)]
        self.wait([self.receive(arrays[rank], rank, _OBJECTS) for rank in self.others])
        if self.while_waiting is None:  # else messages of `while_waiting` are not waited for here
            self.flush()
        return [item if rank == self.rank else pickle.loads(array.tobytes()) for rank, array in enumerate(arrays)]

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Raise on all ranks if a setting is not the same on all of them."""
        gathered = self.gather(dict(settings))
        for rank, other in enumerate(gathered):
            for name, value in gathered[0].items():
                if other[name] != value:
                    self.fail(
                        ValueError(
                            f"fit: {name} must be the same on all ranks, got {value!r} on rank 0, but {other[name]!r} "
                            f"on rank {rank}"
                        )
                    )

    def fail(self, error: BaseException) -> None:
        """Raise an error that all ranks raise."""
        self.agreed = error
        raise error

    def wait(self, requests: Sequence[Request]) -> None:
        """Wait until all messages have arrived."""
        while not all(request.Test() for request in requests):
            self.pause()

    def listen(self) -> None:
        """Raise if another rank has failed."""
        for rank in [rank for rank, request in self._listening.items() if request.Test()]:
            del self._listening[rank]
            if status := bytes(self._statuses[rank]).rstrip(b"\0"):
                self._failure = status.decode(errors="replace")
                raise RuntimeError(f"fit: {self._failure}")

    def pause(self) -> None:
        """Wait for a moment, in which other ranks and `while_waiting` make progress."""
        if self.while_waiting is not None:
            self.while_waiting()
        self.listen()
        time.sleep(_PAUSE)

    def flush(self) -> None:
        """Wait until all messages have been sent."""
        self.wait([request for request, _ in self._sent])
        self._sent = []
        self._received = [(request, array) for request, array in self._received if not request.Test()]

    def _open(self) -> Communicator:
        assert self._communicator is not None  # a single rank sends nothing
        return self._communicator

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.while_waiting = None
        if self._communicator is None:
            return
        if error is None:
            try:
                self._leave()
                self.flush()
                self._communicator.Free()
            except BaseException:
                _keep_forever(self)
                raise
            return
        _keep_forever(self)
        if error is self.agreed:
            self._leave()
            return
        with suppress(Exception):  # the error being raised says more
            requests = self._send_status(
                self._failure or f"rank {self.rank} has failed: {type(error).__name__}: {error}"
            )
            until = time.monotonic() + _FAILURE_TIMEOUT
            while time.monotonic() < until and not all(request.Test() for request in requests):
                time.sleep(_PAUSE)

    def _leave(self) -> None:
        """Wait until all ranks have ended without an error, as this one has."""
        self.wait([*self._send_status(""), *self._listening.values()])
        self.listen()

    def _send_status(self, status: str) -> list[Request]:
        """Begin to send the others how this rank has ended; an empty string means without an error."""
        array = np.frombuffer(status.encode()[:_STATUS].ljust(_STATUS, b"\0"), np.uint8)
        for rank in self.others:
            self.send(array, rank, _STATUSES)
        return [request for request, _ in self._sent[-len(self.others) :]]


def _keep_forever(ranks: Ranks) -> None:
    """Keep the arrays of messages until the process ends.

    Messages begun before a failure may still be written when MPI is finalised, which mpi4py does at the very end.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(ranks))


def cut(shards: Sequence[int], count: int) -> Cut | None:
    """Return the function from the size of a batch to the slices of some of `count` shards; None for one shard."""
    if count == 1:
        return None

    def slices(size: int) -> list[slice]:
        return [slice(size * shard // count, size * (shard + 1) // count) for shard in shards]

    return slices


def as_shards(shards: Any, ranks: Ranks) -> int:
    """Return the number of shards, by default one for each rank."""
    count = ranks.size if shards is None else as_positive(shards, "fit", "shards")
    if count > _MAX_SHARDS:
        raise ValueError(
            f"fit: shards must be at most {_MAX_SHARDS}, got {count}; more shards than a batch has examples are useless"
        )
    if count < ranks.size:
        raise ValueError(f"fit: shards must be at least the number of ranks, {ranks.size}, got {count}")
    return count


def _range(count: int, rank: int, size: int) -> range:
    return range(count * rank // size, count * (rank + 1) // size)


class BatchResult(NamedTuple):
    """The results of a batch, the same on all ranks."""

    loss: float
    examples: int
    gradients: dict[str, Array]
    factor: float
    """The number that the gradients have to be multiplied by."""
    interrupted: bool


class ShardedGradients:
    """Gradients of a loss over batches whose shards are computed separately, and the resulting buffers.

    The loss of a batch is the mean over its examples that count, as in a `History`. Every shard begins with the buffers
    from before the batch; floating-point buffers change by the mean of the shards' changes.
    """

    def __init__(self, model: Module, loss: Loss, means: Means, shards: int, ranks: Ranks) -> None:
        self._model, self._means, self._shards, self._ranks = model, means, shards, ranks
        self._mine = ranks.shards(shards)
        self._sum: TreeSum | None = None
        if shards > 1:
            shapes = {name: array.shape for name, array in self._buffers().items() if array.dtype == np.float32}
            shapes |= {name: array.shape for name, array in model.named_parameters(trainable=True)}
            self._sum = TreeSum(ranks, shards, shapes)

        def run(images: Array, targets: Any) -> Any:
            outputs = model(images)
            value = loss(outputs, targets)
            count = count_examples(outputs, targets) if shards > 1 else 1
            return (value if count in (0, 1) else value * float(count)), (value, outputs)

        self._run = value_and_grad(run, model, has_aux=True, ready=None if self._sum is None else self._sum.put)

    def __call__(self, parts: Sequence[Batch], seed: tuple[int, int], interrupted: Callable[[], bool]) -> BatchResult:
        """Compute this rank's parts of a batch and return the results; `interrupted` is called after its shards."""
        if self._sum is None:
            ((images, targets),) = parts
            with seeded(*seed):
                (loss, (_, outputs)), gradients = self._run(images, targets)
            examples = self._means.add(loss, outputs, targets)
            return BatchResult(loss, examples, gradients, 1.0, interrupted())

        before = self._buffers()
        computed = [
            self._shard(self._sum, before, images, targets, shard, seed)
            for shard, (images, targets) in zip(self._mine, parts, strict=True)
        ]
        gathered = self._ranks.gather((computed, interrupted()))
        self._check_together([each is None for each in gathered])
        shards = [shard for computed, _ in gathered for shard in computed if shard is not None]
        totals = self._sum.totals()
        self._model.load_state_dict(self._moved(before, totals, shards), strict=False)
        for shard in shards:
            self._means.include(shard.examples, shard.sums)
        examples = sum(shard.examples for shard in shards)
        loss = sum(shard.sums["loss"] for shard in shards) / examples if examples else math.nan
        gradients = {name: totals[name] for name, _ in self._model.named_parameters(trainable=True)}
        return BatchResult(
            loss, examples, gradients, 1 / examples if examples else 1.0, any(stopped for _, stopped in gathered)
        )

    def check_end(self) -> None:
        """Raise if an epoch ends here, but not on all ranks."""
        self._check_together([each is None for each in self._ranks.gather(None)])

    def _check_together(self, ended: Sequence[bool]) -> None:
        if any(ended) and not all(ended):
            self._ranks.fail(
                ValueError(f"fit: rank {ended.index(True)} has no more batches, but rank {ended.index(False)} has")
            )

    def _shard(
        self, tree: TreeSum, before: Mapping[str, NDArray[Any]], images: Array, targets: Any, shard: int, seed: Any
    ) -> _Shard | None:
        """Compute a shard, if it has examples."""
        tree.begin(shard)
        computed = None
        if not len(images):
            tree.put_zeros()
        else:
            self._model.load_state_dict(before, strict=False)
            with seeded(*seed, 2, shard):  # 1 is for the order of examples
                (_, (loss, outputs)), _ = self._run(images, targets)
            examples, sums = self._means.measure(float(loss), outputs, targets)
            counters = {}
            for name, array in self._buffers().items():
                if array.dtype == np.float32:
                    change = np.subtract(array, before[name], out=np.zeros_like(array), where=array != before[name])
                    tree.put(name, change * np.float32(len(images)))
                else:
                    counters[name] = array
            computed = _Shard(len(images), examples, sums, counters)
        if shard != self._mine[-1]:
            tree.end()
        return computed

    def _moved(
        self, before: Mapping[str, NDArray[Any]], totals: Mapping[str, Array], shards: Sequence[_Shard]
    ) -> dict[str, NDArray[Any]]:
        """Return the buffers after a batch; counters are those of the first shard."""
        if not shards:
            return dict(before)
        weight = np.float32(1 / sum(shard.size for shard in shards))
        return {
            name: shards[0].counters[name] if name in shards[0].counters else array + totals[name] * weight
            for name, array in before.items()
        }

    def _buffers(self) -> dict[str, NDArray[Any]]:
        """Return copies of the network's buffers."""
        parameters = {name for name, _ in self._model.named_parameters()}
        return {name: array for name, array in self._model.state_dict().items() if name not in parameters}


class _Shard(NamedTuple):
    """A shard's size, the number of its examples that count, their sums, and the integer buffers (counters)."""

    size: int
    examples: int
    sums: dict[str, Any]
    counters: dict[str, NDArray[Any]]


class _Node(NamedTuple):
    """A sum over shards: the first one, and how many there are."""

    start: int
    size: int
    sum: Any

    def is_left_of(self, other: _Node) -> bool:
        """Return whether the tree adds these two."""
        return self.size == other.size and self.start % (2 * self.size) == 0


def _joined(nodes: Sequence[_Node]) -> list[_Node]:
    """Add the nodes that the tree adds, into the arrays of the left ones."""
    done: list[_Node] = []
    for node in nodes:
        done.append(node)
        while len(done) > 1 and done[-2].is_left_of(done[-1]):
            right, left = done.pop(), done.pop()
            if left.sum is not None:  # None if only the positions are needed
                np.add(left.sum, right.sum, out=left.sum)
            done.append(_Node(left.start, 2 * left.size, left.sum))
    return done


def _add_up(nodes: Sequence[_Node], total: Array) -> None:
    """Write the sum over all shards.

    Nodes that are left over, because the number of shards is not a power of two, are added from the right.
    """
    *others, last = nodes
    others, right = _joined(others), last.sum
    while others:
        left = others.pop().sum
        right = np.add(left, right, out=left if others else total)
    if right is not total:
        total[...] = right


class _Bucket:
    """Neighbouring arrays that are sent together: a range of the numbers of all arrays."""

    def __init__(self, tag: int, start: int) -> None:
        self.tag, self.start, self.end = tag, start, start
        self.names: set[str] = set()

    def begin(self) -> None:
        """Reset the state for a new batch."""
        self.missing = set(self.names)
        self.nodes: list[_Node] = []
        self.awaited: list[tuple[int, _Node, Request]] = []
        self.totals: list[Request] = []
        self.launched = self.added = False


class TreeSum:
    """Sums of named arrays over all shards of a batch, the same bits on all ranks.

    Parameters
    ----------
    ranks
        The processes that compute the shards.
    shards
        The number of shards.
    shapes
        The shapes of the arrays by name, in the order of a forward pass.
    """

    def __init__(self, ranks: Ranks, shards: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._ranks, self._mine, self._shapes = ranks, ranks.shards(shards), shapes
        self._offsets: dict[str, int] = {}
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[str, _Bucket] = {}
        end = 0
        for name, shape in reversed(list(shapes.items())):  # in the order of the backward pass
            if not self._buckets or self._buckets[-1].end - self._buckets[-1].start >= _BUCKET:
                self._buckets.append(_Bucket(_BUCKETS + 2 * len(self._buckets), end))
            bucket = self._bucket_of[name] = self._buckets[-1]
            self._offsets[name] = end
            end += math.prod(shape)
            bucket.end = end
            bucket.names.add(name)
        self._total = np.empty(end, np.float32)
        self._spare: list[Array] = []
        self._nodes: list[_Node] = []
        # The nodes of the other ranks (first shards and numbers of shards), and buffers for receiving this rank's
        # chunks.
        self._theirs = {
            rank: _joined([_Node(shard, 1, None) for shard in _range(shards, rank, ranks.size)])
            for rank in ranks.others
        }
        most = max(-(-(bucket.end - bucket.start) // ranks.size) for bucket in self._buckets)
        count = sum(map(len, self._theirs.values()))
        self._receive_buffers = [np.empty((count, most), np.float32) for _ in self._buckets]

    def begin(self, shard: int) -> None:
        """Begin a shard, every array of which has to be passed to `put`."""
        if shard == self._mine.start:
            self._spare += [node.sum for node in self._nodes]
            self._nodes = []
            for bucket in self._buckets:
                bucket.begin()
        self._nodes.append(_Node(shard, 1, self._spare.pop() if self._spare else np.empty_like(self._total)))
        if shard == self._mine[-1]:
            self._ranks.while_waiting = self.advance
            for bucket in self._buckets:
                self._expect(bucket)

    def put(self, name: str, array: Array) -> None:
        """Take an array of the shard; arrays of the rank's last shard are added up and sent."""
        self._part(self._nodes[-1].sum, name)[...] = array
        if self._nodes[-1].start == self._mine[-1]:
            bucket = self._bucket_of[name]
            bucket.missing.discard(name)
            if not bucket.missing and not bucket.launched:
                self._launch(bucket)
            self.advance()

    def put_zeros(self) -> None:
        """Take zeros for every array."""
        for name, shape in self._shapes.items():
            self.put(name, np.zeros(shape, np.float32))

    def end(self) -> None:
        """End a shard that is not the rank's last."""
        before = self._nodes
        self._nodes = _joined(before)
        kept = {id(node.sum) for node in self._nodes}
        self._spare += [node.sum for node in before if id(node.sum) not in kept]

    def totals(self) -> dict[str, Array]:
        """Wait for the sums over all shards and return them; the next batch overwrites them."""
        while not self.advance():
            self._ranks.pause()
        self._ranks.while_waiting = None
        self._ranks.flush()
        return {name: self._part(self._total, name) for name in self._shapes}

    def advance(self) -> bool:
        """Process messages that have arrived; return whether all sums are complete."""
        complete = [self._advance(bucket) for bucket in self._buckets]
        return all(complete)

    def _part(self, array: Array, name: str) -> Array:
        shape, start = self._shapes[name], self._offsets[name]
        return array[start : start + math.prod(shape)].reshape(shape)

    def _chunk(self, bucket: _Bucket, rank: int) -> slice:
        """Return the part of a bucket that a rank adds up for all."""
        chunk = _range(bucket.end - bucket.start, rank, self._ranks.size)
        return slice(bucket.start + chunk.start, bucket.start + chunk.stop)

    def _expect(self, bucket: _Bucket) -> None:
        """Begin to receive what the other ranks will send."""
        mine = self._chunk(bucket, self._ranks.rank)
        buffers = iter(self._receive_buffers[(bucket.tag - _BUCKETS) // 2])
        for rank, nodes in self._theirs.items():
            for node in nodes:
                array = next(buffers)[: mine.stop - mine.start]
                request = self._ranks.receive(array, rank, bucket.tag)
                bucket.awaited.append((rank, node._replace(sum=array), request))
            bucket.totals.append(self._ranks.receive(self._total[self._chunk(bucket, rank)], rank, bucket.tag + 1))

    def _launch(self, bucket: _Bucket) -> None:
        """Add up what this rank has of a bucket, and send the others their chunks."""
        bucket.launched = True
        every = slice(bucket.start, bucket.end)
        nodes = _joined([node._replace(sum=node.sum[every]) for node in self._nodes])
        for rank in self._ranks.others:
            chunk = self._chunk(bucket, rank)
            for node in nodes:
                self._ranks.send(node.sum[chunk.start - bucket.start : chunk.stop - bucket.start], rank, bucket.tag)
        mine = self._chunk(bucket, self._ranks.rank)
        part = slice(mine.start - bucket.start, mine.stop - bucket.start)
        bucket.nodes = [node._replace(sum=node.sum[part]) for node in nodes]

    def _advance(self, bucket: _Bucket) -> bool:
        if not bucket.launched:
            return False
        if not bucket.added:
            if not all(request.Test() for _, _, request in bucket.awaited):
                return False
            nodes = sorted([*bucket.nodes, *(node for _, node, _ in bucket.awaited)])
            total = self._total[self._chunk(bucket, self._ranks.rank)]
            _add_up(nodes, total)
            for rank in self._ranks.others:
                self._ranks.send(total, rank, bucket.tag + 1)
            bucket.added = True
        return all(request.Test() for request in bucket.totals)
