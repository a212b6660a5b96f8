"""Operations on arrays, with torch's names and argument order.

Each family has one file that holds, for every operation, its argument checks, its cost and its call into the kernels.
"""

from convlane.functional.activation import (
    dropout,
    hardswish,
    leaky_relu,
    log_softmax,
    relu,
    relu6,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from convlane.functional.conv import conv2d, explain, pack_conv2d
from convlane.functional.elementwise import add, mul, scale
from convlane.functional.linear import linear, pack_linear
from convlane.functional.norm import batch_norm, local_response_norm
from convlane.functional.shape import cat, channels_last, flatten, nchw, pad

__all__ = [
    "add",
    "batch_norm",
    "cat",
    "channels_last",
    "conv2d",
    "dropout",
    "explain",
    "flatten",
    "hardswish",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "mul",
    "nchw",
    "pack_conv2d",
    "pack_linear",
    "pad",
    "relu",
    "relu6",
    "scale",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
