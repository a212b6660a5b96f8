"""Arithmetic, comparisons and functions, number by number; matrix products and linear layers."""

from __future__ import annotations

import numpy as np

from convlane.onnx.writers._register import Call, writes
from convlane.onnx.writers.activation import activated

_UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logical_not": "Not",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    **dict.fromkeys(("channels_last", "dropout", "nchw"), "Identity"),  # dropout: a network in eval mode drops nothing
}

_BINARY = {
    "div": "Div",
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "lt": "Less",
    "maximum": "Max",
    "minimum": "Min",
    "mul": "Mul",
    "sub": "Sub",
}


@writes(*_UNARY)
def _unary(call: Call) -> str:
    return call.emit(_UNARY[call.node.op], call.name("input"))


@writes(*_BINARY)
def _binary(call: Call) -> str:
    return call.emit(_BINARY[call.node.op], *_operands(call, "input", "other"))


@writes("ne")
def _ne(call: Call) -> str:
    return call.emit("Not", call.emit("Equal", *_operands(call, "input", "other")))


@writes("add")
def _add(call: Call) -> str:
    return activated(call, call.emit("Add", *_operands(call, "input", "other")))


@writes("pow")
def _pow(call: Call) -> str:
    return call.emit("Pow", *_operands(call, "input", "exponent"))


@writes("where")
def _where(call: Call) -> str:
    return call.emit("Where", call.name("condition"), *_operands(call, "input", "other"))


@writes("affine")
def _affine(call: Call) -> str:
    product = call.emit("Mul", call.name("input"), call.floats(call["factor"]))
    return call.emit("Add", product, call.floats(call["offset"]))


@writes("scale")
def _scale(call: Call) -> str:
    factor = call.name("scale")
    if len(call.shape("scale")) == 2:
        factor = call.emit("Unsqueeze", factor, call.integers([2, 3]))
    return call.emit("Mul", call.name("input"), factor)


@writes("square")
def _square(call: Call) -> str:
    return call.emit("Mul", call.name("input"), call.name("input"))


@writes("rsqrt")
def _rsqrt(call: Call) -> str:
    return call.emit("Reciprocal", call.emit("Sqrt", call.name("input")))


@writes("log1p")
def _log1p(call: Call) -> str:
    return call.emit("Log", call.emit("Add", call.name("input"), call.floats(1)))


@writes("matmul")
def _matmul(call: Call) -> str:
    return call.emit("MatMul", call.name("input"), call.name("other"))


@writes("linear")
def _linear(call: Call) -> str:
    x, weight, bias = (call.name(argument) for argument in ("input", "weight", "bias"))
    if len(call.shape()) == 2:
        return activated(call, call.emit("Gemm", x, weight, *([bias] if bias else []), transB=1))
    product = call.emit("MatMul", x, call.emit("Transpose", weight, perm=[1, 0]))
    return activated(call, call.emit("Add", product, bias) if bias else product)


def _operands(call: Call, *arguments: str) -> list[str]:
    """Return the names of two operands; a number is of the type of the other one."""
    kinds = {call.graph.nodes[call.node.inputs[each]].dtype for each in arguments if each in call.node.inputs}
    names = []
    for argument in arguments:
        value = call.node.attributes.get(argument)
        number = argument not in call.node.inputs and not isinstance(value, np.ndarray)
        names.append(call.nodes.constant(np.asarray(value, kinds.copy().pop())) if number else call.name(argument))
    return names
