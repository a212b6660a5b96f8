"""The arithmetic cost of networks and of cheaper kinds of convolution.

A network is called on a symbol instead of an array, and every operation adds its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convlane.functional._arguments import Pair, as_pair, as_positive
from convlane.graph.trace import record


def multiply_adds(model: Callable[[Any], Any], input_shape: Sequence[int]) -> int:
    """Count the multiply-adds of one call of a network, without running it.

    As in the papers of the networks, convolutions and fully connected layers count; biases, activations, pooling and
    normalisation do not. A multiply-add is two floating-point operations.

    Parameters
    ----------
    model
        A network, or any function of one array that is made of operations of `convlane.functional`.
    input_shape
        The shape of the array that it would be called with, (N, C, H, W) for images.

    Raises
    ------
    ValueError
        If an operation rejects the shape that reaches it.

    Examples
    --------
    >>> from convlane import analysis, models
    >>> f"{analysis.multiply_adds(models.create('vgg16'), (1, 3, 224, 224)):,}"
    '15,470,264,320'
    """
    nodes, _ = record(model, input_shape)
    return sum(node.multiply_adds for node in nodes.values())


def plain(size: int | Pair, in_channels: int, out_channels: int, kernel_size: int | Pair) -> int:
    """Count the multiplications of a convolution: for every output, as many as its window has elements.

    Parameters
    ----------
    size
        The height and width of the output, an integer or a pair.
    in_channels, out_channels
        The numbers of input and output channels.
    kernel_size
        An integer or a pair (height, width).

    Raises
    ------
    TypeError, ValueError
        If an argument is not an integer or not positive.

    Examples
    --------
    >>> from convlane.analysis import cost
    >>> f"{cost.plain(28, in_channels=192, out_channels=32, kernel_size=5):,}"
    '120,422,400'
    """
    return _area(size, "size") * _positive(in_channels, "in_channels") * _filters(out_channels, kernel_size)


def bottleneck(size: int | Pair, in_channels: int, out_channels: int, kernel_size: int | Pair, between: int) -> int:
    """Count the multiplications of a bottleneck: a 1x1 convolution to fewer channels, then the convolution.

    Inception's modules consist of bottlenecks: Szegedy et al., Going Deeper with Convolutions, 2014.

    Parameters
    ----------
    size, in_channels, out_channels, kernel_size
        As for `plain`.
    between
        The number of channels between the two convolutions.

    Raises
    ------
    TypeError, ValueError
        If an argument is not an integer or not positive.

    Examples
    --------
    >>> from convlane.analysis import cost
    >>> f"{cost.bottleneck(28, in_channels=192, out_channels=32, kernel_size=5, between=16):,}"
    '12,443,648'
    """
    return plain(size, in_channels, between, 1) + plain(size, between, out_channels, kernel_size)


def separable(size: int | Pair, in_channels: int, out_channels: int, kernel_size: int | Pair) -> int:
    """Count the multiplications of a depthwise separable convolution: a depthwise and a 1x1 convolution.

    MobileNets consist of these: Howard et al., MobileNets, 2017.

    Parameters
    ----------
    size, in_channels, out_channels, kernel_size
        As for `plain`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not an integer or not positive.

    Examples
    --------
    >>> from convlane.analysis import cost
    >>> cost.separable(4, in_channels=3, out_channels=5, kernel_size=3), cost.plain(4, 3, 5, 3)
    (672, 2160)
    """
    return plain(size, 1, in_channels, kernel_size) + plain(size, in_channels, out_channels, 1)


def separable_ratio(out_channels: int, kernel_size: int | Pair) -> float:
    """Return `separable` divided by `plain`: ``1 / out_channels + 1 / kernel_size ** 2``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not an integer or not positive.

    Examples
    --------
    >>> from convlane.analysis import cost
    >>> round(cost.separable_ratio(out_channels=512, kernel_size=3), 3)  # almost nine times fewer
    0.113
    """
    return 1 / _positive(out_channels, "out_channels") + 1 / _area(kernel_size, "kernel_size")


def _filters(out_channels: int, kernel_size: int | Pair) -> int:
    return _positive(out_channels, "out_channels") * _area(kernel_size, "kernel_size")


def _area(size: int | Pair, name: str) -> int:
    height, width = as_pair(size, "cost", name)
    return _positive(height, name) * _positive(width, name)


def _positive(value: int, name: str) -> int:
    return as_positive(value, "cost", name)
