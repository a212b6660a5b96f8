"""NumPy's settings for overflow and the like have no effect: nothing raises or warns."""

import warnings

import numpy as np
import pytest

import convlane
from convlane import nn
from convlane.data import augment
from convlane.functional._op import rules
from convlane.training import Adam, evaluate, fit
from convlane.vision import box_iou, decode_boxes, encode_boxes, nms
from functional.test_differentiable import OURS, given

EXTREMES = np.array([1e-38, -1e-38, 3e38, -3e38, np.nan, np.inf, -np.inf, 0, 1e-45, 200, -300], np.float32)
TINY = np.array([1e-38], np.float32)
HUGE = np.array([3e38], np.float32)


def filled(value, numbers):
    """Return an argument with these numbers in its float32 arrays."""
    if isinstance(value, list):
        return [filled(item, numbers) for item in value]
    return np.resize(numbers, value.shape) if getattr(value, "dtype", None) == np.float32 else value


def gradient(operation, arguments):
    argument = min(rules(operation).differentiable)
    whole = arguments[argument]
    first, *others = whole if isinstance(whole, list) else [whole]
    value, pullback = convlane.vjp(
        lambda x: operation(**arguments | {argument: [x, *others] if isinstance(whole, list) else x}), first
    )
    return value, pullback(np.resize(TINY, value.shape))[0]


def unchanged(compute):
    """Compare under the strictest settings with the most lenient ones."""
    with np.errstate(all="ignore"):
        expected = compute()
    with np.errstate(all="raise"):
        found = compute()
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        compute()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("numbers", [EXTREMES, TINY, HUGE], ids=["extremes", "tiny", "huge"])
@pytest.mark.parametrize("name", OURS)
def test_operations_and_their_gradients(name, numbers):
    arguments = {key: filled(value, numbers) for key, value in given(name).items()}
    if name == "binary_cross_entropy":  # which takes probabilities
        arguments["input"] = arguments["input"].clip(0, 1)
    unchanged(lambda: [OURS[name](**arguments)])
    if name != "dropout" and callable(rules(OURS[name]).vjp):
        unchanged(lambda: gradient(OURS[name], arguments))


@pytest.mark.parametrize("scale", [1e-38, 3e37])
def test_training(scale, rng):
    images = rng.standard_normal((6, 3, 5, 5), np.float32) * np.float32(scale)
    classes = np.arange(6) % 3

    def run():
        nn.init.seed(0)
        model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
        model.load_state_dict(
            {k: v.astype(np.float64) * scale for k, v in model.state_dict().items() if v.ndim}
            | {"1.num_batches_tracked": np.array(0)}
        )
        options = {"batch_size": 4, "clip_norm": 1.0, "on_nan": "ignore", "verbose": False}
        fit(model, (images, classes), epochs=1, optimizer=Adam(model, 1e-30), **options)
        plan = convlane.compile(model.eval(), (None, 3, 5, 5))
        return [*model.state_dict().values(), plan(images), evaluate(plan, (images, classes))["loss"]]

    unchanged(run)


@pytest.mark.parametrize("scale", [1e-38, 3e38])
def test_data_and_boxes(scale, rng):
    picture = rng.random((3, 9, 9)).astype(np.float32) * np.float32(scale)
    steps = [
        augment.Rotation(),
        augment.Elastic(),
        augment.ColorShift(),
        augment.ColorJitter(0.4, 0.4, 0.4),
        augment.PCAColor([1e-3, 1, 2], np.eye(3)),
        augment.Normalize([0.5] * 3, [1e-3] * 3),
    ]
    unchanged(lambda: [step(picture, np.random.default_rng(0)) for step in steps])
    boxes = np.array([[0, 0, 1, 1], [0.5, 0, 1, 0.5], [0, 0, 0.1, 1]], np.float32) * np.float32(scale)
    unchanged(lambda: [box_iou(boxes, boxes), nms(boxes, boxes[:, 3], 0.5), encode_boxes(boxes, boxes + 1)])
    unchanged(lambda: [decode_boxes(boxes, boxes), nn.init.normal((2, 2), std=0.0), nn.init.constant((2,), scale)])
