"""One task of benchmarks/peers.py in a process of its own: make a network's files, or check and time one runtime.

The only argument is a JSON object; the only line on stdout is the JSON result. What libraries print goes to stderr. A
folder holds one network: ``weights.npz``, and for each batch size the input, the expected output and the exported
graphs.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from torch_networks import torch_network

import convlane
from convlane import models, nn

# Largest error that counts as the same result, relative to the largest output. float32 runtimes stay below 1e-4,
# bfloat16 arithmetic does not stay below 1e-3.
TOLERANCE = 1e-3
_LEAST_CALLS = 3


def prepare(folder, model, batches, size, seed, runtimes):
    """Write the files that the runtimes need; return the errors of runtimes for which that failed.

    The expected output is torch's, or convlane's own if convlane runs alone.
    """
    network = _random_network(model, size, seed)
    state = network.state_dict()
    np.savez(folder / "weights.npz", **state)
    inputs = {}
    for batch in batches:
        inputs[batch] = np.random.default_rng([seed, batch]).standard_normal((batch, 3, size, size), np.float32)
        np.save(folder / f"input-{batch}.npy", inputs[batch])
    compares = runtimes != ["convlane"]
    reference = _torch_network(folder, model) if compares else None
    for batch, image in inputs.items():
        np.save(
            folder / f"expected-{batch}.npy",
            _torch_output(reference, image) if compares else main_output(network(image)),
        )

    problems = {}
    for export, users in {_export_onnx: ["onnxruntime", "opencv", "openvino"], _export_ncnn: ["ncnn"]}.items():
        users = [runtime for runtime in users if runtime in runtimes]
        try:
            if users:
                export(folder, reference, inputs)
        except Exception as error:  # an exporter may raise anything; the other runtimes are still compared
            problems |= dict.fromkeys(users, f"export failed: {first_line(error)}")
    return problems


def measure(folder, model, runtime, threads, batch, seconds):
    """Load the network, compare its output with the expected one, and time calls for some seconds if it is right.

    Every call starts from a C-contiguous NumPy array (N, C, H, W) and ends with the finished output.
    """
    image = np.load(folder / f"input-{batch}.npy")
    run = _RUNTIMES[runtime](folder, model, image, threads)
    error = relative_error(np.asarray(run(image)), np.load(folder / f"expected-{batch}.npy"))
    if not error <= TOLERANCE:
        return {"error": error, "ms": []}
    time_calls(run, image, seconds / 2)
    return {"error": error, "ms": time_calls(run, image, seconds)}


def relative_error(actual, expected):
    """Return the largest difference over the largest expected value; infinity for another shape or a NaN."""
    if actual.shape != expected.shape or np.isnan(actual).any():
        return float("inf")
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _random_network(model, size, seed):
    """Build convlane's network with random weights and with the batch norm statistics of random images.

    Measured statistics keep all activations in a sensible range, as in a trained network: no infinities, no denormals.
    """
    nn.init.seed(seed)
    network = models.create(model)
    random = np.random.default_rng(seed)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight = random.uniform(0.5, 1.5, norm.weight.shape).astype(np.float32)
        norm.bias = random.uniform(-0.3, 0.3, norm.bias.shape).astype(np.float32)
        norm.momentum = 1.0
    if norms:
        network.train()(random.standard_normal((2, 3, size, size), np.float32))
    return network.eval()


def time_calls(run, image, seconds, least=_LEAST_CALLS):
    """Return the milliseconds of each call; there are at least `least`, even if they take longer than `seconds`."""
    calls = []
    end = time.perf_counter() + seconds
    while len(calls) < least or time.perf_counter() < end:
        start = time.perf_counter()
        run(image)
        calls.append((time.perf_counter() - start) * 1e3)
    return calls


def main_output(outputs):
    """Return the main output of a network, which is the first one if it returns several by name."""
    return next(iter(outputs.values())) if isinstance(outputs, dict) else outputs


# torch's network and its exports


def _torch_network(folder, model):
    """Return the network with its main output only, as exported graphs have it."""
    import torch

    weights = np.load(folder / "weights.npz")
    config = {"aux_logits": any(key.startswith("aux") for key in weights.files)} if model == "googlenet" else {}
    network = torch_network(model, **config)
    state = network.state_dict()  # with the version, which MNASNet needs
    state |= {key: torch.from_numpy(weights[key]) for key in weights.files}
    network.load_state_dict(state, assign=True)

    class MainOutput(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, image):
            return main_output(self.network(image))

    return MainOutput().eval()


def _torch_output(network, image):
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(image)).numpy()


def _export_onnx(folder, network, inputs):
    import torch

    for batch, image in inputs.items():
        torch.onnx.export(network, (torch.from_numpy(image),), folder / f"batch-{batch}.onnx", dynamo=True)


def _export_ncnn(folder, network, inputs):
    """Export for one image: ncnn's layers do not support batches."""
    import pnnx
    import torch

    image = torch.from_numpy(next(iter(inputs.values()))[:1])
    pnnx.export(network, str(folder / "network.pt"), (image,), fp16=False)


