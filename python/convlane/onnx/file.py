"""From a file to a checked graph of plain Python and NumPy: without protobuf objects, and without executing anything.

A file may come from anywhere. The sizes it states are believed only if that many bytes are there; external data is read
only from the file's own folder, by a plain name and never through a link.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane._files import open_regular
from convlane.onnx._package import LoadError, require_onnx
from convlane.onnx.local_functions import inlined
from convlane.onnx.schema import misfit
from convlane.onnx.wire import ByteRange, without_numbers

Source: TypeAlias = "str | os.PathLike[str] | bytes"
Dim: TypeAlias = "int | str | None"

_MOST_NODES = 1_000_000
_DEEPEST = 16  # graphs within graphs
_DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class TensorInfo:
    """What the file says about an input or an output."""

    name: str
    type: str
    """``float``, ``int64``, ``bool``, ...: ONNX's names in small letters."""
    shape: tuple[Dim, ...] | None
    """A number, a name or None for each dimension; None if not even the number of dimensions is given."""


@dataclass(frozen=True)
class Node:
    """One operation of the file."""

    name: str
    op: str
    domain: str
    opset: int
    """Version of the operators of its domain that the file was written for."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        domain = f"{self.domain}." if self.domain else ""
        name = self.name or next(filter(None, self.outputs), "")
        return f"{_shown(name)} ({_shown(domain + self.op)[1:-1]}, opset {self.opset})"


@dataclass(frozen=True)
class FileGraph:
    """A graph, or one that is an attribute of a node of another."""

    nodes: tuple[Node, ...]
    inputs: tuple[TensorInfo, ...]
    """Those that have no initialiser."""
    outputs: tuple[TensorInfo, ...]
    initializers: Mapping[str, NDArray[Any]] = field(repr=False)
    overridable: tuple[TensorInfo, ...] = ()
    """Inputs that have an initialiser as their default."""


@dataclass(frozen=True)
class OnnxFile:
    """What a file holds."""

    graph: FileGraph
    opsets: Mapping[str, int]
    metadata: Mapping[str, Any]
    skeleton: bytes = field(repr=False, default=b"")
    """The file without the data of its initialisers, from which it can be written again."""


def read_file(source: Source) -> OnnxFile:
    """Read a file, or the bytes of one.

    Raises
    ------
    LoadError
        It is damaged or hostile; the message says where.
    OSError
        It cannot be read.
    ImportError
        The package `onnx` is not installed.
    """
    onnx = require_onnx()
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read(onnx, io.BytesIO(source), memoryview(source).nbytes, None, "the bytes")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"load_onnx: a path or bytes are needed, got {type(source).__name__}")
    with open_regular(source) as stream:
        return _read(onnx, stream, os.fstat(stream.fileno()).st_size, Path(source).parent, str(source))


def _read(onnx: Any, stream: BinaryIO, size: int, folder: Path | None, said: str) -> OnnxFile:
    try:
        message, ranges = without_numbers(stream, size)
        model = onnx.ModelProto()
        model.ParseFromString(message)
        del message
        named = {model.graph.initializer[i].name: span for i, span in ranges.items()}
        return _read_model(onnx, model, _Numbers(stream, named, folder))
    except LoadError as error:
        raise LoadError(f"{said}: {error}") from None
    except (onnx.onnx_cpp2py_export.checker.ValidationError, ValueError, TypeError, RecursionError) as error:
        raise LoadError(f"{said}: not a valid ONNX file: {error}") from None
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise LoadError(f"{said}: not an ONNX file, or a truncated one: {error}") from None


@dataclass(frozen=True)
class _Numbers:
    """The data of initialisers that are not in the message."""

    stream: BinaryIO
    ranges: Mapping[str, ByteRange]
    """In the file itself, by the initialiser's name."""
    folder: Path | None
    """The folder of external data, if there may be any."""


def _read_model(onnx: Any, model: Any, numbers: _Numbers) -> OnnxFile:
    if not model.HasField("graph"):
        raise LoadError("there is no graph in it")
    if model.functions:
        model = inlined(model)
    opsets = {("" if each.domain in _DEFAULT_DOMAINS else each.domain): each.version for each in model.opset_import}
    opsets.setdefault("", 1)
    reader = _Reader(onnx, numbers, opsets)
    graph = reader.graph(model.graph, frozenset(), 0)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        for name in _TYPED_DATA:
            tensor.ClearField(name)
    metadata = {
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "domain": model.domain,
        "version": model.model_version,
        "description": model.doc_string,
        "graph_name": model.graph.name,
        "graph_description": model.graph.doc_string,
        "custom_metadata_map": {each.key: each.value for each in model.metadata_props},
    }
    return OnnxFile(graph, opsets, metadata, model.SerializeToString())


_TYPED_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


