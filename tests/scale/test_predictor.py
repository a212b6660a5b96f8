"""Saved plans as functions of batches, without an engine."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import convlane
import pictures
from convlane import nn, scale
from convlane.functional import softmax
from convlane.scale import BatchPredictor, BestClass, worker_threads
from pictures import BROKEN, NAMES, PREPARE


@pytest.fixture
def images(rng):
    return rng.standard_normal((5, 3, 16, 16), np.float32)


def check_rows(rows, files, plan):
    """Compare columns or rows with the plan's result for each picture alone."""
    run = convlane.load_plan(plan)
    assert [row["path"] for row in rows] == files
    for row in rows:
        if os.path.basename(row["path"]) in BROKEN:
            assert (row["class_index"], row["category"]) == (-1, "")
            assert np.isnan(row["probability"])
            assert "ValueError" in row["error"]
            assert row["path"] in row["error"]
        else:
            probabilities = softmax(run(PREPARE(row["path"])), 0)
            best = np.argmax(probabilities)
            assert (row["class_index"], row["category"], row["error"]) == (best, NAMES[best], "")
            assert row["probability"] == probabilities[best]


@pytest.mark.parametrize("threads", [1, 3])
def test_items_become_rows_and_broken_ones_have_errors(plan, folder, threads):
    predictor = BatchPredictor(plan, PREPARE, BestClass(NAMES), threads=threads)
    files = pictures.files(folder)
    check_rows(predictor(iter(files)), files, plan)


def test_columns_of_a_dict_are_kept(plan, folder):
    files = pictures.files(folder)
    batch = {"path": np.array(files), "number": np.arange(len(files))}
    result = BatchPredictor(plan, PREPARE, BestClass(NAMES))(batch)
    assert list(result) == ["path", "number", "class_index", "probability", "category", "error"]
    assert result["number"] is batch["number"]
    check_rows([dict(zip(result, row, strict=True)) for row in zip(*result.values(), strict=True)], files, plan)


def test_columns_have_the_same_types_whether_items_are_sound_or_not(plan, folder):
    predictor = BatchPredictor(plan, PREPARE, BestClass(NAMES))
    sound, broken = ([str(folder / name) for name in names] for names in (["00.jpg"], BROKEN))
    types = {tuple(v.dtype for v in predictor(np.array(paths)).values()) for paths in (sound, broken, sound + broken)}
    assert all("np.str_" not in error for error in predictor(np.array(broken))["error"])
    assert types == {(np.dtype("int64"), np.dtype("float32"), np.dtype("O"), np.dtype("O"))}
    assert [len(column) for column in predictor(np.array([], object)).values()] == [0] * 4
    assert predictor([]) == []


def test_arrays_of_numbers_become_what_the_plan_returns(plan, images):
    expected = convlane.load_plan(plan)(images)
    np.testing.assert_array_equal(BatchPredictor(plan)(images), expected)
    np.testing.assert_array_equal(
        BatchPredictor(plan, postprocess=BestClass())(images)["class_index"], expected.argmax(1)
    )
    doubled = BatchPredictor(plan, lambda item: 2 * item)(images)
    np.testing.assert_array_equal(doubled, convlane.load_plan(plan)(2 * images))
    assert BatchPredictor(plan)(images[:0]).shape == (0, 5)


def test_a_result_without_names_is_a_column(plan, images):
    table = {"pixels": images, "keep": np.arange(5)}
    result = BatchPredictor(plan, column="pixels")(table)
    assert list(result) == ["pixels", "keep", "result", "error"]
    np.testing.assert_array_equal(result["result"], convlane.load_plan(plan)(images))


def test_a_broken_item_of_an_array_is_an_error(plan, images):
    def refuse(item):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        BatchPredictor(plan, refuse)(images)


def test_mistakes_of_the_program_end_the_call(plan):
    with pytest.raises(TypeError, match="NoneType"):
        BatchPredictor(plan, PREPARE)([None])


def test_it_is_pickled_as_its_path(plan, images):
    predictor = BatchPredictor(plan, PREPARE, BestClass(NAMES), column="file", threads=2)
    predictor(images[:0])
    packed = pickle.dumps(predictor)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    assert (again.plan_path, again.column, again.threads) == (str(plan), "file", 2)
    assert again.preprocess == PREPARE


