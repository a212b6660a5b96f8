"""Training by several processes: the same bits as one process, and an end for all if one fails."""

import os
import shutil
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import ranks
from convlane import nn
from convlane.data import Loader
from convlane.functional import cross_entropy
from convlane.safetensors_file import open_tensors
from convlane.training import SGD, distributed, fit
from convlane.training.distributed import Ranks, TreeSum
from ranks import BATCH, COUNT, SHARDS


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@cache
def one_process():
    """Return the result of one process with the same shards."""
    model = ranks.network()
    return ranks.state(model, ranks.train(model, shards=SHARDS, validation=ranks.data(), clip_norm=0.5))


def raised(results, kind):
    """Return the messages of errors that all have the same type."""
    assert [type(result) for result in results] == [kind] * len(results), results
    return [str(result) for result in results]


# the tree


def tree(values):
    """Return the sum of values in the documented order."""
    if len(values) == 1:
        return values[0]
    left = 1 << (len(values) - 1).bit_length() - 1  # the largest power of two below their number
    return tree(values[:left]) + tree(values[left:])


@pytest.mark.parametrize("bucket", [1, 1 << 20])
@pytest.mark.parametrize(("shards", "size"), [(1, 1), (4, 1), (4, 2), (4, 3), (4, 4), (7, 1), (7, 2), (7, 5), (11, 3)])
def test_sums_over_shards_are_those_of_the_tree_for_any_number_of_ranks(shards, size, bucket, rng, monkeypatch):
    monkeypatch.setattr(distributed, "_BUCKET", bucket)
    shapes = {"a": (3, 5), "b": (), "c": (0,), "d": (2, 1, 4)}
    arrays = [
        {
            name: (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
            for name, shape in shapes.items()
        }
        for _ in range(2 * shards)
    ]

    def program(communicator):
        with Ranks(communicator) as mine:
            total, found = TreeSum(mine, shards, shapes), []
            for batch in (arrays[:shards], arrays[shards:]):
                for shard in mine.shards(shards):
                    total.begin(shard)
                    for name in "dbac":
                        total.put(name, batch[shard][name])
                    if shard != mine.shards(shards)[-1]:
                        total.end()
                found.append({name: array.copy() for name, array in total.totals().items()})
        return found

    for result in ranks.run(size, program):
        for batch, found in zip((arrays[:shards], arrays[shards:]), result, strict=True):
            assert_same(found, {name: tree([array[name] for array in batch]) for name in shapes})


def test_gradients_are_sent_while_those_of_earlier_layers_are_computed(monkeypatch):
    monkeypatch.setattr(distributed, "_BUCKET", 1)
    before_the_first_layers = []

    class Watched(TreeSum):
        def put(self, name, array):
            if name == "0.bias":
                exchange = self._ranks._communicator.exchange
                before_the_first_layers.append(sum(tag > 3 for rank, tag in exchange.log if rank == self._ranks.rank))
            super().put(name, array)

    monkeypatch.setattr(distributed, "TreeSum", Watched)
    ranks.run(2, lambda communicator: ranks.train(ranks.network(norm=False), communicator=communicator, epochs=1))
    assert min(before_the_first_layers) >= 2  # those of the linear layer


# fit


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_any_number_of_ranks_gives_the_bits_of_one_process(size):
    def program(communicator):
        nn.init.seed(communicator.rank)  # all begin with the parameters of the first one
        model = models[communicator.rank]
        options = {"shards": SHARDS, "validation": ranks.data(), "clip_norm": 0.5}
        history = ranks.train(model, communicator=communicator, **options)
        return ranks.state(model, history), history["seconds"]

    models = [ranks.network() for _ in range(size)]
    for model in models[1:]:
        model[0].weight = np.zeros_like(model[0].weight)
    results = ranks.run(size, program)
    for found, seconds in results:
        assert_same(found, one_process())
        assert seconds == results[0][1]


def test_shards_give_the_gradient_of_the_whole_batch():
    models = [ranks.network(0, norm=False) for _ in range(2)]
    for model, shards in zip(models, (1, 3), strict=True):
        ranks.train(model, optimizer=SGD(model, 0.1), shards=shards, clip_norm=1.0)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_ignored_examples_have_no_weight():
    images, classes = ranks.data()
    classes = np.where(np.arange(COUNT) % 8 < 3, -100, classes)  # all examples of a shard of two, half of another
    classes[8:16] = -100  # and a whole batch
    models = [ranks.network(0, norm=False) for _ in range(2)]
    histories = [
        ranks.train(model, data=(images, classes), optimizer=SGD(model, 0.1), shards=shards, shuffle=False)
        for model, shards in zip(models, (1, 4), strict=True)
    ]
    np.testing.assert_allclose(histories[1]["loss"], histories[0]["loss"], rtol=1e-5)
    assert histories[1]["accuracy"] == histories[0]["accuracy"]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_batch_norm_measures_each_shard(rng):
    images, classes = rng.normal(size=(5, 2, 6, 6)).astype(np.float32), np.zeros(5, int)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))
    fit(model, (images, classes), epochs=1, optimizer=SGD(model, 0.1), shards=2, shuffle=False, verbose=False)
    means = [part.mean((0, 2, 3), dtype=np.float64) for part in (images[:2], images[2:])]
    variances = [part.var((0, 2, 3), dtype=np.float64, ddof=1) for part in (images[:2], images[2:])]
    np.testing.assert_allclose(model[0].running_mean, 0.1 * (means[0] * 2 + means[1] * 3) / 5, rtol=1e-5)
    np.testing.assert_allclose(model[0].running_var, 0.9 + 0.1 * (variances[0] * 2 + variances[1] * 3) / 5, rtol=1e-5)
    assert int(model[0].num_batches_tracked) == 1


