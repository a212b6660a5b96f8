"""Digests of every operation with its gradients, of networks and of a training step, with three threads.

OpenMP's environment limits the size of teams, so a smaller team needs another process that runs the same.
"""

import hashlib
from functools import partial

import numpy as np

import convlane
from convlane import functional as F
from convlane import models, nn
from convlane.training import Adam

THREADS = 3
IMAGE, ROWS = (3, 24, 40, 37), (300, 700)  # each large enough for several threads
CONVOLUTIONS = {
    "pointwise": (IMAGE, (40, 24, 1, 1), {}),
    "depthwise": (IMAGE, (24, 1, 5, 5), {"groups": 24, "padding": 2}),
    "stem": ((2, 3, 90, 90), (32, 3, 3, 3), {"stride": 2, "padding": 1}),
    "winograd4": (IMAGE, (32, 24, 3, 3), {"padding": 1}),
    "winograd2": (IMAGE, (32, 24, 3, 3), {"padding": 1}),
    "direct": (IMAGE, (16, 6, 3, 3), {"groups": 4, "dilation": 2}),
    "im2col": (IMAGE, (16, 24, 3, 3), {"stride": 2}),
    "reference": (IMAGE, (4, 24, 3, 3), {}),
}
ON_IMAGES = {
    **{
        name: getattr(F, name)
        for name in (
            *("relu", "relu6", "leaky_relu", "silu", "gelu", "hardswish", "hardsigmoid", "sigmoid", "tanh"),
            *("exp", "square", "abs", "affine", "sum", "mean", "flatten", "channels_last", "nchw"),
            *("global_avg_pool2d", "global_max_pool2d", "channel_norm"),
        )
    },
    "softmax": partial(F.softmax, dim=1),
    "log_softmax": partial(F.log_softmax, dim=1),
    "local_response_norm": partial(F.local_response_norm, size=5),
    "max_pool2d": partial(F.max_pool2d, kernel_size=3, stride=2, padding=1),
    "avg_pool2d": partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1),
    "lp_pool2d": partial(F.lp_pool2d, norm_type=2, kernel_size=3),
    "adaptive_avg_pool2d": partial(F.adaptive_avg_pool2d, output_size=7),
    "adaptive_max_pool2d": partial(F.adaptive_max_pool2d, output_size=7),
    "nearest": partial(F.interpolate, scale_factor=2),
    "bilinear": partial(F.interpolate, size=(50, 21), mode="bilinear", align_corners=True),
    "bicubic": partial(F.interpolate, size=(50, 21), mode="bicubic", antialias=True),
    "max_pool3d": lambda x: F.max_pool3d(F.unsqueeze(x, 1), 3, 2),
    "avg_pool1d": lambda x: F.avg_pool1d(F.flatten(x, 2), 3),
    "pixel_shuffle": partial(F.pixel_shuffle, upscale_factor=2),
    "cumsum": partial(F.cumsum, dim=2),
    "pad": partial(F.pad, pad=(1, 2, 3, 4)),
    "narrow": partial(F.narrow, dim=1, start=3, length=9),
    "mean of rows": partial(F.mean, dim=(2, 3)),
    "im2col": partial(F.im2col, kernel_size=3, padding=1),
    "fold": lambda x: F.col2im(F.im2col(x, 3), IMAGE[2:], 3),
}
SIGNAL, VOLUME = (3, 24, 3000), (2, 12, 6, 20, 21)
ON_SEVERAL = {
    "add": (F.add, IMAGE, IMAGE),
    "mul": (F.mul, IMAGE, IMAGE),
    "div": (F.div, IMAGE, IMAGE),
    "scale": (F.scale, IMAGE, (3, 24, 1, 1)),
    "cat": (lambda a, b: F.cat([a, b]), IMAGE, IMAGE),
    "interleave": (lambda a, b: F.interleave([a, b]), IMAGE, IMAGE),
    "linear": (F.linear, ROWS, (90, 700), (90,)),
    "linear of one row": (F.linear, (1, 700), (900, 700), (900,)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (700,), w, b), ROWS, (700,), (700,)),
    "layer_norm of images": (lambda x, w, b: F.layer_norm(x, IMAGE[1:], w, b), IMAGE, IMAGE[1:], IMAGE[1:]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (700,), w), ROWS, (700,)),
    "group_norm": (lambda x, w, b: F.group_norm(x, 4, w, b), IMAGE, (24,), (24,)),
    "instance_norm": (lambda x, w, b: F.instance_norm(x, None, None, w, b), IMAGE, (24,), (24,)),
    "conv_transpose2d": (partial(F.conv_transpose2d, padding=1), IMAGE, (24, 16, 3, 3), (16,)),
    "conv_transpose2d with a stride": (partial(F.conv_transpose2d, stride=2), IMAGE, (24, 16, 3, 3), (16,)),
    "conv_transpose2d depthwise": (partial(F.conv_transpose2d, groups=24), IMAGE, (24, 1, 4, 4), (24,)),
    "conv_transpose2d of few channels": (partial(F.conv_transpose2d, stride=2), IMAGE, (24, 2, 4, 4), (2,)),
    "conv1d": (partial(F.conv1d, padding=4), SIGNAL, (16, 24, 9), (16,)),
    "conv_transpose1d": (partial(F.conv_transpose1d, stride=2), SIGNAL, (24, 16, 9), (16,)),
    "conv3d": (partial(F.conv3d, padding=1), VOLUME, (16, 12, 3, 3, 3), (16,)),
    "conv_transpose3d": (partial(F.conv_transpose3d, stride=2), VOLUME, (12, 8, 3, 3, 3), (8,)),
    "grid_sample": (lambda x, grid: F.grid_sample(x, F.tanh(grid)), IMAGE, (3, 50, 60, 2)),
    "matmul": (F.matmul, ROWS, (700, 90)),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), IMAGE, (24,), (24,)),
    "cross_entropy": (lambda x: F.cross_entropy(x, np.arange(300)), ROWS),
    "cross_entropy of maps": (lambda x: F.cross_entropy(x, np.arange(4440).reshape(3, 40, 37) % 24), IMAGE),
    "mse_loss": (lambda x: F.mse_loss(x, np.ones(ROWS, np.float32)), ROWS),
    "binary": (lambda x: F.binary_cross_entropy_with_logits(x, np.ones(ROWS, np.float32)), ROWS),
}
# Depthwise blocks divided by channels, rows or images; squeeze-and-excitation; stems with pooling; residuals.
NETWORKS = ("mobilenet_v2", "mobilenet_v3_small", "resnet18")


