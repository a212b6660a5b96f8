"""The team that divides steps among threads: the same bits for any team, and its effect on other threads."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import convlane
import teams
from convlane import _core, models, nn
from convlane import functional as F
from convlane.runtime import environment_spin
from test_runtime import run_python


@pytest.fixture(scope="module")
def expected():
    return teams.digests()


@pytest.fixture
def shuffled():
    yield _core.shuffle_pieces
    _core.shuffle_pieces(0)


@pytest.fixture
def spinning():
    before = _core.spin_microseconds()
    yield _core.set_spin_microseconds
    _core.set_spin_microseconds(before)


@pytest.mark.parametrize(("count", "seed"), [(1, 3), (2, 0), (3, 11), (8, 5)])
def test_bits_depend_neither_on_threads_nor_on_the_order_of_pieces(count, seed, expected, shuffled, monkeypatch):
    monkeypatch.setattr(teams, "THREADS", count)
    shuffled(seed)
    assert teams.digests() == expected


@pytest.mark.parametrize("spin", [0, 2000])
def test_plans_of_one_to_eight_threads(spin, shuffled, spinning):
    spinning(spin)
    nn.init.seed(0)
    plan = convlane.compile(models.create("mobilenet_v3_small").eval(), (2, 3, 64, 64))
    images = np.random.default_rng(5).standard_normal((2, 3, 64, 64)).astype(np.float32)
    found = set()
    for count in range(1, 9):
        shuffled(count % 3)
        with convlane.num_threads(count):
            found |= {teams.digest(plan(images)) for _ in range(3)}
    assert len(found) == 1


def test_python_threads_lead_teams_of_their_own():
    plan = convlane.compile(models.create("resnet18").eval(), (1, 3, 64, 64))
    images = np.random.default_rng(5).standard_normal((4, 1, 3, 64, 64)).astype(np.float32)
    results = [[] for _ in images]

    def work(image, to):
        with convlane.num_threads(2):
            to.extend(teams.digest(plan(image)) for _ in range(5))

    workers = [threading.Thread(target=work, args=each) for each in zip(images, results, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with convlane.num_threads(1):
        assert results == [[teams.digest(plan(image))] * 5 for image in images]


def test_one_cpu_serves_many_threads():
    script = f"""
import json, os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import teams
teams.THREADS = 8
print(json.dumps([teams.of_network(name) for name in {teams.NETWORKS}]))
"""
    result = run_python(script)
    assert json.loads(result.stdout) == [teams.of_network(name) for name in teams.NETWORKS], result.stderr


def at_once(first, *others):
    """Call the first function once, and each of the others repeatedly meanwhile, all in threads of their own."""
    ended = threading.Event()

    def repeat(call):
        while not ended.is_set():
            call()

    with ThreadPoolExecutor(1 + len(others)) as pool:
        rest = [pool.submit(repeat, call) for call in others]
        try:
            pool.submit(first).result()
        finally:
            ended.set()
        for each in rest:
            each.result()


def test_plans_training_and_settings_at_once(spinning, shuffled):
    """Eight threads at once, each of which gets the same bits as alone."""
    nn.init.seed(0)
    network = models.create("mobilenet_v3_small", 10).eval()
    shared = convlane.compile(network, (None, 3, 32, 32))
    images = np.random.default_rng(5).standard_normal((3, 3, 32, 32)).astype(np.float32)
    weight = images[:1, :, :5, :5].copy()
    learner = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    step = convlane.value_and_grad(lambda: F.mean(F.square(learner(images))), learner)

    def infer(count):
        return teams.digest(shared(images[:count]))

    def compiled():
        return teams.digest(convlane.compile(network, (1, 3, 32, 32))(images[:1]))

    def convolve():
        return teams.digest(F.conv2d(images, weight, padding=2), F.max_pool2d(images, 3, 2))

    def train():
        value, gradients = step()
        return teams.digest(value, *(gradients[name] for name in sorted(gradients)))

    counts = iter(range(10**9))

    def settings():
        count = next(counts)
        convlane.set_num_threads(1 + count % 4)
        spinning(count % 3 * 20)
        shuffled(count % 5)

    calls = [*(lambda count=count: infer(count) for count in (1, 2, 3)), compiled, convolve, train]
    expected = [call() for call in calls]

    def same(call, digest):
        assert call() == digest

    def several():
        for _ in range(15):
            same(calls[0], expected[0])

    try:
        checked = [lambda c=c, d=d: same(c, d) for c, d in zip(calls, expected, strict=True)]
        at_once(several, *checked, settings)
    finally:
        _core.set_num_threads(0)


def cpus_of_threads():
    """Return the CPUs that each thread of this process may use."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended
            found.append(os.sched_getaffinity(int(thread)))
    return found


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_beside_busy_processes_results_and_cpus_stay():
    """Threads that leave their leader's CPU may use all CPUs again after the run."""
    nn.init.seed(0)
    plan = convlane.compile(models.create("resnet18").eval(), (1, 3, 64, 64))
    x = np.random.default_rng(5).standard_normal((1, 3, 64, 64)).astype(np.float32)
    with convlane.num_threads(1):
        expected = plan(x)
    loop = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    pass"
    with contextlib.ExitStack() as running, convlane.num_threads(2):
        for _ in os.sched_getaffinity(0):
            busy = running.enter_context(subprocess.Popen([sys.executable, "-c", loop]))
            running.callback(busy.kill)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            np.testing.assert_array_equal(plan(x), expected)
            assert all(cpus == os.sched_getaffinity(0) for cpus in cpus_of_threads())


