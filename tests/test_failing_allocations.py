"""Every allocation of the kernels' library fails once: that is a MemoryError, and what was there works as before."""

import os
import shutil
import subprocess
import sys

import pytest

# Stands before libstdc++ and libc: what C++ allocates, and our aligned blocks. Python and NumPy have other functions.
LIBRARY = r"""
#include <atomic>
#include <cstdlib>
#include <dlfcn.h>
#include <new>

static thread_local long left = -1;  // allocations until one fails; negative: none does
extern "C" void fail_after(long count) { left = count; }
extern "C" int has_failed() { return left == -2; }

static std::atomic<long> all{0};
extern "C" long allocations() { return all; }

static bool fails() {
  ++all;
  if (left < 0 || left-- > 0) return false;
  left = -2;
  return true;
}

void* operator new(std::size_t size) {
  void* memory = fails() ? nullptr : std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) {
  static const auto real = reinterpret_cast<void* (*)(std::size_t, std::size_t)>(dlsym(RTLD_NEXT, "aligned_alloc"));
  return fails() ? nullptr : real(alignment, size);
}
"""

PROGRAM = r"""
import ctypes, sys
import numpy as np
import convlane
from convlane import functional as F, nn
from convlane.training import SGD, fit

faults = ctypes.CDLL(sys.argv[1])
convlane.set_num_threads(1)
rng = np.random.default_rng(0)
image, filters = rng.standard_normal((1, 8, 9, 9), np.float32), rng.standard_normal((16, 8, 3, 3), np.float32)
rows, matrix = rng.standard_normal((4, 40), np.float32), rng.standard_normal((16, 40), np.float32)
nn.init.seed(0)
network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 49, 5)).eval()
convlane.compile(network, (None, 8, 9, 9)).save(sys.argv[2])
plan, packed = convlane.load_plan(sys.argv[2]), F.pack_conv2d(filters)
step = convlane.value_and_grad(lambda x: F.cross_entropy(network(x), np.array([1])), network)
images, classes = np.repeat(image, 4, 0), np.arange(4)


def trained():
    state = network.state_dict()
    try:
        fit(network, (images, classes), epochs=1, optimizer=SGD(network, 0.1), batch_size=2, verbose=False)
        return network.state_dict()["0.weight"]
    finally:
        network.load_state_dict(state)
        network.eval()


cases = {
    "conv2d": lambda: F.conv2d(image, filters, padding=1, algorithm="winograd4"),
    "pack_conv2d": lambda: F.conv2d(image, F.pack_conv2d(filters)),
    "packed": lambda: F.conv2d(image.transpose(0, 1, 3, 2), packed),
    "linear": lambda: F.linear(rows, F.pack_linear(matrix)),
    "compile": lambda: convlane.compile(network, (1, 8, 9, 9))(image),
    "load_plan": lambda: convlane.load_plan(sys.argv[2])(image),
    "another batch": lambda: convlane.load_plan(sys.argv[2])(images),
    "plan": lambda: plan(image),
    "vjp": lambda: step(image)[1]["0.weight"],
    "fit": trained,
}
for name, run in cases.items():
    right, failures = run(), 0
    for count in range(100000):
        faults.fail_after(count)
        try:
            result = run()
        except MemoryError:
            result = None
        failed = faults.has_failed()
        faults.fail_after(-1)
        if not failed:
            break
        failures += 1
        assert result is None or np.array_equal(result, right), name  # a failure may be made good
        if count % 16 == 0:
            assert np.array_equal(run(), right), name
    assert np.array_equal(run(), right), name
    print(name, failures)
"""


COUNTED = r"""
import ctypes, sys
import numpy as np
import convlane
from convlane import models, nn

count = ctypes.CDLL(sys.argv[1]).allocations
count.restype = ctypes.c_long
convlane.set_num_threads(2)


def in_a_run(model, shape):
    plan = convlane.compile(model.eval(), shape)
    core, memory = plan._lowered(shape[0]).core, plan._memory
    x, outputs = np.ones(shape, np.float32), plan._new_outputs(1)
    for _ in range(3):
        core.run([x], outputs, memory)
    before = count()
    core.run([x], outputs, memory)
    return count() - before


print("no layer", in_a_run(nn.ReLU(), (1, 3, 64, 64)))
for name in sys.argv[2:]:
    print(name, in_a_run(models.create(name), (1, 3, 64, 64)))
"""


def run_counted(program, folder, *arguments):
    library = folder / "faults.so"
    (folder / "faults.cpp").write_text(LIBRARY)
    build = ["g++", "-O1", "-shared", "-fPIC", "-o", str(library), str(folder / "faults.cpp"), "-ldl"]
    subprocess.run(build, check=True)
    command = [sys.executable, "-X", "faulthandler", "-c", program, str(library), *arguments]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    return dict(line.rsplit(" ", 1) for line in result.stdout.splitlines())


pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or not sys.platform.startswith("linux"), reason="needs g++ on Linux"
)


def test_steps_of_a_run_allocate_nothing(tmp_path):
    names = ["resnet18", "vgg11", "mobilenet_v3_small", "shufflenet_v2_x1_0", "densenet121", "convnext_tiny"]
    taken = run_counted(COUNTED, tmp_path, *names)
    assert set(taken.values()) == {taken["no layer"]}  # what the arguments of a run take


def test_every_allocation_may_fail(tmp_path):
    failures = run_counted(PROGRAM, tmp_path, str(tmp_path / "plan"))
    assert {"pack_conv2d", "linear", "compile", "load_plan", "vjp", "fit"} <= failures.keys()
    assert min(map(int, failures.values())) >= 0
    assert int(failures["compile"]) > 20
