"""Networks against torchvision, and what holds for each of them without it."""

import copy
import threading

import numpy as np
import pytest

import convlane
from convlane import _core, models, nn
from convlane.functional._op import rules
from networks import lively, torchvision_twin
from torchvision_import import import_torchvision

PARAMETERS = {
    "mobilenet_v2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
}
SMALL = ["mobilenet_v2", "resnet18"]


def picture(rng, *shape):
    return rng.standard_normal(shape, np.float32)


def test_list():
    assert models.list() == sorted(PARAMETERS)
    assert models.list("resnet*") == ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]
    assert models.list("vgg1[13]") == ["vgg11", "vgg13"]
    assert models.list("nothing") == []


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    with nn.init.skip():
        model = models.create(name)
    assert model.num_parameters() == PARAMETERS[name]
    assert not any(module.training for module in model.modules())


def test_create_refuses():
    with pytest.raises(ValueError, match="no model 'resnet5'; did you mean resnet50"):
        models.create("resnet5")
    with pytest.raises(ValueError, match="no model 'qqq'; did you mean mobilenet_v2 or resnet101"):
        models.create("qqq")
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"num_classes must be at least 1, got {number}"):
            models.create("resnet18", num_classes=number)
    with pytest.raises(TypeError, match=r"num_classes must be an integer, got 10\.0"):
        models.create("resnet18", num_classes=10.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        models.create("resnet18", depth=3)
    with pytest.raises(ValueError, match="width_mult must be positive, got 0"):
        models.create("mobilenet_v2", width_mult=0)


def test_register_refuses_a_second_of_the_same_name():
    def resnet18():
        return nn.Identity()

    with pytest.raises(ValueError, match="a model named 'resnet18' is registered already"):
        models.register(resnet18)


def test_configurations():
    model = models.create("mobilenet_v2", num_classes=7, width_mult=0.5, dropout=0.1)
    assert model.classifier[0].p == 0.1
    assert model.classifier[1].weight.shape == (7, 1280)
    assert model.features[0][0].out_channels == 16
    assert models.create("resnet18", 10).fc.out_features == 10


def test_initialisation_is_torchvision_s():
    nn.init.seed(0)
    model = models.create("resnet18")
    weight = model.layer4[0].conv2.weight
    assert weight.std() == pytest.approx(np.sqrt(2 / (512 * 9)), rel=0.01)  # kaiming normal, fan out
    model = models.create("mobilenet_v2")
    assert model.classifier[1].weight.std() == pytest.approx(0.01, rel=0.01)
    assert (model.classifier[1].bias == 0).all()
    assert model.features[0][0].weight.std() == pytest.approx(np.sqrt(2 / (32 * 9)), rel=0.1)


def test_the_same_seed_makes_the_same_network():
    states = []
    for _ in range(2):
        nn.init.seed(3)
        states.append(models.create("resnet18", 10).state_dict())
    for key, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][key], err_msg=key)


def test_resnet_blocks_are_what_they_say(rng):
    model = lively(models.create("resnet18", 5), rng)
    x = picture(rng, 1, 3, 32, 32)
    stem = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    block = model.layer1[0]
    branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(stem)))))
    np.testing.assert_array_equal(block(stem), np.maximum(branch + stem, 0))
    block, maps = model.layer2[0], model.layer1(stem)
    branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(maps)))))
    np.testing.assert_array_equal(block(maps), np.maximum(branch + block.downsample(maps), 0))
    maps = model.layer4(model.layer3(model.layer2(maps)))
    expected = maps.astype(np.float64).mean((2, 3)) @ model.fc.weight.T + model.fc.bias
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)


def test_mobilenet_blocks_are_what_they_say(rng):
    model = lively(models.create("mobilenet_v2", 5), rng)
    x = picture(rng, 1, 3, 32, 32)
    maps = model.features[:3](x)
    block = model.features[3]
    np.testing.assert_array_equal(block(maps), maps + block.conv(maps))
    block, maps = model.features[4], block(maps)
    np.testing.assert_array_equal(block(maps), block.conv(maps))
    maps = model.features[4:](maps).astype(np.float64).mean((2, 3))
    expected = maps @ model.classifier[1].weight.T + model.classifier[1].bias
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("name", SMALL)
def test_same_bits_for_every_batch_split_and_number_of_threads(name, size, rng):
    model = lively(models.create(name, 10), rng)
    x = picture(rng, 3, 3, size, size)
    with convlane.num_threads(1):
        whole = model(x)
        parts = np.concatenate([model(x[:1]), model(x[1:])])
    with convlane.num_threads(3):
        threaded = model(x)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(threaded, whole)
    assert np.isfinite(whole).all()
    assert len(np.unique(whole)) > 20


@pytest.mark.parametrize("name", SMALL)
def test_threads_share_a_network(name, rng):
    model = lively(models.create(name, 10), rng)
    images = [picture(rng, 1, 3, 64, 64) for _ in range(3)]
    expected = [copy.deepcopy(model)(x) for x in images]
    results = [None] * len(images)
    start = threading.Barrier(len(images))

    def run(i):
        start.wait()
        results[i] = model(images[i])

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(images))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, right)


class Symbol:
    """Runs nothing; knows the shape that an operation's rule gives it."""

    def __init__(self, shape):
        self.shape = shape

    @staticmethod
    def __convlane_op__(operation, *args, **kwargs):
        assert not any(isinstance(arg, _core.PackedWeight) for arg in args)
        return Symbol(rules(operation).shape(*args, **kwargs))


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_go_through_operations_alone(name):
    with nn.init.skip():
        model = models.create(name, 12)
    assert model(Symbol((3, 3, 96, 80))).shape == (3, 12)


def test_training_mode_runs(rng):
    model = models.create("mobilenet_v2", 4).train()
    assert model(picture(rng, 2, 3, 64, 64)).shape == (2, 4)
    assert model.features[0][1].num_batches_tracked == 1


@pytest.mark.torch
@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_and_shapes_are_torchvision_s(name):
    import torch

    torchvision = import_torchvision()
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    with nn.init.skip():
        ours = models.create(name)
    assert [(key, array.shape) for key, array in ours.state_dict().items()] == [
        (key, tuple(tensor.shape)) for key, tensor in theirs.state_dict().items()
    ]


@pytest.mark.torch
@pytest.mark.parametrize(("name", "batch"), [("mobilenet_v2", 2), ("resnet18", 2), ("resnet50", 2), ("vgg16", 1)])
def test_outputs_are_torchvision_s(name, batch, rng):
    import torch

    ours = lively(models.create(name), rng)
    theirs = torchvision_twin(name, ours)
    x = picture(rng, batch, 3, 224, 224)
    with torch.inference_mode():
        expected = theirs(torch.tensor(x)).numpy()
    actual = ours(x)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    assert expected.std(axis=1).min() > 0.1 * np.abs(expected).max()
