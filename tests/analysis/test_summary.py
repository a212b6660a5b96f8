"""The table of a network's layers."""

import json

import numpy as np
import pytest

from convlane import analysis, functional, models, nn
from convlane.analysis import cost


def created(name, **config):
    with nn.init.skip():
        return models.create(name, **config)


def test_vgg16_is_the_table_of_the_textbook():
    result = analysis.summary(created("vgg16"))
    assert result.multiply_adds == 15_470_264_320
    assert result.parameters == 138_357_544
    assert result.activations == 15_237_608
    assert result.activation_bytes == 60_950_432  # 61 MB
    assert (result.layers, result.depth, result.unused_parameters) == (16, 16, 0)
    convolutions = [row for row in result.rows if row.kind == "Conv2d"]
    assert [row.layer for row in convolutions] == list(range(1, 14))
    assert [row.parameters for row in convolutions[:3]] == [1_792, 36_928, 73_856]
    assert [row.layer for row in result.rows if row.kind == "MaxPool2d"] == [2, 4, 7, 10, 13]
    assert [row.output_shape for row in result.rows if row.kind == "Linear"] == [(1, 4096), (1, 4096), (1, 1000)]
    first = result.rows[1]
    assert (first.name, first.input_shape, first.output_shape) == ("features.0", (1, 3, 224, 224), (1, 64, 224, 224))
    assert first.memory == 4 * (64 * 224 * 224 + 1_792)
    assert result.rows[2].activations == 0  # a ReLU is done in place


# The depths according to the networks' names or papers.
DEPTHS = {
    "alexnet": 8,
    "convnext_tiny": 59,
    "densenet121": 121,
    "googlenet": 22,
    "inception_v3": 48,
    "lenet5": 5,
    "mobilenet_v1": 28,
    "resnet18": 18,
    "resnet50": 50,
    "resnet110": 110,
    "vgg19_bn": 19,
}


@pytest.mark.parametrize("name", DEPTHS)
def test_networks_are_as_deep_as_they_are_called(name):
    model = created(name)
    result = analysis.summary(model)
    assert result.depth == DEPTHS[name]
    assert result.layers >= result.depth
    assert result.parameters == model.num_parameters()
    assert result.multiply_adds == analysis.multiply_adds(model, (1, *models.input_shape(name)))
    names = [row.name for row in result.rows]
    assert len(set(names)) == len(names)


def test_projections_count_but_not_for_the_depth():
    result = analysis.summary(created("resnet50"))
    assert result.layers == 54
    assert [row.layer for row in result.rows if row.has_weights] == list(range(1, 55))
    numbers = [line.split()[0] for line in str(result).splitlines()[1:] if line[:5].strip().isdigit()]
    assert numbers == [str(i) for i in range(1, 55)]


def test_parameters_that_a_call_does_not_reach():
    model = created("googlenet")
    result = analysis.summary(model)
    assert result.unused_parameters == model.aux1.num_parameters() + model.aux2.num_parameters()
    assert f"{result.unused_parameters:,} of the parameters" in str(result)
    assert sum(row.parameters for row in result.rows) + result.unused_parameters == model.num_parameters()


def test_batches_multiply_all_but_the_parameters():
    model = created("resnet18")
    one, four = analysis.summary(model, (1, 3, 64, 64)), analysis.summary(model, (4, 3, 64, 64))
    assert four.multiply_adds == 4 * one.multiply_adds
    assert four.activations == 4 * one.activations
    assert four.parameters == one.parameters


class Block(nn.Module):
    """Calls one module twice, adds in its own code, and has a parameter that it uses only in another form."""

    def __init__(self):
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_parameter("gain", np.ones((4,), np.float32))

    def forward(self, input):
        maps = self.conv(self.norm(self.conv(input)))
        gain = np.asarray(2 * self.gain).reshape(4)
        neutral = np.zeros(4, np.float32), np.ones(4, np.float32)
        return functional.add(self.drop(functional.batch_norm(maps, *neutral, gain)), input)


def test_names_calls_and_parameters_of_a_user_s_network(rng):
    model = nn.Sequential(Block(), nn.ReLU())
    assert model.training
    before = model[0].norm.num_batches_tracked.copy(), set(vars(model[0]))
    result = model.summary((2, 4, 6, 5))
    assert [(row.name, row.kind, row.layer) for row in result.rows] == [
        ("input", "input", None),
        ("0.conv", "Conv2d", 1),
        ("0.norm", "BatchNorm2d", 1),
        ("0.conv#2", "Conv2d", 2),
        ("0.batch_norm", "batch_norm", 2),
        ("0.drop", "Dropout", 2),
        ("0.add", "add", 2),
        ("1", "ReLU", 2),
    ]
    assert [row.parameters for row in result.rows] == [0, 148 + 4, 8, 0, 0, 0, 0, 0]
    assert result.activations == 3 * 2 * 4 * 6 * 5
    assert result.parameters == model.num_parameters()
    # The network has not changed.
    assert model.training
    assert model[0].training
    assert (model[0].norm.num_batches_tracked, set(vars(model[0]))) == before


