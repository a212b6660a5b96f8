"""Instruction sets, threads and fork."""

import ctypes
import ctypes.util
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest

import convlane
import teams
from convlane import _core
from convlane.runtime import environment_threads
from workload import convolve, convolve_in_child

SCRIPT = "import convlane; print(convlane._core.active_isa(), convlane.get_num_threads())"


def run_python(script=SCRIPT, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]), **environment}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


# Layers whose work is divided by cache sizes, and a checksum of their results.
CACHED = """
import hashlib
import numpy as np
from convlane import functional as F, machine
rng = np.random.default_rng(1)
normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
x, bits = normal(2, 24, 29, 31), hashlib.sha256()
for y in (
    F.conv2d(x, normal(40, 24, 3, 3), padding=1, algorithm="winograd4"),
    F.conv2d(x, normal(40, 24, 3, 3), padding=1, algorithm="direct"),
    F.conv2d(x, normal(48, 1, 5, 5), padding=2, groups=24),
    F.conv2d(normal(1, 3, 61, 63), normal(33, 3, 7, 7), stride=2, padding=3, algorithm="stem"),
    F.conv_transpose2d(x, normal(24, 5, 4, 4), stride=2),
    F.conv_transpose2d(x, normal(24, 2, 4, 4), stride=2),
    F.group_norm(x, 6),
):
    bits.update(np.ascontiguousarray(y).tobytes())
print(*machine.caches(), bits.hexdigest())
"""


class TestCaches:
    def test_environment_sets_them_and_results_stay(self):
        own = run_python(CACHED, CONVLANE_CACHES="").stdout.split()
        small = run_python(CACHED, CONVLANE_CACHES="2K,8K,1M").stdout.split()
        assert small[:3] == [str(2 << 10), str(8 << 10), str(1 << 20)]
        assert own[3] == small[3]

    @pytest.mark.parametrize("value", ["32K", "32,64,128", "64K,32K,1M"])
    def test_invalid_caches_are_a_clean_error(self, value):
        assert "ValueError: CONVLANE_CACHES" in run_python(CONVLANE_CACHES=value).stderr


class TestInstructionSet:
    def test_best_is_active_by_default(self):
        assert run_python(CONVLANE_ISA="").stdout.split()[0] == _core.supported_isas()[-1]

    @pytest.mark.parametrize("name", _core.supported_isas())
    def test_environment_chooses(self, name):
        assert run_python(CONVLANE_ISA=name).stdout.split()[0] == name

    def test_unknown_is_a_clean_error(self):
        result = run_python(CONVLANE_ISA="mmx")
        assert result.returncode == 1
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("ValueError: CONVLANE_ISA: instruction set 'mmx' is not available")
        assert "generic" in last

    def test_instruction_sets_agree(self, isa):
        before = convolve()
        _core.set_active_isa("generic")
        np.testing.assert_allclose(convolve(), before, rtol=1e-4, atol=1e-3)

    def test_config_has_compiled_detected_active(self, isa, capsys):
        convlane.show_config()
        text = capsys.readouterr().out
        assert f"active: {isa}" in text
        for name in _core.compiled_isas():
            assert name in text


