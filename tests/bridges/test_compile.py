"""``torch.compile(model, backend="convlane")`` against torch."""

import logging
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tomllib

pytestmark = pytest.mark.torch

LOGGER = "convlane.bridges.torch.compiled"


@pytest.fixture(autouse=True)
def _forget():
    """Start without the graphs that other tests have compiled."""
    import torch

    torch._dynamo.reset()


def backend():
    from convlane.bridges.torch.compiled import backend

    return backend


def network(*layers):
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), *layers).eval()


def assert_same(compiled, model, *inputs):
    import torch

    with torch.no_grad():
        got, expected = compiled(*inputs), model(*inputs)
    got, expected = (each if isinstance(each, tuple) else (each,) for each in (got, expected))
    for mine, other in zip(got, expected, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_entry_point():
    """Torch finds the backend by name if convlane is installed."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    module, name = tomllib.loads(text)["project"]["entry-points"]["torch_dynamo_backends"]["convlane"].split(":")
    assert getattr(import_module(module), name) is backend()


def test_by_name(tmp_path):
    """An installed package is found by its entry points, which torch reads when it looks for a name."""
    package = tmp_path / "convlane-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: convlane\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[torch_dynamo_backends]\nconvlane = convlane.bridges.torch.compiled:backend\n"
    )
    code = """
import sys, torch
sys.path.insert(0, sys.argv[1])
assert "convlane" in torch._dynamo.list_backends()
layer, image = torch.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 5, 5)
with torch.inference_mode():
    torch.testing.assert_close(torch.compile(layer, backend="convlane")(image), layer(image))
