"""Convolutions."""

from __future__ import annotations

from typing import Any

from convlane.functional._axes import as_numbers
from convlane.onnx.writers._register import Call, writes
from convlane.onnx.writers.activation import activated


@writes("conv2d", "conv3d")
def _conv(call: Call) -> str:
    return _convolution(call, "Conv")


@writes("conv_transpose2d")
def _conv_transpose2d(call: Call) -> str:
    return _convolution(call, "ConvTranspose", output_padding=list(as_numbers(call["output_padding"], "", "", 2)))


def _convolution(call: Call, op: str, **attributes: Any) -> str:
    rank = len(call.shape("weight"))
    kernel = call.shape("weight")[2:]
    stride, dilation = (as_numbers(call[each], call.node.op, each, rank - 2) for each in ("stride", "dilation"))
    operands = [call.batched(rank), call.name("weight")]
    if bias := call.name("bias"):
        operands.append(bias)
    result = call.emit(
        op,
        *operands,
        kernel_shape=list(kernel),
        strides=list(stride),
        dilations=list(dilation),
        group=call["groups"],
        **call.pads(call.node.op, kernel, stride, dilation),
        **attributes,
    )
    if "residual" in call.node.inputs:
        result = call.emit("Add", result, call.batched(rank, "residual"))
    return call.unbatched(rank, activated(call, result))
