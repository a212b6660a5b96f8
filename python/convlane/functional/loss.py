"""Losses: what training makes small. Each is one number, or, unreduced, one per example or element."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane._floats import quiet
from convlane.functional._arguments import Array, as_array, as_float, as_int
from convlane.functional._op import Pullback, Shape, Traits, check_vector, op
from convlane.functional._receptive import everywhere
from convlane.functional.activation import log_softmax, sigmoid

_NO_STEP = "losses are not part of a plan"
_REDUCTIONS = ("mean", "sum", "none")


def _check_reduction(op_name: str, reduction: Any) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{op_name}: reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")


def _cross_entropy_shape(input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", **_: Any) -> Shape:
    shape = tuple(input.shape)
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"cross_entropy: input must be (N, classes), got shape {shape}")
    if tuple(target.shape) != shape[:1]:
        raise ValueError(f"cross_entropy: target must have shape {shape[:1]}, got {tuple(target.shape)}")
    check_vector("cross_entropy", "weight", weight, shape[1])
    _check_reduction("cross_entropy", reduction)
    return shape[:1] if reduction == "none" else ()


def _elementwise_shape(op_name: str, input: Any, target: Any, reduction: str) -> Shape:
    shape = tuple(input.shape)
    if tuple(target.shape) != shape:
        raise ValueError(f"{op_name}: input has shape {shape}, but target has {tuple(target.shape)}")
    _check_reduction(op_name, reduction)
    return shape if reduction == "none" else ()


def _mse_shape(input: Any, target: Any, *, reduction: str = "mean") -> Shape:
    return _elementwise_shape("mse_loss", input, target, reduction)


def _bce_shape(input: Any, target: Any, *, pos_weight: Any = None, reduction: str = "mean") -> Shape:
    name = "binary_cross_entropy_with_logits"
    if pos_weight is not None:
        _check_broadcast(name, "pos_weight", tuple(pos_weight.shape), tuple(input.shape))
    return _elementwise_shape(name, input, target, reduction)


def _check_broadcast(op_name: str, name: str, given: Shape, shape: Shape) -> None:
    """Refuse an argument that is not broadcast to the input's shape, or that would make the input larger."""
    padded = (1,) * (len(shape) - len(given)) + given
    if len(padded) != len(shape) or any(size not in (1, whole) for size, whole in zip(padded, shape, strict=True)):
        raise ValueError(f"{op_name}: {name} must be broadcast to the input's shape {shape}, got shape {given}")


