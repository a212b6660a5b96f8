"""Modules of torch as networks of convlane, by torch.export.

The operations that torch records are replaced one by one, see `convlane.bridges.torch.converters`; torch is imported
when the bridge is used (``pip install 'convlane[torch]'``), and a converted network needs torch no longer.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from convlane.bridges.torch.program import Imported

__all__ = ["as_function", "from_torch"]


def _need_torch() -> None:
    try:
        importlib.import_module("torch")
    except ImportError:
        raise ImportError("this needs torch 2.6 or newer; install it with: pip install 'convlane[torch]'") from None


def from_torch(module: Any, *example_inputs: Any, dynamic_shapes: Any = None, **named_inputs: Any) -> Imported:
    """Convert a torch module to a network.

    torch.export runs the module once in eval mode and records its operations; the result computes them with convlane's
    kernels. Its output on the example is compared with the module's own at once.

    Parameters
    ----------
    module
        A ``torch.nn.Module``. It is not changed.
    example_inputs, named_inputs
        What it is called with: tensors, or tuples, lists and dicts of them. The network takes these shapes, with any
        number of examples if the module allows it. Anything that is not a tensor keeps its value.
    dynamic_shapes
        Which sizes are open, as torch.export takes it: ``({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)`` for
        pictures of any size. By default the first of all inputs.

    Returns
    -------
    Imported
        A `convlane.nn.Module` with copies of the module's parameters and buffers, under the same names, and in the same
        modes. It takes and returns arrays, in the same containers. Numbers are float32 and int64.

    Raises
    ------
    ImportError
        torch is not installed.
    ValueError
        Some operations have no counterpart; all are named, with the module that each comes from. Or torch.export cannot
        record the module, most often because its behaviour depends on its numbers; or those are not float32. Or the
        result differs from torch's by more than a thousandth of the largest number; the message names the first
        operation that does.

    Notes
    -----
    What the module does only in training mode, such as auxiliary classifiers, is not in the network; dropout and batch
    norm know both modes. In-place operations are replaced: the network never writes to its inputs.

    Examples
    --------
    >>> import convlane, torch
    >>> network = convlane.from_torch(torch.nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 32, 32))
    >>> convlane.compile(network.eval(), (None, 3, 32, 32))
    Plan((None, 3, 32, 32) to (None, 8, 30, 30), 1 step)
    """
    _need_torch()
    import torch
    from torch.utils import _pytree

    from convlane.bridges.torch import exporting
    from convlane.bridges.torch.tensors import to_numpy

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch: module must be a torch.nn.Module, got {type(module).__name__}")
    inputs, named = _bound(module, example_inputs, named_inputs)
    with exporting.eval_mode(module), torch.no_grad():
        exported = exporting.export(module, inputs, dynamic_shapes, named)
        kind = type(module).__name__
        network = Imported(kind)
        parts = exporting.imported_parts(module, network)
        network.program = exporting.converted(exported, parts, kind)
        leaves = _pytree.tree_leaves((inputs, named))
        network.masks = tuple(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in leaves)
        network.structure = exporting.without_tensors((*inputs, *named.values()))
        network.names = (*_names(module, len(inputs)), *named)

        def as_array(leaf: Any) -> Any:
            return to_numpy(leaf) if isinstance(leaf, torch.Tensor) else leaf

        got = network.eval()(*exporting.plain(_pytree.tree_map(as_array, (*inputs, *named.values()))))
        exporting.check("from_torch", module, exported, network.program, inputs, named, got)
    for path, each in module.named_modules():
        parts[path].training = each.training
    return network


def as_function(module: Any, example: Any) -> Callable[..., Any]:
    """Return a function of tensors that runs a torch module, forward and backward, with convlane's kernels.

    It is one ``torch.autograd.Function``: its gradients reach the module's own parameters, which torch's optimisers
    then change.

    Parameters
    ----------
    module
        A ``torch.nn.Module``. Its parameters are read in each call, its batch norms' statistics are updated, and its
        mode and those of its parts are respected.
    example
        A tensor that it is called with, or a tuple of all its inputs.

    Returns
    -------
    callable
        With the module's inputs; returns what the module does.

    Raises
    ------
    ImportError, ValueError
        As `from_torch`. The first call with a part in training mode runs the module with torch too, and is a ValueError
        if buffers other than batch norms' change: nobody would change them here.

    Examples
    --------
    >>> import torch
    >>> from convlane.bridges.torch import as_function
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> run = as_function(layer, torch.zeros(1, 2))
    >>> run(torch.tensor([[3.0, 4.0]])).sum().backward()
    >>> layer.weight.grad
    tensor([[3., 4.]])
    """
    _need_torch()
    from convlane.bridges.torch.training import function_of

    return function_of(module, example if isinstance(example, tuple) else (example,))


def _bound(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs in the order of the module's `forward`, by name only those that it takes in no other way."""
    if not named:
        return inputs, {}
    found = inspect.signature(module.forward).bind(*inputs, **named)
    return found.args, found.kwargs


def _names(module: Any, count: int) -> tuple[str, ...]:
    """Return the names under which the module takes its inputs."""
    names = [name for name, each in inspect.signature(module.forward).parameters.items() if each.kind <= 1]
    return tuple(names[:count]) if len(names) >= count else tuple(f"input{i}" for i in range(count))
