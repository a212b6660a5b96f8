"""Operations that only move numbers."""

from __future__ import annotations

import numpy as np

from convlane.functional._arguments import as_dim
from convlane.functional.padding import sides_of
from convlane.onnx.writers._register import Call, writes

_FARTHEST = np.iinfo(np.int64).max


@writes("flatten", "reshape", "unflatten")
def _reshape(call: Call) -> str:
    return call.reshape(call.name("input"), call.shape(), call.node.shape)


@writes("permute")
def _permute(call: Call) -> str:
    rank = len(call.shape())
    return call.emit("Transpose", call.name("input"), perm=[as_dim(dim, "permute", rank) for dim in call["dims"]])


@writes("expand")
def _expand(call: Call) -> str:
    return call.emit("Expand", call.name("input"), call.integers(call.node.shape))


@writes("tile")
def _tile(call: Call) -> str:
    before, after = call.shape(), call.node.shape
    x = call.name("input")
    if len(after) > len(before):
        x = call.emit("Unsqueeze", x, call.integers(range(len(after) - len(before))))
    repeats = tuple(call["dims"]) if isinstance(call["dims"], (tuple, list)) else (call["dims"],)
    return call.emit("Tile", x, call.integers([1] * (len(after) - len(repeats)) + list(repeats)))


@writes("cat")
def _cat(call: Call) -> str:
    return call.emit("Concat", *call.names("tensors"), axis=call["dim"])


@writes("interleave")
def _interleave(call: Call) -> str:
    parts = [call.emit("Unsqueeze", name, call.integers([2])) for name in call.names("tensors")]
    _, c, h, w = call.node.shape
    joined = call.emit("Concat", *parts, axis=2)
    return call.emit("Reshape", joined, call.integers([0, c, h, w]))


@writes("narrow")
def _narrow(call: Call) -> str:
    dim = as_dim(call["dim"], "narrow", len(call.shape()))
    start = call["start"] % call.shape()[dim] if call.shape()[dim] else 0
    end = start + call["length"]
    return _sliced(call, dim, start, end if end < call.shape()[dim] else _FARTHEST, 1)


@writes("strided_slice")
def _strided_slice(call: Call) -> str:
    step = call["step"]
    start, end = call["start"], call["end"]
    if start is None:
        start = 0 if step > 0 else _FARTHEST
    if end is None:
        end = _FARTHEST if step > 0 else -_FARTHEST
    return _sliced(call, call["dim"], start, end, step)


@writes("flip")
def _flip(call: Call) -> str:
    dims = list(call["dims"]) if isinstance(call["dims"], (tuple, list)) else [call["dims"]]
    count = len(dims)
    bounds = ([-1] * count, [-_FARTHEST] * count, dims, [-1] * count)
    return call.emit("Slice", call.name("input"), *map(call.integers, bounds)) if dims else call.name("input")


def _sliced(call: Call, dim: int, start: int, end: int, step: int) -> str:
    return call.emit("Slice", call.name("input"), *(call.integers([each]) for each in (start, end, dim, step)))


@writes("gather")
def _gather(call: Call) -> str:
    return call.emit("GatherElements", call.name("input"), call.name("index"), axis=call["dim"])


@writes("index_select")
def _index_select(call: Call) -> str:
    return call.emit("Gather", call.name("input"), call.name("index"), axis=call["dim"])


@writes("pad")
def _pad(call: Call) -> str:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if call["mode"] not in modes:
        raise call.refuse(f"for mode {call['mode']!r}")
    sides = sides_of(call.shape(), call["pad"])
    pads = call.integers([*(before for before, _ in sides), *(behind for _, behind in sides)])
    dtype = call.graph.nodes[call.node.inputs["input"]].dtype
    fill = [call.nodes.constant(np.asarray(call["value"] or 0, dtype))] if call["mode"] == "constant" else []
    return call.emit("Pad", call.name("input"), pads, *fill, mode=modes[call["mode"]])


@writes("pixel_shuffle")
def _pixel_shuffle(call: Call) -> str:
    if len(call.shape()) != 4:
        raise call.refuse("but for batches of images")
    return call.emit("DepthToSpace", call.name("input"), blocksize=call["upscale_factor"], mode="CRD")


@writes("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> str:
    if len(call.shape()) != 4:
        raise call.refuse("but for batches of images")
    (_, c, h, w), r = call.shape(), call["downscale_factor"]
    blocks = call.emit("Reshape", call.name("input"), call.integers([0, c, h // r, r, w // r, r]))
    moved = call.emit("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4])
    return call.emit("Reshape", moved, call.integers([0, c * r * r, h // r, w // r]))
