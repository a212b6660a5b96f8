"""Resampling against its definition and torch, and what it refuses."""

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane import vjp
from layouts import LAYOUTS
from oracles.resize import resize

SHAPES = [((2, 5, 7), (11,)), ((1, 17, 6, 9), (9, 4)), ((1, 3, 4, 5, 6), (2, 7, 9))]
RULES = [
    {"mode": "linear"},
    {"mode": "linear", "coordinates": "align_corners"},
    {"mode": "linear", "coordinates": "asymmetric"},
    {"mode": "cubic", "cubic_a": -0.5},
    {"mode": "cubic", "coordinates": "pytorch_half_pixel", "exclude_outside": True},
    {"mode": "area"},
    *(
        {"mode": "nearest", "coordinates": coordinates, "rounding": rounding}
        for coordinates in ("half_pixel", "asymmetric")
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
]


@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_definition(shape, size, rule, isa, rng):
    x = rng.standard_normal(shape, np.float32)
    found = F.resize(x, size, **rule)
    assert found.shape == (*shape[:2], *size)
    np.testing.assert_allclose(found, resize(x.astype(np.float64), size, **rule), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4, 8, 16, 19, 65])
def test_channels_layouts_and_threads(channels, isa, threads, rng):
    x = rng.standard_normal((3, channels, 9, 70), np.float32)
    expected = resize(x.astype(np.float64), (5, 150), "linear")
    base = F.resize(x, (5, 150))
    np.testing.assert_allclose(base, expected, rtol=1e-4, atol=1e-5)
    for same in (F.channels_last(x), np.asfortranarray(x), x[::-1, ::-1, :, ::-1].copy()[::-1, ::-1, :, ::-1]):
        np.testing.assert_array_equal(F.resize(same, (5, 150)), base)
    np.testing.assert_array_equal(F.resize(x[1:2], (5, 150)), base[1:2])


def test_scales_are_not_the_sizes_ratio(rng):
    x = rng.standard_normal((1, 2, 10), np.float32)
    found = F.resize(x, [23], scales=[2.35])
    np.testing.assert_allclose(found, resize(x, [23], scales=[2.35]), atol=1e-5)
    assert np.abs(found - F.resize(x, [23])).max() > 0.01


def test_more_rows_than_are_added_at_once(rng):
    x = rng.standard_normal((1, 4, 300, 2), np.float32)
    np.testing.assert_allclose(F.resize(x, (1, 2), "area")[0, :, 0], x[0].mean(1), atol=1e-5)


def test_what_is_not_read_does_no_harm(rng):
    x = rng.standard_normal((1, 8, 4, 6), np.float32)
    clean = F.resize(x, (8, 3), "linear")
    x[0, :, 1, 5] = np.nan
    dirty = F.resize(x, (8, 3), "linear")
    touched = np.isnan(dirty).any(1)[0]
    assert touched[:, 2].sum() == 4
    assert not touched[:, :2].any()
    np.testing.assert_array_equal(dirty[0, :, ~touched], clean[0, :, ~touched])


@pytest.mark.parametrize("rule", [*RULES[:6], {"mode": "nearest"}, {"mode": "linear", "antialias": True}], ids=str)
@pytest.mark.parametrize(("shape", "size"), [((1, 3, 6), (4,)), ((2, 5, 4, 6), (7, 3)), ((1, 2, 3, 4, 2), (2, 5, 4))])
def test_gradient_is_the_adjoint(shape, size, rule, rng):
    x = rng.standard_normal(shape, np.float32)
    output, pullback = vjp(lambda x: F.resize(x, size, **rule), x)
    g = rng.standard_normal(output.shape, np.float32)
    (dx,) = pullback(g)
    direction = rng.standard_normal(shape, np.float32)
    moved = F.resize(direction, size, **rule)
    assert np.vdot(g, moved) == pytest.approx(np.vdot(dx, direction), rel=1e-3, abs=1e-3)


