"""Compiled networks in files: the optimised graph as JSON in the metadata of a safetensors file, its arrays as tensors.

A saved graph contains nothing specific to the machine that saved it, except for what autotuning chose there; the reader
lowers it again. What is read is checked against the rules that compiling follows, so a file can only describe what
could have been compiled.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from convlane._version import __version__
from convlane.functional._arguments import Array, as_int, as_positive
from convlane.functional._op import DType, Shape
from convlane.functional._size import OPERATIONS, Number, Term
from convlane.functional._size import computed as compute
from convlane.graph.autotune import are_times
from convlane.graph.lower import check_supported
from convlane.graph.mapped import SMALL, MappedFile, packed_parts, packings_of
from convlane.graph.sizes import OpenShape
from convlane.graph.trace import INPUT, SOURCES, Graph, Measured, Node, Value
from convlane.graph.verify import verify
from convlane.graph.weights import Packer, Weight
from convlane.safetensors_file import Path, TensorFile, shown, strict_json, write_tensors

FORMAT = 2
"""Version of the format, raised by any change that makes older versions of convlane misread a file."""


def write_graph(
    path: Path, graph: Graph, options: Mapping[str, Any], packer: Packer | None = None, isa: str = ""
) -> None:
    """Write a graph and its options to a file for `read_graph`, and optionally what was packed for `isa`."""
    tensors: dict[str, Any] = {}
    number = {value: i for i, value in enumerate(graph.nodes)}
    nodes = [
        {"inputs": {name: number[source] for name, source in node.inputs.items()}, **_encode(node, str(i), tensors)}
        for i, node in enumerate(graph.nodes.values())
    ]
    plan = {
        "options": dict(options),
        "nodes": nodes,
        "outputs": {name: number[value] for name, value in graph.outputs.items()},
        "returns": graph.returns,
    }
    text = json.dumps(plan, allow_nan=False, separators=(",", ":"))
    _decode(text, dict.fromkeys(tensors, "F32"), tensors.__getitem__)  # never write what could not be read back
    metadata = {
        "format": "convlane plan",
        "format_version": str(FORMAT),
        "convlane_version": __version__,
        "plan": text,
    }
    pages: dict[str, Any] = {}
    if packer is not None:
        pages, metadata["packed"] = packed_parts(tensors, {name: packer.found(tensors[name]) for name in tensors}, isa)
    write_tensors(path, tensors, metadata, pages)


def read_graph(file: TensorFile, mapped: MappedFile | None = None) -> tuple[Graph, dict[str, Any]]:
    """Return graph and options of a file; TypeError or ValueError says why it holds none that could be compiled.

    Weights are not read yet: the file must stay open until they are packed. If it is mapped, the large ones stay in the
    mapping.
    """

    def read(name: str) -> Array | Weight:
        info = file.tensors[name]
        if len(info.shape) > 1:
            lies = mapped is not None and info.type == "F32" and info.nbytes >= SMALL
            return Weight(mapped.weight(name, info.shape) if mapped is not None and lies else _Stored(file, name))
        array: Array = np.asarray(file.read(name))  # a scalar of NumPy's has no flags
        array.flags.writeable = False
        return array

    metadata = file.metadata
    if metadata.get("format") != "convlane plan":
        raise ValueError("its metadata do not say that it is one")
    version, writer = shown(metadata.get("format_version")), shown(metadata.get("convlane_version"))
    if version != repr(str(FORMAT)):
        raise ValueError(f"it has the format {version} of convlane {writer}, but this convlane reads {FORMAT}")
    others = {packing.tensor for packing in packings_of(file).weights}
    types = {name: info.type for name, info in file.tensors.items() if name not in others}
    return _decode(metadata.get("plan", "null"), types, read)


def read_open(graph: Graph, options: Mapping[str, Any]) -> tuple[Graph, dict[str, OpenShape], bool]:
    """Return the graph with its weights in memory, the shapes of its inputs, and whether the inputs are passed by name.

    These describe a plan whose sizes are open; its graph is stored as it was traced.
    """
    given = _of_today(options["open"], graph)
    _check_fields(given, {"named": bool, "shapes": dict, "known": list, "computed": list}, "open")
    inputs = {name: graph.nodes[value].shape for name, value in graph.inputs.items()}
    shapes = {name: _open_shape(shape) for name, shape in given["shapes"].items()}
    fit = shapes.keys() == inputs.keys() and all(
        len(shape) == len(inputs[name])
        and all(size in (None, got) for size, got in zip(shape[1:], inputs[name][1:], strict=True))
        and shape[0] == options["batch"]
        for name, shape in shapes.items()
    )
    if not fit:
        raise ValueError(f"open: the shapes are {shown(given['shapes'])}, but those of the inputs {shown(inputs)}")
    nodes = {value: replace(node, attributes=_in_memory(node.attributes)) for value, node in graph.nodes.items()}
    known = {_term(term, nodes): _number(number) for term, number in _rows(given["known"], 2)}
    computed = {
        _argument(value, name, nodes): _template(each, nodes, value)
        for value, name, each in _rows(given["computed"], 3)
    }
    stored = [*known.items(), *((each, nodes[value].attributes[name]) for (value, name), each in computed.items())]
    for template, number in stored:
        if compute(template, lambda value, dim: nodes[value].shape[dim]) != number:
            raise ValueError(f"open: {shown(_encoded(template))} is not {shown(number)} for the sizes that are stored")
    return replace(graph, nodes=nodes, known=known, computed=computed), shapes, given["named"]


def open_options(graph: Graph, shapes: Mapping[str, OpenShape], named: bool) -> dict[str, Any]:
    """Return what `read_open` needs beside a graph as it was traced for all sizes."""
    known = [[_encoded(term), number] for term, number in graph.known.items()]
    computed = [[*argument, _encoded(template)] for argument, template in graph.computed.items()]
    return {"named": named, "shapes": dict(shapes), "known": known, "computed": computed}


def _encoded(template: Any) -> Any:
    if isinstance(template, Term):
        return {template.op: [_encoded(each) for each in template.operands]}
    return [_encoded(each) for each in template] if isinstance(template, (list, tuple)) else template


def _template(stored: Any, nodes: Mapping[Value, Node], reader: Value) -> Any:
    """Return an argument with terms of sizes that are known before the node `reader`."""
    if isinstance(stored, list):
        return tuple(_template(each, nodes, reader) for each in stored)
    if not isinstance(stored, dict):
        return _scalar(stored, "open: computed")
    term = _term(stored, nodes)
    if term.last() >= reader:
        raise ValueError(f"open: node {reader} has a size that comes after it")
    return term


def _term(stored: Any, nodes: Mapping[Value, Node]) -> Term:
    op, operands = next(iter(stored.items())) if isinstance(stored, dict) and len(stored) == 1 else ("", None)
    if not isinstance(operands, list) or len(operands) != _OPERANDS.get(op):
        raise ValueError(f"open: a number must be computed by an operation from others, got {shown(stored)}")
    if op != "size":
        return Term(op, tuple(_term(each, nodes) if isinstance(each, dict) else _number(each) for each in operands))
    value, dim = operands
    known = type(value) is int and value in nodes and type(dim) is int
    if not known or not 0 <= dim < len(nodes[value].shape):
        raise ValueError(f"open: no value has the size {shown(operands)}")
    return Term(op, (value, dim))


_OPERANDS = {"size": 2, **{name: 1 if name in ("neg", "abs", "ceil", "floor", "trunc") else 2 for name in OPERATIONS}}
"""Of how many a term is made."""


def _number(value: Any) -> Number:
    if isinstance(value, (int, float)):
        return value
    raise ValueError(f"open: there must be a number, got {shown(value)}")


def _argument(value: Any, name: Any, nodes: Mapping[Value, Node]) -> tuple[Value, str]:
    if type(value) is not int or value not in nodes or name not in nodes[value].attributes:
        raise ValueError(f"open: no node has the argument {shown([value, name])}")
    return value, name


def _rows(rows: Sequence[Any], length: int) -> Sequence[Any]:
    for row in rows:
        if not isinstance(row, list) or len(row) != length:
            raise ValueError(f"open: there must be lists of {length}, got {shown(row)}")
    return rows


def _of_today(given: Any, graph: Graph) -> Any:
    """Return what stands beside an open graph, also of files in which no more than single sizes are known."""
    if not isinstance(given, dict) or not isinstance(given.get("seen"), list):
        return given
    pairs = [(_term({"size": pair}, graph.nodes), pair) for pair in given["seen"]]
    known = [[{"size": pair}, graph.nodes[term.operands[0]].shape[term.operands[1]]] for term, pair in pairs]
    return {name: each for name, each in given.items() if name != "seen"} | {"known": known, "computed": []}


def _open_shape(shape: Any) -> OpenShape:
    if not isinstance(shape, list):
        raise ValueError(f"open: a shape must be a list of sizes, got {shown(shape)}")
    return tuple(None if size is None else as_positive(size, "open", "shapes") for size in shape)


def _in_memory(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.loaded() if isinstance(value, Weight) else value for name, value in attributes.items()}


def _encode(node: Node, name: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return a node as JSON, without its inputs; arrays go to `tensors` under names with this prefix."""

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Weight) or (isinstance(value, np.ndarray) and (value.ndim > 0 or node.op == "constant")):
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, (tuple, list)):
            if value and isinstance(value[0], Node):
                return {"parts": [_encode(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]}
            return [plain(item, name) for item in value]
        if isinstance(value, (np.generic, np.ndarray)):
            return value.item()
        return value if value is None or isinstance(value, (bool, str, float)) else operator.index(value)

    given = {key: value for key, value in node.attributes.items() if key not in node.inputs}
    attributes = {key: plain(value, f"{name}.{key}") for key, value in given.items()}
    measured = {} if node.measured is None else asdict(node.measured)
    return {
        "op": node.op,
        "attributes": attributes,
        "shape": node.shape,
        "dtype": node.dtype.name,
        "results": [[shape, dtype.name] for shape, dtype in node.results],
        "fused": node.fused,
        "measured": measured,
    }


def _decode(text: str, types: Mapping[str, str], read: Callable[[str], Array | Weight]) -> tuple[Graph, dict[str, Any]]:
    """Return graph and options of the plan's JSON, given the types of all tensors and a way to read them."""
    plan = strict_json(text)
    _check_fields(plan, {"options": dict, "nodes": list, "outputs": dict, "returns": (str, list, dict)}, "the plan")
    reader = _Reader(types, read)
    nodes = {value: reader.node(record, value) for value, record in enumerate(plan["nodes"])}
    whole = plan["options"].get("whole") is True
    for value, node in nodes.items():
        if node.op == "input" and not whole and (len(node.shape) < 2 or node.shape[0] != 1):
            raise ValueError(f"node {value} is an input and must have the shape of a batch of one")
    graph = verify(Graph(nodes, plan["outputs"], plan["returns"]))
    if "open" not in plan["options"]:  # otherwise known once a size is
        check_supported(graph, whole=whole)
    reader.check_all_read()
    return graph, plan["options"]


@dataclass(frozen=True, eq=False)
class _Stored:
    """A weight in an open file."""

    file: TensorFile
    name: str

    @property
    def shape(self) -> Shape:
        return self.file.tensors[self.name].shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        info = self.file.tensors[self.name]
        # Memory that returns to the system at once. From malloc it would end up between packed weights, which stay: 21
        # MiB of holes for ResNet-50.
        memory = mmap.mmap(-1, max(info.nbytes, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # the kernel may not support huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        return self.file.read(self.name, memory)


class _Reader:
    """Builds nodes from JSON and tensors; each tensor is used once, so nodes take no more memory than their file."""

    def __init__(self, types: Mapping[str, str], read: Callable[[str], Array | Weight]) -> None:
        self._types, self._read, self._unread = types, read, set(types)

    def node(self, record: Any, value: Value) -> Node:
        what = f"node {value}"
        _check_fields(record, {**_FIELDS, "inputs": dict}, what)
        node = self._node(record, what)
        inputs = record["inputs"]
        if value == INPUT and node.op != "input":
            raise ValueError("node 0 must be an input")
        if bool(inputs) == (node.op in SOURCES) or not all(type(source) is int for source in inputs.values()):
            raise ValueError(f"{what} has the inputs {shown(inputs)}; they must map names to values")
        return replace(node, inputs=inputs)

    def check_all_read(self) -> None:
        if self._unread:
            raise ValueError(f"no node has the tensor {shown(min(self._unread))}")

    def _node(self, record: Any, what: str) -> Node:
        fused = record["fused"]
        if not all(isinstance(name, str) for name in fused):
            raise ValueError(f"{what}: fused must be names, got {shown(fused)}")
        kinds = _CONSTANTS if record["op"] == "constant" else ("F32",)
        attributes = {
            key: self._attribute(value, f"{what}: {key}", kinds) for key, value in record["attributes"].items()
        }
        if record["op"] == "constant" and isinstance(attributes.get("value"), Weight):
            attributes["value"] = np.asarray(attributes["value"])  # never packed
            attributes["value"].flags.writeable = False
        measured = _measured(record["measured"], what)
        shape, dtype = _shape(record["shape"], what, int(record["op"] == "input")), _dtype(record["dtype"], what)
        results = tuple(_result(result, what) for result in record["results"])
        return Node(record["op"], {}, attributes, shape, dtype, results, fused=tuple(fused), measured=measured)

    def _attribute(self, value: Any, what: str, kinds: Sequence[str]) -> Any:
        if not isinstance(value, dict):
            return tuple(_scalar(item, what) for item in value) if isinstance(value, list) else _scalar(value, what)
        if value.keys() == {"tensor"}:
            return self._tensor(value["tensor"], what, kinds)
        if value.keys() == {"parts"} and isinstance(value["parts"], list):
            for part in value["parts"]:
                _check_fields(part, _FIELDS, what)
                if any(isinstance(nested, dict) and "parts" in nested for nested in part["attributes"].values()):
                    raise ValueError(f"{what}: parts cannot have parts")
            return tuple(self._node(part, what) for part in value["parts"])
        raise ValueError(f"{what} must be a number, text, null, a list of these, a tensor or parts, got {shown(value)}")

    def _tensor(self, name: Any, what: str, kinds: Sequence[str]) -> Any:
        if not isinstance(name, str) or name not in self._unread:
            known = isinstance(name, str) and name in self._types
            raise ValueError(f"{what} is the tensor {shown(name)}, which {'is used twice' if known else 'is missing'}")
        if self._types[name] not in kinds:
            raise ValueError(f"{what} must be float32 (F32), got {self._types[name]}")
        self._unread.remove(name)
        return self._read(name)


_CONSTANTS = ("F32", "I64", "BOOL")

_FIELDS = {
    "op": str,
    "attributes": dict,
    "shape": list,
    "dtype": str,
    "results": list,
    "fused": list,
    "measured": dict,
}


def _check_fields(record: Any, fields: Mapping[str, type | tuple[type, ...]], what: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{what} must be an object with {', '.join(fields)}, got {shown(record)}")
    if wrong := sorted(record.keys() ^ fields.keys()):
        raise ValueError(f"{what}: {shown(wrong[0])} is {'missing' if wrong[0] in fields else 'unknown'}")
    for name, kind in fields.items():
        if type(record[name]) not in (kind if isinstance(kind, tuple) else (kind,)):
            raise ValueError(f"{what}: {name} is of the wrong type: {shown(record[name])}")


def _measured(record: dict[str, Any], what: str) -> Measured | None:
    if not record:
        return None
    _check_fields(record, {"chosen": str, "expected": str, "seconds": dict}, f"{what}: measured")
    measured = Measured(**record)
    if not (are_times(measured.seconds) and {measured.chosen, measured.expected} <= measured.seconds.keys()):
        raise ValueError(f"{what}: measured must have the times of what was chosen and expected")
    return measured


def _scalar(value: Any, what: str) -> Any:
    if isinstance(value, int):
        return value if isinstance(value, bool) else as_int(value, "plan", what)
    if value is None or isinstance(value, (float, str)):
        return value
    raise ValueError(f"{what} must not be or hold {shown(value)}")


def _result(pair: Any, what: str) -> tuple[Shape, DType]:
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list)):
        raise ValueError(f"{what}: a result must be a shape and a type, got {shown(pair)}")
    return _shape(pair[0], what), _dtype(pair[1], what)


def _dtype(name: Any, what: str) -> DType:
    if name not in ("float32", "int64", "bool"):
        raise ValueError(f"{what}: its type must be float32, int64 or bool, got {shown(name)}")
    dtype: DType = np.dtype(name)
    return dtype


def _shape(sizes: list[Any], what: str, least: int = 0) -> Shape:
    numbers = tuple(as_int(size, what, "shape") for size in sizes)
    if any(number < least for number in numbers):
        raise ValueError(f"{what}: shape must be at least {least}, got {min(numbers)}")
    return numbers
