"""Operations on arrays, with torch's names and argument order.

Each family has one file that holds, for every operation, its argument checks, its cost and its call into the kernels.
"""

from convlane.functional.activation import (
    dropout,
    gelu,
    hardsigmoid,
    hardswish,
    leaky_relu,
    log_softmax,
    relu,
    relu6,
    seeded,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from convlane.functional.conv import conv2d, explain, pack_conv2d
from convlane.functional.elementwise import abs, add, affine, div, exp, log, mul, scale, square
from convlane.functional.linear import linear, pack_linear
from convlane.functional.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from convlane.functional.norm import batch_norm, channel_norm, layer_norm, local_response_norm
from convlane.functional.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
)
from convlane.functional.reduce import mean, sum
from convlane.functional.resize import interpolate, resize
from convlane.functional.shape import (
    cat,
    channel_shuffle,
    channels_last,
    flatten,
    interleave,
    narrow,
    nchw,
    pad,
    unflatten,
)
from convlane.functional.unfold import col2im, fold, im2col, unfold

__all__ = [
    "abs",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "add",
    "affine",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "cat",
    "channel_norm",
    "channel_shuffle",
    "channels_last",
    "col2im",
    "conv2d",
    "cross_entropy",
    "div",
    "dropout",
    "exp",
    "explain",
    "flatten",
    "fold",
    "gelu",
    "global_avg_pool2d",
    "global_max_pool2d",
    "hardsigmoid",
    "hardswish",
    "im2col",
    "interleave",
    "interpolate",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log",
    "log_softmax",
    "lp_pool2d",
    "max_pool2d",
    "mean",
    "mse_loss",
    "mul",
    "narrow",
    "nchw",
    "pack_conv2d",
    "pack_linear",
    "pad",
    "relu",
    "relu6",
    "resize",
    "scale",
    "seeded",
    "sigmoid",
    "silu",
    "softmax",
    "square",
    "sum",
    "tanh",
    "unflatten",
    "unfold",
]
