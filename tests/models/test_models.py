"""Networks against torchvision, and their properties without it."""

import copy
import threading

import numpy as np
import pytest

import convlane
from convlane import _core, models, nn
from convlane.functional._op import rules
from convlane.models.googlenet import GoogLeNetOutputs
from convlane.models.registry import preparations
from networks import image_shape, main_output, torchvision_network, torchvision_twin, with_statistics

PARAMETERS = {
    "alexnet": 61_100_840,
    "alexnet_2012": 60_965_224,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "convnext_small": 50_223_688,
    "convnext_tiny": 28_589_128,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "efficientnet": 5_288_548,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
    "efficientnet_v2_l": 118_515_272,
    "efficientnet_v2_m": 54_139_356,
    "efficientnet_v2_s": 21_458_488,
    "googlenet": 13_004_888,
    "inception_resnet_v2": 55_843_464,
    "inception_v3": 27_161_264,
    "lenet5": 61_706,
    "lenet5_1998": 60_000,
    "mnasnet0_5": 2_218_512,
    "mnasnet0_75": 3_170_208,
    "mnasnet1_0": 4_383_312,
    "mnasnet1_3": 6_282_256,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "nin": 7_595_176,
    "plain20": 269_722,
    "plain32": 464_154,
    "plain44": 658_586,
    "plain56": 853_018,
    "plain110": 1_727_962,
    "regnet_x_1_6gf": 9_190_136,
    "regnet_x_3_2gf": 15_296_552,
    "regnet_x_8gf": 39_572_648,
    "regnet_x_16gf": 54_278_536,
    "regnet_x_32gf": 107_811_560,
    "regnet_x_400mf": 5_495_976,
    "regnet_x_800mf": 7_259_656,
    "regnet_y_1_6gf": 11_202_430,
    "regnet_y_3_2gf": 19_436_338,
    "regnet_y_8gf": 39_381_472,
    "regnet_y_16gf": 83_590_140,
    "regnet_y_32gf": 145_046_770,
    "regnet_y_128gf": 644_812_894,
    "regnet_y_400mf": 4_344_144,
    "regnet_y_800mf": 6_432_512,
    "resnet18": 11_689_512,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet34": 21_797_672,
    "resnet44": 658_586,
    "resnet50": 25_557_032,
    "resnet56": 853_018,
    "resnet101": 44_549_160,
    "resnet110": 1_727_962,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "shufflenet_v2_x1_5": 3_503_624,
    "shufflenet_v2_x2_0": 7_393_996,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "unet": 31_037_698,
    "unet_2015": 31_030_658,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "zfnet": 62_357_608,
}
TORCHVISION_S = {name for source, known in preparations().items() if source.startswith("torchvision") for name in known}
SMALL = ["efficientnet_b0", "googlenet", "mobilenet_v2", "resnet18"]


def picture(rng, *shape):
    return rng.standard_normal(shape, np.float32)


def test_list():
    assert models.list() == sorted(set(models.list()))
    assert set(models.list()) - TORCHVISION_S <= PARAMETERS.keys(), "nothing else tells whether these are right"
    assert models.list("resnet?[048]") == ["resnet18", "resnet20", "resnet34", "resnet44", "resnet50"]
    assert models.list("efficientnet_b*") == [f"efficientnet_b{i}" for i in range(8)]
    assert models.list("vgg1[13]") == ["vgg11", "vgg13"]
    assert models.list("nothing") == []


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    with nn.init.skip():
        model = models.create(name)
    assert model.num_parameters() == PARAMETERS[name]
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("width", "parameters"), [(0.25, 470_072), (0.5, 1_331_592), (0.75, 2_585_560)])
def test_mobilenet_v1_widths(width, parameters):
    with nn.init.skip():
        assert models.create("mobilenet_v1", width=width).num_parameters() == parameters


