"""Networks as they are after training, and their twins of torchvision."""

from torchvision_import import import_torchvision


def lively(model, rng):
    """Give the network's batch norms statistics that matter, as training would."""
    state = model.state_dict()
    for key, array in state.items():
        if key.endswith("running_mean"):
            state[key] = rng.uniform(-0.3, 0.3, array.shape)
        elif key.endswith("running_var"):
            state[key] = rng.uniform(0.5, 1.5, array.shape)
    model.load_state_dict(state)
    return model


def torchvision_twin(name, model):
    """Build torchvision's network of the same name, with the same weights."""
    import torch

    torchvision = import_torchvision()
    with torch.device("meta"):
        twin = getattr(torchvision.models, name)().eval()
    twin.load_state_dict({key: torch.tensor(array) for key, array in model.state_dict().items()}, assign=True)
    return twin