def digest(*arrays):
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def with_gradients(fn, *shapes):
    """Return a digest of the function's value and gradients for random inputs."""
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    value, pullback = convlane.vjp(fn, *arrays)
    return digest(value, *pullback(rng.standard_normal(value.shape).astype(np.float32)))


def of_network(name):
    """Return digests of a compiled network for one image and for more than there are threads."""
    nn.init.seed(0)
    plan = convlane.compile(models.create(name).eval(), (None, 3, 64, 64))
    images = np.random.default_rng(5).standard_normal((4, 3, 64, 64)).astype(np.float32)
    return digest(plan(images[:1]), plan(images))


def of_training():
    """Return a digest of the weights after one step."""
    nn.init.seed(0)
    model = models.create("mobilenet_v3_small", 10)
    images = np.random.default_rng(5).standard_normal((4, 3, 64, 64)).astype(np.float32)
    with F.seeded(0):
        _, gradients = convlane.value_and_grad(lambda: F.cross_entropy(model(images), np.arange(4)), model)()
    Adam(model, 0.01).step(gradients)
    return digest(*model.state_dict().values())


def digests():
    """Return digests by the names of what was run."""
    with convlane.num_threads(THREADS):
        return {
            **{
                f"conv2d {name}": with_gradients(
                    partial(F.conv2d, algorithm=name, **options), image, weight, weight[:1]
                )
                for name, (image, weight, options) in CONVOLUTIONS.items()
            },
            **{name: with_gradients(fn, IMAGE) for name, fn in ON_IMAGES.items()},
            **{name: with_gradients(fn, *shapes) for name, (fn, *shapes) in ON_SEVERAL.items()},
            **{name: of_network(name) for name in NETWORKS},
            "training": of_training(),
        }