def test_functions_and_single_layers(rng):
    weight, bias = rng.standard_normal((6, 3, 3, 3), np.float32), np.zeros(6, np.float32)
    result = analysis.summary(lambda x: functional.relu(functional.conv2d(x, weight, bias)), (1, 3, 8, 8))
    assert [(row.name, row.parameters) for row in result.rows] == [("input", 0), ("conv2d", 168), ("relu", 0)]
    packed = functional.pack_conv2d(weight)
    assert analysis.summary(lambda x: functional.conv2d(x, packed, bias), (1, 3, 8, 8)).parameters == 168
    assert [row.name for row in nn.Linear(3, 2).summary((5, 3)).rows] == ["input", "Linear"]


def test_results_for_programs():
    result = analysis.summary(created("lenet5"))
    data = json.loads(result.to_json())
    assert data == result.to_dict()
    assert data["parameters"] == 61_706
    assert data["rows"][1] == {
        "layer": 1,
        "has_weights": True,
        "name": "features.0",
        "kind": "Conv2d",
        "input_shape": [1, 1, 32, 32],
        "output_shape": [1, 6, 28, 28],
        "activations": 4704,
        "parameters": 156,
        "multiply_adds": 117_600,
        "memory": 19_440,
    }


def test_bad_input():
    with pytest.raises(ValueError, match="input_shape must be given"):
        nn.Conv2d(3, 4, 3).summary()
    with pytest.raises(ValueError, match="channels"):
        analysis.summary(created("lenet5"), (1, 3, 32, 32))


@pytest.mark.parametrize(("in_channels", "out_channels", "kernel", "between"), [(192, 32, 5, 16), (7, 3, (1, 3), 2)])
def test_costs_are_those_of_the_convolutions(in_channels, out_channels, kernel, between):
    def weight(o, i, size):
        return np.zeros((o, i, *((size, size) if isinstance(size, int) else size)), np.float32)

    def counted(*weights, groups=1):
        total, channels = 0, in_channels
        for i, filters in enumerate(weights):
            parts = groups if i == 0 else 1
            total += analysis.multiply_adds(
                lambda x, w=filters, g=parts: functional.conv2d(x, w, padding="same", groups=g), (1, channels, 28, 28)
            )
            channels = len(filters)
        return total

    plain = cost.plain(28, in_channels, out_channels, kernel)
    separable = cost.separable(28, in_channels, out_channels, kernel)
    assert plain == counted(weight(out_channels, in_channels, kernel))
    assert cost.bottleneck(28, in_channels, out_channels, kernel, between) == counted(
        weight(between, in_channels, 1), weight(out_channels, between, kernel)
    )
    assert separable == counted(
        weight(in_channels, 1, kernel), weight(out_channels, in_channels, 1), groups=in_channels
    )
    assert cost.separable_ratio(out_channels, kernel) == pytest.approx(separable / plain)


def test_costs_of_the_textbook():
    assert cost.plain(28, 192, 32, 5) == 120_422_400
    assert cost.bottleneck(28, 192, 32, 5, between=16) == 12_443_648
    assert cost.plain((4, 2), 1, 1, 1) == 8
    for arguments in ((0, 1, 1, 1), (1, 0, 1, 1), (1, 1, -1, 1), (1, 1, 1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            cost.plain(*arguments)
    with pytest.raises(TypeError, match="out_channels"):
        cost.separable_ratio(2.5, 3)


def test_several_inputs_and_results():
    layer = nn.Conv2d(3, 4, 1)

    def network(picture, other):
        values, indices = functional.max_pool2d(layer(picture), 2, return_indices=True)
        return functional.cat([values, other]), indices

    shapes = {"picture": (1, 3, 8, 8), "other": (1, 2, 4, 4)}
    named = analysis.summary(network, shapes)
    assert [(row.name, row.kind, row.activations) for row in named.rows] == [
        ("picture", "input", 192),
        ("other", "input", 32),
        ("conv2d", "conv2d", 256),
        ("max_pool2d", "max_pool2d", 128),
        ("cat", "cat", 0),
    ]
    assert (named.layers, named.depth, named.multiply_adds) == (1, 1, 768)
    placed = analysis.summary(network, tuple(shapes.values()))
    assert [row.name for row in placed.rows[:2]] == ["input0", "input1"]
    fields = analysis.receptive_field(network, tuple(shapes.values()))
    assert fields["cat"].size == fields["max_pool2d"].size == (2, 2)
    unseen = analysis.receptive_field(lambda x, y: (functional.relu(x), functional.tanh(y)), [(1, 1, 2, 2)] * 2)
    assert [field.name for field in unseen.fields] == ["relu"]
