"""The table of a network: the shapes, activations, parameters and multiply-adds of each layer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from convlane import _core
from convlane._table import sizes, table
from convlane.analysis.layers import Anatomy, Layer, anatomy, checked_shape
from convlane.functional._op import Shape, none, operations, rules, signature_of
from convlane.graph.trace import SOURCES, InputShape, Node, Value
from convlane.nn.module import Module

_ARRAYS = (np.ndarray, _core.PackedWeight, _core.TransposedWeight)


@dataclass(frozen=True)
class Row:
    """A row of the table: one layer or input."""

    layer: int | None
    """The number of the layer with weights that this is or belongs to; None before the first."""
    has_weights: bool
    """Whether this is the layer of that number."""
    name: str
    """The name that `feature_maps` and other functions take."""
    kind: str
    input_shape: Shape
    output_shape: Shape
    activations: int
    """The number of elements of the result; 0 if it needs no memory of its own."""
    parameters: int
    multiply_adds: int

    @property
    def memory(self) -> int:
        """The bytes of the layer's activations and parameters."""
        return 4 * (self.activations + self.parameters)


@dataclass(frozen=True)
class Summary:
    """A network's layers and totals, printed as a table; `to_json` returns the same for programs."""

    rows: tuple[Row, ...]
    """The rows, the first of which are the inputs."""
    layers: int
    """The number of layers with weights: convolutions and linear layers."""
    depth: int
    """The largest number of layers with weights on a path from input to output, as in the names of networks."""
    parameters: int
    unused_parameters: int
    """The number of parameters that this call does not use, such as those of auxiliary classifiers."""

    @property
    def input_shape(self) -> Shape:
        """The shape of the input, or of the first one if there are several."""
        return self.rows[0].output_shape

    @property
    def multiply_adds(self) -> int:
        """The number of multiply-adds of all layers."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activations(self) -> int:
        """The number of elements of all layers' results, including the input."""
        return sum(row.activations for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """The bytes of all activations, which training at least has to store."""
        return 4 * self.activations

    @property
    def parameter_bytes(self) -> int:
        """The bytes of all parameters."""
        return 4 * self.parameters

    def to_dict(self) -> dict[str, Any]:
        """Return the rows and totals as dicts, lists and numbers."""
        totals = ("activations", "activation_bytes", "parameters", "parameter_bytes", "unused_parameters")
        return {
            "input_shape": list(self.input_shape),
            "rows": [_plain({**asdict(row), "memory": row.memory}) for row in self.rows],
            **{name: getattr(self, name) for name in ("layers", "depth", "multiply_adds", *totals)},
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        rows = [["layer", "name", "kind", "output", "activations", "parameters", "multiply-adds", "memory"]]
        for row in self.rows:
            figures = (row.activations, row.parameters, row.multiply_adds)
            cells = [str(row.layer) if row.has_weights else "", row.name, row.kind, sizes(row.output_shape)]
            rows.append([*cells, *(f"{figure:,}" if figure else "" for figure in figures), short_bytes(row.memory)])
        figures = (self.activations, self.parameters, self.multiply_adds)
        memory = self.activation_bytes + self.parameter_bytes
        rows.append(["", "total", "", "", *(f"{figure:,}" for figure in figures), short_bytes(memory)])
        lines = [
            *table(rows, _RIGHT),
            f"{self.layers} layers with weights, {self.depth} of them on the longest path",
            f"activations {short_bytes(self.activation_bytes)} with the input, "
            f"parameters {short_bytes(self.parameter_bytes)}",
        ]
        if self.unused_parameters:
            lines.append(f"{self.unused_parameters:,} of the parameters are in parts that this call does not reach")
        return "\n".join(lines)

    __repr__ = __str__


_RIGHT = frozenset({"layer", "activations", "parameters", "multiply-adds", "memory"})


def summary(model: Callable[..., Any], input_shape: InputShape | None = None) -> Summary:
    """Return the layers of a network, their shapes and costs, without running it.

    Layers are counted as in textbooks: convolutions and linear layers with weights of the network are numbered, and
    the operations that follow one (normalisation, activation, pooling) belong to it. Activations are the numbers that a
    layer has to store: results of convolutions, linear layers and pooling; activation functions, normalisation, sums
    and concatenation are assumed to be done in place. The numbers are those of eval mode, whatever mode the network is
    in.

    Parameters
    ----------
    model
        A network, or any function of arrays that is made of operations of `convlane.functional`; the parameters of a
        function are all weights and biases that it passes to operations.
    input_shape
        The shape of the array that it would be called with, (N, C, H, W) for images; for several arrays a tuple of
        shapes, or a dict of shapes if it takes them by name. By default one image of the size that the network is made
        for, if `convlane.models.create` has built it.

    Returns
    -------
    Summary
        Print it for the table; its attributes have the numbers.

    Raises
    ------
    TypeError
        If the network does something with an array that is not an operation of `convlane.functional`.
    ValueError
        If an operation rejects the shape that reaches it, or there is no default for the shape.

    Examples
    --------
    >>> from convlane import analysis, models
    >>> print(analysis.summary(models.create("lenet5")))
    layer  name          kind       output     activations  parameters  multiply-adds    memory
           input         input      1x1x32x32        1,024                               4.1 kB
        1  features.0    Conv2d     1x6x28x28        4,704         156        117,600   19.4 kB
           features.1    ReLU       1x6x28x28                                               0 B
           features.2    MaxPool2d  1x6x14x14        1,176                               4.7 kB
        2  features.3    Conv2d     1x16x10x10       1,600       2,416        240,000   16.1 kB
           features.4    ReLU       1x16x10x10                                              0 B
           features.5    MaxPool2d  1x16x5x5           400                               1.6 kB
           flatten       flatten    1x400                                                   0 B
        3  classifier.0  Linear     1x120              120      48,120         48,000  193.0 kB
           classifier.1  ReLU       1x120                                                   0 B
        4  classifier.2  Linear     1x84                84      10,164         10,080   41.0 kB
           classifier.3  ReLU       1x84                                                    0 B
        5  classifier.4  Linear     1x10                10         850            840    3.4 kB
           total                                     9,118      61,706        416,520  283.3 kB
    5 layers with weights, 5 of them on the longest path
    activations 36.5 kB with the input, parameters 246.8 kB
    >>> vgg = analysis.summary(models.create("vgg16"))
    >>> f"{vgg.multiply_adds:,} {vgg.parameters:,} {vgg.activations:,}"
    '15,470,264,320 138,357,544 15,237,608'
    """
    network = anatomy(model, checked_shape(model, input_shape, "summary"))
    parameters = {id(array): array.size for array in model.parameters()} if isinstance(model, Module) else None
    held, unused = _parameters(network, parameters)
    counted = {
        value
        for layer in network.layers
        for value in layer.values
        if _is_counted(network.nodes[value], parameters, held.get(layer.name, 0))
    }
    numbers, depths = _numbers(network, counted), _depths(network, counted)
    inputs = [node for node in network.nodes.values() if node.op == "input"]
    rows = [
        Row(None, False, node.attributes["name"], "input", node.shape, node.shape, math.prod(node.shape), 0, 0)
        for node in inputs
    ]
    for layer in network.layers:
        nodes = [network.nodes[value] for value in layer.values]
        rows.append(
            Row(
                numbers[layer.values[-1]] or None,
                not counted.isdisjoint(layer.values),
                layer.name,
                layer.kind,
                network.nodes[next(iter(nodes[0].inputs.values()))].shape,
                nodes[-1].shape,
                sum(_stored(node, network) for node in nodes),
                held.get(layer.name, 0),
                sum(node.multiply_adds for node in nodes),
            )
        )
    total = sum(row.parameters for row in rows) + unused
    depth = max(depths.values(), default=0) if network.output is None else depths[network.output]
    return Summary(tuple(rows), len(counted), depth, total, unused)


def is_weighted(node: Node) -> bool:
    """Return whether a node multiplies by a weight, as convolutions and linear layers do."""
    operation = operations().get(node.op)
    return (
        operation is not None
        and rules(operation).multiply_adds is not none
        and "weight" in signature_of(operation).parameters
    )


def _is_counted(node: Node, parameters: dict[int, int] | None, held: int) -> bool:
    """Return whether a node is a convolution or a linear layer whose weights are the network's, not constants.

    A layer that is called again has no further parameters, and a layer that reshapes its weight passes another array.
    """
    if not is_weighted(node):
        return False
    return parameters is None or held > 0 or id(node.attributes.get("weight")) in parameters


def _numbers(network: Anatomy, counted: set[Value]) -> dict[Value, int]:
    """Return for each value the number of the counted layer that it belongs to; 0 before the first."""
    numbers: dict[Value, int] = {}
    last = 0
    for value, node in network.nodes.items():
        if value in counted:
            last += 1
            numbers[value] = last
        elif node.op not in SOURCES:
            numbers[value] = max(numbers.get(source, 0) for source in node.inputs.values())
    return numbers


def _depths(network: Anatomy, counted: set[Value]) -> dict[Value, int]:
    depths: dict[Value, int] = {}
    for value, node in network.nodes.items():
        if node.op not in SOURCES:
            depths[value] = max(depths.get(source, 0) for source in node.inputs.values()) + (value in counted)
    return depths


def _parameters(network: Anatomy, sizes: dict[int, int] | None) -> tuple[dict[str, int], int]:
    """Return the number of parameters of each layer, each array at its first use, and the number of unused ones.

    A parameter that no operation takes directly belongs to its module's first layer.
    """
    held: dict[str, int] = {}
    seen: set[int] = set()

    def count(layer: Layer, arrays: Iterable[Any]) -> None:
        for array in arrays:
            if id(array) not in seen and (sizes is None or id(array) in sizes):
                seen.add(id(array))
                held[layer.name] = held.get(layer.name, 0) + math.prod(array.shape)

    for layer in network.layers:
        for value in layer.values:
            arguments = network.nodes[value].attributes
            found = (given for name, given in arguments.items() if sizes is not None or name in ("weight", "bias"))
            count(layer, (given for given in found if isinstance(given, _ARRAYS)))
    if sizes is None:
        return held, 0
    layer_of = {value: layer for layer in network.layers for value in layer.values}
    for call in sorted(network.calls, key=lambda call: not call.is_layer):
        first = next((layer_of[value] for value in range(call.first, call.end) if value in layer_of), None)
        if first is not None:
            count(first, call.arrays)
    return held, sum(sizes.values()) - sum(held.values())


def _stored(node: Node, network: Anatomy) -> int:
    """Return how many elements of a result have to be stored."""
    if node.op == "item":
        return math.prod(node.shape)
    if node.results:
        return 0  # its items are counted
    source = network.nodes[next(iter(node.inputs.values()))]
    unchanged = node.op.startswith("adaptive") and node.shape == source.shape  # windows of one pixel
    return 0 if rules(operations()[node.op]).traits.in_place or unchanged else math.prod(node.shape)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}


def short_bytes(number: float) -> str:
    """Return a number of bytes in readable units, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
