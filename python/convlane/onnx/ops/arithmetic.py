"""Arithmetic, comparisons and logic of arrays that broadcast, and functions of one number."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from convlane import functional as F
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import (
    Untraceable,
    axis_of,
    bounded,
    in_numpy,
    is_array,
    is_float,
    known,
    number,
    scalar_or,
)


def quietly(function: Callable[..., Any], *values: Any) -> Any:
    """Let NumPy compute, if the result fits in a sane amount of memory."""
    bounded(np.broadcast_shapes(*(np.shape(value) for value in values)))
    with np.errstate(all="ignore"):
        return np.asarray(function(*values))


def pair(numpy: Callable[..., Any], function: Callable[..., Any], a: Any, b: Any) -> Any:
    """Compute with two arrays that broadcast."""
    if in_numpy(a, b):
        return quietly(numpy, a, b)
    for value in (a, b):
        if not is_float(value):
            raise Untraceable(
                f"{value.dtype} arithmetic has no counterpart in plans, and an argument depends on the input"
            )
    return function(scalar_or(a, b), scalar_or(b, a))


def _legacy(call: Call, a: Any, b: Any) -> tuple[Any, Any]:
    """Return operands as NumPy broadcasts them: before opset 7 the second one was aligned at an axis."""
    if call.node.opset >= 7 or not call.get("broadcast", 0) or "axis" not in call.node.attributes:
        return a, b
    axis = axis_of(call.get("axis"), len(a.shape))
    behind = len(a.shape) - axis - len(b.shape)
    shape = (*b.shape, *(1,) * max(behind, 0))
    return a, (b.reshape(shape) if is_array(b) and not is_float(b) else F.reshape(b, shape))


def _divided(a: Any, b: Any) -> Any:
    """Divide integers towards zero, as C does."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b).astype(np.result_type(a, b))
    quotient = np.floor_divide(np.abs(a), np.abs(b))
    return (np.where((a < 0) == (b < 0), quotient, -quotient) if a.dtype.kind == "i" else quotient).astype(a.dtype)


def _powered(a: Any, b: Any) -> Any:
    if a.dtype.kind in "iu" and b.dtype.kind == "f":
        return np.power(a.astype(np.float64), b).astype(a.dtype)
    return np.power(a, b.astype(a.dtype) if a.dtype.kind == "f" or not (b < 0).any() else b).astype(a.dtype)


def _arithmetic(op: str, numpy: Callable[..., Any], function: Callable[..., Any]) -> None:
    @converts(op, wide=True)
    def convert(call: Call, a: Any, b: Any) -> Any:
        return pair(numpy, function, *_legacy(call, a, b))


_arithmetic("Add", np.add, F.add)
_arithmetic("Sub", np.subtract, F.sub)
_arithmetic("Mul", np.multiply, F.mul)
_arithmetic("Div", _divided, F.div)


@converts("Pow", wide=True)
def _pow(call: Call, a: Any, b: Any) -> Any:
    a, b = _legacy(call, a, b)
    if in_numpy(a) or (is_array(a) and is_array(b) and not is_float(b) and a.dtype != np.float32):
        return quietly(_powered, a, known(b, "the exponent"))
    if is_array(b) and not is_float(b):
        b = b.astype(np.float32)
    exponent = scalar_or(b, a) if is_array(b) and not is_array(a) else b
    if exponent == 2 if isinstance(exponent, float) else False:
        return F.square(a)
    if exponent == 0.5 if isinstance(exponent, float) else False:
        return F.sqrt(a)
    return pair(np.power, F.pow, a, b)


@converts("Mod", wide=True)
def _mod(call: Call, a: Any, b: Any) -> Any:
    if is_array(a) and is_array(b):
        return quietly(np.fmod if call.get("fmod", 0) else np.mod, a, b)
    if not (is_array(b) and np.isfinite(b).all()):
        raise Untraceable("the divisor depends on the input, or is infinite")
    quotient = F.div(a, b)
    whole = (
        F.where(F.lt(quotient, 0.0), F.ceil(quotient), F.floor(quotient)) if call.get("fmod", 0) else F.floor(quotient)
    )
    return F.sub(a, F.mul(whole, b))


def _comparison(op: str, numpy: Callable[..., Any], function: Callable[..., Any], since: int = 1) -> None:
    @converts(op, since=since, wide=True)
    def convert(call: Call, a: Any, b: Any) -> Any:
        a, b = _legacy(call, a, b)
        if in_numpy(a, b):
            return quietly(numpy, a, b)
        return compared(function, a, b)


def compared(function: Callable[..., Any], a: Any, b: Any) -> Any:
    """Compare arrays of one type; integers of every size are compared as int64."""
    return function(*(each.astype(np.int64) if is_array(each) and each.dtype.kind in "iu" else each for each in (a, b)))


_comparison("Equal", np.equal, F.eq)
_comparison("Greater", np.greater, F.gt)
_comparison("GreaterOrEqual", np.greater_equal, F.ge, 12)
_comparison("Less", np.less, F.lt)
_comparison("LessOrEqual", np.less_equal, F.le, 12)
_comparison("And", np.logical_and, F.logical_and)
_comparison("Or", np.logical_or, F.logical_or)
_comparison("Xor", np.logical_xor, F.ne)


@converts("Not")
def _not(call: Call, x: Any) -> Any:
    return np.logical_not(x) if is_array(x) else F.logical_not(x)