class TestThreads:
    def test_order_of_precedence(self):
        default = convlane.get_num_threads()
        convlane.set_num_threads(3)
        try:
            assert convlane.get_num_threads() == 3
            with convlane.num_threads(5):
                assert convlane.get_num_threads() == 5
                with convlane.num_threads(2):
                    assert convlane.get_num_threads() == 2
                assert convlane.get_num_threads() == 5
            assert convlane.get_num_threads() == 3
        finally:
            _core.set_num_threads(0)
        assert convlane.get_num_threads() == default

    def test_context_belongs_to_its_thread(self):
        seen = []
        with convlane.num_threads(7):
            other = threading.Thread(target=lambda: seen.append(convlane.get_num_threads()))
            other.start()
            other.join()
        assert seen == [convlane.get_num_threads()]

    @pytest.mark.parametrize("count", [0, -1, 100_000])
    def test_values(self, count):
        with pytest.raises(ValueError, match="between 1 and"):
            convlane.set_num_threads(count)

    @pytest.mark.parametrize("count", [1.5, "2", None, True])
    def test_kinds(self, count):
        with pytest.raises(TypeError), convlane.num_threads(count):
            pass

    def test_environment(self):
        assert run_python(CONVLANE_NUM_THREADS="5").stdout.split()[1] == "5"
        assert run_python(OMP_NUM_THREADS="1").stdout.split()[1] == "1"
        assert run_python(CONVLANE_NUM_THREADS="3", OMP_NUM_THREADS="1").stdout.split()[1] == "3"

    @pytest.mark.parametrize("value", ["0", "-3", "100000", "99999999999999", "9" * 5000, "two", "1.5", "2,2"])
    def test_bad_environment_is_a_warning(self, value, monkeypatch):
        monkeypatch.setenv("CONVLANE_NUM_THREADS", value)
        with pytest.warns(RuntimeWarning, match=f"CONVLANE_NUM_THREADS={value} is ignored"):
            assert environment_threads() == 0

    def test_bad_environment_leaves_the_default(self):
        default = run_python(CONVLANE_NUM_THREADS="", OMP_NUM_THREADS="").stdout
        result = run_python(CONVLANE_NUM_THREADS="two", OMP_NUM_THREADS="99999999999999")
        assert (result.returncode, result.stdout) == (0, default)
        assert "RuntimeWarning: CONVLANE_NUM_THREADS=two is ignored" in result.stderr

    def test_affinity_limits_the_default(self):
        script = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); {SCRIPT}"
        environment = {"CONVLANE_NUM_THREADS": "", "OMP_NUM_THREADS": ""}
        assert run_python(script, **environment).stdout.split()[1] == "1"

    @pytest.mark.parametrize(
        ("files", "usable"),
        [
            ({}, 4),
            ({"sys/fs/cgroup/cpu.max": "max 100000"}, 4),
            ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
            ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
            ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
            ({"sys/fs/cgroup/cpu.max": "nonsense"}, 4),
            ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
            ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
            ({"proc/self/cgroup": "0::/a.slice/b", "sys/fs/cgroup/a.slice/b/cpu.max": "100000 100000"}, 1),
            ({"proc/self/cgroup": "0::/a.slice/b", "sys/fs/cgroup/a.slice/cpu.max": "200000 100000"}, 2),
            ({"proc/self/cgroup": "3:cpuset:/b\n0::/a", "sys/fs/cgroup/b/cpu.max": "100000 100000"}, 4),
            (
                {
                    "proc/self/cgroup": "4:cpu,cpuacct:/a",
                    "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000",
                    "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "50000",
                },
                2,
            ),
            ({"sys/devices/cpu_core/cpus": "0-1", "sys/devices/cpu_atom/cpus": "2-5"}, 2),
            ({"sys/devices/cpu_core/cpus": "0,3,8-11"}, 2),
            ({"sys/devices/cpu_core/cpus": "8-11"}, 4),  # none that this process may use
            ({"sys/devices/cpu_core/cpus": "0-"}, 4),
            ({f"sys/devices/system/cpu/cpu{i}/cpu_capacity": "1024" for i in range(4)}, 4),
            ({f"sys/devices/system/cpu/cpu{i}/cpu_capacity": str(c) for i, c in enumerate([325, 325, 828, 1024])}, 2),
            (
                {
                    "sys/devices/cpu_core/cpus": "0-2",
                    "sys/fs/cgroup/cpu.max": "190000 100000",
                },
                2,
            ),
        ],
    )
    def test_usable_cpus(self, files, usable, tmp_path):
        """The usable ones of four CPUs, on machines and in containers that these files describe."""
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        assert _core.usable_cpus(range(4), f"{tmp_path}/") == usable

    def test_usable_cpus_of_those_that_are_allowed(self, tmp_path):
        path = tmp_path / "sys/devices/cpu_core/cpus"
        path.parent.mkdir(parents=True)
        path.write_text("0-7\n")
        assert [_core.usable_cpus(cpus, f"{tmp_path}/") for cpus in ([7, 8, 9], [8, 9], [3])] == [1, 2, 1]

    @pytest.mark.parametrize("value", ["2,2", "2", "", "0", "nonsense"])
    def test_omp_num_threads_of_any_form(self, value):
        cpus = _core.available_cpus()
        expected = min(2, cpus) if value.startswith("2") else cpus
        result = run_python(CONVLANE_NUM_THREADS="", OMP_NUM_THREADS=value)
        assert (result.returncode, result.stdout.split()[1]) == (0, str(expected))

    def test_python_threads_share_kernels(self):
        expected = convolve()
        results = [None] * 6

        def work(i):
            results[i] = convolve()

        workers = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for result in results:
            np.testing.assert_array_equal(result, expected)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize(("method", "serial"), [("fork", True), ("spawn", False)])
