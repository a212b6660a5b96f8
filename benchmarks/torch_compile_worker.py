"""One task of benchmarks/torch_compile.py in a process of its own: time calls of one network of torchvision.

The only argument is a JSON object; the only line on stdout is the JSON result, the milliseconds of all calls. What
libraries print goes to stderr. Weights are random; images are channels last, which is fastest for torch.
"""

from __future__ import annotations

import os

from peer_worker import run_task, time_calls
from torch_networks import torchvision

import convlane

TOLERANCE = 1e-3  # relative to the largest number


def measure(model, runtime, threads, batch, size, seconds):
    """Return the milliseconds of all calls, after checking their result."""
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"  # before torch is imported
    import torch

    torch.set_num_threads(threads)
    convlane.set_num_threads(threads)
    torch.manual_seed(0)
    more = {"weights_backbone": None} if model.startswith("deeplab") else {}
    network = torchvision().models.get_model(model, weights=None, **more)
    network = network.eval().to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    run = network if runtime == "eager" else torch.compile(network, backend=_backend(runtime))
    with torch.inference_mode():
        expected, got = (_tensor(each(images)) for each in (network, run))
        error = float((got - expected).abs().max() / expected.abs().max())
        if not error <= TOLERANCE:
            raise ValueError(f"wrong output, off by {error:.1e} of the largest")
        time_calls(run, images, seconds / 2)
        return time_calls(run, images, seconds)


def _backend(runtime):
    from convlane.bridges.torch.compiled import backend

    return backend if runtime == "convlane" else runtime


def _tensor(output):
    return output["out"] if isinstance(output, dict) else output


if __name__ == "__main__":
    run_task(measure)
