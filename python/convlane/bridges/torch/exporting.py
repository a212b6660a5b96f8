"""From a torch module to a `Program`: torch.export records its ATen operations, and converters replace each."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._decomp import decomposition_table
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree

from convlane.bridges.torch.converters import ASK_MODE, PLAIN, as_float32, converter_of, mixes, promoted, typed
from convlane.bridges.torch.program import ARRAY, Held, Part, Program, Result, Step, tie
from convlane.bridges.torch.tensors import INTEGERS, to_numpy

SYMBOLIC: dict[Any, Callable[..., Any]] = {
    torch.sym_max: max,
    torch.sym_min: min,
    torch.sym_float: float,
    torch.sym_int: int,
    torch.sym_not: lambda value: not value,
}
_FROM_NOTHING = frozenset(
    ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")
)
"""Operations that take the type, and perhaps the shape, of their first argument."""

_SIZES = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float)

_SIZED = frozenset({"_unsafe_view", "expand", "reshape", "view"})
"""Operations that give their argument another size."""

_TAKES_SIZES = (
    _SIZED
    | _FROM_NOTHING
    | {"zeros", "ones", "full", "empty", "sym_size", "unflatten", "split", "narrow", "repeat", "tile"}
    | {"affine_grid_generator"}
)
"""Operations whose arguments include sizes, and so may be given the number of examples."""

_MOVES = frozenset(
    ("alias", "cat", "clone", "contiguous", "detach", "expand", "flatten", "flip", "movedim", "permute", "reshape")
    + ("select", "slice", "squeeze", "stack", "t", "transpose", "unsqueeze", "view")
)
"""Operations that only move numbers, and so accept integers of any size."""

_CASTS = frozenset({"to", "_to_copy", "type_as"})

_PROMOTES = frozenset({"add", "sub", "rsub", "mul", "div", "pow", "maximum", "minimum"})
"""Arithmetic for which torch accepts operands of several types."""

_DRAW_IF_TOLD = frozenset(
    ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "rrelu")
    + ("scaled_dot_product_attention",)
    + ("_scaled_dot_product_flash_attention_for_cpu",)
)

_RECURRENT = {getattr(torch.ops.aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}

_MAY_BE_ITSELF = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
"""What returns its argument in eval mode, which the schema does not tell."""


def export(module: Any, inputs: tuple[Any, ...], dynamic_shapes: Any, named: Mapping[str, Any] = {}) -> Any:
    """Return what torch.export makes of a module in eval mode, without in-place operations that matter.

    Without `dynamic_shapes` the first dimension is left open where all inputs have the same there and the module
    allows any.
    """
    _check_types(module, inputs, named)
    # Gradients are recorded, so that what the module does without them can be told.
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)  # that layers compute in each call
        try:
            return _exported(module, inputs, dynamic_shapes, dict(named))
        except Exception as error:  # of many kinds, all of torch
            kind, why = type(error).__name__, str(error).strip()
            raise ValueError(
                f"from_torch: torch.export cannot export {type(module).__name__}, because its behaviour depends on "
                f"its numbers, or for another reason; parts of it may be exportable separately. {kind}: {why}"
            ) from error


def _check_types(module: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Refuse a module that would be computed in other types than in torch."""
    leaves = [(f"input {i}", leaf) for i, leaf in enumerate(_pytree.tree_leaves(inputs))]
    leaves += [(f"input {name!r}", leaf) for name, each in named.items() for leaf in _pytree.tree_leaves(each)]
    for name, tensor in (*module.named_parameters(), *module.named_buffers(), *leaves):
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.device.type == "meta":
            raise ValueError(f"from_torch: {name} is on the meta device and has no numbers; load weights first")
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            kind = str(tensor.dtype).removeprefix("torch.")
            fix = "" if tensor.is_complex() else "; call .float() on the module and on its inputs"
            raise ValueError(f"from_torch: {name} is {kind}, but numbers are float32 here{fix}")


