"""Operations on tensors of any rank.

The first dimension is the batch, of which a graph has one: operations that would move or mix it are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from convlane.functional._op import Shape
from convlane.functional.elementwise import is_channel_vector
from convlane.functional.padding import Region, filling, inner_regions, outer_regions, sides_of
from convlane.functional.rearrange import sliced
from convlane.functional.reduce import axes_of
from convlane.graph.lowering.context import Context, OfBatch, Refusal, lowers
from convlane.graph.lowering.operand import Operand
from convlane.graph.trace import Node, Value

Nodes = Mapping[Value, Node]
_general = partial(lowers, any_argument=True)


def _computed(node: Node, nodes: Nodes) -> dict[str, Shape]:
    """Return the shapes of the arguments that are not constants."""
    return {name: nodes[source].shape for name, source in node.inputs.items() if nodes[source].op != "constant"}


def _refuse_broadcast(node: Node, nodes: Nodes) -> str:
    """Shapes are aligned at the last dimension; the batch is the first dimension of everything that is computed."""
    ranks = {len(shape) for shape in _computed(node, nodes).values()}
    if ranks != {len(node.shape)} or node.shape[:1] != (1,):
        return OfBatch(f"{node.op} of shapes whose batches do not broadcast")
    return ""


def _refuse_batch(name: str, dims: Callable[[Node, int], Any]) -> Refusal:
    """Refuse the first dimension if `dims`, given the node and the rank of the argument `name`, contains it."""

    def refuse(node: Node, nodes: Nodes) -> str:
        ndim = len(_computed(node, nodes).get(name, ()))
        if ndim == 0 or 0 in [dim % ndim for dim in dims(node, ndim)]:
            return OfBatch(f"{node.op} along the batch")
        return ""

    return refuse


def _operand(at: Context, name: str, *, like: Any = np.float32) -> Operand | np.ndarray[Any, Any]:
    """Return an argument, or a number as a constant."""
    return at.inputs[name] if name in at.inputs else np.asarray(at[name], like)


def _type_of(at: Context, *names: str) -> Any:
    """Return the common type of the arrays among some arguments, which the numbers among them take."""
    return next((np.dtype(at.inputs[name].dtype) for name in names if name in at.inputs), np.dtype(np.float32))


# Pointwise


@_general("add", refuse=_refuse_broadcast)
def _add(at: Context) -> None:
    activation, slope = at["activation"], float(at["negative_slope"])
    if _same_layout(at, "input", "other"):
        return at.append("add", activation=activation, negative_slope=slope)
    at.append("binary", [_operand(at, "input"), _operand(at, "other")], name="add")
    if activation != "none":
        at.append("activation", [at.output], activation=activation, negative_slope=slope)
    return None


@_general("mul", refuse=_refuse_broadcast)
def _mul(at: Context) -> None:
    if _same_layout(at, "input", "other"):
        at.append("multiply")
    elif _are_operands(at, "input", "other") and is_channel_vector(at.shape, at.inputs["other"].shape):
        at.append("scale")
    else:
        at.append("binary", [_operand(at, "input"), _operand(at, "other")], name="mul")


def _are_operands(at: Context, *names: str) -> bool:
    return all(isinstance(at.inputs.get(name), Operand) for name in names)


def _same_layout(at: Context, *names: str) -> bool:
    return _are_operands(at, *names) and all(at.inputs[name].shape == at.output.shape for name in names)


@_general("div", "maximum", "minimum", "sub", refuse=_refuse_broadcast)
def _binary(at: Context) -> None:
    at.append("binary", [_operand(at, "input"), _operand(at, "other")], name=at.node.op)


@_general("pow", refuse=_refuse_broadcast)
def _pow(at: Context) -> None:
    at.append("binary", [_operand(at, "input"), _operand(at, "exponent")], name="pow")


@_general("eq", "ge", "gt", "le", "lt", "ne", refuse=_refuse_broadcast)
def _compare(at: Context) -> None:
    kind = _type_of(at, "input", "other")
    at.append("compare", [_operand(at, name, like=kind) for name in ("input", "other")], name=at.node.op)


@_general("where", refuse=_refuse_broadcast)
def _where(at: Context) -> None:
    kind = _type_of(at, "input", "other")
    condition = _operand(at, "condition", like=np.bool_)
    at.append("where", [condition, *(_operand(at, name, like=kind) for name in ("input", "other"))])


@_general("logical_and", "logical_or", refuse=_refuse_broadcast)
def _logic(at: Context) -> None:
    a, b = at.inputs["input"], at.inputs["other"]
    at.append("where", [a, b, np.asarray(False)] if at.node.op == "logical_and" else [a, np.asarray(True), b])


@_general("logical_not")
def _logical_not(at: Context) -> None:
    at.append("where", [at.input, np.asarray(False), np.asarray(True)])


@_general(
    *(
        "abs",
        "ceil",
        "cos",
        "erf",
        "exp",
        "floor",
        "log",
        "log1p",
        "neg",
        "reciprocal",
        "round",
        "rsqrt",
        "sign",
        "sin",
    ),
    *("sqrt", "square"),
)
def _unary(at: Context) -> None:
    at.append("unary", name=at.node.op)


@_general("clamp")
def _clamp(at: Context) -> None:
    low = -math.inf if at["min"] is None else float(at["min"])
    at.append("unary", name="clamp", first=low, second=math.inf if at["max"] is None else float(at["max"]))


# Along dimensions


def _dims(node: Node, ndim: int) -> Any:
    return axes_of(node.op, ndim, node.attributes["dim"])


@_general("amax", "amin", "mean", "prod", "sum", "var", refuse=_refuse_batch("input", _dims))
def _reduce(at: Context) -> None:
    axes = list(axes_of(at.node.op, len(at.shape), at["dim"]))
    correction = at.node.attributes.get("correction")
    at.append("reduce", name=at.node.op, axes=axes, correction=None if correction is None else float(correction))


@_general("argmax", "argmin", refuse=_refuse_batch("input", _dims))
def _arg(at: Context) -> None:
    at.append("arg", axis=None if at["dim"] is None else _axis(at), largest=at.node.op == "argmax")


@_general("cumsum", refuse=_refuse_batch("input", _dims))
def _cumsum(at: Context) -> None:
    at.append("cumsum", axis=_axis(at))


@_general("topk_indices", refuse=_refuse_batch("input", _dims))
def _topk_indices(at: Context) -> None:
    at.append("topk", axis=_axis(at), largest=bool(at["largest"]))


@_general("log_softmax", "softmax", refuse=_refuse_batch("input", _dims))
def _softmax(at: Context) -> None:
    log, axis = at.node.op == "log_softmax", _axis(at)
    if axis == 1 and at.output.strides[1] == 1:
        at.append("softmax", log=log)
    else:
        at.append("softmax_along", axis=axis, log=log)


def _axis(at: Context) -> int:
    return int(at["dim"]) % len(at.shape)


@_general("index_select", refuse=_refuse_batch("input", _dims))
def _index_select(at: Context) -> None:
    at.append("take", [at.input, at.inputs["index"]], axis=_axis(at), each=False)


def _refuse_gather(node: Node, nodes: Nodes) -> str:
    if set(_computed(node, nodes)) != {"input", "index"}:
        return OfBatch("gather of one constant")
    return _refuse_batch("input", _dims)(node, nodes)


@_general("gather", refuse=_refuse_gather)
def _gather(at: Context) -> None:
    at.append("take", [at.input, at.inputs["index"]], axis=_axis(at), each=True)


# Other orders, shapes and parts


def _move(at: Context, shape: Shape, strides: Shape, offset: int = 0, output: Operand | None = None) -> None:
    """Copy elements of the argument, viewed with other strides, to the result."""
    size = np.dtype(at.input.dtype).itemsize
    source = replace(at.input, offset=at.input.offset + size * offset, shape=shape, strides=strides)
    at.append("copy", [source], None if output is None else [output])


def _refuse_permute(node: Node, nodes: Nodes) -> str:
    return "" if node.attributes["dims"][:1] in ((), (0,), (-len(node.shape),)) else OfBatch("permute of the batch")


@_general("permute", refuse=_refuse_permute)
def _permute(at: Context) -> None:
    order = [dim % len(at.shape) for dim in at["dims"]]
    _move(at, at.output.shape, tuple(at.input.strides[dim] for dim in order))


def _refuse_reshape(node: Node, nodes: Nodes) -> str:
    before = nodes[node.inputs["input"]].shape
    return "" if before[:1] == node.shape[:1] == (1,) else OfBatch(f"{node.op} of the batch")


@_general("reshape", "unflatten", refuse=_refuse_reshape)
def _reshape(at: Context) -> None:
    at.append("reshape")


def _refuse_expand(node: Node, nodes: Nodes) -> str:
    before = nodes[node.inputs["input"]].shape
    return "" if len(before) == len(node.shape) and node.shape[0] == 1 else OfBatch("expand of the batch")


@_general("expand", refuse=_refuse_expand)
def _expand(at: Context) -> None:
    new = len(at.output.shape) - len(at.shape)
    before, own = (1,) * new + tuple(at.shape), (0,) * new + tuple(at.input.strides)
    pairs = zip(before, at.output.shape, own, strict=True)
    _move(at, at.output.shape, tuple(stride if old == new else 0 for old, new, stride in pairs))


@_general("flip", refuse=_refuse_batch("input", lambda node, ndim: axes_of("flip", ndim, node.attributes["dims"])))
def _flip(at: Context) -> None:
    turned = axes_of("flip", len(at.shape), at["dims"])
    strides = tuple(-stride if axis in turned else stride for axis, stride in enumerate(at.input.strides))
    last = sum((at.shape[axis] - 1) * at.input.strides[axis] for axis in turned) if math.prod(at.shape) else 0
    _move(at, at.output.shape, strides, last)


@_general("strided_slice", refuse=_refuse_batch("input", _dims))
def _strided_slice(at: Context) -> None:
    axis, part = sliced(at.input, at["dim"], at["start"], at["end"], at["step"])
    chosen, strides = range(*part.indices(at.shape[axis])), list(at.input.strides)
    start = chosen.start * strides[axis] if len(chosen) and math.prod(at.shape) else 0
    strides[axis] *= chosen.step
    _move(at, at.output.shape, tuple(strides), start)


def _refuse_tile(node: Node, nodes: Nodes) -> str:
    before, dims = nodes[node.inputs["input"]].shape, node.attributes["dims"]
    repeated = sum(repeat != 1 for repeat in dims)
    if max(len(before), len(dims)) + repeated > _MOST:
        return f"tile along {repeated} of {len(before)} dimensions"
    return "" if len(before) == len(node.shape) and node.shape[0] == 1 else OfBatch("tile of the batch")


_MOST = 8  # dimensions of a tensor


@_general("tile", refuse=_refuse_tile)
def _tile(at: Context) -> None:
    """Copy to a result in which each repeated dimension is two: first the repeats, where the argument has stride 0."""
    new = len(at.output.shape) - len(at.shape)
    sizes, strides = (1,) * new + tuple(at.shape), (0,) * new + tuple(at.input.strides)
    dims = (1,) * (len(sizes) - len(at["dims"])) + tuple(at["dims"])
    shape: list[int] = []
    source: list[int] = []
    target: list[int] = []
    for size, repeat, own, to in zip(sizes, dims, strides, at.output.strides, strict=True):
        if repeat != 1:
            shape, source, target = [*shape, repeat], [*source, 0], [*target, size * to]
        shape, source, target = [*shape, size], [*source, own], [*target, to]
    _move(at, tuple(shape), tuple(source), output=replace(at.output, shape=tuple(shape), strides=tuple(target)))


def _refuse_pad(node: Node, nodes: Nodes) -> str:
    before = nodes[node.inputs["input"]].shape
    return "" if sides_of(before, node.attributes["pad"])[0] == (0, 0) else OfBatch("pad of the batch")


@_general("pad", refuse=_refuse_pad)
def _pad(at: Context) -> None:
    """Copy what is not cropped, then fill the border with what is repeated there."""
    sides = sides_of(at.shape, at["pad"])
    source, inner = inner_regions(at.shape, sides)
    at.append("copy", [_region(at.input, source)], [_region(at.output, inner)])
    for region, repeated in outer_regions(inner, sides, at["mode"]):
        target = _region(at.output, region)
        number = filling(at["value"], at.output.dtype)
        part = np.broadcast_to(number, target.shape) if repeated is None else _region(at.output, repeated)
        at.append("copy", [part], [target])


def _region(operand: Operand, region: Region) -> Operand:
    size = np.dtype(operand.dtype).itemsize
    runs = list(zip(region, operand.strides, strict=True))
    return replace(
        operand,
        offset=operand.offset + size * sum(run.start * stride for run, stride in runs if run.length),
        shape=tuple(run.length for run in region),
        strides=tuple(run.step * stride for run, stride in runs),
    )


def _refuse_shuffle(node: Node, nodes: Nodes) -> str:
    return "" if 4 <= len(node.shape) <= _MOST - 2 else f"{node.op} of {len(node.shape)} dimensions"


@_general("pixel_shuffle", refuse=_refuse_shuffle)
def _pixel_shuffle(at: Context) -> None:
    factor = at["upscale_factor"]
    if len(at.shape) == 4:
        at.append("pixel_shuffle", factor=factor)
    else:
        at.append("copy", [_split_channels(at.input, factor)], [_split_pixels(at.output, factor)])


@_general("pixel_unshuffle", refuse=_refuse_shuffle)
def _pixel_unshuffle(at: Context) -> None:
    factor = at["downscale_factor"]
    if len(at.shape) == 4:
        at.append("pixel_unshuffle", factor=factor)
    else:
        at.append("copy", [_split_pixels(at.input, factor)], [_split_channels(at.output, factor)])


def _split_channels(many: Operand, factor: int) -> Operand:
    """Return (..., C * factor**2, H, W) as (..., C, row, column, H, W)."""
    axis = len(many.shape) - 3
    return many.split(axis, many.shape[axis] // factor**2, factor, factor)


def _split_pixels(few: Operand, factor: int) -> Operand:
    """Return (..., C, H * factor, W * factor) in the same way."""
    rank, (height, width) = len(few.shape), few.shape[-2:]
    split = few.split(rank - 1, width // factor, factor).split(rank - 2, height // factor, factor)
    return split.permuted(*range(rank - 2), rank - 1, rank + 1, rank - 2, rank)


# Products


def _refuse_matmul(node: Node, nodes: Nodes) -> str:
    """Take a stack of matrices as the batch, or as the rows of one matrix if the right matrix is a constant."""
    computed = _computed(node, nodes)
    shapes = {name: nodes[source].shape for name, source in node.inputs.items()}
    rank = max(map(len, shapes.values()))
    rows = set(computed) == {"input"} and rank == 2
    fits = rank >= 3 and all(len(shape) == rank for shape in computed.values())
    if not (rows or fits) or node.shape[0] != 1:
        return OfBatch("matmul of stacks whose batches do not broadcast")
    return ""


@_general("matmul", refuse=_refuse_matmul)
def _matmul(at: Context) -> None:
    a, b = at.inputs["input"], at.inputs["other"]
    vectors = (len(a.shape) == 1, len(b.shape) == 1)
    a, b = (_as_matrix(a, (1, a.shape[0])) if vectors[0] else a), (_as_matrix(b, (b.shape[0], 1)) if vectors[1] else b)
    output = at.output
    if any(vectors):
        rows, columns = (() if vectors[0] else a.shape[-2:-1]), (() if vectors[1] else b.shape[-1:])
        shape = (*output.shape[: len(output.shape) - len(rows) - len(columns)], *(rows or (1,)), *(columns or (1,)))
        output = replace(output, shape=shape, strides=_with_ones(output, shape, vectors))
    at.append("matmul", [a, b], [output])


def _as_matrix(vector: Any, shape: Shape) -> Any:
    return vector.viewed(shape) if isinstance(vector, Operand) else vector.reshape(shape)


def _with_ones(output: Operand, shape: Shape, vectors: tuple[bool, bool]) -> Shape:
    """Return the strides of a result that regains the dimensions that vectors lack."""
    strides = list(output.strides)
    if vectors[1]:
        strides.append(1)
    if vectors[0]:
        strides.insert(len(strides) - 1, 1)
    return tuple(strides)