class _Reader:
    """Builds graphs from messages; holds what they share."""

    def __init__(self, onnx: Any, numbers: _Numbers, opsets: Mapping[str, int]) -> None:
        self.onnx, self.numbers, self.opsets, self.count = onnx, numbers, opsets, 0

    def graph(self, proto: Any, outer: frozenset[str], depth: int) -> FileGraph:
        """Read a graph that may use names of those around it, and check that each is defined before it is used."""
        if depth > _DEEPEST:
            raise LoadError(f"graphs are nested more than {_DEEPEST} deep")
        if proto.sparse_initializer:
            raise LoadError("sparse initialisers are not read")
        initializers: dict[str, NDArray[Any]] = {}
        for tensor in proto.initializer:
            if tensor.name in initializers:
                raise LoadError(f"there are two initialisers {_shown(tensor.name)}")
            span = None if depth else self.numbers.ranges.get(tensor.name)
            initializers[tensor.name] = self.tensor(tensor, f"initialiser {_shown(tensor.name)}", span)
        infos = [self.info(each) for each in proto.input]
        names = [info.name for info in infos]
        if len(set(names)) < len(names):
            raise LoadError("two inputs have the same name")
        known = {*names, *initializers}
        nodes = tuple(self.nodes(proto.node, known, outer, depth))
        outputs = tuple(self.info(each) for each in proto.output)
        if not outputs:
            raise LoadError("the graph has no outputs")
        if missing := [info.name for info in outputs if info.name not in known | outer]:
            raise LoadError(f"no node computes the output {_shown(missing[0])}")
        given = tuple(info for info in infos if info.name not in initializers)
        overridable = tuple(info for info in infos if info.name in initializers)
        return FileGraph(nodes, given, outputs, initializers, overridable)

    def nodes(self, protos: Sequence[Any], known: set[str], outer: frozenset[str], depth: int) -> Iterator[Node]:
        """Yield the nodes in the order of the file; add to `known` what they compute."""
        for i, proto in enumerate(protos):
            self.count += 1
            if self.count > _MOST_NODES:
                raise LoadError(f"there are more than {_MOST_NODES} nodes")
            domain = "" if proto.domain in _DEFAULT_DOMAINS else proto.domain
            said = f"node {_shown(proto.name or i)} ({_shown(proto.op_type)})"
            for name in proto.input:
                if name and name not in known and name not in outer:
                    raise LoadError(f"{said} reads {_shown(name)}, which no node before it computes")
            version = self.opsets.get(domain, 1)
            if not domain and (why := misfit(self.onnx, proto, version)):
                raise LoadError(f"{said} {why}")
            attributes: dict[str, Any] = {}
            for attribute in proto.attribute:
                if attribute.name in attributes:
                    raise LoadError(f"{said} has the attribute {_shown(attribute.name)} twice")
                attributes[attribute.name] = self.attribute(attribute, said, outer | known, depth)
            for name in proto.output:
                if name and name in known:
                    raise LoadError(f"{said} computes {_shown(name)}, which already exists")
                known.add(name)
            yield Node(proto.name, proto.op_type, domain, version, tuple(proto.input), tuple(proto.output), attributes)

    def attribute(self, proto: Any, said: str, known: frozenset[str], depth: int) -> Any:
        """Return an attribute as a number, text, array, graph or a tuple of these."""
        kinds = self.onnx.AttributeProto
        if proto.type == kinds.GRAPH:
            return self.graph(proto.g, known, depth + 1)
        if proto.type == kinds.TENSOR:
            return self.tensor(proto.t, f"{said}: {_shown(proto.name)}")
        if proto.type == kinds.STRING:
            return proto.s.decode("utf-8", "replace")
        if proto.type == kinds.STRINGS:
            return tuple(each.decode("utf-8", "replace") for each in proto.strings)
        fields = {kinds.FLOAT: "f", kinds.INT: "i", kinds.FLOATS: "floats", kinds.INTS: "ints"}
        if proto.type in fields:
            value = getattr(proto, fields[proto.type])
            return value if proto.type in (kinds.FLOAT, kinds.INT) else tuple(value)
        if proto.type == kinds.UNDEFINED:  # before version 3 of the format there were no types
            if proto.ints or proto.floats:
                return tuple(proto.ints) or tuple(proto.floats)
            found = [name for name in ("f", "i", "s") if proto.HasField(name)]
            value = getattr(proto, found[0]) if found else ()
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        raise LoadError(f"{said}: the attribute {_shown(proto.name)} is of an unsupported kind")

    def info(self, proto: Any) -> TensorInfo:
        """Return what the file says about an input or output."""
        if not proto.type.HasField("tensor_type"):
            return TensorInfo(proto.name, "unknown", None)
        tensor = proto.type.tensor_type
        names = self.onnx.TensorProto.DataType
        kind = names.Name(tensor.elem_type).lower() if tensor.elem_type in names.values() else "unknown"
        if not tensor.HasField("shape"):
            return TensorInfo(proto.name, kind, None)
        dims = (getattr(dim, dim.WhichOneof("value")) if dim.WhichOneof("value") else None for dim in tensor.shape.dim)
        shape = tuple(None if dim == "" or (isinstance(dim, int) and dim < 0) else dim for dim in dims)
        return TensorInfo(proto.name, kind, shape)

    def tensor(self, proto: Any, said: str, span: ByteRange | None = None) -> NDArray[Any]:
        """Return a read-only array that owns its memory; floats of every size become float32.

        Its data is in the message, or at an offset in the file.
        """
        if any(size < 0 for size in proto.dims) or len(proto.dims) > 64:
            raise LoadError(f"{said} has the shape {tuple(proto.dims)[:8]}")
        shape, count = tuple(proto.dims), math.prod(proto.dims)
        try:
            dtype = np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))
        except (KeyError, TypeError, ValueError):
            raise LoadError(f"{said} is of the unknown type {proto.data_type}") from None
        if dtype.kind in "OSUc":
            raise LoadError(f"{said} holds text or complex numbers, which are not supported")
        raw = proto.raw_data if proto.HasField("raw_data") else b""  # each look at it makes a copy
        plain = dtype.newbyteorder("<") if dtype.kind in "fiub" else dtype
        plain = dtype if plain == dtype else plain  # the very object that NumPy has for the type: it is told apart fast
        if proto.data_location == self.onnx.TensorProto.EXTERNAL:
            array = self.external(proto, dtype, count, said)
        elif span is not None:
            if span.size != dtype.itemsize * count:
                raise LoadError(f"{said} has the shape {shape}, but {span.size} bytes are there")
            self.numbers.stream.seek(span.start)
            array = np.empty(shape, plain)
            if self.numbers.stream.readinto(array.reshape(-1).view(np.uint8)) != span.size:  # type: ignore[attr-defined]
                raise LoadError(f"{said} ends before its last number: the file has been changed")
        elif raw and dtype.itemsize * count == len(raw) and dtype.kind in "fiub":
            array = np.ndarray(shape, plain, raw)  # is read-only, as bytes are
        else:
            size = len(raw) or max(len(getattr(proto, name)) for name in _TYPED_DATA)
            if count > 2 * max(size, 0):  # two values of four-bit types share a byte
                raise LoadError(f"{said} has the shape {tuple(proto.dims)}, but {size} values are there")
            array = self.onnx.numpy_helper.to_array(proto)
        wide = np.dtype(np.float32) if _is_float(dtype) else _BYTES.get(dtype.name) or dtype.newbyteorder("=")
        array = array if array.shape == shape else array.reshape(shape)
        with np.errstate(all="ignore"):
            array = array if array.dtype == wide and array.flags.c_contiguous else np.array(array, wide, order="C")
        array.flags.writeable = False
        return array

    def external(self, proto: Any, dtype: np.dtype[Any], count: int, said: str) -> NDArray[Any]:
        """Read numbers from a file beside this one."""
        entries = {each.key: each.value for each in proto.external_data}
        name = entries.get("location", "")
        if self.numbers.folder is None:
            raise LoadError(f"{said} is in the file {_shown(name)}; give the path of the model, not its bytes")
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise LoadError(f"{said} is in {_shown(name)}, which is not the plain name of a file beside the model")
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", dtype.itemsize * count))
        except ValueError:
            raise LoadError(f"{said} has an offset or length that is not a number") from None
        if offset < 0 or length != dtype.itemsize * count:
            raise LoadError(f"{said} has {length} bytes at {offset}, but its shape needs {dtype.itemsize * count}")
        try:
            flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
            handle = os.open(self.numbers.folder / name, os.O_RDONLY | flags)
        except OSError as error:
            raise LoadError(f"{said} stands in {_shown(name)}, which cannot be read: {error.strerror}") from None
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            os.close(handle)
            raise LoadError(f"{said} stands in {_shown(name)}, which is a folder")
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(status.st_mode) or offset + length > status.st_size:
                raise LoadError(f"{said} has {length} bytes at {offset} of {_shown(name)}, which has {status.st_size}")
            file.seek(offset)
            return np.frombuffer(file.read(length), dtype.newbyteorder("<") if dtype.kind in "fiub" else dtype)


_BYTES = {f"{kind}{bits}": np.dtype(f"{kind}8") for kind in ("int", "uint") for bits in (2, 4)}
"""The storage type for integers of a few bits, by their names in `ml_dtypes`."""


def _is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it holds floating-point numbers, including those of `ml_dtypes`."""
    return dtype.kind == "f" or "float" in dtype.name


def _shown(name: Any) -> str:
    text = repr(name)
    return text if len(text) < 80 else f"{text[:76]}...{text[-1]}"
