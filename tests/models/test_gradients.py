"""Every network can be trained: one step back through each of them."""

import numpy as np
import pytest

import convlane
from convlane import models, nn
from convlane.functional import cross_entropy, mean
from networks import image_shape, weighted_loss, without_chance

# Take images of their own size only, with auxiliary classifiers, or none as small as the others.
FIXED = {"alexnet_2012", "inception_resnet_v2", "inception_v3", "zfnet"}


@pytest.mark.parametrize("name", models.list())
def test_every_parameter_has_a_gradient(name, rng):
    nn.init.seed(3)
    model = without_chance(models.create(name, 5)).train()
    shape = models.input_shape(name) if name in FIXED else image_shape(name)
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
