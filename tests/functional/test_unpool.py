"""Max unpooling against its oracle and torch, recorded and compiled together with the pooling."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import functional as F
from convlane.functional._op import rules
from convlane.functional.unpool import max_unpool
from convlane.graph.lower import check_supported
from convlane.graph.trace import trace
from gradients import by_rule
from layouts import LAYOUTS
from oracles import pool as oracle

POOLS = {
    1: (F.max_pool1d, F.max_unpool1d, (2, 5, 11)),
    2: (F.max_pool2d, F.max_unpool2d, (2, 5, 7, 8)),
    3: (F.max_pool3d, F.max_unpool3d, (2, 5, 4, 5, 6)),
}
GEOMETRIES = [(2, 2, 0), (3, 2, 1), (2, 1, 0)]  # kernel, stride, padding


def volume(rng, *shape):
    return rng.integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize("axes", POOLS)
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_what_was_pooled_is_put_back(axes, kernel, stride, padding, rng, threads):
    pool, unpool, shape = POOLS[axes]
    x = volume(rng, *shape)
    values, indices = pool(x, kernel, stride, padding, return_indices=True)
    y = unpool(values, indices, kernel, stride, padding, output_size=shape)
    np.testing.assert_array_equal(y, oracle.max_unpool(values, indices, shape[2:]))
    assert np.moveaxis(y, 1, -1).flags.c_contiguous
    np.testing.assert_array_equal(unpool(values[1], indices[1], kernel, stride, padding, shape[2:]), y[1])
    assert unpool(values[:0], indices[:0], kernel, stride, padding, shape).shape == (0, *shape[1:])
    assert unpool(values[:, :0], indices[:, :0], kernel, stride, padding, shape).shape == (2, 0, *shape[2:])


def test_channels_at_the_edge_of_a_block(rng, threads):
    x, indices = rng.standard_normal((3, 130, 2, 3), np.float32), rng.integers(0, 400, (3, 130, 2, 3))
    np.testing.assert_array_equal(max_unpool(x, indices, (20, 20)), oracle.max_unpool(x, indices, (20, 20)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, rng):
    x, indices = volume(rng, 2, 3, 4, 5), rng.integers(0, 80, (2, 3, 4, 5))
    other = "contiguous" if layout == "big_endian" else layout
    y = F.max_unpool2d(LAYOUTS[layout](x), LAYOUTS[other](indices), 2)
    np.testing.assert_array_equal(y, F.max_unpool2d(x, indices, 2))


def test_gradient(rng):
    """The gradient of a number is that of its position, even if another number was stored there."""
    x, indices = rng.standard_normal((2, 3, 4, 5), np.float32), rng.integers(0, 24, (2, 3, 4, 5))
    gradient = rng.standard_normal((2, 3, 4, 6), np.float32)
    y, found = by_rule(max_unpool, gradient, x, indices, (4, 6))
    np.testing.assert_array_equal(y, oracle.max_unpool(x, indices, (4, 6)))
    flat = np.take_along_axis(gradient.reshape(2, 3, 24), indices.reshape(2, 3, 20), 2)
    np.testing.assert_array_equal(found["input"], flat.reshape(x.shape))
    assert rules(max_unpool).shape(x, indices, (4, 6)) == y.shape


@pytest.mark.torch
@pytest.mark.parametrize("axes", POOLS)
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_torch(axes, kernel, stride, padding, rng):
    import torch

    _, _, shape = POOLS[axes]
    x = rng.standard_normal(shape, np.float32)

    def network(library, z):
        pooled, indices = getattr(library, f"max_pool{axes}d")(z, kernel, stride, padding, return_indices=True)
        return getattr(library, f"max_unpool{axes}d")(pooled, indices, kernel, stride, padding, shape)

    tensor = torch.from_numpy(x).double().requires_grad_()
    theirs = network(torch.nn.functional, tensor)
    ours, pullback = convlane.vjp(lambda z: network(F, z), x)
    np.testing.assert_array_equal(ours, theirs.detach().numpy())
    gradient = rng.standard_normal(shape, np.float32)
    theirs.backward(torch.from_numpy(gradient).double())
    assert_close(pullback(gradient)[0], tensor.grad.numpy(), terms=kernel**axes)


@pytest.mark.torch
def test_default_sizes_are_those_of_torch():
    import torch

    x, indices = np.ones((1, 1, 3, 4), np.float32), np.zeros((1, 1, 3, 4), np.int64)
    for arguments in ((2,), (3, 2, 1), ((3, 2), (1, 3), (1, 0)), ((1, 4), 2)):
        ours = F.max_unpool2d(x, indices, *arguments)
        theirs = torch.nn.functional.max_unpool2d(torch.from_numpy(x), torch.from_numpy(indices), *arguments)
        assert ours.shape == tuple(theirs.shape)


def segmentation(x):
    """Unpool as SegNet does: maxima return to the positions from which pooling took them."""
    y, indices = F.max_pool2d(F.relu(x), 2, return_indices=True)
    z, more = F.max_pool2d(y * 2, 3, 2, 1, return_indices=True)
    z = F.max_unpool2d(F.add(z, z, activation="relu"), more, 3, 2, 1, output_size=y.shape)
    return F.max_unpool2d(z, indices, 2, output_size=x.shape)


NETWORKS = {
    "segmentation": segmentation,
    "signals": lambda x: F.max_unpool1d(*F.max_pool1d(F.flatten(x, 2), 2, return_indices=True), 2),
    "volumes": lambda x: F.max_unpool3d(
        *F.max_pool3d(F.unsqueeze(x, 1), 2, return_indices=True), 2, output_size=(19, 8, 10)
    ),
    "adaptive": lambda x: F.adaptive_max_pool2d(x, 3, return_indices=True),
    "adaptive values": lambda x: F.adaptive_max_pool2d(x, (8, 10), return_indices=True)[0],
    "indices": lambda x: F.max_pool2d(F.relu(x), 3, 2, 1, 1, True, True)[1],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled(name, rng, isa, tmp_path):
    x = rng.integers(-3, 4, (3, 19, 8, 10)).astype(np.float32)
    expected = NETWORKS[name](x)
    plan = convlane.compile(NETWORKS[name], (None, *x.shape[1:]))
    plan.save(tmp_path / "plan.safetensors")
    for each in (plan, convlane.load_plan(tmp_path / "plan.safetensors")):
        for found, whole in zip(*((y if isinstance(y, tuple) else (y,)) for y in (each(x), expected)), strict=True):
            np.testing.assert_array_equal(found, whole)
            assert found.dtype == whole.dtype


def test_steps_have_one_result():
    """Passes split an operation that returns indices into two; a file may still contain the single one."""
    with pytest.raises(ValueError, match="max_pool2d with return_indices"):
        check_supported(trace(lambda x: F.max_pool2d(x, 2, return_indices=True), (1, 2, 4, 4)))


def test_plans_refuse_constants_and_indices_outside(rng):
    indices = np.zeros((1, 2, 4, 4), np.int64)
    with pytest.raises(ValueError, match="max_unpool with a constant indices"):
        convlane.compile(lambda x: F.max_unpool2d(x, indices, 2), (1, 2, 4, 4))
    plan = convlane.compile(lambda x: max_unpool(*F.max_pool2d(x, 2, return_indices=True), (1, 3)), (1, 2, 4, 4))
    with pytest.raises(ValueError, match="max_unpool: index 5 is out of range for a dimension of 3"):
        plan(np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4))


def test_receptive_field():
    fields = convlane.analysis.receptive_field(
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), (1, 3, 8, 6)
    )
    assert fields["max_unpool"].size == (8, 6)


X, PLACES = np.zeros((1, 2, 4, 4), np.float32), np.zeros((1, 2, 4, 4), np.int64)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.max_unpool2d(X.astype(float), PLACES, 2), TypeError, "max_unpool2d: input must be float32"),
        (lambda: F.max_unpool2d(X, X, 2), TypeError, "indices must hold int64, got float32"),
        (lambda: F.max_unpool2d(X, PLACES.astype(np.int32), 2), TypeError, "max_unpool2d: indices must be .*int32"),
        (
            lambda: F.max_unpool2d(X, PLACES[:, :1], 2),
            ValueError,
            "max_unpool2d: input .* and indices .* the same shape",
        ),
        (lambda: F.max_unpool1d(X, PLACES, 2), ValueError, "max_unpool1d: input must have 3 dimensions, or 2"),
        (lambda: F.max_unpool2d(X, PLACES + 64, 2), ValueError, "index 64 is out of range for a dimension of 64"),
        (lambda: F.max_unpool2d(X, PLACES - 1, 2), ValueError, "index -1 is out of range"),
        (lambda: F.max_unpool2d(X, PLACES, (1, 2, 3)), ValueError, "max_unpool2d: kernel_size must be an integer or a"),
        (lambda: F.max_unpool2d(X, PLACES, 2.5), TypeError, "max_unpool2d: kernel_size must be an integer"),
        (lambda: F.max_unpool2d(X, PLACES, 2, 2, 9), ValueError, "max_unpool2d: kernel_size, stride and padding give"),
        (lambda: F.max_unpool2d(X, PLACES, 2, output_size=(10, 8)), ValueError, r"not reduce output_size \(10, 8\)"),
        (lambda: F.max_unpool2d(X, PLACES, 2, output_size=8), ValueError, "output_size must be a tuple of 2"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
