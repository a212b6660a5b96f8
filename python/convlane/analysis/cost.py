"""Arithmetic cost of a network: it is called on a symbol instead of an array, and every operation states its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convlane.functional._op import Shape, rules


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
    tally = _Tally()
    model(_Symbol(tuple(input_shape), tally))
    return tally.multiply_adds


class _Tally:
    """Sum over all operations of one call."""

    def __init__(self) -> None:
        self.multiply_adds = 0


class _Symbol:
    """Stands for an array of which only the shape is known."""

    def __init__(self, shape: Shape, tally: _Tally) -> None:
        self.shape = shape
        self.ndim = len(shape)
        self.tally = tally

    @staticmethod
    def __convlane_op__(operation: Callable[..., Any], input: Any, *args: Any, **kwargs: Any) -> _Symbol:
        known = rules(operation)
        first: _Symbol = input[0] if isinstance(input, (list, tuple)) else input
        first.tally.multiply_adds += known.multiply_adds(input, *args, **kwargs)
        return _Symbol(known.shape(input, *args, **kwargs), first.tally)