def test_buffers_that_do_not_change_keep_their_bits(rng):
    class Masked(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(2, 2)
            self.register_buffer("mask", np.array([0.1, -np.inf], np.float32))

        def forward(self, x):
            return self.linear(x)

    model = Masked()
    points = rng.normal(size=(6, 2)).astype(np.float32)
    fit(model, (points, np.ones(6, int)), epochs=1, optimizer=SGD(model, 0.1), shards=3, verbose=False)
    assert model.mask.tolist() == [np.float32(0.1), -np.inf]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rank_reads_its_shards_only(workers):
    images, classes = ranks.data()

    class Samples:
        def __init__(self):
            self.read = []

        def __len__(self):
            return COUNT

        def __getitem__(self, index):
            self.read.append(index)
            return images[index], int(classes[index])

    def program(communicator):
        samples = Samples()
        model = models[communicator.rank]
        loader = Loader(samples, BATCH, shuffle=True, workers=workers)
        ranks.train(model, data=loader, shards=SHARDS, communicator=communicator, epochs=1)
        return model.state_dict(), samples.read

    models = [ranks.network() for _ in range(2)]
    results = ranks.run(2, program)
    assert sorted(results[0][1] + results[1][1]) == list(range(COUNT))
    assert abs(len(results[0][1]) - len(results[1][1])) <= 1
    assert_same(results[0][0], results[1][0])
    models = [ranks.network()]
    ((expected, _),) = ranks.run(1, program)
    assert_same(results[0][0], expected)


def test_each_rank_takes_its_part_of_other_iterables():
    def program(communicator):
        model = models[communicator.rank]
        ranks.train(model, data=data, shuffle=False, shards=2, communicator=communicator, epochs=1)
        return model.state_dict()

    models, data = [ranks.network() for _ in range(2)], ranks.in_batches()
    found = ranks.run(2, program)
    models, data = [ranks.network()], ranks.data()
    (expected,) = ranks.run(1, program)
    for state in found:
        assert_same(state, expected)


def test_a_checkpoint_is_resumed_with_another_number_of_ranks(tmp_path, capsys):
    options = {"shards": SHARDS, "validation": ranks.data(), "clip_norm": 0.5}
    options |= {"checkpoint": tmp_path / "checkpoint.safetensors", "resume": True}

    def program(communicator):
        model = models[communicator.rank]
        others = {} if communicator.rank else {"verbose": True}
        history = ranks.train(model, communicator=communicator, epochs=epochs, **options, **others)
        return ranks.state(model, history)

    for size, epochs in ((2, 1), (4, 2), (1, 3)):  # noqa: B007  the program uses it
        models = [ranks.network() for _ in range(size)]
        results = ranks.run(size, program)
    assert_same(results[0], one_process())
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        *(["epoch", "1/1:"], ["continuing", "in"], ["epoch", "2/2:"], ["continuing", "in"], ["epoch", "3/3:"]),
    ]
    options["shards"] = 2
    models = [ranks.network() for _ in range(2)]
    for message in raised(ranks.run(2, program), ValueError):
        assert "it was written with shards=4, but fit has 2" in message


