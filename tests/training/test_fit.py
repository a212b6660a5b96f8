"""The training loop: what it does to a network, and the state that it leaves if it does not finish."""

import copy
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import children
import convlane
from convlane import nn
from convlane.data import Loader, augment
from convlane.functional import cross_entropy
from convlane.training import (
    SGD,
    Adam,
    History,
    MeanIoU,
    accuracy,
    evaluate,
    fit,
    load_checkpoint,
    predict,
    save_checkpoint,
    schedule,
    top5,
)

COUNT, BATCH = 50, 8


@pytest.fixture
def data(rng):
    classes = rng.integers(0, 3, COUNT)
    images = rng.normal(size=(COUNT, 2, 6, 6)).astype(np.float32) + classes[:, None, None, None].astype(np.float32)
    return images, classes


def network(dropout=0.3):
    nn.init.seed(3)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.StochasticDepth(dropout), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))


def train(model, data, **options):
    options = {"epochs": 3, "optimizer": Adam(model, 0.01), "batch_size": BATCH, "verbose": False} | options
    return fit(model, data, **options)


def assert_same(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[key], err_msg=key)


def without_times(history):
    return {name: values for name, values in history.items() if name != "seconds"}


class Broken:
    """Data that raise an error before the batch of a given number, counted over all epochs."""

    def __init__(self, batches, at, error=KeyboardInterrupt):
        self.batches, self.at, self.error, self.count = batches, at, error, 0

    def __iter__(self):
        for batch in self.batches:
            if self.count == self.at:
                raise self.error
            self.count += 1
            yield batch


def in_batches(data):
    return [tuple(part[i : i + BATCH] for part in data) for i in range(0, COUNT, BATCH)]


def test_it_is_the_loop_one_would_write(data):
    model, twin = network(0), network(0)
    history = train(model, data, shuffle=False, epochs=2)
    optimizer = Adam(twin.train(), 0.01)
    step = convlane.value_and_grad(lambda x, y: cross_entropy(twin(x), y), twin)
    losses = []
    for _ in range(2):
        total = 0.0
        for images, classes in in_batches(data):
            loss, gradients = step(images, classes)
            optimizer.step(gradients)
            total += loss * len(images)
        losses.append(total / COUNT)
    assert_same(model, twin)
    np.testing.assert_allclose(history["loss"], losses)
    assert history.epochs == 2


def test_it_learns(data):
    model = network()
    optimizer = Adam(model, schedule.cosine(0.01, 20 * 7))
    history = train(model, data, epochs=20, optimizer=optimizer, validation=data, metrics=["accuracy"])
    assert list(history) == [
        *("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds"),
    ]
    assert history["validation_accuracy"][-1] > 0.95
    assert history["loss"][-1] < history["loss"][0]
    measured = evaluate(model, data, batch_size=BATCH)
    assert measured["accuracy"] == history["validation_accuracy"][-1]
    assert measured["loss"] == history["validation_loss"][-1]


def test_modes_are_set_and_restored(data):
    model = network()
    model[0].freeze()
    model[4].eval()
    modes = [module.training for module in model.modules()]
    seen = []

    def metric(outputs, targets):
        seen.append([module.training for module in model.modules()])
        return outputs[:, 0]

    before = model[1].running_mean.copy()
    train(model, data, epochs=1, validation=data, metrics={"own": metric})
    assert [module.training for module in model.modules()] == modes
    steps = len(in_batches(data))
    assert seen[0] == [True, False, *[True] * 6]
    assert not any(seen[steps])
    assert not np.array_equal(model[1].running_mean, before)
    assert int(model[1].num_batches_tracked) == steps
    evaluate(model, data)
    predict(model, data)
    assert [module.training for module in model.modules()] == modes
    assert int(model[1].num_batches_tracked) == steps
    with pytest.raises(KeyboardInterrupt):
        train(model, Broken(in_batches(data), 2))
    assert [module.training for module in model.modules()] == modes


def test_shuffling_visits_every_example_once_in_every_epoch(data):
    visited = []

    def loss(outputs, targets):
        visited.append(targets)
        return cross_entropy(outputs, targets % 3)

    model = network()
    train(model, (data[0], np.arange(COUNT)), loss=loss, epochs=2, metrics=[])
    first, second = np.concatenate(visited)[:COUNT], np.concatenate(visited)[COUNT:]
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert (first != second).any()
    assert (first != np.arange(COUNT)).any()


