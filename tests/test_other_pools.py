"""Thread pools of other libraries in the same process neither affect convlane nor are affected by it."""

import json

import pytest

import convlane
import teams
from convlane import _core
from test_runtime import run_python

needs_openmp = pytest.mark.skipif(not _core.openmp, reason="needs OpenMP")

LIMITED = """
import json
import threadpoolctl
import convlane, teams
counts, digests = [convlane.get_num_threads()], []
for limit in (1, 2, 3):
    with threadpoolctl.threadpool_limits(limit):
        counts.append(convlane.get_num_threads())
        digests.append(teams.of_network("mobilenet_v3_small"))
    counts.append(convlane.get_num_threads())
with threadpoolctl.threadpool_limits(1), convlane.num_threads(3):
    counts.append(convlane.get_num_threads())
print(json.dumps([counts, digests]))
"""


@needs_openmp
def test_limits_of_threadpoolctl_hold_and_are_lifted():
    pytest.importorskip("threadpoolctl")
    result = run_python(LIMITED, CONVLANE_NUM_THREADS="", OMP_NUM_THREADS="")
    counts, digests = json.loads(result.stdout)
    usual = counts[0]
    # Never more than the CPUs, except for a number that the program sets in convlane itself.
    assert counts == [usual, 1, usual, min(2, usual), usual, min(3, usual), usual, 3]
    assert digests == [teams.of_network("mobilenet_v3_small")] * 3


# Multithreaded work of other libraries: bytes of the result, and the number of threads that the library reports.
OTHERS = {
    "numpy": """
import numpy as np
def other():
    x = np.random.default_rng(3).standard_normal((400, 400))
    return (x @ x).tobytes(), None
""",
    "sklearn": """
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
def other():
    x = np.random.default_rng(3).standard_normal((2000, 8))
    model = HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(x, x[:, 0] * x[:, 1])
    return model.predict(x).tobytes(), _openmp_effective_n_threads()
""",
    "torch": """
import numpy as np
import torch
def other():
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((4, 16, 60, 60), np.float32))
    y = torch.nn.functional.conv2d(x, x[:, :, :3, :3].contiguous())
    return y.numpy().tobytes(), torch.get_num_threads()
""",
}
OURS = """
import convlane, teams
def ours():
    with convlane.num_threads(3):
        return convlane.get_num_threads(), teams.of_network("mobilenet_v3_small"), teams.of_training()
"""
IN_TURNS = """
import json
usual = convlane.get_num_threads()
found = [ours() for _ in range(2) if other() == alone]
print(json.dumps([usual, convlane.get_num_threads(), found]))
"""


@pytest.mark.parametrize("first", [True, False], ids=["imported before", "imported after"])
@pytest.mark.parametrize("name", ["numpy", "sklearn", pytest.param("torch", marks=pytest.mark.torch)])
def test_pools_of_other_libraries_change_nothing(name, first):
    pytest.importorskip(name)
    parts = [OTHERS[name] + "alone = other()", OURS + "ours()"]
    result = run_python("\n".join([*(parts if first else reversed(parts)), IN_TURNS]))
    assert result.returncode == 0, result.stderr
    usual, after, found = json.loads(result.stdout)
    assert usual == after == convlane.get_num_threads()
    with convlane.num_threads(3):
        assert found == [[3, teams.of_network("mobilenet_v3_small"), teams.of_training()]] * 2


WITHIN_A_REGION = """
import ctypes, json
from pathlib import Path
import convlane
from workload import convolve
with convlane.num_threads(1):
    expected = convolve().tobytes()
[path] = {p for p in (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()) if "libgomp" in p}
found = []
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def work(_):
    with convlane.num_threads(3):
        found.append(convolve().tobytes() == expected)
ctypes.CDLL(path).GOMP_parallel(work, None, 2, 0)
print(json.dumps(found), flush=True)
"""


@needs_openmp
@pytest.mark.parametrize("levels", ["1", "3"])
def test_calls_from_within_another_librarys_region(levels):
    result = run_python(WITHIN_A_REGION, OMP_MAX_ACTIVE_LEVELS=levels)
    assert (json.loads(result.stdout), result.returncode) == ([True, True], 0), result.stderr