def test_create_refuses():
    with pytest.raises(ValueError, match="no model 'resnet5'; did you mean resnet56 or resnet50"):
        models.create("resnet5")
    with pytest.raises(ValueError, match="no model 'qqq'; did you mean alexnet or alexnet_2012"):
        models.create("qqq")
    with pytest.raises(ValueError, match="create: num_classes must not be negative, got -1"):
        models.create("resnet18", num_classes=-1)
    with pytest.raises(TypeError, match=r"num_classes must be an integer, got 10\.0"):
        models.create("resnet18", num_classes=10.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        models.create("resnet18", depth=3)
    with pytest.raises(ValueError, match="width_mult must be positive, got 0"):
        models.create("mobilenet_v2", width_mult=0)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        models.create("mobilenet_v1", width=0)
    with pytest.raises(ValueError, match="resnet20: shortcut must be 'A' or 'B', got 'C'"):
        models.create("resnet20", shortcut="C")


def test_input_shapes():
    assert models.input_shape("vgg16") == (3, 224, 224)
    assert models.input_shape("efficientnet_b4") == (3, 380, 380)
    with pytest.raises(ValueError, match="input_shape: there is no model 'resnet5'; did you mean resnet56 or resnet50"):
        models.input_shape("resnet5")


@pytest.mark.parametrize("name", models.list())
def test_no_classes_drop_the_head(name):
    with nn.init.skip():
        whole, headless = models.create(name, 12), models.create(name, 0)
    own = [path for path in whole.state_dict() if not path.lower().startswith("aux")]
    kept = list(headless.state_dict())
    assert kept == own[: len(kept)]
    dropped = {path.rpartition(".")[0]: path for path in reversed(own[len(kept) :])}
    weights = [whole.state_dict()[path] for path in dropped.values()]
    assert weights, "nothing was dropped"
    assert {len(weight) for weight in weights} == {12}
    batch, features = main_output(headless(Symbol((3, *models.input_shape(name))))).shape[:2]
    assert batch == 3
    assert sum(weight.shape[1] for weight in weights) == features  # if there are several, their results are added


@pytest.mark.parametrize("name", SMALL)
def test_the_head_works_on_the_features(name, rng):
    whole, headless = models.create(name, 12), models.create(name, 0)
    headless.load_state_dict(whole.state_dict(), strict=False)
    x = picture(rng, 2, *image_shape(name))
    *_, weight, bias = whole.parameters()
    features = headless(x).astype(np.float64)
    np.testing.assert_allclose(whole(x), features @ weight.T + bias, rtol=1e-4, atol=1e-5)


def test_register_refuses_a_second_of_the_same_name():
    def resnet18():
        return nn.Identity()

    with pytest.raises(ValueError, match="a model named 'resnet18' is already registered"):
        models.register(resnet18)


def test_configurations():
    model = models.create("mobilenet_v2", num_classes=7, width_mult=0.5, dropout=0.1)
    assert model.classifier[0].p == 0.1
    assert model.classifier[1].weight.shape == (7, 1280)
    assert model.features[0][0].out_channels == 16
    assert models.create("resnet18", 10).fc.out_features == 10
    assert models.create("alexnet", dropout=0.1).classifier[3].p == 0.1
    model = models.create("efficientnet_b1", 7, dropout=0.1, stochastic_depth_prob=0.5)
    assert model.classifier[0].p == 0.1
    assert model.features[7][1].stochastic_depth.p == 0.5 * 22 / 23
    model = models.create("googlenet", 7, dropout=0.1, dropout_aux=0.3)
    assert (model.dropout.p, model.aux1.dropout.p, model.aux2.dropout.p) == (0.1, 0.3, 0.3)
    assert model.aux1.fc2.out_features == model.aux2.fc2.out_features == 7
    with nn.init.skip():
        assert models.create("googlenet", aux_logits=False).num_parameters() == 6_624_904


def test_initialisation_is_torchvision_s():
    nn.init.seed(0)
    model = models.create("resnet18")
    weight = model.layer4[0].conv2.weight
    assert weight.std() == pytest.approx(np.sqrt(2 / (512 * 9)), rel=0.01)  # kaiming normal, fan out
    model = models.create("mobilenet_v2")
    assert model.classifier[1].weight.std() == pytest.approx(0.01, rel=0.01)
    assert (model.classifier[1].bias == 0).all()
    assert model.features[0][0].weight.std() == pytest.approx(np.sqrt(2 / (32 * 9)), rel=0.1)

    model = models.create("googlenet")
    for layer in (model.inception3a.branch2[1].conv, model.aux2.fc1, model.fc):
        assert layer.weight.std() == pytest.approx(0.01, rel=0.02)
    model = models.create("efficientnet_b0")
    assert model.features[6][2].block[1][0].weight.std() == pytest.approx(np.sqrt(2 / (1152 * 25)), rel=0.05)
    assert (model.features[6][2].block[2].fc1.bias == 0).all()
    weight = model.classifier[1].weight
    assert np.abs(weight).max() == pytest.approx(1 / np.sqrt(1000), rel=0.001)
    assert weight.std() == pytest.approx(1 / np.sqrt(3 * 1000), rel=0.01)
    assert (model.classifier[1].bias == 0).all()


def test_the_same_seed_makes_the_same_network():
    states = []
    for _ in range(2):
        nn.init.seed(3)
        states.append(models.create("resnet18", 10).state_dict())
    for key, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][key], err_msg=key)