def _exported(module: Any, inputs: tuple[Any, ...], dynamic_shapes: Any, named: dict[str, Any]) -> Any:
    if dynamic_shapes is not None:
        return _functional(torch.export.export(module, inputs, named, dynamic_shapes=dynamic_shapes, strict=False))
    leaves, spec = _pytree.tree_flatten((inputs, named))
    has_batch = [isinstance(leaf, torch.Tensor) and leaf.ndim > 0 for leaf in leaves]
    batches = {leaf.shape[0] for leaf, has in zip(leaves, has_batch, strict=True) if has}
    if len(batches) == 1 and batches != {0}:
        more = leaves
        if batches == {1}:  # torch.export keeps sizes of 1
            more = [torch.cat([leaf, leaf]) if has else leaf for leaf, has in zip(leaves, has_batch, strict=True)]
        first = _pytree.tree_unflatten([{0: torch.export.Dim.AUTO} if has else None for has in has_batch], spec)
        with contextlib.suppress(Exception):  # of many kinds: exporting it again says what is wrong
            found = torch.export.export(
                module,
                *_pytree.tree_unflatten(more, spec),
                dynamic_shapes=(*first[0], *first[1].values()),
                strict=False,
            )
            if batches != {1} or not any(shape and isinstance(shape[0], int) for shape in input_shapes(found)):
                return _functional(found)
    return _functional(torch.export.export(module, inputs, named, strict=False))


def input_shapes(exported: Any) -> list[tuple[Any, ...]]:
    """Return the shapes of the inputs, with something other than an int for open sizes; empty for non-tensors."""
    kinds, specs = torch.export.graph_signature.InputKind, exported.graph_signature.input_specs
    names = {spec.arg.name for spec in specs if spec.kind == kinds.USER_INPUT}
    values = [node.meta.get("val") for node in exported.graph.find_nodes(op="placeholder") if node.name in names]
    return [tuple(map(_plain, getattr(value, "shape", ()))) for value in values]


def _functional(exported: Any) -> Any:
    """Return the program without operations in place where one changes what is read under another name later.

    Recurrent layers become what they do in each step of time.
    """
    _detach(exported.graph_module)
    targets = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    recurrent = {target: decomposition_table[target] for target in targets & _RECURRENT}
    return exported.run_decompositions(recurrent) if recurrent or _needs_functional(exported.graph) else exported


def _detach(module: Any) -> None:
    """Detach what comes from parts of a graph that record no gradients: these parts dissolve later."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.higher_order.wrap_with_set_grad_enabled):
        for result in list(node.users) if node.args[0] is False else ():
            value = result.meta.get("val")
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                with module.graph.inserting_after(result):
                    detached = module.graph.call_function(torch.ops.aten.detach.default, (result,))
                detached.meta = {**result.meta, "val": value.detach()}
                result.replace_all_uses_with(detached, delete_user_cb=lambda user, new=detached: user is not new)
    module.recompile()


def _needs_functional(graph: Any) -> bool:
    order = {node: i for i, node in enumerate(graph.nodes)}
    memory: dict[Any, Any] = {}  # maps a view to the tensor that it views
    views: dict[Any, list[Any]] = {}
    for node in graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator)
        ):
            return True
        for argument, written in _aliased(node):
            root = memory.get(argument, argument)
            if written:
                if root.op == "placeholder":  # a buffer may be no other afterwards, see `converted`
                    return True
                others = [each for each in [root, *views.get(root, [])] if each is not argument]
                if any(order[user] > order[node] for other in others for user in other.users):
                    return True
            memory[node] = root
            views.setdefault(root, []).append(node)
    return False


def _aliased(node: Any) -> Iterator[tuple[Any, bool]]:
    """Yield the arguments that a result may share memory with, and whether the operation writes to them."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return
    name = schema.name.split("::")[1]
    for i, argument in enumerate(schema.arguments):
        given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        if isinstance(given, torch.fx.Node) and (
            argument.alias_info is not None or (i == 0 and name in _MAY_BE_ITSELF)
        ):
            yield given, argument.alias_info is not None and argument.alias_info.is_write


@dataclass(frozen=True)
class Unsupported:
    """An operation that has no converter, and where it comes from."""

    operation: str
    path: str
    kind: str

    def __str__(self) -> str:
        return f"{self.operation} in {self.path!r} ({self.kind})" if self.path else f"{self.operation} in {self.kind}"


