"""Plans keep every weight only once: as the network's array, or packed."""

import gc
import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane import models, nn
from convlane.graph.passes import optimize
from convlane.graph.trace import trace
from convlane.graph.weights import Weight


def weights_of(plan):
    return [node.attributes["weight"] for node in plan._graph.nodes.values() if "weight" in node.attributes]


def peak_of(function):
    """Return a function's result, and NumPy's peak memory during the call."""
    gc.collect()
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_passes_copy_no_weights():
    with nn.init.skip():
        model = models.create("resnet18").eval()
    layers = {id(array) for array in model.parameters()}
    graph = optimize(trace(model, (1, 3, 64, 64)))
    parts = [part for node in graph.nodes.values() for part in node.attributes.get("parts", (node,))]
    weights = [part.attributes["weight"] for part in parts if "weight" in part.attributes]
    assert len(weights) == 21
    for weight in weights:
        assert id(weight.source if isinstance(weight, Weight) else weight) in layers


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_compiling_and_saving_copy_one_weight_at_a_time(name, tmp_path):
    with nn.init.skip():
        model = models.create(name, 10).eval()
    largest = max(array.nbytes for array in model.parameters())
    plan, peak = peak_of(lambda: convlane.compile(model, (1, 3, 64, 64)))
    assert peak < 4e6
    _, peak = peak_of(lambda: plan.save(tmp_path / "plan"))
    assert peak < 2 * largest + 4e6
    (tmp_path / "plan").unlink()


MEMORY = """
import resource, sys
import convlane
from convlane.graph.weights import Weight

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

if sys.argv[1] == "compile":
    model = convlane.models.create("resnet50").eval()
before = peak()
plan = convlane.compile(model, (1, 3, 224, 224)) if sys.argv[1] == "compile" else convlane.load_plan(sys.argv[2])
taken = peak() - before
weights = [node.attributes["weight"].source for node in plan._graph.nodes.values() if "weight" in node.attributes]
packed = sum(source.packed.nbytes for source in weights if hasattr(source, "packed"))
others = sum(source.nbytes for source in weights if not hasattr(source, "packed"))
if sys.argv[1] == "compile":
    plan.save(sys.argv[2])
print(taken, packed, others)
"""


def test_memory_of_whole_processes(tmp_path):
    """Packed weights for Winograd's algorithm are up to 4 times as large, and a loaded plan keeps the others, too."""
    run = [sys.executable, "-c", MEMORY]
    path = str(tmp_path / "plan")
    compiled, packed, others = map(int, subprocess.check_output([*run, "compile", path]).split())
    assert compiled < packed + 3 * others + 15e6
    loaded, packed, others = map(int, subprocess.check_output([*run, "load", path]).split())
    assert loaded < packed + 4 * others + 15e6
    (tmp_path / "plan").unlink()


def test_plans_release_weights_that_can_be_unpacked():
    layers = [nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 3), nn.Linear(32, 5)]
    model = nn.Sequential(*layers[:3], nn.Flatten(), layers[3]).eval()
    arrays = [weakref.ref(layer.weight) for layer in layers]
    x = np.random.default_rng(1).standard_normal((2, 4, 4, 4), np.float32)
    plan = convlane.compile(model, (None, 4, 4, 4), winograd=False)
    expected = plan(x)
    del model, layers
    gc.collect()
    assert [array() for array in arrays] == [None] * 4
    isa = convlane._core.active_isa()
    try:
        convlane._core.set_active_isa("generic")
        np.testing.assert_allclose(plan(x), expected, rtol=1e-5, atol=1e-6)
    finally:
        convlane._core.set_active_isa(isa)
    np.testing.assert_array_equal(plan(x), expected)


def test_weights_of_winograd_stay_with_the_network():
    layer = nn.Conv2d(64, 64, 3, padding=1)
    plan = convlane.compile(nn.Sequential(layer, nn.BatchNorm2d(64)).eval(), (1, 64, 32, 32))
    (step,) = plan.describe().steps
    assert step.algorithm == "winograd4"
    (weight,) = weights_of(plan)
    assert weight.source is layer.weight


def test_one_weight_for_several_layers(rng, tmp_path):
    weight, x = rng.standard_normal((6, 6, 1, 1), np.float32), rng.standard_normal((1, 6, 5, 5), np.float32)
    scale = [rng.uniform(0.5, 2, 6).astype(np.float32) for _ in range(4)]

    def network(x):
        x = F.relu(F.conv2d(x, weight))
        return F.conv2d(F.batch_norm(F.conv2d(x, weight), *scale), weight)

    weight.flags.writeable = False
    plan = convlane.compile(network, x.shape)
    np.testing.assert_allclose(plan(x), network(x), rtol=1e-5, atol=1e-5)
    plan.save(tmp_path / "plan")
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan")(x), plan(x))
