"""Small networks drawn at random: compiled they compute what they compute eagerly, whatever the layout of the input.

An operation joins by one line in `CHOICES`.
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


# What may follow an image x, made of the random numbers of `rng`; None where x does not allow it.
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
    **{
        name: lambda rng, x, name=name: lambda y: getattr(F, name)(y)
        for name in ("gelu", "hardsigmoid", "hardswish", "leaky_relu", "relu", "relu6", "sigmoid", "silu", "tanh")
    },
}


def draw(rng, shape, length):
    """Return a network of so many operations: each reads a result of before, and all that nobody reads is joined."""
    steps = []  # (operation, which result it reads)
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


def tuple_of(result):
    return result if isinstance(result, tuple) else (result,)


def close(value, right, what):
    assert value.shape == right.shape
    assert np.abs(value - right).max() <= 2e-4 * max(np.abs(right).max(), 1), what
