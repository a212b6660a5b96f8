"""Networks as ONNX files, for other runtimes: a network is traced, and each of its operations writes its nodes.

How each operation is written is defined in `writers`, one function for each, found by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from convlane._version import __version__
from convlane.graph.trace import SOURCES, Graph, InputShape, shapes_by_name, trace
from convlane.onnx._package import require_onnx
from convlane.onnx.writers._register import Call, find
from convlane.safetensors_file import whole_file

OPSET = 18
"""The oldest whose reductions take axes as an input, Resize has antialias, and Mish exists; most runtimes know it."""

_IR_VERSION = 8  # that of opset 18
_LARGEST = 2**31 - 2**20  # protobuf's limit, minus room for everything but the weights
# An open size is tried as each of these; networks that halve their pictures may refuse the last, odd ones.
_BATCHES, _SIZES = (2, 3, 2, 3), (256, 320, 257, 323)
_NEEDED = 2  # of them

_GIVEN = SOURCES | {"item"}  # not an operation

OpenShape: TypeAlias = "Sequence[int | None] | Sequence[Sequence[int | None]] | Mapping[str, Sequence[int | None]]"
"""As `InputShape`; None is a size that stays open."""


def export(model: Callable[..., Any], path: str | os.PathLike[str], input_shape: OpenShape) -> None:
    """Write a network to an ONNX file that other runtimes read.

    Parameters
    ----------
    model
        A network in eval mode, or any function of arrays that is made of operations of `convlane.functional`.
    path
        The file. Weights of 2 GiB or more, which no ONNX file can hold, go into a second file beside it, named like it
        with ``.data`` appended.
    input_shape
        As for `convlane.compile`; None leaves a size open: ``(None, 3, 224, 224)`` takes batches of any size.

    Raises
    ------
    ImportError
        The package `onnx` is not installed.
    TypeError, ValueError
        The network cannot be traced, operations have no counterpart in ONNX (all of them are named), or a size that is
        left open is part of what would be written.

    Notes
    -----
    The file is of opset 18. Initialisers have the names of the parameters in `state_dict`. Batch normalisation stays a
    node of its own, so that the weights come back as they were.

    Examples
    --------
    >>> import os, tempfile
    >>> import convlane
    >>> from convlane import nn
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     convlane.onnx.export(network, os.path.join(folder, "network.onnx"), (None, 3, 32, 32))
    ...     os.listdir(folder)
    ['network.onnx']
    """
    onnx = require_onnx()
    proto = _written(onnx, model, _filled(input_shape, 0))
    for which in range(1, len(_SIZES)) if _is_open(input_shape) else ():
        try:
            other = _written(onnx, model, _filled(input_shape, which))
        except ValueError:
            if which < _NEEDED:
                raise
            continue
        _leave_open(proto, other)
    _save(onnx, proto, Path(path))


def _written(onnx: Any, model: Callable[..., Any], input_shape: InputShape) -> Any:
    """Return the network as an ONNX model."""
    graph = trace(model, input_shape)
    missing = sorted({node.op for node in graph.nodes.values() if node.op not in _GIVEN and find(node.op) is None})
    if missing:
        raise ValueError(f"export: there is no counterpart in ONNX for {', '.join(missing)}")
    writer = Writer(onnx, _State(model), graph.inputs)
    for value, node in graph.nodes.items():
        if node.op == "input":
            writer.written[value] = node.attributes["name"]
        elif node.op == "constant":
            writer.written[value] = writer.constant(node.attributes["value"])
        elif node.op == "item":
            writer.written[value] = writer.written[node.inputs["input"]][node.attributes["index"]]
        else:
            write = find(node.op)
            assert write is not None  # or it was missing above
            writer.written[value] = write(Call(node, graph, writer))
    return writer.model(graph)


class Writer:
    """Collects nodes and initialisers."""

    def __init__(self, onnx: Any, state: _State, inputs: Mapping[str, Any]) -> None:
        self._onnx, self._state = onnx, state
        self.written: dict[Any, Any] = {}
        """The names of the graph's values; tuples for operations with several results."""
        self._nodes: list[Any] = []
        self._initialisers: dict[str, Any] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._taken = {*inputs, *state.names}

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        output = self._name(op.lower())
        self._nodes.append(self._onnx.helper.make_node(op, list(inputs), [output], name=f"{op}_{output}", **attributes))
        return output

    def constant(self, value: Any) -> str:
        """Return the name of an array; parameters have their own, and equal constants share one."""
        array = np.asarray(value)
        name = self._state.name_of(array)
        if name is None:
            key = (array.dtype.str, array.shape, array.tobytes())
            name = self._constants.setdefault(key, f"constant_{len(self._constants)}")
        if name not in self._initialisers:
            self._taken.add(name)
            self._initialisers[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def model(self, graph: Graph) -> Any:
        """Return the whole model; outputs have the names that they have in the graph."""
        helper = self._onnx.helper
        kinds = {np.dtype(np.float32): "FLOAT", np.dtype(np.int64): "INT64", np.dtype(np.bool_): "BOOL"}

        def info(name: str, value: int) -> Any:
            node = graph.nodes[value]
            return helper.make_tensor_value_info(
                name, self._onnx.TensorProto.DataType.Value(kinds[node.dtype]), node.shape
            )

        outputs = [(self._output(name, value), value) for name, value in graph.outputs.items()]
        body = helper.make_graph(
            self._nodes,
            "convlane",
            [info(name, value) for name, value in graph.inputs.items()],
            [info(name, value) for name, value in outputs],
            list(self._initialisers.values()),
        )
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
        model.producer_name, model.producer_version = "convlane", __version__
        return model

    def _output(self, name: str, value: int) -> str:
        output = name if name not in self._taken else self._name(name)
        self._nodes.append(self._onnx.helper.make_node("Identity", [self.written[value]], [output], name=output))
        self._taken.add(output)
        return output

    def _name(self, kind: str) -> str:
        number = len(self._taken)
        while f"{kind}_{number}" in self._taken:
            number += 1
        self._taken.add(f"{kind}_{number}")
        return f"{kind}_{number}"


class _State:
    """The names of a network's parameters and buffers: a graph refers to parameters, but has copies of buffers."""

    def __init__(self, model: Any) -> None:
        state = model.state_dict() if hasattr(model, "state_dict") else {}
        parameters = dict(model.named_parameters()) if state else {}
        self.names = frozenset(state)
        self._by_memory = {_memory_key(array): name for name, array in parameters.items()}
        self._buffers = {name: np.asarray(array) for name, array in state.items() if name not in parameters}

    def name_of(self, array: Any) -> str | None:
        """Return an array's name; equal arrays get each name once, in order."""
        name = self._by_memory.get(_memory_key(array))
        if name is None:
            name = next((name for name, known in self._buffers.items() if _equal(known, array)), None)
            if name is not None:
                del self._buffers[name]
        return name


def _memory_key(array: Any) -> tuple[Any, ...]:
    return array.__array_interface__["data"][0], array.shape, array.strides


def _equal(one: Any, two: Any) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and bool(np.array_equal(one, two))


# sizes that stay open


def _is_open(shape: Any) -> bool:
    return any(None in sizes for sizes in shapes_by_name(shape).values())


def _filled(shape: Any, which: int) -> Any:
    """Return the shapes with numbers for open sizes: those of the first attempt, or of a later one."""
    if isinstance(shape, Mapping):
        return {name: _filled(sizes, which) for name, sizes in shape.items()}
    if shape and all(isinstance(each, (list, tuple)) for each in shape):
        return tuple(_filled(sizes, which) for sizes in shape)
    return tuple((_SIZES if i else _BATCHES)[which] if size is None else size for i, size in enumerate(shape))


def _leave_open(proto: Any, other: Any) -> None:
    """Name the sizes that differ between two versions of a network; everything else must be equal."""
    for kind in ("node", "initializer"):
        for one, two in zip_longest(getattr(proto.graph, kind), getattr(other.graph, kind)):
            if one != two:
                readers = [
                    node.op_type for node in proto.graph.node if one is None or one.name in (node.name, *node.input)
                ]
                raise ValueError(
                    f"export: a size that is left open is part of the network, in {readers[0]}; give it a number"
                )
    for infos, others in ((proto.graph.input, other.graph.input), (proto.graph.output, other.graph.output)):
        for info, twin in zip(infos, others, strict=True):
            dims, twins = info.type.tensor_type.shape.dim, twin.type.tensor_type.shape.dim
            for i, (dim, two) in enumerate(zip(dims, twins, strict=True)):
                if not dim.dim_param and dim.dim_value != two.dim_value:
                    dim.dim_param = "batch" if i == 0 else f"{info.name}_{i}"


def _save(onnx: Any, proto: Any, path: Path) -> None:
    """Check and write a network, atomically."""
    large = sum(len(each.raw_data) for each in proto.graph.initializer) >= _LARGEST
    if large:
        onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
        onnx.checker.check_model(str(path), full_check=True)
        return
    onnx.checker.check_model(proto, full_check=True)
    with whole_file(path) as file:
        file.write(proto.SerializeToString())
