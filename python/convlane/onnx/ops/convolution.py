"""Convolutions, transposed convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convlane import functional as F
from convlane.onnx.ops.window import sides_of
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import as_many, in_numpy, is_array

_CONV: dict[int, Callable[..., Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Any]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _numbers(call: Call, name: str, axes: int) -> tuple[int, ...]:
    return tuple(as_many(name, call.get(name) or (1,) * axes, axes))


def _axes(call: Call, x: Any, kinds: Any) -> int:
    axes = len(x.shape) - 2
    if axes not in kinds:
        raise ValueError(f"its input must have 1, 2 or 3 dimensions after the channels, got shape {tuple(x.shape)}")
    return axes


@converts("Conv")
def _conv(call: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    axes = _axes(call, x, _CONV)
    stride, dilation = _numbers(call, "strides", axes), _numbers(call, "dilations", axes)
    kernel = tuple(weight.shape[2:])
    pads = sides_of(call, x.shape[2:], kernel, stride, dilation)
    padding = tuple(side for pair in pads for side in pair)
    return _CONV[axes](x, weight, bias, stride, padding, dilation, call.get("group", 1))


@converts("FusedConv", domain="com.microsoft")
def _fused_conv(call: Call, x: Any, weight: Any, bias: Any = None, residual: Any = None) -> Any:
    y = _conv(call, x, weight, bias)
    y = y if residual is None else F.add(y, residual)
    kind, parameters = call.get("activation", ""), call.get("activation_params", ())
    plain = {"": lambda x: x, "Relu": F.relu, "Sigmoid": F.sigmoid, "Tanh": F.tanh, "HardSwish": F.hardswish}
    if kind in plain:
        return plain[kind](y)
    if kind in ("Clip", "LeakyRelu"):
        return F.clamp(y, *parameters) if kind == "Clip" else F.leaky_relu(y, *parameters)
    raise ValueError(f"its activation {kind!r} is not known")


@converts("ConvTranspose")
def _conv_transpose(call: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    axes = _axes(call, x, _TRANSPOSED)
    stride, dilation = _numbers(call, "strides", axes), _numbers(call, "dilations", axes)
    extra = tuple(as_many("output_padding", call.get("output_padding") or (0,) * axes, axes))
    as_many("the axes of its weight behind the channels", weight.shape[2:], axes)
    reach = [dilation[i] * (weight.shape[2 + i] - 1) + 1 for i in range(axes)]
    whole = [(x.shape[2 + i] - 1) * stride[i] + reach[i] for i in range(axes)]
    wanted, auto = call.get("output_shape"), call.get("auto_pad", "NOTSET")
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = [x.shape[2 + i] * stride[i] for i in range(axes)] if wanted is None else wanted[-axes:]
        as_many("output_shape", sizes, axes)
        totals = [whole[i] + extra[i] - sizes[i] for i in range(axes)]
        halves = [(total // 2, total - total // 2) for total in totals]
        pads = halves if auto != "SAME_LOWER" else [(b, a) for a, b in halves]
        if wanted is not None and auto == "NOTSET":
            pads = [(b, a) for a, b in halves]
    else:
        given = as_many("pads", call.get("pads") or (0,) * 2 * axes, 2 * axes)
        pads = list(zip(given[:axes], given[axes:], strict=True))
    return _transposed(x, weight, bias, stride, pads, extra, call.get("group", 1), dilation, whole)


def _transposed(
    x: Any, weight: Any, bias: Any, stride: Any, pads: Any, extra: Any, groups: int, dilation: Any, whole: Any
) -> Any:
    """Crop the padding where the operation takes no asymmetric padding, and add what lies beyond the full result."""
    axes = len(stride)
    even = all(a == b and a >= 0 for a, b in pads)
    if even and all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        return _TRANSPOSED[axes](x, weight, bias, stride, tuple(a for a, _ in pads), extra, groups, dilation)
    if axes == 2 and not any(extra) and all(side >= 0 for pair in pads for side in pair):
        sides = tuple(side for pair in pads for side in pair)
        return F.conv_transpose2d(x, weight, bias, stride, sides, 0, groups, dilation)
    y = _TRANSPOSED[axes](x, weight, None, stride, 0, 0, groups, dilation)
    cut = [(-a, extra[i] - b) for i, (a, b) in enumerate(pads)]
    y = F.pad(y, [side for pair in reversed(cut) for side in pair])
    return y if bias is None else F.add(y, F.reshape(bias, (1, -1, *(1,) * axes)))


@converts("MatMul")
def _matmul(call: Call, a: Any, b: Any) -> Any:
    if in_numpy(a, b):
        return np.matmul(a, b)
    if is_array(b) and b.ndim == 2 and len(a.shape) in (2, 3) and not is_array(a):
        return F.linear(a, F.transpose(b, 0, 1))
    return F.matmul(a, b)


@converts("FusedMatMul", domain="com.microsoft")
def _fused_matmul(call: Call, a: Any, b: Any) -> Any:
    a = F.transpose(a, -1, -2) if call.get("transA", 0) else a
    b = F.transpose(b, -1, -2) if call.get("transB", 0) else b
    y, alpha = F.matmul(a, b), call.get("alpha", 1.0)
    return y if alpha == 1 else F.mul(y, alpha)


@converts("Gemm")
def _gemm(call: Call, a: Any, b: Any, c: Any = None) -> Any:
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if in_numpy(a, b, c):
        product = alpha * np.matmul(a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b)
        return (product if c is None else product + beta * c).astype(a.dtype)
    a = F.transpose(a, 0, 1) if call.get("transA", 0) else a
    weight = b if call.get("transB", 0) else F.transpose(b, 0, 1)
    if (is_array(b) and not (is_array(a) and is_array(c))) or (is_array(b) and c is not None and len(c.shape) == 1):
        plain = c is not None and is_array(c) and c.shape == (b.shape[0 if call.get("transB", 0) else 1],)
        if alpha == 1 and (c is None or (plain and beta == 1)):
            return F.linear(a, weight, c)
        y = F.linear(a, weight)
    else:
        y = F.matmul(a, F.transpose(weight, 0, 1))
    y = y if alpha == 1 else F.mul(y, alpha)
    return y if c is None else F.add(y, c if beta == 1 else F.mul(c, beta))


@converts("Einsum", since=12)
def _einsum(call: Call, *values: Any) -> Any:
    """Multiply the first two arrays, then their product with the third and so on, summing as early as possible."""
    equation = call.get("equation").replace(" ", "")
    if all(map(is_array, values)):
        return np.einsum(equation, *values)
    terms, result = _letters(equation, [len(value.shape) for value in values])
    if any(len({*term}) < len(term) for term in terms):
        raise ValueError(f"the equation {equation!r} takes a diagonal, which is not computed in a plan")
    y, letters = values[0], terms[0]
    for i in range(1, len(values)):
        wanted = {*result}.union(*terms[i + 1 :])
        y, letters = _product(y, letters, values[i], terms[i], wanted)
    y, letters = _summed(y, letters, {*result})
    return y if letters == result else F.permute(y, [letters.index(letter) for letter in result])


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Return the letters of each array's dimensions, and those of the result; capitals stand for what dots mean."""
    operands, arrow, result = equation.partition("->")
    terms = operands.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"the equation {equation!r} does not fit {len(ranks)} arrays")
    if not arrow:
        once = (letter for letter in sorted({*operands} - {*",."}) if operands.count(letter) == 1)
        result = "..." * ("." in operands) + "".join(once)
    dots = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term]
    most = "ABCDEFGH"[: max(dots, default=0)]
    if "." in equation and {*equation} & {*most}:
        raise ValueError(f"the equation {equation!r} is not computed")
    few = iter(dots)
    terms = [term.replace("...", most[len(most) - next(few) :]) if "..." in term else term for term in terms]
    if any(len(term) != rank for term, rank in zip(terms, ranks, strict=True)):
        raise ValueError(f"the equation {equation!r} does not fit arrays of {ranks} dimensions")
    return terms, result.replace("...", most)