class Converter:
    """Turns the nodes of a graph of ATen operations into steps."""

    def __init__(self, parts: Mapping[str, Part], kind: str, batch: Any = None) -> None:
        self.parts, self.kind, self.batch = parts, kind, batch
        self.known: dict[Any, Any] = {}
        """The value of a node that depends on no input: a tensor or a number."""
        self.values: dict[Any, Any] = {}
        """What stands for other nodes in arguments."""
        self.constants: dict[str, Any] = {}
        self.steps: list[Step] = []
        self.unsupported: list[Unsupported] = []
        self.of_sizes: set[Any] = set()
        """Nodes that depend only on sizes of the inputs: NumPy computes them, of any type."""
        self.counting: set[Any] = set()
        """The arrays among them whose numbers depend on how many examples there are."""

    def give(self, node: Any) -> None:
        """Register a node as an input."""
        self.values[node] = Result(node.name)

    def know(self, node: Any, value: Any) -> None:
        """Register a node as a constant."""
        self.known[node] = value

    def hold(self, node: Any, held: Held, value: Any = None) -> None:
        """Register a node as a parameter or a buffer; with a value, what is derived from it alone is computed once."""
        self.values[node] = held
        if value is not None:
            self.known[node] = value

    def convert(self, node: Any) -> None:
        """Append the step for an operation, or compute it now if it depends on nothing."""
        schema = getattr(node.target, "_schema", None)
        namespace, _, name = schema.name.partition("::") if schema else ("", "", str(node.target))
        if name.startswith(("_assert", "sym_constrain")):
            return
        if self._is_known(node, name):
            self.know(node, self._computed(node, name))
            return
        function, args = self._function(node, namespace, name, schema)
        path, kind = module_of(node, self.kind)
        of_sizes = all(source in self.of_sizes or source in self.known for source in node.all_input_nodes)
        if of_sizes or isinstance(node.meta.get("val"), _SIZES):
            self.of_sizes.add(node)
        if function is None or (reason := "" if of_sizes else refusal(node)):
            shown = str(node.target) if schema else name
            self.unsupported.append(Unsupported(shown if function is None else f"{shown} {reason}", path, kind))
        else:
            part = self.parts.get(path, self.parts.get("")) if function in ASK_MODE else None
            is_tensor = isinstance(value := node.meta.get("val"), torch.Tensor)
            counts = is_tensor and self._counts(node, name)
            if of_sizes and counts:
                self.counting.add(node)
            if not of_sizes and is_tensor and value.dtype == torch.float32:
                if name in _CASTS:
                    function = as_float32
                elif name.removesuffix("_") in _PROMOTES and any(map(_is_whole, node.all_input_nodes)):
                    function = partial(promoted, function)
            if of_sizes and is_tensor:
                function = partial(typed, function, str(to_numpy(torch.empty(0, dtype=value.dtype)).dtype))
            elif counts or self._leaves_the_batch(node):
                function = partial(mixes, function)
            label = f"{name} in {path or kind}"
            self.steps.append(Step(node.name, function, tuple(map(self.template, args)), part, label))
        self.give(node)
        for argument, written in _aliased(node):
            if written:
                self.values[argument] = Result(node.name)
                self.known.pop(argument, None)

    def _counts(self, node: Any, name: str) -> bool:
        """Whether the numbers of a result depend on how many examples there are."""
        sources = node.all_input_nodes
        if any(source in self.counting for source in sources):
            return True
        return name not in _TAKES_SIZES and any(self._is_count(source.meta.get("val")) for source in sources)

    def _is_count(self, value: Any) -> bool:
        """Whether a number has been derived from the number of examples."""
        open_sizes = isinstance(value, (torch.SymInt, torch.SymFloat)) and getattr(self.batch, "free_symbols", None)
        return bool(open_sizes and value.node.expr.free_symbols & open_sizes)

    def _leaves_the_batch(self, node: Any) -> bool:
        """Whether the first size of a result differs from that of the arguments, which is the number of examples."""
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or self.batch is None:
            return False
        return not _begins_with(value, self.batch) and any(
            _begins_with(source.meta.get("val"), self.batch) for source in node.all_input_nodes
        )

    def _function(
        self, node: Any, namespace: str, name: str, schema: Any
    ) -> tuple[Callable[..., Any] | None, list[Any]]:
        if schema is None:
            function = node.target if node.target in PLAIN else SYMBOLIC.get(node.target)
            return function, list(node.args)
        function = converter_of(name, schema.overload_name or "default") if namespace == "aten" else None
        given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | node.kwargs
        args = [
            given.get(argument.name, argument.default_value if argument.has_default_value() else None)
            for argument in schema.arguments
        ]
        if name in _SIZED and _keeps_first(args):
            args[1] = [None, *args[1][1:]]
        return function, args

    def _is_known(self, node: Any, name: str) -> bool:
        sources = node.all_input_nodes
        if draws(node):
            return False
        if name in _FROM_NOTHING and isinstance(node.args[0], torch.fx.Node):
            sources = [source for source in sources if source is not node.args[0]]
            value = node.meta.get("val")
            if value is None or not all(isinstance(size, int) for size in value.shape):
                return False
        elif not sources and not isinstance(node.target, torch._ops.OpOverload):
            return False
        return all(source in self.known for source in sources)

    def _computed(self, node: Any, name: str) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda source: self.known.get(source, source))
        if name in _FROM_NOTHING and isinstance(args[0], torch.fx.Node):
            like = args[0].meta["val"]
            shape = node.meta["val"].shape if name.endswith("_like") else ()
            args = (torch.empty(tuple(shape), dtype=like.dtype), *args[1:])
        return node.target(*args, **{**kwargs, **({"device": "cpu"} if kwargs.get("device") is not None else {})})

    def template(self, argument: Any) -> Any:
        """Return an argument in the form that a step holds."""
        if isinstance(argument, torch.fx.Node):
            return self.values[argument] if argument in self.values else self._constant(argument)
        if isinstance(argument, (list, tuple)):
            return (
                type(argument)(map(self.template, argument))
                if type(argument) in (list, tuple)
                else list(map(self.template, argument))
            )
        if isinstance(argument, slice):
            return slice(*map(self.template, (argument.start, argument.stop, argument.step)))
        return argument

    def _constant(self, node: Any) -> Any:
        value = self.known[node]
        if not isinstance(value, torch.Tensor):
            return value
        if value.ndim == 0:
            return value.item()
        name = f"{node.name}.{len(self.constants)}"  # operations in place may have changed it since
        self.constants[name] = to_numpy(value).copy()
        return Result(name)


