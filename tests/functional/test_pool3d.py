"""Pooling of volumes against its oracle and torch: windows, divisors, gradients, layouts, special values, plans."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import pool as oracle

GEOMETRIES = {  # kernel, stride, sides of each axis, dilation, ceil_mode
    "2/2": ((2, 2, 2), (2, 2, 2), [(0, 0)] * 3, (1, 1, 1), False),
    "2/2 ceil": ((2, 2, 2), (2, 2, 2), [(0, 0)] * 3, (1, 1, 1), True),
    "3/2 padded": ((3, 3, 3), (2, 2, 2), [(1, 1)] * 3, (1, 1, 1), False),
    "uneven": ((3, 2, 1), (1, 2, 3), [(1, 0), (0, 1), (0, 0)], (1, 1, 1), True),
    "gaps": ((1, 2, 1), (3, 3, 2), [(0, 0)] * 3, (1, 1, 1), False),
    "dilated": ((2, 2, 3), (1, 1, 1), [(1, 1), (0, 0), (2, 2)], (2, 3, 2), False),
}
SIZES = [(1, 1, 1), (3, 2, 4), (7, 1, 5)]


def volume(rng, *shape):
    """Return whole numbers, many of which are equal."""
    return rng.integers(-3, 4, shape or (2, 3, 5, 6, 4)).astype(np.float32)


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def six(sides):
    return tuple(side for pair in sides for side in pair)


def is_channels_last(y):
    return y.transpose(0, 2, 3, 4, 1).flags.c_contiguous


@pytest.mark.parametrize("case", GEOMETRIES)
def test_maxima(case, rng, isa, threads):
    kernel, stride, sides, dilation, ceil_mode = GEOMETRIES[case]
    x = volume(rng)
    places = list(oracle.boxes(x, kernel, stride, sides, dilation, ceil_mode))
    arguments = (kernel, stride, six(sides), dilation, ceil_mode)
    y = F.max_pool3d(x, *arguments)
    np.testing.assert_array_equal(y, oracle.max_boxes(x, places))
    assert y.dtype == np.float32
    assert is_channels_last(y)
    values, indices = F.max_pool3d(x, *arguments, return_indices=True)
    np.testing.assert_array_equal(values, y)
    np.testing.assert_array_equal(indices, oracle.argmax_boxes(x, places))
    assert indices.dtype == np.int64
    assert rules(F.max_pool3d).shape(x, *arguments, True) == (y.shape, y.shape)
    gradient = normal(rng, *y.shape)
    output, found = by_rule(F.max_pool3d, gradient, x, *arguments)
    np.testing.assert_array_equal(output, y)
    assert_close(found["input"], oracle.max_boxes_gradient(x, gradient, places), terms=27)
    assert is_channels_last(found["input"])
    (output, places), again = by_rule(F.max_pool3d, gradient, x, *arguments, return_indices=True)
    np.testing.assert_array_equal(output, y)
    np.testing.assert_array_equal(places, indices)
    np.testing.assert_array_equal(again["input"], found["input"])


@pytest.mark.parametrize("options", [(True, None), (False, None), (False, -7)])
@pytest.mark.parametrize("case", [case for case in GEOMETRIES if case != "dilated"])
def test_averages(case, options, rng, threads):
    kernel, stride, sides, _, ceil_mode = GEOMETRIES[case]
    x = normal(rng, 2, 3, 5, 6, 4)
    y = F.avg_pool3d(x, kernel, stride, six(sides), ceil_mode, *options)
    assert_close(y, oracle.avg_pool3d(x, kernel, stride, sides, ceil_mode, *options), terms=27)
    assert is_channels_last(y)
    assert rules(F.avg_pool3d).shape(x, kernel, stride, six(sides), ceil_mode) == y.shape
    gradient = normal(rng, *y.shape)
    _, found = by_rule(F.avg_pool3d, gradient, x, kernel, stride, six(sides), ceil_mode, *options)
    expected = oracle.linear_gradient(
        lambda one: oracle.avg_pool3d(one, kernel, stride, sides, ceil_mode, *options), x.shape, gradient
    )
    assert_close(found["input"], expected, terms=27)


@pytest.mark.parametrize("p", [0.5, 1, 2, 3, np.inf])
@pytest.mark.parametrize(
    ("kernel", "stride", "ceil_mode"), [((2, 3, 2), (2, 1, 2), False), ((3, 2, 2), (2, 2, 3), True)]
)
def test_norms(p, kernel, stride, ceil_mode, rng):
    x = (rng.choice([-1, 1], (1, 2, 4, 5, 4)) * rng.uniform(0.5, 2, (1, 2, 4, 5, 4))).astype(np.float32)
    y = F.lp_pool3d(x, p, kernel, stride, ceil_mode)
    gradient = normal(rng, *y.shape)
    _, found = by_rule(F.lp_pool3d, gradient, x, p, kernel, stride, ceil_mode)
    if p == np.inf:
        np.testing.assert_array_equal(y, F.max_pool3d(np.abs(x), kernel, stride, ceil_mode=ceil_mode))
        _, of_largest = by_rule(F.max_pool3d, gradient, np.abs(x), kernel, stride, ceil_mode=ceil_mode)
        np.testing.assert_array_equal(found["input"], of_largest["input"] * np.sign(x))
        return
    assert_close(y, oracle.lp_pool3d(x, p, kernel, stride, ceil_mode), terms=12)
    expected = numeric_gradient(lambda z: oracle.lp_pool3d(z, p, kernel, stride, ceil_mode), x, gradient)
    assert_close(found["input"], expected, terms=12)


@pytest.mark.parametrize("size", SIZES)
def test_adaptive(size, rng, isa):
    x = volume(rng)
    places = list(oracle.adaptive_boxes(x, size))
    maxima, indices = F.adaptive_max_pool3d(x, size, True)
    np.testing.assert_array_equal(maxima, oracle.max_boxes(x, places))
    np.testing.assert_array_equal(indices, oracle.argmax_boxes(x, places))
    averages = F.adaptive_avg_pool3d(x, size)
    assert_close(averages, oracle.avg_boxes(x, places), terms=120)
    assert rules(F.adaptive_avg_pool3d).shape(x, size) == averages.shape == (2, 3, *size)
    gradient = normal(rng, *averages.shape)
    _, found = by_rule(F.adaptive_max_pool3d, gradient, x, size)
    assert_close(found["input"], oracle.max_boxes_gradient(x, gradient, places), terms=27)
    _, found = by_rule(F.adaptive_avg_pool3d, gradient, x, size)
    expected = oracle.linear_gradient(lambda one: oracle.avg_boxes(one, places), x.shape, gradient)
    assert_close(found["input"], expected, terms=120)


def test_adaptive_output_size(rng):
    x = volume(rng)
    np.testing.assert_array_equal(F.adaptive_avg_pool3d(x, (None, 2, None)), F.adaptive_avg_pool3d(x, (5, 2, 4)))
    np.testing.assert_array_equal(F.adaptive_avg_pool3d(x, 3), F.adaptive_avg_pool3d(x, (3, 3, 3)))
    np.testing.assert_array_equal(F.adaptive_max_pool3d(x, None), x)
    assert F.adaptive_avg_pool3d(x, (0, 2, 2)).shape == (2, 3, 0, 2, 2)


def test_names_of_paddings(rng):
    x = volume(rng)
    np.testing.assert_array_equal(F.max_pool3d(x, 3, 1, "same"), F.max_pool3d(x, 3, 1, 1))
    assert F.avg_pool3d(x, (2, 3, 2), 2, "same_tf").shape == (2, 3, 3, 3, 2)


CALLS = {
    "max_pool3d": lambda x: F.max_pool3d(x, 3, 2, 1),
    "indices": lambda x: F.max_pool3d(x, 3, 2, 1, return_indices=True)[1],
    "avg_pool3d": lambda x: F.avg_pool3d(x, 3, 1, 1),
    "lp_pool3d": lambda x: F.lp_pool3d(x, 2, 3),
    "adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x, (4, 3, 2)),
    "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x, (4, 3, 2)),
}
GRADIENTS = [call for name, call in CALLS.items() if name != "indices"]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
class TestEveryPooling:
    def test_same_bits_for_any_batch_and_thread_count(self, rng, call):
        x = normal(rng, 3, 70, 6, 9, 8)
        with convlane.num_threads(1):
            whole = call(x)
        with convlane.num_threads(3):
            np.testing.assert_array_equal(call(x), whole)
            np.testing.assert_array_equal(call(x[1:2]), whole[1:2])

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, call, layout):
        x = normal(rng, 2, 3, 5, 6, 4)
        before = x.copy()
        np.testing.assert_array_equal(call(LAYOUTS[layout](x)), call(before))
        np.testing.assert_array_equal(x, before)

    def test_single_volume(self, rng, call):
        x = normal(rng, 2, 3, 5, 6, 4)
        np.testing.assert_array_equal(call(x[0]), call(x)[0])

    def test_empty_batch_and_no_channels(self, call):
        x = np.zeros((2, 3, 5, 6, 4), np.float32)
        assert call(x[:0]).shape == (0, *call(x).shape[1:])
        assert call(x[:, :0]).shape == (2, 0, *call(x).shape[2:])

    @pytest.mark.parametrize("value", [None, 3.0, [[1.0]], np.ones((1, 2, 4, 4, 4)), np.ones((2, 4, 4, 4), np.int64)])
    def test_kinds(self, call, value):
        with pytest.raises(TypeError, match=r"pool3d: input must be"):
            call(value)

    @pytest.mark.parametrize("shape", [(8, 8, 8), (1, 1, 4, 8, 8, 1), (1, 4, 0, 8, 8), (1, 4, 8, 8, 0)])
    def test_shapes(self, call, shape):
        with pytest.raises(ValueError, match=r"pool3d: (input|the padded input)"):
            call(np.zeros(shape, np.float32))


@pytest.mark.parametrize("call", GRADIENTS)
def test_gradients_of_layouts_and_single_volumes(call, rng):
    x = normal(rng, 2, 3, 5, 6, 4)
    value, pullback = convlane.vjp(call, x)
    gradient = normal(rng, *value.shape)
    (expected,) = pullback(gradient)
    for layout in ("channels_last", "sliced", "negative_strides"):
        _, pullback = convlane.vjp(call, LAYOUTS[layout](x))
        np.testing.assert_array_equal(pullback(LAYOUTS[layout](gradient))[0], expected)
    single, pullback = convlane.vjp(call, x[1])
    np.testing.assert_array_equal(single, value[1])
    np.testing.assert_array_equal(pullback(gradient[1])[0], expected[1])
    value, pullback = convlane.vjp(call, x[:0])
    assert pullback(value)[0].shape == (0, 3, 5, 6, 4)


class TestSpecialValues:
    def test_nan_and_infinity_reach_exactly_their_windows(self, rng, isa):
        for value in (np.nan, np.inf, -np.inf):
            x = volume(rng).copy()
            x[1, 2, 3, 1, 2] = value
            sides = [(1, 1)] * 3
            places = list(oracle.boxes(x, (3, 3, 3), (2, 2, 2), sides, (1, 1, 1)))
            y, indices = F.max_pool3d(x, 3, 2, 1, return_indices=True)
            np.testing.assert_array_equal(y, oracle.max_boxes(x, places))
            np.testing.assert_array_equal(indices, oracle.argmax_boxes(x, places))
            assert_close(F.avg_pool3d(x, 3, 2, 1), oracle.avg_pool3d(x, (3, 3, 3), (2, 2, 2), sides), terms=27)

    def test_the_last_nan(self):
        x = np.zeros((1, 1, 2, 1, 2), np.float32)
        x[0, 0, 0, 0, 1] = x[0, 0, 1, 0, 0] = np.nan
        assert F.max_pool3d(x, (2, 1, 2), return_indices=True)[1].item() == 2

    def test_windows_in_the_padding(self):
        y = F.max_pool3d(np.ones((1, 1, 1, 1, 1), np.float32), (2, 1, 1), 1, (1, 0, 0), (2, 1, 1))
        np.testing.assert_array_equal(y.ravel(), [-np.inf])


NETWORKS = {  # of (N, 2, 4, 5, 6)
    "max": lambda x: F.max_pool3d(x, 3, 2, 1, ceil_mode=True),
    "max dilated": lambda x: F.max_pool3d(x, 2, 1, 1, (1, 2, 1)),
    "avg": lambda x: F.avg_pool3d(x, 3, 2, 1, True, False),
    "avg divisor": lambda x: F.avg_pool3d(x, (1, 2, 2), divisor_override=3),
    "lp": lambda x: F.lp_pool3d(x, 3.0, 2),
    "adaptive avg": lambda x: F.adaptive_avg_pool3d(x, (3, 2, None)),
    "adaptive max": lambda x: F.relu(F.adaptive_max_pool3d(x, 1)),
    "indices": lambda x: F.max_pool3d(x, 3, 2, 1, 1, True, True)[1],
    "indices of few": lambda x: F.adaptive_max_pool3d(x, (2, 2, 3), True)[1],
    "twice": lambda x: F.max_pool3d(F.avg_pool3d(x, 2, 1), 2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled(name, rng, isa, tmp_path):
    def network(x):
        return NETWORKS[name](F.relu(x))  # with equal numbers

    x = normal(rng, 2, 2, 4, 5, 6)
    plan = convlane.compile(network, (None, 2, 4, 5, 6))
    np.testing.assert_array_equal(plan(x), network(x))
    np.testing.assert_array_equal(plan(x[:1]), network(x[:1]))
    plan.save(tmp_path / "plan.safetensors")
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan.safetensors")(x), plan(x))
    plan = convlane.compile(NETWORKS[name], (None, 2, None, 5, 6))
    for volumes in (x, x[..., ::-1], x[:, :, :3]):
        np.testing.assert_array_equal(plan(volumes), NETWORKS[name](volumes))


def test_wrong_arguments_of_the_kernels():
    within, rows = np.zeros((2, 1, 2, 3), np.int64), np.full((1, 1, 1, 6), 11)
    assert _core.indices_in_volumes(within, rows, 20)[0, 0, 0, 0] == 20
    for wrong in (rows + 1, rows - 12):
        with pytest.raises(ValueError, match=r"pooling: index .* is out of range for a dimension of 12"):
            _core.indices_in_volumes(within, wrong, 20)
    for first, second in ((within[..., :2], rows), (within, rows[..., :5]), (within, np.zeros((3, 1, 1, 6), np.int64))):
        with pytest.raises(ValueError, match=r"do not fit|must be int64 images, dense and channels last"):
            _core.indices_in_volumes(first, second, 20)
    for wrong in (within[0], within.astype(np.float32), np.zeros((2, 1, 2, 6), np.int64)[..., ::2]):
        with pytest.raises(ValueError, match="must be int64 images, dense and channels last"):
            _core.indices_in_volumes(wrong, rows, 20)


def test_refused_by_plans():
    with pytest.raises(ValueError, match="max_pool3d of one input without a batch"):
        convlane.compile(lambda x: F.max_pool3d(x, 1), (1, 8, 5, 6))


def test_receptive_field():
    def network(x):
        y = F.max_pool3d(F.reshape(x, (1, 1, 6, 9, 12)), (2, 3, 3), (1, 2, 2), (0, 1, 1))
        return F.adaptive_avg_pool3d(F.avg_pool3d(y, (1, 1, 3), 1), (1, 1, 2))

    fields = convlane.analysis.receptive_field(network, (1, 6, 9, 12))
    assert fields["max_pool3d"].size == (3, 3)
    assert fields["avg_pool3d"].size == (3, 7)
    assert fields["adaptive_avg_pool3d"].size == (11, 9)


X = np.zeros((1, 2, 8, 8, 8), np.float32)


@pytest.mark.parametrize("function", [F.max_pool3d, F.avg_pool3d])
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kernel_size": 0}, "kernel size must be at least 1"),
        ({"kernel_size": (9, 1, 1)}, "smaller than the kernel's reach"),
        ({"kernel_size": (1, 2)}, "kernel_size must be an integer or a tuple of 3"),
        ({"stride": (0, 1, 1)}, "stride must be at least 1"),
        ({"padding": -1}, "padding must not be negative"),
        ({"padding": (2, 1, 1)}, "padding must be at most half of the kernel's reach"),
        ({"padding": (1, 2)}, "padding must be an integer, a tuple of 3, a tuple of 6"),
        ({"padding": "full"}, "padding must be 'same'"),
        ({"kernel_size": 2**63}, "kernel_size is out of range"),
    ],
)
def test_bad_values(function, arguments, match):
    arguments = {"kernel_size": 3, "stride": 1, **arguments}
    for call in (function, rules(function).shape):
        with pytest.raises(ValueError, match=f"{function.__name__}: .*{match}"):
            call(X, **arguments)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.max_pool3d(X, 1.5), TypeError, "max_pool3d: kernel_size must be an integer"),
        (lambda: F.avg_pool3d(X, 2, divisor_override=0), ValueError, "avg_pool3d: divisor_override must not be 0"),
        (lambda: F.avg_pool3d(X, 2, divisor_override=1.5), TypeError, "avg_pool3d: divisor_override must be an"),
        (lambda: F.lp_pool3d(X, -2, 2), ValueError, "lp_pool3d: norm_type must be larger than 0, got -2"),
        (lambda: F.lp_pool3d(X, "two", 2), TypeError, "lp_pool3d: norm_type must be a number"),
        (lambda: F.adaptive_avg_pool3d(X, -1), ValueError, "adaptive_avg_pool3d: output size must not be negative"),
        (lambda: F.adaptive_max_pool3d(X, (1, 2)), ValueError, "adaptive_max_pool3d: output_size must be an integer"),
        (lambda: F.adaptive_max_pool3d(X, 1.5), TypeError, "adaptive_max_pool3d: output_size must be an integer"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()


TORCH = {
    "max": lambda f, x: f.max_pool3d(x, 3, 2, 1, 1, True, return_indices=True),
    "max dilated": lambda f, x: f.max_pool3d(x, (2, 2, 1), 1, (1, 0, 0), (1, 2, 3), return_indices=True),
    "avg": lambda f, x: f.avg_pool3d(x, 3, 2, 1, True),
    "avg inside": lambda f, x: f.avg_pool3d(x, (3, 2, 2), None, (1, 1, 0), True, False),
    "avg divisor": lambda f, x: f.avg_pool3d(x, 2, divisor_override=5),
    "lp": lambda f, x: f.lp_pool3d(x, 2, 3, 2, True),
    "adaptive avg": lambda f, x: f.adaptive_avg_pool3d(x, (3, 4, 3)),
    "adaptive max": lambda f, x: f.adaptive_max_pool3d(x, (2, 4, None), return_indices=True),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", TORCH)
def test_torch(name, rng):
    import torch

    x = normal(rng, 2, 3, 5, 6, 7)
    tensor = torch.from_numpy(x).double().requires_grad_()
    ours, theirs = TORCH[name](F, x), TORCH[name](torch.nn.functional, tensor)
    if isinstance(ours, tuple):
        np.testing.assert_array_equal(ours[1], theirs[1].numpy())
        ours, theirs = ours[0], theirs[0]
    assert_close(ours, theirs.detach().numpy(), terms=27)
    gradient = normal(rng, *ours.shape)
    theirs.backward(torch.from_numpy(gradient).double())

    def values(z):
        found = TORCH[name](F, z)
        return found[0] if isinstance(found, tuple) else found

    _, pullback = convlane.vjp(values, x)
    assert_close(pullback(gradient)[0], tensor.grad.numpy(), terms=27)