# what fails


@pytest.mark.parametrize("failing", [0, 2])
def test_an_error_of_one_ends_all(failing):
    def program(communicator):
        def loss(outputs, targets):
            if communicator.rank == failing:
                raise ZeroDivisionError("by design")
            return cross_entropy(outputs, targets)

        ranks.train(models[communicator.rank], loss=loss, communicator=communicator)

    models = [ranks.network() for _ in range(3)]
    before = models[0].state_dict()
    results = ranks.run(3, program)
    assert isinstance(results.pop(failing), ZeroDivisionError)
    for message in raised(results, RuntimeError):
        assert message == f"fit: rank {failing} has failed: ZeroDivisionError: by design"
    for model in models:
        assert_same(model.state_dict(), before)


def test_a_lost_rank_ends_all():
    def program(communicator):
        def loss(outputs, targets):
            if communicator.rank == 1:
                communicator.die()
            return cross_entropy(outputs, targets)

        ranks.train(models[communicator.rank], loss=loss, communicator=communicator)

    models = [ranks.network() for _ in range(2)]
    first, second = ranks.run(2, program)
    assert isinstance(first, ConnectionError)
    assert isinstance(second, SystemExit)


def test_a_checkpoint_that_cannot_be_written_ends_all(tmp_path):
    def program(communicator):
        model = models[communicator.rank]
        ranks.train(model, checkpoint=tmp_path, communicator=communicator)  # a folder

    models = [ranks.network() for _ in range(2)]
    first, second = ranks.run(2, program)
    assert isinstance(first, OSError)
    assert isinstance(second, RuntimeError)
    assert "rank 0 has failed: IsADirectoryError" in str(second)


def test_a_loss_that_is_not_finite_is_an_error_on_all():
    images, classes = ranks.data()
    images[10] = np.nan
    models = [ranks.network() for _ in range(3)]

    def program(communicator):
        data = (images, classes)
        ranks.train(models[communicator.rank], data=data, shuffle=False, shards=3, communicator=communicator)

    messages = raised(ranks.run(3, program), FloatingPointError)
    assert messages[0].startswith("fit: the loss is nan in epoch 1, after step 1")
    assert len(set(messages)) == 1
    assert_same(models[1].state_dict(), models[0].state_dict())


def test_another_training_may_follow_one_that_failed():
    def program(communicator):
        def broken(outputs, targets):
            return cross_entropy(outputs, targets) / communicator.rank

        model = models[communicator.rank]
        with pytest.raises((ZeroDivisionError, RuntimeError)):
            ranks.train(model, loss=broken, communicator=communicator)
        options = {"shards": SHARDS, "validation": ranks.data(), "clip_norm": 0.5}
        return ranks.state(model, ranks.train(model, communicator=communicator, **options))

    models = [ranks.network() for _ in range(2)]
    for found in ranks.run(2, program):
        assert_same(found, one_process())


def test_ranks_must_agree():
    def program(communicator):
        options = {"batch_size": 8 - communicator.rank, "shards": 2}
        ranks.train(models[communicator.rank], data=ranks.data(), communicator=communicator, **options)

    models = [ranks.network() for _ in range(2)]
    images, classes = ranks.data()
    for message in raised(ranks.run(2, program), ValueError):
        assert message == "fit: batch_size must be the same on all ranks, got 8 on rank 0, but 7 on rank 1"

    def uneven(communicator):
        batches = ((images, classes) for _ in range(3 - communicator.rank))
        ranks.train(models[communicator.rank], data=batches, communicator=communicator, epochs=1)

    for message in raised(ranks.run(2, uneven), ValueError):
        assert message == "fit: rank 1 has no more batches, but rank 0 has"