def test_child_processes_work(method, serial):
    with convlane.num_threads(2):
        expected = convolve()  # starts OpenMP's threads, which do not survive a fork
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=convolve_in_child, args=(queue,))
    child.start()
    count, result = queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    assert (count == 1) if serial else (count >= 1)
    np.testing.assert_array_equal(result, expected)


def test_import_starts_no_thread_and_prints_nothing():
    script = "import os, numpy; a = len(os.listdir('/proc/self/task')); import convlane; "
    result = run_python(script + "assert len(os.listdir('/proc/self/task')) == a")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("environment", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_THREAD_LIMIT": "2"}, {"OMP_DYNAMIC": "true"}])
def test_bits_do_not_depend_on_the_team_granted(environment):
    result = run_python("import json, teams; print(json.dumps(teams.digests()))", **environment)
    assert json.loads(result.stdout) == teams.digests()


FORK_AFTER_ANOTHER_LIBRARY = """
import ctypes, os, signal
from pathlib import Path
import convlane
from workload import convolve
mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
for path in mapped:
    if "omp" in Path(path).name and ".so" in Path(path).name:
        ctypes.CDLL(path).GOMP_parallel(ctypes.CDLL(None).free, None, 3, 0)
child = os.fork()
if child == 0:
    signal.alarm(30)
    convolve()
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""

FORK_DURING_RUNS = """
import os, signal, threading
import numpy as np
import convlane
from convlane import nn
plan, x = convlane.compile(nn.ReLU().eval(), (1, 1, 1, 1)), np.ones((1, 1, 1, 1), np.float32)
def run():
    while True:
        plan(x)
for _ in range(3):
    threading.Thread(target=run, daemon=True).start()
for _ in range(60):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        plan(x)
        os._exit(0)
    if status := os.waitpid(child, 0)[1]:
        break
print(status, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    "script", [FORK_AFTER_ANOTHER_LIBRARY, FORK_DURING_RUNS], ids=["another library's team", "runs of a plan"]
)
def test_a_child_does_not_wait_for_threads(script):
    result = run_python(script, OMP_NUM_THREADS="2")
    assert result.stdout == "0\n", result.stderr


ENDS_DURING_KERNELS = """
import threading
import numpy as np
import convlane
from convlane import functional as F, nn
x, w = np.ones((2, 16, 24, 24), np.float32), np.ones((16, 16, 3, 3), np.float32)
plan = convlane.compile(nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval(), x.shape)
calls = [lambda: F.relu(x), lambda: F.conv2d(x, w), lambda: plan(x), lambda: F.nchw(F.max_pool2d(x, 2))]
started = threading.Barrier(len(calls) + 1)
def work(call):
    call()
    started.wait()
    while True:
        call()
for call in calls:
    threading.Thread(target=work, args=[call], daemon=True).start()
started.wait()
"""


def test_daemon_threads_may_be_in_kernels_when_the_program_ends():
    for _ in range(3):
        result = run_python(ENDS_DURING_KERNELS, CONVLANE_NUM_THREADS="2")
        assert (result.returncode, result.stderr) == (0, "")


LIMITED = """
import os, resource, sys
import convlane
from workload import convolve
with convlane.num_threads(1):
    expected = convolve()
if sys.argv[1] == "memory":
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (6 << 20),) * 2)  # less than a thread's stack
else:
    if os.getuid() == 0:  # whom the limit does not concern
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
with convlane.num_threads(3):
    print((convolve() == expected).all())
"""


@pytest.mark.parametrize("what", ["memory", "processes"])
def test_the_caller_works_alone_if_no_thread_can_be_started(what):
    result = run_python(LIMITED, what)
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")


def test_all_threads_round_as_the_caller_does():
    upward = {"x86_64": 0x800, "aarch64": 0x400000}[platform.machine()]  # FE_UPWARD of C's fenv.h
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    with convlane.num_threads(2):
        expected = convolve()
        assert libm.fesetround(upward) == 0
        try:
            two = convolve()
            with convlane.num_threads(1):
                one = convolve()
            kept = libm.fegetround()
        finally:
            libm.fesetround(0)
        after = convolve()
    assert kept == upward
    np.testing.assert_array_equal(two, one)
    np.testing.assert_array_equal(after, expected)
    assert (two != expected).mean() > 0.1
