"""A network as a list of operations: the model is called once on symbols, which record what is done to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from convlane.functional._arguments import Array, as_array
from convlane.functional._op import DType, Shape, bound, item_name, operands_of, rules
from convlane.functional._placeholder import Placeholder
from convlane.functional._size import Number, Size, Term, has_sizes, number_of, template_of

Value: TypeAlias = int
"""The result of a node, by its key in `Graph.nodes`."""

INPUT: Value = 0
"""The first input."""

RETURNED: Value = -1
"""Stands for the network's caller among the readers of a value."""

_FLOAT32 = np.dtype(np.float32)

SOURCES = frozenset({"constant", "input"})
"""The names of nodes that stand for arrays that are given, not computed."""


@dataclass(frozen=True)
class Measured:
    """What autotuning found out about a node."""

    chosen: str
    expected: str
    """The cost model's choice."""
    seconds: Mapping[str, float]
    """Seconds of every candidate, by name."""

    @property
    def gain(self) -> float:
        """Seconds that the choice saves compared with the expected one."""
        return self.seconds[self.expected] - self.seconds[self.chosen]

    def __str__(self) -> str:
        first, *others = sorted(self.seconds.items(), key=lambda item: item[0] != self.chosen)
        times = [f"{first[0]} {1e3 * first[1]:.3f} ms", *(f"{name} {1e3 * seconds:.3f}" for name, seconds in others)]
        return f"measured: {', '.join(times)}"


@dataclass(frozen=True)
class Node:
    """One operation of `convlane.functional`: all arguments by name, with computed ones separate from the others.

    Besides operations there are arrays that are given, ``input`` (with a name) and ``constant`` (with a value), and
    ``item``, one of the results of an operation that has several.
    """

    op: str
    inputs: Mapping[str, Value] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shape: Shape = ()
    dtype: DType = _FLOAT32
    results: tuple[tuple[Shape, DType], ...] = ()
    """Shapes and types if there are several; then `shape` and `dtype` mean nothing, and only items read it."""
    multiply_adds: int = 0
    fused: tuple[str, ...] = ()
    """Operations that a pass has fused into this one, in order."""
    measured: Measured | None = None
    """Set by autotuning, in the last node of those that it timed together."""

    def reading(self, inputs: Mapping[str, Value]) -> Node:
        """Return the node with these inputs: itself if it already has them."""
        return self if inputs == self.inputs else replace(self, inputs=inputs)

    def __str__(self) -> str:
        inputs = ", ".join(f"{name}=%{source}" for name, source in self.inputs.items())
        shapes = " ".join(str(shape) for shape, _ in self.results) or self.shape
        return f"{' + '.join((self.op, *self.fused))}({inputs}) {shapes}"


class Slot(NamedTuple):
    """The memory of a result that is part of another's, or a view of it."""

    buffer: Value
    channel: int | None
    """The first channel if it is a slice of channels; None if it is all of the other, in another shape."""
    is_view: bool
    """It is already there, so that nothing needs to be computed."""


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they run, and by name which of their results the network returns.

    A graph is well typed before and after every pass: each node's shape and type are those that its operation's rules
    give. A change of shape is a node, even if it changes nothing in memory.
    """

    nodes: Mapping[Value, Node]
    outputs: Mapping[str, Value]
    returns: Any = "array"
    """What the network returns: an ``array``, a ``tuple`` or a ``dict`` of arrays; else nested lists (for tuples) and
    dicts of names and None."""
    slots: Mapping[Value, Slot] = field(default_factory=dict)
    """Results that have no memory of their own, as `convlane.graph.arena` tells."""
    known: Mapping[Term, Number] = field(default_factory=dict)
    """What the network asked about sizes while it was traced for all; it may do otherwise where an answer differs."""
    computed: Mapping[tuple[Value, str], Any] = field(default_factory=dict)
    """Arguments, by node and name, that it has computed from sizes: `Term`s, or containers of them."""

    @property
    def inputs(self) -> dict[str, Value]:
        """The network's inputs by name, in their order."""
        return {node.attributes["name"]: value for value, node in self.nodes.items() if node.op == "input"}

    @property
    def output(self) -> Value:
        """What the network returns, the first where it returns several."""
        return next(iter(self.outputs.values()))

    @property
    def output_shape(self) -> Shape:
        """Shape of `output`."""
        return self.nodes[self.output].shape

    def users(self) -> dict[Value, list[Value]]:
        """Return the readers of every value, once per argument; outputs are also read by `RETURNED`."""
        users: dict[Value, list[Value]] = {value: [] for value in self.nodes}
        for value, node in self.nodes.items():
            for source in node.inputs.values():
                users[source].append(value)
        for value in self.outputs.values():
            users[value].append(RETURNED)
        return users

    def memory_of(self, value: Value) -> Value:
        """Return the result in whose memory another lies; most have memory of their own."""
        slot = self.slots.get(value)
        return slot.buffer if slot is not None and slot.channel is None else value

    def pruned(self) -> Graph:
        """Return the graph without what its outputs do not depend on; inputs stay."""
        alive = {*self.outputs.values(), *self.inputs.values()}
        for value in reversed(list(self.nodes)):
            if value in alive:
                alive.update(self.nodes[value].inputs.values())
        return replace(self, nodes={value: node for value, node in self.nodes.items() if value in alive})

    def renamed(self, same: Mapping[Value, Value]) -> dict[str, Value]:
        """Return the outputs after some values are replaced by others."""
        return {name: same.get(value, value) for name, value in self.outputs.items()}

    def __str__(self) -> str:
        return "\n".join(f"%{value} = {node}" for value, node in self.nodes.items())


