"""Receptive fields, compared with the footprint of the gradient: the pixels on which a number really depends."""

import numpy as np
import pytest

import convlane
from convlane import analysis, functional, models, nn
from convlane.analysis.layers import anatomy, until


def positive(model, rng):
    """Make all weights positive, so that nothing cancels and no ReLU outputs zero."""
    for module in model.modules():
        for name in module._parameter_names:
            if getattr(module, name) is not None:
                setattr(module, name, rng.uniform(0.5, 1.5, getattr(module, name).shape))
        if isinstance(module, nn.Conv2d):
            module.weight = module.weight / module.weight[0].sum()
    return model.eval()


def footprint(model, shape, row, column, rng, pictures=1):
    """Return the first and last row and column of the pixels that have a gradient, over several pictures."""
    touched = np.zeros(shape[2:], bool)
    for _ in range(pictures):
        value, pullback = convlane.vjp(model, rng.uniform(1, 2, shape).astype(np.float32))
        seed = np.zeros_like(value)
        seed[(0, slice(None), row, column) if value.ndim == 4 else 0] = 1
        size = np.abs(pullback(seed)[0]).max((0, 1))
        touched |= size > 1e-5 * size.max()  # Winograd's algorithm leaves rounding errors where nothing should be
    rows, columns = touched.any(1).nonzero()[0], touched.any(0).nonzero()[0]
    return rows[0], rows[-1], columns[0], columns[-1]


def plain(*layers):
    return nn.Sequential(*layers)


def conv(kernel, **options):
    return nn.Conv2d(1, 1, kernel, bias=False, **options)


class Parts(nn.Module):
    """Removes rows, and normalises along the columns in one branch."""

    def __init__(self):
        self.conv = conv(3, padding=1)

    def forward(self, input):
        x = functional.narrow(self.conv(input), 2, 5, 12)
        return functional.interleave([x, functional.softmax(functional.gelu(x), -1)])


class WithFunctions(nn.Module):
    """Pads on two sides, concatenates along the rows and multiplies by a mean over everything."""

    def __init__(self):
        self.conv = conv(3, stride=2)

    def forward(self, input):
        x = self.conv(functional.pad(input, (1, 0, 2, 0)))
        return self.conv(functional.cat([x, x], 2))


