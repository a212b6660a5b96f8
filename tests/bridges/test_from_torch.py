"""Modules of torch as networks, against torch."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import convlane
from convlane.functional import mul, sum
from torchvision_import import import_torchvision

pytestmark = pytest.mark.torch


def leaves(container):
    """Return all arrays in containers."""
    if isinstance(container, dict):
        container = list(container.values())
    return (
        [leaf for each in container for leaf in leaves(each)] if isinstance(container, (list, tuple)) else [container]
    )


def arrays(container):
    return [np.asarray(leaf.detach()) for leaf in leaves(container)]


def assert_close(got, expected, limit=1e-4):
    got, expected = leaves(got), arrays(expected)
    assert len(got) == len(expected)
    for mine, other in zip(got, expected, strict=True):
        assert mine.shape == other.shape
        assert np.abs(mine - other).max() <= limit * max(np.abs(other).max(), 1e-6)


def shapes_of(inputs):
    """Return the shapes of some inputs as `compile` takes them, for any batch."""
    shapes = tuple((None, *array.shape[1:]) for array in arrays(inputs))
    return shapes[0] if len(shapes) == 1 else shapes


def converted(network, *inputs):
    """Return the converted network, with the names that the module has."""
    mine = convlane.from_torch(network, *inputs)
    assert list(mine.state_dict()) == list(network.state_dict())
    assert [name for name, _ in mine.named_parameters()] == [name for name, _ in network.named_parameters()]
    return mine


# torchvision

SMALL = {"alexnet": 63, "inception_v3": 75}
"""The side of the smallest pictures that a network takes, where that is not 32."""
FAMILIES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5"),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_0", "vgg11", "vit_b_32"),
]
SEGMENTATION = [
    *("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50"),
    *("deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet101"),
]
UNSUPPORTED: dict[str, str] = {}
"""Networks that cannot be converted, and the operation that is missing."""
COMPILED = {"alexnet", "convnext_tiny", "efficientnet_b0", "googlenet", "mobilenet_v3_small", "resnet18"}


def torch_network(name, **config):
    import torch

    torch.manual_seed(0)
    config |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return import_torchvision().models.get_model(name, weights=None, **config).eval()


def check(network, size, compiled):
    import torch

    picture = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = network.eval()(picture)
    mine = converted(network, picture)
    assert_close(mine(picture[:1].numpy()), network(picture[:1]))
    if compiled:
        assert_close(convlane.compile(mine, (None, 3, size, size))(picture.numpy()), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_classifiers(name):
    size = SMALL.get(name, 32)
    config = {"image_size": size} if name.startswith("vit") else {}
    check(torch_network(name, **config), size, name in COMPILED)


@pytest.mark.parametrize("version", [1, 2])
def test_swin(version):
    models = import_torchvision().models.swin_transformer
    block = {} if version == 1 else {"block": models.SwinTransformerBlockV2, "downsample_layer": models.PatchMergingV2}
    network = models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10, **block)
    check(network, 40, compiled=False)


def test_maxvit():
    network = import_torchvision().models.MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, 0.1, num_classes=10)
    check(network, 32, compiled=True)


@pytest.mark.parametrize("name", SEGMENTATION[:3])
def test_segmentation(name):
    check(torch_network(name, weights_backbone=None), 33, compiled="mobilenet" in name)


DETECTORS = [
    *("fasterrcnn_mobilenet_v3_large_fpn", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"),
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"),
    *("keypointrcnn_resnet50_fpn", "ssd300_vgg16", "fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
]
"""The rest of a detector depends on its results, so torch.export cannot record it."""


def check_detector(name):
    """Compare the parts that compute on pictures and on regions, eager and compiled."""
    import torch

    torch.manual_seed(0)
    detection = import_torchvision().models.detection
    detector = getattr(detection, name)(weights=None, weights_backbone=None).eval()
    size = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}.get(name, 64)
    with torch.no_grad():
        levels = list(check_part(detector.backbone, torch.randn(1, 3, size, size)).values())
        if not hasattr(detector, "rpn"):
            check_part(detector.head, levels)
            return
        check_part(detector.rpn.head, levels)
        for kind, side in (("box", 7), ("mask", 14), ("keypoint", 14)):
            if getattr(detector.roi_heads, f"{kind}_head", None) is not None:
                regions = check_part(getattr(detector.roi_heads, f"{kind}_head"), torch.randn(2, 256, side, side))
                check_part(getattr(detector.roi_heads, f"{kind}_predictor"), regions)


def check_part(part, *inputs):
    expected = part(*inputs)
    mine = converted(part, *inputs)
    assert_close(mine(*_numpy(inputs)), expected)
    assert_close(convlane.compile(mine, shapes_of(inputs))(*arrays(inputs)), expected)
    return expected


@pytest.mark.parametrize("name", DETECTORS[:2])
def test_parts_of_detectors(name):
    check_detector(name)


@pytest.mark.every_network
@pytest.mark.parametrize("name", DETECTORS[2:])
def test_parts_of_every_detector(name):
    check_detector(name)


PREFIXES = [
    *("alexnet", "convnext", "densenet", "efficientnet_b", "efficientnet_v2", "googlenet", "inception", "maxvit"),
    *("mnasnet", "mobilenet", "regnet_x", "regnet_y_1", "regnet_y_3", "regnet_y_4", "regnet_y_8", "resnet", "resnext"),
    *("shufflenet", "squeezenet", "swin_b", "swin_s", "swin_t", "swin_v2", "vgg", "vit_b", "vit_h", "vit_l"),
    "wide_resnet",
]
"""The prefixes of all classifiers' names; all of them take too long for one test."""


