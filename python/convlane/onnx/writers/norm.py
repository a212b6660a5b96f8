"""Normalisation."""

from __future__ import annotations

import math

import numpy as np

from convlane.onnx.writers._register import Call, writes


@writes("batch_norm")
def _batch_norm(call: Call) -> str:
    if call["running_mean"] is None or call["running_var"] is None:
        raise call.refuse("without running statistics")
    return _by_running_statistics(call)


@writes("instance_norm")
def _instance_norm(call: Call) -> str:
    if not call["use_input_stats"]:
        return _by_running_statistics(call)
    channels = call.shape()[1]
    weight, bias = call.vector("weight", channels, 1), call.vector("bias", channels, 0)
    return call.emit("InstanceNormalization", call.name("input"), weight, bias, epsilon=float(call["eps"]))


def _by_running_statistics(call: Call) -> str:
    channels = call.shape()[1]
    return call.emit(
        "BatchNormalization",
        call.name("input"),
        call.vector("weight", channels, 1),
        call.vector("bias", channels, 0),
        call.name("running_mean"),
        call.name("running_var"),
        epsilon=float(call["eps"]),
    )


@writes("channel_norm")
def _channel_norm(call: Call) -> str:
    channels, rank = call.shape()[1], len(call.shape())
    to_last = [0, *range(2, rank), 1]
    last = call.emit("Transpose", call.name("input"), perm=to_last)
    weight, bias = call.vector("weight", channels, 1), call.vector("bias", channels, 0)
    normal = call.emit("LayerNormalization", last, weight, bias, axis=-1, epsilon=float(call["eps"]))
    return call.emit("Transpose", normal, perm=[0, rank - 1, *range(1, rank - 1)])


@writes("layer_norm")
def _layer_norm(call: Call) -> str:
    shape = call["normalized_shape"]
    sizes = (shape,) if np.ndim(shape) == 0 else tuple(shape)
    weight = call.name("weight") or call.nodes.constant(np.ones(sizes, np.float32))
    operands = [call.name("input"), weight, *([bias] if (bias := call.name("bias")) else [])]
    return call.emit("LayerNormalization", *operands, axis=-len(sizes), epsilon=float(call["eps"]))


@writes("rms_norm")
def _rms_norm(call: Call) -> str:
    shape, x = call["normalized_shape"], call.name("input")
    axes = call.integers(range(-(1 if np.ndim(shape) == 0 else len(shape)), 0))
    eps = float(np.finfo(np.float32).eps) if call["eps"] is None else float(call["eps"])
    mean = call.emit("ReduceMean", call.emit("Mul", x, x), axes, keepdims=1)
    normal = call.emit("Div", x, call.emit("Sqrt", call.emit("Add", mean, call.floats(eps))))
    return call.emit("Mul", normal, weight) if (weight := call.name("weight")) else normal


@writes("group_norm")
def _group_norm(call: Call) -> str:
    """Write groups as the channels of instance normalisation: GroupNormalization is younger than the opset."""
    groups, shape = call["num_groups"], call.shape()
    ones, zeros = (call.nodes.constant(np.full(groups, fill, np.float32)) for fill in (1, 0))
    parts = call.emit("Reshape", call.name("input"), call.integers([0, groups, -1]))
    normal = call.emit("InstanceNormalization", parts, ones, zeros, epsilon=float(call["eps"]))
    like = call.emit("Shape", call.name("input"))
    result = call.emit("Reshape", normal, like)
    column = call.integers([shape[1]] + [1] * (len(shape) - 2))
    for op, argument in (("Mul", "weight"), ("Add", "bias")):
        if name := call.name(argument):
            result = call.emit(op, result, call.emit("Reshape", name, column))
    return result


@writes("local_response_norm")
def _local_response_norm(call: Call) -> str:
    size = call["size"]
    if size % 2 == 0:
        raise call.refuse(f"for windows of an even size ({size}): theirs lie one channel further")
    numbers = {"alpha": float(call["alpha"]), "beta": float(call["beta"]), "bias": float(call["k"])}
    assert all(math.isfinite(number) for number in numbers.values())
    return call.emit("LRN", call.name("input"), size=size, **numbers)
