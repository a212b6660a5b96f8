"""Pooling, over windows and to a size."""

from __future__ import annotations

from convlane import _core
from convlane.functional.pool import pooled_size
from convlane.graph.lowering.context import Context, lowers
from convlane.graph.passes import pool_geometry_of


@lowers("avg_pool2d", "max_pool2d")
def _pool2d(at: Context) -> None:
    at.append("pool2d", geometry=pool_geometry_of(at.node, at.shape))


@lowers("adaptive_avg_pool2d", "adaptive_max_pool2d", "global_avg_pool2d", "global_max_pool2d")
def _adaptive_pool2d(at: Context) -> None:
    size = pooled_size(at.node.op, at.node.attributes.get("output_size", 1), at.shape[2:])
    kind = "max" if "max" in at.node.op else "average"
    at.append("pool2d", geometry=_core.PoolGeometry.adaptive("plan", kind, at.shape, size))
