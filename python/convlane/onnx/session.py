"""A session with the interface of ONNX Runtime's, so that a program only has to change its import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane.onnx.file import Source, TensorInfo
from convlane.onnx.network import load_onnx
from convlane.onnx.runner import Runner
from convlane.runtime import get_num_threads, num_threads

_PROVIDER = "CPUExecutionProvider"


class GraphOptimizationLevel(IntEnum):
    """Accepted for programs that set it; a network is always compiled."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(IntEnum):
    """Accepted for programs that set it."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class SessionOptions:
    """Options of a session; only ``intra_op_num_threads`` has an effect, all others are accepted."""

    intra_op_num_threads: int = 0

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Accept an entry."""

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)[name] = value


def get_available_providers() -> list[str]:
    """Return where networks can run."""
    return [_PROVIDER]


def get_device() -> str:
    """Return what kind of machine networks run on."""
    return "CPU"


@dataclass(frozen=True)
class NodeArg:
    """An input or output: its name, its type as ``tensor(float)``, and its shape, with names for sizes left open."""

    name: str
    type: str
    shape: list[int | str | None]


@dataclass(frozen=True)
class ModelMetadata:
    """What the file says about itself."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str]


class InferenceSession:
    """Runs the network of an ONNX file.

    Parameters
    ----------
    path_or_bytes
        A file, or the bytes of one.
    sess_options
        `SessionOptions`, or ONNX Runtime's own: the number of threads is taken from it.
    providers, provider_options
        Accepted; a network runs on the CPU.

    Raises
    ------
    LoadError, OSError, ImportError
        As `load_onnx` does.

    Notes
    -----
    A network is compiled for each combination of input shapes when it first occurs; eight are kept. What no plan can
    compute is computed on arrays; `why_not_compiled` gives the reason.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import parser
    >>> from convlane import onnx
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 17]> tiny (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }
    ... ''')
    >>> session = onnx.InferenceSession(model.SerializeToString())
    >>> session.run(None, {"x": np.array([[-1, 2]], np.float32)})
    [array([[0., 2.]], dtype=float32)]
    """

    def __init__(
        self,
        path_or_bytes: Source,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._runner = Runner(load_onnx(path_or_bytes))
        self._options = sess_options
        self._threads = int(getattr(sess_options, "intra_op_num_threads", 0) or 0)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything except the plans, which a copy makes again, and options of ONNX Runtime's own class."""
        options = self._options
        if options is not None and not isinstance(options, SessionOptions):
            options = SessionOptions()
            options.intra_op_num_threads = self._threads
        return {**vars(self), "_options": options}

    @property
    def network(self) -> Any:
        """The network, a `convlane.nn.Module`."""
        return self._runner.network

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[NDArray[Any]]:
        """Compute outputs.

        Parameters
        ----------
        output_names
            Which of them, in which order; None or an empty list for all.
        input_feed
            Arrays by the names of the inputs.
        run_options
            Accepted.

        Raises
        ------
        ValueError
            An input is missing or unknown, or has a shape that does not fit; an output is unknown.
        TypeError
            An input holds another type than the file says.
        """
        feeds = self._checked(input_feed)
        infos = {info.name: info for info in self.network.outputs}
        names = list(output_names or infos)
        if unknown := [name for name in names if name not in infos]:
            raise ValueError(f"there is no output {unknown[0]!r}; the outputs are {', '.join(infos)}")
        with num_threads(self._threads or get_num_threads()):
            results = self._runner(feeds)
        return [as_declared(results[name], infos[name]) for name in names]

    def get_inputs(self) -> list[NodeArg]:
        """Return what the network takes."""
        return [_node_arg(info) for info in self.network.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """Return what it returns."""
        return [_node_arg(info) for info in self.network.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Return the inputs that may be left out."""
        return [_node_arg(info) for info in self.network.file.graph.overridable]

    def get_modelmeta(self) -> ModelMetadata:
        """Return what the file tells of itself."""
        meta = {name: self.network.file.metadata[name] for name in ModelMetadata.__dataclass_fields__}
        return ModelMetadata(**meta)

    def get_providers(self) -> list[str]:
        """Return where the network runs."""
        return [_PROVIDER]

    def get_session_options(self) -> Any:
        """Return the options."""
        return self._options or SessionOptions()

    def why_not_compiled(self, input_feed: Mapping[str, Any]) -> str:
        """Say what part of the network runs without a plan on such inputs; empty if none does."""
        way = self._runner.way(self._checked(input_feed))
        return "" if way == "plan" else way

    def _checked(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        if not isinstance(feeds, Mapping):
            raise TypeError(f"run takes a dict of arrays by the names of the inputs, got {type(feeds).__name__}")
        infos = {info.name: info for info in self.network.inputs}
        optional = {info.name: info for info in self.network.file.graph.overridable}
        if missing := [name for name in infos if name not in feeds]:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({list(feeds)}).")
        if unknown := [name for name in feeds if name not in infos and name not in optional]:
            raise ValueError(f"there is no input {unknown[0]!r}; the inputs are {', '.join(infos)}")
        arrays = {}
        for name, value in feeds.items():
            info = infos.get(name) or optional[name]
            expected = NUMPY_TYPES.get(info.type)
            given = np.asarray(value, expected if isinstance(value, (list, tuple, int, float)) else None)
            array = arrays[name] = given.astype(given.dtype.newbyteorder("="), copy=False)
            if expected is not None and array.dtype != expected:
                raise TypeError(f"the input {name!r} must be {expected}, got {array.dtype}")
            if info.shape is not None and len(info.shape) != array.ndim:
                raise ValueError(f"the input {name!r} must have the shape {list(info.shape)}, got {list(array.shape)}")
        return arrays


NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "double": np.dtype(np.float64),
    **{
        name: np.dtype(name)
        for name in ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
}
"""By ONNX's names."""


def as_declared(value: Any, info: TensorInfo) -> NDArray[Any]:
    """Return a result in C order, as the type that the file says."""
    array = np.asarray(value)
    with np.errstate(all="ignore"):
        dtype = NUMPY_TYPES.get(info.type, array.dtype)
        return np.require(array, dtype, "C")


def _node_arg(info: TensorInfo) -> NodeArg:
    return NodeArg(info.name, f"tensor({info.type})", [*(info.shape or ())])
