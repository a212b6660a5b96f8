"""Losses example by example, in float64."""

import numpy as np


def cross_entropy(x, target, weight, ignore_index, label_smoothing, reduction):
    n, classes = x.shape
    weight = np.ones(classes) if weight is None else weight.astype(np.float64)
    losses, norm = np.zeros(n), 0.0
    for i in range(n):
        if target[i] == ignore_index:
            continue
        logits = x[i].astype(np.float64)
        log_p = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        losses[i] = -(1 - label_smoothing) * weight[target[i]] * log_p[target[i]]
        for c in range(classes):
            losses[i] -= label_smoothing / classes * weight[c] * log_p[c]
        norm += weight[target[i]]
    return losses.sum() / norm if reduction == "mean" else _reduced(losses, reduction)


def mse(x, y, reduction):
    return _reduced((x.astype(np.float64) - y) ** 2, reduction)


def binary_cross_entropy_with_logits(x, y, pos_weight, reduction):
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    yes = y * -np.log(p) * (1 if pos_weight is None else pos_weight)
    return _reduced(yes + (1 - y) * -np.log(1 - p), reduction)


def _reduced(losses, reduction):
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](losses)