@converts("Where", since=9, wide=True)
def _where(call: Call, condition: Any, a: Any, b: Any) -> Any:
    if is_array(condition) and in_numpy(a, b):
        return quietly(np.where, condition, a, b)
    if (
        is_array(condition)
        and condition.size == 1
        and condition.ndim <= len(a.shape) == len(b.shape)
        and a.shape == b.shape
    ):
        return a if condition.reshape(-1)[0] else b
    return F.where(condition, _int64(a), _int64(b))


def _int64(value: Any) -> Any:
    return value.astype(np.int64) if is_array(value) and value.dtype.kind in "iu" else value


def _variadic(op: str, numpy: Callable[..., Any], function: Callable[..., Any]) -> None:
    @converts(op, wide=True)
    def convert(call: Call, *values: Any) -> Any:
        result = reduce(lambda a, b: pair(numpy, function, a, b), values)
        return pair(np.multiply, F.mul, result, np.asarray(1 / len(values), np.float32)) if op == "Mean" else result


_variadic("Max", np.maximum, F.maximum)
_variadic("Min", np.minimum, F.minimum)
_variadic("Sum", np.add, F.add)
_variadic("Mean", np.add, F.add)


# Functions of single numbers


def _cosh(x: Any) -> Any:
    """Sum two exponentials, each a square, for a square does not overflow before the sum does."""
    up, down = F.exp(F.mul(x, 0.5)), F.exp(F.mul(x, -0.5))
    return F.add(F.mul(F.mul(up, 0.5), up), F.mul(F.mul(down, 0.5), down))


def _function(op: str, numpy: Callable[..., Any], function: Callable[..., Any] | None = None, since: int = 1) -> None:
    @converts(op, since=since, wide=True)
    def convert(call: Call, x: Any) -> Any:
        if in_numpy(x) or (function is None and is_array(x)):
            return quietly(numpy, x).astype(x.dtype)
        if function is None:
            raise Untraceable(f"{op} has no counterpart in plans, and its argument depends on the input")
        return function(x)


_function("Abs", np.abs, F.abs)
_function("Ceil", np.ceil, F.ceil)
_function("Cos", np.cos, F.cos, 7)
_function("Exp", np.exp, F.exp)
_function("Floor", np.floor, F.floor)
_function("Log", np.log, F.log)
_function("Neg", np.negative, F.neg)
_function("Reciprocal", np.reciprocal, F.reciprocal)
_function("Round", np.round, F.round, 11)
_function("Sign", np.sign, F.sign, 9)
_function("Sin", np.sin, F.sin, 7)
_function("Sqrt", np.sqrt, F.sqrt)
_function("Erf", lambda x: x, F.erf, 9)
_function("Tan", np.tan, lambda x: F.div(F.sin(x), F.cos(x)), 7)
_function("Acos", np.arccos, None, 7)
_function("Asin", np.arcsin, None, 7)
_function("Atan", np.arctan, None, 7)
_function("Acosh", np.arccosh, None, 9)
_function("Asinh", np.arcsinh, None, 9)
_function("Atanh", np.arctanh, None, 9)
_function("Cosh", np.cosh, lambda x: _cosh(x), 9)
_function("Sinh", np.sinh, lambda x: F.mul(F.tanh(x), _cosh(x)), 9)  # exact near 0, where exponentials cancel
_function("BitwiseNot", np.bitwise_not, None, 18)


def _of_bits(op: str, numpy: Callable[..., Any], since: int) -> None:
    @converts(op, since=since)
    def convert(call: Call, a: Any, b: Any) -> Any:
        return quietly(numpy, known(a, "what it takes bits of"), known(b, "what it takes bits of"))


_of_bits("BitwiseAnd", np.bitwise_and, 18)
_of_bits("BitwiseOr", np.bitwise_or, 18)
_of_bits("BitwiseXor", np.bitwise_xor, 18)


@converts("BitShift", since=11)
def _bit_shift(call: Call, a: Any, b: Any) -> Any:
    shift = np.left_shift if call.get("direction") == "LEFT" else np.right_shift
    return quietly(shift, known(a, "what it shifts"), known(b, "by how much it shifts"))


@converts("IsNaN", since=9)
def _isnan(call: Call, x: Any) -> Any:
    return F.ne(x, x)


@converts("IsInf", since=10)
def _isinf(call: Call, x: Any) -> Any:
    high, low = F.eq(x, float("inf")), F.eq(x, float("-inf"))
    if not call.get("detect_negative", 1):
        return high
    return F.logical_or(high, low) if call.get("detect_positive", 1) else low


@converts("Clip")
def _clip_by_attributes(call: Call, x: Any) -> Any:
    return F.clamp(x, call.get("min"), call.get("max"))


@converts("Clip", since=11)
def _clip(call: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    if in_numpy(x):
        bounds = (None if bound is None else known(bound, "the bound") for bound in (low, high))
        lowest, highest = bounds
        raised = x if lowest is None else np.maximum(x, lowest)
        return raised if highest is None else np.minimum(raised, highest)
    if any(bound is not None and not is_array(bound) for bound in (low, high)):
        raised = x if low is None else F.maximum(x, low)
        return raised if high is None else F.minimum(raised, high)
    least, most = number(low, "min"), number(high, "max")
    return x if least is None and most is None else F.clamp(x, least, most)
