"""Activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convlane import functional as F
from convlane.graph.trace import Symbol
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import Untraceable, axis_of, in_numpy, is_array


def _plain(op: str, function: Callable[..., Any], since: int = 1) -> None:
    @converts(op, since=since)
    def convert(call: Call, x: Any) -> Any:
        return function(x)


_plain("HardSwish", F.hardswish, 14)
_plain("Mish", F.mish, 18)
_plain("Sigmoid", F.sigmoid)
_plain("Softplus", lambda x: F.softplus(x, threshold=math.inf))
_plain("Softsign", F.softsign)
_plain("Tanh", F.tanh)


@converts("Relu")
def _relu(call: Call, x: Any) -> Any:
    return np.maximum(x, 0) if in_numpy(x) else F.relu(x)


@converts("Celu", since=12)
def _celu(call: Call, x: Any) -> Any:
    return F.celu(x, call.get("alpha", 1.0))


@converts("Elu")
def _elu(call: Call, x: Any) -> Any:
    return F.elu(x, call.get("alpha", 1.0))


@converts("LeakyRelu")
def _leaky_relu(call: Call, x: Any) -> Any:
    return F.leaky_relu(x, call.get("alpha", 0.01))


@converts("ThresholdedRelu", since=10)
def _thresholded_relu(call: Call, x: Any) -> Any:
    return F.where(F.gt(x, call.get("alpha", 1.0)), x, 0.0)  # 0 for NaN as well, where F.threshold has NaN


@converts("Shrink", since=9)
def _shrink(call: Call, x: Any) -> Any:
    bias, lambd = call.get("bias", 0.0), call.get("lambd", 0.5)
    above = F.where(F.gt(x, lambd), F.sub(x, bias), 0.0)
    return F.where(F.lt(x, -lambd), F.add(x, bias), above)


_SELU = (1.67326, 1.0507)  # defaults before opset 6, with fewer digits
_SELU_6 = (1.67326319217681884765625, 1.05070102214813232421875)


@converts("Selu")
def _selu(call: Call, x: Any) -> Any:
    alpha, gamma = _SELU if call.node.opset < 6 else _SELU_6
    alpha, gamma = call.get("alpha", alpha), call.get("gamma", gamma)
    return F.selu(x) if (alpha, gamma) == _SELU_6 else F.mul(F.elu(x, alpha), gamma)


@converts("HardSigmoid")
def _hard_sigmoid(call: Call, x: Any) -> Any:
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-4) and beta == 0.5:
        return F.hardsigmoid(x)
    return F.clamp(F.affine(x, alpha, beta), 0.0, 1.0)


@converts("Gelu", since=20)
def _gelu(call: Call, x: Any) -> Any:
    return F.gelu(x, approximate=call.get("approximate", "none"))


@converts("Gelu", domain="com.microsoft")
def _gelu_of_ort(call: Call, x: Any) -> Any:
    return F.gelu(x)


@converts("Swish", since=24)
def _swish(call: Call, x: Any) -> Any:
    alpha = call.get("alpha", 1.0)
    return F.silu(x) if alpha == 1 else F.mul(x, F.sigmoid(F.affine(x, alpha)))


@converts("QuickGelu", domain="com.microsoft")
def _quick_gelu(call: Call, x: Any) -> Any:
    return F.mul(x, F.sigmoid(F.affine(x, call.get("alpha", 1.702))))


@converts("PRelu")
def _prelu(call: Call, x: Any, slope: Any) -> Any:
    shape = tuple(slope.shape)
    size = math.prod(shape)
    channels = x.shape[1] if len(x.shape) > 1 else 1
    along = len(x.shape) - 2  # dimensions behind the channels
    per_channel = size == 1 or (size == channels and shape in ((size, *(1,) * along), (1, size, *(1,) * along)))
    old = call.node.opset < 7 and shape == (channels,)
    if is_array(slope) and len(x.shape) > 1 and (per_channel or old):
        return F.prelu(x, slope if len(shape) == 1 else F.reshape(slope, (size,)))
    return F.add(F.maximum(x, 0.0), F.mul(F.minimum(x, 0.0), slope))


def _along_axis(op: str, function: Callable[..., Any]) -> None:
    @converts(op)
    def convert_flat(call: Call, x: Any) -> Any:
        """Before opset 13 the dimensions from the axis on counted as one."""
        axis = axis_of(call.get("axis", 1), len(x.shape))
        if axis == len(x.shape) - 1 or all(size == 1 for size in x.shape[axis + 1 :]):
            return function(x, axis)
        flat = F.reshape(x, (*x.shape[:axis], math.prod(x.shape[axis:])))
        return F.reshape(function(flat, axis), x.shape)

    @converts(op, since=13)
    def convert(call: Call, x: Any) -> Any:
        return function(x, call.get("axis", -1))


def _hardmax(x: Any, axis: int) -> Any:
    axis = axis % len(x.shape)
    indices = F.unsqueeze(F.argmax(x, axis), axis)
    each = np.arange(x.shape[axis]).reshape(-1, *(1,) * (len(x.shape) - 1 - axis))
    return F.where(F.eq(indices, each), 1.0, 0.0)


_along_axis("Softmax", F.softmax)
_along_axis("LogSoftmax", F.log_softmax)
_along_axis("Hardmax", _hardmax)


@converts("Dropout")
def _dropout_by_attributes(call: Call, x: Any) -> Any:
    return _dropped(call, x, call.get("ratio", 0.5), call.training and not call.get("is_test", 0))


@converts("Dropout", since=12)
def _dropout(call: Call, x: Any, ratio: Any = None, training_mode: Any = None) -> Any:
    asked = training_mode is not None and is_array(training_mode) and bool(training_mode.reshape(-1)[0])
    return _dropped(call, x, 0.5 if ratio is None else float(ratio.reshape(-1)[0]), call.training or asked)


def _dropped(call: Call, x: Any, ratio: float, training: bool) -> Any:
    if in_numpy(x):
        return (x, np.ones(x.shape, bool))[: call.outputs]
    if not training or ratio == 0:
        return (x, np.ones(x.shape, bool))[: call.outputs] if call.outputs > 1 else x
    seed = call.get("seed")
    if seed is not None and isinstance(x, Symbol):
        raise Untraceable("what is dropped would be the same in every run of a plan")
    if seed is not None and is_array(x):  # numbers that follow from it are NumPy's, as in ONNX's reference
        kept = np.random.RandomState(int(seed)).uniform(size=x.shape) >= ratio
        y = F.mul(x, (kept / (1 - ratio)).astype(np.float32))
    else:
        y = F.dropout(x, ratio, True)
        kept = F.logical_or(F.ne(y, 0.0), F.eq(x, 0.0)) if call.outputs > 1 else None
    return (y, kept)[: call.outputs] if call.outputs > 1 else y
