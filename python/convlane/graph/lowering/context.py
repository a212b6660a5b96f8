"""The context that a lowering is given, and the registry in which lowerings are found.

A lowering is a function from a `Context` to the steps that it appends; each family of operations has a file of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from convlane import _core
from convlane.graph.lowering.operand import Operand
from convlane.graph.trace import Node, Value
from convlane.graph.weights import Packer


@dataclass(frozen=True)
class Choice:
    """The algorithm of a step and, in a few words, the reason for it."""

    algorithm: str = ""
    why: str = ""


@dataclass(frozen=True)
class Context:
    """One node, and where its arguments and its result lie; sizes are those of the plan's batch."""

    core: _core.Plan
    node: Node
    inputs: Mapping[str, Any]
    """Operands, and arrays that are constants."""
    output: Operand
    in_place: frozenset[str]
    """Arguments that already lie within the result."""
    winograd: bool
    packer: Packer

    @property
    def input(self) -> Operand:
        """The argument of that name, which most operations have."""
        return self.inputs["input"]  # type: ignore[no-any-return]

    @property
    def shape(self) -> Any:
        """Shape of the first argument."""
        return self.input.shape

    def __getitem__(self, name: str) -> Any:
        return self.node.attributes[name]

    def append(
        self,
        op: str,
        inputs: Sequence[Any] | None = None,
        outputs: Sequence[Operand] | None = None,
        weights: Mapping[str, Any] | None = None,
        **attributes: Any,
    ) -> None:
        """Append a step; by default its operands are all arguments and the result. Attributes of None are left out."""
        sources = list(self.inputs.values()) if inputs is None else inputs
        self.core.append(
            op,
            [each.core() if isinstance(each, Operand) else each for each in sources],
            [operand.core() for operand in ([self.output] if outputs is None else outputs)],
            {name: value for name, value in attributes.items() if value is not None},
            {name: _constant(weight) for name, weight in (weights or {}).items() if weight is not None},
        )


def _constant(weight: Any) -> Any:
    return weight if isinstance(weight, (_core.PackedWeight, _core.TransposedWeight)) else np.ascontiguousarray(weight)


L = TypeVar("L", bound="Callable[..., Choice | None]")
Refusal: TypeAlias = Callable[[Node, Mapping[Value, Node]], str]
"""Why a plan cannot compute a node, although it can compute the operation; empty if it can."""


class OfBatch(str):
    """A refusal because the batch would be mixed: ignored in plans for whole inputs, see `compile`."""


LOWERINGS: dict[str, Callable[[Context], Choice | None]] = {}
REFUSALS: dict[str, Refusal] = {}


ANY_ARGUMENT: set[str] = set()
"""Operations of which any argument may be computed or constant."""


def lowers(*ops: str, refuse: Refusal | None = None, any_argument: bool = False) -> Callable[[L], L]:
    """Make a function the lowering of these operations."""

    def register(lowering: L) -> L:
        for op in ops:
            LOWERINGS[op] = lowering
            if refuse is not None:
                REFUSALS[op] = refuse
            if any_argument:
                ANY_ARGUMENT.add(op)
        return lowering

    return register