def test_resnet_blocks_are_what_they_say(rng):
    model = with_statistics(models.create("resnet18", 5), rng)
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


@pytest.mark.parametrize("shortcut", ["A", "B", None])
def test_cifar_shortcuts_are_what_they_say(shortcut, rng):
    plain = shortcut is None
    created = models.create("plain20") if plain else models.create("resnet20", shortcut=shortcut)
    model = with_statistics(created, rng, 32)
    assert model.num_parameters() == 269_722 + (2752 if shortcut == "B" else 0)
    stem = model.relu(model.bn1(model.conv1(picture(rng, 2, 3, 32, 32))))
    maps = model.layer1(stem)
    block = model.layer2[0]
    branch = block.bn2(block.conv2(np.maximum(block.bn1(block.conv1(maps)), 0)))
    assert branch.shape == (2, 32, 16, 16)
    if shortcut == "A":
        branch[:, :16] += maps[:, :, ::2, ::2]
    elif shortcut == "B":
        branch += block.downsample[1](block.downsample[0](maps))
    np.testing.assert_allclose(block(maps), np.maximum(branch, 0), rtol=1e-5, atol=1e-6)
    block = model.layer1[0]
    branch = block.bn2(block.conv2(np.maximum(block.bn1(block.conv1(stem)), 0)))
    np.testing.assert_allclose(block(stem), np.maximum(branch if plain else branch + stem, 0), rtol=1e-5, atol=1e-6)


def test_plain_networks_are_residual_networks_without_shortcuts():
    plain, residual = models.create("plain32"), models.create("resnet32")
    assert not plain.load_state_dict(residual.state_dict()).missing_keys
    assert models.create("resnet32", 100).fc.out_features == 100


def test_lenet5_of_1998_is_the_paper_s(rng):
    model = models.create("lenet5_1998")
    weights = {key: array.astype(np.float64) for key, array in model.state_dict().items()}

    def squashed(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    def convolution(x, weight, bias):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (1, 2))
        return np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]

    def sub_sampling(x, layer):
        sums = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
        coefficient, bias = (weights[f"{layer}.1.{name}"].reshape(-1, 1, 1) for name in ("weight", "bias"))
        return squashed(sums * coefficient + bias)

    x = picture(rng, 1, 32, 32)
    maps = sub_sampling(convolution(x, weights["c1.weight"], weights["c1.bias"]), "s2")
    # Table I of the paper, one string per map of S2.
    table = [
        "X   XXX  XXXX XX",
        "XX   XXX  XXXX X",
        "XXX   XXX  X XXX",
        " XXX  XXXX  X XX",
        "  XXX  XXXX XX X",
        "   XXX  XXXX XXX",
    ]
    kernels, seen = np.zeros((16, 6, 5, 5)), [0, 0, 0]
    for i in range(16):
        maps_of_i = [j for j in range(6) if table[j][i] == "X"]
        branch = {3: 0, 4: 1, 6: 2}[len(maps_of_i)]
        kernels[i, maps_of_i] = weights[f"c3.{branch}.1.weight"][seen[branch]]
        seen[branch] += 1
    maps = sub_sampling(convolution(maps, kernels, np.concatenate([weights[f"c3.{i}.1.bias"] for i in range(3)])), "s4")
    numbers = squashed(convolution(maps, weights["c5.0.weight"], weights["c5.0.bias"])).ravel()
    numbers = squashed(weights["f6.0.weight"] @ numbers + weights["f6.0.bias"])
    expected = ((numbers - weights["output.centers"]) ** 2).sum(1)
    np.testing.assert_allclose(model(x[None])[0], expected, rtol=1e-5)
    seven = weights["output.centers"][7].reshape(12, 7)
    assert (seven[0] == 1).all()
    assert (seven[1:].sum(1) == -5).all()
    assert len(np.unique(models.create("lenet5_1998", 30).output.centers, axis=0)) == 30


