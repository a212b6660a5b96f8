"""Helpers that the gradient rules of several families share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_flat_image, is_channels_last
from convlane.functional._op import DERIVATIVE_FROM_OUTPUT


def follows_from_output(activation: str, negative_slope: float) -> bool:
    """Return whether an activation's gradient follows from its output, so that its input need not be kept."""
    return activation in DERIVATIVE_FROM_OUTPUT or (activation == "leaky_relu" and negative_slope >= 0)


def activation_gradient(
    kept: Array, gradient: Array, activation: str, negative_slope: float = 0.0, *, from_output: bool
) -> Array:
    """Return the gradient of an activation's input.

    Parameters
    ----------
    kept
        The output of the activation if `from_output` is true, else its input.
    gradient
        The gradient of the output, of the same shape.
    activation, negative_slope
        As in `conv2d`.
    from_output
        Allowed only where `follows_from_output` returns True.
    """
    if activation == "none":
        return gradient
    if kept.ndim == 4:
        return _core.activation_gradient(kept, gradient, activation, negative_slope, from_output)
    if is_channels_last(kept):
        kept, gradient = np.moveaxis(kept, 1, -1), np.moveaxis(gradient, 1, -1)
        return np.moveaxis(
            activation_gradient(kept, gradient, activation, negative_slope, from_output=from_output), -1, 1
        )
    flat = _core.activation_gradient(
        as_flat_image(kept), as_flat_image(gradient), activation, negative_slope, from_output
    )
    return flat.reshape(kept.shape)


def activate(input: Array, name: str, slope: float = 0.0) -> Array:
    """Return an activation of an array of any shape."""
    x = as_array(input, name, "input")
    if x.ndim == 4:
        return _core.activation(x, name, slope)
    if is_channels_last(x):
        return np.moveaxis(activate(np.moveaxis(x, 1, -1), name, slope), -1, 1)
    return _core.activation(as_flat_image(x), name, slope).reshape(x.shape)


def activated(run: Callable[..., Array], activation: str, slope: float) -> tuple[Array, Callable[[Array], Array]]:
    """Run an operation followed by an activation; return the output and the activation's pullback.

    Parameters
    ----------
    run
        The operation, which takes the keywords `activation` and `negative_slope`. It is called without them if the
        activation's input must be kept.
    activation, slope
        As in `conv2d`.
    """
    if activation == "none":
        return run(), lambda gradient: gradient
    from_output = follows_from_output(activation, slope)
    kept = run(activation=activation, negative_slope=slope) if from_output else run()
    output = kept if from_output else activate(kept, activation, slope)
    return output, lambda gradient: activation_gradient(kept, gradient, activation, slope, from_output=from_output)
