"""The backend of ``torch.compile``: dynamo's graphs run as plans, and what convlane cannot compute runs with torch.

Dynamo passes parameters and buffers as inputs of the graph. A plan is made with their values when the graph first runs,
and made again when one of them has changed since. Changes are detected by torch's version counter and by the address of
the data: writing into ``parameter.data`` changes neither.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch._functorch.aot_autograd import aot_export_module
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from convlane.bridges.torch.converters import PLAIN, converter_of
from convlane.bridges.torch.exporting import SYMBOLIC, Converter, batch_of, draws, module_of, refusal
from convlane.bridges.torch.program import Held, Part, Program
from convlane.bridges.torch.tensors import to_numpy, to_tensor
from convlane.functional._placeholder import Placeholder
from convlane.graph import compile as compile_plan

log = logging.getLogger(__name__)

_KEPT_SIZES = 8
_VERSION = operator.attrgetter("_version")


def backend(graph: Any, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """Return a function that runs a graph of dynamo; torch finds it under the name ``convlane``.

    Only inference is compiled: where gradients are recorded, the graph stays with torch; use
    `convlane.bridges.torch.as_function` for training. What stays with torch is logged, with the reason.
    """
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if torch.is_grad_enabled() and any(
        getattr(each, "requires_grad", False) for each in (*example_inputs, *graph.parameters())
    ):
        return _left("gradients are recorded, use torch.no_grad()", graph)
    fakes = [node.meta["example_value"] for node in placeholders]
    try:
        exported, signature = aot_export_module(graph, fakes, trace_joint=False, pre_dispatch=True)
    except Exception as error:  # of any kind: torch runs what cannot be exported
        return _left(f"it cannot be exported: {_shown(error)}", graph)
    if changed := [*signature.user_inputs_to_mutate.values(), *signature.buffers_to_mutate.values()]:
        return _left(f"it changes its inputs {', '.join(changed)}", graph)
    # Parameters are inputs of dynamo's graph, or its attributes where torch is told to prepare freezing.
    attributes = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    own = {**dict(graph.named_parameters(remove_duplicate=False)), **dict(graph.named_buffers(remove_duplicate=False))}
    inputs = exported.graph.find_nodes(op="placeholder")
    given = [node for node in inputs if node.name not in attributes]
    frozen = {node.name for node in exported.graph.find_nodes(op="get_attr")} | attributes.keys()
    frozen |= {new.name for old, new in zip(placeholders, given, strict=True) if _is_of_module(old)}
    run = _partitioned(exported, frozen)
    return partial(run, *(own[attributes[node.name]] for node in inputs if node.name in attributes))


def _left(why: str, graph: Any) -> Callable[..., Any]:
    """Leave a graph to torch and say why."""
    log.warning("torch.compile: a graph of %d operations stays with torch: %s", _size(graph), why)
    forward: Callable[..., Any] = graph.forward
    return forward


def _shown(error: Exception) -> str:
    """Return the first line of an error: torch appends listings of its graph."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _size(graph: Any) -> int:
    return sum(node.op.startswith("call") for node in graph.graph.nodes)


def _is_of_module(node: Any) -> bool:
    """Whether an input of dynamo's graph is a parameter or a buffer of a module."""
    argument = node.meta.get("grapharg")
    if argument is None or not isinstance(node.meta.get("example_value"), torch.Tensor):
        return False
    source = argument.source.guard_source
    source = source() if callable(source) else source  # a method before torch 2.9
    return source.is_unspecialized_nn_module() or source.is_specialized_nn_module()  # type: ignore[no-any-return]


_OF_BOOL = frozenset(
    ("eq", "ne", "lt", "le", "gt", "ge", "greater", "less", "logical_and", "logical_or", "logical_not")
    + ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "logical_xor", "__and__", "__or__", "__xor__")
    + ("isnan", "isinf", "isfinite", "where", "masked_fill", "_to_copy")
)
"""Comparisons and selections, for which booleans follow the same rules."""


_DRAW = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu"})
"""Operations that draw random numbers where an argument is True; those are torch's."""


