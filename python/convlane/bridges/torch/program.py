"""A network from another library: its operations in order, over parameters and buffers by name.

Nothing here depends on the library, so that a converted network can be copied, pickled and trained where the library is
not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from convlane.functional import ne
from convlane.functional._placeholder import Placeholder
from convlane.nn.module import IncompatibleKeys, Module


class Part(Module):
    """A module in the tree of a converted network: it has names, but no `forward` of its own."""

    def __init__(self, kind: str = "Part") -> None:
        self.kind = kind
        self.tied: dict[str, tuple[Part, str]] = {}
        """Parameters that are those of other modules, by name."""

    def forward(self, *inputs: Any) -> Any:
        """Refuse: only the whole network can be run."""
        raise TypeError(f"{self.kind}: only the whole network can be called, not one of its parts")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        part, other = vars(self).get("tied", {}).get(name, (self, name))
        if vars(part)[other] is not vars(self)[name]:
            setattr(part, other, vars(self)[name])

    def __repr__(self) -> str:
        return self.kind + super().__repr__().removeprefix(type(self).__name__)


def tie(holders: Sequence[tuple[Part, str]]) -> None:
    """Tie parameters together: what is assigned to any of them is assigned to all."""
    for i, (part, name) in enumerate(holders):
        part.tied[name] = holders[(i + 1) % len(holders)]


@dataclass(frozen=True)
class Result:
    """Stands in the arguments of a step for what an earlier step, or the caller, provides."""

    name: str


@dataclass(frozen=True)
class Held:
    """Stands in the arguments of a step for a parameter or a buffer."""

    part: Part
    name: str

    def get(self) -> Any:
        """Return the array."""
        return vars(self.part)[self.name]


@dataclass(frozen=True)
class Step:
    """One operation: a function of arguments, in which `Result` and `Held` stand for arrays."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    part: Part | None = None
    """Whose mode says whether a function that asks for it is training."""
    label: str = ""
    """What it is and where, for messages."""
    last: tuple[str, ...] = ()
    """Results that have no readers after this step."""

    def run(self, results: Mapping[str, Any], held: Mapping[Held, Any]) -> Any:
        """Compute the result from those of earlier steps."""
        args = [_filled(arg, results, held) for arg in self.args]
        if self.part is not None:
            args.append(self.part)
        return self.function(*args)


@dataclass(frozen=True)
class Program:
    """The steps of a network between its inputs and its outputs."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: Any
    """Containers of `Result`, as the network returns its arrays."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int | None, ...], ...] = ()
    """Shapes of the inputs, with None for open sizes; empty for inputs that are not arrays."""

    def run(self, inputs: Iterable[Any], held: Mapping[Held, Any] = {}) -> Any:
        """Run all steps on arrays, or on symbols or variables.

        Parameters
        ----------
        inputs
            One for each of the names.
        held
            Used in place of the parameters and buffers.
        """
        results = {**self.constants, **dict(zip(self.inputs, inputs, strict=True))}
        for step in self.steps:
            results[step.name] = step.run(results, held)
            for name in step.last:
                del results[name]
        return _filled(self.outputs, results, held)

    def returning(self, outputs: Any) -> Program:
        """Return the program with other outputs."""
        return replace(self, outputs=outputs).pruned()

    def held(self) -> list[Held]:
        """Return the parameters and buffers that it reads, each once."""
        found = [each for step in self.steps for each in _held_in(step.args)]
        return list(dict.fromkeys([*found, *_held_in(self.outputs)]))

    def pruned(self) -> Program:
        """Return the program without steps whose results are unused, with what can be dropped after each step."""
        needed = set(results_in(self.outputs))
        steps = []
        for step in reversed(self.steps):
            if step.name in needed:
                read = set(results_in(step.args)) - self.constants.keys()
                steps.append(replace(step, last=tuple(sorted(read - needed))))
                needed |= read
        return replace(self, steps=tuple(reversed(steps)))


def results_in(template: Any) -> list[str]:
    """Return the names of all results within arguments."""
    if isinstance(template, Result):
        return [template.name]
    if isinstance(template, dict):
        return results_in(list(template.values()))
    if isinstance(template, slice):
        return results_in([template.start, template.stop, template.step])
    return [name for each in template for name in results_in(each)] if isinstance(template, (list, tuple)) else []


