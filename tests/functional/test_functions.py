"""Functions of single numbers against NumPy in float64."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule
from layouts import LAYOUTS
from oracles.pointwise import FUNCTIONS

SHAPES = [(), (7,), (2, 3, 5), (2, 3, 4, 5), (0, 3, 4, 5), (2, 3, 1, 1), (1, 2, 1, 2, 1, 2, 1, 2)]
POSITIVE = {"log", "log1p", "rsqrt", "sqrt"}
UNITS = {"cos": 0.6, "erf": 0.51, "exp": 2, "log": 1, "log1p": 2, "rsqrt": 2, "sin": 0.6}  # others: 0.5
FUNCTIONS_OF_NUMPY = {**FUNCTIONS, "affine": (lambda x: x * np.float32(0.3) - 2, lambda x: np.full_like(x, 0.3))}
OURS = {name: getattr(F, name) for name in FUNCTIONS} | {"affine": lambda x: F.affine(x, 0.3, -2)}


def normal(rng, *shape):
    return np.asarray(rng.standard_normal(shape, dtype=np.float32))


def inside(name, x):
    """Move random numbers into the function's domain and away from its corners."""
    return np.asarray(np.abs(x) + np.float32(0.2)) if name in POSITIVE else x


@pytest.mark.parametrize("name", FUNCTIONS_OF_NUMPY)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(rng, name, shape):
    x = inside(name, normal(rng, *shape))
    y = OURS[name](x)
    assert_close(y, np.asarray(FUNCTIONS_OF_NUMPY[name][0](x.astype(np.float64))), factor=2)
    assert y.flags.c_contiguous


@pytest.mark.parametrize("name", FUNCTIONS_OF_NUMPY)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, name, layout):
    for shape in [(5, 7), (2, 5, 3, 4), (2, 3, 4, 3, 5)]:
        x = normal(rng, *shape)
        given = LAYOUTS[layout](x)
        y = OURS[name](given)
        np.testing.assert_array_equal(y, OURS[name](x))
        np.testing.assert_array_equal(given, x)
        last = np.moveaxis(given, 1, -1).flags.c_contiguous or (len(shape) == 4 and not given.flags.c_contiguous)
        assert np.moveaxis(y, 1, -1).flags.c_contiguous if last else y.flags.c_contiguous


@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_in_the_last_place(rng, isa, threads, name):
    """For floats of all sizes, and for as many of medium size."""
    bits = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([bits, 3 * normal(rng, 100_001)])
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name][0](x.astype(np.float64))
        expected = exact.astype(np.float32)
    y = OURS[name](x)
    finite = np.isfinite(expected) & np.isfinite(y)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    units = np.abs(y[finite] - exact[finite]) / np.spacing(np.abs(expected[finite])).astype(np.float64)
    assert units.max() <= UNITS.get(name, 0.5)


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_angles_beside_zeros(isa, name):
    """The floats closest to multiples of pi / 2, below and above the limit from which the C library is used."""
    multiples = (np.arange(1, 2**20) * (np.pi / 2)).astype(np.float32)
    x = np.concatenate([multiples, np.nextafter(multiples, np.float32(0)), np.float32([2**20, 2**20 + 1, 1e30])])
    exact = FUNCTIONS[name][0](x.astype(np.float64))
    units = np.abs(OURS[name](x) - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert units.max() <= 0.6


@pytest.mark.parametrize("name", ["sin", "cos", "erf"])
def test_zeros_and_tiny_numbers(isa, name):
    x = np.array([0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1e-30], np.float32)
    y, expected = OURS[name](x), FUNCTIONS[name][0](x.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(expected))


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_large_angles_do_not_change_their_neighbours(rng, isa, name):
    x = normal(rng, 100)
    mixed = x.copy()
    mixed[::7] = 1e30
    kept = np.arange(100) % 7 != 0
    np.testing.assert_array_equal(OURS[name](mixed)[kept], OURS[name](x)[kept])


def test_special_values(isa):
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, -1e-42, 2.5, -2.5, 1e30], np.float32)
    with np.errstate(all="ignore"):
        for name, (function, _) in FUNCTIONS.items():
            expected = function(x.astype(np.float64)).astype(np.float32)
            y = OURS[name](x)
            np.testing.assert_allclose(y, expected, rtol=3e-7, err_msg=name)
            if name in {"ceil", "floor", "neg", "round", "sqrt"}:
                np.testing.assert_array_equal(np.signbit(y[:4]), np.signbit(expected[:4]), err_msg=name)
    np.testing.assert_array_equal(np.signbit(F.affine(x[:2], 1)), [False, True])
    np.testing.assert_array_equal(F.clamp(x, -1, 1), np.clip(x, -1, 1))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_gradient(rng, name, layout):
    for shape in [(), (7,), (2, 3, 2, 2), (0, 3, 2, 2)]:
        x, gradient = inside(name, normal(rng, *shape)), normal(rng, *shape)
        to = LAYOUTS[layout] if len(shape) == 4 else np.asarray
        y, found = by_rule(OURS[name], to(gradient), to(x))
        np.testing.assert_array_equal(y, OURS[name](x))
        expected = gradient * FUNCTIONS[name][1](x.astype(np.float64))
        np.testing.assert_allclose(found["input"], expected, rtol=2e-6, atol=1e-7)
        assert found["input"].dtype == np.float32