def classifiers():
    models = import_torchvision().models
    return models.list_models(module=models)


def test_every_classifier_has_one_prefix():
    for name in classifiers():
        assert len([each for each in PREFIXES if name.startswith(each)]) == 1, name


@pytest.mark.every_network
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_classifier(prefix):
    for name in classifiers():
        if name.startswith(prefix) and name not in FAMILIES and name not in UNSUPPORTED:
            size = 224 if name.startswith(("vit", "maxvit")) else 96 if name == "inception_v3" else 64
            check(torch_network(name), size, compiled=not name.startswith(("swin", "vit")))


@pytest.mark.every_network
@pytest.mark.parametrize("name", SEGMENTATION[3:])
def test_every_segmentation(name):
    check(torch_network(name, weights_backbone=None), 65, compiled=True)


# Networks as users write them

BLOCKS = [
    *("squeeze and excite", "attention", "temporal", "boxes", "turned", "involution", "sine encoding", "shifted"),
    *("unpooled", "encoder"),
]
USERS = [
    *("large kernels", "means and views", "upward", "branches", "two inputs", "two outputs", "shared", "in place"),
    *("attention", "containers", "masks", "quantised", "recurrent", "cell", "response norm", "dynamic", "volume"),
]
WHOLE = {"attention", "containers", "quantised", "recurrent", "dynamic"}
"""Networks that cannot run in a plan for any batch."""


def made(name, examples=2):
    from torch_modules import make  # which imports torch

    return make(name, examples)


@pytest.mark.parametrize("name", USERS)
def test_users(name):
    import torch

    network, inputs = made(name)
    mine = converted(network, *inputs)
    assert mine.training  # like the network
    network.eval(), mine.eval()
    more = made(name, 3)[1]
    with torch.no_grad():
        expected = network(*more)
    again = pickle.loads(pickle.dumps(copy.deepcopy(mine)))
    for one in (mine, again):
        assert_close(one(*_numpy(more)), expected)
    if name not in WHOLE:
        assert_close(convlane.compile(mine, shapes_of(inputs))(*arrays(more)), expected)


def _numpy(container):
    if isinstance(container, dict):
        return {key: _numpy(each) for key, each in container.items()}
    return type(container)(map(_numpy, container)) if isinstance(container, (list, tuple)) else np.asarray(container)


@pytest.mark.parametrize("name", USERS)
def test_gradients(name):
    import torch

    network, inputs = made(name)
    network.eval()
    mine = converted(network, *inputs)
    outputs = leaves(network(*inputs))
    weights = [torch.randn(output.shape) for output in outputs]
    total(torch.sum(output * weight) for output, weight in zip(outputs, weights, strict=True)).backward()

    def loss(*given):
        return total(
            sum(mul(output, weight.numpy())) for output, weight in zip(leaves(mine(*given)), weights, strict=True)
        )

    _, gradients = convlane.value_and_grad(loss, mine)(*_numpy(inputs))
    assert gradients.keys() == dict(network.named_parameters()).keys()
    for key, parameter in network.named_parameters():
        assert_close(gradients[key], parameter.grad, limit=1e-3)


