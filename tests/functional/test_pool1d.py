"""Pooling of signals, compared with images of one row and with torch."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import functional as F
from layouts import LAYOUTS
from oracles import pool as oracle

CALLS = {
    "max_pool1d": (
        lambda f, x: f.max_pool1d(x, 3, 2, 1, 1, True),
        lambda x: F.max_pool2d(x, (1, 3), (1, 2), (0, 1), 1, True),
    ),
    "max_pool1d dilated": (
        lambda f, x: f.max_pool1d(x, 2, 1, 1, 2),
        lambda x: F.max_pool2d(x, (1, 2), 1, (0, 1), (1, 2)),
    ),
    "avg_pool1d": (
        lambda f, x: f.avg_pool1d(x, 3, 2, 1, True, False),
        lambda x: F.avg_pool2d(x, (1, 3), (1, 2), (0, 1), True, False),
    ),
    "lp_pool1d": (lambda f, x: f.lp_pool1d(x, 2, 3, 2, True), lambda x: F.lp_pool2d(x, 2, (1, 3), (1, 2), True)),
    "adaptive_avg_pool1d": (lambda f, x: f.adaptive_avg_pool1d(x, 4), lambda x: F.adaptive_avg_pool2d(x, (1, 4))),
    "adaptive_max_pool1d": (lambda f, x: f.adaptive_max_pool1d(x, 4), lambda x: F.adaptive_max_pool2d(x, (1, 4))),
}


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("name", CALLS)
class TestEveryPooling:
    def test_images_of_one_row(self, rng, isa, name):
        signals, images = CALLS[name]
        x = normal(rng, 2, 17, 10)
        y = signals(F, x)
        np.testing.assert_array_equal(y, images(x[:, :, None])[:, :, 0])
        assert y.transpose(0, 2, 1).flags.c_contiguous
        np.testing.assert_array_equal(signals(F, x[1]), y[1])
        assert signals(F, x[:0]).shape == (0, *y.shape[1:])
        for layout in LAYOUTS.values():
            np.testing.assert_array_equal(signals(F, layout(x)), y)

    @pytest.mark.torch
    def test_torch(self, rng, name):
        import torch

        x = normal(rng, 2, 3, 11)
        tensor = torch.from_numpy(x).double().requires_grad_()
        theirs = CALLS[name][0](torch.nn.functional, tensor)
        value, pullback = convlane.vjp(lambda z: CALLS[name][0](F, z), x)
        assert_close(value, theirs.detach().numpy(), terms=3)
        gradient = normal(rng, *value.shape)
        theirs.backward(torch.from_numpy(gradient).double())
        assert_close(pullback(gradient)[0], tensor.grad.numpy(), terms=3)

    def test_compiled(self, rng, name):
        def network(x):
            return F.relu(CALLS[name][0](F, F.relu(x)))

        plan = convlane.compile(network, (None, 3, None))
        for length in (12, 7):
            x = normal(rng, 2, 3, length)
            np.testing.assert_array_equal(plan(x), network(x))

    @pytest.mark.parametrize("value", [None, [1.0], np.ones((1, 2, 9)), np.ones((2, 9), np.int64)])
    def test_kinds(self, name, value):
        with pytest.raises(TypeError, match=rf"^{name.split()[0]}: input must be"):
            CALLS[name][0](F, value)

    @pytest.mark.parametrize("shape", [(9,), (1, 2, 9, 1), (1, 2, 0)])
    def test_shapes(self, name, shape):
        with pytest.raises(ValueError, match=rf"^{name.split()[0]}: (input|the padded input)"):
            CALLS[name][0](F, np.zeros(shape, np.float32))


def test_indices(rng):
    x = rng.integers(0, 4, (2, 5, 12)).astype(np.float32)
    values, indices = F.max_pool1d(x, 3, 2, return_indices=True)
    places = list(oracle.boxes(x, (3,), (2,), [(0, 0)], (1,)))
    np.testing.assert_array_equal(values, oracle.max_boxes(x, places))
    np.testing.assert_array_equal(indices, oracle.argmax_boxes(x, places))
    np.testing.assert_array_equal(
        np.take_along_axis(x, F.adaptive_max_pool1d(x, 5, True)[1], 2), F.adaptive_max_pool1d(x, 5)
    )


def test_paddings(rng):
    x = normal(rng, 2, 3, 9)
    np.testing.assert_array_equal(F.max_pool1d(x, 3, 1, "same"), F.max_pool1d(x, 3, 1, (1,)))
    np.testing.assert_array_equal(F.max_pool1d(x, 3, 1, (1, 0)), F.max_pool1d(x, 3, 1, 1)[..., :-1])


def test_receptive_field():
    fields = convlane.analysis.receptive_field(
        lambda x: F.max_pool1d(F.max_pool1d(F.flatten(x, 2), 3, 2), 2, 1), (1, 1, 1, 12)
    )
    assert fields["max_pool2d#2"].size[1] == 5


X = np.zeros((1, 2, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.max_pool1d(X, 0), ValueError, "max_pool1d: kernel size must be at least 1"),
        (lambda: F.max_pool1d(X, 9), ValueError, "max_pool1d: the padded input"),
        (lambda: F.max_pool1d(X, (1, 2)), ValueError, "max_pool1d: kernel_size must be an integer or a tuple of 1"),
        (lambda: F.max_pool1d(X, 2, 0), ValueError, "max_pool1d: stride must be at least 1"),
        (lambda: F.avg_pool1d(X, 2, padding=2), ValueError, "avg_pool1d: padding must be at most half"),
        (lambda: F.avg_pool1d(X, 2, padding=(1, 1, 1)), ValueError, "avg_pool1d: padding must be an integer"),
        (lambda: F.max_pool1d(X, 1.5), TypeError, "max_pool1d: kernel_size must be an integer"),
        (lambda: F.lp_pool1d(X, 0, 2), ValueError, "lp_pool1d: norm_type must be larger than 0, got 0"),
        (lambda: F.adaptive_avg_pool1d(X, None), TypeError, "adaptive_avg_pool1d: output_size must be an integer"),
        (lambda: F.adaptive_max_pool1d(X, -1), ValueError, "adaptive_max_pool1d: output size must not be negative"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
