"""Networks in files."""

import copy
import json
import os

import numpy as np
import pytest

import convlane
from convlane import models, nn
from convlane.models import registry
from convlane.safetensors_file import write_tensors


def written(path, model, version="1", kind="convlane model", **changes):
    record = {"name": "mobilenet_v2", "num_classes": 2, "config": {"width_mult": 0.1}} | changes
    metadata = {"format": kind, "format_version": version, "model": json.dumps(record)}
    write_tensors(path, model.state_dict(), metadata)


@pytest.fixture(scope="module")
def small():
    return models.create("mobilenet_v2", num_classes=2, width_mult=0.1)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("efficientnet_b0", {"dropout": 0.5}),
        ("alexnet_2012", {"dropout": 0.25, "num_classes": 0}),
        ("googlenet", {"aux_logits": False, "num_classes": 7}),
        ("lenet5_1998", {"num_classes": 12}),
        ("mobilenet_v2", {"width_mult": 0.35}),
        ("resnet18", {}),
        ("resnet20", {"shortcut": "B"}),
    ],
)
def test_round_trip(tmp_path, name, config):
    model = models.create(name, **config)
    copy.deepcopy(model).train().save(tmp_path / "a")
    again = convlane.load(tmp_path / "a")
    assert repr(again) == repr(model)
    assert not again.training
    assert registry.architecture(again) == registry.architecture(model)
    expected = model.state_dict()
    for weights in (again.state_dict(), convlane.load_weights(tmp_path / "a")):
        assert weights.keys() == expected.keys()
        for key, array in weights.items():
            np.testing.assert_array_equal(array, expected[key], err_msg=key, strict=True)


def test_what_cannot_be_saved(tmp_path, small):
    with pytest.raises(ValueError, match=r"create has not made this Linear.*save_weights"):
        nn.Linear(2, 3).save(tmp_path / "a")
    for change in (nn.Linear(128, 3), nn.Identity()):
        model = copy.deepcopy(small)
        model.classifier = change
        with pytest.raises(ValueError, match="the layers of this mobilenet_v2 have been changed"):
            model.save(tmp_path / "a")
    with pytest.raises(ValueError, match="which cannot all be written as JSON"):
        models.create("mobilenet_v2", width_mult=np.float32(0.1)).save(tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pt"}, r"do not say that it is one; convlane\.load_weights reads"),
        ({"version": "2"}, "has the format '2'"),
        ({"name": "mobilenet_v9"}, "no model 'mobilenet_v9'; did you mean mobilenet_v"),
        ({"name": 3}, "wrong types"),
        ({"extra": 3}, "must be an object with"),
        ({"num_classes": 0}, "does not match"),
        ({"num_classes": -1}, "num_classes must not be negative"),
        ({"num_classes": 3}, "does not match"),
        ({"num_classes": 10**12}, "has more than"),
        ({"config": {"width_mult": 1e5}}, "has more than"),
        ({"config": {"nonsense": 1}}, "unexpected keyword argument 'nonsense'"),
        ({"config": {"weights": "/etc/passwd"}}, "unexpected keyword argument 'weights'"),
        ({"config": {"num_classes": 3}}, "multiple values"),
    ],
)
def test_hostile_files_are_refused(tmp_path, small, changes, message):
    written(tmp_path / "a", small)
    convlane.load(tmp_path / "a")
    written(tmp_path / "a", small, **changes)
    with pytest.raises(ValueError, match=message) as error:
        convlane.load(tmp_path / "a")
    assert str(error.value).startswith(f"{tmp_path / 'a'}: not a valid saved network: ")


def test_create_with_weights(tmp_path, small):
    convlane.save_weights(tmp_path / "a", small.state_dict())
    model = models.create("mobilenet_v2", num_classes=2, weights=tmp_path / "a", width_mult=0.1)
    np.testing.assert_array_equal(model.classifier[1].weight, small.classifier[1].weight)
    with pytest.raises(ValueError, match="a: load_state_dict: the state dict does not match"):
        models.create("mobilenet_v2", num_classes=3, weights=tmp_path / "a", width_mult=0.1)
    with pytest.raises(FileNotFoundError):
        models.create("resnet18", weights=tmp_path / "missing")


def test_a_network_that_does_not_fit_into_memory(tmp_path, small, monkeypatch):
    """A MemoryError is not reported as a fault of the file."""

    def build(*args):
        raise MemoryError

    written(tmp_path / "a", small)
    monkeypatch.setattr("convlane.models.registry.build", build)
    with pytest.raises(MemoryError, match="a: the network does not fit into memory"):
        convlane.load(tmp_path / "a")
