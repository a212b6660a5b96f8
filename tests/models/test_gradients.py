"""Every kind of network can be trained: one backward pass through the smallest of each."""

import numpy as np
import pytest

import convlane
from convlane import models, nn
from convlane.functional import cross_entropy, mean
from convlane.graph.trace import trace
from networks import image_shape, weighted_loss, without_randomness

# Networks that take only images of their own size, have auxiliary classifiers, or need larger images than the others.
FIXED = {"alexnet_2012", "inception_resnet_v2", "inception_v3", "zfnet"}

# Networks with more or wider blocks of the kinds that a smaller one of the same file has.
LARGER = {
    *("convnext_small", "convnext_base", "convnext_large", "deeplabv3_resnet101", "fcn_resnet101"),
    *("densenet161", "densenet169", "densenet201", *(f"efficientnet_b{i}" for i in range(1, 8))),
    *(f"efficientnet_lite{i}" for i in range(1, 5)),
    *("efficientnet_v2_m", "efficientnet_v2_l", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    *(f"{kind}{depth}" for kind in ("plain", "resnet") for depth in (32, 44, 56, 110)),
    *(f"regnet_{kind}_{size}gf" for kind in "xy" for size in ("1_6", "3_2", "8", "16", "32", "128")),
    *("regnet_x_800mf", "regnet_y_800mf", "resnet34", "resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d"),
    *("shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn"),
    *("vgg19", "vgg19_bn", "wide_resnet50_2", "wide_resnet101_2"),
}


def smallest_input(name):
    """Return the smallest of several image shapes that a network takes."""
    with nn.init.skip():
        model = models.create(name, 5)
    for size in range(64, max(models.input_shape(name)), 64):
        try:
            trace(model, (1, *image_shape(name, size)))
        except ValueError:
            continue
        return image_shape(name, size)
    return models.input_shape(name)


@pytest.mark.parametrize("name", sorted({*models.list()} - LARGER))
def test_every_parameter_has_a_gradient(name, rng):
    nn.init.seed(3)
    model = without_randomness(models.create(name, 5)).train()
    shape = models.input_shape(name) if name in FIXED else smallest_input(name)
    images, classes = rng.standard_normal((2, *shape), np.float32), np.array([1, 4])

    def of_picture(logits):
        return cross_entropy(logits if len(logits.shape) == 2 else mean(logits, (2, 3)), classes)

    def loss_fn(x):
        return weighted_loss(model(x), of_picture)

    loss, gradients = convlane.value_and_grad(loss_fn, model)(images)
    assert np.isfinite(loss)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for key, parameter in model.named_parameters():
        assert gradients[key].shape == parameter.shape, key
        assert np.isfinite(gradients[key]).all(), key
        assert gradients[key].any(), key