def total(numbers):
    first, *others = numbers
    for each in others:
        first = first + each
    return first


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name):
    import torch

    from torch_blocks import MIXING, OPEN, make  # which imports torch

    network, shape = make(name)
    mine, picture = converted(network, torch.randn(2, *shape)), torch.randn(3, *shape)
    with torch.no_grad():
        assert_close(mine(picture.numpy()), network(picture))
        if name in MIXING:
            with pytest.raises(ValueError, match=r"of the batch.*whole=True"):
                convlane.compile(mine, (None, *shape))
            plan = convlane.compile(mine, (3, *shape), whole=True)
        else:
            plan = convlane.compile(mine, (None, *shape))
        assert_close(plan(picture.numpy()), network(picture))
        if name in OPEN:
            auto = torch.export.Dim.AUTO
            sizes = {0: auto, 2: auto, 3: auto}
            mine = convlane.from_torch(network, torch.randn(2, *shape), dynamic_shapes=(sizes,))
            plan, picture = convlane.compile(mine, (None, 3, None, None)), torch.randn(3, 3, 14, 18)
            for run in (mine, plan):
                assert_close(run(picture.numpy()), network(picture))


def test_training_mode():
    """Batch norm uses and updates statistics of the batch, and dropout is active."""
    import torch

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, momentum=None), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5)
    )
    picture = torch.randn(2, 3, 9, 9)
    mine = convlane.from_torch(network, picture)
    for _ in range(2):
        output = mine(picture.numpy())
        network(picture)
    for name, buffer in network.named_buffers():
        np.testing.assert_allclose(mine.state_dict()[name], buffer.numpy(), rtol=1e-4, atol=1e-5)
    assert 0.3 < (output == 0).mean() < 0.7
    network[1].eval()
    mine = convlane.from_torch(network, picture)
    assert [part.training for part in mine.children()] == [True, False, True, True]


def test_weights_that_are_one():
    network, inputs = made("shared")
    mine = converted(network, *inputs)
    mine.second.weight = np.eye(3, dtype=np.float32)
    assert mine.first.weight is mine.second.weight
    mine.load_state_dict(network.state_dict())
    assert mine.first.weight is mine.second.weight
    np.testing.assert_array_equal(mine.first.weight, network.first.weight.detach().numpy())