TORCH = [
    ((2, 3, 8), {"size": 13}),
    ((2, 3, 8), {"scale_factor": 1.7, "mode": "linear"}),
    ((2, 3, 8), {"scale_factor": 0.6, "mode": "area"}),
    ((1, 17, 9, 8), {"scale_factor": 2, "mode": "bilinear"}),
    ((1, 17, 9, 8), {"scale_factor": (1.3, 0.4), "mode": "bilinear"}),
    ((1, 17, 9, 8), {"scale_factor": (1.3, 0.4), "mode": "bilinear", "recompute_scale_factor": True}),
    ((1, 17, 9, 8), {"size": (20, 3), "mode": "bilinear", "align_corners": True}),
    ((1, 17, 9, 8), {"size": (1, 1), "mode": "bilinear", "align_corners": True}),
    ((1, 3, 19, 28), {"size": (7, 9), "mode": "bilinear", "antialias": True}),
    ((1, 3, 19, 28), {"size": (7, 50), "mode": "bicubic", "antialias": True}),
    ((1, 3, 9, 8), {"size": (20, 5), "mode": "bicubic"}),
    ((1, 3, 9, 8), {"size": (20, 5), "mode": "bicubic", "align_corners": True}),
    ((1, 3, 9, 8), {"size": (20, 5), "mode": "nearest-exact"}),
    ((1, 3, 9, 8), {"scale_factor": 2.5, "mode": "nearest"}),
    ((1, 3, 9, 8), {"size": (4, 11), "mode": "area"}),
    ((1, 2, 3, 5, 4), {"size": (6, 4, 9), "mode": "trilinear"}),
    ((1, 2, 3, 5, 4), {"scale_factor": 2, "mode": "trilinear", "align_corners": True}),
    ((1, 2, 3, 5, 4), {"scale_factor": (2, 1, 0.5), "mode": "nearest"}),
    ((1, 2, 3, 5, 4), {"scale_factor": (2, 1.4, 0.5), "mode": "nearest-exact"}),
    ((1, 2, 3, 5, 4), {"scale_factor": 1.7, "mode": "trilinear", "recompute_scale_factor": True}),
    ((1, 2, 3, 5, 4), {"size": (2, 7, 3), "mode": "area"}),
    ((2, 3, 8), {"size": 3, "mode": "linear", "align_corners": True}),
    ((2, 3, 8), {"scale_factor": 0.7, "mode": "nearest-exact"}),
    ((1, 3, 9, 8), {"scale_factor": (0.6, 1.9), "mode": "bicubic"}),
    ((1, 3, 19, 28), {"scale_factor": 0.35, "mode": "bilinear", "antialias": True}),
    ((1, 3, 19, 28), {"size": (7, 9), "mode": "bicubic", "antialias": True, "align_corners": True}),
]


