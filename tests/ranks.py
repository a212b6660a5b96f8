"""Ranks of a training run: threads of this process, for most tests, and the program that the tests of MPI launch."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections import defaultdict, deque
from pathlib import Path

import numpy as np

from convlane import nn
from convlane.training import Adam, fit

COUNT, BATCH, SHARDS = 50, 8, 4  # the last batch has two examples, so that some shards have none


def data():
    rng = np.random.default_rng(5)
    classes = rng.integers(0, 3, COUNT)
    images = rng.normal(size=(COUNT, 2, 6, 6)).astype(np.float32) + classes[:, None, None, None].astype(np.float32)
    return images, classes


def in_batches():
    images, classes = data()
    return [(images[i : i + BATCH], classes[i : i + BATCH]) for i in range(0, COUNT, BATCH)]


def network(dropout=0.3, norm=True):
    nn.init.seed(3)
    layers = [nn.Conv2d(2, 4, 3), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))


def train(model, **options):
    options = {"epochs": 3, "optimizer": Adam(model, 0.01), "batch_size": BATCH, "verbose": False} | options
    return fit(model, options.pop("data", None) or data(), **options)


class _Channel:
    """Messages from one rank to another with one tag; sent messages wait for receivers, and receivers for messages."""

    def __init__(self):
        self.sent, self.wanted = deque(), deque()

    def match(self):
        while self.sent and self.wanted:
            message, (request, buffer) = self.sent.popleft(), self.wanted.popleft()
            buffer[: message.size] = message
            request.done = True


class _Request:
    def __init__(self, communicator, peer, done):
        self.communicator, self.peer, self.done = communicator, peer, done

    def Test(self):
        if not self.done and self.peer in self.communicator.exchange.lost:
            raise ConnectionError(f"rank {self.peer} is lost")
        return self.done


class _Exchange:
    def __init__(self, size):
        self.size, self.lock, self.lost, self.log = size, threading.Lock(), set(), []
        self.channels = defaultdict(_Channel)


class Threads:
    """A communicator between threads of one process."""

    def __init__(self, exchange, rank, context=()):
        self.exchange, self.rank, self.size = exchange, rank, exchange.size
        self.context, self.duplicates = context, 0

    def Isend(self, buf, dest, tag):
        assert buf.flags.c_contiguous
        with self.exchange.lock:
            if self.rank in self.exchange.lost:
                return _Request(self, dest, True)
            self.exchange.log.append((self.rank, tag))
            channel = self.exchange.channels[self.context, self.rank, dest, tag]
            channel.sent.append(buf.copy())
            channel.match()
        return _Request(self, dest, True)

    def Irecv(self, buf, source, tag):
        assert buf.flags.c_contiguous
        assert buf.flags.writeable
        request = _Request(self, source, False)
        with self.exchange.lock:
            channel = self.exchange.channels[self.context, source, self.rank, tag]
            channel.wanted.append((request, buf))
            channel.match()
        return request

    def Dup(self):
        self.duplicates += 1
        return Threads(self.exchange, self.rank, (*self.context, self.duplicates))

    def die(self):
        """End as if the process had been killed."""
        with self.exchange.lock:
            self.exchange.lost.add(self.rank)
        raise SystemExit

    def Free(self):
        with self.exchange.lock:
            for (context, _, receiver, _), channel in self.exchange.channels.items():
                if context == self.context and receiver == self.rank:
                    assert not channel.sent
                    assert not channel.wanted


def run(size, program):
    """Return what `program` returns or raises for each rank; it gets a communicator."""
    exchange, results = _Exchange(size), [None] * size

    def one(rank):
        try:
            results[rank] = program(Threads(exchange, rank))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    return results


def state(model, history):
    """Return everything that must be the same on all ranks."""
    columns = {name: np.array(values) for name, values in history.items() if name != "seconds"}
    return {**{f"model.{name}": array for name, array in model.state_dict().items()}, **columns}


def main(what, folder):
    """Train as one rank of several."""
    from mpi4py import MPI

    world, model = MPI.COMM_WORLD, network()
    options = {"shards": SHARDS, "communicator": world, "checkpoint": Path(folder) / "checkpoint.safetensors"}
    (Path(folder) / f"{os.getpid()}.process").touch()

    def batches(act):
        for number, batch in enumerate(in_batches()):
            if world.rank == 1 and number == 3:
                (Path(folder) / "acting").touch()
                act()
            yield batch

    def fail():
        raise OSError("the disk is broken")

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    acts = {"killed": lambda: os.kill(os.getpid(), signal.SIGKILL), "failing": fail, "interrupted": interrupt}
    if what in acts:
        with contextlib.suppress(KeyboardInterrupt):
            train(model, data=batches(acts[what]), **{**options, "epochs": 1})
            print(f"rank {world.rank} came to the end")
        return
    history = train(model, validation=data(), clip_norm=0.5, **options)
    np.savez(Path(folder) / f"{what}-{world.rank}.npz", **state(model, history))


if __name__ == "__main__":
    main(*sys.argv[1:])
