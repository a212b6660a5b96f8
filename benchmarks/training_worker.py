"""One task of benchmarks/training_peers.py in a process of its own: time steps of one network's training.

The only argument is a JSON object; the only line on stdout is the JSON result. What libraries print goes to stderr.
Weights and images follow from the seed. A step is everything between a batch in NumPy arrays and changed parameters:
forward in training mode, cross-entropy, backward, SGD with momentum; it returns the loss as a number.
"""

from __future__ import annotations

import numpy as np
from peer_worker import run_task, time_calls
from torch_networks import torch_network

import convlane
from convlane import models, nn
from convlane.functional import cross_entropy
from convlane.training import SGD

CLASSES = 10
LEARNING_RATE, MOMENTUM = 0.001, 0.9
CHECKED_STEPS = 2
SHAPES = {"unet": (3, 256, 256)}  # for networks that are usually trained on other shapes than their own


def measure(model, runtime, threads, batch, seed, seconds):
    """Train a few steps without dropout and return their losses, then time steps with dropout.

    The memory is the peak of the process beyond what it had before the first step, when the library was imported and
    the network and its optimiser existed.
    """
    random = np.random.default_rng([seed, batch])
    shape = SHAPES.get(model) or models.input_shape(model)
    images = random.standard_normal((batch, *shape), np.float32)
    labels = random.integers(0, CLASSES, (batch, *shape[1:]) if model == "unet" else batch)  # of pixels, or pictures
    nn.init.seed(seed)
    network, step = _RUNTIMES[runtime](model, threads)
    dropouts = [module for module in network.modules() if type(module).__name__ == "Dropout"]
    rates = [module.p for module in dropouts]
    before = _status_mb("VmRSS")
    for module in dropouts:
        module.p = 0.0
    losses = [step(images, labels) for _ in range(CHECKED_STEPS)]
    for module, rate in zip(dropouts, rates, strict=True):
        module.p = rate

    def run(images):
        step(images, labels)

    time_calls(run, images, seconds / 2)
    times = time_calls(run, images, seconds)
    return {"losses": losses, "ms": times, "megabytes": _status_mb("VmHWM") - before}


def _convlane(name, threads):
    convlane.set_num_threads(threads)
    network = models.create(name, num_classes=CLASSES).train()
    optimizer = SGD(network, LEARNING_RATE, MOMENTUM)
    gradients_of = convlane.value_and_grad(lambda images, labels: cross_entropy(network(images), labels), network)

    def step(images, labels):
        loss, gradients = gradients_of(images, labels)
        optimizer.step(gradients)
        return loss

    return network, step


def _torch(name, threads):
    """Follow the usual best practice: channels last, gradients set to None, the optimiser's fused kernel."""
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    weights = models.create(name, num_classes=CLASSES).state_dict()
    network = torch_network(name, num_classes=CLASSES)
    state = network.state_dict()  # with the version, which MNASNet needs
    state |= {key: torch.from_numpy(np.array(array)) for key, array in weights.items()}
    network.load_state_dict(state, assign=True)
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, fused=True)

    def step(images, labels):
        x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.cross_entropy(network(x), torch.from_numpy(labels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return network, step


_RUNTIMES = {"convlane": _convlane, "torch": _torch}


def _status_mb(field):
    """Return a field of the process's memory status in MB; 0 where the system has no such file."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(field))
    except OSError:
        return 0.0


if __name__ == "__main__":
    run_task(measure)