@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_run_is_interrupted_between_steps(threads):
    class Interrupt(Exception):
        pass

    def interrupt(*_):
        raise Interrupt

    layers = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(60)]
    plan = convlane.compile(nn.Sequential(*layers).eval(), (1, 32, 224, 224))
    x, [y] = np.ones((1, 32, 224, 224), np.float32), plan._new_outputs(1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with convlane.num_threads(threads):
            core = plan._lowered(1).core
        for _ in range(2):  # the second run has a team from its start
            y[:] = np.nan
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupt):
                core.run([x], [y], _core.PlanMemory())
            assert np.isnan(y).all()  # the last step never ran
    finally:
        signal.signal(signal.SIGALRM, before)
    core.run([x], [y], _core.PlanMemory())
    np.testing.assert_array_equal(y, plan(x))


SLEEPS_AFTER_A_RUN = """
import os, time
import numpy as np
import convlane
from convlane import models
assert not os.environ["GOMP_SPINCOUNT"]
plan, x = convlane.compile(models.create("resnet18").eval(), (1, 3, 64, 64)), np.ones((1, 3, 64, 64), np.float32)
with convlane.num_threads(2):
    plan(x), plan(x)
    convlane.functional.relu(np.ones((1, 64, 64, 64), np.float32))
start = time.process_time()
time.sleep(1)
print(time.process_time() - start)
"""


def test_nobody_spins_after_a_run():
    result = run_python(SLEEPS_AFTER_A_RUN, GOMP_SPINCOUNT="", OMP_WAIT_POLICY="")
    assert float(result.stdout) < 0.02, result.stderr


@pytest.mark.parametrize(("text", "spin"), [("0", 0), ("200", 200), ("", 50), (" 7 ", 7)])
def test_spin_from_the_environment(text, spin, spinning, monkeypatch):
    spinning(50)
    monkeypatch.setenv("CONVLANE_SPIN_US", text)
    assert environment_spin() == spin


@pytest.mark.parametrize("text", ["-1", "2000000", "long", "0.5"])
def test_bad_spin_is_a_warning(text, spinning, monkeypatch):
    spinning(50)
    monkeypatch.setenv("CONVLANE_SPIN_US", text)
    with pytest.warns(RuntimeWarning, match=f"CONVLANE_SPIN_US={text} is ignored"):
        assert environment_spin() == 50
