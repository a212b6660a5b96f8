"""Loss layers against torch's layers of the same names."""

import inspect

import numpy as np
import pytest

from convlane import nn

WEIGHT = np.linspace(0.5, 1.5, 3, dtype=np.float32)
SHAPE = (2, 3, 4, 5)
PROBABILITIES = np.random.default_rng(0).random(SHAPE).astype(np.float32)
CLASSES = np.random.default_rng(0).integers(0, 3, (2, 4, 5))

# A function from a library's `nn` and its function that makes arrays to the layer, and the target.
LOSSES = {
    "cross-entropy": (lambda nn, array: nn.CrossEntropyLoss(), CLASSES),
    "cross-entropy with options": (
        lambda nn, array: nn.CrossEntropyLoss(array(WEIGHT), ignore_index=1, reduction="sum", label_smoothing=0.1),
        CLASSES,
    ),
    "cross-entropy of probabilities": (lambda nn, array: nn.CrossEntropyLoss(array(WEIGHT)), PROBABILITIES),
    "negative log-likelihood": (lambda nn, array: nn.NLLLoss(), CLASSES),
    "negative log-likelihood with options": (
        lambda nn, array: nn.NLLLoss(array(WEIGHT), ignore_index=1, reduction="none"),
        CLASSES,
    ),
    "L1": (lambda nn, array: nn.L1Loss(reduction="sum"), PROBABILITIES),
    "mean square": (lambda nn, array: nn.MSELoss(reduction="none"), PROBABILITIES),
    "smooth L1": (lambda nn, array: nn.SmoothL1Loss(beta=0.2), PROBABILITIES),
    "Huber": (lambda nn, array: nn.HuberLoss("sum", 0.2), PROBABILITIES),
    "Kullback-Leibler": (lambda nn, array: nn.KLDivLoss(reduction="batchmean"), PROBABILITIES),
    "Kullback-Leibler of logarithms": (lambda nn, array: nn.KLDivLoss(log_target=True, reduction="sum"), PROBABILITIES),
    "binary": (lambda nn, array: nn.BCELoss(array(WEIGHT[:, None, None])), PROBABILITIES),
    "binary with logits": (
        lambda nn, array: nn.BCEWithLogitsLoss(array(WEIGHT[:, None, None]), pos_weight=array(WEIGHT[:, None, None])),
        PROBABILITIES,
    ),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", LOSSES)
def test_losses_compute_what_torch_does(name, rng):
    import torch

    make, target = LOSSES[name]
    ours, theirs = make(nn, np.asarray), make(torch.nn, torch.tensor)
    assert {key: array.shape for key, array in ours.state_dict().items()} == {
        key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()
    }
    assert not list(ours.parameters())
    input = rng.uniform(0.1, 0.9, SHAPE).astype(np.float32)
    expected = theirs(torch.tensor(input), torch.tensor(target))
    np.testing.assert_allclose(ours(input, target), expected, rtol=1e-5, atol=1e-6)
    for attribute in inspect.signature(type(ours)).parameters:
        if not isinstance(getattr(ours, attribute), np.ndarray):
            assert getattr(ours, attribute) == getattr(theirs, attribute), attribute


def test_losses_show_their_options():
    assert repr(nn.CrossEntropyLoss(ignore_index=255)) == (
        "CrossEntropyLoss(ignore_index=255, label_smoothing=0.0, reduction='mean')"
    )
    assert repr(nn.SmoothL1Loss()) == "SmoothL1Loss(beta=1.0, reduction='mean')"
    assert repr(nn.BCELoss(reduction="sum")) == "BCELoss(reduction='sum')"
