"""Small random networks compute the same compiled as eagerly, whatever the layout of the input.

To add an operation, add a line to `CHOICES`.
"""

import numpy as np
import pytest

import convlane
from convlane import _core
from convlane import functional as F
from layouts import LAYOUTS


def conv(rng, x, out=None, kernel=3, groups=1, **options):
    out = out or int(rng.integers(1, 20))
    weight = rng.standard_normal((out, x.shape[1] // groups, kernel, kernel), np.float32)
    weight /= np.sqrt(weight[0].size)
    bias = rng.standard_normal(out, np.float32) if rng.random() < 0.5 else None
    return lambda y: F.conv2d(y, weight, bias, padding=kernel // 2, groups=groups, **options)


def norm(rng, x):
    mean, weight, bias = rng.standard_normal((3, x.shape[1]), np.float32)
    variance = rng.uniform(0.5, 2, x.shape[1]).astype(np.float32)
    return lambda y: F.batch_norm(y, mean, variance, weight, bias)


def excitation(rng, x):
    squeeze = conv(rng, x, kernel=1, activation="relu")
    excite = conv(rng, squeeze(np.zeros((1, x.shape[1], 1, 1), np.float32)), x.shape[1], kernel=1)
    return lambda y: F.scale(y, F.sigmoid(excite(squeeze(F.global_avg_pool2d(y)))))


def rows(rng, x):
    weight, bias = rng.standard_normal((2, x.shape[1]), np.float32)
    return lambda y: F.channel_norm(y, weight, bias)


def halves(rng, x):
    half = x.shape[1] // 2
    return lambda y: F.cat([F.narrow(y, 1, half, half), F.narrow(y, 1, 0, half)])


def vectors(rng, *shape):
    return rng.uniform(0.5, 1.5, (2, *shape)).astype(np.float32)


def group_norm(rng, x):
    groups = int(rng.choice([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]))
    weight, bias = vectors(rng, x.shape[1])
    return lambda y: F.group_norm(y, groups, weight, bias, eps=0.1)


def layer_norm(rng, x):
    """Layer norm over some of the last dimensions."""
    shape = x.shape[int(rng.integers(1, 4)) :]
    weight, bias = vectors(rng, *shape)
    return lambda y: F.layer_norm(y, shape, weight, bias, eps=0.1)


def rms_norm(rng, x):
    shape = x.shape[int(rng.integers(1, 4)) :]
    weight, _ = vectors(rng, *shape)
    return lambda y: F.rms_norm(y, shape, weight, eps=0.1)


def transposed(rng, x, stride=1, groups=1, **options):
    out = groups if groups > 1 else int(rng.integers(1, 9))
    weight = rng.standard_normal((x.shape[1], out // groups, 3, 3), np.float32) / np.float32(np.sqrt(9 * x.shape[1]))
    bias = rng.standard_normal(out, np.float32) if rng.random() < 0.5 else None
    return lambda y: F.conv_transpose2d(y, weight, bias, stride, 1, stride - 1, groups, **options)


def of_signal(rng, x, function, *shape):
    """Apply an operation to the image's pixels as one signal."""
    weight = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(3 * x.shape[1]))

    def step(y):
        signal = function(F.flatten(y, 2), weight)
        return F.reshape(signal, (y.shape[0], signal.shape[1], *y.shape[2:]))

    return step


def of_volume(rng, x, function, *shape):
    """Apply an operation to two slices, and take the maximum of the result along the depth."""
    weight = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(9 * x.shape[1]))
    return lambda y: F.amax(function(F.stack([y, F.tanh(y)], 2), weight), 2)


def resampled(rng, x, mode, **options):
    size = tuple(int(each) for each in rng.integers(1, 12, 2))
    return lambda y: F.interpolate(y, size, mode=mode, **options)


def sampled(rng, x):
    """Sample an image at points that are computed from it, around the identity."""
    return lambda y: F.grid_sample(y, F.permute(F.tanh(F.cat([F.narrow(y, 1, 0, 1)] * 2)), (0, 2, 3, 1)))


# Operations that may follow an image x, with random numbers from `rng`; None if x does not allow it.
CHOICES = {
    "conv2d": conv,
    "conv2d with a stride": lambda rng, x: conv(rng, x, stride=2),
    "conv2d pointwise": lambda rng, x: conv(rng, x, kernel=1, activation="silu"),
    "conv2d depthwise": lambda rng, x: conv(rng, x, x.shape[1], groups=x.shape[1]) if x.shape[1] > 1 else None,
    "batch_norm": norm,
    "channel_norm": rows,
    "squeeze-and-excitation": excitation,
    "scale": lambda rng, x: lambda y: F.scale(y, F.global_avg_pool2d(y)),
    "mul": lambda rng, x: lambda y: F.mul(y, y),
    "mul by channel": lambda rng, x: lambda y: F.mul(y, F.global_max_pool2d(y)),
    "add": lambda rng, x: lambda y: F.add(y, F.tanh(y), activation="relu"),
    "affine": lambda rng, x: lambda y: 0.5 - 2 * y,
    "max_pool2d": lambda rng, x: lambda y: F.max_pool2d(y, 3, 2, 1) if min(y.shape[2:]) > 1 else y,
    "avg_pool2d": lambda rng, x: lambda y: F.avg_pool2d(y, 2, 1) if min(y.shape[2:]) > 1 else y,
    "adaptive_avg_pool2d": lambda rng, x: lambda y: F.adaptive_avg_pool2d(y, (3, 2)),
    "softmax": lambda rng, x: lambda y: F.softmax(y, 1),
    "local_response_norm": lambda rng, x: lambda y: F.local_response_norm(y, 3),
    "dropout": lambda rng, x: lambda y: F.dropout(y, 0.3, training=False),
    "channels_last": lambda rng, x: F.channels_last,
    "narrow": lambda rng, x: lambda y: F.narrow(y, 1, y.shape[1] // 2, 1),
    "halves": lambda rng, x: halves(rng, x) if x.shape[1] % 2 == 0 else None,
    "interleave": lambda rng, x: lambda y: F.interleave([y, F.relu(y)]),
    "group_norm": lambda rng, x: group_norm(rng, x) if x[0].size > x.shape[1] else None,
    "instance_norm": lambda rng, x: (lambda y: F.instance_norm(y, eps=0.1)) if x[0, 0].size > 1 else None,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "conv_transpose2d": transposed,
    "conv_transpose2d with a stride": lambda rng, x: transposed(rng, x, 2) if x[0, 0].size < 99 else None,
    "conv_transpose2d depthwise": lambda rng, x: transposed(rng, x, groups=x.shape[1], activation="relu"),
    "conv1d": lambda rng, x: of_signal(rng, x, lambda s, w: F.conv1d(s, w, padding=1), 5, x.shape[1], 3),
    "conv_transpose1d": lambda rng, x: of_signal(
        rng, x, lambda s, w: F.conv_transpose1d(s, w, padding=1), x.shape[1], 5, 3
    ),
    "batch_norm of a signal": lambda rng, x: of_signal(rng, x, lambda s, w: F.batch_norm(s, w, w * w + 1), x.shape[1]),
    "max_pool1d": lambda rng, x: of_signal(rng, x, lambda s, w: F.max_pool1d(s, 3, 1, 1), 1),
    "conv3d": lambda rng, x: of_volume(rng, x, lambda v, w: F.conv3d(v, w, padding=1), 5, x.shape[1], 3, 3, 3),
    "conv_transpose3d": lambda rng, x: of_volume(
        rng, x, lambda v, w: F.conv_transpose3d(v, w, padding=(0, 1, 1)), x.shape[1], 3, 2, 3, 3
    ),
    "avg_pool3d": lambda rng, x: of_volume(rng, x, lambda v, w: F.avg_pool3d(v, (2, 3, 3), 1, (0, 1, 1)), 1),
    "nearest": lambda rng, x: resampled(rng, x, "nearest"),
    "bilinear": lambda rng, x: resampled(rng, x, "bilinear", align_corners=bool(rng.random() < 0.5)),
    "bicubic": lambda rng, x: resampled(rng, x, "bicubic"),
    "antialiased": lambda rng, x: resampled(rng, x, "bilinear", antialias=True),
    "grid_sample": sampled,
    "pixel_shuffle": lambda rng, x: lambda y: F.pixel_shuffle(F.cat([y] * 4), 2) if y.shape[2] * y.shape[3] < 99 else y,
    "pixel_unshuffle": lambda rng, x: (
        (lambda y: F.pixel_unshuffle(y, 2)) if x.shape[2] % 2 == x.shape[3] % 2 == 0 and x.shape[1] < 20 else None
    ),
    "pad": lambda rng, x: lambda y: F.pad(y, (1, 0, 0, 1), mode="replicate"),
    "prelu": lambda rng, x: (lambda weight: lambda y: F.prelu(y, weight))(rng.uniform(0, 1, 1).astype(np.float32)),
    "softmax of rows": lambda rng, x: lambda y: F.softmax(y, -1),
    "cumsum": lambda rng, x: lambda y: F.cumsum(F.tanh(y), 2),
    "difference from the mean": lambda rng, x: lambda y: F.sub(y, F.mean(y, (2, 3), keepdim=True)),
    "matmul": lambda rng, x: lambda y: F.tanh(F.matmul(y, F.transpose(y, 2, 3))),
    "flip": lambda rng, x: lambda y: F.flip(y, (1, 3)),
    **{
        name: lambda rng, x, name=name: lambda y: getattr(F, name)(y)
        for name in (
            *("elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "mish", "relu", "relu6", "selu", "sigmoid"),
            *("silu", "softplus", "softsign", "tanh"),
        )
    },
}


def draw(rng, shape, length):
    """Return a random network: each operation reads an earlier result, and all unread results are combined."""
    steps = []  # (operation, the result that it reads)
    results = [rng.standard_normal(shape, np.float32)]
    while len(steps) < length:
        source = int(rng.integers(max(0, len(results) - 3), len(results)))
        step = CHOICES[rng.choice(list(CHOICES))](rng, results[source])
        if step is not None:
            steps.append((step, source))
            results.append(step(results[source]))
    unread = sorted(set(range(len(results))) - {source for _, source in steps})

    def network(x):
        values = [x]
        for step, source in steps:
            values.append(step(values[source]))
        ends = [values[i] for i in unread]
        if all(end.shape == ends[0].shape for end in ends):
            return F.cat(ends)
        return tuple(ends)

    return network


@pytest.mark.parametrize("seed", range(150))
def test_compiled_is_eager(seed):
    rng = np.random.default_rng(seed)
    shape = (2, int(rng.integers(1, 20)), int(rng.integers(2, 12)), int(rng.integers(2, 12)))
    network = draw(rng, shape, int(rng.integers(1, 9)))
    plan = convlane.compile(network, (None, *shape[1:]))
    x = rng.standard_normal(shape, np.float32)
    expected = tuple_of(network(x))
    bits = tuple_of(plan(x))
    for name, layout in LAYOUTS.items():
        found = tuple_of(plan(layout(x)))
        for right, same, value in zip(expected, bits, found, strict=True):
            close(value, right, f"seed {seed}, {name}")
            np.testing.assert_array_equal(value, same, err_msg=f"seed {seed}, {name}")
    spread = np.broadcast_to(x[:, :1], shape)
    for right, value in zip(tuple_of(network(spread)), tuple_of(plan(spread)), strict=True):
        close(value, right, f"seed {seed}, broadcast")
    before = _core.active_isa()
    for isa in _core.supported_isas():
        _core.set_active_isa(isa)
        try:
            for right, value in zip(expected, tuple_of(plan(x)), strict=True):
                close(value, right, f"seed {seed}, {isa}")
        finally:
            _core.set_active_isa(before)


def test_every_choice_alone():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 6, 8), np.float32)
    for name, choice in CHOICES.items():
        step = choice(rng, x)
        for right, value in zip(tuple_of(step(x)), tuple_of(convlane.compile(step, (None, 4, 6, 8))(x)), strict=True):
            close(value, right, name)


def tuple_of(result):
    return result if isinstance(result, tuple) else (result,)


def close(value, right, what):
    assert value.shape == right.shape
    assert np.abs(value - right).max() <= 2e-4 * max(np.abs(right).max(), 1), what
