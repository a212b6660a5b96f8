"""The process that benchmarks/shapes.py starts for each runtime: check and time single convolutions.

The only argument is a JSON object with the settings. Each line on stdin is a task, a JSON object, and each line on
stdout is the answer to a task; what libraries print goes to stderr. Images and weights follow from the shape and the
seed; images are channels last. A task names the file in which the result is stored, so that the results of all runtimes
can be compared.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from peer_worker import first_line, redirect_output, time_calls

_ARGUMENTS = ("channels", "filters", "kernel", "stride", "padding", "dilation", "groups")


def prepare(run_of, shape, seed, file):
    """Return the image and a function that convolves it, or None if unsupported; store the result in the file."""
    random = np.random.default_rng(seed)
    n, c, h, w = (shape[name] for name in ("batch", "channels", "height", "width"))
    image = random.standard_normal((n, h, w, c), np.float32).transpose(0, 3, 1, 2)
    weight = random.standard_normal((shape["filters"], c // shape["groups"], *shape["kernel"]), np.float32)
    bias = random.standard_normal(shape["filters"], np.float32)
    run = run_of(shape, image, weight, bias)
    if run is not None:
        np.save(file, np.asarray(run(image)))
    return image, run


def measure(image, run, seconds):
    """Return the milliseconds of each call; there are none without a function to call."""
    if run is None:
        return {"ms": []}
    time_calls(run, image, seconds / 4, least=1)
    return {"ms": time_calls(run, image, seconds, least=2)}


# runtimes: each function sets the number of threads and returns a function from a convolution to a function that runs
# it, or to None


def _convlane(threads):
    import convlane
    from convlane import nn

    convlane.set_num_threads(threads)

    def run_of(shape, image, weight, bias):
        arguments = (shape[name] for name in _ARGUMENTS)
        with nn.init.skip():
            layer = nn.Conv2d(*(tuple(item) if isinstance(item, list) else item for item in arguments))
        layer.weight, layer.bias = weight, bias
        return convlane.compile(layer.eval(), image.shape)

    return run_of


def _torch(threads):
    """Use the faster of two networks: the layer as it is, and with weights that oneDNN has packed beforehand."""
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)

    def run_of(shape, image, weight, bias):
        layer = torch.nn.Conv2d(*(shape[name] for name in _ARGUMENTS))
        layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        layer = layer.to(memory_format=torch.channels_last).eval()
        frozen = torch.jit.freeze(torch.jit.trace(layer, torch.from_numpy(image), check_trace=False))
        optimized = torch.jit.optimize_for_inference(frozen)

        def runner(network):
            def run(image):
                with torch.inference_mode():
                    return network(torch.from_numpy(image)).numpy()

            return run

        return min(runner(layer), runner(optimized), key=lambda way: min(time_calls(way, image, 0)))

    return run_of


def _filters(correlate):
    """Return a function that makes runners for filters of images; `correlate` pads so that the size stays the same."""

    def run_of(shape, image, weight, bias):
        filters = shape["channels"] == shape["filters"] == 1 and shape["stride"] == shape["dilation"] == [1, 1]
        reach = [size // 2 for size in shape["kernel"]]
        if not filters or any(size % 2 == 0 for size in shape["kernel"]):
            return None
        if any(padding > most for padding, most in zip(shape["padding"], reach, strict=True)):
            return None
        rows, columns = (
            slice(most - padding, size - most + padding)
            for padding, most, size in zip(shape["padding"], reach, image.shape[2:], strict=True)
        )
        kernel = np.ascontiguousarray(weight[0, 0])

        def run(image):
            return np.stack([correlate(each[0], kernel, bias[0])[None, rows, columns] for each in image])

        return run

    return run_of


def _scipy(threads):
    from scipy import ndimage

    return _filters(lambda image, kernel, bias: ndimage.correlate(image, kernel, mode="constant") + bias)


def _opencv(threads):
    import cv2

    cv2.setNumThreads(threads)

    def correlate(image, kernel, bias):
        return cv2.filter2D(image, cv2.CV_32F, kernel, delta=float(bias), borderType=cv2.BORDER_CONSTANT)

    return _filters(correlate)


_RUNTIMES = {"convlane": _convlane, "opencv": _opencv, "scipy": _scipy, "torch": _torch}


def main():
    answer = redirect_output()
    setting = json.loads(sys.argv[1])
    run_of = _RUNTIMES[setting["runtime"]](setting["threads"])
    last = prepared = None
    for line in sys.stdin:
        task = json.loads(line)
        seconds = task.pop("seconds")
        try:
            if task != last:  # otherwise it is another turn with the same shape
                last, prepared = task, prepare(run_of, **task)
            found = measure(*prepared, seconds)
        except Exception as error:  # the parent reports it with the results of the other shapes
            found = {"problem": first_line(error)}
        answer(found)


if __name__ == "__main__":
    main()