def test_the_seed_decides_everything(data):
    models = []
    for seed, threads in [(1, 1), (1, 3), (2, 1)]:
        model = network()
        with convlane.num_threads(threads):
            train(model, data, seed=seed)
        models.append(model)
    assert_same(models[0], models[1])
    assert not np.array_equal(models[0][0].weight, models[2][0].weight)


@pytest.mark.parametrize("at", range(0, 22, 3))
@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_interrupted_and_resumed_training_has_the_same_bits(at, kind, data, tmp_path):
    whole = data if kind == "arrays" else in_batches(data)
    options = {"validation": data, "patience": 2, "clip_norm": 1.0, "seed": 5}
    alone = network()
    expected = train(alone, whole, optimizer=SGD(alone, schedule.cosine(0.1, 21), 0.9), **options)
    path = tmp_path / "run.safetensors"
    steps = 0

    def interrupting(outputs, targets):
        nonlocal steps
        steps += 1
        if steps == at + 1:
            raise KeyboardInterrupt
        return cross_entropy(outputs, targets)

    model = network()
    with pytest.raises(KeyboardInterrupt):
        train(
            model,
            whole,
            optimizer=SGD(model, schedule.cosine(0.1, 21), 0.9),
            loss=interrupting,
            checkpoint=path,
            **options,
        )
    nn.init.seed(4)
    resumed = network()
    resumed[0].weight = np.zeros(resumed[0].weight.shape, np.float32)
    optimizer = SGD(resumed, schedule.cosine(0.1, 21), 0.9)
    history = train(resumed, whole, optimizer=optimizer, checkpoint=path, resume=True, **options)
    assert_same(resumed, alone)
    assert without_times(history) == without_times(expected)
    assert history.best_epoch == expected.best_epoch
    again = network()
    finished = train(again, whole, optimizer=SGD(again, 0.1, 0.9), checkpoint=path, resume=True, **options)
    assert_same(again, alone)
    assert finished == history


def test_data_with_an_epoch_continue_at_the_right_one(data, tmp_path):
    class Loader:
        def __init__(self):
            self.epoch = 7  # as if it had been used before

        def __iter__(self):
            order = np.random.default_rng(self.epoch).permutation(COUNT)
            self.epoch += 1
            for i in range(0, COUNT, BATCH):
                yield tuple(part[order[i : i + BATCH]] for part in data)

    alone = network()
    train(alone, Loader())
    for at in (3, 7, 10):  # 7: between two epochs
        model, loader = network(), Loader()
        step = iter(range(100))

        def metric(outputs, targets, step=step, at=at):
            if next(step) == at:
                raise KeyboardInterrupt
            return 0.0

        path = tmp_path / f"{at}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            train(model, loader, checkpoint=path, metrics={"own": metric})
        loader = Loader()
        loader.epoch = 0
        train(model, loader, checkpoint=path, resume=True, metrics={"own": lambda outputs, targets: 0.0})
        assert_same(model, alone)


@pytest.mark.parametrize("at", [7, 12, 15, 16])  # every epoch has 8 calls; the one at 15 validates
def test_a_loader_s_epochs_continue(at, data, tmp_path):
    def loader():
        return Loader(data, BATCH, shuffle=True, seed=3, augment=augment.RandomCrop(6, padding=1), workers=1)

    options = {"checkpoint": tmp_path / "run.safetensors", "validation": [data]}
    alone = network()
    expected = train(alone, loader(), validation=[data])
    model = network()
    with pytest.raises(KeyboardInterrupt):
        train(model, loader(), loss=failing_at(at, KeyboardInterrupt), **options)
    assert not [thread for thread in threading.enumerate() if "convlane.data" in thread.name]
    assert without_times(train(model, loader(), resume=True, **options)) == without_times(expected)
    assert_same(model, alone)


def failing_at(step, error=RuntimeError):
    calls = iter(range(100))

    def loss(outputs, targets):
        if next(calls) == step:
            raise error("no more")
        return cross_entropy(outputs, targets)

    return loss