def test_a_relative_path_is_resolved_where_it_was_given(plan, images, monkeypatch, tmp_path):
    monkeypatch.chdir(plan.parent)
    predictor = BatchPredictor(plan.name)
    monkeypatch.chdir("/")
    assert predictor(images).shape == (5, 5)


def test_a_process_reads_a_plan_once_and_again_when_it_was_replaced(plan, images, monkeypatch):
    read = []
    monkeypatch.setattr(scale, "load_plan", lambda path, mmap: read.append(path) or convlane.load_plan(path))
    first = BatchPredictor(plan)(images)
    pickle.loads(pickle.dumps(BatchPredictor(plan)))(images)
    assert len(read) == 1
    pictures.save_plan(plan, seed=2)
    assert np.abs(BatchPredictor(plan)(images) - first).max() > 1e-3
    assert len(read) == 2


def test_plans_are_mapped_by_default(plan, images, monkeypatch):
    asked = []
    monkeypatch.setattr(
        scale, "load_plan", lambda path, mmap: asked.append(mmap) or convlane.load_plan(path, mmap=mmap)
    )
    for mmap in (True, False):
        predictor = pickle.loads(pickle.dumps(BatchPredictor(plan, mmap=mmap)))
        np.testing.assert_array_equal(predictor(images), convlane.load_plan(plan)(images))
    assert asked == [True, False]


def test_few_plans_are_kept(tmp_path, images):
    for i in range(6):
        pictures.save_plan(tmp_path / str(i))
        BatchPredictor(tmp_path / str(i))(images)
    assert len(scale._plans) <= 4


def test_calls_take_turns_at_the_network(plan, images, monkeypatch):
    running, most, lock = [], [], threading.Lock()

    class Watched:
        input_shape = (None, 3, 16, 16)

        def __call__(self, batch):
            running.append(1)
            with lock:
                most.append(len(running))
            assert convlane.get_num_threads() == 2
            running.pop()
            return batch

    scale._reset_after_fork()
    monkeypatch.setattr(scale, "load_plan", lambda path, mmap: Watched())
    predictor = BatchPredictor(plan, threads=2)
    callers = [threading.Thread(target=predictor, args=(images,)) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert most == [1] * 8
    scale._reset_after_fork()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_of_fork_works(plan, folder):
    predictor = BatchPredictor(plan, PREPARE, BestClass(NAMES), threads=2)
    files = pictures.files(folder)
    expected = predictor(files)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert str(pool.apply_async(predictor, (files,)).get(60)) == str(expected)


def test_threads_are_the_engine_s(monkeypatch):
    monkeypatch.delenv("CONVLANE_NUM_THREADS", raising=False)
    context = SimpleNamespace(worker=SimpleNamespace(mode=1), get_assigned_resources=lambda: {"CPU": 2.5})
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context, WORKER_MODE=1)
    worker = SimpleNamespace(state=SimpleNamespace(nthreads=5))
    dask = SimpleNamespace(get_worker=lambda: worker)
    default = convlane.get_num_threads()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "distributed", dask)
    assert worker_threads() == 2
    context.get_assigned_resources = lambda: {}
    assert worker_threads() == 1
    context.worker.mode = 0
    assert worker_threads() == 5

    def nowhere():
        raise ValueError("No worker found")

    dask.get_worker = nowhere
    assert worker_threads() == default
    dask.get_worker, context.worker.mode = lambda: worker, 1
    monkeypatch.setenv("CONVLANE_NUM_THREADS", "3")
    assert worker_threads() == default


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preprocess": 3}, TypeError, "preprocess must be a function, got int"),
        ({"postprocess": "x"}, TypeError, "postprocess must be a function, got str"),
        ({"threads": 0}, ValueError, "between 1 and 1024, got 0"),
    ],
)
def test_bad_arguments(plan, arguments, error, message):
    with pytest.raises(error, match=message):
        BatchPredictor(plan, **arguments)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda y: y[:1], ValueError, r"a row for each of 5 examples, but 'result' has the shape \(1, 5\)"),
        (lambda y: 3.0, ValueError, r"'result' has the shape \(\)"),
        (lambda y: {"error": y}, ValueError, "must not return a column 'error'"),
        (lambda y: {"when": y[:, 0].astype("M8[s]")}, TypeError, "'when' has the type datetime64"),
    ],
)
def test_bad_results(plan, images, returned, error, message):
    with pytest.raises(error, match=message):
        BatchPredictor(plan, postprocess=returned, column="pixels")({"pixels": images})


