"""Layers whose weight is computed in each run: plans for whole inputs compute them as matrix products."""

import numpy as np
import pytest

import convlane
from convlane import functional as F

VECTOR = np.linspace(-1, 1, 6, dtype=np.float32)
FILTERS = np.random.default_rng(1).standard_normal((6, 4, 3, 3), np.float32)


def check(function, *shapes):
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape, np.float32) for shape in shapes]
    plan = convlane.compile(function, shapes, whole=True)
    for given in (inputs, [2 * each for each in inputs]):
        np.testing.assert_allclose(plan(*given), function(*given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, (2, 1)])
@pytest.mark.parametrize("padding", [0, (1, 0, 2, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_conv2d(groups, stride, padding, dilation):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    check(lambda x, w: F.conv2d(x, F.square(w), VECTOR, **options), (2, 4, 9, 8), (6, 4 // groups, 3, 2))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, (3, 2)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_conv_transpose2d(groups, stride, dilation):
    options = {"padding": 1, "output_padding": int(stride != 1), "groups": groups, "dilation": dilation}
    check(lambda x, w: F.conv_transpose2d(x, w, VECTOR, stride, **options), (2, 4, 5, 6), (4, 6 // groups, 3, 3))


@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 6), (2, 3, 4, 6)])
def test_linear(shape):
    check(lambda x, w: F.linear(x, F.square(w), VECTOR, activation="relu"), shape, (6, 6))


def test_bias_activation_and_residual():
    check(lambda x, bias: F.relu(F.conv2d(x, FILTERS, bias, padding="same")), (2, 4, 9, 8), (6,))
    check(
        lambda x, w, b, other: F.conv2d(
            x, w, b, 1, 1, activation="leaky_relu", negative_slope=0.3, residual=F.channels_last(other)
        ),
        *((2, 4, 7, 8), (6, 4, 3, 3), (6,), (2, 6, 7, 8)),
    )


def test_one_dimension():
    check(lambda x, w: F.conv1d(x, w, VECTOR, 2, 1), (2, 4, 9), (6, 4, 3))
    check(lambda x, w: F.conv_transpose1d(x, w, VECTOR, 2), (2, 4, 9), (4, 6, 3))


def test_filters_of_each_example():
    """StyleGAN 2: an example's filters are scaled by its style, and all examples are groups of one convolution."""

    def modulated(x, style):
        w = F.mul(FILTERS[None], F.reshape(style, (2, 1, 4, 1, 1)))
        w = F.mul(w, F.rsqrt(F.affine(F.sum(F.square(w), (2, 3, 4), True), 1, 1e-8)))
        y = F.conv2d(F.reshape(x, (1, 8, 9, 8)), F.reshape(w, (12, 4, 3, 3)), padding=1, groups=2)
        return F.reshape(y, (2, 6, 9, 8))

    check(modulated, (2, 4, 9, 8), (2, 4))


def test_plans_for_any_batch_refuse_and_say_why():
    def function(x):
        return F.conv2d(x, F.tanh(x))

    with pytest.raises(ValueError, match=r"conv2d with a computed weight\. With whole=True"):
        convlane.compile(function, (1, 3, 3, 3))
    check(function, (1, 3, 3, 3))
    with pytest.raises(ValueError, match="conv3d with a computed weight, which only calling the network itself"):
        convlane.compile(F.conv3d, ((1, 2, 3, 3, 3), (2, 2, 1, 1, 1)), whole=True)


def test_saved(tmp_path):
    convlane.compile(F.conv2d, ((1, 2, 5, 5), (3, 2, 3, 3)), whole=True).save(tmp_path / "plan")
    x, w = np.ones((1, 2, 5, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)
    np.testing.assert_allclose(convlane.load_plan(tmp_path / "plan")(x, w), np.full((1, 3, 3, 3), 18))
