"""Pyramids of feature maps, and EfficientNets for a budget."""

import numpy as np
import pytest

import convlane
from convlane import models, nn
from convlane.models import efficientnet
from networks import torchvision_network, with_statistics

PYRAMIDS = {
    "alexnet": ((64, 192, 256, 256), (4, 8, 16, 32)),
    "convnext_tiny": ((96, 192, 384, 768), (4, 8, 16, 32)),
    "densenet121": ((64, 256, 512, 1024, 1024), (2, 4, 8, 16, 32)),
    "efficientnet_b0": ((16, 24, 40, 112, 320), (2, 4, 8, 16, 32)),
    "efficientnet_lite0": ((16, 24, 40, 112, 320), (2, 4, 8, 16, 32)),
    "efficientnet_v2_s": ((24, 48, 64, 160, 256), (2, 4, 8, 16, 32)),
    "googlenet": ((64, 192, 480, 832, 1024), (2, 4, 8, 16, 32)),
    "inception_resnet_v2": ((64, 192, 320, 1088, 1536), (2, 4, 8, 16, 32)),
    "inception_v3": ((64, 192, 288, 768, 2048), (2, 4, 8, 16, 32)),
    "mnasnet1_0": ((16, 24, 40, 96, 320), (2, 4, 8, 16, 32)),
    "mobilenet_v1": ((64, 128, 256, 512, 1024), (2, 4, 8, 16, 32)),
    "mobilenet_v2": ((16, 24, 32, 96, 320), (2, 4, 8, 16, 32)),
    "mobilenet_v3_large": ((16, 24, 40, 112, 960), (2, 4, 8, 16, 32)),
    "mobilenet_v3_small": ((16, 16, 24, 48, 576), (2, 4, 8, 16, 32)),
    "nin": ((96, 256, 384, 1024), (4, 8, 16, 32)),
    "regnet_y_400mf": ((32, 48, 104, 208, 440), (2, 4, 8, 16, 32)),
    "resnet18": ((64, 64, 128, 256, 512), (2, 4, 8, 16, 32)),
    "resnet20": ((16, 32, 64), (1, 2, 4)),
    "resnet50": ((64, 256, 512, 1024, 2048), (2, 4, 8, 16, 32)),
    "shufflenet_v2_x1_0": ((24, 24, 116, 232, 464), (2, 4, 8, 16, 32)),
    "squeezenet1_1": ((64, 128, 256, 512), (2, 4, 8, 16)),
    "vgg16": ((64, 128, 256, 512, 512, 512), (1, 2, 4, 8, 16, 32)),
    "zfnet": ((96, 96, 256, 256, 256), (2, 4, 8, 16, 32)),
}


@pytest.mark.parametrize("name", PYRAMIDS)
def test_channels_and_reductions(name):
    """The values are those of timm, where it has the network."""
    with nn.init.skip():
        pyramid = models.create(name, features_only=True)
    assert (pyramid.channels, pyramid.reductions) == PYRAMIDS[name]


