"""Every argument of every operation has the right gradient, or is refused by name if a gradient is requested."""

from functools import partial
from typing import get_args

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane.functional._op import hints_of, operations, rules, signature_of

OURS = {name: fn for name, fn in operations().items() if fn.__module__.startswith("convlane.")}


def spread(*shape):
    """Return numbers that are far from each other and from 0, where functions may have kinks, compared to the steps."""
    size = int(np.prod(shape))
    order = np.random.default_rng(size).permutation(size)
    return ((order - size / 2 + 0.25) / 8).astype(np.float32).reshape(shape)


IMAGES, ROWS, VECTOR = spread(2, 3, 4, 4), spread(2, 3), spread(3)
POSITIVE = np.abs(IMAGES) + 0.5
NORM = {"input": IMAGES, "weight": VECTOR, "bias": VECTOR + 1}
ARGUMENTS = {  # all differentiable arguments beside IMAGES as `input`
    "cat": {"tensors": [IMAGES, POSITIVE]},
    "narrow": {"dim": 1, "start": 1, "length": 2},
    "interleave": {"tensors": [IMAGES, POSITIVE]},
    "pad": {"pad": (1, 0, 2, 1)},
    "pixel_shuffle": {"input": spread(1, 8, 2, 2), "upscale_factor": 2},
    "pixel_unshuffle": {"downscale_factor": 2},
    "grid_sample": {"grid": (spread(2, 3, 2, 2).astype(int) % 5 - 1.8).astype(np.float32) / 2},
    "softmax": {"dim": 1},
    "log_softmax": {"dim": -1},
    "unflatten": {"dim": 1, "sizes": (3, 1)},
    "add": {"other": POSITIVE, "activation": "tanh"},
    "mul": {"other": POSITIVE},
    "scale": {"scale": ROWS},
    "affine": {"factor": 2.5, "offset": 0.5},
    "div": {"other": POSITIVE},
    "sub": {"other": POSITIVE[:, :1]},
    "pow": {"input": POSITIVE, "exponent": VECTOR[:, None, None]},
    "maximum": {"other": VECTOR[:, None, None]},
    "minimum": {"other": VECTOR[:, None, None]},
    **{name: {"input": POSITIVE} for name in ("log", "log1p", "sqrt", "rsqrt", "reciprocal")},
    "cumsum": {"dim": 1},
    "permute": {"dims": (1, 0, 3, 2)},
    "reshape": {"shape": (3, -1)},
    "expand": {"size": (2, -1, -1, -1, -1)},
    "flip": {"dims": 1},
    "strided_slice": {"dim": 3, "start": 1, "step": 2},
    "tile": {"dims": (2, 1)},
    "index_select": {"dim": 1, "index": np.array([2, 0, 2])},
    "gather": {"dim": 0, "index": np.ones((1, 3, 4, 4), np.int64)},
    "topk_indices": {"k": 2},
    "matmul": {"other": POSITIVE},
    "clamp": {"min": -1.0, "max": 1.0},
    "where": {"condition": IMAGES > 0, "other": POSITIVE},
    **{name: {"other": POSITIVE} for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "logical_and": {"input": IMAGES > 0, "other": IMAGES < 1},
    "logical_or": {"input": IMAGES > 0, "other": IMAGES < 1},
    "logical_not": {"input": IMAGES > 0},
    "dropout": {"p": 0.0},
    "conv2d": {"weight": spread(2, 3, 3, 3), "bias": spread(2), "residual": spread(2, 2, 2, 2), "activation": "silu"},
    "conv3d": {
        "input": spread(2, 3, 3, 4, 4),
        "weight": spread(2, 3, 2, 3, 3),
        "bias": spread(2),
        "residual": spread(2, 2, 2, 2, 2),
        "activation": "silu",
    },
    "conv_transpose2d": {"weight": spread(3, 2, 3, 3), "bias": spread(2), "stride": 2, "activation": "silu"},
    "linear": {"input": ROWS, "weight": spread(4, 3), "bias": spread(4), "activation": "tanh"},
    "cross_entropy": {"target": POSITIVE, "label_smoothing": 0.1, "reduction": "none"},
    "nll_loss": {"input": ROWS, "target": np.array([2, 0])},
    "mse_loss": {"target": POSITIVE},
    "binary_cross_entropy": {"input": 1 / (1 + np.abs(IMAGES)), "target": 1 / (2 + np.abs(IMAGES))},
    "binary_cross_entropy_with_logits": {"target": (IMAGES > 1).astype(np.float32)},
    "batch_norm": {**NORM, "running_mean": VECTOR, "running_var": np.abs(VECTOR)},
    "layer_norm": {"input": ROWS, "normalized_shape": (3,), "weight": VECTOR, "bias": VECTOR + 1},
    "rms_norm": {"input": ROWS, "normalized_shape": (3,), "weight": VECTOR},
    "channel_norm": NORM,
    "group_norm": {**NORM, "num_groups": 3},
    "instance_norm": {
        **NORM,
        "running_mean": VECTOR,
        "running_var": np.abs(VECTOR),
        "use_input_stats": False,
    },
    "prelu": {"weight": VECTOR},
    "threshold": {"threshold": 0.1, "value": 2.0},
    "local_response_norm": {"size": 2},
    "max_pool2d": {"kernel_size": 2},
    "avg_pool2d": {"kernel_size": 2},
    "lp_pool2d": {"input": POSITIVE, "norm_type": 2, "kernel_size": 2},
    "adaptive_avg_pool2d": {"output_size": 2},
    "adaptive_max_pool2d": {"output_size": 2},
    "max_pool2d_indices": {"kernel_size": 2, "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False},
    "adaptive_max_pool2d_indices": {"output_size": 2},
    "max_pool3d": {"kernel_size": 2},
    "max_pool3d_indices": {"kernel_size": 2, "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False},
    "adaptive_max_pool3d_indices": {"output_size": 2},
    "avg_pool3d": {"kernel_size": 2},
    "lp_pool3d": {"input": POSITIVE, "norm_type": 2, "kernel_size": 2},
    "adaptive_avg_pool3d": {"output_size": 2},
    "adaptive_max_pool3d": {"output_size": 2},
    "max_unpool": {"indices": np.arange(96).reshape(IMAGES.shape) % 20, "size": (4, 5)},
    "resize": {"size": (3, 5)},
    "im2col": {"kernel_size": 2},
    "col2im": {"input": spread(2, 12, 9), "output_size": 4, "kernel_size": 2},
}


def given(name):
    arguments = {"input": IMAGES} | ARGUMENTS.get(name, {})
    return {key: value for key, value in arguments.items() if key in signature_of(OURS[name]).parameters}


@pytest.mark.parametrize("name", OURS)
def test_every_argument_has_its_gradient_or_is_refused(name):
    arguments = given(name)
    differentiable = rules(OURS[name]).differentiable
    if not differentiable:
        assert rules(OURS[name]).dtype(**arguments) != np.float32
        if arguments["input"].dtype == np.float32:
            with pytest.raises(TypeError, match="must return an array that depends on its arguments"):
                convlane.vjp(lambda x: OURS[name](**arguments | {"input": x}), IMAGES)
        return
    assert differentiable <= arguments.keys()
    for argument in signature_of(OURS[name]).parameters:
        if argument in differentiable:
            check_gradient(OURS[name], arguments, argument)
        else:
            constant = arguments.get(argument)
            array = constant if getattr(constant, "dtype", None) == np.float32 else np.ones(3, np.float32)
            with pytest.raises(TypeError, match=f"{name}: {argument} has no gradient, "):
                convlane.vjp(lambda x, argument=argument: OURS[name](**arguments | {argument: x}), array)


def check_gradient(operation, arguments, argument):
    """Compare the slope in one direction with the slope of a small step."""
    whole = arguments[argument]
    first, *others = whole if isinstance(whole, list) else [whole]

    def run(x):
        return operation(**arguments | {argument: [x, *others] if isinstance(whole, list) else x})

    rng = np.random.default_rng(5)
    direction = rng.standard_normal(first.shape).astype(np.float32)
    value, pullback = convlane.vjp(run, first)
    weights = rng.standard_normal(value.shape).astype(np.float32)
    (found,) = pullback(weights)
    step = 2.0**-8
    above, below = (run((first + sign * step * direction).astype(np.float32)).astype(np.float64) for sign in (1, -1))
    slope = ((above - below) * weights).sum() / (2 * step)
    np.testing.assert_allclose((found * direction).sum(), slope, rtol=2e-2, atol=2e-2, err_msg=argument)


ARRAYS = [
    (name, argument)
    for name in OURS
    for argument in hints_of(OURS[name])
    if argument != "return" and isinstance(given(name).get(argument), np.ndarray) and argument != "target"
]


@pytest.mark.parametrize(("name", "argument"), ARRAYS)
@pytest.mark.parametrize("what", [1.5, [1, 2]], ids=["number", "list"])
def test_only_arrays_are_accepted(name, argument, what):
    """Both with and without gradients, other arguments are refused by name."""
    call = partial(OURS[name], **given(name) | {argument: what})
    if isinstance(what, float) and float in get_args(hints_of(OURS[name])[argument]):
        np.testing.assert_array_equal(call(), call(**{argument: np.asarray(what, np.float32)}))
        return
    with pytest.raises(TypeError, match=f"{name}: {argument} must be a NumPy array, got {type(what).__name__}"):
        call()
    if argument != "input" and "input" in rules(OURS[name]).differentiable:
        with pytest.raises(TypeError, match=f"{name}: {argument} must be a NumPy array, got {type(what).__name__}"):
            convlane.vjp(lambda x: call(input=x), given(name)["input"])


class OnlyInterface:
    """An object that is an array only by its ``__array_interface__``."""

    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__


@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_an_object_with_an_array_interface_is_an_array(name, argument):
    arguments = given(name) | ({"training": False} if name == "dropout" else {})
    found = OURS[name](**arguments | {argument: OnlyInterface(arguments[argument])})
    np.testing.assert_array_equal(found, OURS[name](**arguments))


def test_a_parameter_as_another_argument_is_refused_as_well():
    """A parameter of a network is also passed as an argument that has no gradient."""
    layer = convlane.nn.Linear(2, 2, bias=False)
    with pytest.raises(TypeError, match="cross_entropy: weight has no gradient, so it must be a constant"):
        convlane.value_and_grad(lambda x: F.cross_entropy(layer(x), np.array([0]), weight=layer.weight), layer)(
            np.ones((1, 2), np.float32)
        )
