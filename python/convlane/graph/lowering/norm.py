"""Normalisations with given statistics, and with those of images, of groups of channels and of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from convlane.functional._arguments import as_array
from convlane.graph.lowering.context import Context, OfBatch, lowers
from convlane.graph.trace import Node, Value


def _refuse_batch_norm(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "batch_norm with the statistics of the batch" if node.attributes["training"] else ""


@lowers("batch_norm", refuse=_refuse_batch_norm)
def _given_statistics(at: Context) -> None:
    if len(at.shape) not in (2, 4, 5):
        return _by_numbers(at)
    weights = {name: at[name] for name in ("running_mean", "running_var", "weight", "bias")}
    return at.append("batch_norm", weights=weights, eps=float(at["eps"]))


def _by_numbers(at: Context) -> None:
    """Lower to arithmetic that broadcasts: (N, C, L) is in C order, but the step needs channels side by side."""
    column = (-1, *(1,) * (len(at.shape) - 2))
    mean, var = (at[name].astype(np.float64) for name in ("running_mean", "running_var"))
    with np.errstate(all="ignore"):  # a negative variance gives NaN, as it does when batch norm runs itself
        factor = (1 if at["weight"] is None else at["weight"].astype(np.float64)) / np.sqrt(var + at["eps"])
    source = at.input
    for name, vector in (("sub", mean), ("mul", factor), ("add", at["bias"])):
        if vector is not None:
            at.append("binary", [source, vector.astype(np.float32).reshape(column)], name=name)
            source = at.output


@lowers("affine")
def _affine(at: Context) -> None:
    """Lower to a batch norm without statistics, where there are channels."""
    if len(at.shape) not in (2, 4, 5):
        at.append("binary", [at.input, np.asarray(at["factor"], np.float32)], name="mul")
        if at["offset"] != 0:
            at.append("binary", [at.output, np.asarray(at["offset"], np.float32)], name="add")
        return
    values = {"running_mean": 0, "running_var": 1, "weight": float(at["factor"]), "bias": float(at["offset"])}
    weights = {name: np.full(at.shape[1], value, np.float32) for name, value in values.items()}
    at.append("batch_norm", weights=weights, eps=0.0)


@lowers("channel_norm")
def _channel_norm(at: Context) -> None:
    _rows(at, int(at.shape[1]), weights={"weight": at["weight"], "bias": at["bias"]})


def _refuse_last_dims(node: Node, nodes: Mapping[Value, Node]) -> str:
    whole = len(node.shape) == len(node.attributes["normalized_shape"])
    return OfBatch(f"{node.op} over the batch") if whole else ""


@lowers("layer_norm", "rms_norm", refuse=_refuse_last_dims)
def _layer_norm(at: Context) -> None:
    """Lower to rows: whole images are rows in their memory order, with their weights in the same order."""
    dims, ndim = len(at["normalized_shape"]), len(at.shape)
    vectors = {name: at[name] for name in ("weight", "bias") if at.node.attributes.get(name) is not None}
    images = ndim in (4, 5)
    if images and dims >= ndim - 1:
        channels = dims - ndim + 1
        vectors = {n: np.moveaxis(as_array(vector, at.node.op, n), channels, -1) for n, vector in vectors.items()}
    weights = {name: np.ascontiguousarray(vector).reshape(-1) for name, vector in vectors.items()}
    c_order, centered = images and dims < ndim - 1, at.node.op == "layer_norm"
    _rows(at, math.prod(at["normalized_shape"]), weights=weights, c_order=c_order, centered=centered)


def _rows(at: Context, size: int, *, weights: Mapping[str, Any], c_order: bool = False, centered: bool = True) -> None:
    eps = at["eps"]
    least = float(np.finfo(np.float32).eps) if eps is None else float(eps)
    at.append("layer_norm", weights=weights, size=size, c_order=c_order, centered=centered, eps=least)


@lowers("group_norm")
def _group_norm(at: Context) -> None:
    weights = {"weight": at["weight"], "bias": at["bias"]}
    at.append("group_norm", weights=weights, groups=int(at["num_groups"]), eps=float(at["eps"]))


@lowers("instance_norm")
def _instance_norm(at: Context) -> None:
    weights = {name: at[name] for name in ("weight", "bias")}
    if at["use_input_stats"]:
        at.append("group_norm", weights=weights, groups=int(at.shape[1]), eps=float(at["eps"]))
    else:
        _given_statistics(at)


@lowers("local_response_norm")
def _local_response_norm(at: Context) -> None:
    alpha, beta, k = (float(at[name]) for name in ("alpha", "beta", "k"))
    at.append("local_response_norm", size=at["size"], alpha=alpha, beta=beta, k=k)
