"""Every public function of `convlane.functional` compiles to what it computes, or gives the reason why it cannot."""

import numpy as np
import pytest

import convlane
from convlane import functional as F

HELPERS = {  # not for plans: they describe algorithms, pack weights, or seed random numbers
    *("explain", "explain_conv3d", "pack_conv1d", "pack_conv2d", "pack_conv3d", "pack_conv_transpose2d"),
    *("pack_linear", "seeded"),
}
SIGNAL, IMAGE, VOLUME, MATRIX, ROWS = (2, 4, 9), (2, 4, 6, 6), (2, 4, 4, 6, 6), (2, 5), (2, 3, 4)
RNG = np.random.default_rng(0)
VECTOR = RNG.uniform(0.5, 1.5, 4).astype(np.float32)
OTHER = RNG.uniform(0.1, 0.9, IMAGE).astype(np.float32)
CLASSES = np.array([1, 4])


def weight(*shape):
    return RNG.standard_normal(shape, np.float32)


WEIGHT = {rank: weight(4, 4, *(3,) * rank) for rank in (1, 2, 3)}
MATRIX_WEIGHT = weight(4, 4)


def of(name, *arguments, **named):
    """Return a function of its first argument, with these as the others."""
    return lambda x: getattr(F, name)(x, *arguments, **named)


def unpooled(axes):
    pool, unpool = getattr(F, f"max_pool{axes}d"), getattr(F, f"max_unpool{axes}d")
    return lambda x: unpool(*pool(x, 3, return_indices=True), 3)


COMPILED = {
    **{
        name: (getattr(F, name), IMAGE)
        for name in (
            *("abs", "ceil", "celu", "channels_last", "cos", "elu", "erf", "exp", "flatten", "floor", "gelu", "glu"),
            *("global_avg_pool2d", "global_max_pool2d", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log"),
            *("instance_norm", "log1p", "logsigmoid", "mean", "mish", "nchw", "neg", "prod"),
            *("reciprocal", "relu", "relu6", "round", "rsqrt", "selu", "sigmoid", "sign", "silu", "sin", "softplus"),
            *("softsign", "sqrt", "square", "sum", "tanh", "var", "normalize"),
        )
    },
    **{name: (getattr(F, name), (IMAGE, IMAGE)) for name in ("add", "div", "maximum", "minimum", "mul", "pow", "sub")},
    **{name: (getattr(F, name), (IMAGE, IMAGE)) for name in ("eq", "ge", "gt", "le", "lt")},
    **{
        name: (getattr(F, name), (IMAGE, IMAGE)) for name in ("ne", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div")
    },
    **{name: (of(name, 1), IMAGE) for name in ("amax", "amin", "argmax", "argmin", "cumsum")},
    **{name: (of(name, 1), IMAGE) for name in ("log_softmax", "softmax", "unsqueeze")},
    **{
        f"{kind}_pool{axes}d": (of(f"{kind}_pool{axes}d", *given), shape)
        for kind, given in (
            ("avg", (3, 2)),
            ("max", (3, 2)),
            ("lp", (2, 3, 2)),
            *((f"adaptive_{k}", (2,)) for k in ("avg", "max")),
        )
        for axes, shape in ((1, SIGNAL), (2, IMAGE), (3, VOLUME))
    },
    **{
        f"conv{axes}d": (of(f"conv{axes}d", WEIGHT[axes], VECTOR, padding=1), shape)
        for axes, shape in ((1, SIGNAL), (2, IMAGE), (3, VOLUME))
    },
    **{
        f"conv_transpose{axes}d": (of(f"conv_transpose{axes}d", WEIGHT[axes], VECTOR, 2), shape)
        for axes, shape in ((1, SIGNAL), (2, IMAGE), (3, VOLUME))
    },
    **{
        f"max_unpool{axes}d": (unpooled(axes), shape)
        for axes, shape in ((1, (2, 4, 9)), (2, IMAGE), (3, (2, 4, 3, 6, 6)))
    },
    "affine": (lambda x: F.affine(x, 2, 1), IMAGE),
    "affine_grid": (lambda x: F.affine_grid(x, (2, 4, 5, 6)), (2, 2, 3)),
    "batch_norm": (lambda x: F.batch_norm(x, VECTOR, VECTOR), IMAGE),
    "cat": (lambda x, y: F.cat([x, y]), (IMAGE, IMAGE)),
    "channel_norm": (lambda x: F.channel_norm(x, VECTOR, VECTOR), IMAGE),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGE),
    "chunk": (lambda x: tuple(F.chunk(x, 2, 1)), IMAGE),
    "clamp": (lambda x: F.clamp(x, 0.2, 0.7), IMAGE),
    "dice_loss": (F.dice_loss, (IMAGE, IMAGE)),
    "dropout": (lambda x: F.relu(F.dropout(x, training=False)), IMAGE),
    "expand": (lambda x: F.expand(x, (2, 3, 4)), (2, 1, 4)),
    "flip": (lambda x: F.flip(x, -1), IMAGE),
    "gather": (lambda x: F.gather(x, 1, np.array([[0, 2], [1, 1]])), MATRIX),
    "grid_sample": (F.grid_sample, (IMAGE, (2, 3, 3, 2))),
    "group_norm": (lambda x: F.group_norm(x, 2, VECTOR, VECTOR), IMAGE),
    "index_select": (lambda x: F.index_select(x, 1, CLASSES), MATRIX),
    "interleave": (lambda x, y: F.interleave([x, y]), (IMAGE, IMAGE)),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "layer_norm": (lambda x: F.layer_norm(x, (4,), VECTOR, VECTOR), ROWS),
    "linear": (lambda x: F.linear(x, MATRIX_WEIGHT, VECTOR), ROWS),
    "local_response_norm": (lambda x: F.local_response_norm(x, 3), IMAGE),
    "logical_and": (lambda x, y: F.logical_and(F.gt(x, 0.3), F.gt(y, 0.5)), (IMAGE, IMAGE)),
    "logical_not": (lambda x: F.logical_not(F.gt(x, 0.3)), IMAGE),
    "logical_or": (lambda x, y: F.logical_or(F.gt(x, 0.7), F.gt(y, 0.5)), (IMAGE, IMAGE)),
    "matmul": (F.matmul, (ROWS, (2, 4, 3))),
    "narrow": (lambda x: F.narrow(x, 1, 1, 2), IMAGE),
    "pad": (lambda x: F.pad(x, (1, 2)), IMAGE),
    "permute": (lambda x: F.permute(x, (0, 2, 3, 1)), IMAGE),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGE),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    "prelu": (lambda x: F.prelu(x, VECTOR), IMAGE),
    "reshape": (lambda x: F.reshape(x, (2, 2, -1)), IMAGE),
    "resize": (lambda x: F.resize(x, (9, 5)), IMAGE),
    "rms_norm": (lambda x: F.rms_norm(x, (4,), VECTOR), ROWS),
    "scale": (F.scale, (IMAGE, (2, 4, 1, 1))),
    "split": (lambda x: tuple(F.split(x, 3, 1)), IMAGE),
    "squeeze": (lambda x: F.squeeze(x, 1), (2, 1, 4)),
    "stack": (lambda x, y: F.stack([x, y], 1), (ROWS, ROWS)),
    "strided_slice": (lambda x: F.strided_slice(x, 1, 0, None, 2), IMAGE),
    "threshold": (lambda x: F.threshold(x, 0.5, 0.1), IMAGE),
    "tile": (lambda x: F.tile(x, (1, 2, 1)), ROWS),
    "topk": (lambda x: F.topk(x, 2), MATRIX),
    "topk_indices": (lambda x: F.topk_indices(x, 2), MATRIX),
    "transpose": (lambda x: F.transpose(x, 1, 2), ROWS),
    **{name: (of(name, 3, 2), (2, 8, 4)) for name in ("col2im", "fold")},
    **{name: (of(name, 3), IMAGE) for name in ("im2col", "unfold")},
    "unflatten": (lambda x: F.unflatten(x, 1, (2, 2)), IMAGE),
    "where": (lambda x, y: F.where(F.gt(x, y), x, y), (IMAGE, IMAGE)),
}
LOSS = "losses are not part of a plan"
REFUSED = {
    "binary_cross_entropy": (lambda x: F.binary_cross_entropy(x, OTHER), IMAGE, LOSS),
    "binary_cross_entropy_with_logits": (lambda x: F.binary_cross_entropy_with_logits(x, OTHER), IMAGE, LOSS),
    "cross_entropy": (lambda x: F.cross_entropy(x, CLASSES), MATRIX, LOSS),
    "mse_loss": (lambda x: F.mse_loss(x, OTHER), IMAGE, LOSS),
    "nll_loss": (lambda x: F.nll_loss(x, CLASSES), MATRIX, LOSS),
    "sigmoid_focal_loss": (lambda x: F.sigmoid_focal_loss(x, OTHER), IMAGE, LOSS),
}


