"""Two workers of Dask: their results are those of one process, also if one of them is killed."""

import os
import runpy
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import convlane
import pictures
from convlane.scale import BatchPredictor, BestClass
from pictures import NAMES, PREPARE

EXAMPLE = Path(__file__).parents[2] / "examples" / "classify_with_dask.py"
pytestmark = [pytest.mark.dask, pytest.mark.filterwarnings("ignore")]  # Dask's own


@pytest.fixture(scope="module")
def client():
    from dask.distributed import LocalCluster

    with (
        mock.patch.dict(os.environ),  # a cluster leaves its workers' OMP_NUM_THREADS in this process
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        cluster.get_client() as client,
    ):
        yield client


def test_pictures_become_parquet_though_a_worker_is_killed(client, plan, folder, tmp_path):
    import pandas

    prepare = pictures.DiesOnce("07.jpg", tmp_path / "died")
    runpy.run_path(str(EXAMPLE))["classify"](folder, plan, tmp_path / "out", prepare, names=NAMES, batch=4)
    table = pandas.read_parquet(tmp_path / "out")
    assert (tmp_path / "died").exists()
    assert str(table.to_dict("records")) == str(pictures.rows_of_one_process(plan, folder))


def test_blocks_of_arrays(client, plan, rng):
    import dask.array

    images = rng.standard_normal((10, 3, 16, 16), np.float32)
    blocks = dask.array.from_array(images, chunks=(4, -1, -1, -1))
    logits = blocks.map_blocks(
        BatchPredictor(plan), drop_axis=(2, 3), chunks=(blocks.chunks[0], (5,)), meta=np.empty((0, 0), np.float32)
    )
    np.testing.assert_array_equal(logits.compute(), convlane.load_plan(plan)(images))


def test_partitions_of_bags(client, plan, folder):
    import dask.bag

    files = dask.bag.from_sequence(pictures.files(folder), npartitions=3)
    rows = files.map_partitions(BatchPredictor(plan, PREPARE, BestClass(NAMES))).compute()
    assert str(rows) == str(pictures.rows_of_one_process(plan, folder))
    rows = files.map_partitions(BatchPredictor(plan, PREPARE, pictures.threads_in_force)).compute()
    assert {row["threads"] for row in rows if not row["error"]} == {1}