class _Support(OperatorSupportBase):  # type: ignore[misc]
    """Which operations have converters, for float32, where torch's rules for types are convlane's."""

    def __init__(self, graph: Any, frozen: set[str]) -> None:
        self.fixed = set(frozen)
        """Names of what depends on no input: it is computed once."""
        for node in graph.nodes:
            of_fixed = all(each.name in self.fixed for each in node.all_input_nodes)
            if node.op == "call_function" and of_fixed and not draws(node):
                self.fixed.add(node.name)
        self.missing: dict[str, str] = {}

    def is_node_supported(self, submodules: Any, node: Any) -> bool:
        """Return whether a plan may have a node, and note why it may not."""
        if node.op != "call_function":
            return False
        if node.name in self.fixed:
            return True
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return node.target in PLAIN or node.target in SYMBOLIC
        name = schema.name.split("::")[1]
        known = schema.name.startswith("aten::") and converter_of(name, schema.overload_name or "default")
        inputs = (each for each in node.all_input_nodes if each.name not in self.fixed)
        reasons = (_not_of_float32(each, name in _OF_BOOL) for each in (node, *inputs))
        reason = next(filter(None, reasons), "")
        if name in _DRAW and True in node.args:
            reason = "in training mode"
        if not known or reason:
            self.missing[f"{node.target} {reason}".strip()] = module_of(node, "the network")[0]
        return bool(known) and not reason


def _not_of_float32(node: Any, with_bool: bool) -> str:
    """Return which other type a node has, or those of its results that are read."""
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, (list, tuple)):
        read = {user.args[1] for user in node.users if user.target is operator.getitem}
        values = [each for i, each in enumerate(value) if i in read]
    allowed = (torch.float32, torch.bool) if with_bool else (torch.float32,)
    others = [each.dtype for each in values if isinstance(each, torch.Tensor) and each.dtype not in allowed]
    return refusal(node) or (f"of {str(others[0]).removeprefix('torch.')}" if others else "")


def _partitioned(exported: Any, frozen: set[str]) -> Callable[..., Any]:
    """Run the parts of a graph that plans can run as plans, and the rest with torch."""
    support = _Support(exported.graph, frozen)
    count = _size(exported)
    for node in exported.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        exported.graph.erase_node(node)  # about types, which are checked here
    partitioner = CapabilityBasedPartitioner(exported, support, allows_single_node_partition=True)
    partitions = partitioner.propose_partitions()
    fused = partitioner.fuse_partitions(partitions)
    if support.missing:
        names = ", ".join(f"{name} (in {path!r})" if path else name for name, path in support.missing.items())
        parts = f"{len(partitions)} part{'s run' if len(partitions) != 1 else ' runs'}"
        log.warning("torch.compile: %s on convlane, torch runs what convlane cannot: %s", parts, names)
    else:
        log.info("torch.compile: %d operations run on convlane", count)
    for node in list(fused.graph.nodes):
        if node.op == "call_module":
            part = fused.get_submodule(node.target)
            setattr(fused, node.target, _Runner(part, [argument.name in frozen for argument in node.args]))
    forward = fused.forward

    def run(*tensors: Any) -> Any:
        with torch.no_grad():
            return forward(*tensors)

    return run