@pytest.mark.torch
@pytest.mark.parametrize(("shape", "arguments"), TORCH, ids=str)
def test_interpolate_is_torch_s(shape, arguments, rng):
    import torch

    x = rng.standard_normal(shape, np.float32)
    theirs = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.interpolate(theirs, **arguments)
    output, pullback = vjp(lambda x: F.interpolate(x, **arguments), x)
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    g = rng.standard_normal(output.shape, np.float32)
    expected.backward(torch.tensor(g))
    np.testing.assert_allclose(pullback(g)[0], theirs.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_is_torch_s_for_all_sizes(mode):
    import torch

    for before in range(1, 40):
        x = np.arange(before, dtype=np.float32)[None, None]
        for after in range(1, 60):
            theirs = torch.nn.functional.interpolate(torch.tensor(x), after, mode=mode).numpy()
            np.testing.assert_array_equal(F.interpolate(x, after, mode=mode), theirs, err_msg=f"{before} to {after}")


def test_empty_batch():
    assert F.interpolate(np.zeros((0, 3, 4, 4), np.float32), 8).shape == (0, 3, 8, 8)


def test_what_is_refused():
    x = np.zeros((1, 3, 4, 4), np.float32)
    for arguments, error, message in [
        ({}, ValueError, "interpolate: give either size or scale_factor"),
        ({"size": 3, "scale_factor": 2}, ValueError, "give either size or scale_factor"),
        ({"size": 3, "recompute_scale_factor": True}, ValueError, "recompute_scale_factor is for scale_factor"),
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": (2, 3, 4)}, ValueError, "size must be a number or 2 of them"),
        ({"size": 2.5}, TypeError, r"size must be an integer, got 2\.5"),
        ({"scale_factor": 0.1}, ValueError, r"scale_factor=0\.1 makes \(4, 4\) empty"),
        ({"scale_factor": -1}, ValueError, "scale_factor must be a positive number"),
        ({"scale_factor": "2"}, TypeError, "scale_factor must be a number"),
        ({"size": 2, "mode": "cubic"}, ValueError, "mode must be one of nearest"),
        ({"size": 2, "mode": "trilinear"}, ValueError, "mode 'trilinear' does not take 4 dimensions"),
        ({"size": 2, "align_corners": True}, ValueError, "align_corners is for the linear and cubic modes"),
        ({"size": 2, "antialias": True}, ValueError, "antialias is for 'bilinear' and 'bicubic'"),
    ]:
        with pytest.raises(error, match=message):
            F.interpolate(x, **arguments)
    with pytest.raises(ValueError, match=r"input must be \(N, C, L\).*got shape \(4, 4\)"):
        F.interpolate(x[0, 0], 2)
    with pytest.raises(ValueError, match=r"input \(1, 3, 0, 4\) is empty"):
        F.interpolate(x[:, :, :0], 2)
    with pytest.raises(ValueError, match="coordinates must be one of half_pixel"):
        F.resize(x, (2, 2), coordinates="tf_crop_and_resize")
    with pytest.raises(ValueError, match="scales must be 2 numbers"):
        F.resize(x, (2, 2), scales=[1.0])
    with pytest.raises(TypeError, match="input must be float32"):
        F.resize(x.astype(np.float64), (2, 2))


@pytest.mark.parametrize("rule", [*RULES[:6], {"mode": "nearest"}, {"mode": "linear", "antialias": True}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled(rule, layout, isa, rng):
    x = rng.standard_normal((3, 19, 9, 7), np.float32)
    plan = convlane.compile(lambda x: F.relu(F.resize(x, (5, 12), **rule)), (None, 19, 9, 7))
    np.testing.assert_array_equal(plan(LAYOUTS[layout](x)), F.relu(F.resize(x, (5, 12), **rule)))


@pytest.mark.parametrize("rule", [RULES[0], RULES[4], RULES[5], {"mode": "nearest"}], ids=str)
def test_compiled_signals_and_volumes(rule, rng):
    x = rng.standard_normal((2, 6, 4, 15), np.float32)
    for shape, size in ((1, 6, 60), (37,)), ((1, 6, 4, 5, 3), (3, 9, 7)):
        assert_compiled(lambda x, shape=shape, size=size: F.resize(F.reshape(x, shape), size, **rule), x)


@pytest.mark.parametrize(("shape", "size"), [((2, 6, 15), (37,)), ((2, 6, 5, 7), (9, 4)), ((2, 6, 4, 5, 3), (3, 9, 7))])
def test_a_plan_reads_its_input_where_it_lies(shape, size, rng):
    x = rng.standard_normal(shape, np.float32)
    wide = np.repeat(x, 2, -1)
    plan, expected = convlane.compile(lambda x: F.resize(x, size), shape), F.resize(x, size)
    for given in (x, np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1), wide[..., ::2], x[::-1].copy()[::-1]):
        before = given.copy()
        np.testing.assert_array_equal(plan(given), expected)
        np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale_factor": 2},
        {"scale_factor": (1.5, 0.7), "mode": "nearest-exact"},
        {"size": (9, 4), "mode": "bilinear", "align_corners": True},
        {"size": (3, 4), "mode": "bicubic", "antialias": True},
        {"size": 5, "mode": "area"},
    ],
    ids=str,
)
def test_interpolate_compiles(arguments, rng):
    assert_compiled(lambda x: F.interpolate(x, **arguments), rng.standard_normal((2, 5, 6, 7), np.float32))


def assert_compiled(network, x):
    expected = np.concatenate([network(each[None]) for each in x])
    np.testing.assert_array_equal(convlane.compile(network, (None, *x.shape[1:]))(x), expected)