def test_open_sizes():
    import torch

    auto = torch.export.Dim.AUTO
    network, (picture,) = made("upward")
    mine = convlane.from_torch(network.eval(), picture, dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    plan = convlane.compile(mine, (None, 3, None, None))
    for size in ((1, 3, 8, 20), (2, 3, 16, 10)):
        picture = torch.randn(size)
        assert_close(plan(picture.numpy()), network(picture))


def test_without_torch(tmp_path):
    """A converted network does not need torch."""
    network, inputs = made("upward")
    mine = convlane.from_torch(network.eval(), *inputs)
    (tmp_path / "network.pickle").write_bytes(pickle.dumps(mine))
    np.save(tmp_path / "picture.npy", inputs[0].numpy())
    code = """
import pickle, sys, numpy, convlane
sys.modules["torch"] = None
network = pickle.load(open(sys.argv[1] + "/network.pickle", "rb"))
print(float(numpy.abs(network(numpy.load(sys.argv[1] + "/picture.npy"))).sum()))
try:
    convlane.from_torch(network)
except ImportError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    number, message = found.stdout.splitlines()
    assert float(number) == pytest.approx(float(network(*inputs).detach().abs().sum()), rel=1e-4)
    assert "pip install 'convlane[torch]'" in message


def test_what_is_unsupported_is_named_at_once():
    import torch

    class Strange(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.inv(torch.cumprod(x, 1))

    network = torch.nn.Sequential(torch.nn.ReLU(), Strange())
    with pytest.raises(ValueError, match=r"cumprod.default in '1' \(Strange\)\n.*linalg_inv.default in '1'"):
        convlane.from_torch(network, torch.eye(3)[None])


def test_the_first_difference_is_named(monkeypatch):
    import torch

    from convlane.bridges.torch import converters

    monkeypatch.setitem(converters.CONVERTERS, "relu", lambda input: input)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.ReLU(), torch.nn.Sigmoid())
    with pytest.raises(ValueError, match="the first operation that differs is relu in 1"):
        convlane.from_torch(network, torch.randn(2, 1, 5, 5))


def function_of(function):
    """Return a convolution, followed by the given function, as a module."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            return function(self.conv(x), self)

    return Module().eval()


OF_THE_BATCH = {
    "number": lambda y, _: y.sum((1, 2, 3)) / y.shape[0],
    "new first": lambda y, _: y.unsqueeze(0),
    "first of all": lambda y, _: y[:1],
    "roll": lambda y, _: y.roll(1, 0),
    "counted": lambda y, _: y * arange(y.shape[0])[:, None, None, None],
}


@pytest.mark.parametrize("name", OF_THE_BATCH)
def test_what_a_plan_of_one_example_cannot_know(name):
    """A plan is made for one example: what depends on the number of examples is refused, not computed for one."""
    import torch

    network, picture = function_of(OF_THE_BATCH[name]), torch.randn(3, 3, 6, 6)
    mine = convlane.from_torch(network, picture)
    assert_close(mine(picture.numpy()), network(picture))
    with pytest.raises(ValueError, match="batch"):
        convlane.compile(mine, (None, 3, 6, 6))
    assert_close(convlane.compile(mine, (3, 3, 6, 6), whole=True)(picture.numpy()), network(picture))


def arange(count):
    import torch

    return torch.arange(count).float()


def test_inputs_by_name_and_arguments_that_are_not_tensors():
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x, other=None, factor=1.0, *, mask=None, bias=None):
            y = self.conv(x) * factor if other is None else self.conv(x) + other
            y = y if mask is None else y.masked_fill(mask, 0.0)
            return y if bias is None else y + bias

    network, x, mask = Module().eval(), torch.randn(2, 3, 6, 6), torch.rand(2, 4, 4, 4) > 0.5
    with torch.no_grad():
        for args, named in (
            ((x,), {"mask": mask, "factor": 2.5}),
            ((x, None, 0.5), {"bias": torch.ones(2, 4, 1, 1)}),
            ((x,), {"other": torch.ones(2, 4, 4, 4), "bias": None}),
        ):
            expected, mine = network(*args, **named), convlane.from_torch(network, *args, **named)
            assert_close(mine(*map(as_array, args), **{name: as_array(each) for name, each in named.items()}), expected)
            flat = [each.numpy() for each in (*args, *named.values()) if isinstance(each, torch.Tensor)]
            assert_close(mine(*flat), expected)
            given = [each.astype(np.float32) for each in flat]  # plans take Boolean inputs as float32
            assert_close(convlane.compile(mine, tuple((None, *each.shape[1:]) for each in given))(*given), expected)
        mine = convlane.from_torch(network, x, None, 0.5)
    with pytest.raises(TypeError, match="each as the example"):
        mine(x.numpy(), None, 0.6)


def as_array(value):
    return value.numpy() if hasattr(value, "numpy") else value


OF_INTEGERS = {
    "timesteps": lambda x, t: x * t[:, None, None, None].float().sin(),
    "promoted": lambda x, t: x * t[:, None, None, None] + (x > 0) * x,
}


@pytest.mark.parametrize("name", OF_INTEGERS)
def test_integers_become_numbers(name):
    """Plans take them as float32."""
    import torch

    class Module(torch.nn.Module):
        def forward(self, x, t):
            return OF_INTEGERS[name](x, t)

    x, t = torch.randn(2, 3, 4, 4), torch.tensor([3, 17])
    mine = convlane.from_torch(Module().eval(), x, t)
    for times in (t, t + 2):
        assert_close(mine(x.numpy(), times.numpy()), Module()(x, times))
        plan = convlane.compile(mine, (x.shape, t.shape), whole=True)
        assert_close(plan(x.numpy(), times.numpy().astype(np.float32)), Module()(x, times))


def test_pictures_of_bytes():
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv((x.permute(0, 3, 1, 2).to(torch.float32) - 127.5) / 127.5)

    network, picture = Module().eval(), torch.arange(2 * 8 * 9 * 3).reshape(2, 8, 9, 3).to(torch.uint8)
    mine = convlane.from_torch(network, picture)
    assert_close(mine(picture.numpy()), network(picture))
    plan = convlane.compile(mine, (None, 8, 9, 3))
    assert_close(plan(picture.numpy().astype(np.float32)), network(picture))