def trace(model: Callable[..., Any], input_shape: InputShape, *, for_all: bool = False) -> Graph:
    """Write down the operations of one call of a network, without running them.

    Parameters
    ----------
    model
        A network in eval mode, or any function of arrays that is made of operations of `convlane.functional`.
    input_shape
        Shape of the array that it would be called with; for several arrays a tuple of shapes, or a dict of shapes if it
        takes them by name.
    for_all
        Whether to write down, too, what depends on sizes and how: `Graph.known` and `Graph.computed`.

    Raises
    ------
    TypeError
        The network does something to an array that is not an operation of `convlane.functional`, or returns no array.
    ValueError
        A module is in training mode, or an operation refuses the shape that reaches it.

    Examples
    --------
    >>> from convlane import nn
    >>> from convlane.graph import trace
    >>> print(trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (1, 3, 6, 6)))
    %0 = input() (1, 3, 6, 6)
    %1 = conv2d(input=%0) (1, 8, 4, 4)
    %2 = relu(input=%1) (1, 8, 4, 4)
    """
    for path, module in model.named_modules() if hasattr(model, "named_modules") else ():
        if module.training:
            kind, name = type(model).__name__, f"its module {path!r}" if path else "it"
            raise ValueError(f"trace: {kind} must be in eval mode, but {name} is training; call .eval()")
    nodes = Nodes(for_all)
    result = call(model, input_shape, make_inputs(nodes, input_shape))
    return Graph(dict(nodes), *_returned(result), known=dict(nodes.known), computed=dict(nodes.computed))


InputShape: TypeAlias = "Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]"
"""Shape of the only input, of each of several, or of each by name."""


def shapes_by_name(input_shape: Any) -> dict[str, tuple[Any, ...]]:
    """Return the shapes of a network's inputs under names: those given, else ``input``, or ``input0`` and so on.

    Raises
    ------
    TypeError
        `input_shape` is not a shape, or a sequence or dict of shapes.
    """
    if isinstance(input_shape, Mapping):
        return {name: _as_shape(shape, f"input_shape of {name}") for name, shape in input_shape.items()}
    shape = _as_shape(input_shape, "input_shape")
    if shape and all(isinstance(each, (list, tuple)) for each in shape):
        return {f"input{i}": tuple(each) for i, each in enumerate(shape)}
    return {"input": shape}


def _as_shape(shape: Any, name: str) -> tuple[Any, ...]:
    if isinstance(shape, str) or not isinstance(shape, Iterable) or (isinstance(shape, np.ndarray) and shape.ndim != 1):
        got = f"an array of shape {shape.shape}" if isinstance(shape, np.ndarray) else repr(shape)
        raise TypeError(f"{name} must be a shape, such as (1, 3, 224, 224), or several shapes, got {got}")
    return tuple(shape)