def test_validation_of_other_lengths():
    models = [ranks.network() for _ in range(2)]
    images, classes = ranks.data()

    def program(communicator):
        validation = [(images[:8], classes[:8])] * (2 + communicator.rank)
        ranks.train(models[communicator.rank], shards=2, communicator=communicator, epochs=1, validation=validation)

    for message in raised(ranks.run(2, program), ValueError):
        assert message == "fit: all ranks must have the same number of batches of validation data, got [2, 3]"


@pytest.mark.parametrize(
    ("optimizers", "kind", "message"),
    [
        (lambda model, rank: SGD(model, 0.1 + rank), ValueError, "the optimiser must be the same on all ranks"),
        (lambda model, rank: SGD(model, 0.1, momentum=rank / 2), ValueError, "the optimiser must be the same"),
        (
            lambda model, rank: SGD(model, lambda step: 0.1 + step * rank),
            RuntimeError,
            "not the same on all ranks after",
        ),
    ],
    ids=["rates", "momentum", "schedules"],
)
def test_optimisers_that_differ(optimizers, kind, message):
    models = [ranks.network() for _ in range(2)]

    def program(communicator):
        model = models[communicator.rank]
        optimizer = optimizers(model, communicator.rank)
        ranks.train(model, optimizer=optimizer, shards=2, communicator=communicator, epochs=2)

    for text in raised(ranks.run(2, program), kind):
        assert message in text


@pytest.mark.parametrize(
    ("shards", "kind", "message"),
    [
        (0, ValueError, "shards must be"),
        (1.5, TypeError, "shards must be"),
        (1, ValueError, "number of ranks, 2, got 1"),
        (10**9, ValueError, "shards must be at most 4096, got 1000000000"),
    ],
)
def test_bad_shards(shards, kind, message):
    models = [ranks.network() for _ in range(2)]
    found = ranks.run(2, lambda each: ranks.train(models[each.rank], shards=shards, communicator=each))
    assert all(message in str(error) or "has failed" in str(error) for error in found)
    assert kind in map(type, found)


def test_only_communicators_are_accepted():
    with pytest.raises(TypeError, match=r"must be like mpi4py.MPI.Comm, but a Barrier has no rank, size, Isend, Irecv"):
        ranks.train(ranks.network(), communicator=threading.Barrier(2))


# MPI


def launch(size, what, folder):
    """Run `ranks.py` in a number of processes of one thread."""
    launcher = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    paths = [str(Path(ranks.__file__).parent), str(Path(nn.__file__).parents[2])]
    command = [launcher, "--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-n", str(size)]
    return subprocess.run(
        [*command, sys.executable, "-m", "mpi4py", ranks.__file__, what, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_gone(folder, size):
    """Assert that this number of processes existed and that all have ended."""
    numbers = [int(path.stem) for path in Path(folder).glob("*.process")]
    assert len(numbers) == size
    until = time.monotonic() + 60  # the process that inherits them may take a moment to reap them
    while any(Path(f"/proc/{number}").exists() for number in numbers):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.mpi
def test_mpi_gives_the_bits_of_one_process(tmp_path):
    for size in (2, 4):
        done = launch(size, f"of{size}", tmp_path)
        assert done.returncode == 0, done.stderr
        for rank in range(size):
            with np.load(tmp_path / f"of{size}-{rank}.npz") as found:
                assert_same(dict(found), one_process())


@pytest.mark.mpi
@pytest.mark.parametrize("what", ["killed", "failing"])
def test_a_killed_process_of_mpi_ends_all(what, tmp_path):
    done = launch(3, what, tmp_path)
    assert done.returncode != 0
    assert time.time() - (tmp_path / "acting").stat().st_mtime < 30
    assert "came to the end" not in done.stdout
    assert_gone(tmp_path, 3)
    if what == "failing":
        assert "OSError: the disk is broken" in done.stderr


@pytest.mark.mpi
def test_mpi_continues_where_it_was_interrupted_with_other_ranks(tmp_path):
    done = launch(2, "interrupted", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "came to the end" not in done.stdout
    path = tmp_path / "checkpoint.safetensors"
    with open_tensors(path) as file:
        assert int(file.read("progress.step")) == 4
    model, expected = ranks.network(), ranks.network()
    options = {"data": ranks.in_batches(), "shards": SHARDS, "epochs": 1}
    history = ranks.train(model, checkpoint=path, resume=True, **options)
    assert_same(ranks.state(model, history), ranks.state(expected, ranks.train(expected, **options)))
