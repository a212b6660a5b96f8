"""Gradients of activations, softmax and dropout against their oracles."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import activation as oracle

NAMES = list(oracle.BY_NAME)
DERIVATIVE_FROM_OUTPUT = ["relu", "relu6", "leaky_relu", "hardsigmoid", "sigmoid", "tanh"]
SOFTMAX = ["softmax", "log_softmax"]


def normal(rng, *shape):
    return 3 * rng.standard_normal(shape, dtype=np.float32)


def edges():
    lanes = _core.tile_sizes()["lanes"]
    return [0, 1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1]


def assert_close_slope(actual, gradient, slope):
    """An output y near 1 has 1 - y only to a unit in the last place of 1, so errors are relative to slopes of 1."""
    assert_close(actual, np.asarray(gradient * slope), factor=2, scale=np.abs(gradient).max(initial=0))


def core_gradient(kept, gradient, name, slope=0.01, from_output=False):
    flat = [array.reshape(1, -1, 1, 1) for array in (kept, gradient)]
    return _core.activation_gradient(*flat, name, slope, from_output).reshape(kept.shape)


@pytest.mark.parametrize("name", NAMES)
def test_tile_edges(rng, isa, threads, name):
    for count in edges():
        x, gradient = normal(rng, count), normal(rng, count)
        y, found = by_rule(getattr(F, name), gradient, x)
        np.testing.assert_array_equal(y, getattr(F, name)(x))
        assert_close_slope(found["input"], gradient, oracle.SLOPES[name](x.astype(np.float64)))


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_of_the_slope(isa, name):
    """From the input, every slope is accurate to a few units in the last place, even where the sigmoid is nearly 1."""
    x = np.linspace(-60, 60, 100_001).astype(np.float32)
    exact = np.exp(-np.abs(x.astype(np.longdouble) * (2 if name == "tanh" else 1)))
    slope = exact / (1 + exact) ** 2  # the sigmoid's, without cancellation
    expected = {"sigmoid": slope, "tanh": 4 * slope}.get(name, oracle.SLOPES[name](x.astype(np.float64)))
    actual = core_gradient(x, np.ones_like(x), name, 0.01 if name == "leaky_relu" else 1.0)
    crosses_zero = name in ("gelu", "silu", "hardswish", "mish")
    np.testing.assert_allclose(actual, expected.astype(np.float64), rtol=1e-6, atol=2e-7 if crosses_zero else 1e-43)


@pytest.mark.parametrize("name", DERIVATIVE_FROM_OUTPUT)
def test_from_output(rng, isa, name):
    x, gradient = normal(rng, 1000), normal(rng, 1000)
    y = getattr(F, name)(x)
    expected = gradient * oracle.SLOPES[name](x.astype(np.float64))
    assert_close(core_gradient(y, gradient, name, from_output=True), expected, factor=2)


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5])
def test_leaky_relu_of_any_slope(rng, slope):
    """With a negative slope, the output does not determine the sign of the input."""
    x, gradient = normal(rng, 100), normal(rng, 100)
    _, found = by_rule(F.leaky_relu, gradient, x, slope)
    assert_close(found["input"], gradient * np.where(x > 0, 1.0, slope))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5), (2, 3, 4, 5), (0, 3, 4, 5), (2, 1, 3, 1, 4)])
def test_shapes(rng, name, shape):
    x, gradient = (np.asarray(normal(rng, *shape), np.float32) for _ in range(2))
    _, found = by_rule(getattr(F, name), gradient, x)
    assert_close_slope(found["input"], gradient, oracle.SLOPES[name](x.astype(np.float64)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "layout", ["contiguous", "channels_last", "fortran", "negative_strides", "sliced", "read_only"]
)
def test_layouts(rng, name, layout):
    convert = LAYOUTS[layout]
    for shape in [(5, 7), (2, 5, 3, 4)]:
        x, gradient = normal(rng, *shape), normal(rng, *shape)
        expected = gradient * oracle.SLOPES[name](x.astype(np.float64))
        for given_x, given_gradient in [
            (convert(x), gradient),
            (x, convert(gradient)),
            (convert(x), convert(gradient)),
        ]:
            assert_close(by_rule(getattr(F, name), given_gradient, given_x)[1]["input"], expected, factor=2)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("relu", 0.0, 0),
        ("relu", -0.0, 0),
        ("relu", 1e-45, 1),
        ("relu", np.inf, 1),
        ("relu", np.nan, 1),
        ("relu6", 0.0, 0),
        ("relu6", 6.0, 0),
        ("relu6", np.nan, 1),
        ("leaky_relu", 0.0, 0.01),
        ("elu", 0.0, 1),
        ("elu", -np.inf, 0),
        ("elu", np.nan, np.nan),
        ("celu", 0.0, 1),
        ("selu", np.inf, oracle.SELU_SCALE),
        ("mish", np.inf, 1),
        ("mish", -np.inf, 0),
        ("mish", np.nan, np.nan),
        ("softsign", np.inf, 0),
        ("softsign", np.nan, np.nan),
        ("logsigmoid", -np.inf, 1),
        ("logsigmoid", np.inf, 0),
        ("logsigmoid", np.nan, np.nan),
        ("hardsigmoid", -3.0, 0),
        ("hardsigmoid", 3.0, 0),
        ("hardswish", -3.0, 0),
        ("hardswish", 3.0, 1),
        ("hardswish", np.inf, 1),
        ("hardswish", -np.inf, 0),
        ("hardswish", np.nan, np.nan),
        ("silu", np.inf, 1),
        ("silu", -np.inf, 0),
        ("silu", np.nan, np.nan),
        ("sigmoid", np.inf, 0),
        ("sigmoid", -np.inf, 0),
        ("sigmoid", np.nan, np.nan),
        ("tanh", np.inf, 0),
        ("tanh", np.nan, np.nan),
    ],
)
def test_special_values(isa, name, x, expected):
    expected = np.full(20, expected, np.float32)
    at, one = np.full(20, x, np.float32), np.ones(20, np.float32)
    np.testing.assert_allclose(by_rule(getattr(F, name), one, at)[1]["input"], expected, atol=1e-40)
    slope = 0.01 if name == "leaky_relu" else 1.0
    np.testing.assert_allclose(core_gradient(at, one, name, slope), expected, atol=1e-40)


@pytest.mark.parametrize("name", NAMES)
def test_nan_in_the_gradient_stays(isa, name):
    gradient = np.ones(37, np.float32)
    gradient[36] = np.nan
    found = by_rule(getattr(F, name), gradient, np.ones(37, np.float32))[1]["input"]
    assert np.isnan(found[36])
    assert np.isfinite(found[:36]).all()


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_activations_agree_with_torch(rng, name):
    import torch

    x, gradient = normal(rng, 100), normal(rng, 100)
    x[:2] = 0, 6
    tensor = torch.from_numpy(x).double().requires_grad_()
    getattr(torch.nn.functional, name)(tensor).backward(torch.from_numpy(gradient).double())
    assert_close(by_rule(getattr(F, name), gradient, x)[1]["input"], tensor.grad.numpy(), factor=2)


class TestSoftmax:
    @pytest.mark.parametrize("log", [False, True])
    def test_oracle_is_the_derivative(self, rng, log):
        x, gradient = rng.standard_normal((2, 5)), rng.standard_normal((2, 5))
        forward = oracle.log_softmax if log else oracle.softmax
        numeric = numeric_gradient(lambda z: forward(z, 1), x, gradient)
        np.testing.assert_allclose(oracle.softmax_gradient(x, gradient, 1, log), numeric, atol=1e-9)

    @pytest.mark.parametrize("name", SOFTMAX)
    def test_tile_edges(self, rng, isa, threads, name):
        for channels in edges()[1:]:
            x, gradient = normal(rng, 7, channels), normal(rng, 7, channels)
            expected = oracle.softmax_gradient(x, gradient, 1, name == "log_softmax")
            y, found = by_rule(getattr(F, name), gradient, x, 1)
            np.testing.assert_array_equal(y, getattr(F, name)(x, 1))
            assert_close(found["input"], expected, terms=channels, scale=np.abs(gradient).max())

    @pytest.mark.parametrize("name", SOFTMAX)
    @pytest.mark.parametrize("shape", [(7,), (2, 3, 5), (2, 3, 4, 5), (2, 3, 0, 5)])
    def test_any_dimension_and_layout(self, rng, name, shape):
        for dim in range(-len(shape), len(shape)):
            x, gradient = normal(rng, *shape), normal(rng, *shape)
            expected = oracle.softmax_gradient(x, gradient, dim, name == "log_softmax") if x.size else gradient
            for convert in (np.asarray, np.asfortranarray):
                _, found = by_rule(getattr(F, name), convert(gradient), x, dim)
                assert_close(found["input"], expected, terms=10, scale=np.abs(gradient).max(initial=0))

    def test_large_scores(self, isa):
        """Probabilities of 0 and logarithms of minus infinity leave the gradient finite."""
        x, gradient = np.array([[1000, 0, -np.inf]], np.float32), np.array([[1, 2, 3]], np.float32)
        np.testing.assert_array_equal(by_rule(F.softmax, gradient, x, 1)[1]["input"], [[0, 0, 0]])
        np.testing.assert_array_equal(by_rule(F.log_softmax, gradient, x, 1)[1]["input"], [[-5, 2, 3]])

    def test_same_bits_for_any_thread_count(self, rng, isa):
        x, gradient = normal(rng, 300, 1000), normal(rng, 300, 1000)
        with convlane.num_threads(1):
            expected = by_rule(F.softmax, gradient, x, 1)[1]["input"]
        with convlane.num_threads(3):
            np.testing.assert_array_equal(by_rule(F.softmax, gradient, x, 1)[1]["input"], expected)

    @pytest.mark.torch
    @pytest.mark.parametrize("name", SOFTMAX)
    def test_agrees_with_torch(self, rng, name):
        import torch

        x, gradient = normal(rng, 3, 10, 2), normal(rng, 3, 10, 2)
        tensor = torch.from_numpy(x).double().requires_grad_()
        getattr(torch, name)(tensor, 1).backward(torch.from_numpy(gradient).double())
        found = by_rule(getattr(F, name), gradient, x, 1)[1]["input"]
        assert_close(found, tensor.grad.numpy(), terms=10, scale=np.abs(gradient).max())


class TestDropout:
    @pytest.mark.parametrize("shape", [(50,), (2, 5, 3, 4)])
    def test_the_same_values_pass(self, rng, shape):
        gradient, ones = normal(rng, *shape), np.ones(shape, np.float32)
        y, found = by_rule(F.dropout, gradient, ones, 0.25, rng=np.random.default_rng(1))
        assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
        np.testing.assert_array_equal(found["input"], gradient * y)
        np.testing.assert_array_equal(y, F.dropout(ones, 0.25, rng=np.random.default_rng(1)))

    @pytest.mark.parametrize("arguments", [{"training": False}, {"p": 0}])
    def test_nothing_to_do(self, rng, arguments):
        x, gradient = normal(rng, 5), normal(rng, 5)
        y, found = by_rule(F.dropout, gradient, x, **arguments)
        assert y is x
        assert found["input"] is gradient

    def test_everything_dropped(self, rng):
        y, found = by_rule(F.dropout, normal(rng, 5), normal(rng, 5), 1)
        np.testing.assert_array_equal(y, np.zeros(5))
        np.testing.assert_array_equal(found["input"], np.zeros(5))


IMAGE = np.ones((1, 2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: _core.activation_gradient(IMAGE, IMAGE[0:0], "relu", 0, True), ValueError, "but gradient has"),
        (lambda: _core.activation_gradient(IMAGE, IMAGE, "swish", 0, True), ValueError, "unknown activation"),
        (lambda: _core.activation_gradient(IMAGE, IMAGE, "hardswish", 0, True), ValueError, "does not follow from its"),
        (lambda: _core.activation_gradient(IMAGE, IMAGE.astype(float), "relu", 0, True), TypeError, "gradient must be"),
        (
            lambda: _core.softmax_gradient(IMAGE, IMAGE[:, :1], 1, False),
            ValueError,
            "softmax_gradient: output and gradient",
        ),
        (lambda: by_rule(F.dropout, IMAGE, IMAGE, 2.0), ValueError, "p must be between 0 and 1"),
        (lambda: by_rule(F.relu, IMAGE, IMAGE.astype(float)), TypeError, "relu: input must be float32"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
