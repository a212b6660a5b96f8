"""A module of torch whose forward and backward pass run on convlane's kernels, for torch to train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree

from convlane import _core
from convlane.autograd import vjp
from convlane.bridges.torch import exporting
from convlane.bridges.torch.program import Held, Imported, Part, Program
from convlane.bridges.torch.tensors import to_numpy, to_tensor


def function_of(module: Any, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    """Return what `as_function` returns."""
    with exporting.eval_mode(module), torch.no_grad():
        exported = exporting.export(module, inputs, None)
        kind = type(module).__name__
        parts = exporting.imported_parts(module, Imported(kind))
        program = exporting.converted(exported, parts, kind)
    modules = dict(module.named_modules())
    for path, each in modules.items():
        _share_buffers(parts[path], each)
    bridge = _Bridge(
        program,
        {
            Held(parts[path], name): parameter
            for path, each in modules.items()
            for name, parameter in each.named_parameters(recurse=False)
        },
    )
    modes = [(parts[path], each) for path, each in modules.items()]
    structure = exported.call_spec.out_spec

    def call(*given: Any) -> Any:
        for part, each in modes:
            part.training = each.training
        leaves, _ = _pytree.tree_flatten(given)
        outputs = _Function.apply(bridge, *leaves, *bridge.parameters)
        rest = iter(outputs)
        return _pytree.tree_unflatten([next(rest) if used else None for used in bridge.returned], structure)

    return call


def _share_buffers(part: Part, module: Any) -> None:
    """Share a module's buffers with a part, so that batch norm updates the statistics of both."""
    for name in part._buffer_names:
        buffer = module._buffers[name]
        if buffer is not None and buffer.dtype in (torch.float32, torch.int64):
            vars(part)[name] = to_numpy(buffer)


class _Bridge:
    """A program and the parameters of torch that stand in it for its own."""

    def __init__(self, program: Program, parameters: dict[Held, Any]) -> None:
        outputs, _ = _pytree.tree_flatten(program.outputs)
        self.returned = [each is not None for each in outputs]
        self.program = program.returning([each for each in outputs if each is not None])
        self.held = [each for each in self.program.held() if each in parameters]
        self.parameters = [parameters[each] for each in self.held]
        self.memory = _core.MemoryHold()  # every run reuses the memory that the one before has freed

    def run(self, arrays: list[Any], wanted: list[int]) -> tuple[list[Any], Any]:
        """Return the outputs and, where gradients are wanted of some of the arrays, the pullback."""
        count = len(self.program.inputs)

        def program(*variables: Any) -> Any:
            given = list(arrays)
            for place, variable in zip(wanted, variables, strict=True):
                given[place] = variable
            return self.program.run(given[:count], dict(zip(self.held, given[count:], strict=True)))

        return vjp(program, *(arrays[place] for place in wanted)) if wanted else (program(), None)


class _Function(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, bridge: _Bridge, *tensors: Any) -> Any:
        needed = ctx.needs_input_grad[1:]
        wanted = [place for place, need in enumerate(needed) if need]
        outputs, ctx.pullback = bridge.run([to_numpy(tensor) for tensor in tensors], wanted)
        ctx.wanted, ctx.count, ctx.shapes = wanted, len(tensors), [output.shape for output in outputs]
        return tuple(map(to_tensor, outputs))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if ctx.pullback is None:
            raise RuntimeError(
                "as_function: the gradients of this call have been computed, which released what it kept"
            )
        given = [
            np.zeros(shape, np.float32) if gradient is None else to_numpy(gradient)
            for gradient, shape in zip(gradients, ctx.shapes, strict=True)
        ]
        pullback, ctx.pullback = ctx.pullback, None
        found: list[Any] = [None] * ctx.count
        for place, gradient in zip(ctx.wanted, pullback(given), strict=True):
            found[place] = to_tensor(gradient)
        return None, *found
