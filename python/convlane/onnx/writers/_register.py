"""The writers by names of operations, and the context that each is given."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias

import numpy as np

from convlane.functional._axes import as_sides_of_axes
from convlane.functional._op import Shape
from convlane.graph.trace import Graph, Node

Writes: TypeAlias = "Callable[[Call], str]"
"""Writes an operation's nodes and returns the name of the result."""

_FAMILIES = ("activation", "arithmetic", "convolution", "norm", "pool", "reduce", "resize", "shape")


class Nodes(Protocol):
    """Where nodes are written to."""

    written: dict[Any, Any]

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return its name."""

    def constant(self, value: Any) -> str:
        """Return the name of an array."""


@dataclass(frozen=True)
class Call:
    """One operation that is to be written."""

    node: Node
    graph: Graph
    nodes: Nodes

    def __getitem__(self, attribute: str) -> Any:
        return self.node.attributes[attribute]

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        return self.nodes.emit(op, *inputs, **attributes)

    def name(self, argument: str) -> str:
        """Return the name of an argument that is an array, or a number; empty where there is none."""
        if argument in self.node.inputs:
            name: str = self.nodes.written[self.node.inputs[argument]]
            return name
        value = self.node.attributes[argument]
        return "" if value is None else self.nodes.constant(value if np.ndim(value) else np.float32(value))

    def names(self, argument: str) -> list[str]:
        """Return the names of the items of an argument that is a sequence."""
        return [self.name(each) for each in self.node.inputs if each.startswith(f"{argument}[")]

    def shape(self, argument: str = "input") -> Shape:
        """Return the shape of an argument."""
        source = self.node.inputs.get(argument)
        return self.graph.nodes[source].shape if source is not None else tuple(np.shape(self.node.attributes[argument]))

    def floats(self, *numbers: float) -> str:
        """Return the name of a constant: one number, or a vector of several."""
        return self.nodes.constant(np.float32(numbers[0]) if len(numbers) == 1 else np.asarray(numbers, np.float32))

    def integers(self, numbers: Sequence[int]) -> str:
        """Return the name of a constant vector of integers."""
        return self.nodes.constant(np.asarray(numbers, np.int64))

    def vector(self, argument: str, size: int, fill: float) -> str:
        """Return the name of an argument with one number for each channel, or of a constant where there is none."""
        return self.name(argument) or self.nodes.constant(np.full(size, fill, np.float32))

    def reshape(self, name: str, before: Sequence[int], after: Sequence[int]) -> str:
        """Write a reshape so that it holds for as many other sizes as possible.

        Leading sizes that stay are taken from the input (0), and the size that remains follows from the rest (-1).
        """
        kept = next(
            (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
        )
        rest = [-1] if len(after) - kept == 1 and 0 not in before else list(after[kept:])
        return self.emit("Reshape", name, self.integers([*[0] * kept, *rest]))

    def batched(self, rank: int, argument: str = "input") -> str:
        """Return an argument with a batch dimension, which is added to a single example."""
        name = self.name(argument)
        return name if len(self.shape(argument)) == rank else self.emit("Unsqueeze", name, self.integers([0]))

    def unbatched(self, rank: int, name: str) -> str:
        """Remove the batch dimension that `batched` added."""
        return name if len(self.shape()) == rank else self.emit("Squeeze", name, self.integers([0]))

    def pads(self, op: str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> dict[str, Any]:
        """Return the padding attributes: numbers, but TensorFlow's rule by name, as sizes may be open."""
        padding = self.node.attributes.get("padding", 0)
        if padding == "same_tf":
            return {"auto_pad": "SAME_UPPER"}
        sides = as_sides_of_axes(padding, op, kernel, stride, dilation, self.shape()[-len(kernel) :])
        return {"pads": [*(before for before, _ in sides), *(after for _, after in sides)]}

    def refuse(self, why: str) -> ValueError:
        """Return an error that names the operation."""
        return ValueError(f"export: {self.node.op} has no counterpart in ONNX {why}")


_WRITERS: dict[str, Writes] = {}


def writes(*ops: str) -> Callable[[Writes], Writes]:
    """Make a function the writer of operations."""

    def register(write: Writes) -> Writes:
        _WRITERS.update(dict.fromkeys(ops, write))
        return write

    return register


def find(op: str) -> Writes | None:
    """Return the writer of an operation."""
    _load_families()
    return _WRITERS.get(op)


def writers() -> Mapping[str, Writes]:
    """Return all of them."""
    _load_families()
    return _WRITERS


@cache
def _load_families() -> None:
    for family in _FAMILIES:
        importlib.import_module(f"convlane.onnx.writers.{family}")
