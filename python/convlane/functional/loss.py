"""Losses that compare numbers: distances between values, distributions and regions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane._floats import quiet
from convlane.functional._arguments import Array, as_array, as_float, stands_for_array
from convlane.functional._loss import (
    NO_STEP,
    as_operands,
    check_reduction,
    elementwise_shape,
    joined,
    reduced,
)
from convlane.functional._op import Pullback, Shape, op
from convlane.functional._receptive import everywhere
from convlane.functional.compare import eq, where
from convlane.functional.cross_entropy import as_classes, check_class_maps, counted_classes
from convlane.functional.elementwise import add, affine, div, mul, sub
from convlane.functional.functions import abs, clamp, exp, log, square
from convlane.functional.reduce import sum


def _mse_shape(input: Any, target: Any, *, reduction: str = "mean") -> Shape:
    return elementwise_shape("mse_loss", input, target, reduction)


@quiet
def _mse_vjp(wanted: frozenset[str], input: Any, target: Any, reduction: str) -> tuple[Array, Pullback]:
    x, y = as_array(input, "mse_loss", "input"), as_array(target, "mse_loss", "target")
    _mse_shape(x, y, reduction=reduction)
    difference = x - y
    norm = x.size if reduction == "mean" else 1

    @quiet
    def pullback(gradient: Array) -> dict[str, Array]:
        found = difference * (gradient * np.float32(2 / max(norm, 1)))
        return {name: found if name == "input" else -found for name in wanted}

    return joined(np.square(difference), norm, reduction), pullback


@op(shape=_mse_shape, vjp=_mse_vjp, differentiable=("input", "target"), receptive=everywhere, compiles=NO_STEP)
def mse_loss(input: Array, target: Array, *, reduction: str = "mean") -> Array:
    """Average the squared differences.

    Parameters
    ----------
    input, target
        float32, any shape, the same for both.
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
        If the shapes differ, or the reduction is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import mse_loss
    >>> float(mse_loss(np.array([1, 2], np.float32), np.array([1, 4], np.float32)))
    2.0
    """
    return _mse_vjp(frozenset(), input, target, reduction)[0]


def l1_loss(input: Array, target: Array, *, reduction: str = "mean") -> Array:
    """Average the absolute differences; otherwise like `mse_loss`. The gradient of equal numbers is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import l1_loss
    >>> float(l1_loss(np.array([1, 2], np.float32), np.array([1, 4], np.float32)))
    1.0
    """
    x, y = as_operands("l1_loss", input=input, target=target)
    check_reduction("l1_loss", reduction)
    return reduced(abs(sub(x, y)), reduction)  # type: ignore[no-any-return]


def smooth_l1_loss(input: Array, target: Array, *, reduction: str = "mean", beta: float = 1.0) -> Array:
    """Average the absolute differences, smoothed by a parabola where they are small; otherwise like `mse_loss`.

    For the absolute difference d, the loss is ``d**2 / (2 * beta)`` below `beta`, and ``d - beta / 2`` above.

    Parameters
    ----------
    input, target, reduction
        As in `mse_loss`.
    beta
        The difference at which the parabola ends; 0 gives `l1_loss`.

    Raises
    ------
    TypeError
        If an array is not float32, or `beta` is not a number.
    ValueError
        If the shapes differ, the reduction is unknown, or `beta` is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import smooth_l1_loss
    >>> smooth_l1_loss(np.array([1, 4], np.float32), np.zeros(2, np.float32), reduction="none", beta=2)
    array([0.25, 3.  ], dtype=float32)

    References
    ----------
    Girshick, "Fast R-CNN", ICCV 2015.
    """
    bound = as_float(beta, "smooth_l1_loss", "beta")
    if not 0 <= bound < math.inf:
        raise ValueError(f"smooth_l1_loss: beta must be finite and at least 0, got {bound}")
    x, y = as_operands("smooth_l1_loss", input=input, target=target)
    check_reduction("smooth_l1_loss", reduction)
    if bound == 0:
        return l1_loss(x, y, reduction=reduction)
    return reduced(affine(_huber(x, y, bound), 1 / bound), reduction)  # type: ignore[no-any-return]


def huber_loss(input: Array, target: Array, *, reduction: str = "mean", delta: float = 1.0) -> Array:
    """Average half the squared differences, but absolute differences where they are large.

    For the absolute difference d, the loss is ``d**2 / 2`` below `delta`, and ``delta * (d - delta / 2)`` above:
    `delta` times `smooth_l1_loss`.

    Parameters
    ----------
    input, target, reduction
        As in `mse_loss`.
    delta
        The difference at which the parabola ends, above 0.

    Raises
    ------
    TypeError
        If an array is not float32, or `delta` is not a number.
    ValueError
        If the shapes differ, the reduction is unknown, or `delta` is not positive and finite.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import huber_loss
    >>> huber_loss(np.array([1, 4], np.float32), np.zeros(2, np.float32), reduction="none", delta=2)
    array([0.5, 6. ], dtype=float32)

    References
    ----------
    Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35, 1964.
    """
    bound = as_float(delta, "huber_loss", "delta")
    if not 0 < bound < math.inf:
        raise ValueError(f"huber_loss: delta must be finite and above 0, got {bound}")
    x, y = as_operands("huber_loss", input=input, target=target)
    check_reduction("huber_loss", reduction)
    return reduced(_huber(x, y, bound), reduction)  # type: ignore[no-any-return]


def kl_div(input: Array, target: Array, *, reduction: str = "mean", log_target: bool = False) -> Array:
    """Compute the Kullback-Leibler divergence of distributions from their targets: ``t * (log(t) - input)``.

    Parameters
    ----------
    input
        float32, any shape: log-probabilities, as from `log_softmax`.
    target
        float32, the same shape: probabilities; where they are 0, ``t * log(t)`` is 0.
    reduction
        ``"mean"`` over all numbers, ``"batchmean"`` (the sum divided by the first dimension's size, which is the
        divergence per example), ``"sum"`` or ``"none"``.
    log_target
        Whether `target` also holds log-probabilities.

    Returns
    -------
    numpy.ndarray
        As returned by `mse_loss`.

    Raises
    ------
    TypeError, ValueError
        As in `mse_loss`, or if ``"batchmean"`` is given for an array without dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import kl_div
    >>> even, sure = np.log([[0.5, 0.5]]).astype(np.float32), np.array([[0, 1]], np.float32)
    >>> round(float(kl_div(even, sure, reduction="batchmean")), 4)
    0.6931

    References
    ----------
    Kullback, Leibler, "On information and sufficiency", Annals of Mathematical Statistics 22, 1951.
    """
    x, y = as_operands("kl_div", input=input, target=target)
    check_reduction("kl_div", reduction, "batchmean")
    if log_target:
        losses = mul(exp(y), sub(y, x))
    else:
        losses = sub(mul(y, log(where(eq(y, 0.0), 1.0, y))), mul(y, x))
    if reduction != "batchmean":
        return reduced(losses, reduction)  # type: ignore[no-any-return]
    if not x.shape:
        raise ValueError("kl_div: reduction='batchmean' needs an input with dimensions, got shape ()")
    return div(sum(losses), float(x.shape[0]))


def dice_loss(
    input: Array,
    target: Array | NDArray[np.integer[Any]],
    *,
    smooth: float = 1.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:
    """Compute 1 minus Dice's coefficient of the overlap of regions, for every class of every image.

    For the probabilities p of a class at the positions of an image, and the target's probabilities t, the loss is
    ``1 - (2 * sum(p * t) + smooth) / (sum(p**2) + sum(t**2) + smooth)``. Each class counts the same, however small its
    region is.

    Parameters
    ----------
    input
        float32, (N, classes, ...): probabilities, as from `softmax` over the classes or, if these are not mutually
        exclusive, from `sigmoid`. A yes-or-no question is one class.
    target
        float32, the same shape: probabilities; or integers, (N, ...): classes.
    smooth
        At least 0. If positive, a class that is neither in the image nor predicted has a loss of 0; if 0, its loss is
        NaN.
    ignore_index
        Positions whose target is this class do not count.
    reduction
        ``"mean"``, ``"sum"`` or ``"none"``.

    Returns
    -------
    numpy.ndarray
        float32, one number (shape ()), or (N, classes) unreduced.

    Raises
    ------
    TypeError
        If `input` is not float32, or `target` is neither float32 nor integers.
    ValueError
        If the shapes do not match, a class does not exist, or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import dice_loss
    >>> half = np.array([1, 1, 0, 0], np.float32).reshape(1, 1, 2, 2)
    >>> round(float(dice_loss(half, np.ones((1, 1, 2, 2), np.float32), smooth=0.0)), 4)  # 1 - 2 * 2 / (2 + 4)
    0.3333

    References
    ----------
    Milletari, Navab, Ahmadi, "V-Net: fully convolutional neural networks for volumetric medical image segmentation",
    3DV 2016; the smoothing term is that of its implementations.
    """
    name = "dice_loss"
    x: Any = input if stands_for_array(input) else as_array(input, name, "input")
    shape = tuple(x.shape)
    check_reduction(name, reduction)
    if len(shape) < 3 or shape[1] < 1:
        raise ValueError(f"{name}: input must be (N, classes, ...), got shape {shape}")
    added = as_float(smooth, name, "smooth")
    if not 0 <= added < math.inf:
        raise ValueError(f"{name}: smooth must be finite and at least 0, got {added}")
    if stands_for_array(target) or np.shape(target) == shape:
        x, y = as_operands(name, input=x, target=target)
    else:
        classes = as_classes(target, name)
        check_class_maps(name, shape, classes.shape)
        counted = counted_classes(name, classes, ignore_index, shape[1])
        own = (classes[..., None] == np.arange(shape[1])) & counted[..., None]
        x, y = where(counted[:, None], x, 0.0), np.moveaxis(own.astype(np.float32), -1, 1)
    positions = tuple(range(2, len(shape)))
    overlap = sum(mul(x, y), positions)
    sizes = add(sum(square(x), positions), sum(square(y), positions))
    losses = affine(div(affine(overlap, 2, added), affine(sizes, 1, added)), -1, 1)
    return reduced(losses, reduction)  # type: ignore[no-any-return]


def _huber(x: Any, y: Any, bound: float) -> Array:
    """Compute c * (d - c / 2) for the absolute difference d and c = min(d, bound), which also holds at infinity."""
    distance = abs(sub(x, y))
    clamped = clamp(distance, max=bound)
    return mul(clamped, sub(distance, affine(clamped, 0.5)))
