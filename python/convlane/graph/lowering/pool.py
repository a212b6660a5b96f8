"""Pooling of images and volumes: over sliding windows, and adaptive."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from convlane.functional.pool3d import volume_geometries
from convlane.graph.lowering.context import Context, lowers
from convlane.graph.passes import pool_geometry_of
from convlane.graph.trace import Node, Value


def _refuse(node: Node, nodes: Mapping[Value, Node], rank: int) -> str:
    return "" if len(node.shape) == rank else f"{node.op} of one input without a batch"


@lowers(
    *("adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "global_avg_pool2d", "global_max_pool2d"),
    *("lp_pool2d", "max_pool2d"),
    refuse=partial(_refuse, rank=4),
)
def _pool2d(at: Context) -> None:
    at.append("pool2d", geometry=pool_geometry_of(at.node, at.shape))


@lowers(
    *("adaptive_avg_pool3d", "adaptive_max_pool3d", "avg_pool3d", "lp_pool3d", "max_pool3d"),
    refuse=partial(_refuse, rank=5),
)
def _pool3d(at: Context) -> None:
    _volumes(at, "pool3d")


@lowers("adaptive_max_pool3d_indices", "max_pool3d_indices", refuse=partial(_refuse, rank=5))
def _pool3d_indices(at: Context) -> None:
    _volumes(at, "pool3d_indices")


def _volumes(at: Context, step: str) -> None:
    n, c, d, h, w = at.shape
    planes, depth = volume_geometries(at.node.op.removesuffix("_indices"), at.shape, at.node.attributes)
    image = at.input.viewed((n * d, c, h, w))
    at.append(step, [image], [at.output.viewed(depth.shape)], planes=planes, depth=depth)


@lowers("adaptive_max_pool2d_indices", "max_pool2d_indices", refuse=partial(_refuse, rank=4))
def _pool2d_indices(at: Context) -> None:
    at.append("pool2d_indices", geometry=pool_geometry_of(at.node, at.shape))


def _refuse_constants(node: Node, nodes: Mapping[Value, Node]) -> str:
    """Volumes, which have a batch."""
    constant = [name for name, source in node.inputs.items() if nodes[source].op == "constant"]
    return f"{node.op} with a constant {constant[0]}" if constant else ""


@lowers("max_unpool", refuse=_refuse_constants, any_argument=True)
def _max_unpool(at: Context) -> None:
    at.append("max_unpool", [at.inputs["input"], at.inputs["indices"]])