def refusal(node: Any) -> str:
    """Return which unavailable types an operation asks for."""
    value = node.meta.get("val")
    if _name(node) in _CASTS and isinstance(value, torch.Tensor):
        before, after = node.args[0].meta["val"].dtype, value.dtype
        if before != after and not (_is_whole(node.args[0]) and after == torch.float32):
            return f"from {str(before).removeprefix('torch.')} to {str(after).removeprefix('torch.')}"
    values = value if isinstance(value, (list, tuple)) else [value]
    moves = _name(node) in _MOVES
    for each in values:
        if not isinstance(each, torch.Tensor):
            continue
        if moves and each.dtype in INTEGERS:
            continue
        if free_unbacked_symbols(each):
            return "of a size that depends on its numbers"
        if each.dtype not in (torch.float32, torch.int64, torch.bool, torch.int32):
            return f"of {str(each.dtype).removeprefix('torch.')}"
        if each.device.type not in ("cpu", "meta"):
            return f"on {each.device.type}"
    return ""


def _is_whole(node: Any) -> bool:
    """Whether a result holds integers or truth values."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and (value.dtype == torch.bool or value.dtype in INTEGERS)


def draws(node: Any) -> bool:
    """Whether an operation draws random numbers anew in each run; dropout does so only in training mode."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and _name(node) not in _DRAW_IF_TOLD


def _name(node: Any) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name.split("::")[1])


def batch_of(nodes: Iterable[Any]) -> Any:
    """Return the number of examples, a number or a symbol: the first size of all inputs; None where that differs."""
    values = [node.meta.get("val") for node in nodes]
    sizes = {_plain(value.shape[0]) if value.ndim else None for value in values if isinstance(value, torch.Tensor)}
    return sizes.pop() if len(sizes) == 1 else None