@quiet
def _cross_entropy_vjp(
    wanted: frozenset[str],
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> tuple[Array, Pullback]:
    logits = as_array(input, "cross_entropy", "input")
    wish, norm = _wished(logits, target, weight, ignore_index, label_smoothing, reduction)
    log_p = log_softmax(logits, 1)

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        # d/dz of -sum of wish * log_softmax(z) is softmax(z) * sum of wish - wish. Where no example counts, all of it
        # is 0, which a norm of 0 must not turn into NaN.
        found = np.exp(log_p) * wish.sum(1, keepdims=True) - wish
        return {"input": (found * (np.reshape(gradient, (-1, 1)) / (norm or 1))).astype(np.float32)}

    return _reduced(-_product(wish, log_p).sum(1), norm, reduction), pullback


@quiet
def _mse_vjp(wanted: frozenset[str], input: Any, target: Any, reduction: str) -> tuple[Array, Pullback]:
    x, y = as_array(input, "mse_loss", "input"), as_array(target, "mse_loss", "target")
    _mse_shape(x, y, reduction=reduction)
    difference = x - y
    norm = max(x.size, 1) if reduction == "mean" else 1

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        found = difference * (gradient * np.float32(2 / norm))
        return {name: found if name == "input" else -found for name in wanted}

    return _reduced(np.square(difference), norm, reduction), pullback


@quiet
def _bce_vjp(
    wanted: frozenset[str], input: Any, target: Any, pos_weight: Any, reduction: str
) -> tuple[Array, Pullback]:
    name = "binary_cross_entropy_with_logits"
    x, y = as_array(input, name, "input"), as_array(target, name, "target")
    weight = None if pos_weight is None else as_array(pos_weight, name, "pos_weight")
    _bce_shape(x, y, pos_weight=weight, reduction=reduction)
    positive = np.float32(1) if weight is None else weight
    norm = max(x.size, 1) if reduction == "mean" else 1
    # -log sigmoid(x) = log(1 + exp(-x)) without overflow; -log(1 - sigmoid(x)) is x more.
    negative_log = np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        p = sigmoid(x)
        found = (1 - y) * p - positive * y * (1 - p)
        return {"input": found * (gradient / np.float32(norm))}

    return _reduced(positive * y * negative_log + (1 - y) * (x + negative_log), norm, reduction), pullback


@op(
    shape=_cross_entropy_shape,
    vjp=_cross_entropy_vjp,
    traits=Traits(parameters=frozenset({"weight"})),
    receptive=everywhere,
    compiles=_NO_STEP,
)
def cross_entropy(
    input: Array,
    target: NDArray[np.integer[Any]],
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """Compute the negative logarithm of the probability that softmax gives to the right class.

    Parameters
    ----------
    input
        float32, (N, classes): logits.
    target
        Integers, (N,): the right classes.
    weight
        float32, (classes,): how much an example of each class counts.
    ignore_index
        Examples with this target count nothing.
    label_smoothing
        This part of the wish is spread over all classes evenly (Szegedy et al., "Rethinking the Inception
        architecture for computer vision", CVPR 2016).
    reduction
        ``"mean"`` (weighted by `weight`), ``"sum"`` or ``"none"``.

    Returns
    -------
    numpy.ndarray
        float32, one number (shape ()), or (N,) unreduced. The mean over no examples is NaN,
        with a gradient of 0.

    Raises
    ------
    TypeError
        `input` is not float32, or `target` not of integers.
    ValueError
        Shapes that do not fit, a class that does not exist, or a value out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import cross_entropy
    >>> round(float(cross_entropy(np.log([[0.25, 0.75]]).astype(np.float32), np.array([0]))), 4)
    1.3863
    """
    return _cross_entropy_vjp(frozenset(), input, target, weight, ignore_index, label_smoothing, reduction)[0]


@op(shape=_mse_shape, vjp=_mse_vjp, differentiable=("input", "target"), receptive=everywhere, compiles=_NO_STEP)
def mse_loss(input: Array, target: Array, *, reduction: str = "mean") -> Array:
    """Average the squared differences.

    Parameters
    ----------
    input, target
        float32, any shape, both the same.
    reduction
        ``"mean"``, ``"sum"`` or ``"none"``.

    Returns
    -------
    numpy.ndarray
        float32, one number (shape ()), or the shape of `input` unreduced.

    Raises
    ------
    TypeError
        If one is not a float32 array.
    ValueError
        Shapes that differ, or an unknown reduction.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import mse_loss
    >>> float(mse_loss(np.array([1, 2], np.float32), np.array([1, 4], np.float32)))
    2.0
    """
    return _mse_vjp(frozenset(), input, target, reduction)[0]


@op(
    shape=_bce_shape,
    vjp=_bce_vjp,
    traits=Traits(parameters=frozenset({"pos_weight"})),
    receptive=everywhere,
    compiles=_NO_STEP,
)
def binary_cross_entropy_with_logits(
    input: Array, target: Array, *, pos_weight: Array | None = None, reduction: str = "mean"
) -> Array:
    """Compute the cross-entropy of independent yes-or-no questions, each answered by the sigmoid of a logit.

    Parameters
    ----------
    input
        float32, any shape: logits.
    target
        float32, the same shape: probabilities.
    pos_weight
        float32, broadcast to the shape of `input`: how much more a yes counts than a no.
    reduction
        ``"mean"``, ``"sum"`` or ``"none"``.

    Returns
    -------
    numpy.ndarray
        As from `mse_loss`.

    Raises
    ------
    TypeError, ValueError
        As in `mse_loss`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import binary_cross_entropy_with_logits
    >>> round(float(binary_cross_entropy_with_logits(np.zeros(2, np.float32), np.array([0, 1], np.float32))), 4)
    0.6931
    """
    return _bce_vjp(frozenset(), input, target, pos_weight, reduction)[0]


def _wished(
    logits: Array, target: Any, weight: Any, ignore_index: int, smoothing: float, reduction: str
) -> tuple[NDArray[np.float64], float]:
    """Return what each logarithm of a probability is multiplied with, (N, classes), and what the sum is divided by."""
    classes = as_classes(target, "cross_entropy")
    weight = None if weight is None else as_array(weight, "cross_entropy", "weight")
    _cross_entropy_shape(logits, classes, weight, reduction=reduction)
    smoothing = as_float(smoothing, "cross_entropy", "label_smoothing")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be between 0 and 1, got {smoothing}")
    counted = classes != as_int(ignore_index, "cross_entropy", "ignore_index")
    number = logits.shape[1]
    outside = counted & ((classes < 0) | (classes >= number))
    if outside.any():
        raise ValueError(f"cross_entropy: target holds {classes[outside][0]}, but there are {number} classes")
    of_class = np.ones(number) if weight is None else weight.astype(np.float64)
    wish = np.tile(smoothing / number * of_class, (len(classes), 1))
    rows = np.flatnonzero(counted)
    wish[rows, classes[rows]] += (1 - smoothing) * of_class[classes[rows]]
    wish[~counted] = 0
    return wish, float(of_class[classes[rows]].sum()) if reduction == "mean" else 1.0


def as_classes(target: Any, op_name: str) -> NDArray[np.integer[Any]]:
    """Return integer targets as an array."""
    classes = np.asarray(target)
    if classes.dtype.kind not in "iu":
        raise TypeError(f"{op_name}: target must hold integers (classes), got {classes.dtype}")
    return classes.astype(np.int64, copy=False)


def _product(wish: NDArray[np.float64], log_p: Array) -> NDArray[np.float64]:
    """Multiply, with 0 where nothing is wished, even of what has the probability 0."""
    return np.multiply(wish, log_p, where=wish != 0, out=np.zeros_like(wish))


def _reduced(losses: NDArray[Any], norm: float, reduction: str) -> Array:
    if reduction == "none":
        return losses.astype(np.float32)
    return np.asarray(losses.sum(dtype=np.float64) / np.float64(norm), np.float32)