EINSUMS = [
    *("bchw,cd->bdhw", "nctv,vw->nctw", "oihw,bi->bo", "bihd,bjhd->bhij", "...ij,...jk->...ik", "b...->b"),
    *("bc,bd", "ab,bc,cd->ad", "bchw->bc", "i,j->ij"),
]


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum(equation):
    import torch

    from convlane.bridges.torch.converters import CONVERTERS

    sizes = {letter: 2 + i % 4 for i, letter in enumerate("abcdhijknotvw")}
    torch.manual_seed(0)
    shapes = [[2, 3, *shape] for shape in ([3, 4], [4, 5])] if equation.startswith("...") else None
    terms = equation.partition("->")[0].replace("...", "hw").split(",")
    tensors = [torch.randn(shape) for shape in shapes or [[sizes[letter] for letter in term] for term in terms]]
    found = CONVERTERS["einsum"](equation, [tensor.numpy() for tensor in tensors], None)
    assert_close(found, torch.einsum(equation, *tensors))


def test_einsum_of_a_diagonal_is_refused():
    from convlane.bridges.torch.converters import CONVERTERS

    with pytest.raises(TypeError, match="a letter is repeated"):
        CONVERTERS["einsum"]("ii->i", [np.eye(3, dtype=np.float32)], None)


@pytest.mark.parametrize("name", ["written", "differences", "distances"])
def test_other_operations(name):
    import torch

    def written(y, _):
        y = y.clone()
        y[:, :, 1::2] += 1
        y[..., ::3] = 0
        return y

    functions = {
        "written": written,
        "differences": lambda y, _: y.diff(dim=2).diff(n=2, dim=3),
        "distances": lambda y, _: torch.cdist(y, y[:, :, :2]),
    }
    check(function_of(functions[name]), 9, compiled=True)


def test_sizes_that_the_module_fixes():
    import torch

    windows = function_of(lambda y, _: y.view(int(y.shape[0] / (16 / 4)), 4, 4, 4, 4))
    mine = convlane.from_torch(windows, torch.randn(4, 3, 6, 6))
    with pytest.raises(ValueError, match=r"x must have shape \(4, 3, 6, 6\), where None"):
        mine(np.zeros((8, 3, 6, 6), np.float32))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y, _: y[y > 0], "index.Tensor of a size that depends on its numbers"),
        (lambda y, _: y if y.sum() > 0 else -y, "torch.export cannot export Module, because its behaviour depends"),
        (lambda y, _: y * y.max().item(), "aten.item.default"),
        (lambda y, _: y + torch_random(y), "aten.randn_like.default"),
        (lambda y, module: y * module.count.add_(1), "in eval mode the network changes its buffer count"),
    ],
    ids=["mask", "branch", "item", "random", "buffer"],
)
def test_what_cannot_be_converted(function, message):
    import torch

    with pytest.raises(ValueError, match=message):
        convlane.from_torch(function_of(function), torch.randn(2, 3, 6, 6))


def torch_random(like):
    import torch

    return torch.randn_like(like)


def test_other_types_are_refused():
    import torch

    layer, signal = torch.nn.Linear(3, 2), torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"weight is float64, but numbers are float32 here; call .float\(\)"):
        convlane.from_torch(layer.double(), signal.double())
    with pytest.raises(ValueError, match="input 0 is float64"):
        convlane.from_torch(layer.float(), signal.double())
    with pytest.raises(ValueError, match="weight is on the meta device"):
        convlane.from_torch(layer.to("meta"), signal)


def test_numbers_and_indices_as_results():
    import torch

    network = function_of(lambda y, _: {"indices": y.argmax(1), "channels": y.shape[1], "none": None})
    picture = torch.randn(2, 3, 6, 6)
    found = convlane.from_torch(network, picture)(picture.numpy())
    np.testing.assert_array_equal(found["indices"], network(picture)["indices"].numpy())
    assert (found["channels"], found["none"]) == (4, None)


def test_bad_input():
    import torch

    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got function"):
        convlane.from_torch(made, torch.zeros(1))
    network, inputs = made("two inputs")
    mine = convlane.from_torch(network, *inputs)
    image, code = _numpy(inputs)
    np.testing.assert_array_equal(mine(image, code=code), mine(image, code))
    with pytest.raises(TypeError, match="expected inputs image, code, each as the example, got 1"):
        mine(image)
    with pytest.raises(TypeError, match="unexpected inputs other"):
        mine(image, code, other=code)
    with pytest.raises(TypeError, match="only the whole network can be called"):
        mine.conv(image)
