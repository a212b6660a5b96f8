"""Activations, softmax and dropout against their oracles."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from layouts import LAYOUTS
from oracles import activation as oracle

NAMES = list(oracle.BY_NAME)
SOFTMAX = ["softmax", "log_softmax"]


def normal(rng, *shape):
    return 3 * rng.standard_normal(shape, dtype=np.float32)


def edges():
    lanes = _core.tile_sizes()["lanes"]
    return [0, 1, lanes - 1, lanes, lanes + 1, 2 * lanes + 1]


def is_channels_last(y):
    return y.transpose(0, 2, 3, 1).flags.c_contiguous


def all_floats():
    """Every 4099th float32 (a prime) in both signs, denormals included, and a dense grid where the functions bend."""
    floats = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return np.concatenate([floats[np.isfinite(floats)], np.linspace(-110, 110, 200_001, dtype=np.float32)])


def ulps(actual, expected):
    """Errors in units in the last place of the expected float32 (of the smallest normal number below it)."""
    unit = np.spacing(np.maximum(np.abs(expected), np.finfo(np.float32).tiny).astype(np.float32))
    return np.abs(actual.astype(np.float64) - expected) / unit


@pytest.mark.parametrize("name", NAMES)
def test_tile_edges(rng, isa, threads, name):
    for count in edges():
        x = normal(rng, count)
        assert_close(getattr(F, name)(x), oracle.BY_NAME[name](x.astype(np.float64)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (2, 3, 5), (2, 3, 4, 5), (0, 3, 4, 5), (2, 1, 3, 1, 4)])
def test_shapes(rng, name, shape):
    x = normal(rng, *shape) if shape else np.array(1.5, np.float32)
    y = getattr(F, name)(x)
    assert_close(y, oracle.BY_NAME[name](x.astype(np.float64)))
    assert is_channels_last(y) if y.ndim == 4 else y.flags.c_contiguous
    assert rules(getattr(F, name)).shape(x) == y.shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, name, layout):
    for shape in [(5, 7), (2, 5, 3, 4)]:
        x = normal(rng, *shape)
        given_x = LAYOUTS[layout](x)
        before = given_x.tobytes()
        assert_close(getattr(F, name)(given_x), oracle.BY_NAME[name](x.astype(np.float64)))
        assert given_x.tobytes() == before, "the input is only read"


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        *(("sigmoid", 3), ("tanh", 3), ("hardswish", 3), ("hardsigmoid", 3)),
        *(("elu", 3), ("celu", 3), ("selu", 3), ("softsign", 2), ("logsigmoid", 4)),
    ],
)
def test_accuracy_over_all_floats(isa, name, bound):
    x = all_floats()
    with np.errstate(over="ignore"):
        expected = oracle.BY_NAME[name](x.astype(np.float64))
    representable = np.abs(expected) <= np.finfo(np.float32).max
    assert representable.mean() > 0.99
    assert ulps(getattr(F, name)(x)[representable], expected[representable]).max() <= bound


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_accuracy_of_silu_and_mish(isa, name):
    x = all_floats()
    with np.errstate(over="ignore"):
        expected = oracle.BY_NAME[name](x.astype(np.float64))
    y = getattr(F, name)(x)
    normal_power = x > -87.3
    assert ulps(y[normal_power], expected[normal_power]).max() <= 5
    assert np.abs(y[~normal_power] - expected[~normal_power]).max() <= 2e-43


def test_accuracy_of_gelu(isa):
    x = all_floats()
    with np.errstate(all="ignore"):
        expected = oracle.gelu(x.astype(np.float64))
    y = F.gelu(x)
    assert ulps(y, expected).max() <= 6
    assert (np.signbit(y) == np.signbit(x)).all()


def test_accuracy_of_the_exponential(isa):
    """A softmax over (x, 0) is e^x / (1 + e^x), down to the denormals."""
    x = np.linspace(-110, 0, 100_001, dtype=np.float32)
    y = F.softmax(np.stack([x, np.zeros_like(x)], axis=1), dim=1)[:, 0]
    assert ulps(y, oracle.sigmoid(x.astype(np.float64))).max() <= 3


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        *((name, NAN, NAN) for name in NAMES),
        ("relu", -0.0, -0.0),
        ("relu", -INF, 0.0),
        ("relu", INF, INF),
        ("relu6", INF, 6.0),
        ("relu6", -INF, 0.0),
        ("leaky_relu", -INF, -INF),
        ("sigmoid", -INF, 0.0),
        ("sigmoid", INF, 1.0),
        ("tanh", -INF, -1.0),
        ("tanh", INF, 1.0),
        ("tanh", -0.0, -0.0),
        ("tanh", 1e-40, 1e-40),
        ("silu", INF, INF),
        ("silu", -0.0, -0.0),
        ("gelu", INF, INF),
        ("gelu", -INF, NAN),
        ("gelu", -0.0, -0.0),
        ("gelu", 1e-40, 5e-41),
        ("elu", -INF, -1.0),
        ("elu", INF, INF),
        ("elu", -0.0, -0.0),
        ("elu", -1e-40, -1e-40),
        ("celu", -INF, -1.0),
        ("celu", -0.0, -0.0),
        ("selu", -INF, -1.7580993),
        ("selu", INF, INF),
        ("softsign", INF, NAN),
        ("softsign", -INF, NAN),
        ("softsign", -0.0, -0.0),
        ("mish", INF, INF),
        ("mish", -INF, NAN),
        ("mish", -0.0, -0.0),
        ("logsigmoid", INF, 0.0),
        ("logsigmoid", -INF, -INF),
        ("hardsigmoid", -INF, 0.0),
        ("hardsigmoid", -3.0, 0.0),
        ("hardsigmoid", INF, 1.0),
        ("hardswish", INF, INF),
        ("hardswish", -3.0, -0.0),
    ],
)
def test_special_values(isa, name, x, expected):
    """Special values in a whole vector and in the tail do not change their neighbours."""
    count = 2 * _core.tile_sizes()["lanes"] + 1
    for at in (0, count - 1):
        values = np.ones(count, np.float32)
        values[at] = x
        y = getattr(F, name)(values)
        np.testing.assert_array_equal(y[at], np.float32(expected))
        assert np.signbit(y[at]) == np.signbit(expected) or np.isnan(expected)
        assert np.isfinite(np.delete(y, at)).all()


@pytest.mark.parametrize("slope", [0.0, 0.25, -1.0, 2])
def test_leaky_relu_slope(rng, isa, slope):
    x = normal(rng, 37)
    assert_close(F.leaky_relu(x, slope), oracle.leaky_relu(x.astype(np.float64), slope))
    np.testing.assert_array_equal(F.leaky_relu(x, negative_slope=slope), F.leaky_relu(x, slope))


@pytest.mark.parametrize("name", SOFTMAX)
class TestSoftmax:
    def test_tile_edges(self, rng, isa, threads, name):
        for size in edges()[1:]:
            for shape, dim in [((3, size), 1), ((2, size, 3, 2), 1)]:
                x = normal(rng, *shape)
                assert_close(getattr(F, name)(x, dim), getattr(oracle, name)(x, dim), terms=size + 1)

    @pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (2, 3, 1, 2, 2)])
    def test_every_dimension(self, rng, name, shape):
        for dim in range(-len(shape), len(shape)):
            if shape[dim] == 0:
                continue
            x = normal(rng, *shape)
            y = getattr(F, name)(x, dim)
            assert_close(y, getattr(oracle, name)(x, dim), terms=shape[dim])
            assert y.flags.c_contiguous
            assert rules(getattr(F, name)).shape(x, dim) == y.shape

    def test_scalar_and_empty(self, name):
        assert getattr(F, name)(np.array(3.0, np.float32), 0) == (1.0 if name == "softmax" else 0.0)
        assert getattr(F, name)(np.zeros((2, 0), np.float32), 1).shape == (2, 0)
        assert getattr(F, name)(np.zeros((2, 0, 3, 3), np.float32), 2).shape == (2, 0, 3, 3)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, name, layout):
        for shape in [(6, 7), (2, 5, 3, 4)]:
            x = normal(rng, *shape)
            assert_close(getattr(F, name)(LAYOUTS[layout](x), 1), getattr(oracle, name)(x, 1), terms=7)

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ([1e4, 0.0], [1.0, 0.0]),
            ([-1e4, -1e4 + 1], [1 / (1 + np.e), np.e / (1 + np.e)]),
            ([0.0, -INF], [1.0, 0.0]),
            ([-INF, -INF], [NAN, NAN]),
            ([INF, 0.0], [NAN, NAN]),
            ([NAN, 0.0], [NAN, NAN]),
            ([3e38, -3e38], [1.0, 0.0]),
        ],
    )
    def test_extreme_rows(self, isa, name, row, expected):
        """Rows are repeated to lengths around the vector's; their neighbours do not change."""
        for repeats in (1, 4, 8, 9, 16, 17):
            x = np.zeros((3, 2 * repeats), np.float32)
            x[1] = np.repeat(row, repeats)
            y = getattr(F, name)(x, 1).astype(np.float64)
            wanted = np.repeat(expected, repeats) / repeats
            np.testing.assert_allclose(np.exp(y[1]) if name == "log_softmax" else y[1], wanted, rtol=2e-6)
            assert np.isfinite(y[[0, 2]]).all()

    def test_same_bits_for_any_split_and_thread_count(self, rng, isa, name):
        x = normal(rng, 50, 10_000)
        with convlane.num_threads(1):
            whole = getattr(F, name)(x, 1)
        with convlane.num_threads(3):
            np.testing.assert_array_equal(getattr(F, name)(x, 1), whole)
        np.testing.assert_array_equal(getattr(F, name)(x[7:11], 1), whole[7:11])

    @pytest.mark.torch
    def test_agrees_with_torch(self, rng, name):
        import torch

        x = normal(rng, 2, 5, 4, 3)
        for dim in (1, -1):
            expected = getattr(torch.nn.functional, name)(torch.from_numpy(x).double(), dim).numpy()
            np.testing.assert_allclose(getattr(oracle, name)(x, dim), expected, rtol=1e-12)
            assert_close(getattr(F, name)(x, dim), expected, terms=5)