def test_alexnet_2012_normalises_pools_and_splits_as_the_paper_says(rng):
    with nn.init.skip():
        model = models.create("alexnet_2012", 5)
    x = picture(rng, 1, 3, 227, 227)
    maps = model.features[1](model.features[0](x))
    assert maps.shape == (1, 96, 55, 55)
    model.features[0].weight = picture(rng, 96, 3, 11, 11)
    maps = model.features[1](model.features[0](x))
    squares = np.pad(maps.astype(np.float64) ** 2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    normalised = maps / (2 + 1e-4 * sum(squares[:, i : i + 96] for i in range(5))) ** 0.75
    expected = np.lib.stride_tricks.sliding_window_view(normalised, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))
    np.testing.assert_allclose(model.features[:4](x), expected, rtol=1e-5)
    assert [m.groups for m in model.features if isinstance(m, nn.Conv2d)] == [1, 2, 1, 2, 2]
    assert [(m.bias == 1).all() for m in model.features if isinstance(m, nn.Conv2d)] == [False, True, False, True, True]
    assert model.features(x).shape == (1, 256, 6, 6)


def test_zfnet_has_the_maps_of_figure_3():
    with nn.init.skip():
        model = models.create("zfnet")
    sizes, maps = [], Symbol((1, 3, 224, 224))
    for module in model.features:
        maps = module(maps)
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            sizes.append(maps.shape[2])
    assert sizes == [110, 55, 26, 13, 13, 13, 13, 6]


def test_nin_has_two_pointwise_convolutions_after_each_spatial_one(rng):
    model = models.create("nin", 5)
    kernels = [module.kernel_size[0] for module in model.features if isinstance(module, nn.Conv2d)]
    assert kernels == [11, 1, 1, 5, 1, 1, 3, 1, 1, 3, 1, 1]
    x = picture(rng, 2, 3, 64, 64)
    maps = model.features(x)
    assert maps.shape == (2, 5, 1, 1)
    np.testing.assert_allclose(model(x), maps.mean((2, 3)), rtol=1e-6)
    assert (model(x) >= 0).all()


def test_mobilenet_blocks_are_what_they_say(rng):
    model = with_statistics(models.create("mobilenet_v2", 5), rng)
    x = picture(rng, 1, 3, 32, 32)
    maps = model.features[:3](x)
    block = model.features[3]
    np.testing.assert_array_equal(block(maps), maps + block.conv(maps))
    block, maps = model.features[4], block(maps)
    np.testing.assert_array_equal(block(maps), block.conv(maps))
    maps = model.features[4:](maps).astype(np.float64).mean((2, 3))
    expected = maps @ model.classifier[1].weight.T + model.classifier[1].bias
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)


def test_efficientnet_blocks_are_what_they_say(rng):
    model = with_statistics(models.create("efficientnet_b0", 5), rng)
    maps = model.features[:2](picture(rng, 2, 3, 64, 64))
    block = model.features[2][0]
    filtered = block.block[1](block.block[0](maps))
    squeeze = block.block[2]
    factors = squeeze.fc1(filtered.mean((2, 3), keepdims=True))
    factors = squeeze.fc2((factors / (1 + np.exp(-factors))).astype(np.float32))
    expected = block.block[3]((filtered / (1 + np.exp(-factors))).astype(np.float32))
    np.testing.assert_allclose(block(maps), expected, rtol=1e-4, atol=1e-5)
    block, maps = model.features[2][1], block(maps)
    np.testing.assert_array_equal(block(maps), block.block(maps) + maps)


def test_googlenet_in_training_returns_the_auxiliary_logits_too(rng):
    model = with_statistics(models.create("googlenet", 4, dropout=0.0, dropout_aux=0.0), rng)
    with nn.init.skip():
        plain = models.create("googlenet", 4, dropout=0.0, aux_logits=False)
    plain.load_state_dict(model.state_dict(), strict=False)
    x = picture(rng, 2, 3, 64, 64)
    np.testing.assert_array_equal(plain(x), model(x))
    outputs = model.train()(x)
    assert type(outputs) is GoogLeNetOutputs
    assert [logits.shape for logits in outputs] == [(2, 4)] * 3
    np.testing.assert_array_equal(plain.train()(x), outputs.logits)