def test_no_function_is_forgotten():
    assert sorted([*HELPERS, *COMPILED, *REFUSED]) == sorted(F.__all__)


@pytest.mark.parametrize("name", COMPILED)
def test_it_compiles(name, rng):
    function, given = COMPILED[name]
    shapes = given if isinstance(given[0], tuple) else (given,)
    inputs = [rng.uniform(0.1, 0.9, shape).astype(np.float32) for shape in shapes]
    expected = function(*inputs)
    computed = convlane.compile(function, given, whole=True)(*inputs)
    assert isinstance(computed, tuple) == isinstance(expected, tuple)
    pairs = zip(computed, expected, strict=True) if isinstance(expected, tuple) else [(computed, expected)]
    for found, wanted in pairs:
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_it_says_why_it_does_not(name):
    function, shape, reason = REFUSED[name]
    with pytest.raises(ValueError, match=rf"a plan cannot compute: \w+ \({reason}\)"):
        convlane.compile(function, shape, whole=True)


@pytest.mark.parametrize(("axes", "shape"), [(1, SIGNAL), (2, IMAGE), (3, VOLUME)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_an_infinite_norm_is_the_maximum(axes, shape, ceil_mode, rng):
    x = rng.standard_normal(shape, np.float32)
    pool = of(f"lp_pool{axes}d", np.inf, 3, 2, ceil_mode)
    np.testing.assert_array_equal(convlane.compile(pool, shape, whole=True)(x), pool(x))
    np.testing.assert_array_equal(pool(x), of(f"max_pool{axes}d", 3, 2, 0, 1, ceil_mode)(np.abs(x)))


@pytest.mark.parametrize("function", [F.argmax, F.argmin])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("shape", [IMAGE, ROWS, (7,), ()])
def test_an_index_among_all_numbers(function, keepdim, shape, rng):
    """Also for images, whose memory order differs from that of their indices."""
    x = rng.integers(0, 9, shape).astype(np.float32)

    def network(x):
        return function(F.affine(x, 2, 1), keepdim=keepdim)

    found = convlane.compile(network, {"x": shape}, whole=True)(x)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, getattr(np, function.__name__)(x, keepdims=keepdim))
