"""A network as a list of operations: the model is called once on a symbol, which writes down what is done to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn, TypeAlias

import numpy as np

from convlane.functional._arguments import as_array
from convlane.functional._op import Shape, rules
from convlane.nn.module import Module

Value: TypeAlias = int
"""The result of a node, by its key in `Graph.nodes`."""

INPUT: Value = 0


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

    A pass may keep a result in another shape than the network gives it (what flattening does to one pixel changes
    nothing in memory), so the output's shape stands beside.
    """

    nodes: Mapping[Value, Node]
    output: Value
    output_shape: Shape

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
    if isinstance(model, Module):
        for path, module in model.named_modules():
            if module.training:
                name = f"its module {path!r}" if path else "it"
                raise ValueError(
                    f"trace: {type(model).__name__} must be in eval mode, but {name} is training; call .eval()"
                )
    nodes, result = record(model, input_shape)
    if not isinstance(result, Symbol):
        raise TypeError(f"trace: the network must return one array, but returned {type(result).__name__}")
    return Graph(nodes, result.value, result.shape)


def record(model: Callable[[Any], Any], input_shape: Sequence[int]) -> tuple[dict[Value, Node], Any]:
    """Call a network on a symbol; return the nodes and what the network returned."""
    shape = tuple(input_shape)
    nodes: dict[Value, Node] = {INPUT: Node("input", shape=shape)}
    return nodes, model(Symbol(shape, INPUT, nodes))


class Symbol:
    """Stands for an array of which only the shape is known; operations on it are recorded."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Shape, value: Value, nodes: dict[Value, Node]) -> None:
        self.shape, self.value, self._nodes = shape, value, nodes

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Return what arrays in a network hold."""
        return np.dtype(np.float32)

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

    def _refuse(self, what: str) -> NoReturn:
        raise TypeError(
            f"{what} cannot be traced: while a network is compiled there is no array yet, only its shape. "
            "Use the functions of convlane.functional"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("conversion to an array")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> NoReturn:
        self._refuse(f"numpy.{ufunc.__name__}{_instead(ufunc.__name__)}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        self._refuse(f"numpy.{function.__name__}{_instead(function.__name__)}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # protocols that Python and NumPy look for
            raise AttributeError(name)
        self._refuse(f"the array's attribute {name!r}{_instead(name)}")


_INSTEAD = {
    "add": "add",
    "concatenate": "cat",
    "iadd": "add",
    "imul": "mul",
    "maximum": "relu",
    "mul": "mul",
    "multiply": "mul",
    "pad": "pad",
    "radd": "add",
    "ravel": "flatten",
    "reshape": "flatten",
    "rmul": "mul",
    "tanh": "tanh",
}


def _instead(name: str) -> str:
    return f" (here: convlane.functional.{_INSTEAD[name]})" if name in _INSTEAD else ""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def method(self: Symbol, *args: Any) -> NoReturn:
        self._refuse(f"__{name}__{_instead(name)}")

    return method


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
for _name in (
    *(prefix + name for name in _ARITHMETIC for prefix in ("", "r", "i")),
    *("neg", "pos", "abs", "lt", "le", "eq", "ne", "gt", "ge"),
    *("bool", "int", "float", "index", "len", "iter", "getitem", "setitem", "contains"),
):
    setattr(Symbol, f"__{_name}__", _refusing(_name))


@cache
def signature_of(operation: Callable[..., Any]) -> inspect.Signature:
    """Return the arguments of an operation."""
    return inspect.signature(operation)


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
