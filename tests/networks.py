"""Networks with statistics as after training, and torchvision's equivalents."""

import inspect
from unittest import mock

import numpy as np

from convlane import models, nn
from torchvision_import import import_torchvision


def image_shape(name, size=64):
    """Return channels, height and width of small images for a network, no larger than those it is made for."""
    channels, *natural = models.input_shape(name)
    return channels, *(min(size, side) for side in natural)


def with_statistics(model, rng, size=64):
    """Give the network's batch norms random weights, as training would, and the statistics of noise of this size.

    With those of a new network, random weights may be so small that the output does not depend on the image.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentums = [norm.momentum for norm in norms]
    for norm in norms:
        norm.weight = rng.uniform(0.5, 1.5, norm.weight.shape)
        norm.bias = rng.uniform(-0.3, 0.3, norm.bias.shape)
        norm.training, norm.momentum = True, 1.0
    if norms:
        model(rng.standard_normal((2, 3, size, size), np.float32))
    for module in model.modules():
        if hasattr(module, "layer_scale"):  # which starts so small that its branch has no effect
            module.layer_scale = rng.uniform(0.1, 0.5, module.layer_scale.shape)
    for norm, momentum in zip(norms, momentums, strict=True):
        norm.training, norm.momentum = False, momentum
    return model


def without_randomness(model):
    """Switch off dropout and stochastic depth."""
    for module in model.modules():
        if type(module).__name__ in ("Dropout", "StochasticDepth"):
            module.p = 0.0
    return model


def main_output(outputs):
    """Return the logits of a network that may also return those of auxiliary classifiers."""
    return next(iter(outputs.values())) if isinstance(outputs, dict) else outputs


def weighted_loss(outputs, loss):
    """Add the losses of auxiliary classifiers, if there are any, as Szegedy et al. did in 2014."""
    if not isinstance(outputs, (dict, tuple)):
        return loss(outputs)
    main, *auxiliary = (loss(logits) for logits in (outputs.values() if isinstance(outputs, dict) else outputs))
    return main + 0.3 * sum(auxiliary)


def torchvision_network(name, **config):
    """Build torchvision's network of this name, whose weights have to be loaded afterwards."""
    import torch

    models = import_torchvision().models
    if name in ("googlenet", "inception_v3"):
        config["init_weights"] = False  # the default warns
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        config["weights_backbone"] = None  # by default they are downloaded
    params = models.regnet.BlockParams
    computed = params.from_init_params

    def from_init_params(*args, **kwargs):  # it computes widths with tensors, which must have values
        with torch.device("cpu"):
            return computed(*args, **kwargs)

    with torch.device("meta"), mock.patch.object(params, "from_init_params", from_init_params):
        return models.get_model(name, **config)


def torchvision_twin(name, model, **config):
    """Build torchvision's network of the same name, with the same weights."""
    import torch

    twin = torchvision_network(name, **config).eval()
    state = twin.state_dict()  # with the version, which MNASNet needs
    state |= {key: torch.tensor(array) for key, array in model.state_dict().items()}
    twin.load_state_dict(state, assign=True)
    return twin
