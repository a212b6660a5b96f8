"""Binary losses, for independent yes-or-no questions, each with a probability or a logit of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from convlane._floats import quiet
from convlane.functional._arguments import Array, as_array, as_float
from convlane.functional._loss import (
    NO_STEP,
    as_operands,
    check_broadcast,
    check_reduction,
    elementwise_shape,
    joined,
    reduced,
)
from convlane.functional._op import Pullback, Shape, Traits, op
from convlane.functional._receptive import everywhere
from convlane.functional.activation import sigmoid
from convlane.functional.elementwise import add, affine, maximum, mul, pow
from convlane.functional.functions import abs, exp, log1p

_MIN_LOG = np.float32(-100)  # as in torch


def _bce_shape(input: Any, target: Any, weight: Any = None, *, reduction: str = "mean") -> Shape:
    return _checked_shape("binary_cross_entropy", input, target, reduction, weight=weight)


def _with_logits_shape(
    input: Any, target: Any, weight: Any = None, *, pos_weight: Any = None, reduction: str = "mean"
) -> Shape:
    name = "binary_cross_entropy_with_logits"
    return _checked_shape(name, input, target, reduction, weight=weight, pos_weight=pos_weight)


def _checked_shape(name: str, input: Any, target: Any, reduction: str, **weights: Any) -> Shape:
    for argument, weight in weights.items():
        if weight is not None:
            check_broadcast(name, argument, tuple(weight.shape), tuple(input.shape))
    return elementwise_shape(name, input, target, reduction)


def _weight(op_name: str, name: str, weight: Any) -> Any:
    return np.float32(1) if weight is None else as_array(weight, op_name, name)


@quiet
def _bce_vjp(wanted: frozenset[str], input: Any, target: Any, weight: Any, reduction: str) -> tuple[Array, Pullback]:
    name = "binary_cross_entropy"
    p, y = as_array(input, name, "input"), as_array(target, name, "target")
    factor = _weight(name, "weight", weight)
    _bce_shape(p, y, factor, reduction=reduction)
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise ValueError(f"{name}: input must be between 0 and 1 (probabilities), got {p[outside][0]}")
    norm = p.size if reduction == "mean" else 1
    yes, no = np.maximum(np.log(p), _MIN_LOG), np.maximum(np.log1p(-p), _MIN_LOG)

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        scaled = factor * (gradient / np.float32(norm))
        found = {}
        if "input" in wanted:
            found["input"] = scaled * (p - y) / np.maximum(p * (1 - p), np.float32(1e-12))
        if "target" in wanted:
            found["target"] = scaled * (no - yes)
        return found

    return joined(factor * ((y - 1) * no - y * yes), norm, reduction), pullback


@quiet
def _with_logits_vjp(
    wanted: frozenset[str], input: Any, target: Any, weight: Any, pos_weight: Any, reduction: str
) -> tuple[Array, Pullback]:
    name = "binary_cross_entropy_with_logits"
    x, y = as_array(input, name, "input"), as_array(target, name, "target")
    factor, positive = _weight(name, "weight", weight), _weight(name, "pos_weight", pos_weight)
    _with_logits_shape(x, y, factor, pos_weight=positive, reduction=reduction)
    norm = x.size if reduction == "mean" else 1
    # -log sigmoid(x) = log(1 + exp(-x)) without overflow; -log(1 - sigmoid(x)) is larger by x.
    negative_log = add(maximum(affine(x, -1), 0.0), log1p(exp(affine(abs(x), -1))))

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        scaled = factor * (gradient / np.float32(norm))
        found = {}
        if "input" in wanted:
            found["input"] = scaled * ((1 - y) * sigmoid(x) - positive * y * sigmoid(affine(x, -1)))
        if "target" in wanted:
            found["target"] = scaled * (positive * negative_log - (x + negative_log))
        return found

    return joined(factor * (positive * y * negative_log + (1 - y) * (x + negative_log)), norm, reduction), pullback


@op(
    shape=_bce_shape,
    vjp=_bce_vjp,
    differentiable=("input", "target"),
    traits=Traits(parameters=frozenset({"weight"})),
    receptive=everywhere,
    compiles=NO_STEP,
)
def binary_cross_entropy(input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean") -> Array:
    """Compute the cross-entropy of independent yes-or-no questions, each answered by a probability.

    `binary_cross_entropy_with_logits` takes logits and is more accurate. Here logarithms are clamped at -100, so that
    no loss exceeds 100, and the divisor in the gradient, ``(p - y) / (p * (1 - p))``, at 1e-12.

    Parameters
    ----------
    input
        float32, any shape: probabilities.
    target
        float32, the same shape: probabilities.
    weight
        float32, broadcast to the shape of `input`: how much each question counts.
    reduction
        ``"mean"``, ``"sum"`` or ``"none"``.

    Returns
    -------
    numpy.ndarray
        float32, one number (shape ()), or the shape of `input` unreduced. The mean of no numbers is NaN.

    Raises
    ------
    TypeError
        If an argument is not a float32 array.
    ValueError
        If the shapes do not match, the reduction is unknown, or numbers in `input` are below 0 or above 1.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import binary_cross_entropy
    >>> round(float(binary_cross_entropy(np.full(2, 0.5, np.float32), np.array([0, 1], np.float32))), 4)
    0.6931
    """
    return _bce_vjp(frozenset(), input, target, weight, reduction)[0]


@op(
    shape=_with_logits_shape,
    vjp=_with_logits_vjp,
    differentiable=("input", "target"),
    traits=Traits(parameters=frozenset({"weight", "pos_weight"})),
    receptive=everywhere,
    compiles=NO_STEP,
)
def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    pos_weight: Array | None = None,
    reduction: str = "mean",
) -> Array:
    """Compute the cross-entropy of independent yes-or-no questions, each answered by the sigmoid of a logit.

    Parameters
    ----------
    input
        float32, any shape: logits.
    target
        float32, the same shape: probabilities.
    weight
        float32, broadcast to the shape of `input`: how much each question counts.
    pos_weight
        float32, broadcast to the shape of `input`: how much more a yes counts than a no.
    reduction
        ``"mean"``, ``"sum"`` or ``"none"``.

    Returns
    -------
    numpy.ndarray
        As returned by `binary_cross_entropy`.

    Raises
    ------
    TypeError
        If an argument is not a float32 array.
    ValueError
        If the shapes do not match, or the reduction is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import binary_cross_entropy_with_logits
    >>> round(float(binary_cross_entropy_with_logits(np.zeros(2, np.float32), np.array([0, 1], np.float32))), 4)
    0.6931
    """
    return _with_logits_vjp(frozenset(), input, target, weight, pos_weight, reduction)[0]


def sigmoid_focal_loss(
    inputs: Array, targets: Array, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Array:
    """Compute the focal loss: the binary cross-entropy, weighted down where the answer is right and confident.

    With p, the probability of the right answer, `binary_cross_entropy_with_logits` is multiplied by
    ``(1 - p)**gamma``, and by `alpha` for a yes, ``1 - alpha`` for a no (Lin et al., "Focal loss for dense object
    detection", ICCV 2017). The names and defaults are those of ``torchvision.ops.sigmoid_focal_loss``.

    Parameters
    ----------
    inputs
        float32, any shape: logits.
    targets
        float32, the same shape: 0 for a no, 1 for a yes, or a probability.
    alpha
        Between 0 and 1, or -1 for no such factor.
    gamma
        How strongly confident answers are weighted down; 0 gives the cross-entropy.
    reduction
        ``"none"``, ``"mean"`` or ``"sum"``.

    Returns
    -------
    numpy.ndarray
        As returned by `binary_cross_entropy`.

    Raises
    ------
    TypeError
        If an array is not float32, or `alpha` or `gamma` is not a number.
    ValueError
        If the shapes differ, the reduction is unknown, or `alpha` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import sigmoid_focal_loss
    >>> logits, yes = np.array([-2, 0, 2], np.float32), np.ones(3, np.float32)
    >>> sigmoid_focal_loss(logits, yes).round(4)
    array([0.4125, 0.0433, 0.0005], dtype=float32)

    References
    ----------
    Lin, Goyal, Girshick, He, Dollar, "Focal loss for dense object detection", ICCV 2017.
    """
    name = "sigmoid_focal_loss"
    x, y = as_operands(name, inputs=inputs, targets=targets)
    share, power = as_float(alpha, name, "alpha"), as_float(gamma, name, "gamma")
    if share != -1 and not 0 <= share <= 1:
        raise ValueError(f"{name}: alpha must be between 0 and 1, or -1, got {share}")
    check_reduction(name, reduction)
    # The probability of the wrong answer as a sum: 1 - p would lose digits to cancellation.
    wrong = add(mul(sigmoid(x), affine(y, -1, 1)), mul(sigmoid(affine(x, -1)), y))
    losses = mul(binary_cross_entropy_with_logits(x, y, reduction="none"), pow(wrong, power))
    if share >= 0:
        losses = mul(affine(y, 2 * share - 1, 1 - share), losses)
    return reduced(losses, reduction)  # type: ignore[no-any-return]
