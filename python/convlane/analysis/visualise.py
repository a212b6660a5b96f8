"""Feature maps, filters, and the pictures that maximise a channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convlane._floats import quiet
from convlane.analysis.layers import anatomy, checked_shape, unknown, until
from convlane.autograd import vjp
from convlane.functional._arguments import Array, as_float, as_image, as_int, as_positive
from convlane.nn import Conv2d, Module


def feature_maps(model: Callable[[Any], Any], image: Any, layer: str) -> Array:
    """Run a network on a picture up to one layer and return the result of that layer.

    Parameters
    ----------
    model
        A network, or any function of one array that is made of operations of `convlane.functional`. It is run in eval
        mode, and its mode is restored.
    image
        float32, (N, C, H, W) or one image (C, H, W).
    layer
        The name of a layer as shown by `summary`, or of a module that contains several layers (``"layer1"``).

    Returns
    -------
    numpy.ndarray
        float32, (N, channels, height, width), or (channels, height, width) for one image; for a linear
        layer, (N, features) or (features,). `convlane.analysis.draw.maps` draws it.

    Raises
    ------
    TypeError
        If `image` is not a float32 array.
    ValueError
        If there is no such layer (the message suggests similar names), or the network rejects the image's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import analysis, models
    >>> image = np.zeros((1, 32, 32), np.float32)
    >>> analysis.feature_maps(models.create("lenet5"), image, "features.2").shape
    (6, 14, 14)
    """
    images, single = as_image(image, "feature_maps", "image")
    network = anatomy(model, images.shape)
    maps: Array = until(network, network.find(layer, "feature_maps"))(images)
    return maps[0] if single else maps


def filters(model: Module, layer: str | None = None) -> Array:
    """Return the filters of a convolution of a network.

    Parameters
    ----------
    model
        A network.
    layer
        The convolution's name; by default the first convolution, whose filters can be viewed as pixels.

    Returns
    -------
    numpy.ndarray
        float32, (filters, channels, height, width), read-only. `convlane.analysis.draw.filters` draws it.

    Raises
    ------
    ValueError
        If the network has no such convolution; the message suggests similar names.

    Examples
    --------
    >>> from convlane import analysis, models
    >>> analysis.filters(models.create("lenet5")).shape
    (6, 1, 5, 5)
    """
    convolutions = {path: module for path, module in model.named_modules() if isinstance(module, Conv2d)}
    if not convolutions:
        raise ValueError(f"filters: {type(model).__name__} has no convolution")
    if layer is None:
        return next(iter(convolutions.values())).weight
    if layer not in convolutions:
        raise ValueError(f"filters: {unknown('convolution', layer, convolutions)}")
    return convolutions[layer].weight


@quiet
def maximise(
    model: Callable[[Any], Any],
    layer: str,
    channel: int,
    input_shape: Sequence[int] | None = None,
    *,
    steps: int = 100,
    step_size: float = 0.1,
    decay: float = 0.01,
    smoothing: float = 0.05,
    jitter: int = 4,
    seed: int = 0,
) -> Array:
    """Find a picture to which a channel of a layer responds most strongly, by gradient ascent from faint noise.

    Erhan, Bengio, Courville and Vincent, Visualizing Higher-Layer Features of a Deep Network, 2009. Without a penalty
    on the picture, the result would be noise of high contrast: `decay` is the L2 penalty of Simonyan, Vedaldi and
    Zisserman, Deep Inside Convolutional Networks, 2014; `smoothing` penalises differences between neighbours, and
    `jitter` makes the result independent of exact positions.

    Parameters
    ----------
    model
        As for `feature_maps`.
    layer
        The name of a layer; for classes, the last one before a softmax.
    channel
        The channel whose mean over all positions is maximised, or the output of a linear layer.
    input_shape
        The shape of the picture, (1, C, H, W); by default the one that the network is made for, if
        `convlane.models.create` has built it.
    steps
        The number of steps of gradient ascent.
    step_size
        The change of the picture in a step, as the root mean square over the pixels.
    decay
        The share of the picture that each step subtracts.
    smoothing
        The share of a pixel's difference from the mean of its four neighbours that each step subtracts; at most 1.
    jitter
        Before each step, the picture is shifted randomly by up to this many pixels, and back afterwards.
    seed
        The seed of the noise and of the shifts; the same seed gives the same picture.

    Returns
    -------
    numpy.ndarray
        float32, (C, H, W), in the range that the network takes. `convlane.analysis.draw.picture` draws it.

    Raises
    ------
    TypeError
        If the network does something that has no gradient, or an argument has the wrong type.
    ValueError
        If there is no such layer (the message suggests similar names) or channel, or an argument is out of range.

    Examples
    --------
    >>> from convlane import analysis, models, nn
    >>> nn.init.seed(0)
    >>> network = models.create("lenet5")
    >>> picture = analysis.maximise(network, "classifier.4", channel=3, steps=20)
    >>> picture.shape
    (1, 32, 32)
    >>> faint = analysis.maximise(network, "classifier.4", channel=3, steps=0)
    >>> bool(network(picture[None])[0, 3] > network(faint[None])[0, 3])
    True
    """
    shape = checked_shape(model, input_shape, "maximise")
    if len(shape) != 4 or shape[0] != 1:
        raise ValueError(f"maximise: input_shape must be (1, C, H, W), got {shape}")
    network = anatomy(model, shape)
    value = network.find(layer, "maximise")
    result = network.nodes[value].shape
    channel = as_int(channel, "maximise", "channel")
    if len(result) < 2 or not 0 <= channel < result[1]:
        raise ValueError(
            f"maximise: channel={channel} is not one of the channels of {layer!r}, whose result has shape {result}"
        )
    for name, number, most in (("step_size", step_size, np.inf), ("decay", decay, 1), ("smoothing", smoothing, 1)):
        if not 0 <= as_float(number, "maximise", name) <= most:
            raise ValueError(f"maximise: {name} must be between 0 and {most}, got {number}")
    steps = as_positive(as_int(steps, "maximise", "steps") + 1, "maximise", "steps + 1") - 1
    reach = as_positive(as_int(jitter, "maximise", "jitter") + 1, "maximise", "jitter + 1") - 1
    weights = np.zeros(result, np.float32)
    weights[:, channel] = 1 / weights[:, channel].size
    run = until(network, value)
    rng = np.random.default_rng(seed)
    picture = (0.1 * rng.standard_normal(shape)).astype(np.float32)
    for _ in range(steps):
        shift = tuple(rng.integers(-reach, reach, 2, endpoint=True))
        _, pullback = vjp(run, np.roll(picture, shift, (2, 3)))
        gradient = np.roll(pullback(weights)[0], (-shift[0], -shift[1]), (2, 3))
        size = float(np.sqrt(np.mean(gradient.astype(np.float64) ** 2)))
        if size > 0:
            picture += np.float32(step_size / size) * gradient
        picture += np.float32(smoothing) * (_neighbours(picture) - picture)
        picture *= np.float32(1 - decay)
    found: Array = picture[0]
    return found


def _neighbours(picture: Array) -> Array:
    """Return the mean of the four neighbours of each pixel; edge pixels are repeated beyond the edge."""
    padded = np.pad(picture, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1]
    mean: Array = (rows + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]) / np.float32(4)
    return mean
