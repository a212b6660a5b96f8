"""One task of benchmarks/onnx_files.py in a process of its own: time calls of one ONNX file.

The only argument is a JSON object; the only line on stdout is the JSON result, the milliseconds of all calls. What
libraries print goes to stderr. Every call begins with NumPy arrays and ends with the finished outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from peer_worker import run_task, time_calls

TOLERANCE = 1e-3  # relative to the largest number
FEW = 1e-4  # the share of numbers that may be wrong: where a network compares two numbers, the last bit may decide


def measure(path, shape, batch, size, runtime, threads, seconds):
    """Return the milliseconds of all calls, after comparing the outputs with ONNX Runtime's or ONNX's reference."""
    data, name, shape = opened(Path(path), shape, batch, size)
    image = np.random.default_rng(0).random(shape, np.float32)
    run = _RUNTIMES[runtime](data, name, threads)
    found = run(image)
    if runtime != "onnxruntime":
        compare(found, _reference(data, name, image))
    time_calls(run, image, seconds / 2)
    return time_calls(run, image, seconds)


def opened(path, shape, batch, size):
    """Return the file's bytes, its input's name and shape; the file's sizes become open where the shape differs."""
    import onnx

    model = onnx.load(path)
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        raise ValueError(f"it must have one input, got {', '.join(each.name for each in inputs) or 'none'}")
    dims = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    whole = [declared or (size if i else batch) for i, declared in enumerate(dims)] if shape is None else list(shape)
    if len(whole) != len(dims):
        raise ValueError(f"its input has {len(dims)} dimensions, got the shape {tuple(whole)}")
    if any(declared not in (0, asked) for declared, asked in zip(dims, whole, strict=True)):
        for info in (*inputs, *model.graph.output):
            for i, dim in enumerate(info.type.tensor_type.shape.dim):
                dim.dim_param = f"{info.name}_{i}"
        del model.graph.value_info[:]
    return model.SerializeToString(), inputs[0].name, tuple(whole)


def compare(found, expected):
    """Raise a ValueError if outputs are wrong."""
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} outputs instead of {len(expected)}")
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(f"an output of the shape {ours.shape} instead of {theirs.shape}")
        wrong = ~(np.abs(ours - theirs) <= TOLERANCE * np.abs(theirs).max(initial=0))
        if wrong.mean() > FEW:
            raise ValueError(f"wrong output: {wrong.mean():.1%} of the numbers")


def _reference(data, name, image):
    try:
        return _onnxruntime(data, name, 1)(image)
    except ImportError:
        import onnx.reference

        return onnx.reference.ReferenceEvaluator(data).run(None, {name: image})


def _convlane(data, name, threads):
    import convlane
    from convlane.onnx import InferenceSession

    convlane.set_num_threads(threads)
    session = InferenceSession(data)
    return lambda image: session.run(None, {name: image})


def _onnxruntime(data, name, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {name: image})


def _openvino(data, name, threads):
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
    }
    core = openvino.Core()
    compiled = []

    def run(image):
        if not compiled:  # for this size, which is faster than an open one
            model = core.read_model(data)
            model.reshape({name: image.shape})
            compiled.append(core.compile_model(model, "CPU", settings))
        request = compiled[0](image, share_inputs=True, share_outputs=True)
        return [request[each] for each in compiled[0].outputs]

    return run


_RUNTIMES = {"convlane": _convlane, "onnxruntime": _onnxruntime, "openvino": _openvino}

if __name__ == "__main__":
    run_task(measure)