def _begins_with(value: Any, size: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and bool(_plain(value.shape[0]) == size)


def _plain(size: Any) -> Any:
    """Return a size as a number, or as a symbol where it is open: comparing that adds no guards to torch's graph."""
    if not isinstance(size, torch.SymInt):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_number else expression


def _keeps_first(args: list[Any]) -> bool:
    """Whether the first number of a size is that of the argument, which may differ in another run."""
    value: Any = args[0].meta.get("val") if isinstance(args[0], torch.fx.Node) else None
    if not getattr(value, "shape", ()) or not args[1]:
        return False
    has, asked = _plain(value.shape[0]), args[1][0]
    if isinstance(asked, torch.fx.Node):
        asked = _plain(asked.meta.get("val"))
        return type(has) is not int and bool(has == asked)
    return type(has) is int and type(asked) is int and has == asked > 1


def module_of(node: Any, kind: str) -> tuple[str, str]:
    """Return path and type of the innermost module that an operation comes from."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", kind
    path, name = stack[-1]
    return path, str(name).rpartition(".")[2].removesuffix("'>")


def raise_unsupported(unsupported: list[Unsupported], what: str) -> None:
    """Raise one error that names all operations without a converter."""
    if unsupported:
        listed = "\n  ".join(dict.fromkeys(map(str, unsupported)))
        raise ValueError(f"{what}: convlane has no operation for\n  {listed}")


def converted(exported: Any, parts: Mapping[str, Part], kind: str) -> Program:
    """Return the program of what torch.export has recorded.

    Raises
    ------
    ValueError
        Some operations have no converter; all are named.
    """
    signature = exported.graph_signature
    # What torch writes anew for each who asks.
    buffers, lifted = {**signature.inputs_to_buffers}, {**signature.inputs_to_lifted_tensor_constants}
    targets = {**buffers, **signature.inputs_to_parameters}
    state, constants = exported.state_dict, exported.constants
    if changed := [*getattr(signature, "buffers_to_mutate", {}).values()]:
        raise ValueError(f"from_torch: in eval mode the network changes its buffer {', '.join(changed)}")
    given = set(signature.user_inputs)
    placeholders = exported.graph.find_nodes(op="placeholder")
    converter = Converter(parts, kind, batch_of(node for node in placeholders if node.name in given))
    inputs: list[str] = []
    outputs: Any = None
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            name = node.name
            target = targets.get(name)
            held = _held(parts, target) if target else None
            if held is not None:
                converter.hold(node, held)
            elif target:
                constant = state.get(target)
                converter.know(node, constants[target] if constant is None else constant)
            elif name in lifted:
                converter.know(node, constants[lifted[name]].clone())  # operations in place may change it
            else:
                converter.give(node)
                inputs.append(name)
        elif node.op == "output":
            outputs = converter.template(list(node.args[0]))
        else:
            converter.convert(node)
    raise_unsupported(converter.unsupported, "from_torch")
    outputs = outputs[len(outputs) - exported.call_spec.out_spec.num_leaves :]
    structure = plain(_pytree.tree_unflatten(outputs, exported.call_spec.out_spec))
    sizes = [tuple(size if isinstance(size, int) else None for size in shape) for shape in input_shapes(exported)]
    return Program(tuple(inputs), tuple(converter.steps), structure, converter.constants, tuple(sizes)).pruned()


def _held(parts: Mapping[str, Part], target: str) -> Held | None:
    """Return a parameter, or a buffer of floating-point numbers, for the program to read anew in each run."""
    path, _, name = target.rpartition(".")
    array = vars(parts[path]).get(name) if path in parts else None
    return Held(parts[path], name) if array is not None and array.dtype == np.float32 else None


def plain(container: Any) -> Any:
    """Return containers of all kinds as dicts, lists and tuples."""
    if isinstance(container, Mapping):
        return {key: plain(each) for key, each in container.items()}
    if isinstance(container, list):
        return [plain(each) for each in container]
    if dataclasses.is_dataclass(container) and not isinstance(container, (type, Result, Held)):
        return {field.name: plain(getattr(container, field.name)) for field in dataclasses.fields(container)}
    return tuple(plain(each) for each in container) if isinstance(container, tuple) else container


def without_tensors(container: Any) -> Any:
    """Return containers as `plain` does, with `ARRAY` in place of tensors, so that none is kept."""
    return _pytree.tree_map(lambda leaf: ARRAY if isinstance(leaf, torch.Tensor) else leaf, plain(container))


def imported_parts(module: Any, root: Part) -> dict[str, Part]:
    """Give a network the tree, the parameters and the buffers of a module; return its parts by path."""
    parts: dict[str, Part] = {}
    known: dict[int, Part] = {}
    for path, each in module.named_modules(remove_duplicate=False):
        part = known.setdefault(id(each), root if not path else Part(type(each).__name__))
        parts[path] = part
        if path:
            parent, _, name = path.rpartition(".")
            setattr(parts[parent], name, part)
    for path, each in module.named_modules():
        _fill(parts[path], each)
    holders: dict[int, list[tuple[Part, str]]] = {}
    for path, each in module.named_modules():
        for name, parameter in each.named_parameters(recurse=False):
            holders.setdefault(id(parameter), []).append((parts[path], name))
    for several in holders.values():
        if len(several) > 1:
            for part, name in several[1:]:
                setattr(part, name, vars(several[0][0])[several[0][1]])
            tie(several)
    return parts


def _fill(part: Part, module: Any) -> None:
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        part.register_parameter(name, to_numpy(parameter))
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        if name not in module._non_persistent_buffers_set and buffer.dtype != torch.bool:
            part.register_buffer(name, to_numpy(buffer), optional=name == "num_batches_tracked")
    if getattr(module, "momentum", 0.0) is None:
        part.averages = True


_LIMIT = 1e-3
"""By how much of the largest number a result may differ from torch's."""


def check(
    who: str,
    module: Any,
    exported: Any,
    program: Program,
    inputs: tuple[Any, ...],
    named: Mapping[str, Any],
    got: Any,
) -> None:
    """Raise ValueError if what a program returns for some inputs is not what the module does, in eval mode."""
    args, kwargs = _pytree.tree_map(lambda leaf: leaf.clone() if hasattr(leaf, "clone") else leaf, (inputs, named))
    expected = [_as_array(leaf) for leaf in _tensors(plain(module(*args, **kwargs)))]
    got = _tensors(got)
    worst = max(map(difference, got, expected), default=0.0)
    if len(got) == len(expected) and worst <= _LIMIT:
        return
    leaves = _pytree.tree_leaves((inputs, named))
    first = first_difference(exported, program, leaves, [*map(_as_array, leaves)], _LIMIT)
    raise ValueError(
        f"{who}: on the example the result differs from torch's by {worst:.1e} of the largest number; the first "
        f"operation that differs is {first}"
    )


def _as_array(leaf: Any) -> Any:
    return to_numpy(leaf) if isinstance(leaf, torch.Tensor) else leaf


def _tensors(container: Any) -> list[Any]:
    """Return the leaves of an output, but for None."""
    if isinstance(container, (list, tuple)):
        return [leaf for each in container for leaf in _tensors(each)]
    if isinstance(container, dict):
        return [leaf for each in container.values() for leaf in _tensors(each)]
    return [] if container is None else [container]


def first_difference(exported: Any, program: Program, tensors: list[Any], arrays: list[Any], limit: float) -> str:
    """Run both side by side and return the first operation whose results differ."""
    steps = {step.name: step for step in program.steps}
    results = {**program.constants, **dict(zip(program.inputs, arrays, strict=True))}
    found: list[str] = []

    class Compared(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, node: Any) -> Any:
            value = super().run_node(node)
            if node.name in steps and not found:
                mine = results[node.name] = steps[node.name].run(results, {})
                pairs = zip(mine, value, strict=False) if isinstance(mine, tuple) else [(mine, value)]
                if any(isinstance(b, torch.Tensor) and not difference(a, to_numpy(b)) <= limit for a, b in pairs):
                    found.append(steps[node.name].label)
            return value

    signature, held = exported.graph_signature, {**exported.state_dict, **exported.constants}
    given = iter(tensors)
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    placeholders = [node.name for node in exported.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        Compared(exported.graph_module).run(*(held[targets[n]] if n in targets else next(given) for n in placeholders))
    return found[0] if found else "none alone: the differences add up"


def difference(got: Any, expected: Any) -> float:
    """Return the largest error over the largest number; infinite where shapes or types differ."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf")
    if not expected.size:
        return 0.0
    if expected.dtype.kind != "f":
        return float((got != expected).any())
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True):
        return float("inf")
    largest = np.abs(expected[finite]).max(initial=1e-30)
    return float(np.abs(got[finite] - expected[finite]).max(initial=0.0) / largest)


@contextlib.contextmanager
def eval_mode(module: Any) -> Iterator[None]:
    """Put a module into eval mode, and each of its parts back into its own after it."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode
