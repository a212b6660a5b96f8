"""Two workers of Ray: their results are those of one process, also if one of them is killed."""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest

import convlane
import pictures
from convlane.scale import BatchPredictor
from pictures import NAMES, PREPARE

EXAMPLE = Path(__file__).parents[2] / "examples" / "classify_with_ray.py"
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own


@pytest.fixture(scope="module")
def ray():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def by_path(rows):
    return str(sorted((sorted(row.items()) for row in rows), key=str))


def test_pictures_become_parquet_though_a_worker_is_killed(ray, plan, folder, tmp_path):
    import pandas

    prepare = pictures.DiesOnce("07.jpg", tmp_path / "died")
    example = runpy.run_path(str(EXAMPLE))
    example["classify"](folder, plan, tmp_path / "out", prepare, names=NAMES, workers=2, threads=1, batch=4)
    rows = pandas.read_parquet(tmp_path / "out").to_dict("records")
    assert (tmp_path / "died").exists()
    assert by_path(rows) == by_path(pictures.rows_of_one_process(plan, folder))


def test_tasks(ray, plan, rng):
    images = rng.standard_normal((10, 3, 16, 16), np.float32)
    rows = ray.data.from_numpy(images).map_batches(
        BatchPredictor(plan, postprocess=pictures.threads_in_force, column="data"), batch_size=5, num_cpus=1
    )
    assert {row["threads"] for row in rows.take_all()} == {1}
    logits = ray.data.from_numpy(images).map_batches(BatchPredictor(plan, column="data"), batch_size=5)
    result = np.stack([row["result"] for row in logits.take_all()])
    np.testing.assert_array_equal(result, convlane.load_plan(plan)(images))


def test_threads_are_the_cpus_of_the_actor(ray, plan, folder):
    files = ray.data.from_items([{"path": path} for path in pictures.files(folder)])
    rows = files.map_batches(
        BatchPredictor,
        fn_constructor_args=(plan, PREPARE, pictures.threads_in_force),
        num_cpus=2,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    assert {row["threads"] for row in rows.take_all() if not row["error"]} == {2}
