"""A torch module whose forward and backward pass run on convlane's kernels, for training in torch."""

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
from convlane.functional._placeholder import Placeholder


def function_of(module: Any, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    """Return what `as_function` returns."""
    with exporting.eval_mode(module), torch.no_grad():
        exported = exporting.export(module, inputs, None)
        kind = type(module).__name__
        root = Imported(kind)
        parts = exporting.imported_parts(module, root)
        program = exporting.converted(exported, parts, kind)
        arrays = [to_numpy(leaf) for leaf in _pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
        root.eval()
        exporting.check("as_function", module, exported, program, inputs, {}, program.run(arrays))
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
    checked = False

    def call(*given: Any) -> Any:
        nonlocal checked
        if not checked and any(each.training for _, each in modes):
            _check_buffers(module, given)
            checked = True
        for part, each in modes:
            part.training = each.training
        leaves, _ = _pytree.tree_flatten(given)
        outputs = _Function.apply(bridge, *leaves, *bridge.parameters)
        rest = iter(outputs)
        return _pytree.tree_unflatten([next(rest) if used else None for used in bridge.returned], structure)

    return call


def _check_buffers(module: Any, given: tuple[Any, ...]) -> None:
    """Refuse a module that changes other buffers than batch norms' in its mode: nothing of that is in the program."""
    before = {name: (buffer, buffer.clone()) for name, buffer in module.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        module(*_pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, given))
    changed = [name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name][1])]
    for name, (buffer, numbers) in before.items():
        path, _, own = name.rpartition(".")
        setattr(module.get_submodule(path), own, buffer)
        buffer.copy_(numbers)
    owners = {name: module.get_submodule(name.rpartition(".")[0]) for name in changed}
    if others := [
        name for name, owner in owners.items() if not isinstance(owner, torch.nn.modules.batchnorm._BatchNorm)
    ]:
        raise ValueError(
            f"as_function: in training mode {type(module).__name__} changes its buffer {', '.join(others)}, but only "
            "batch norms do so here; call .eval() on the parts with these buffers, or leave them to torch"
        )


def _share_buffers(part: Part, module: Any) -> None:
    """Share a module's buffers with a part, so that batch norm updates the statistics of both."""
    for name in part._buffer_names:
        buffer = module._buffers[name]
        if buffer is not None and buffer.dtype in (torch.float32, torch.int64):
            vars(part)[name] = to_numpy(buffer)


class _Bridge:
    """A program and the torch parameters that it uses in place of its own."""

    def __init__(self, program: Program, parameters: dict[Held, Any]) -> None:
        outputs, _ = _pytree.tree_flatten(program.outputs)
        self.returned = [each is not None for each in outputs]
        self.program = program.returning([each for each in outputs if each is not None])
        self.held = [each for each in self.program.held() if each in parameters]
        self.parameters = [parameters[each] for each in self.held]
        self.memory = _core.MemoryHold()  # every run reuses the memory freed by the previous one

    def run(self, arrays: list[Any], wanted: list[int]) -> tuple[list[Any], list[int], Any]:
        """Return the outputs, the indices of those that depend on some of the arrays, and these outputs' pullback."""
        count = len(self.program.inputs)
        outputs: list[Any] = []
        indices: list[int] = []

        def program(*variables: Any) -> Any:
            given = list(arrays)
            for index, variable in zip(wanted, variables, strict=True):
                given[index] = variable
            outputs[:] = self.program.run(given[:count], dict(zip(self.held, given[count:], strict=True)))
            indices[:] = (i for i, each in enumerate(outputs) if isinstance(each, Placeholder))
            return [outputs[i] for i in indices] or list(variables[:1])

        if not wanted:
            program()
            return outputs, [], None
        values, pullback = vjp(program, *(arrays[index] for index in wanted))
        for index, value in zip(indices, values, strict=False):
            outputs[index] = value
        return outputs, indices, pullback


class _Function(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, bridge: _Bridge, *tensors: Any) -> Any:
        needed = ctx.needs_input_grad[1:]
        wanted = [index for index, need in enumerate(needed) if need]
        arrays = [to_numpy(each) if isinstance(each, torch.Tensor) else each for each in tensors]
        outputs, ctx.indices, ctx.pullback = bridge.run(arrays, wanted)
        ctx.wanted, ctx.count, ctx.shapes = wanted, len(tensors), [outputs[i].shape for i in ctx.indices]
        results = [each if isinstance(each, (int, float)) else to_tensor(each) for each in outputs]
        constants = (each for i, each in enumerate(results) if i not in ctx.indices and isinstance(each, torch.Tensor))
        ctx.mark_non_differentiable(*constants)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if ctx.pullback is None:
            raise RuntimeError(
                "as_function: the gradients of this call have already been computed, and its intermediate results freed"
            )
        given = [
            np.zeros(shape, np.float32) if gradients[index] is None else to_numpy(gradients[index])
            for index, shape in zip(ctx.indices, ctx.shapes, strict=True)
        ]
        pullback, ctx.pullback = ctx.pullback, None
        found: list[Any] = [None] * ctx.count
        for index, gradient in zip(ctx.wanted, pullback(given), strict=True):
            found[index] = to_tensor(gradient)
        return None, *found