# runtimes: each function returns a function from the input to the output


def _convlane(folder, model, image, threads):
    convlane.set_num_threads(threads)
    with nn.init.skip():
        network = models.create(model)
    network.load_state_dict(np.load(folder / "weights.npz"))
    plan = convlane.compile(network, image.shape)
    return lambda image: main_output(plan(image))


def _onnxruntime(folder, model, image, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    graph = folder / f"batch-{len(image)}.onnx"
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def _opencv(folder, model, image, threads):
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(str(folder / f"batch-{len(image)}.onnx"))

    def run(image):
        net.setInput(image)
        return net.forward()

    return run


def _openvino(folder, model, image, threads):
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
    }
    compiled = openvino.Core().compile_model(folder / f"batch-{len(image)}.onnx", "CPU", settings)
    request = compiled.create_infer_request()
    return lambda image: request.infer({0: image}, share_inputs=True, share_outputs=True)[0]


def _ncnn(folder, model, image, threads):
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_winograd_convolution = net.opt.use_sgemm_convolution = net.opt.use_packing_layout = True
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        if hasattr(net.opt, f"use_{option}"):
            setattr(net.opt, f"use_{option}", False)
    for load, name in ((net.load_param, "network.ncnn.param"), (net.load_model, "network.ncnn.bin")):
        if load(str(folder / name)) != 0:
            raise RuntimeError(f"ncnn cannot load {name}")
    source, target = net.input_names()[0], net.output_names()[0]

    def run_one(picture):
        extractor = net.create_extractor()
        extractor.input(source, ncnn.Mat(picture))
        status, output = extractor.extract(target)
        if status != 0:
            raise RuntimeError(f"ncnn's extract returned {status}")
        return np.array(output)

    return lambda image: np.stack([run_one(picture) for picture in image])


def _torch(folder, model, image, threads):
    """Use the fastest of torch's ways to run a network; which one that is depends on the network."""
    import torch
    from torch.fx.experimental.optimization import fuse

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    fused = fuse(_torch_network(folder, model)).to(memory_format=torch.channels_last)

    def runner(network):
        def run(image):
            with torch.inference_mode():
                return network(torch.from_numpy(image).contiguous(memory_format=torch.channels_last)).numpy()

        return run

    def freeze():
        example = torch.from_numpy(image).contiguous(memory_format=torch.channels_last)
        return torch.jit.freeze(torch.jit.trace(fused, example, check_trace=False))

    optimized = torch.jit.optimize_for_inference(freeze())  # works in place
    ways = [runner(network) for network in (fused, freeze(), optimized)]
    for way in ways:
        time_calls(way, image, 0)
    return min(ways, key=lambda way: min(time_calls(way, image, 0)))


_RUNTIMES = {
    "convlane": _convlane,
    "ncnn": _ncnn,
    "onnxruntime": _onnxruntime,
    "opencv": _opencv,
    "openvino": _openvino,
    "torch": _torch,
}


def first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]


def redirect_output():
    """Return a function that prints an answer for the parent; from now on, all other output goes to stderr."""
    warnings.simplefilter("ignore")  # deprecations in other people's code
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda answer: print(json.dumps(answer), file=result, flush=True)


def run_task(function):
    """Print, as JSON, the result of function(**task), where the task is the program's only argument."""
    answer = redirect_output()
    try:
        found = function(**json.loads(sys.argv[1]))
    except Exception as error:  # the parent reports it with the results of the other runtimes
        sys.exit(first_line(error))
    answer(found)


def _run(task, folder, **arguments):
    return {"prepare": prepare, "measure": measure}[task](Path(folder), **arguments)


if __name__ == "__main__":
    run_task(_run)
