"""Group and instance normalisation and their gradients against their oracles."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import norm as oracle


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def affine(rng, channels):
    return rng.uniform(0.5, 2, channels).astype(np.float32), normal(rng, channels)


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


SHAPES = [  # (N, C, ...) and groups: few and many channels, whole and partial vectors, narrow and wide rows, chunks
    ((2, 6, 3, 4), 3),
    ((1, 1, 9, 9), 1),
    ((2, 3, 17, 19), 3),
    ((2, 32, 5, 7), 4),
    ((1, 65, 3, 3), 5),
    ((1, 64, 33, 17), 32),
    ((1, 96, 2, 3), 1),
    ((3, 8), 2),
    ((2, 4, 70), 2),
    ((2, 6, 300), 6),
    ((2, 4, 2, 3, 5), 2),
    ((1, 2, 60, 600), 1),
]


def test_oracle_is_the_derivative(rng):
    x, gradient = rng.standard_normal((2, 4, 3)), rng.standard_normal((2, 4, 3))
    weight, bias = rng.standard_normal(4), rng.standard_normal(4)
    dx, dweight, dbias = oracle.group_norm_gradient(x, gradient, 2, weight)

    def run(x=x, weight=weight, bias=bias):
        return oracle.group_norm(x, 2, weight, bias)

    np.testing.assert_allclose(dx, numeric_gradient(run, x, gradient), atol=1e-8)
    np.testing.assert_allclose(dweight, numeric_gradient(lambda w: run(weight=w), weight, gradient), atol=1e-8)
    np.testing.assert_allclose(dbias, numeric_gradient(lambda b: run(bias=b), bias, gradient), atol=1e-8)


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_output_and_gradient(rng, isa, threads, shape, groups):
    x, gradient, (weight, bias) = normal(rng, *shape) + 1, normal(rng, *shape), affine(rng, shape[1])
    for vectors in ((weight, bias), (None, None)):
        wanted = ("input", "weight", "bias") if vectors[0] is not None else ("input",)
        y, found = by_rule(F.group_norm, gradient, x, groups, *vectors, wanted=wanted)
        assert_close(y, oracle.group_norm(x, groups, *vectors), terms=4)
        np.testing.assert_array_equal(y, F.group_norm(x, groups, *vectors))
        assert y.flags.c_contiguous
        expected = oracle.group_norm_gradient(x, gradient, groups, vectors[0])
        assert_close(found["input"], expected[0], terms=30)
        for name, right in zip(wanted[1:], expected[1:], strict=False):
            assert_close(found[name], right, terms=200)
    assert rules(F.group_norm).shape(x, groups, weight, bias) == y.shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, layout):
    for shape in [(2, 6, 3, 4), (2, 6, 7), (2, 6, 2, 3, 4)]:
        x, gradient, (weight, bias) = normal(rng, *shape), normal(rng, *shape), affine(rng, 6)
        given = LAYOUTS[layout](x)
        before = given.tobytes()
        y = F.group_norm(given, 2, weight, bias)
        assert_close(y, oracle.group_norm(x, 2, weight, bias), terms=4)
        if y.ndim == 4:
            in_c_order = np.ascontiguousarray(given).strides == given.strides
            assert y.flags.c_contiguous if in_c_order else is_channels_last(y)
        if layout not in ("big_endian", "misaligned"):
            _, found = by_rule(F.group_norm, LAYOUTS[layout](gradient), given, 2, weight, bias)
            assert_close(found["input"], oracle.group_norm_gradient(x, gradient, 2, weight)[0], terms=30)
        assert given.tobytes() == before, "the input is only read"


def test_weights_of_zero(rng):
    x, gradient, weight = normal(rng, 2, 4, 3, 3), normal(rng, 2, 4, 3, 3), np.float32([0, 0, 0, 2])
    _, found = by_rule(F.group_norm, gradient, x, 2, weight, wanted=("input", "weight"))
    expected = oracle.group_norm_gradient(x, gradient, 2, weight)
    assert_close(found["input"], expected[0], terms=30)
    assert_close(found["weight"], expected[1], terms=30)


ORDERS = {"c_order": np.ascontiguousarray, "channels_last": F.channels_last}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(1, 4, 20, 20), (1, 64, 20, 20), (1, 4, 160, 160)])
def test_offset_costs_no_digits(rng, isa, order, shape):
    x = ORDERS[order](normal(rng, *shape) + np.float32(1e4))
    np.testing.assert_allclose(F.group_norm(x, 2), oracle.group_norm(x, 2), atol=2e-3)
    np.testing.assert_array_equal(F.group_norm(ORDERS[order](np.full(shape, 1e30, np.float32)), 2), np.zeros(shape))


@pytest.mark.parametrize("order", ORDERS)
def test_outlier_in_front_costs_no_digits(rng, isa, order):
    """The sums are taken relative to the first number."""
    x = normal(rng, 1, 4, 40, 40)
    x[:, :, 0, 0] = 1000
    expected = oracle.group_norm(x, 2)
    np.testing.assert_allclose(F.group_norm(ORDERS[order](x), 2), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(2, 6, 5, 5), (2, 6, 70)])
def test_what_is_not_finite_stays_in_its_group(rng, isa, value, shape):
    for at in (0, -1):
        x = normal(rng, *shape)
        x[1, 3].reshape(-1)[at] = value
        y = F.group_norm(x, 3)
        assert np.isnan(y[1, 2:4].reshape(2, -1)[1, at])
        assert not np.isfinite(y[1, 2:4]).any() or value == np.inf
        assert np.isfinite(y[0]).all()
        assert np.isfinite(y[1, [0, 1, 4, 5]]).all()


@pytest.mark.parametrize("shape", [(5, 96, 28, 28), (5, 32, 784)])
def test_the_same_bits_for_any_number_of_threads_and_batch(rng, shape):
    x, gradient, (weight, bias) = normal(rng, *shape), normal(rng, *shape), affine(rng, shape[1])
    runs = []
    for count in (1, 2, 5):
        with convlane.num_threads(count):
            y, found = by_rule(F.group_norm, gradient, x, 8, weight, bias, wanted=("input", "weight", "bias"))
            runs.append((y, *found.values()))
    for run in runs[1:]:
        for array, first in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(array, first)
    np.testing.assert_array_equal(F.group_norm(x[1:2], 8, weight, bias), runs[0][0][1:2])


@pytest.mark.parametrize("wanted", [("input",), ("weight",), ("bias",), ("input", "bias")])
def test_only_what_is_wanted(rng, wanted):
    x, gradient, (weight, bias) = normal(rng, 3, 4, 6), normal(rng, 3, 4, 6), affine(rng, 4)
    _, found = by_rule(F.group_norm, gradient, x, 2, weight, bias, wanted=wanted)
    expected = dict(zip(("input", "weight", "bias"), oracle.group_norm_gradient(x, gradient, 2, weight), strict=True))
    for name in wanted:
        assert_close(found[name], expected[name], terms=30)


@pytest.mark.parametrize("shape", [(0, 4, 3, 5), (2, 4, 0, 5), (0, 4), (2, 4, 0)])
def test_empty(shape):
    x = np.zeros(shape, np.float32)
    y, found = by_rule(F.group_norm, x, x, 2, np.ones(4, np.float32), wanted=("input", "weight"))
    assert y.shape == found["input"].shape == shape
    np.testing.assert_array_equal(found["weight"], np.zeros(4))


class TestInstanceNorm:
    @pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 5, 7), (1, 3, 2, 3, 4)])
    def test_is_group_norm_of_single_channels(self, rng, shape):
        x, gradient, vectors = normal(rng, *shape), normal(rng, *shape), affine(rng, shape[1])
        wanted = ("input", "weight", "bias")
        y, found = by_rule(F.instance_norm, gradient, x, None, None, *vectors, wanted=wanted)
        expected, right = by_rule(F.group_norm, gradient, x, shape[1], *vectors, wanted=wanted)
        np.testing.assert_array_equal(y, expected)
        for name in wanted:
            np.testing.assert_array_equal(found[name], right[name])

    @pytest.mark.torch
    @pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 5, 7), (3, 3, 2, 3, 4)])
    @pytest.mark.parametrize("own", [True, False])
    def test_agrees_with_torch(self, rng, shape, own):
        import torch

        x, gradient, (weight, bias) = normal(rng, *shape) + 2, normal(rng, *shape), affine(rng, shape[1])
        running = (normal(rng, shape[1]), rng.uniform(0.5, 2, shape[1]).astype(np.float32))
        theirs = [torch.tensor(array) for array in running]
        leaves = [torch.tensor(array, requires_grad=True) for array in (x, weight, bias)]
        expected = torch.nn.functional.instance_norm(leaves[0], *theirs, *leaves[1:], own, 0.3, 0.1)
        expected.backward(torch.tensor(gradient))
        y, found = by_rule(
            F.instance_norm, gradient, x, *running, weight, bias, own, 0.3, 0.1, wanted=("input", "weight", "bias")
        )
        assert_close(y, expected.detach().numpy(), terms=9)
        for name, leaf in zip(("input", "weight", "bias"), leaves, strict=True):
            assert_close(found[name], leaf.grad.numpy(), terms=100)
        for array, tensor in zip(running, theirs, strict=True):
            np.testing.assert_allclose(array, tensor, rtol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize(("shape", "groups"), [((2, 6, 3, 4), 3), ((2, 6, 5), 2), ((3, 6), 2), ((2, 4, 2, 3, 2), 1)])
def test_agrees_with_torch(rng, shape, groups):
    import torch

    x, (weight, bias) = normal(rng, *shape), affine(rng, shape[1])
    expected = torch.nn.functional.group_norm(torch.tensor(x), groups, torch.tensor(weight), torch.tensor(bias), 0.1)
    np.testing.assert_allclose(F.group_norm(x, groups, weight, bias, 0.1), expected, atol=1e-5)


IMAGE = np.ones((2, 4, 3, 5), np.float32)
FOUR = np.ones(4, np.float32)


def frozen():
    array = np.ones(4, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.group_norm(IMAGE, 3), ValueError, "group_norm: num_groups=3 does not divide the channels of shape"),
        (lambda: F.group_norm(IMAGE, 0), ValueError, "group_norm: num_groups must be at least 1, got 0"),
        (lambda: F.group_norm(IMAGE, 2.0), TypeError, "group_norm: num_groups must be an integer, got 2.0"),
        (lambda: F.group_norm(FOUR, 2), ValueError, r"group_norm: input must be \(N, C, ...\), got shape \(4,\)"),
        (
            lambda: F.group_norm(IMAGE, 2, FOUR[:2]),
            ValueError,
            r"group_norm: weight must have shape \(4,\), got \(2,\)",
        ),
        (lambda: F.group_norm(IMAGE, 2, eps="0"), TypeError, "group_norm: eps must be a number"),
        (lambda: F.group_norm([1.0], 2), TypeError, "group_norm: input must be a NumPy array"),
        (lambda: F.instance_norm(IMAGE[:, :, :1, :1]), ValueError, "need more than 1 value per channel"),
        (lambda: F.instance_norm(IMAGE, FOUR, frozen()), ValueError, "instance_norm: running_var is read-only"),
        (lambda: F.instance_norm(IMAGE, [1.0] * 4), TypeError, "instance_norm: running_mean must be a float32 array"),
        (
            lambda: F.instance_norm(IMAGE, FOUR, use_input_stats=False),
            ValueError,
            "required unless use_input_stats=True",
        ),
        (lambda: F.instance_norm(IMAGE, bias=FOUR[1:]), ValueError, r"instance_norm: bias must have shape \(4,\), got"),
        (lambda: _core.group_norm(IMAGE, 3, None, None, 0.0), ValueError, "4 channels do not fall into 3 groups"),
        (lambda: _core.group_norm(IMAGE[0].T, 3, None, None, 0.0), ValueError, r"\(N, C, L\) in C order"),
        (
            lambda: _core.group_norm_gradient(IMAGE, IMAGE[:1], 2, IMAGE[0], IMAGE[0], None, 0.0, True, True),
            ValueError,
            "gradient must have shape",
        ),
        (
            lambda: _core.group_norm_gradient(IMAGE, IMAGE, 2, IMAGE[0], IMAGE[0], None, 0.0, True, True),
            ValueError,
            r"mean must have shape \(2, 2\)",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
