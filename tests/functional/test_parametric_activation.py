"""Activations with parameters, with a learned slope and of two halves, and the approximate gelu, against oracles."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import activation as oracle

NAN, INF = np.nan, np.inf


def normal(rng, *shape):
    return 3 * rng.standard_normal(shape, dtype=np.float32)


def edges():
    lanes = _core.tile_sizes()["lanes"]
    return [0, 1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1]


def channels(weight, ndim):
    return weight if weight.size == 1 else weight.reshape(1, -1, *(1,) * (ndim - 2))


CASES = {
    "softplus": (F.softplus, oracle.softplus, ()),
    "softplus sharp": (F.softplus, oracle.softplus, (3.0, 2.0)),
    "softplus turned": (F.softplus, oracle.softplus, (-0.5, 20)),
    "hardtanh": (F.hardtanh, oracle.hardtanh, ()),
    "hardtanh of a range": (F.hardtanh, oracle.hardtanh, (-2, 0.5)),
    "threshold": (F.threshold, oracle.threshold, (0.25, -4)),
}


@pytest.mark.parametrize("name", CASES)
def test_tile_edges_and_gradients(rng, isa, threads, name):
    function, expected, arguments = CASES[name]
    for count in edges():
        x, gradient = normal(rng, count), normal(rng, count)
        y, found = by_rule(function, gradient, x, *arguments)
        np.testing.assert_array_equal(y, function(x, *arguments))
        wide = x.astype(np.float64)
        assert_close(y, expected(wide, *arguments))
        numeric = numeric_gradient(lambda z: expected(z, *arguments), wide, gradient.astype(np.float64))
        np.testing.assert_allclose(found["input"], numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, name, layout):
    function, expected, arguments = CASES[name]
    for shape in [(), (5, 7), (2, 5, 3, 4), (0, 3, 4, 5), (2, 1, 3, 1, 4)]:
        x = np.asarray(normal(rng, *shape), np.float32)
        y = function(LAYOUTS[layout](x) if shape else x, *arguments)
        assert_close(y, np.asarray(expected(x.astype(np.float64), *arguments)))
        assert rules(function).shape(x, *arguments) == y.shape


def ulps(actual, expected):
    unit = np.spacing(np.maximum(np.abs(expected), np.finfo(np.float32).tiny).astype(np.float32))
    return np.abs(actual.astype(np.float64) - expected) / unit


def test_accuracy_of_softplus(isa):
    floats = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([floats[np.isfinite(floats)], np.linspace(-87, 30, 100_001, dtype=np.float32)])
    y = F.softplus(x)
    assert ulps(y, oracle.softplus(x.astype(np.float64))).max() <= 4


def test_accuracy_of_gelu_by_tanh(isa):
    x = np.concatenate([np.linspace(-5, 20, 100_001, dtype=np.float32), np.float32([-1e-40, 1e-40, -1e-20, 1e30])])
    with np.errstate(over="ignore"):
        expected = oracle.gelu_tanh(x.astype(np.longdouble)).astype(np.float64)
    np.testing.assert_allclose(F.gelu(x, approximate="tanh"), expected, rtol=2e-6, atol=1e-45)
    gradient = np.ones_like(x)
    _, found = by_rule(F.gelu, gradient, x, approximate="tanh")
    with np.errstate(all="ignore"):
        slope = np.where(x > 20, 1, oracle.gelu_tanh_slope(x.astype(np.float64)))
    np.testing.assert_allclose(found["input"], slope, rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize(
    ("call", "x", "expected", "slope"),
    [
        (F.softplus, NAN, NAN, NAN),
        (F.softplus, INF, INF, 1),
        (F.softplus, -INF, 0, 0),
        (F.softplus, 3e38, 3e38, 1),
        (lambda x: F.softplus(x, 10), 1e38, 1e38, 1),
        (F.hardtanh, NAN, NAN, 1),
        (F.hardtanh, INF, 1, 0),
        (F.hardtanh, 1, 1, 0),
        (F.hardtanh, -1, -1, 0),
        (lambda x: F.threshold(x, 1, 5), NAN, NAN, 1),
        (lambda x: F.threshold(x, 1, 5), 1, 5, 0),
        (lambda x: F.gelu(x, approximate="tanh"), NAN, NAN, NAN),
        (lambda x: F.gelu(x, approximate="tanh"), INF, INF, 1),
        (lambda x: F.gelu(x, approximate="tanh"), -INF, NAN, 0),
        (lambda x: F.prelu(x, np.float32([0.5])), NAN, NAN, NAN),
        (lambda x: F.prelu(x, np.float32([0.5])), -INF, -INF, 0.5),
        (lambda x: F.prelu(x, np.float32([0.5])), 0, 0, 0.5),
    ],
)
def test_special_values(isa, call, x, expected, slope):
    count = 2 * _core.tile_sizes()["lanes"] + 1
    for at in (0, count - 1):
        values = np.full(count, 0.5, np.float32)
        values[at] = x
        y, pullback = convlane.vjp(call, values)
        np.testing.assert_array_equal(y[at], np.float32(expected))
        (found,) = pullback(np.ones(count, np.float32))
        if not (np.isnan(slope) and call is not F.softplus):
            np.testing.assert_array_equal(found[at], np.float32(slope))
        assert np.isfinite(np.delete(y, at)).all()
        assert np.isfinite(np.delete(found, at)).all()


@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 5, 3), (2, 5, 3, 4), (2, 20, 5, 6), (0, 5, 3, 4), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("one", [True, False])
def test_prelu(rng, isa, threads, shape, one):
    weight = normal(rng, 1 if one or len(shape) < 2 else shape[1])
    x, gradient = normal(rng, *shape), normal(rng, *shape)
    factors = channels(weight, len(shape)).astype(np.float64)
    expected = oracle.prelu(x.astype(np.float64), factors)
    for convert in (np.asarray, LAYOUTS["channels_last"], LAYOUTS["negative_strides"], LAYOUTS["sliced"]):
        y, found = by_rule(F.prelu, convert(gradient), convert(x), weight, wanted=("input", "weight"))
        assert_close(y, expected)
        assert_close(found["input"], gradient * np.where(x > 0, 1.0, np.broadcast_to(factors, shape)))
        sums = np.where(x > 0, 0.0, gradient * x.astype(np.float64))
        axes = tuple(axis for axis in range(len(shape)) if axis != 1)
        wished = sums.sum(axes) if weight.size > 1 else sums.sum().reshape(1)
        assert_close(found["weight"], wished, terms=50, scale=np.abs(sums).max(initial=0) * 10)
    assert rules(F.prelu).shape(x, weight) == shape


@pytest.mark.parametrize("shape", [(6,), (4, 2), (2, 4, 3, 5), (2, 6, 1, 2)])
def test_glu(rng, shape):
    x = normal(rng, *shape)
    for dim in [dim for dim in range(-len(shape), len(shape)) if shape[dim] % 2 == 0]:
        y, pullback = convlane.vjp(lambda x, dim=dim: F.glu(x, dim), x)
        assert_close(y, oracle.glu(x.astype(np.float64), dim), factor=2)
        np.testing.assert_array_equal(F.glu(LAYOUTS["fortran"](x), dim), y)
        gradient = normal(rng, *y.shape)
        numeric = numeric_gradient(lambda z, dim=dim: oracle.glu(z, dim), x, gradient.astype(np.float64))
        np.testing.assert_allclose(pullback(gradient)[0], numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.torch
def test_agrees_with_torch(rng):
    import torch

    functional = torch.nn.functional
    x, weight = normal(rng, 2, 6, 3, 4), normal(rng, 6)
    x[0, 0, 0, :4] = -1, 1, 0, 0.25
    for ours, theirs in [
        (lambda x: F.softplus(x, 2.0, 3.0), lambda x: functional.softplus(x, 2.0, 3.0)),
        (F.hardtanh, functional.hardtanh),
        (lambda x: F.threshold(x, 0.25, 7), lambda x: functional.threshold(x, 0.25, 7)),
        (lambda x: F.gelu(x, approximate="tanh"), lambda x: functional.gelu(x, approximate="tanh")),
        (lambda x: F.glu(x, 1), lambda x: functional.glu(x, 1)),
        (lambda x: F.prelu(x, weight), lambda x: functional.prelu(x, torch.tensor(weight).double())),
        (lambda x: F.celu(x, -0.5), lambda x: functional.celu(x, -0.5)),
    ]:
        tensor = torch.tensor(x).double().requires_grad_()
        expected = theirs(tensor)
        y, pullback = convlane.vjp(ours, x)
        assert_close(y, expected.detach().numpy(), factor=2)
        gradient = normal(rng, *y.shape)
        expected.backward(torch.tensor(gradient).double())
        assert_close(pullback(gradient)[0], tensor.grad.numpy(), factor=4)


ANY = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.softplus(ANY.astype(float)), TypeError, "softplus: input must be float32"),
        (lambda: F.softplus(ANY, "1"), TypeError, "softplus: beta must be a number"),
        (lambda: F.softplus(ANY, 1, ANY), TypeError, "softplus: threshold must be a number"),
        (lambda: F.hardtanh(ANY, 1, 0), ValueError, "hardtanh: min_val must not be above max_val, got 1.0 and 0.0"),
        (lambda: F.hardtanh(ANY, NAN), ValueError, "hardtanh: min_val must not be above max_val"),
        (lambda: F.threshold(ANY, None, 0), TypeError, "threshold: threshold must be a number"),
        (lambda: F.threshold(1.0, 1, 0), TypeError, "threshold: input must be a NumPy array"),
        (lambda: F.gelu(ANY, approximate="fast"), ValueError, "approximate must be 'none' or 'tanh', got 'fast'"),
        (lambda: F.gelu(ANY, approximate=True), TypeError, "approximate must be 'none' or 'tanh', got True"),
        (lambda: F.celu(ANY, 0), ValueError, "celu: alpha must not be 0"),
        (lambda: F.elu(ANY, "1"), TypeError, "elu: alpha must be a number"),
        (lambda: F.prelu(ANY, np.ones(2, np.float32)), ValueError, r"weight must have shape \(1,\) or \(3,\), got"),
        (lambda: F.prelu(ANY, 0.5), TypeError, "prelu: weight must be a NumPy array"),
        (lambda: F.glu(ANY), ValueError, r"glu: the size along dim must be even, got 3 of shape \(2, 3\)"),
        (lambda: F.glu(ANY, 2), ValueError, "glu: dim=2 is out of range for 2 dimensions"),
        (lambda: F.glu(ANY.astype(float)), TypeError, "glu: input must be float32"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
