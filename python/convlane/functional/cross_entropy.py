"""Losses for mutually exclusive classes, of examples and of maps, in which every position has its own class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane._floats import quiet
from convlane.functional._arguments import Array, as_array, as_float, as_int
from convlane.functional._loss import NO_STEP, check_reduction, joined
from convlane.functional._op import Pullback, Shape, Traits, check_vector, op
from convlane.functional._receptive import everywhere
from convlane.functional.activation import log_softmax
from convlane.functional.elementwise import affine, mul
from convlane.functional.reduce import dense


def _check_input(op_name: str, shape: Shape, weight: Any, reduction: str) -> None:
    if len(shape) < 2 or shape[1] < 1:
        raise ValueError(f"{op_name}: input must be (N, classes) or maps (N, classes, ...), got shape {shape}")
    check_vector(op_name, "weight", weight, shape[1])
    check_reduction(op_name, reduction)


def check_class_maps(op_name: str, shape: Shape, given: Shape) -> None:
    """Raise a ValueError for a target that has neither the input's shape nor that shape without the classes."""
    if given not in (shape, (shape[0], *shape[2:])):
        raise ValueError(
            f"{op_name}: target must have shape {(shape[0], *shape[2:])}, got {given} "
            f"(or the input's, {shape}, for probabilities)"
        )