def _summed(x: Any, letters: str, wanted: set[str]) -> tuple[Any, str]:
    """Sum over the dimensions whose letters are not needed."""
    gone = tuple(i for i, letter in enumerate(letters) if letter not in wanted)
    return (F.sum(x, gone), "".join(letter for letter in letters if letter in wanted)) if gone else (x, letters)


def _product(a: Any, left: str, b: Any, right: str, wanted: set[str]) -> tuple[Any, str]:
    """Sum products of two arrays as a product of matrices: letters of both stay in front, or are summed over."""
    a, left = _summed(a, left, wanted | {*right})
    b, right = _summed(b, right, wanted | {*left})
    sizes = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
    stack = [letter for letter in left if letter in right and letter in wanted]
    summed = [letter for letter in left if letter in right and letter not in wanted]
    rows = [letter for letter in left if letter not in right]
    columns = [letter for letter in right if letter not in left]

    def arranged(value: Any, letters: str, *groups: list[str]) -> Any:
        order = [letters.index(letter) for group in (stack, *groups) for letter in group]
        shape = [sizes[letter] for letter in stack]
        products = [math.prod(sizes[letter] for letter in group) for group in groups]
        return F.reshape(F.permute(value, order), (*shape, *products))

    y = F.matmul(arranged(a, left, rows, summed), arranged(b, right, summed, columns))
    letters = [*stack, *rows, *columns]
    return F.reshape(y, [sizes[letter] for letter in letters]), "".join(letters)
