"""ONNX: networks from files and to files, and a session that can replace ONNX Runtime's.

Files are read and written with the package `onnx`, an optional extra. Each operator has a converter in `ops` that calls
`convlane.functional`, and each operation a writer in `writers`; there are no shape rules, kernels or graphs here.
`convlane.onnx.backend` is the interface that that package's tests run; import it by its own name.
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