@pytest.mark.parametrize(("name", "size"), [*((name, 64) for name in SMALL), ("mobilenet_v2", 224), ("resnet18", 224)])
def test_same_bits_for_every_batch_split_and_number_of_threads(name, size, rng):
    model = with_statistics(models.create(name, 10), rng, size)
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
    model = with_statistics(models.create(name, 10), rng)
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
    """A symbol that computes nothing and has the shape from an operation's rule."""

    def __init__(self, shape):
        self.shape = shape

    @staticmethod
    def __convlane_op__(operation, *args, **kwargs):
        assert not any(isinstance(arg, _core.PackedWeight) for arg in args)
        return Symbol(rules(operation).shape(*args, **kwargs))


@pytest.mark.parametrize("name", models.list())
def test_networks_consist_of_operations_only(name):
    with nn.init.skip():
        model = models.create(name, 12)
    assert main_output(model(Symbol((3, *models.input_shape(name))))).shape[:2] == (3, 12)


def test_training_mode_runs(rng):
    model = models.create("mobilenet_v2", 4).train()
    assert model(picture(rng, 2, 3, 64, 64)).shape == (2, 4)
    assert model.features[0][1].num_batches_tracked == 1


def constants(network, library):
    """Return what is not in the state dict: epsilons, momentums and probabilities."""
    norms = [(m.eps, m.momentum) for m in network.modules() if isinstance(m, library.BatchNorm2d)]
    return norms, [m.p for m in network.modules() if type(m).__name__ in ("Dropout", "StochasticDepth")]


@pytest.mark.torch
@pytest.mark.parametrize("name", sorted(TORCHVISION_S))
def test_structure_is_torchvision_s(name):
    import torch

    theirs = torchvision_network(name)
    with nn.init.skip():
        ours = models.create(name)
    assert [(key, array.shape) for key, array in ours.state_dict().items()] == [
        (key, tuple(tensor.shape)) for key, tensor in theirs.state_dict().items()
    ]
    assert constants(ours, nn) == constants(theirs, torch.nn)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "batch", "size"),
    [
        ("alexnet", 2, 224),
        ("convnext_tiny", 2, 96),
        ("densenet121", 2, 96),
        ("efficientnet_b0", 2, 224),
        ("efficientnet_v2_s", 1, 224),
        ("googlenet", 2, 224),
        ("inception_v3", 2, 128),
        ("mnasnet0_5", 2, 96),
        ("mobilenet_v2", 2, 224),
        ("mobilenet_v3_large", 2, 224),
        ("mobilenet_v3_small", 2, 224),
        ("regnet_x_400mf", 2, 96),
        ("regnet_y_400mf", 2, 96),
        ("resnet18", 2, 224),
        ("resnet50", 2, 224),
        ("resnext50_32x4d", 2, 96),
        ("shufflenet_v2_x0_5", 2, 96),
        ("shufflenet_v2_x1_0", 2, 224),
        ("squeezenet1_0", 2, 224),
        ("squeezenet1_1", 2, 224),
        ("vgg16", 1, 224),
        ("wide_resnet50_2", 2, 96),
    ],
)
def test_outputs_are_torchvision_s(name, batch, size, rng):
    import torch

    ours = with_statistics(models.create(name), rng, size)
    theirs = torchvision_twin(name, ours)
    x = picture(rng, batch, 3, size, size)
    x[1:] *= 1.1  # to a network that only averages, two pictures of the same noise are equal
    with torch.inference_mode():
        expected = theirs(torch.tensor(x)).numpy()
    actual = ours(x)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    assert (expected.std(axis=1) > 0.1 * np.abs(expected).max(axis=1)).all()
    assert batch == 1 or np.ptp(expected, axis=0).max() > 0.02 * np.abs(expected).max()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "batch", "size", "more"), [("googlenet", 2, 96, {"dropout_aux": 0.0}), ("inception_v3", 5, 299, {})]
)
def test_inceptions_train_and_transform_their_input_as_torchvision_s(name, batch, size, more, rng):
    import torch

    config = {"num_classes": 50, "transform_input": True, "dropout": 0.0, **more}
    ours = with_statistics(models.create(name, **config), rng, size)
    theirs = torchvision_twin(name, ours, **config).train()
    x = picture(rng, batch, 3, size, size)
    with torch.no_grad():
        expected = theirs(torch.tensor(x))
    actual = ours.train()(x)
    assert actual._fields == expected._fields
    for field, right in expected._asdict().items():
        np.testing.assert_allclose(getattr(actual, field), right, atol=1e-4 * right.abs().max(), err_msg=field)
    for key, right in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], right, rtol=1e-3, atol=1e-4, err_msg=key)