def _held_in(template: Any) -> list[Held]:
    if isinstance(template, Held):
        return [template]
    if isinstance(template, dict):
        return _held_in(list(template.values()))
    return [held for each in template for held in _held_in(each)] if isinstance(template, (list, tuple)) else []


def _filled(template: Any, results: Mapping[str, Any], held: Mapping[Held, Any]) -> Any:
    kind = type(template)
    if kind is Result:
        return results[template.name]
    if kind is Held:
        return held[template] if template in held else template.get()
    if kind is list or kind is tuple:
        return kind(_filled(each, results, held) for each in template)
    if kind is dict:
        return {key: _filled(each, results, held) for key, each in template.items()}
    return template


class Imported(Part):
    """A network of another library, converted by its bridge.

    It runs, trains, compiles and is pickled like any other; its parts keep their original names, and its operations are
    fixed: other branches of the original code are not in it.
    """

    program: Program
    structure: Any
    names: tuple[str, ...]
    masks: tuple[bool, ...]
    """Which of its inputs are booleans: in a plan, whose inputs are float32, any number other than 0 is true."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the network.

        Parameters
        ----------
        inputs, named
            As the original takes them; arrays in containers may also be passed one after the other.
        """
        given = (*inputs, *(named.pop(name) for name in self.names[len(inputs) :] if name in named))
        if named:
            raise TypeError(f"{self.kind}: unexpected inputs {', '.join(named)}; it takes {', '.join(self.names)}")
        leaves = flattened(self.structure, given)
        if leaves is None:
            leaves = _filled_in(self.structure, given)
        if leaves is None:
            raise TypeError(
                f"{self.kind}: expected inputs {', '.join(self.names)}, each as the example, got {len(given)}"
            )
        for name, leaf, sizes in zip(self.program.inputs, leaves, self.program.sizes, strict=True):
            shape = getattr(leaf, "shape", ())
            fixed = [i for i, size in enumerate(sizes) if size is not None]
            if len(shape) != len(sizes) or any(shape[i] != sizes[i] for i in fixed):
                raise ValueError(
                    f"{self.kind}: {name} must have shape {sizes}, where None is any size, got {tuple(shape)}; more "
                    "are open if from_torch is given dynamic_shapes and the module allows it"
                )
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "iu":
                leaves[i] = leaf.astype(np.int64, copy=False)
            if self.masks[i] and isinstance(leaf, Placeholder) and leaf.dtype == np.float32:
                leaves[i] = ne(leaf, 0.0)
        return self.program.run(leaves)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays into parameters and buffers of the same keys, see `Module.load_state_dict`."""
        found = super().load_state_dict(state_dict, strict)
        for module in self.modules():
            for name in module.tied if isinstance(module, Part) else ():
                setattr(module, name, vars(module)[name])
        return found


ARRAY = "<array>"
"""Stands in containers for an array."""


def _filled_in(structure: Any, given: tuple[Any, ...]) -> list[Any] | None:
    """Return arrays passed one after the other, among values that are not arrays; None if their number differs."""
    leaves = flattened(structure, structure) or []
    arrays = iter(given)
    if len(given) != sum(leaf == ARRAY for leaf in leaves):
        return None
    return [next(arrays) if leaf == ARRAY else leaf for leaf in leaves]


def flattened(structure: Any, given: Any) -> list[Any] | None:
    """Return the arrays in containers, in order; None if the containers, or values that are not arrays, differ."""
    if isinstance(structure, (list, tuple)):
        if not isinstance(given, (list, tuple)) or len(given) != len(structure):
            return None
        parts = [flattened(inner, each) for inner, each in zip(structure, given, strict=True)]
    elif isinstance(structure, dict):
        if not isinstance(given, Mapping) or given.keys() != structure.keys():
            return None
        parts = [flattened(inner, given[key]) for key, inner in structure.items()]
    else:
        is_same = structure == ARRAY or (not hasattr(given, "shape") and structure == given)
        return [given] if is_same and not isinstance(given, (list, tuple, dict)) else None
    return None if any(part is None for part in parts) else [leaf for part in parts if part for leaf in part]