@pytest.mark.parametrize("name", ["convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "resnet18"])
def test_maps_are_those_of_the_network(name, rng, tmp_path):
    whole = with_statistics(models.create(name, 10), rng)
    convlane.save_weights(tmp_path / "weights", whole.state_dict())
    pyramid = models.create(name, features_only=True, weights=tmp_path / "weights")
    assert pyramid.state_dict().keys() < whole.state_dict().keys()
    x = rng.standard_normal((2, 3, 64, 64), np.float32)
    maps = pyramid(x)
    sizes = [(2, channels, 64 // r, 64 // r) for channels, r in zip(pyramid.channels, pyramid.reductions, strict=True)]
    assert [m.shape for m in maps] == sizes
    if name == "resnet18":
        expected = whole.fc.weight.astype(np.float64) @ maps[-1].mean((2, 3)).T
        np.testing.assert_allclose(whole(x), expected.T + whole.fc.bias, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(maps[1], whole.layer1(whole.maxpool(maps[0])))
    plan = convlane.compile(pyramid, (None, 3, 64, 64))
    for found, right in zip(plan(x), maps, strict=True):
        assert np.abs(found - right).max() <= 1e-3 * np.abs(right).max()
    pyramid.save(tmp_path / "pyramid")
    for found, right in zip(convlane.load(tmp_path / "pyramid")(x), maps, strict=True):
        np.testing.assert_array_equal(found, right)


def test_a_pyramid_is_trained(rng):
    pyramid = with_statistics(models.create("resnet18", features_only=True), rng).train()
    x = rng.standard_normal((2, 3, 64, 64), np.float32)
    loss_fn = convlane.value_and_grad(lambda x: sum(convlane.functional.mean(maps) for maps in pyramid(x)), pyramid)
    loss, gradients = loss_fn(x)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_transformed_input(rng):
    plain = with_statistics(models.create("googlenet", features_only=True), rng)
    transforming = models.create("googlenet", features_only=True, transform_input=True)
    transforming.load_state_dict(plain.state_dict())
    x = rng.standard_normal((1, 3, 64, 64), np.float32)
    mean, deviation = (np.array(v, np.float32).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    scaled = ((x * deviation + mean) - 0.5) / 0.5
    for found, right in zip(transforming(x), plain(scaled), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-3)


def test_networks_without_a_pyramid():
    with pytest.raises(ValueError, match="create: lenet5 has no pyramid of feature maps, so features_only cannot be"):
        models.create("lenet5", features_only=True)


def test_weights_that_lack_a_layer_are_refused(tmp_path):
    with nn.init.skip():
        state = models.create("resnet18").state_dict()
    del state["layer1.0.conv1.weight"]
    convlane.save_weights(tmp_path / "weights", state)
    with pytest.raises(ValueError, match=r"1 missing: layer1\.0\.conv1\.weight"):
        models.create("resnet18", features_only=True, weights=tmp_path / "weights")


def test_dilation_instead_of_strides():
    """The last stage is dilated twice; the state dict is that of the usual network."""
    with nn.init.skip():
        config = {"features_only": True, "replace_stride_with_dilation": (False, True, True)}
        plain, resnet = models.create("resnet50", features_only=True), models.create("resnet50", **config)
        mobilenet = models.create("mobilenet_v3_small", features_only=True, dilated=True)
    assert (resnet.channels, resnet.reductions) == ((64, 256, 2048), (2, 4, 8))
    assert (mobilenet.channels, mobilenet.reductions) == ((16, 16, 24, 576), (2, 4, 8, 16))
    convs = [resnet.layer3[0].conv2, resnet.layer3[1].conv2, resnet.layer4[0].conv2, resnet.layer4[1].conv2]
    assert [conv.dilation for conv in convs] == [(1, 1), (2, 2), (2, 2), (4, 4)]
    assert resnet.state_dict().keys() == plain.state_dict().keys()
    for wrong in ((True, True), (0, 1, 1), None):
        with pytest.raises(ValueError, match="replace_stride_with_dilation must be three bools, got"):
            models.create("resnet50", replace_stride_with_dilation=wrong)


@pytest.mark.torch
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75])
def test_mobilenet_v2_widths_are_torchvision_s(width):
    with nn.init.skip():
        ours = models.create("mobilenet_v2", width_mult=width)
    theirs = torchvision_network("mobilenet_v2", width_mult=width)
    assert ours.num_parameters() == sum(parameter.numel() for parameter in theirs.parameters())


class TestEfficientNetForABudget:
    def test_baseline(self):
        network = models.efficientnet_for(budget_madds=390e6)
        assert (network.width, network.depth, network.resolution) == (1.0, 1.0, 224)
        assert network.num_parameters() == 5_288_548
        assert not network.training

    @pytest.mark.parametrize(
        "budgets", [{"budget_params": 3e6}, {"budget_madds": 1e9}, {"budget_madds": 1e9, "budget_params": 7e6}]
    )
    def test_the_largest_that_fits(self, budgets):
        network = models.efficientnet_for(**budgets, num_classes=100)
        fits = []
        for eighths in efficientnet._EIGHTHS:
            config = efficientnet._scaled(eighths / 8)
            if not efficientnet._excess(config, 100, budgets):
                fits.append(config)
            elif fits:
                break
        assert (network.width, network.depth, network.resolution) == tuple(fits[-1].values())[:3]
        assert network.classifier[1].out_features == 100

    def test_milliseconds_are_measured(self, monkeypatch):
        asked = []

        def clock(network, resolution):
            asked.append(resolution)
            return 1e-8 * efficientnet._multiply_adds(network, resolution)

        monkeypatch.setattr(efficientnet, "_milliseconds", clock)
        network = models.efficientnet_for(budget_ms=3.9)
        assert network.resolution == 224
        assert 5 <= len(asked) <= 9

    def test_a_measurement(self):
        with nn.init.skip():
            small = models.create("efficientnet", 10, width=0.25, depth=0.25, resolution=32)
        assert 0 < efficientnet._milliseconds(small, 32) < 1000

    def test_it_is_saved_with_its_configuration(self, tmp_path):
        network = models.efficientnet_for(budget_madds=1e7, num_classes=10)
        network.save(tmp_path / "network")
        again = convlane.load(tmp_path / "network")
        assert (again.width, again.resolution) == (network.width, network.resolution)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"even the smallest network has .* parameters, more than budget_params="):
            models.efficientnet_for(budget_params=1000)
        with pytest.raises(ValueError, match="give budget_madds, budget_params or budget_ms"):
            models.efficientnet_for()
        with pytest.raises(TypeError, match="budget_ms must be a number"):
            models.efficientnet_for(budget_ms="fast")
        with pytest.raises(ValueError, match="width and depth must be positive, got 0 and"):
            models.create("efficientnet", width=0)
