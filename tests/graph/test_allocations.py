"""A run of a plan allocates no more often than a run of a plan without steps, which only takes its arrays."""

import json
import os
import sys
from pathlib import Path

import preloaded

PROGRAM = r"""
import ctypes, json, sys
import numpy as np
import convlane
from convlane import _core, models, nn
from convlane import functional as F
from test_random_graphs import CHOICES

library = ctypes.CDLL(sys.argv[1])
library.allocations.restype = ctypes.c_long


def counted(core, images, results):
    memory = _core.PlanMemory()
    memory.limit(core.memory_bytes)
    for _ in range(2):
        core.run(images, results, memory)
    before = library.allocations()
    core.run(images, results, memory)
    return library.allocations() - before


def types_of(arrays):
    return [(str(each.dtype), each.shape, tuple(step // each.itemsize for step in each.strides)) for each in arrays]


def beyond_none(network, *shapes):
    # Allocations of a run, without those of a plan that has the same arrays and does nothing.
    plan = convlane.compile(network, shapes if len(shapes) > 1 else shapes[0])
    images = [rng.standard_normal(shape, np.float32) for shape in shapes]
    core, results = plan._lowered(len(images[0])).core, plan._new_outputs(len(images[0]))
    nothing = _core.Plan(types_of(images), types_of(results), core.arena_bytes, core.threads)
    return counted(core, images, results) - counted(nothing, images, results)


NETWORKS = ["convnext_tiny", "densenet121", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x1_0", "squeezenet1_1"]
NETWORKS += ["vgg11"]
rng = np.random.default_rng(0)
found = {}
for threads in (1, 2):
    with convlane.num_threads(threads):
        x = rng.standard_normal((2, 8, 6, 8), np.float32)
        for name, choice in CHOICES.items():
            found[name, threads] = beyond_none(choice(rng, x), x.shape)
        for name in NETWORKS:
            nn.init.seed(0)
            found[name, threads] = beyond_none(models.create(name, 10).eval(), (2, 3, 64, 64))
        for algorithm in ("direct", "im2col", "reference", "winograd2", "winograd4"):
            weight = rng.standard_normal((16, 8, 3, 3), np.float32)
            found[algorithm, threads] = beyond_none(lambda y: F.conv2d(y, weight, algorithm=algorithm), x.shape)
        for name, network in {
            "max_pool2d with indices": lambda y: F.max_pool2d(y, 2, return_indices=True),
            "max_pool3d with indices": lambda y: F.max_pool3d(F.unsqueeze(y, 2), (1, 2, 2), return_indices=True),
            "lp_pool2d": lambda y: F.lp_pool2d(y, 2, 3),
            "linear": lambda y: F.linear(F.flatten(y), np.ones((5, 384), np.float32)),
            "topk": lambda y: F.topk(y, 3, 1),
            "argmax": lambda y: F.argmax(y, 2),
            "where": lambda y: F.where(F.gt(y, 0), y, F.exp(y)),
            "var": lambda y: F.var(y, (2, 3)),
            "gather": lambda y: F.index_select(y, 2, np.array([3, 1, 2])),
            "stem": lambda y: F.conv2d(F.narrow(y, 1, 0, 3), np.ones((16, 3, 3, 3), np.float32), stride=2),
        }.items():
            found[name, threads] = beyond_none(network, x.shape)
print(json.dumps([[*key, count] for key, count in found.items() if count]))
"""


@preloaded.needs_gcc
def test_a_run_allocates_nothing(tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    assert json.loads(preloaded.run(PROGRAM, tmp_path, PYTHONPATH=path)) == []
