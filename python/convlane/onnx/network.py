"""A network read from an ONNX file: a module whose forward pass walks over the nodes of the file.

The walk is a partial evaluation. Shapes are known while it runs, so whatever depends only on constants and shapes is
computed with NumPy, and only what depends on the pictures reaches `convlane.functional`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlane.nn.module import Module
from convlane.onnx._package import LoadError, require_onnx
from convlane.onnx.file import FileGraph, Node, OnnxFile, Source, TensorInfo, read_file
from convlane.onnx.registry import Call, Converter, Entry, find
from convlane.onnx.values import Untraceable, is_array
from convlane.safetensors_file import whole_file


def load_onnx(source: Source) -> Network:
    """Read a network from an ONNX file.

    Parameters
    ----------
    source
        The path of a file, or the bytes of one. Weights beside a file (external data) are read from its own folder.

    Returns
    -------
    Network
        A module in eval mode. It can be called, compiled (`convlane.compile`), trained and saved.

    Raises
    ------
    LoadError
        The file is damaged, or has nodes that cannot be computed; all of them are named, with the reasons. It is a
        ValueError.
    OSError
        The file cannot be read.
    ImportError
        The package `onnx` is not installed; the extra of that name installs it.

    Examples
    --------
    >>> import convlane, numpy as np
    >>> from onnx import parser
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 17]>
    ...     tiny (float[N, 2] x) => (float[N, 2] y) { two = Constant<value_float: float = 2.0>() y = Mul(x, two) }
    ... ''')
    >>> network = convlane.load_onnx(model.SerializeToString())
    >>> network(np.ones((1, 2), np.float32))
    array([[2., 2.]], dtype=float32)
    """
    return Network(read_file(source))


class Network(Module):
    """A network from an ONNX file, made by `load_onnx`.

    Its parameters are the initialisers that are weights, under their names in the file; dots in these make modules, so
    that files written by torch have torch's keys. It takes its inputs in order or by name, and returns an array, or a
    dict of arrays by their names in the file if there are several.

    Floating-point numbers of every size are float32 inside.
    """

    _unsaved = frozenset({"_steps"})

    def __init__(self, file: OnnxFile) -> None:
        self.file = replace(file, graph=replace(file.graph, initializers={}))
        refuse_unsupported(file.graph.nodes)
        self.places: dict[str, tuple[Module, str]] = {}
        """The module and attribute of each weight, by the weight's name in the file."""
        self._constants: dict[str, NDArray[Any]] = {}
        learned, measured = _weights(file.graph)
        for name, array in file.graph.initializers.items():
            if name in learned or name in measured:
                self.places[name] = self._put(name, array, name in learned)
            else:
                self._constants[name] = array
        try:
            self._constants |= _folded(file.graph, self._constants, self.places)
        except (TypeError, ValueError, MemoryError) as error:
            raise LoadError(str(error)) from error
        self.eval()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What it takes: name, type and shape as the file states them."""
        return self.file.graph.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What it returns."""
        return self.file.graph.outputs

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the network."""
        values = self.bind(inputs, named)
        self.walk(values)
        found = {info.name: values[info.name] for info in self.outputs}
        return found if len(found) > 1 else next(iter(found.values()))

    def parameter(self, name: str) -> NDArray[Any]:
        """Return a weight by its name in the file."""
        module, attribute = self.places[name]
        return vars(module)[attribute]  # type: ignore[no-any-return]

    def bind(self, inputs: Iterable[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values at the start of a walk, by name."""
        names = [info.name for info in self.inputs]
        given = list(inputs)
        values = dict(zip(names, given, strict=False))
        optional = {info.name for info in self.file.graph.overridable}
        if (
            len(given) > len(names)
            or values.keys() & named.keys()
            or not {*names} <= values.keys() | named.keys()
            or not named.keys() <= {*names} | optional
        ):
            got = [*(f"{len(given)} in order" for _ in given[:1]), *named]
            raise TypeError(f"the network takes {', '.join(names) or 'no inputs'}, got {', '.join(got) or 'none'}")
        values |= named
        weights = {name: self.parameter(name) for name in self.places}
        return {**self._constants, **weights, **{name: as_value(value) for name, value in values.items()}}

    def walk(self, values: dict[str, Any], defer: bool = False) -> list[Node]:
        """Compute all nodes, and add their results to `values`.

        Parameters
        ----------
        values
            By name; values without further readers are removed.
        defer
            Leave out what cannot be computed from symbols, and what depends on it, and keep all values.

        Returns
        -------
        list of Node
            The nodes that were left out.
        """
        return _walk(self._plan_of_steps(), values, self.training, defer, self._part)

    def _part(self, name: str, kind: str, arrays: Sequence[Any], compute: Callable[[], Any]) -> Any:
        """Compute one node; `convlane.graph.modules` and summaries hook in here."""
        return compute()

    def save(self, path: Any) -> None:
        """Write the network to an ONNX file: the one it was read from, with the parameters as they are now.

        Raises
        ------
        OSError
            It cannot be written.
        """
        onnx = require_onnx()
        model = onnx.ModelProto()
        model.ParseFromString(self.file.skeleton)
        for tensor in model.graph.initializer:
            name = tensor.name
            array = self.parameter(name) if name in self.places else self._constants[name]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array), name))
        with whole_file(path) as file:
            file.write(model.SerializeToString())

    def _plan_of_steps(self) -> list[_Step]:
        steps: list[_Step] | None = vars(self).get("_steps")
        if steps is None:
            done = self._constants.keys()
            nodes = [node for node in self.file.graph.nodes if not done >= {name for name in node.outputs if name}]
            steps = _steps(nodes, {info.name for info in self.outputs})
            vars(self)["_steps"] = steps
        return steps

    def _put(self, name: str, array: NDArray[Any], learned: bool) -> tuple[Module, str]:
        """Register a parameter or a buffer under a dotted name, or a flat one if that is impossible."""
        *path, last = name.split(".")
        module: Module = self
        for part in path:
            child = vars(module).get(part)
            if child is None and part and not hasattr(module, part):
                setattr(module, part, child := Module())
            if not isinstance(child, Module):
                module, last = self, name.replace(".", "_")
                break
            module = child
        while not last or hasattr(module, last):
            last += "_"
        (module.register_parameter if learned else module.register_buffer)(last, array)
        return module, last

    def __repr__(self) -> str:
        def listed(infos: Iterable[TensorInfo]) -> str:
            return ", ".join(f"{info.name} {_dims(info.shape)}" for info in infos)

        return f"Network({listed(self.inputs)} to {listed(self.outputs)}, {len(self.file.graph.nodes)} nodes)"


def _dims(shape: Any) -> str:
    return "of any shape" if shape is None else f"({', '.join('?' if dim is None else str(dim) for dim in shape)})"


def as_value(value: Any) -> Any:
    """Return an input as converters expect it: small floats as float32, symbols and variables as they are."""
    if hasattr(type(value), "__convlane_op__"):
        return value
    array = np.asarray(value)
    narrow = array.dtype.kind == "f" and array.dtype.itemsize < 4
    if narrow or ("float" in array.dtype.name and array.dtype.kind != "f"):  # those of ml_dtypes
        return array.astype(np.float32)
    return array


def _narrow(value: Any) -> Any:
    """Return float64 as float32."""
    if is_array(value) and value.dtype == np.float64:
        with np.errstate(all="ignore"):
            return value.astype(np.float32)
    return value


# Which initialisers are weights

_SETTINGS = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Pad": (2,),
    "Range": (0, 1, 2),
    "Resize": (1, 2),
    "Upsample": (1,),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (0, 1, 2),
}
"""Inputs of operators that are not weights, by position."""


def _weights(graph: FileGraph) -> tuple[set[str], set[str]]:
    """Return the names of initialisers that are trained, and of those that are batch norm's statistics."""
    uses: dict[str, set[tuple[str, int]]] = {}
    for node in graph.nodes:
        for i, name in enumerate(node.inputs):
            uses.setdefault(name, set()).add((node.op, i))
    learned, measured = set(), set()
    for name, array in graph.initializers.items():
        used = uses.get(name, set())
        if array.dtype != np.float32 or array.size < 2 or not used:
            continue
        if used <= {("BatchNormalization", 3), ("BatchNormalization", 4)}:
            measured.add(name)
        elif not any(i in _SETTINGS.get(op, ()) for op, i in used):
            learned.add(name)
    return learned, measured


def _folded(graph: FileGraph, constants: Mapping[str, Any], weights: Collection[str]) -> dict[str, NDArray[Any]]:
    """Compute what depends only on constants, once."""
    known: dict[str, Any] = dict(constants)
    found: dict[str, Any] = {}
    for node in graph.nodes:
        names = [name for name in node.inputs if name]
        if (
            any(name not in known for name in names)
            or node.op in _RANDOM
            or any(map(_is_graph, node.attributes.values()))
        ):
            continue
        if any(node.outputs) and sum(known[name].nbytes for name in names) <= _MOST_FOLDED:
            values = dict(known)
            _walk(_steps([node], {*node.outputs, *names}), values, False, False)
            results = {name: values[name] for name in node.outputs if name}
            for array in results.values():
                if array.flags.owndata:
                    array.flags.writeable = False
            known |= results
            found |= results
    return found


_RANDOM = frozenset({"Dropout", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})
_MOST_FOLDED = 1 << 26  # bytes that go into one node; larger ones are computed at each call


def _is_graph(value: Any) -> bool:
    return isinstance(value, FileGraph)


def refuse_unsupported(nodes: Iterable[Node]) -> None:
    """Raise one error that names every node that cannot be computed, with the reasons."""
    refused: dict[str, list[str]] = {}
    for node in nodes:
        if isinstance(found := find(node), str):
            refused.setdefault(found, []).append(str(node))
    if refused:
        count = sum(map(len, refused.values()))
        lines = [f"  {', '.join(names[:_MOST_NAMED])}{_more(names)}: {why}" for why, names in refused.items()]
        raise LoadError(f"{count} node{'s' * (count > 1)} cannot be computed:\n" + "\n".join(lines))


_MOST_NAMED = 100


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""


# The walk


class _Step(NamedTuple):
    """A node, its converter, and the values that have no readers after it."""

    node: Node
    convert: Converter
    wide: bool
    done: tuple[str, ...]


@dataclass(frozen=True)
class Deferred:
    """Stands for what a walk has left out."""


def reads(node: Node) -> Iterator[str]:
    """Yield the names that a node reads, including those that nested graphs read."""
    yield from (name for name in node.inputs if name)
    for value in node.attributes.values():
        if isinstance(value, FileGraph):
            yield from (info.name for info in value.outputs)
            for inner in value.nodes:
                yield from reads(inner)


def _steps(nodes: Iterable[Node], kept: Collection[str]) -> list[_Step]:
    """Return nodes with their converters."""
    each = list(nodes)
    refuse_unsupported(each)
    last: dict[str, int] = {}
    for i, node in enumerate(each):
        for name in (*reads(node), *node.outputs):
            last[name] = i
    done: list[list[str]] = [[] for _ in each]
    for name, i in last.items():
        if name and name not in kept:
            done[i].append(name)
    found = ((node, find(node)) for node in each)
    return [
        _Step(node, entry.convert, entry.wide, tuple(names))
        for (node, entry), names in zip(found, done, strict=True)
        if isinstance(entry, Entry)
    ]


def _walk(
    steps: Iterable[_Step],
    values: dict[str, Any],
    training: bool,
    defer: bool,
    part: Callable[..., Any] = lambda name, kind, arrays, compute: compute(),
) -> list[Node]:
    left: list[Node] = []
    for node, convert, wide, done in steps:
        arguments = [values[name] if name else None for name in node.inputs]
        if not wide:
            arguments = [_narrow(value) for value in arguments]
        call = Call(node, training, partial(_run_inner, values, training))
        try:
            if defer and any(isinstance(values.get(name), Deferred) for name in reads(node)):
                raise Untraceable
            arrays = [value for value in arguments if is_array(value)]
            results = part(node.name or node.outputs[0], node.op, arrays, partial(convert, call, *arguments))
        except Untraceable as error:
            if not defer:
                raise ValueError(f"{node}: {error}") from None
            left.append(node)
            results = (Deferred(),) * len(node.outputs)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{node}: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
            shapes = ", ".join("left out" if each is None else str(tuple(each.shape)) for each in arguments)
            reason = f"inputs of the shapes {shapes or 'none'} do not fit it or its attributes"
            raise ValueError(f"{node}: {reason} ({type(error).__name__}: {error})") from error
        several = results if isinstance(results, tuple) else (results,)
        if len(several) < len(node.outputs) and any(node.outputs[len(several) :]):
            raise ValueError(f"{node}: {len(several)} of its {len(node.outputs)} outputs are computed")
        for name, result in zip(node.outputs, several, strict=False):
            if name:
                values[name] = np.asarray(result) if isinstance(result, np.generic) else result
        if not defer:
            for name in done:
                values.pop(name, None)
    return left


def run_nodes(nodes: Iterable[Node], values: dict[str, Any]) -> None:
    """Compute nodes that a walk has left out, on arrays."""
    _walk([step._replace(done=()) for step in _steps(nodes, ())], values, False, False)


def _run_inner(values: Mapping[str, Any], training: bool, graph: FileGraph) -> tuple[Any, ...]:
    """Run a graph that is an attribute of a node; it sees the values around it."""
    inner = {**values, **graph.initializers}
    _walk([step._replace(done=()) for step in _steps(graph.nodes, ())], inner, training, False)
    return tuple(inner[info.name] for info in graph.outputs)