print("convlane.bridges.torch.compiled" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


def breaking(kind):
    """Return a network that dynamo cannot record as one graph."""
    import torch

    class Branch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.other = network(), torch.nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.body(x)
            if kind == "branch":
                return self.other(y) if y.sum() > 0 else y
            if kind == "number":
                return self.other(y) * float(y.max())
            if kind == "break":
                torch._dynamo.graph_break()
                return self.other(y), y
            if kind == "unknown":
                return self.other(torch.cumprod(y, 1)), y.mean((2, 3))
            return self.other(torch.from_numpy(np.flip(y.numpy(), 1).copy()))

    return Branch().eval()


@pytest.mark.parametrize("kind", ["branch", "number", "break", "unknown", "numpy"])
def test_graph_breaks(kind, caplog):
    import torch

    model = breaking(kind)
    compiled = torch.compile(model, backend=backend())
    with caplog.at_level(logging.WARNING, LOGGER):
        assert_same(compiled, model, torch.randn(2, 3, 8, 8))
    message = "2 parts run on convlane, torch runs what convlane cannot: aten.cumprod.default"
    assert (message in caplog.text) == (kind == "unknown")


@pytest.mark.parametrize("freezing", [False, True], ids=["inputs", "attributes"])
def test_weights_are_frozen_until_they_change(freezing):
    """Whether dynamo hands parameters over as inputs of its graph or, for inductor's freezing, as attributes."""
    import torch

    model, picture = network(), torch.randn(1, 3, 9, 9)
    compiled = torch.compile(model, backend=backend())
    with torch._dynamo.config.patch(prepare_freezing=freezing):
        assert_same(compiled, model, picture)
        with torch.no_grad():
            model[0].weight.mul_(2)
        assert_same(compiled, model, picture)
        model[1].running_mean.add_(1)
        assert_same(compiled, model, picture)
        model.load_state_dict({key: value + 1 for key, value in model.state_dict().items()})
        assert_same(compiled, model, picture)
        model[0].weight.data = model[0].weight.data * 2
        assert_same(compiled, model, picture)


def test_modes_and_what_is_left_to_torch(caplog):
    import torch

    model, picture = network(torch.nn.Dropout(0.5)), torch.randn(2, 3, 9, 9)
    compiled = torch.compile(model, backend=backend())
    with torch.no_grad(), caplog.at_level(logging.WARNING, LOGGER):
        model.train()
        before = model[1].running_mean.clone()
        assert 0.2 < (compiled(picture) == 0).float().mean() < 0.95
        assert not torch.equal(before, model[1].running_mean)
        assert "it changes its inputs" in caplog.text
        model.eval()
        torch.testing.assert_close(compiled(picture), model(picture), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(picture), model(picture), rtol=1e-4, atol=1e-5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got, expected = compiled(picture), model(picture)
    torch.testing.assert_close(got, expected)
    half = network().bfloat16()
    assert_same(torch.compile(half, backend=backend()), half, picture.bfloat16())
    assert "of bfloat16" in caplog.text


def test_results_that_are_known_and_inputs_that_are_changed(caplog):
    import torch

    layer, x = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)

    def several(x):
        return layer(x), torch.ones(3) * 2, x.shape[0]

    def changing(x):
        x.add_(1)
        return layer(x)

    with torch.no_grad(), caplog.at_level(logging.WARNING, LOGGER):
        for got, expected in zip(torch.compile(several, backend=backend())(x), several(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        one, two = x.clone(), x.clone()
        got, expected = torch.compile(changing, backend=backend())(one), changing(two)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one, two)
    assert "it changes its inputs" in caplog.text


@pytest.mark.parametrize("name", ["squeeze and excite", "attention", "temporal", "shifted", "encoder"])
def test_blocks(name, caplog):
    """Each block becomes one part, of which nothing runs outside the plan, whatever the batch."""
    import torch

    from torch_blocks import make

    model, shape = make(name)
    compiled = torch.compile(model, backend=backend())
    with caplog.at_level(logging.INFO, LOGGER):
        for examples in (2, 3):
            assert_same(compiled, model, torch.randn(examples, *shape))
    assert "operations run on convlane" in caplog.text
    assert "stays with torch" not in caplog.text
    assert "step by step" not in caplog.text


def test_sizes_do_not_recompile():
    import torch

    def graphs_of(backend):
        graphs = []

        def counted(graph, inputs):
            graphs.append(graph)
            return backend(graph, inputs)

        torch._dynamo.reset()
        compiled = torch.compile(model, backend=counted)
        for size in ((2, 3, 9, 9), (3, 3, 9, 9), (5, 3, 12, 11), (4, 3, 10, 13)):
            assert_same(compiled, model, torch.randn(size))
        return len(graphs)

    model = network(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    assert graphs_of(backend()) == graphs_of(lambda graph, inputs: graph.forward)


def test_channels_last_come_without_a_copy(monkeypatch):
    import torch

    from convlane.bridges.torch import compiled as module

    seen = []
    monkeypatch.setattr(module, "to_numpy", lambda tensor: seen.append(tensor.numpy()) or seen[-1])
    model = network()
    picture = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    compiled = torch.compile(model, backend=backend())
    assert_same(compiled, model, picture)
    seen.clear()
    with torch.no_grad():
        output = compiled(picture)
    assert [array.__array_interface__["data"][0] for array in seen] == [picture.data_ptr()]
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_gradients_stay_with_torch(caplog):
    import torch

    model, picture = network(), torch.randn(1, 3, 9, 9)
    with caplog.at_level(logging.WARNING, LOGGER):
        torch.compile(model, backend=backend())(picture).sum().backward()
    assert model[0].weight.grad is not None
    assert re.search("stays with torch: gradients are recorded", caplog.text)


@pytest.mark.parametrize("draw", ["randn", "randn_like"])
def test_random_numbers_are_drawn_in_each_run(draw):
    """Also where they depend on no input, like values that are computed only once."""
    import torch

    def noisy(x):
        return x.relu() + (torch.randn(2, 3) if draw == "randn" else torch.randn_like(x))

    compiled, x = torch.compile(noisy, backend=backend()), torch.zeros(2, 3)
    assert not torch.equal(compiled(x), compiled(x))


OTHER_TYPES = {
    "to integers": lambda x: (x * 10).long() * 2,
    "to int32": lambda x: (x * 10).int() + 1,
    "integers and floats": lambda x: x * (x * 2).int(),
    "to bool": lambda x: x.bool().float(),
    "sum of comparisons": lambda x: (x > 0) + (x < 1),
    "count": lambda x: (x > 0).sum(),
    "mask": lambda x: (x > 0) * x,
    "indices": lambda x: x.argmax(1).int() * 2,
    "half of integers": lambda x: x.argmax(1) / 2,
    "whole division": lambda x: x.argmax(1).int() // 2,
    "norm of another order": lambda x: x.norm(dim=1, p=3),
    "division by zero": lambda x: x / 0,
    "decimals": lambda x: x.round(decimals=1),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_what_has_other_rules_stays_with_torch(name):
    import torch

    function, x = OTHER_TYPES[name], torch.randn(2, 3, 4, 4)
    got, expected = torch.compile(function, backend=backend())(x), function(x)
    torch.testing.assert_close(got, expected, equal_nan=True)  # types, too


@pytest.mark.parametrize(
    "after",
    [lambda y: y.as_strided((2, 3), (5, 1)), lambda y: y.view(2, -1), lambda y: y, lambda y: y.transpose(1, 2)],
    ids=["as_strided", "view", "itself", "transposed"],
)
def test_results_lie_in_memory_as_torch_s(after):
    import torch

    layer, x = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        got = torch.compile(lambda x: after(layer(x)), backend=backend())(x)
        expected = after(layer(x))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert got.stride() == expected.stride()
