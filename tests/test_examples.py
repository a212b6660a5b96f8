"""The programs in examples/ run, and show what their docstrings say."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from convlane import nn
from convlane.training import predict

EXAMPLES = Path(__file__).parents[1] / "examples"
WRITTEN = {
    "distributed_training": ["checkpoint.safetensors"],
    "linear_collapse": ["linear_collapse.png"],
    "residual_against_plain": ["residual_against_plain.png"],
    "segment_shapes": ["segment_shapes.png"],
    "tell_spirals": ["tell_spirals.png"],
    "tell_tones": ["tell_tones.png"],
    "train_lenet": ["checkpoint.safetensors", "history.png", "lenet5_digits.safetensors"],
}


@pytest.mark.parametrize("name", WRITTEN)
def test_it_runs(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path / "new"), "--epochs", "1"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == WRITTEN[name]
    assert str(tmp_path / "new") in capsys.readouterr().out


def test_a_deep_plain_network_learns_worse_than_a_shallow_one_and_a_residual_one_does_not():
    example = runpy.run_path(str(EXAMPLES / "residual_against_plain.py"))
    loss = {name: example["train"](name, 5)["loss"][-1] for name in ("plain20", "plain56", "resnet56")}
    assert loss["plain56"] > 2 * loss["plain20"]
    assert loss["resnet56"] < loss["plain56"] / 5


def test_layers_without_activations_are_one(rng):
    example = runpy.run_path(str(EXAMPLES / "linear_collapse.py"))
    images = rng.normal(size=(5, 1, 16, 16)).astype(np.float32)
    deep = example["network"](nn.Identity)
    np.testing.assert_allclose(predict(example["collapsed"](deep), images), predict(deep, images), atol=1e-5)
    bent = example["network"](nn.ReLU)
    assert np.abs(predict(example["collapsed"](bent), images) - predict(bent, images)).max() > 1e-2
