"""A sliding classifier: at every position, the result is that for the crop there."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import models, nn
from convlane.functional import cross_entropy, flatten, softmax


def crops(images, size, stride):
    """Yield (y, x) of every position and the crop there."""
    for y in range((images.shape[2] - size[0]) // stride + 1):
        for x in range((images.shape[3] - size[1]) // stride + 1):
            yield y, x, images[:, :, y * stride : y * stride + size[0], x * stride : x * stride + size[1]]


def check_slides(classifier, images, size, stride, terms):
    sliding = models.to_fully_convolutional(classifier, (images.shape[1], *size))
    maps = sliding(images)
    positions = list(crops(images, size, stride))
    assert maps.shape[2:] == (positions[-1][0] + 1, positions[-1][1] + 1)
    for y, x, crop in positions:
        assert_close(maps[:, :, y, x], classifier(crop).astype(np.float64), terms=terms)
    return sliding


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def test_lenet5(rng):
    check_slides(models.create("lenet5"), normal(rng, 2, 1, 45, 40), (32, 32), 4, terms=2000)


class Head(nn.Module):
    """The end of a classifier, starting with its pooling."""

    def __init__(self, model):
        self.avgpool, self.classifier = model.avgpool, model.classifier

    def forward(self, input):
        return self.classifier(flatten(self.avgpool(input)))


def narrowed(model, channels, size, hidden=40):
    """Give a network's head fewer parameters, without changing its kind."""
    head = Head(model)
    names = [name for name, layer in head.classifier.named_children() if isinstance(layer, nn.Linear)]
    sizes = (channels * size * size, hidden, hidden, 10)
    for name, inputs, outputs in zip(names, sizes, sizes[1:], strict=False):
        setattr(head.classifier, name, nn.Linear(inputs, outputs))
    return head.eval()


@pytest.mark.parametrize(("name", "size"), [("alexnet", 6), ("vgg11", 7), ("zfnet", 6)])
def test_heads_after_maps(rng, name, size):
    with nn.init.skip():
        head = narrowed(models.create(name), 5, size)
    for layer in head.classifier:
        if isinstance(layer, nn.Linear):
            layer.weight = nn.init.kaiming_uniform(layer.weight.shape)
    check_slides(head, normal(rng, 2, 5, size + 3, size + 5), (size, size), 1, terms=1000)


def test_a_pooling_after_larger_maps_keeps_its_windows(rng):
    """For pictures of twice the size that the network was made for."""
    with nn.init.skip():
        head = narrowed(models.create("alexnet"), 3, 6)
    for layer in head.classifier:
        if isinstance(layer, nn.Linear):
            layer.weight = nn.init.kaiming_uniform(layer.weight.shape)
    check_slides(head, normal(rng, 1, 3, 16, 14), (12, 12), 2, terms=1000)


def test_a_network_with_branches_and_global_pooling(rng):
    block = nn.Add(nn.Conv2d(4, 4, 1), nn.Identity())
    classifier = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), block, nn.Concat(nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1))),
        *(
            nn.GlobalAvgPool2d(),
            nn.Flatten(),
            nn.Linear(5, 6),
            nn.Tanh(),
            nn.Dropout(),
            nn.Linear(6, 3),
            nn.Softmax(-1),
        ),
    ).eval()
    check_slides(classifier, normal(rng, 2, 2, 11, 12), (8, 9), 1, terms=400)


@pytest.mark.parametrize("name", ["resnet20", "squeezenet1_1", "densenet121", "mobilenet_v2", "inception_v3"])
def test_at_its_own_size_a_network_computes_the_same(rng, name):
    model = models.create(name)
    shape = models.input_shape(name)
    images = normal(rng, 1, *shape)
    expected = model(images)
    maps = models.to_fully_convolutional(model)(images)
    assert maps.shape == (*expected.shape, 1, 1) if name != "squeezenet1_1" else maps.shape[:2] == expected.shape
    np.testing.assert_allclose(maps[:, :, 0, 0], expected, atol=2e-5 * np.abs(expected).max())


def test_it_compiles_learns_and_leaves_the_classifier_alone(rng):
    classifier = models.create("lenet5").train()
    before = classifier.state_dict()
    sliding = models.to_fully_convolutional(classifier)
    assert classifier.training
    images = normal(rng, 2, 1, 36, 40)
    plan = convlane.compile(sliding, (None, 1, 36, 40))
    np.testing.assert_allclose(plan(images), sliding(images), atol=1e-4)
    assert sliding.num_parameters() == classifier.num_parameters()
    assert sliding.classifier_0_weight.shape == (120, 16, 5, 5)
    step = convlane.value_and_grad(lambda x, y: cross_entropy(flatten(sliding(x)), y), sliding)
    gradients = step(images[:, :, :32, :32], np.array([1, 2]))[1]
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values())
    assert len(gradients) == 10
    for key, array in classifier.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(4, 4)], "linear must have"),
        ([nn.Flatten(2)], "does not keep positions"),
        ([nn.SqueezeExcitation(2, 1)], "depend on the whole picture"),
        ([nn.AdaptiveAvgPool2d(3)], "uneven windows"),
    ],
)
def test_what_has_no_positions_is_refused(layers, message):
    with pytest.raises(TypeError, match=message):
        models.to_fully_convolutional(nn.Sequential(*layers), (2, 4, 4))


def test_softmax_over_something_else_is_refused():
    class Odd(nn.Module):
        def forward(self, input):
            return softmax(flatten(input), 0)

    with pytest.raises(TypeError, match="softmax on flattened maps"):
        models.to_fully_convolutional(Odd(), (2, 4, 4))


def test_the_size_must_be_known():
    with pytest.raises(ValueError, match="pass input_shape"):
        models.to_fully_convolutional(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
