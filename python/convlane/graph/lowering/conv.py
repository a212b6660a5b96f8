"""Convolutions: plain, pooled, and in blocks around a depthwise one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional.conv import conv2d_geometry
from convlane.functional.conv3d import conv3d_geometry
from convlane.graph.lowering.context import Choice, Context, lowers
from convlane.graph.passes import pool_geometry_of
from convlane.graph.trace import Node, Value
from convlane.graph.weights import Weight


@lowers("conv2d")
def _conv2d(at: Context, pooling: Node | None = None) -> Choice:
    geometry = _geometry(at.node, at.shape)
    choice = Choice(at["algorithm"], "asked for")
    if choice.algorithm == "auto":
        # Chosen by one image's shape, so that a result does not depend on the batch.
        single = geometry if at.shape[0] == 1 else _geometry(at.node, (1, *at.shape[1:]))
        name = single.cheapest(at.winograd)
        choice = Choice(name, _why(name, geometry))
    pool = None
    if pooling is not None:
        pool = pool_geometry_of(pooling, geometry.shape)
        whence = _core.pooled_from(choice.algorithm, geometry, pool)
        choice = replace(choice, why=f"{choice.why}; pooled from {whence}")
    at.append(
        "conv2d",
        geometry=geometry,
        pool=pool,
        algorithm=choice.algorithm,
        activation=at["activation"],
        negative_slope=float(at["negative_slope"]),
        weights={"weight": at.packer.pack(at["weight"], geometry.groups, choice.algorithm), "bias": at["bias"]},
    )
    return choice


def _refuse_conv3d(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "" if len(node.shape) == 5 else "conv3d of one volume without a batch"


@lowers("conv3d", refuse=_refuse_conv3d)
def _conv3d(at: Context) -> Choice:
    others = (at["weight"].shape, at["stride"], at["padding"], at["dilation"], at["groups"])
    algorithm, why = at["algorithm"], "asked for"
    if algorithm == "auto":
        algorithm = _core.Conv3dGeometry(*conv3d_geometry((1, *at.shape[1:]), *others)).cheapest(at.winograd)
        why = f"{'x'.join(map(str, at['weight'].shape[2:]))} kernel"
    weight = at["weight"]
    packed = {"weight": weight}
    if weight.shape[2] > 1 and algorithm.startswith("winograd"):
        whole = weight if isinstance(weight, Weight) else Weight(weight)
        source = np.asarray(whole.source)
        packed = {f"weight{i}": replace(whole, source=source[:, :, i]) for i in range(weight.shape[2])}
        why += ", slice by slice"
    at.append(
        "conv3d",
        [operand.pixels() for operand in at.inputs.values()],
        [at.output.pixels()],
        geometry=_core.Conv3dGeometry(*conv3d_geometry(at.shape, *others)),
        algorithm=algorithm,
        activation=at["activation"],
        negative_slope=float(at["negative_slope"]),
        weights={
            **{name: at.packer.pack(part, at["groups"], algorithm) for name, part in packed.items()},
            "bias": at["bias"],
        },
    )
    return Choice(algorithm, why)


@lowers("conv2d_pool")
def _conv2d_pool(at: Context) -> Choice:
    conv, pooling = at["parts"]
    return _conv2d(replace(at, node=conv), pooling)


@lowers("depthwise_block")
def _depthwise_block(at: Context) -> Choice:
    convolutions = [part for part in at["parts"] if part.op == "conv2d"]
    names = [*(["expand"] if len(convolutions) % 2 else []), "depthwise", "squeeze", "excite", "project"]
    if len(convolutions) < len(names):
        names = [name for name in names if name not in ("squeeze", "excite")]
    parts = dict(zip(names, convolutions, strict=True))
    depthwise = parts["depthwise"]
    n, _, h, w = at.shape
    weights: dict[str, Any] = {}
    epilogues: dict[str, Any] = {}
    for name, part in parts.items():
        options = part.attributes
        weights |= {
            name: at.packer.pack(options["weight"], options["groups"]),
            f"{name}_bias": options["bias"],
        }
        epilogues |= {
            f"{name}_activation": options["activation"],
            f"{name}_negative_slope": float(options["negative_slope"]),
        }
    geometry = _geometry(depthwise, (n, depthwise.attributes["weight"].shape[0], h, w))
    at.append("depthwise_block", geometry=geometry, weights=weights, **epilogues)
    return Choice("row bands", f"the hidden image {'is written once' if 'squeeze' in parts else 'stays in the cache'}")


def _geometry(node: Node, image: Any) -> _core.Conv2dGeometry:
    at = node.attributes
    arguments = conv2d_geometry(image, at["weight"].shape, at["stride"], at["padding"], at["dilation"], at["groups"])
    return _core.Conv2dGeometry(*arguments)


def _why(algorithm: str, geometry: _core.Conv2dGeometry) -> str:
    kernel, stride, ones = geometry.weight[2:], geometry.stride, (1, 1)
    if algorithm.startswith("winograd"):
        return "cheaper than direct by the cost model"
    if algorithm == "direct" and (kernel, stride, geometry.dilation, geometry.groups) == ((3, 3), ones, ones, 1):
        return "cheaper than Winograd, or Winograd is switched off"
    reasons = {
        "depthwise": "one filter per channel",
        "direct": f"{kernel[0]}x{kernel[1]} kernel, stride {stride[0]}",
        "grouped": "groups of few channels",
        "narrow": "few output channels",
        "planes": "few channels",
        "pointwise": "1x1 kernel",
        "stem": "few input channels",
    }
    return reasons.get(algorithm, "")
