"""convlane: a fast CPU backend for convolutional networks.

Inputs and outputs are plain ``numpy.ndarray`` of float32; images have the shape ``(N, C, H, W)``. Names, argument
order, weight layout and numerics follow torch. Every image that an operation returns is *channels last* in memory
(a free view), and images that are channels last are read without a copy.

>>> import numpy as np, convlane
>>> image = np.ones((1, 3, 8, 8), np.float32)
>>> weight = np.ones((4, 3, 3, 3), np.float32)
>>> convlane.functional.conv2d(image, weight, padding=1).shape
(1, 4, 8, 8)
"""

import importlib as _importlib
import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from convlane._openmp import _core as _core  # before everything that needs it

# isort: split
from convlane import functional
from convlane._hooks import hooks as _hooks
from convlane._version import __version__
from convlane.functional import explain, pack_conv2d, pack_linear
from convlane.runtime import environment_caches as _environment_caches
from convlane.runtime import environment_spin as _environment_spin
from convlane.runtime import environment_threads as _environment_threads
from convlane.runtime import get_num_threads, num_threads, set_num_threads, show_config

if _TYPE_CHECKING:
    from convlane import analysis, data, filters, graph, machine, models, nn, onnx, scale, training, vision, weights
    from convlane.autograd import value_and_grad, vjp
    from convlane.bridges.keras import load_keras
    from convlane.bridges.torch import from_torch
    from convlane.graph import Plan, compile, load_plan
    from convlane.inference import Ensemble, TenCrop, classify, ten_crop
    from convlane.models import load
    from convlane.onnx import load_onnx
    from convlane.weights import load_weights, save_weights

__all__ = [
    "Ensemble",
    "Plan",
    "TenCrop",
    "__version__",
    "analysis",
    "classify",
    "compile",
    "data",
    "explain",
    "filters",
    "from_torch",
    "functional",
    "get_num_threads",
    "graph",
    "load",
    "load_keras",
    "load_onnx",
    "load_plan",
    "load_weights",
    "machine",
    "models",
    "nn",
    "num_threads",
    "onnx",
    "pack_conv2d",
    "pack_linear",
    "save_weights",
    "scale",
    "set_num_threads",
    "show_config",
    "ten_crop",
    "training",
    "value_and_grad",
    "vision",
    "vjp",
    "weights",
]

if _isa := _os.environ.get("CONVLANE_ISA"):
    try:
        _core.set_active_isa(_isa)
    except ValueError as error:
        raise ValueError(f"CONVLANE_ISA: {error}") from None
if _caches := _environment_caches():
    try:
        _core.set_caches(*_caches)
    except ValueError as error:
        raise ValueError(f"CONVLANE_CACHES: {error}") from None
_core.set_default_threads(_environment_threads())
_core.set_spin_microseconds(_environment_spin())


# Imported on first use, so that operations do not wait for the import of networks, nor networks for that of training.
_MODULES = (
    *("analysis", "data", "filters", "graph", "machine", "models", "nn", "onnx", "scale", "training", "vision"),
    "weights",
)
_LAZY = {
    **{name: f"convlane.{name}" for name in _MODULES},
    **dict.fromkeys(("value_and_grad", "vjp"), "convlane.autograd"),
    **dict.fromkeys(("Plan", "compile", "load_plan"), "convlane.graph"),
    "from_torch": "convlane.bridges.torch",
    "load_keras": "convlane.bridges.keras",
    "load_onnx": "convlane.onnx",
    **dict.fromkeys(("Ensemble", "TenCrop", "classify", "ten_crop"), "convlane.inference"),
    "load": "convlane.models",
    **dict.fromkeys(("load_weights", "save_weights"), "convlane.weights"),
}


def __getattr__(name: str) -> _Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'convlane' has no attribute {name!r}")
    module = _importlib.import_module(_LAZY[name])
    value = globals()[name] = module if name in _MODULES else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _save(*args: _Any, **kwargs: _Any) -> None:
    from convlane.models.saved import save

    save(*args, **kwargs)


def _summary(model: _Any, input_shape: _Any) -> _Any:
    from convlane.analysis import summary

    return summary(model, input_shape)


_hooks.update(save=_save, summary=_summary, import_families=lambda: _importlib.import_module("convlane.models"))