def _cross_entropy_shape(input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", **_: Any) -> Shape:
    shape = tuple(input.shape)
    _check_input("cross_entropy", shape, weight, reduction)
    check_class_maps("cross_entropy", shape, tuple(target.shape))
    return (shape[0], *shape[2:]) if reduction == "none" else ()


def _nll_shape(input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", **_: Any) -> Shape:
    shape = tuple(input.shape)
    _check_input("nll_loss", shape, weight, reduction)
    maps = (shape[0], *shape[2:])
    if tuple(target.shape) != maps:
        raise ValueError(f"nll_loss: target must have shape {maps}, got {tuple(target.shape)}")
    return maps if reduction == "none" else ()


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
    name = "cross_entropy"
    logits = as_array(input, name, "input")
    soft = np.shape(target) == logits.shape
    labels: NDArray[Any] = as_array(target, name, "target") if soft else as_classes(target, name)
    factors = None if weight is None else as_array(weight, name, "weight")
    _cross_entropy_shape(logits, labels, factors, reduction=reduction)
    smoothing, ignored = as_float(label_smoothing, name, "label_smoothing"), as_int(ignore_index, name, "ignore_index")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing must be between 0 and 1, got {smoothing}")
    if soft and ignored >= 0:
        raise ValueError(f"{name}: ignore_index={ignored} is a class, but target holds probabilities")
    number = logits.shape[1]
    of_class = np.ones(number, np.float32) if factors is None else dense(factors)
    own, others = 1 - smoothing, smoothing / number
    rows = dense(np.moveaxis(logits, 1, -1))  # without a copy if the classes are contiguous
    if soft:
        norm = float(rows.size // number)
        labels = dense(np.moveaxis(labels, 1, -1))
    else:
        counted = counted_classes(name, labels, ignored, number)
        norm = _weight_of(labels[counted], factors)
        labels = np.ascontiguousarray(np.where(counted, labels, -1))
    if reduction != "mean":
        norm = 1.0

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        # If no example counts, the gradient is 0, which a norm of 0 must not turn into NaN.
        each = np.asarray(gradient / np.float32(norm or 1))
        found = {}
        if "input" in wanted:
            moved = _core.cross_entropy_gradient(rows, labels, of_class, own, others, dense(each))
            found["input"] = np.moveaxis(moved, -1, 1)
        if "target" in wanted:
            column = of_class.reshape(-1, *(1,) * (logits.ndim - 2))
            spread = np.expand_dims(each, 1) if each.ndim else each
            found["target"] = mul(mul(log_softmax(logits, 1), affine(column, -own)), spread)
        return found

    return joined(_core.cross_entropy(rows, labels, of_class, own, others), norm, reduction), pullback


@quiet
def _nll_vjp(
    wanted: frozenset[str], input: Any, target: Any, weight: Any, ignore_index: int, reduction: str
) -> tuple[Array, Pullback]:
    log_p, classes = as_array(input, "nll_loss", "input"), as_classes(target, "nll_loss")
    factors = None if weight is None else as_array(weight, "nll_loss", "weight")
    _nll_shape(log_p, classes, factors, reduction=reduction)
    shape, number = np.moveaxis(log_p, 1, -1).shape, log_p.shape[1]
    counted = counted_classes("nll_loss", classes, as_int(ignore_index, "nll_loss", "ignore_index"), number)
    norm = _weight_of(classes[counted], factors) if reduction == "mean" else 1.0
    indices = np.where(counted, classes, 0)[..., None]
    of_class = np.ones(number, np.float32) if factors is None else factors
    share = np.where(counted, of_class[indices[..., 0]], np.float32(0))
    picked = np.take_along_axis(np.moveaxis(log_p, 1, -1), indices, -1)[..., 0]

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        found = np.zeros(shape, np.float32)
        np.put_along_axis(found, indices, (share * (gradient / np.float32(-(norm or 1))))[..., None], -1)
        return {"input": np.moveaxis(found, -1, 1)}

    return joined(np.where(share == 0, np.float32(0), share * -picked), norm, reduction), pullback


@op(
    shape=_cross_entropy_shape,
    vjp=_cross_entropy_vjp,
    differentiable=("input", "target"),
    traits=Traits(parameters=frozenset({"weight"})),
    receptive=everywhere,
    compiles=NO_STEP,
)
def cross_entropy(
    input: Array,
    target: Array | NDArray[np.integer[Any]],
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """Compute the negative logarithm of the probability that softmax assigns to the right class.

    Parameters
    ----------
    input
        float32, (N, classes), or maps (N, classes, ...), such as (N, classes, H, W): logits. Nothing is copied if
        the classes are contiguous in memory, as in images that are channels last.
    target
        The right classes, integers, (N,) or (N, ...), without the dimension of the classes; or the probability of each
        class, float32, the shape of `input`.
    weight
        float32, (classes,): how much an example of each class counts.
    ignore_index
        Examples, or positions of maps, with this target do not count. If targets are probabilities, it must be
        negative.
    label_smoothing
        This share of the target is spread evenly over all classes (Szegedy et al., "Rethinking the Inception
        architecture for computer vision", CVPR 2016).
    reduction
        ``"mean"`` (weighted by `weight`, but over all examples if targets are probabilities), ``"sum"`` or
        ``"none"``.

    Returns
    -------
    numpy.ndarray
        float32, one number (shape ()), or (N,) or (N, ...) unreduced. The mean over no examples is NaN, with a gradient
        of 0.

    Raises
    ------
    TypeError
        If `input` is not float32, or `target` is neither an array of integers nor float32 in the shape of `input`.
    ValueError
        If the shapes do not match, a class does not exist, or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import cross_entropy
    >>> round(float(cross_entropy(np.log([[0.25, 0.75]]).astype(np.float32), np.array([0]))), 4)
    1.3863
    >>> maps, labels = np.zeros((1, 21, 4, 5), np.float32), np.full((1, 4, 5), 255)
    >>> labels[:, :2] = 7
    >>> round(float(cross_entropy(maps, labels, ignore_index=255)), 4)  # log(21)
    3.0445
    """
    return _cross_entropy_vjp(frozenset(), input, target, weight, ignore_index, label_smoothing, reduction)[0]


@op(
    shape=_nll_shape,
    vjp=_nll_vjp,
    traits=Traits(parameters=frozenset({"weight"})),
    receptive=everywhere,
    compiles=NO_STEP,
)
def nll_loss(
    input: Array,
    target: NDArray[np.integer[Any]],
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:
    """Return the negative of the right class's log-probability.

    After `log_softmax` this is `cross_entropy`, which does both in one pass.

    Parameters
    ----------
    input
        float32, (N, classes), or maps (N, classes, ...): log-probabilities.
    target
        The right classes, integers, (N,) or (N, ...), without the dimension of the classes.
    weight, ignore_index, reduction
        As in `cross_entropy`.

    Returns
    -------
    numpy.ndarray
        As returned by `cross_entropy`.

    Raises
    ------
    TypeError
        If `input` is not float32, or `target` is not an array of integers.
    ValueError
        If the shapes do not match, a class does not exist, or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import nll_loss
    >>> round(float(nll_loss(np.log([[0.25, 0.75]]).astype(np.float32), np.array([0]))), 4)
    1.3863
    """
    return _nll_vjp(frozenset(), input, target, weight, ignore_index, reduction)[0]


def as_classes(target: Any, op_name: str) -> NDArray[np.int64]:
    """Return integer targets as an array."""
    classes = np.asarray(target)
    if classes.dtype.kind not in "iu":
        raise TypeError(f"{op_name}: target must hold integers (classes), got {classes.dtype}")
    return classes.astype(np.int64, copy=False)


def counted_classes(op_name: str, classes: NDArray[np.int64], ignore_index: Any, number: int) -> NDArray[np.bool_]:
    """Return which targets count, and raise a ValueError if one of these is not a class."""
    counted: NDArray[np.bool_] = classes != as_int(ignore_index, op_name, "ignore_index")
    outside = counted & ((classes < 0) | (classes >= number))
    if outside.any():
        raise ValueError(f"{op_name}: target holds {classes[outside][0]}, but there are {number} classes")
    return counted


def _weight_of(classes: NDArray[np.int64], factors: Array | None) -> float:
    """Return the divisor of the mean."""
    if factors is None:
        return float(classes.size)
    return float(np.bincount(classes, minlength=len(factors)) @ factors.astype(np.float64))
