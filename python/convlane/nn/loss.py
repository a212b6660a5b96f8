"""Losses as layers; as in torch, their weights are buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import functional as F
from convlane.functional._arguments import Array
from convlane.nn.module import Module


class _Loss(Module):
    """The base class of losses, whose options besides the reduction are listed in `_options`."""

    _options: tuple[str, ...] = ()

    def extra_repr(self) -> str:
        """Return the constructor's arguments without the weights."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self._options, "reduction"))


class CrossEntropyLoss(_Loss):
    """Cross-entropy of logits (N, classes, ...) with classes or probabilities, see `convlane.functional.cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> loss = nn.CrossEntropyLoss(np.ones(21, np.float32), ignore_index=255)
    >>> round(float(loss(np.zeros((1, 21, 4, 5), np.float32), np.zeros((1, 4, 5), np.uint8))), 4)
    3.0445
    """

    weight: Array | None
    _options = ("ignore_index", "label_smoothing")

    def __init__(
        self,
        weight: Array | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, input: Array, target: Array | NDArray[np.integer[Any]]) -> Array:
        """Compare logits with targets."""
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )


class NLLLoss(_Loss):
    """Negative log-likelihood of the right classes, see `convlane.functional.nll_loss`."""

    weight: Array | None
    _options = ("ignore_index",)

    def __init__(self, weight: Array | None = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, input: Array, target: NDArray[np.integer[Any]]) -> Array:
        """Compare log-probabilities (N, classes, ...) with classes."""
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class L1Loss(_Loss):
    """Absolute differences, see `convlane.functional.l1_loss`."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Array, target: Array) -> Array:
        """Compare arrays of one shape."""
        return F.l1_loss(input, target, reduction=self.reduction)


class MSELoss(_Loss):
    """Squared differences, see `convlane.functional.mse_loss`."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Array, target: Array) -> Array:
        """Compare arrays of one shape."""
        return F.mse_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """Absolute differences, smoothed below `beta`, see `convlane.functional.smooth_l1_loss`."""

    _options = ("beta",)

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        self.reduction, self.beta = reduction, beta

    def forward(self, input: Array, target: Array) -> Array:
        """Compare arrays of one shape."""
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """Squared differences, but absolute differences beyond `delta`, see `convlane.functional.huber_loss`."""

    _options = ("delta",)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        self.reduction, self.delta = reduction, delta

    def forward(self, input: Array, target: Array) -> Array:
        """Compare arrays of one shape."""
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class KLDivLoss(_Loss):
    """Kullback-Leibler divergence, see `convlane.functional.kl_div`."""

    _options = ("log_target",)

    def __init__(self, *, reduction: str = "mean", log_target: bool = False) -> None:
        self.reduction, self.log_target = reduction, log_target

    def forward(self, input: Array, target: Array) -> Array:
        """Compare log-probabilities with probabilities, or log-probabilities, of the same shape."""
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class BCELoss(_Loss):
    """Cross-entropy of yes-or-no questions, from probabilities, see `convlane.functional.binary_cross_entropy`."""

    weight: Array | None

    def __init__(self, weight: Array | None = None, *, reduction: str = "mean") -> None:
        self.register_buffer("weight", weight)
        self.reduction = reduction

    def forward(self, input: Array, target: Array) -> Array:
        """Compare probabilities of one shape."""
        return F.binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Cross-entropy of yes-or-no questions, from logits, see `convlane.functional.binary_cross_entropy_with_logits`."""

    weight: Array | None
    pos_weight: Array | None

    def __init__(
        self, weight: Array | None = None, *, reduction: str = "mean", pos_weight: Array | None = None
    ) -> None:
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = reduction

    def forward(self, input: Array, target: Array) -> Array:
        """Compare logits with probabilities of the same shape."""
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )
