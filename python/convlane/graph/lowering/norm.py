"""Normalisations with given statistics, and those of pixels over their channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convlane.graph.lowering.context import Context, lowers
from convlane.graph.trace import Node, Value


def _refuse_batch_norm(node: Node, nodes: Mapping[Value, Node]) -> str:
    return "batch_norm with the statistics of the batch" if node.attributes["training"] else ""


@lowers("batch_norm", refuse=_refuse_batch_norm)
def _batch_norm(at: Context) -> None:
    if len(at.shape) == 3:
        return _batch_norm_of_sequences(at)
    weights = {name: at[name] for name in ("running_mean", "running_var", "weight", "bias")}
    return at.append("batch_norm", weights=weights, eps=float(at["eps"]))


def _batch_norm_of_sequences(at: Context) -> None:
    """Lower to arithmetic that broadcasts: (N, C, L) is in C order, while the step wants channels side by side."""
    mean, var = (at[name].astype(np.float64) for name in ("running_mean", "running_var"))
    with np.errstate(all="ignore"):  # a negative variance gives NaN, as it does when batch norm runs itself
        factor = (1 if at["weight"] is None else at["weight"].astype(np.float64)) / np.sqrt(var + at["eps"])
    source = at.input
    for name, vector in (("sub", mean), ("mul", factor), ("add", at["bias"])):
        if vector is not None:
            at.append("binary", [source, vector.astype(np.float32)[:, None]], name=name)
            source = at.output


@lowers("affine")
def _affine(at: Context) -> None:
    """Lower to a batch norm without statistics."""
    values = {"running_mean": 0, "running_var": 1, "weight": float(at["factor"]), "bias": float(at["offset"])}
    weights = {name: np.full(at.shape[1], value, np.float32) for name, value in values.items()}
    at.append("batch_norm", weights=weights, eps=0.0)


def _refuse_layer_norm(node: Node, nodes: Mapping[Value, Node]) -> str:
    rows = len(node.shape) == 2 and len(node.attributes["normalized_shape"]) == 1
    return "" if rows else "layer_norm over other dimensions than the channels"


@lowers("channel_norm")
@lowers("layer_norm", refuse=_refuse_layer_norm)
def _layer_norm(at: Context) -> None:
    at.append("layer_norm", weights={"weight": at["weight"], "bias": at["bias"]}, eps=float(at["eps"]))


@lowers("local_response_norm")
def _local_response_norm(at: Context) -> None:
    alpha, beta, k = (float(at[name]) for name in ("alpha", "beta", "k"))
    at.append("local_response_norm", size=at["size"], alpha=alpha, beta=beta, k=k)
