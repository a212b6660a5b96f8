"""A network as a list of operations: the model is called once on a symbol, which writes down what is done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from convlane.functional._arguments import Array, as_array
from convlane.functional._op import DType, Shape, item_name, operands_of, rules, signature_of
from convlane.functional._placeholder import Placeholder

Value: TypeAlias = int
"""The result of a node, by its key in `Graph.nodes`."""

INPUT: Value = 0

_FLOAT32 = np.dtype(np.float32)

SOURCES = frozenset({"constant", "input"})
"""What nodes are called that stand for an array that is given, not computed."""

OUTPUTS = "outputs"
"""The operation of a last node that stands for several results; its attributes are their shapes."""


@dataclass(frozen=True)
class Measured:
    """What autotuning found out about a node."""

    chosen: str
    expected: str
    """What the cost model would have chosen."""
    seconds: Mapping[str, float]
    """Of every candidate, by name."""

    @property
    def gain(self) -> float:
        """Seconds that the choice saves against the expected one."""
        return self.seconds[self.expected] - self.seconds[self.chosen]

    def __str__(self) -> str:
        first, *others = sorted(self.seconds.items(), key=lambda item: item[0] != self.chosen)
        times = [f"{first[0]} {1e3 * first[1]:.3f} ms", *(f"{name} {1e3 * seconds:.3f}" for name, seconds in others)]
        return f"measured: {', '.join(times)}"


@dataclass(frozen=True)
class Node:
    """One operation of `convlane.functional`: all arguments by name, those that are computed apart from the others."""

    op: str
    inputs: Mapping[str, Value] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shape: Shape = ()
    dtype: DType = _FLOAT32
    multiply_adds: int = 0
    fused: tuple[str, ...] = ()
    """Operations that a pass has drawn into this one, in their order."""
    measured: Measured | None = None
    """Set by autotuning, in the last node of those that it judged together."""

    def __str__(self) -> str:
        inputs = ", ".join(f"{name}=%{source}" for name, source in self.inputs.items())
        return f"{' + '.join((self.op, *self.fused))}({inputs}) {self.shape}"


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they run. The node `INPUT` has the operation ``input``.

    Where the network returns several arrays, the last node is the output, has them as inputs and computes nothing.

    A pass may keep a result in another shape than the network gives it (what flattening does to one pixel changes
    nothing in memory), so the output's shape stands beside.
    """

    nodes: Mapping[Value, Node]
    output: Value
    output_shape: Shape

    @property
    def results(self) -> list[tuple[Value, Shape]]:
        """The values that the network returns, with the shapes that it gives them."""
        last = self.nodes[self.output]
        if last.op != OUTPUTS:
            return [(self.output, self.output_shape)]
        return list(zip(last.inputs.values(), last.attributes.values(), strict=True))

    def users(self) -> dict[Value, list[Value]]:
        """Return for every value who reads it, once per argument; the output is read by `output` itself."""
        users: dict[Value, list[Value]] = {value: [] for value in self.nodes}
        for value, node in self.nodes.items():
            for source in node.inputs.values():
                users[source].append(value)
        users[self.output].append(self.output)
        return users

    def __str__(self) -> str:
        return "\n".join(f"%{value} = {node}" for value, node in self.nodes.items())


def trace(model: Callable[[Any], Any], input_shape: Sequence[int]) -> Graph:
    """Write down the operations of one call of a network, without running them.

    Parameters
    ----------
    model
        A network in eval mode, or any function of one array that is made of operations of `convlane.functional`.
    input_shape
        Shape of the array that it would be called with.

    Raises
    ------
    TypeError
        The network does something to an array that is no operation of `convlane.functional`, or returns no array.
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
    nodes, result = record(model, input_shape)
    if isinstance(result, (list, tuple)) and result and all(isinstance(item, Symbol) for item in result):
        inputs = {f"{OUTPUTS}[{i}]": symbol.value for i, symbol in enumerate(result)}
        shapes = {f"shapes[{i}]": symbol.shape for i, symbol in enumerate(result)}
        last = len(nodes)
        nodes[last] = Node(OUTPUTS, inputs, shapes, result[0].shape)
        return Graph(nodes, last, result[0].shape)
    if not isinstance(result, Symbol):
        kind = type(result).__name__
        raise TypeError(f"trace: the network must return one array or a list or tuple of arrays, but returned {kind}")
    return Graph(nodes, result.value, result.shape)


def record(model: Callable[[Any], Any], input_shape: Sequence[int]) -> tuple[dict[Value, Node], Any]:
    """Call a network on a symbol; return the nodes and what the network returned."""
    shape = tuple(input_shape)
    nodes: dict[Value, Node] = {INPUT: Node("input", shape=shape)}
    return nodes, model(Symbol(shape, INPUT, nodes))


class Symbol(Placeholder):
    """Stands for an array of which only shape and type are known; operations on it are recorded."""

    def __init__(self, shape: Shape, value: Value, nodes: dict[Value, Node]) -> None:
        super().__init__(shape)
        self.value, self._nodes = value, nodes

    @property
    def dtype(self) -> DType:
        """Return what the array holds."""
        return self._nodes[self.value].dtype

    @staticmethod
    def __convlane_op__(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Symbol:
        known = rules(operation)
        shape = known.shape(*args, **kwargs)
        bound = signature_of(operation).bind(*args, **kwargs)
        bound.apply_defaults()
        name = operation.__name__
        nodes = _nodes_of(name, bound.arguments.values())
        inputs: dict[str, Value] = {}
        attributes = {}
        operands = operands_of(operation)
        for argument, given in bound.arguments.items():
            sequence = isinstance(given, (list, tuple)) and any(_is_array(item) for item in given)
            items = {item_name(argument, i): item for i, item in enumerate(given)} if sequence else {argument: given}
            for each, item in items.items():
                if isinstance(item, Symbol):
                    inputs[each] = item.value
                elif argument in operands and _is_array(item):
                    inputs[each] = _append(nodes, _constant(item, name, each))
                else:
                    attributes[each] = _kept(item, name, each) if _is_array(item) else item
        node = Node(name, inputs, attributes, shape, known.dtype(*args, **kwargs), known.multiply_adds(*args, **kwargs))
        return Symbol(shape, _append(nodes, node), nodes)

    def _why(self, what: str) -> str:
        return f"{what} cannot be traced: while a network is compiled there is no array yet, only its shape"


def _nodes_of(name: str, arguments: Iterable[Any]) -> dict[Value, Node]:
    """Return the nodes that all symbols among the arguments of an operation belong to."""
    items = [item for given in arguments for item in (given if isinstance(given, (list, tuple)) else [given])]
    first, *others = (item._nodes for item in items if isinstance(item, Symbol))
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
    """Return an array as it stays, whatever becomes of the network: read-only, numbers as float32 or int64."""
    kind = np.asarray(value).dtype.kind if isinstance(value, np.ndarray) else "f"
    array: Any = as_array(value, op, argument) if kind not in "biu" else value.astype(bool if kind == "b" else np.int64)
    if array is value and array.flags.owndata and not array.flags.writeable:
        return array  # type: ignore[no-any-return]
    array = array.copy()
    array.flags.writeable = False
    return array  # type: ignore[no-any-return]