class Nodes(dict[Value, Node]):
    """Operations while they are written down, for these sizes or for all; then with what depends on sizes."""

    def __init__(self, for_all: bool = False) -> None:
        super().__init__()
        self.known: dict[Term, Number] = {}
        self.computed: dict[tuple[Value, str], Any] = {}
        self._for_all, self._seen_as_numbers = for_all, not for_all

    def shown(self, shape: Shape, value: Value) -> Shape:
        """Return the shape of a value for whoever asks; all but an operation's rules get sizes that take notes."""
        return shape if self._seen_as_numbers else tuple(self._sizes(shape, value))  # type: ignore[arg-type]

    def _sizes(self, shape: Shape, value: Value) -> Iterator[Size]:
        return (Size(size, Term("size", (value, dim)), self.known) for dim, size in enumerate(shape))

    def inferred(self, operation: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, Any, int]:
        """Return shape, type and multiply-adds of a result by the rules of its operation."""
        known = rules(operation)
        with self.ruling(arguments.values()):
            shape = known.shape(**arguments)
            return shape, known.dtype(**arguments), known.multiply_adds(shape, **arguments)

    @contextlib.contextmanager
    def ruling(self, arguments: Iterable[Any]) -> Iterator[None]:
        """Note no sizes of these arguments within, unless that raises."""
        before, self._seen_as_numbers = self._seen_as_numbers, True
        try:
            yield
        except Exception:  # which tells the network something, should it catch it
            if self._for_all:
                for each in _symbols(arguments):
                    for size in self._sizes(each.shape, each.value):
                        size.known()
            raise
        finally:
            self._seen_as_numbers = before


def record(model: Callable[..., Any], input_shape: InputShape) -> tuple[Nodes, Any]:
    """Call a network on symbols; return the nodes and what the network returned."""
    nodes = Nodes()
    return nodes, call(model, input_shape, make_inputs(nodes, input_shape))


def call(model: Callable[..., Any], input_shape: InputShape, symbols: Mapping[str, Symbol]) -> Any:
    """Call a network with its inputs in the form of their shapes: by name, or positionally."""
    return model(**symbols) if isinstance(input_shape, Mapping) else model(*symbols.values())


def make_inputs(nodes: Nodes, input_shape: InputShape) -> dict[str, Symbol]:
    """Append the inputs of a network to its nodes and return their symbols by name."""
    return {
        name: Symbol(shape, _append(nodes, Node("input", {}, {"name": name}, shape)), nodes)
        for name, shape in shapes_by_name(input_shape).items()
    }


_NO_ARRAYS = "trace: the network must return one array or a list, tuple or dict of arrays, but returned "


def _returned(result: Any) -> tuple[dict[str, Value], Any]:
    """Return by name the outputs that a network has returned, and their containers."""
    if isinstance(result, Symbol):
        return {"output": result.value}, "array"
    outputs: dict[str, Value] = {}

    def named(item: Any, name: str) -> Any:
        """Return containers that hold the names of their arrays."""
        if isinstance(item, Symbol):
            if name in outputs:
                raise ValueError(f"trace: two results of the network have the name {name!r}")
            outputs[name] = item.value
            return name
        if isinstance(item, Mapping):
            return {str(key): named(each, f"{name}.{key}" if name else str(key)) for key, each in item.items()}
        if isinstance(item, (list, tuple)):
            return [named(each, f"{name}.{i}" if name else f"output{i}") for i, each in enumerate(item)]
        if item is None and name:
            return None
        kind = type(result).__name__ + (f", in which {name} is a {type(item).__name__}" if name else "")
        raise TypeError(_NO_ARRAYS + kind)

    returns = named(result, "")
    if not outputs:
        raise TypeError(_NO_ARRAYS + type(result).__name__)
    if list(outputs) == (list(returns.values()) if isinstance(returns, dict) else returns):
        return outputs, "dict" if isinstance(returns, dict) else "tuple"
    return outputs, returns


