"""Whole networks, run eagerly on one image."""

import pytest

from convlane import analysis, models


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "mobilenet_v2"])
def test_network(name, report, random):
    model = models.create(name)
    image = random(1, 3, 224, 224)
    report(lambda: model(image), name, multiply_adds=analysis.multiply_adds(model, image.shape))