def test_corners_have_torch_s_gradients():
    x = np.array([0, -0.0, np.nan], np.float32)
    np.testing.assert_array_equal(by_rule(F.abs, np.ones(3, np.float32), x)[1]["input"], [0, 0, np.nan])
    x = np.array([-2, -1, 0, 1, 2], np.float32)
    np.testing.assert_array_equal(by_rule(F.clamp, np.ones(5, np.float32), x, -1, 1)[1]["input"], [0, 1, 1, 1, 0])


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (None, 0.25), (0.25, None), (1, -1)])
def test_clamp(rng, isa, bounds):
    x = normal(rng, 3, 37)
    np.testing.assert_array_equal(F.clamp(x, *bounds), np.clip(x, *bounds))
    assert F.clamp(x, min=0).min() == 0


def test_same_bits_for_any_thread_count(rng, isa):
    x = normal(rng, 300_001)
    with convlane.num_threads(1):
        whole = F.log1p(F.square(x))
    with convlane.num_threads(3):
        np.testing.assert_array_equal(F.log1p(F.square(x)), whole)


@pytest.mark.torch
@pytest.mark.parametrize("name", [*FUNCTIONS, "clamp"])
def test_agrees_with_torch(rng, name):
    import torch

    arguments = (-0.5, 0.5) if name == "clamp" else ()
    x, gradient = inside(name, normal(rng, 3, 7)), normal(rng, 3, 7)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = getattr(torch, name)(tensor, *arguments)
    expected.backward(torch.tensor(gradient))
    y, found = by_rule(getattr(F, name), gradient, x, *arguments)
    assert_close(y, expected.detach().numpy())
    assert_close(found["input"], tensor.grad.numpy())


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: F.affine(x, "2"), TypeError, "affine: factor must be a number, got '2'"),
        (lambda x: F.affine(x, 1, x), TypeError, "affine: offset must be a number"),
        (lambda x: F.affine(x.astype(np.float64)), TypeError, "affine: input must be float32"),
        (lambda x: F.exp([1.0]), TypeError, "exp: input must be a NumPy array, got list"),
        (lambda x: F.log(x.astype(int)), TypeError, "log: input must be float32"),
        (lambda x: F.sqrt(2.0), TypeError, "sqrt: input must be a NumPy array, got float"),
        (lambda x: F.neg(x.reshape(2, 3, *[1] * 7)), ValueError, "at most 8 dimensions, got 9"),
        (lambda x: F.clamp(x), ValueError, "at least one of min and max"),
        (lambda x: F.clamp(x, np.nan), ValueError, "min and max must not be NaN"),
        (lambda x: F.clamp(x, x, x), TypeError, "clamp: min must be a number"),
        (lambda x: _core.unary("arg", x), ValueError, "unknown function 'arg'"),
        (lambda x: _core.unary("exp", x.astype(np.int64)), TypeError, "input must be a float32 array"),
        (lambda x: rules(F.floor).vjp(frozenset({"input"}), 1), TypeError, "floor: input must be a NumPy array"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call(np.ones((2, 3), np.float32))