def test_an_error_within_a_step_leaves_the_network_as_it_was_before(data):
    model, twin = network(), network()
    with pytest.raises(RuntimeError, match="no more"):
        train(model, in_batches(data), loss=failing_at(4))
    with pytest.raises(KeyboardInterrupt):
        train(twin, Broken(in_batches(data), 4))
    assert_same(model, twin)


def test_no_memory_for_the_optimiser_leaves_the_network_as_it_was(data, monkeypatch):
    def step(self, gradients, **options):
        raise MemoryError

    model, twin = network(), network()
    monkeypatch.setattr(Adam, "step", step)
    with pytest.raises(MemoryError):
        train(model, data)
    assert_same(model, twin)


def test_a_network_is_trained_by_one_fit_at_a_time(data):
    model = network()
    refused = []

    def nested(outputs, targets):
        if not refused:
            for part in (model, nn.Sequential(model[0])):  # in this thread and in another
                for run in (lambda fn: fn(), in_thread):
                    with pytest.raises(RuntimeError, match="another fit is training this network"):
                        run(lambda part=part: train(part, data))
                    refused.append(part)
        return cross_entropy(outputs, targets)

    train(model, data, loss=nested, epochs=1)
    assert len(refused) == 4
    with pytest.raises(RuntimeError, match="no more"):
        train(model, data, loss=failing_at(2))
    train(model, data, epochs=1)


def in_thread(function):
    """Run a function in another thread, and raise its error here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.mark.parametrize("how", ["data", "learning rate"])
def test_numbers_that_are_not_finite(how, data, tmp_path):
    images, classes = data
    images = images.copy()
    options = {"shuffle": False, "checkpoint": tmp_path / "run.safetensors"}
    model, twin = network(), network()
    if how == "data":
        images[BATCH * 3] = np.nan  # in the fourth step
        where, lr = "epoch 1, after step 3", 0.01
    else:
        where, lr = "epoch 1, after step 4", lambda step: 0.01 if step < 3 else 1e38
    with pytest.raises(FloatingPointError, match=where):
        train(model, (images, classes), optimizer=SGD(model, lr), **options)
    # The last finite loss was that of the third step, or of the fourth, whose parameters are very large.
    with pytest.raises(KeyboardInterrupt):
        train(twin, Broken(in_batches(data), 3 if how == "learning rate" else 2), optimizer=SGD(twin, 0.01), **options)
    assert all(np.isfinite(array).all() for array in model.state_dict().values())
    for (key, array), (_, other) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        np.testing.assert_array_equal(array, other, err_msg=key)
    assert evaluate(model, data)["loss"] < 10
    ignoring = network()
    history = train(ignoring, (images, classes), optimizer=SGD(ignoring, lr), on_nan="ignore", shuffle=False, epochs=2)
    assert not np.isfinite(history["loss"][-1])


def test_a_validation_loss_that_is_not_finite(data):
    model = network()
    bad = (np.full_like(data[0], np.inf), data[1])
    with pytest.raises(FloatingPointError, match="validation loss"):
        train(model, data, validation=bad)
    assert all(np.isfinite(array).all() for array in model.state_dict().values())


def test_early_stopping_keeps_the_best_weights(data):
    model = network(0)
    states = []

    def measure(outputs, targets):  # called once per epoch, because the validation data are one batch
        if not model.training:
            states.append(copy.deepcopy(model.state_dict()))
        return [0.1, 0.5, 0.9, 0.7, 0.9, 0.2, 0.95][max(len(states) - 1, 0)]

    options = {"metrics": {"own": measure}, "validation": [data], "epochs": 50, "monitor": "validation_own"}
    history = train(model, data, patience=3, **options)
    assert history.epochs == 6
    assert history.best_epoch == 3
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, states[2][key])
    states.clear()
    model = network(0)
    history = train(model, data, patience=5, **options | {"epochs": 4})
    assert (history.epochs, history.best_epoch) == (4, 3)
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, states[2][key])


def test_losses_and_errors_are_better_if_smaller(data):
    for monitor, expected in [("loss", None), ("own_error", 1), ("own", 3)]:
        model = network()
        values = iter(np.repeat([1.0, 2.0, 3.0], 7))
        metrics = {monitor: lambda o, t, values=values: next(values)} if expected else []
        history = train(model, data, metrics=metrics, monitor=monitor, patience=9)
        assert history.best_epoch == (expected or 1 + int(np.argmin(history["loss"])))


def test_gradients_are_clipped(data):
    model = network(0)
    before = np.concatenate([array.ravel() for array in model.parameters()])
    train(model, (data[0][:8] * 100, data[1][:8]), epochs=1, optimizer=SGD(model, 1.0), clip_norm=0.01)
    after = np.concatenate([array.ravel() for array in model.parameters()])
    np.testing.assert_allclose(np.linalg.norm(after - before), 0.01, rtol=1e-3)


def test_schedules_are_recorded(data):
    model = network()
    history = train(model, data, optimizer=SGD(model, schedule.step(0.5, 7)))
    np.testing.assert_allclose(history["learning_rate"], [0.5, 0.05, 0.005])
    history = train(model, data, optimizer=SGD(model, 0.25), epochs=1)
    assert history["learning_rate"] == [0.25]


@pytest.mark.parametrize("interrupts", children.INTERRUPTS)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times, interrupts, data, tmp_path):
    """The first Ctrl-C waits for the end of the step and leaves a checkpoint; the second one does not wait."""
    np.savez(tmp_path / "data.npz", images=data[0], classes=data[1])
    program = f"""
