"""ONNX: networks from files and to files, and a session that takes the place of ONNX Runtime's.

The files are read and written by the package `onnx`, an extra. Each operator has a converter in `ops` that calls
`convlane.functional`, each operation of that a writer in `writers`; there are no shape rules, kernels or graphs here.
`convlane.onnx.backend` is what the tests of that package run; it is imported by its own name.
"""

from convlane.onnx._package import LoadError
from convlane.onnx.exporter import export
from convlane.onnx.network import Network, load_onnx
from convlane.onnx.session import (
    ExecutionMode,
    GraphOptimizationLevel,
    InferenceSession,
    SessionOptions,
    get_available_providers,
    get_device,
)

__all__ = [
    "ExecutionMode",
    "GraphOptimizationLevel",
    "InferenceSession",
    "LoadError",
    "Network",
    "SessionOptions",
    "export",
    "get_available_providers",
    "get_device",
    "load_onnx",
]