NETWORKS = {
    "plain": plain(conv(3, padding=1), nn.ReLU(), conv(5, stride=2, padding=2), nn.AvgPool2d(2), conv(3)),
    "not square": plain(conv((1, 5), padding=(0, 2)), conv((3, 1), stride=(1, 2)), nn.AvgPool2d((3, 2), (2, 1))),
    "one side": plain(conv(4, padding=(0, 3, 2, 1)), conv(3, padding="same_tf", stride=2), conv(2, padding="same")),
    "branches": plain(
        nn.Concat(nn.Identity(), conv(3, padding=1), plain(conv(5, padding=2), conv(3, padding=1))),
        nn.Conv2d(3, 1, 3, bias=False),
    ),
    "shortcut": plain(conv(3), nn.Add(nn.Identity(), plain(conv(3, padding=1), conv(3, padding=1))), conv(3, stride=3)),
    "branches that are not aligned": nn.Add(conv(3, stride=2), plain(conv(1), conv(5, stride=2, padding=1))),
    "adaptive": plain(conv(3, padding=1), nn.AdaptiveAvgPool2d((5, 4)), conv(2)),
    "norm": plain(conv(3), nn.BatchNorm2d(1), nn.LocalResponseNorm(3), nn.Dropout()),
    "squeeze": plain(conv(3, stride=2), nn.SqueezeExcitation(1, 1), conv(3, padding=1)),
    "functions": WithFunctions(),
    "parts": Parts(),
    "layer norm": plain(conv(3), nn.LayerNorm((19,)), conv(3)),
    "ceil": plain(nn.AvgPool2d(3, 2, ceil_mode=True), conv(3, padding=1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_fields_are_the_gradients_footprints(name, rng):
    model, shape = positive(NETWORKS[name], rng), (1, 1, 24, 21)
    fields = analysis.receptive_field(model, shape).fields
    height, width = fields[-1].output_shape[2:]
    assert len(fields[-1].rows) == height
    assert len(fields[-1].columns) == width
    for row in {0, 1, height // 2, height - 1}:
        for column in {0, width // 2, width - 1}:
            assert fields[-1].box(row, column) == footprint(model, shape, row, column, rng)


def test_dilation(rng):
    model, shape = positive(plain(conv(3, dilation=2, padding=2), conv(3, dilation=3)), rng), (1, 1, 24, 24)
    field = analysis.receptive_field(model, shape).fields[-1]
    assert (field.size, field.stride, field.padding, field.center) == ((11, 11), (1, 1), (2, 2), (3.0, 3.0))
    height, width = field.output_shape[2:]
    for row, column in ((2, 2), (height - 3, 5), (height // 2, width // 2)):  # away from the padding; a box has gaps
        assert field.box(row, column) == footprint(model, shape, row, column, rng)


def test_max_pooling_reaches_as_far_as_its_windows(rng):
    model, shape = positive(plain(conv(3), nn.MaxPool2d(3, 2, 1), conv(3)), rng), (1, 1, 16, 16)
    field = analysis.receptive_field(model, shape).fields[-1]
    for row, column in ((0, 0), (2, 1)):
        assert field.box(row, column) == footprint(model, shape, row, column, rng, pictures=60)


def test_every_layer_of_a_network_with_branches(rng):
    model, shape = positive(models.create("resnet20"), rng), (1, 3, 32, 32)
    network, fields = anatomy(model, shape), analysis.receptive_field(model, shape)
    names = network.names()
    assert [field.name for field in fields.fields] == [layer.name for layer in network.layers]
    for name in ("conv1", "layer1.1.add", "layer2.0.conv1", "layer2.0.add"):
        part = until(network, names[name])
        _, _, height, width = fields[name].output_shape
        for row, column in ((0, 0), (height // 2, width - 1)):
            assert fields[name].box(row, column) == footprint(part, shape, row, column, rng)


# For the last maps, from table 1 of Araujo et al.; but the strides of TF-Slim's ResNets are in other layers than
# torchvision's, for which their formula, 1 + the sum of (kernel - 1) times the stride so far, gives the last three.
KNOWN = {
    "alexnet": 195,
    "inception_resnet_v2": 3039,
    "inception_v3": 1311,
    "mobilenet_v1": 315,
    "vgg16": 212,
    "resnet50": 427,
    "resnet101": 971,
    "resnet152": 1451,
}


@pytest.mark.parametrize("name", KNOWN)
def test_fields_of_the_literature(name):
    with nn.init.skip():
        fields = analysis.receptive_field(models.create(name)).fields
    maps = [field for field in fields if len(field.output_shape) == 4 and field.output_shape[2] > 1]
    last = [field for field in maps if field.kind != "AdaptiveAvgPool2d"][-1]
    assert last.size == (KNOWN[name], KNOWN[name])
    assert last.stride == (32, 32)


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "shufflenet_v2_x1_0"]
)
def test_every_family_has_fields(name):
    with nn.init.skip():
        model = models.create(name)
    fields = analysis.receptive_field(model, (1, 3, 96, 96))
    last = fields.fields[-1]
    assert last.box(0, 0) == (0, 95, 0, 95)
    for field in fields.fields:
        assert (field.rows[:, 0] <= field.rows[:, 1]).all()
        assert len(field.rows) == (field.output_shape[2] if len(field.output_shape) == 4 else 1)


def test_dimensions_are_followed_through_changes_of_shape():
    """Merged rows and columns see the whole picture; the fields of all others stay the same."""
    picture = (1, 2, 6, 4)

    def field(function):
        return analysis.receptive_field(function, picture).fields[-1]

    enlarged = field(lambda x: functional.resize(x, (12, 4), "nearest"))
    np.testing.assert_array_equal(enlarged.rows, [[row // 2, row // 2] for row in range(12)])
    np.testing.assert_array_equal(enlarged.columns, [[column, column] for column in range(4)])
    rows = field(lambda x: functional.mean(functional.flatten(x, 0, 1), 2))
    np.testing.assert_array_equal(rows.rows, [[row, row] for row in range(6)])
    np.testing.assert_array_equal(rows.columns, [[0, 3]])
    both = field(lambda x: functional.cat([functional.narrow(x, 2, 4, 2), functional.narrow(x, 2, 0, 1)], 2))
    np.testing.assert_array_equal(both.rows, [[4, 4], [5, 5], [0, 0]])
    assert field(lambda x: functional.unflatten(functional.flatten(x, 2), 2, (6, 4))).box(0, 0) == (0, 5, 0, 3)


def test_signals_and_volumes():
    signal = plain(nn.Conv1d(1, 2, 5, 2, 2), nn.MaxPool1d(2), nn.Conv1d(2, 2, 3, dilation=2))
    fields = analysis.receptive_field(signal, (1, 1, 64))
    assert str(fields).splitlines()[-1].split() == ["2", "Conv1d", "1x2x12", "23", "4", "2", "9"]
    last = fields["2"]
    assert (last.size, last.stride, last.padding, last.picture) == ((23,), (4,), (2,), (64,))
    assert last.box(1) == (2, 24)
    assert last.box(0) == (0, 20), "what padding adds is not in the picture"
    volume = plain(nn.Conv3d(1, 2, (3, 1, 5), (1, 2, 1)), nn.AvgPool3d(2))
    last = analysis.receptive_field(volume, (1, 1, 8, 9, 10))["1"]
    assert (last.size, last.stride) == ((4, 3, 6), (2, 4, 2))
    assert last.box(1, 0, 2) == (2, 5, 0, 2, 4, 9)
    with pytest.raises(TypeError, match="a position must have 3 numbers, got 2"):
        last.box(0, 0)
    mixed = analysis.receptive_field(lambda x: functional.mean(x, 2), (1, 1, 4, 5, 6)).fields[-1]
    assert mixed.size == (4, 1, 1)


def test_bad_input():
    with pytest.raises(ValueError, match="must be images"):
        analysis.receptive_field(nn.Linear(3, 2), (4, 3))
    with pytest.raises(TypeError, match="no rule for im2col"):
        analysis.receptive_field(lambda x: functional.im2col(x, 3), (1, 1, 8, 8))
    with pytest.raises(KeyError, match=r"there is no layer '1\.cnv'; did you mean 1\.conv"):
        analysis.receptive_field(plain(nn.ReLU(), WithFunctions()), (1, 1, 8, 8))["1.cnv"]
    with pytest.raises(IndexError):
        analysis.receptive_field(conv(3), (1, 1, 8, 8)).fields[0].box(6, 0)
