"""Normalisations."""

from __future__ import annotations

from typing import Any

from convlane import functional as F
from convlane.onnx.file import Node
from convlane.onnx.registry import Call, converts
from convlane.onnx.values import axis_of, is_array


def _refuse_batch_norm(node: Node) -> str:
    return "spatial=0, a norm for each pixel, is not supported" if node.attributes.get("spatial", 1) == 0 else ""


@converts("BatchNormalization", refuse=_refuse_batch_norm)
def _batch_norm(call: Call, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    eps, momentum = call.get("epsilon", 1e-5), 1 - call.get("momentum", 0.9)
    version = call.node.opset
    old = version < 7 and not call.get("is_test", 0) and call.outputs > 1
    asked = call.get("training_mode", 0) if version >= 14 else old
    if asked and call.outputs > 1:
        return _measured_batch_norm(call, x, scale, bias, mean, var)
    if all(map(is_array, (scale, bias, mean, var))):
        writable = mean.flags.writeable and var.flags.writeable
        return F.batch_norm(x, mean, var, scale, bias, (call.training and writable) or bool(asked), momentum, eps)
    shape = (1, -1, *(1,) * (len(x.shape) - 2))
    factor = F.mul(scale, F.rsqrt(F.add(var, eps)))
    shift = F.sub(bias, F.mul(mean, factor))
    return F.add(F.mul(x, F.reshape(factor, shape)), F.reshape(shift, shape))


def _measured_batch_norm(call: Call, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    """Normalise a batch by its own statistics, and return the updated averages, with the biased variance."""
    axes = (0, *range(2, len(x.shape)))
    momentum = call.get("momentum", 0.9)
    own_mean, own_var = F.mean(x, axes), F.var(x, axes, correction=0)
    y = F.batch_norm(x, own_mean, own_var, scale, bias, False, 0.0, call.get("epsilon", 1e-5))
    moved = [F.add(F.mul(old, momentum), F.mul(new, 1 - momentum)) for old, new in ((mean, own_mean), (var, own_var))]
    return (y, *moved, own_mean, own_var)[: call.outputs]


@converts("InstanceNormalization")
def _instance_norm(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    return F.instance_norm(x, None, None, scale, bias, eps=call.get("epsilon", 1e-5))


@converts("GroupNormalization", since=18)
def _group_norm_of_groups(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    """Until opset 20 a group had one factor."""
    groups, channels = call.get("num_groups"), x.shape[1]
    shape = (groups, channels // groups)
    weight, shift = (F.reshape(F.expand(F.reshape(v, (groups, 1)), shape), (channels,)) for v in (scale, bias))
    return F.group_norm(x, groups, weight, shift, call.get("epsilon", 1e-5))


@converts("GroupNormalization", since=21)
def _group_norm(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    return F.group_norm(x, call.get("num_groups"), scale, bias, call.get("epsilon", 1e-5))


@converts("LayerNormalization", since=17)
@converts("LayerNormalization", domain="com.microsoft")
def _layer_norm(call: Call, x: Any, scale: Any, bias: Any = None) -> Any:
    axis, eps = axis_of(call.get("axis", -1), len(x.shape)), call.get("epsilon", 1e-5)
    shape = tuple(x.shape[axis:])
    if is_array(scale) and scale.shape == shape and (bias is None or (is_array(bias) and bias.shape == shape)):
        y = F.layer_norm(x, shape, scale, bias, eps)
    else:
        y = F.mul(F.layer_norm(x, shape, None, None, eps), scale)
        y = y if bias is None else F.add(y, bias)
    if call.outputs < 2:
        return y
    axes = tuple(range(axis, len(x.shape)))
    return (y, F.mean(x, axes, True), F.rsqrt(F.add(F.var(x, axes, correction=0, keepdim=True), eps)))[: call.outputs]


@converts("RMSNormalization", since=23)
@converts("SimplifiedLayerNormalization")
def _rms_norm(call: Call, x: Any, scale: Any) -> Any:
    axis = axis_of(call.get("axis", -1), len(x.shape))
    shape = tuple(x.shape[axis:])
    eps = call.get("epsilon", 1e-5)
    if is_array(scale) and scale.shape == shape:
        return F.rms_norm(x, shape, scale, eps)
    return F.mul(F.rms_norm(x, shape, None, eps), scale)


@converts("LRN")
def _lrn(call: Call, x: Any) -> Any:
    size, alpha = call.get("size"), call.get("alpha", 1e-4)
    beta, bias = call.get("beta", 0.75), call.get("bias", 1.0)
    if len(x.shape) == 4 and size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    sides = ((size - 1) // 2, size // 2)  # for even sizes one more behind than before
    squares = F.pad(F.square(x), (*(0, 0) * (len(x.shape) - 2), *sides))
    parts = [F.narrow(squares, 1, i, x.shape[1]) for i in range(size)]
    total = parts[0]
    for part in parts[1:]:
        total = F.add(total, part)
    return F.div(x, F.pow(F.affine(total, alpha / size, bias), beta))


@converts("LpNormalization")
def _lp_normalization(call: Call, x: Any) -> Any:
    axis, p = call.get("axis", -1), call.get("p", 2)
    size = F.sum(F.abs(x), axis, True) if p == 1 else F.sqrt(F.sum(F.square(x), axis, True))
    return F.where(F.eq(size, 0.0), 0.0, F.div(x, size))


@converts("MeanVarianceNormalization", since=9)
def _mean_variance_normalization(call: Call, x: Any) -> Any:
    axes = tuple(call.get("axes", (0, 2, 3)))
    centred = F.sub(x, F.mean(x, axes, True))
    return F.div(centred, F.add(F.sqrt(F.var(x, axes, correction=0, keepdim=True)), 1e-9))