class _Runner(torch.nn.Module):  # type: ignore[misc]
    """Runs a part of a graph: one plan for each of the latest sizes, made with the parameters that were given."""

    def __init__(self, part: Any, frozen: Sequence[bool]) -> None:
        super().__init__()
        self.part, self.frozen = part, list(frozen)
        self.versions: list[Any] = []
        self.plans: dict[Any, Callable[..., Any]] = {}
        self.other_indices = [i for i, is_frozen in enumerate(self.frozen) if not is_frozen]
        self.frozen_indices = [i for i, is_frozen in enumerate(self.frozen) if is_frozen]
        self.program: Program | None = None
        self.stays = False
        self.orders = [_order_of(node) for node in _leaves(part.graph.output_node().args[0])]

    def forward(self, *tensors: Any) -> Any:
        """Run it on tensors and sizes; with torch, permanently, if it turns out that convlane cannot."""
        if not self.stays:
            try:
                return self._run(tensors)
            except Exception as error:  # of any kind: what torch raises or returns is what counts
                log.warning("torch.compile: a part stays with torch: %s", _shown(error))
                self.stays = True
        return self.part(*tensors)

    def _run(self, tensors: Sequence[Any]) -> Any:
        frozen = [tensors[i] for i in self.frozen_indices]
        versions = [*map(id, frozen), *map(_VERSION, frozen), *map(torch.Tensor.data_ptr, frozen)]
        if versions != self.versions or self.program is None:
            self._freeze(tensors)
            self.versions = versions
        given = [tensors[i] for i in self.other_indices]
        key = tuple(tuple(each.shape) if isinstance(each, torch.Tensor) else each for each in given)
        run = self.plans.get(key)
        if run is None:
            run = self._planned(given)
            while len(self.plans) >= _KEPT_SIZES:
                del self.plans[next(iter(self.plans))]
            self.plans[key] = run
        return run(given)

    def _freeze(self, tensors: Sequence[Any]) -> None:
        """Make the program, whose parameters and buffers are those given."""
        self.kept = [tensor for tensor, is_frozen in zip(tensors, self.frozen, strict=True) if is_frozen]
        weights = Part("weights").eval()
        nodes = self.part.graph.find_nodes(op="placeholder")
        inputs_of = (node for node, is_frozen in zip(nodes, self.frozen, strict=True) if not is_frozen)
        converter = Converter({"": weights}, "the network", batch_of(inputs_of))
        inputs = []
        for i, (node, is_frozen) in enumerate(zip(nodes, self.frozen, strict=True)):
            if not is_frozen:
                converter.give(node)
                inputs.append(node.name)
            elif tensors[i].is_floating_point():
                weights.register_parameter(f"w{i}", to_numpy(tensors[i]))
                converter.hold(node, Held(weights, f"w{i}"), tensors[i].detach())
            else:
                converter.know(node, tensors[i].clone())
        outputs: Any = None
        for node in self.part.graph.nodes:
            if node.op == "output":
                outputs = converter.template(node.args[0])
            elif node.op == "call_function":
                converter.convert(node)
        self.program = Program(tuple(inputs), tuple(converter.steps), outputs, converter.constants).pruned()
        self.plans.clear()

    def _planned(self, given: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
        """Return a function that runs the program on inputs of these sizes: a plan if possible, else step by step."""
        program = self.program
        assert program is not None
        images = [i for i, each in enumerate(given) if isinstance(each, torch.Tensor)]
        sizes = {i: each for i, each in enumerate(given) if i not in images}
        several = isinstance(program.outputs, (list, tuple))
        known: dict[int, Any] = {}

        def returned(outputs: Any) -> Any:
            rest = iter(_leaves(outputs))
            leaves = [known[i] if i in known else next(rest) for i in range(len(self.orders))]
            tensors = [_as_output(*each) for each in zip(leaves, self.orders, strict=True)]
            return tuple(tensors) if several else tensors[0]

        def network(*arrays: Any) -> Any:
            """Return what depends on the arrays; keep what is known when they are not there yet."""
            arguments = iter(arrays)
            outputs = program.run([sizes[i] if i in sizes else next(arguments) for i in range(len(given))])
            if any(isinstance(each, Placeholder) for each in _leaves(outputs)):
                known.update((i, e) for i, e in enumerate(_leaves(outputs)) if not isinstance(e, Placeholder))
                outputs = [each for each in outputs if isinstance(each, Placeholder)] if several else outputs
            return tuple(outputs) if several else outputs

        def by_steps(given: Sequence[Any]) -> Any:
            return returned(network(*(to_numpy(given[i]) for i in images)))

        if not images or any(given[i].dtype != torch.float32 or not given[i].ndim for i in images):
            return by_steps
        shapes: Any = tuple(tuple(given[i].shape) for i in images)
        shapes = shapes[0] if len(shapes) == 1 else shapes
        try:
            plan = _compiled(network, shapes)
        except (TypeError, ValueError) as error:
            log.info("torch.compile: a part runs step by step: %s", error)
            return by_steps

        def by_plan(given: Sequence[Any]) -> Any:
            return returned(plan(*(to_numpy(given[i]) for i in images)))

        return by_plan


def _compiled(network: Callable[..., Any], shapes: Any) -> Callable[..., Any]:
    """Return a plan for examples, which may run several at once, or for whole inputs where these are mixed."""
    try:
        return compile_plan(network, shapes)
    except (TypeError, ValueError):
        return compile_plan(network, shapes, whole=True)


def _leaves(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _order_of(node: Any) -> tuple[int, ...] | None:
    """Return the dimensions of a tensor in the order in which torch would store them, outermost first."""
    value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
    if not isinstance(value, torch.Tensor):
        return None
    strides = [stride if isinstance(stride, int) else stride.node.hint or 0 for stride in value.stride()]
    sizes = [size if isinstance(size, int) else size.node.hint or 0 for size in value.shape]
    return tuple(sorted(range(value.ndim), key=lambda dim: (-strides[dim], sizes[dim] == 1)))


def _as_output(value: Any, order: tuple[int, ...] | None) -> Any:
    """Return a result as a tensor with the strides that the torch operations after it expect."""
    if order is None or isinstance(value, (int, float)):
        return value if isinstance(value, (int, float)) else to_tensor(value)
    tensor = to_tensor(value).permute(order)
    return tensor.contiguous().permute(sorted(range(len(order)), key=order.__getitem__))