import os, signal, sys, time
import numpy as np
sys.path[:0] = {sys.path!r}
from convlane import nn
from convlane.functional import cross_entropy
from convlane.training import SGD, fit
data = np.load("data.npz")
model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
steps = []
def loss(outputs, targets):
    steps.append(0)
    if len(steps) == 10:
        for _ in range({times}):
            os.kill(os.getpid(), signal.SIGINT)
        print("still here", flush=True)
    return cross_entropy(outputs, targets)
before = signal.getsignal(signal.SIGINT)
try:
    fit(model, (data["images"], data["classes"]), epochs=1000, optimizer=SGD(model, 0.01), loss=loss, batch_size=8,
        checkpoint="run.safetensors")
except KeyboardInterrupt:
    print(len(steps))
assert signal.getsignal(signal.SIGINT) is before
"""
    command = children.python(interrupts, "-c", program)
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=os.environ.copy())
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("epoch 1/1000: loss ")
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    optimizer = SGD(model, 0.01)
    progress = load_checkpoint(tmp_path / "run.safetensors", model, optimizer)["progress"]
    if times == 1:
        assert lines[1:] == [
            "still here",
            "interrupted in epoch 2, after step 3; resume=True continues from run.safetensors",
            "10",
        ]
        assert (int(progress["epoch"]), int(progress["step"]), optimizer.steps) == (1, 3, 10)
    else:
        assert lines[1:] == ["10"]
        assert (int(progress["epoch"]), int(progress["step"]), optimizer.steps) == (1, 0, 7)


def test_signal_handlers_of_others_stay(data):
    def mine(number, frame):
        pass

    before = signal.signal(signal.SIGINT, mine)
    try:
        train(network(), data, metrics={"own": lambda o, t: float(signal.getsignal(signal.SIGINT) is mine)})
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(data, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    model = network()
    optimizer = Adam(model, 0.01)
    train(model, data, optimizer=optimizer, epochs=1, checkpoint=path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        train(model, data, optimizer=optimizer, epochs=2, checkpoint=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.safetensors"]


def test_a_missing_folder_is_an_error_before_training(data, tmp_path):
    model = network()
    with pytest.raises(FileNotFoundError, match="missing"):
        train(model, data, checkpoint=tmp_path / "missing" / "run.safetensors")
    assert_same(model, network())


def test_other_threads_train_as_well(data):
    alone, model = network(), network()
    train(alone, data)
    thread = threading.Thread(target=train, args=(model, data))
    thread.start()
    thread.join()
    assert_same(model, alone)


def test_a_checkpoint_is_a_file_of_weights(data, tmp_path):
    path = tmp_path / "run.safetensors"
    model = network()
    train(model, data, checkpoint=path)
    other = network()
    other.load_state_dict(convlane.load_weights(path))
    assert_same(other, model)


def test_other_checkpoints_are_refused_and_change_nothing(data, tmp_path):
    path, model = tmp_path / "run.safetensors", network()
    train(model, data, checkpoint=path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    before = other.state_dict()
    with pytest.raises(ValueError, match="does not match"):
        train(other, data, checkpoint=path, resume=True)
    assert all((array == before[key]).all() for key, array in other.state_dict().items())
    state = model.state_dict()
    for options, message in [
        ({"optimizer": SGD(model, 0.1)}, "not the state of this optimiser"),
        ({"seed": 1}, "seed=0"),
        ({"metrics": ["top5"]}, "other metrics"),
        ({"validation": data}, "other metrics or validation data"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(model, data, checkpoint=path, resume=True, **options)
        for key, array in model.state_dict().items():
            np.testing.assert_array_equal(array, state[key])
    for bad, message in [("weights", "not a checkpoint"), ("own", "not a checkpoint of this fit")]:
        path = tmp_path / f"{bad}.safetensors"
        if bad == "weights":
            convlane.save_weights(path, state)
        else:
            save_checkpoint(path, model, Adam(model), mine={"epoch": 3})
        with pytest.raises(ValueError, match=message):
            train(model, data, checkpoint=path, resume=True)
    assert train(model, data, checkpoint=tmp_path / "new.safetensors", resume=True).epochs == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs"),
        ({"epochs": 1.5}, TypeError, "epochs"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"patience": 0}, ValueError, "patience"),
        ({"patience": 1, "monitor": "validation_loss"}, ValueError, "loss, accuracy"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm"),
        ({"on_nan": "hide"}, ValueError, "on_nan"),
        ({"resume": True}, ValueError, "checkpoint"),
        ({"metrics": ["beauty"]}, ValueError, "accuracy, top5, mean_iou"),
        ({"metrics": [accuracy, "accuracy"]}, ValueError, "two metrics"),
        ({"metrics": {"loss": accuracy}}, ValueError, "'loss'"),
        ({"metrics": [3]}, TypeError, "function"),
        ({"metrics": {"own": lambda o, t: o}}, ValueError, "one number or 8"),
        ({"optimizer": SGD(nn.Linear(2, 2), 0.1)}, ValueError, "another network"),
        ({"data": 3}, TypeError, "tuple"),
        ({"data": iter([])}, TypeError, "only once"),
        ({"data": []}, ValueError, "empty"),
        ({"data": [np.zeros((3, 2, 6, 6), np.float32)]}, TypeError, "pairs"),
        ({"data": (np.zeros((3, 2, 6, 6), np.float32), [0, 1, 2])}, TypeError, "got tuple of ndarray, list"),
        ({"data": [np.zeros((3, 2, 6, 6), np.float32), np.arange(3)]}, TypeError, "got list of ndarray, ndarray"),
        ({"data": (np.zeros((3, 2, 6, 6), np.float32), np.zeros(2, int))}, ValueError, "3 images, but 2"),
        ({"data": [(np.zeros((3, 2, 6, 6), np.float32), np.zeros(2, int))]}, ValueError, "3 images, but 2"),
    ],
)
def test_bad_arguments(change, error, message, data):
    model = network()
    before = model.state_dict()
    change = dict(change)
    with pytest.raises(error, match=message):
        train(model, change.pop("data", data), **change)
    assert_same(model, network())
    assert model.state_dict().keys() == before.keys()


def test_no_epochs_change_nothing(data):
    model = network()
    assert train(model, data, epochs=0).epochs == 0
    assert_same(model, network())


def test_lines(data, capsys, monkeypatch):
    for tqdm in ("installed", "missing"):
        if tqdm == "missing":
            monkeypatch.setitem(sys.modules, "tqdm", None)
        train(network(), data, verbose=True, validation=data)
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
        assert all("validation_accuracy 0." in line for line in lines)
        assert err == ""
    train(network(), data)
    assert capsys.readouterr().out == ""


def test_metrics_get_the_first_of_several_outputs(data):
    class Two(nn.Module):
        def __init__(self):
            self.first, self.second = nn.Linear(72, 3), nn.Linear(72, 3)

        def forward(self, input):
            flat = convlane.functional.flatten(input)
            return self.first(flat), self.second(flat)

    model = Two()
    history = train(model, data, loss=lambda outputs, targets: cross_entropy(outputs[0], targets), epochs=20)
    assert history["accuracy"][-1] > 0.9


def test_predict(data):
    model = network().eval()
    expected = model(data[0])
    for given in (data[0], data, in_batches(data), [images for images, _ in in_batches(data)]):
        np.testing.assert_array_equal(predict(model, given, batch_size=7), expected)
    with pytest.raises(TypeError, match="got tuple of ndarray, list"):
        predict(model, (data[0], [0, 1]))
    plan = convlane.compile(model, (None, 2, 6, 6))
    np.testing.assert_allclose(predict(plan, data, batch_size=7), expected, rtol=1e-4, atol=1e-5)
    assert evaluate(plan, data)["accuracy"] == evaluate(model, data)["accuracy"]
    for call, message in [
        (lambda: predict(model, data[0][:0]), "empty"),
        (lambda: predict(model, data[0], batch_size=0), "batch_size"),
        (lambda: evaluate(model, []), "empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_evaluate_weighs_by_examples(data):
    model = network().eval()
    whole = evaluate(model, data, batch_size=COUNT, metrics=["accuracy", "top5"])
    parts = evaluate(model, data, batch_size=7, metrics=["accuracy", "top5"])
    assert whole.keys() == parts.keys() == {"loss", "accuracy", "top5"}
    np.testing.assert_allclose(list(whole.values()), list(parts.values()), rtol=1e-6)
    assert whole["top5"] == 1.0


@pytest.mark.parametrize("ignored", [-100, -1, 255])
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=["examples", "pixels"])
def test_ignored_examples_count_nowhere(ignored, shape, rng):
    """The results are those without the ignored examples, however these are distributed; one batch has only such."""
    outputs = rng.normal(size=(9, 7, *shape)).astype(np.float32)
    targets = outputs.argmax(1)
    targets = np.where(rng.random(targets.shape) < 0.3, rng.integers(0, 7, targets.shape), targets)
    counts = rng.random(targets.shape) < 0.6
    counts[2:4] = False

    def loss(outputs, targets):
        return cross_entropy(outputs, targets, ignore_index=ignored)

    metrics = {"accuracy": accuracy, "top5": top5, "iou": MeanIoU(), "mean": lambda outputs, targets: 0.25}
    masked = np.where(counts, targets, ignored)
    found = evaluate(lambda batch: batch, (outputs, masked), loss=loss, metrics=metrics, batch_size=2)
    rows, classes = np.moveaxis(outputs, 1, -1)[counts], targets[counts]
    expected = evaluate(lambda batch: batch, (rows, classes), metrics=metrics)
    assert found == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="no target is a class"):
        evaluate(lambda batch: batch, (outputs, np.full_like(targets, ignored)), loss=loss)


def test_training_continues_after_a_batch_without_examples(data):
    images, classes = data
    classes = classes.copy()
    classes[:BATCH] = -100
    model = network()
    history = train(model, (images, classes), shuffle=False)
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(array).all() for array in model.state_dict().values())


def test_targets_that_are_not_classes_all_count():
    images = np.ones((4, 1), np.float32)
    found = evaluate(
        lambda batch: batch,
        (images, np.array([3, 5, 7, 9])),
        loss=lambda outputs, ages: np.square(outputs[:, 0] - ages).mean(),
        metrics={"mean age": lambda outputs, ages: ages},
    )
    assert found == {"loss": 30.0, "mean age": 6.0}


def test_mean_iou_is_counted_over_all_the_data(rng):
    """It is not a mean over batches; a class that does not occur does not count."""
    outputs = rng.normal(size=(7, 5, 3, 4)).astype(np.float32)
    outputs[:, 4] = -9
    targets = rng.integers(0, 4, (7, 3, 4))
    targets[0], targets[3, 0] = 255, -1
    found = outputs.argmax(1)[(counts := (targets >= 0) & (targets < 5))]
    right = targets[counts]
    expected = np.mean([((found == c) & (right == c)).sum() / ((found == c) | (right == c)).sum() for c in range(4)])
    assert MeanIoU()(outputs, targets) == pytest.approx(expected)

    def loss(outputs, targets):
        return cross_entropy(outputs, np.where(targets < 5, targets, -1), ignore_index=-1)

    for size in (7, 2, 1):
        got = evaluate(lambda batch: batch, (outputs, targets), loss=loss, metrics="mean_iou", batch_size=size)
        assert got["mean_iou"] == pytest.approx(expected)
    assert np.isnan(MeanIoU()(outputs, np.full((7, 3, 4), 255)))
    with pytest.raises(TypeError, match="mean_iou: targets must hold integers"):
        MeanIoU()(outputs, outputs)
    with pytest.raises(ValueError, match=r"mean_iou: outputs have shape \(7, 5, 3, 4\), but targets \(7, 3\)"):
        MeanIoU()(outputs, targets[..., 0])


def segments(rng):
    """Return pictures of two textures, and maps of their classes with a border that is ignored."""
    labels = np.repeat(np.repeat(rng.integers(0, 2, (COUNT, 2, 2)), 3, 1), 3, 2)
    images = rng.normal(0, 0.3, (COUNT, 2, 6, 6)).astype(np.float32)
    images[:, 0] += labels
    labels[:, :, 0] = 255
    return images, labels.astype(np.uint8)


def segmentation_loss(outputs, targets):
    return cross_entropy(outputs, targets, ignore_index=255)


def test_maps_are_trained_on(rng):
    data = segments(rng)
    nn.init.seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    options = {"loss": segmentation_loss, "metrics": ["accuracy", "mean_iou"], "validation": data}
    history = train(model, data, epochs=12, **options)
    assert history["validation_mean_iou"][-1] > 0.9
    assert history["validation_accuracy"][-1] > 0.95
    plan = convlane.compile(model.eval(), (None, 2, 6, 6))
    again = evaluate(plan, data, loss=segmentation_loss, metrics=["accuracy", "mean_iou"])
    assert again["mean_iou"] == pytest.approx(history["validation_mean_iou"][-1], rel=1e-3)


def test_counts_continue_from_a_checkpoint(rng, tmp_path):
    data = segments(rng)
    calls = iter(range(100))

    def failing(outputs, targets):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return segmentation_loss(outputs, targets)

    alone, model = (nn.Sequential(nn.Conv2d(2, 2, 1)) for _ in range(2))
    model.load_state_dict(alone.state_dict())
    options = {"metrics": ["mean_iou"], "epochs": 1}
    expected = train(alone, data, loss=segmentation_loss, **options)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(model, data, loss=failing, checkpoint=path, **options)
    found = train(model, data, loss=segmentation_loss, checkpoint=path, resume=True, **options)
    assert found["mean_iou"] == expected["mean_iou"]


def test_top5_counts_ranks(rng):
    outputs = rng.normal(size=(200, 12)).astype(np.float32).round(1)  # with ties
    targets = rng.integers(0, 12, 200)
    ranked = np.argsort(-outputs, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(top5(outputs, targets), (ranked == targets[:, None]).any(1))
    np.testing.assert_array_equal(accuracy(outputs, targets), ranked[:, 0] == targets)
    assert not top5(np.full((1, 3), np.nan, np.float32), np.array([0])).any()


def test_history_plots_itself(tmp_path):
    history = History(
        {"loss": [3, 2, 1], "accuracy": [0.1, 0.2, 0.3], "learning_rate": [1, 1, 1], "seconds": [1, 1, 1]}
    )
    history.best_epoch = 2
    figure = history.plot(tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 1000
    losses, metrics = figure.axes
    assert [line.get_label() for line in losses.lines] == ["loss", "kept"]
    assert [line.get_label() for line in metrics.lines] == ["accuracy", "kept"]
    np.testing.assert_array_equal(losses.lines[0].get_xydata(), [[1, 3], [2, 2], [3, 1]])
    assert history.last()["loss"] == 1
    with pytest.raises(ValueError, match="columns"):
        history.append({"loss": 1.0})


def test_plots_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'convlane\[plot\]'"):
        History({"loss": [1]}).plot()
