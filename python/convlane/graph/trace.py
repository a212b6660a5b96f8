"""A network as a list of operations: the model is called once on a symbol, which writes down what is done to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from convlane.functional._arguments import as_array
from convlane.functional._op import Shape, rules, signature_of
from convlane.functional._placeholder import Placeholder

Value: TypeAlias = int
"""The result of a node, by its key in `Graph.nodes`."""

INPUT: Value = 0

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
    """Stands for an array of which only the shape is known; operations on it are recorded."""

    def __init__(self, shape: Shape, value: Value, nodes: dict[Value, Node]) -> None:
        super().__init__(shape)
        self.value, self._nodes = value, nodes

    @staticmethod
    def __convlane_op__(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Symbol:
        known = rules(operation)
        shape = known.shape(*args, **kwargs)
        bound = signature_of(operation).bind(*args, **kwargs)
        bound.apply_defaults()
        name = operation.__name__
        inputs: dict[str, Symbol] = {}
        attributes = {}
        for argument, given in bound.arguments.items():
            if isinstance(given, Symbol):
                inputs[argument] = given
            elif isinstance(given, (list, tuple)) and any(isinstance(item, Symbol) for item in given):
                for i, item in enumerate(given):
                    if not isinstance(item, Symbol):
                        raise TypeError(f"{name}: {argument}[{i}] must be computed from the input as the others are")
                    inputs[f"{argument}[{i}]"] = item
            else:
                attributes[argument] = _kept(given, name, argument)
        nodes = next(iter(inputs.values()))._nodes
        if any(symbol._nodes is not nodes for symbol in inputs.values()):
            raise ValueError(f"{name}: the arguments come from two different calls of a network")
        value = len(nodes)
        sources = {argument: symbol.value for argument, symbol in inputs.items()}
        nodes[value] = Node(name, sources, attributes, shape, known.multiply_adds(*args, **kwargs))
        return Symbol(shape, value, nodes)

    def _why(self, what: str) -> str:
        return f"{what} cannot be traced: while a network is compiled there is no array yet, only its shape"


def _kept(value: Any, op: str, argument: str) -> Any:
    """Return an argument as it stays, whatever becomes of the network: arrays as read-only float32."""
    if not isinstance(value, np.ndarray) and (np.isscalar(value) or not hasattr(value, "__array__")):
        return value
    array = as_array(value, op, argument)
    if array is value and array.flags.owndata and not array.flags.writeable:
        return array
    array = array.copy()
    array.flags.writeable = False
    return array