class Symbol(Placeholder):
    """Stands for an array of which only shape and type are known; operations on it are recorded."""

    def __init__(self, shape: Shape, value: Value, nodes: Nodes) -> None:
        self.value, self._nodes = value, nodes
        super().__init__(shape)

    @property
    def shape(self) -> Shape:
        """Return the sizes, of which a network for all takes note when it is told them."""
        return self._nodes.shown(self._sizes, self.value)

    @shape.setter
    def shape(self, sizes: Shape) -> None:
        self._sizes = sizes

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self._sizes)

    @property
    def dtype(self) -> DType:
        """Return the type of the array's numbers."""
        return self._nodes[self.value].dtype

    def __convlane_checks__(self) -> contextlib.AbstractContextManager[None]:
        return self._nodes.ruling([self])

    @staticmethod
    def __convlane_op__(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments = bound(operation, args, kwargs)
        name = operation.__name__
        nodes = _nodes_of(name, arguments.values())
        computed = {each: template_of(given) for each, given in arguments.items() if has_sizes(given)}
        arguments = {each: number_of(given) if each in computed else given for each, given in arguments.items()}
        shape, dtype, adds = nodes.inferred(operation, arguments)
        inputs: dict[str, Value] = {}
        attributes = {}
        operands = operands_of(operation)
        for argument, given in arguments.items():
            if type(given) in _PLAIN:
                attributes[argument] = given
                continue
            sequence = isinstance(given, (list, tuple)) and any(_is_array(item) for item in given)
            items = {item_name(argument, i): item for i, item in enumerate(given)} if sequence else {argument: given}
            for each, item in items.items():
                if isinstance(item, Symbol):
                    inputs[each] = item.value
                elif argument in operands and _is_array(item):
                    inputs[each] = _append(nodes, _constant(item, name, each))
                else:
                    attributes[each] = _kept(item, name, each) if _is_array(item) else item
        if not isinstance(dtype, tuple):
            value = _append(nodes, Node(name, inputs, attributes, shape, dtype, multiply_adds=adds))
            nodes.computed.update({(value, each): template for each, template in computed.items()})
            return Symbol(shape, value, nodes)
        results = tuple(zip(shape, dtype, strict=True))
        whole = _append(nodes, Node(name, inputs, attributes, results=results, multiply_adds=adds))
        nodes.computed.update({(whole, each): template for each, template in computed.items()})
        parts = (Node("item", {"input": whole}, {"index": i}, *result) for i, result in enumerate(results))
        return tuple(Symbol(part.shape, _append(nodes, part), nodes) for part in parts)

    def _why(self, what: str) -> str:
        return f"{what} cannot be traced: while a network is compiled there is no array yet, only its shape"


_PLAIN = {bool, float, int, str, type(None)}
"""The types of most arguments that are not arrays."""


def _symbols(arguments: Iterable[Any]) -> Iterator[Symbol]:
    """Return the symbols among the arguments of an operation, those in lists too."""
    items = (item for given in arguments for item in (given if isinstance(given, (list, tuple)) else [given]))
    return (item for item in items if isinstance(item, Symbol))


def _nodes_of(name: str, arguments: Iterable[Any]) -> Nodes:
    """Return the nodes that all symbols among the arguments of an operation belong to."""
    first, *others = (symbol._nodes for symbol in _symbols(arguments))
    if any(nodes is not first for nodes in others):
        raise ValueError(f"{name}: the arguments come from two different calls of a network")
    return first


def _append(nodes: dict[Value, Node], node: Node) -> Value:
    value = len(nodes)
    nodes[value] = node
    return value


def _constant(value: Any, op: str, argument: str) -> Node:
    array = _kept(value, op, argument)
    return Node("constant", {}, {"value": array}, array.shape, array.dtype)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (not np.isscalar(value) and hasattr(value, "__array__"))


def _kept(value: Any, op: str, argument: str) -> Array:
    """Return a copy that is safe from later changes: read-only, with numbers as float32 or int64."""
    kind = np.asarray(value).dtype.kind if isinstance(value, np.ndarray) else "f"
    array: Any = as_array(value, op, argument) if kind not in "biu" else value.astype(bool if kind == "b" else np.int64)
    owner = array if array.base is None else array.base
    fixed = isinstance(owner, np.ndarray) and owner.flags.owndata and not owner.flags.writeable
    if array is value and fixed and not array.flags.writeable:
        return array  # type: ignore[no-any-return]
    array = array.copy()
    array.flags.writeable = False
    return array  # type: ignore[no-any-return]