def test_bad_batches(plan, images):
    with pytest.raises(ValueError, match="has the columns 'a', but the items must be in column='path'"):
        BatchPredictor(plan)({"a": images})
    with pytest.raises(ValueError, match="must have one shape"):
        BatchPredictor(plan)([images[0], images[0, :, 1:]])
    with pytest.raises(ValueError, match="the plan was compiled for"):
        BatchPredictor(plan)([images[0, :, 1:]])


def test_plans_of_one_batch_or_several_inputs_are_refused(tmp_path, images):
    network = nn.Conv2d(3, 2, 3).eval()
    convlane.compile(network, (2, 3, 16, 16)).save(tmp_path / "two")
    with pytest.raises(ValueError, match="compile it with None as the batch"):
        BatchPredictor(tmp_path / "two", mmap=False)(images)
    convlane.compile(lambda a, b: a + b, ((None, 4), (None, 4))).save(tmp_path / "sum")
    with pytest.raises(ValueError, match="must have one input"):
        BatchPredictor(tmp_path / "sum", mmap=False)(images)
    with pytest.raises(FileNotFoundError, match="missing"):
        BatchPredictor(tmp_path / "missing")(images)


def test_plans_of_open_size(tmp_path, images):
    convlane.compile(nn.Conv2d(3, 2, 3).eval(), (None, 3, None, None)).save(tmp_path / "open")
    assert BatchPredictor(tmp_path / "open", mmap=False)(images).shape == (5, 2, 14, 14)


def test_no_examples_for_a_plan_of_open_size(tmp_path, images):
    """The sizes that it takes are not known when every item is broken."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).eval()
    convlane.compile(network, (None, 3, None, None)).save(tmp_path / "open")

    def refuse(item):
        raise ValueError("broken")

    predictor = BatchPredictor(tmp_path / "open", refuse, lambda y: y.mean((2, 3)), column="pixels", mmap=False)
    (row,) = predictor([images[0]])
    assert (row["error"], row["result"].shape) == ("ValueError: broken", (2,))
    assert predictor([]) == []
    assert predictor({"pixels": images[:0]})["result"].shape == (0, 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_function_may_use_a_predictor_of_the_same_plan(plan, images, threads):
    inner = BatchPredictor(plan, lambda image: image, threads=threads)
    outer = BatchPredictor(plan, lambda image: (inner(images[:2]), image)[1], threads=threads)
    np.testing.assert_array_equal(outer(images), BatchPredictor(plan)(images))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_end_of_an_iterator_is_a_mistake_of_the_program(plan, images, threads):
    given = iter(images[:2])
    with pytest.raises((StopIteration, RuntimeError)):
        BatchPredictor(plan, lambda image: next(given), threads=threads)(images)


def test_columns_are_not_overwritten(plan, images):
    with pytest.raises(ValueError, match="the batch already has a column 'error'"):
        BatchPredictor(plan, column="pixels")({"pixels": images, "error": ["earlier"] * len(images)})


def test_best_class():
    with pytest.raises(ValueError, match="has 5 classes, but there are 2 names"):
        BestClass(("a", "b"))(np.zeros((1, 5), np.float32))
    with pytest.raises(TypeError, match="must be a sequence of names, got the string 'ab'"):
        BestClass("ab")
    with pytest.raises(ValueError, match="must return logits"):
        BestClass()(np.zeros((1, 5, 2), np.float32))


def test_no_engine_is_imported():
    program = (
        "import sys, convlane.scale; sys.exit(any(n in sys.modules for n in ('ray', 'dask', 'distributed', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