def test_log_softmax_keeps_small_probabilities(isa):
    np.testing.assert_array_equal(F.log_softmax(np.array([[0, -1000]], np.float32), 1), [[0, -1000]])


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_torch(rng, isa, name):
    import torch

    special = np.array([NAN, INF, -INF, 0.0, -0.0, 1e-40, 3.0, -3.0, 6.0], np.float32)
    x = np.concatenate([special, normal(rng, 100)])
    given = torch.from_numpy(x)
    smallest = 0.0
    if name in ("gelu", "mish", "softsign"):
        # torch's float32 gelu has three digits for small results, and none for tiny ones
        given, smallest = torch.from_numpy(x).double(), 1e-15
    function = torch.tanh if name == "tanh" else getattr(torch.nn.functional, name)
    np.testing.assert_allclose(getattr(F, name)(x), function(given).numpy(), rtol=2e-6, atol=smallest)


class TestDropout:
    @pytest.mark.parametrize("shape", [(40_000,), (4, 10, 20, 50)])
    def test_zeroes_a_share_and_scales_the_rest(self, shape):
        y = F.dropout(np.full(shape, 3, np.float32), 0.25, rng=np.random.default_rng(1))
        np.testing.assert_array_equal(np.unique(y), np.array([0, 4], np.float32))
        assert abs((y == 0).mean() - 0.25) < 0.01
        assert is_channels_last(y) if y.ndim == 4 else y.flags.c_contiguous

    def test_generator_decides(self, rng):
        x = normal(rng, 2, 3, 4, 5)
        first, again = (F.dropout(x, rng=np.random.default_rng(7)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(F.dropout(F.channels_last(x), rng=np.random.default_rng(7)), first)
        assert (F.dropout(np.ones(1000, np.float32)) != F.dropout(np.ones(1000, np.float32))).any()

    def test_seeded(self):
        def draw(*numbers):
            with F.seeded(*numbers):
                return F.dropout(np.ones(1000, np.float32)), F.dropout(np.ones(1000, np.float32))

        (first, second), again, other = draw(1, 2), draw(1, 2), draw(1, 3)
        np.testing.assert_array_equal(again[0], first)
        np.testing.assert_array_equal(again[1], second)
        assert (first != second).any()
        assert (first != other[0]).any()
        with F.seeded(1, 2):
            np.testing.assert_array_equal(
                F.dropout(np.ones(1000, np.float32), rng=np.random.default_rng(7)),
                F.dropout(np.ones(1000, np.float32), rng=np.random.default_rng(7)),
            )
            np.testing.assert_array_equal(F.dropout(np.ones(1000, np.float32)), first)
            np.testing.assert_array_equal(draw(1, 2)[0], first)  # after an inner block, the outer one continues
            np.testing.assert_array_equal(F.dropout(np.ones(1000, np.float32)), second)

    def test_identity_and_extremes(self, rng):
        x = normal(rng, 5, 6)
        assert F.dropout(x, 0.5, training=False) is x
        np.testing.assert_array_equal(F.dropout(x, 0.0), x)
        np.testing.assert_array_equal(F.dropout(x, 1.0), np.zeros_like(x))

    @pytest.mark.parametrize("p", [-0.1, 1.1, NAN, INF])
    @pytest.mark.parametrize("training", [True, False])
    def test_probability_out_of_range(self, p, training):
        with pytest.raises(ValueError, match="p must be between 0 and 1"):
            F.dropout(np.ones(3, np.float32), p, training)


ANY = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("name", [*NAMES, "dropout", *SOFTMAX])
@pytest.mark.parametrize(
    "x", [ANY.astype(np.float64), ANY.astype(np.uint8), ANY > 0, ANY.astype(object), ANY * 1j, [1.0], None, 1.0]
)
def test_wrong_kinds_of_input(name, x):
    with pytest.raises(TypeError, match=rf"{name}: input (must be|is)"):
        getattr(F, name)(x, 0) if name in SOFTMAX else getattr(F, name)(x)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.softmax(ANY, 2), ValueError, "softmax: dim=2 is out of range for 2 dimensions"),
        (lambda: F.softmax(ANY, -3), ValueError, "dim=-3 is out of range"),
        (lambda: F.log_softmax(ANY, 1.5), TypeError, "log_softmax: dim must be an integer"),
        (lambda: F.softmax(ANY, 2**70), ValueError, "softmax: dim is out of range"),
        (lambda: F.leaky_relu(ANY, "steep"), TypeError, "leaky_relu: negative_slope must be a number"),
        (lambda: F.leaky_relu(ANY, ANY), TypeError, "leaky_relu: negative_slope must be a number"),
        (lambda: F.dropout(ANY, "half"), TypeError, "dropout: p must be a number"),
        (lambda: F.dropout(ANY, rng=7), TypeError, "dropout: rng must be a numpy.random.Generator, got int"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_float16_is_cast_up():
    y = F.relu(np.array([-1, 2], np.float16))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [0, 2])


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(0, 9), min_size=1, max_size=5), data=st.data())
def test_random_shapes(shape, data):
    x = normal(np.random.default_rng(sum(shape)), *shape)
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    assert_close(F.silu(x), oracle.silu(x.astype(np.float64)))
    if shape[dim] > 0:
        assert_close(F.softmax(x, dim), oracle.softmax(x, dim), terms=shape[dim])
