"""Losses, number by number, in float64."""

import numpy as np


def log_softmax(row):
    shifted = row.astype(np.float64) - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def target_weights(x, target, weight, ignore_index, label_smoothing):
    """Return rows of logits, the factors of their log-probabilities, and the divisor of the mean."""
    classes = x.shape[1]
    rows = np.moveaxis(x, 1, -1).reshape(-1, classes)
    weight = np.ones(classes) if weight is None else weight.astype(np.float64)
    factors, norm = np.zeros(rows.shape), 0.0
    if target.shape == x.shape:
        given, norm = np.moveaxis(target, 1, -1).reshape(-1, classes), len(rows)
    for i in range(len(rows)):
        if target.shape != x.shape:
            right = target.reshape(-1)[i]
            if right == ignore_index:
                continue
            given = {i: np.arange(classes) == right}
            norm += weight[right]
        for c in range(classes):
            factors[i, c] = weight[c] * ((1 - label_smoothing) * given[i][c] + label_smoothing / classes)
    return rows, factors, norm


def cross_entropy(x, target, weight, ignore_index, label_smoothing, reduction):
    rows, factors, norm = target_weights(x, target, weight, ignore_index, label_smoothing)
    losses = np.array([-(factors[i] * log_softmax(rows[i])).sum() for i in range(len(rows))])
    if reduction == "mean":
        return losses.sum() / norm
    return _reduced(losses.reshape(x.shape[0], *x.shape[2:]), reduction)


def cross_entropy_gradient(x, target, weight, ignore_index, label_smoothing, gradient):
    """Return the gradient of the input, from the gradient of the unreduced losses."""
    rows, factors, _ = target_weights(x, target, weight, ignore_index, label_smoothing)
    found = [
        (np.exp(log_softmax(rows[i])) * factors[i].sum() - factors[i]) * gradient.reshape(-1)[i]
        for i in range(len(rows))
    ]
    return np.moveaxis(np.reshape(found, np.moveaxis(x, 1, -1).shape), -1, 1)


def nll(log_p, target, weight, ignore_index, reduction):
    rows = np.moveaxis(log_p, 1, -1).reshape(-1, log_p.shape[1]).astype(np.float64)
    losses, norm = np.zeros(len(rows)), 0.0
    for i, right in enumerate(target.reshape(-1)):
        if right != ignore_index:
            factor = 1.0 if weight is None else float(weight[right])
            losses[i] = -factor * rows[i, right]
            norm += factor
    return losses.sum() / norm if reduction == "mean" else _reduced(losses.reshape(target.shape), reduction)


def mse(x, y, reduction):
    return _reduced((x.astype(np.float64) - y) ** 2, reduction)


def l1(x, y, reduction):
    return _reduced(np.abs(x.astype(np.float64) - y), reduction)


def huber(x, y, delta, reduction):
    distance = np.abs(x.astype(np.float64) - y)
    return _reduced(np.where(distance < delta, distance**2 / 2, delta * (distance - delta / 2)), reduction)


def smooth_l1(x, y, beta, reduction):
    return l1(x, y, reduction) if beta == 0 else huber(x, y, beta, reduction) / beta


def kl_div(x, y, log_target, reduction):
    x, y = x.astype(np.float64), y.astype(np.float64)
    log_y = y if log_target else np.log(np.where(y == 0, 1, y))
    losses = (np.exp(y) if log_target else y) * (log_y - x)
    return losses.sum() / len(x) if reduction == "batchmean" else _reduced(losses, reduction)


def dice(p, t, smooth, reduction):
    losses = np.zeros(p.shape[:2])
    for n, c in np.ndindex(losses.shape):
        a, b = p[n, c].astype(np.float64), t[n, c].astype(np.float64)
        losses[n, c] = 1 - (2 * (a * b).sum() + smooth) / ((a**2).sum() + (b**2).sum() + smooth)
    return _reduced(losses, reduction)


def binary_cross_entropy(p, y, weight, reduction):
    p = p.astype(np.float64)
    return _reduced((y * -np.log(p) + (1 - y) * -np.log(1 - p)) * (1 if weight is None else weight), reduction)


def binary_cross_entropy_with_logits(x, y, weight, pos_weight, reduction):
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    yes = y * -np.log(p) * (1 if pos_weight is None else pos_weight)
    return _reduced((yes + (1 - y) * -np.log(1 - p)) * (1 if weight is None else weight), reduction)


def sigmoid_focal(x, y, alpha, gamma, reduction):
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    right = p * y + (1 - p) * (1 - y)
    losses = (y * -np.log(p) + (1 - y) * -np.log(1 - p)) * (1 - right) ** gamma
    return _reduced(losses * (1 if alpha < 0 else alpha * y + (1 - alpha) * (1 - y)), reduction)


def _reduced(losses, reduction):
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](losses)
