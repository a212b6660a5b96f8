"""Networks that classify each pixel: against torchvision's, compiled, and in training."""

import numpy as np
import pytest

import convlane
from convlane import models, nn
from convlane.functional import cross_entropy
from convlane.training import SGD, fit, replace_head
from networks import torchvision_twin, with_statistics

SIDE = 65  # the maps are 9 x 9
SMALL = "lraspp_mobilenet_v3_large"


def picture(rng, batch=1, height=SIDE, width=SIDE):
    return rng.standard_normal((batch, 3, height, width), np.float32)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "side", "config"),
    [
        ("fcn_resnet50", SIDE, {"aux_loss": True}),
        ("fcn_resnet101", 33, {}),
        ("deeplabv3_resnet50", SIDE, {}),
        ("deeplabv3_resnet101", 33, {"aux_loss": True}),
        ("deeplabv3_mobilenet_v3_large", SIDE, {"aux_loss": True}),
        ("lraspp_mobilenet_v3_large", SIDE, {}),
    ],
)
def test_outputs_are_torchvision_s(name, side, config, rng):
    import torch

    ours = with_statistics(models.create(name, **config), rng, side)
    theirs = torchvision_twin(name, ours, **config)
    x = picture(rng, 2, side, side)
    x[1:] *= 1.1
    with torch.inference_mode():
        expected = {key: tensor.numpy() for key, tensor in theirs(torch.tensor(x)).items()}
    assert list(expected) == (["out", "aux"] if config else ["out"])
    plan = convlane.compile(ours, (None, 3, side, side))
    assert not {step.algorithm for step in plan.describe().steps} & {"im2col", "reference"}
    for run, bound in ((ours, 1e-4), (plan, 1e-3)):
        actual = run(x)
        assert list(actual) == list(expected)
        for key, right in expected.items():
            assert actual[key].shape == right.shape == (2, 21, side, side)
            assert np.abs(actual[key] - right).max() <= bound * np.abs(right).max(), key
    for right in expected.values():
        assert right.std(1).mean() > 0.1 * np.abs(right).max(1).mean()  # classes differ, and so do pixels
        assert right.std((2, 3)).mean() > 0.02 * np.abs(right).max()


def test_sizes_are_open(rng):
    model = with_statistics(models.create(SMALL, 4), rng, SIDE)
    plan = convlane.compile(model, (None, 3, None, None))
    for height, width in ((SIDE, 97), (40, 33)):
        x = picture(rng, 1, height, width)
        expected = model(x)["out"]
        assert expected.shape == (1, 4, height, width)
        np.testing.assert_allclose(plan(x)["out"], expected, atol=1e-3 * np.abs(expected).max())


def test_the_head_works_on_the_features(rng):
    """Both classifiers on the concatenated features before resampling, which is linear."""
    whole, headless = with_statistics(models.create(SMALL, 4), rng, SIDE), models.create(SMALL, 0)
    headless.load_state_dict(whole.state_dict(), strict=False)
    x = picture(rng)
    head = whole.classifier
    weight = np.concatenate([head.low_classifier.weight, head.high_classifier.weight], 1)[:, :, 0, 0]
    bias = (head.low_classifier.bias + head.high_classifier.bias)[:, None, None]
    features = headless(x)["out"].astype(np.float64)
    np.testing.assert_allclose(whole(x)["out"], np.einsum("oc,nchw->nohw", weight, features) + bias, atol=1e-4)
    assert replace_head(headless, 3)(x)["out"].shape == (1, 3, SIDE, SIDE)


def test_it_is_saved_and_trained(rng, tmp_path):
    nn.init.seed(0)
    model = models.create("deeplabv3_mobilenet_v3_large", 2, aux_loss=True)
    model.save(tmp_path / "model")
    again = convlane.load(tmp_path / "model")
    x = picture(rng, 4, 33, 33)
    masks = (x.mean(1) > 0).astype(np.int64)
    np.testing.assert_array_equal(again(x)["aux"], model(x)["aux"])

    def loss(outputs, targets):
        return cross_entropy(outputs["out"], targets) + 0.5 * cross_entropy(outputs["aux"], targets)

    history = fit(model, (x, masks), epochs=2, optimizer=SGD(model, 0.01), loss=loss, batch_size=2, verbose=False)
    assert 0 < history["accuracy"][0] < 1
    assert history["loss"][1] < history["loss"][0]
