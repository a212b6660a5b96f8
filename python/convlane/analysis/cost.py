"""Arithmetic cost of a network: it is called on a symbol instead of an array, and every operation states its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convlane.graph.trace import record


def multiply_adds(model: Callable[[Any], Any], input_shape: Sequence[int]) -> int:
    """Count the multiply-adds of one call of a network, without running it.

    Convolutions and fully connected layers count, as in the papers of the networks; a bias, an activation, pooling
    and normalisation do not. A multiply-add is two floating-point operations.

    Parameters
    ----------
    model
        A network, or any function of one array that is made of operations of `convlane.functional`.
    input_shape
        Shape of the array that it would be called with, for images (N, C, H, W).

    Raises
    ------
    ValueError
        An operation refuses the shape that reaches it.

    Examples
    --------
    >>> from convlane import analysis, models
    >>> f"{analysis.multiply_adds(models.create('vgg16'), (1, 3, 224, 224)):,}"
    '15,470,264,320'
    """
    nodes, _ = record(model, input_shape)
    return sum(node.multiply_adds for node in nodes.values())
