"""How Keras's networks differ from torchvision's: in paddings, epsilons and the names of weights.

This file defines the changes; the file of each network declares those that apply to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane import nn
from convlane.safetensors_file import shown
from convlane.weights.keras_file import Layers

Change: TypeAlias = Callable[[nn.Module], None]
"""A change that is applied to every module of a network."""


class KerasVariant(NamedTuple):
    """What makes a network compute the same as Keras's network with the same weights."""

    changes: tuple[Change, ...] = ()
    config: Mapping[str, Any] = {}
    """Arguments of the builder that differ in Keras."""


EPSILON = 1e-3  # of most batch norms


def epsilon(value: float) -> Change:
    """Return the change that sets the epsilon of all batch norms."""

    def change(module: nn.Module) -> None:
        if isinstance(module, nn.BatchNorm2d):
            module.eps = value

    return change


def pad_as_tensorflow(module: nn.Module) -> None:
    """Use TensorFlow's padding "same": an odd pixel is added on the right or at the bottom."""
    if isinstance(module, nn.Conv2d) and module.stride != (1, 1) and module.kernel_size != (1, 1):
        module.padding = "same_tf"


def count_pixels_alone(module: nn.Module) -> None:
    """Leave out the padding from averages, as TensorFlow does."""
    if isinstance(module, nn.AvgPool2d):
        module.count_include_pad = False


class State:
    """A state dict under construction from the layers of a Keras file."""

    def __init__(self, layers: Layers) -> None:
        self._layers = dict(layers)
        self.arrays: dict[str, NDArray[Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def _take(self, name: str, *counts: int) -> list[NDArray[Any]]:
        if name not in self._layers:
            raise ValueError(f"there is no layer {shown(name)}")
        arrays = self._layers.pop(name)
        if len(arrays) not in counts:
            raise ValueError(f"layer {shown(name)} has {len(arrays)} arrays")
        return arrays

    def conv(self, name: str, key: str, *, depthwise: bool = False) -> NDArray[Any] | None:
        """Take a convolution (height, width, in, out), depthwise (height, width, channels, 1); return its bias."""
        kernel, *bias = self._take(name, 1, 2)
        if kernel.ndim != 4:
            raise ValueError(f"layer {shown(name)} has a kernel of shape {kernel.shape}")
        self.arrays[f"{key}.weight"] = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        return bias[0] if bias else None

    def conv_with_bias(self, name: str, key: str) -> None:
        """Take a convolution whose bias is kept."""
        bias = self.conv(name, key)
        if bias is None:
            raise ValueError(f"layer {shown(name)} has no bias")
        self.arrays[f"{key}.bias"] = bias

    def norm(self, name: str, key: str, bias: NDArray[Any] | None = None) -> None:
        """Take a batch norm, which may lack a scale; the convolution's bias is subtracted from the mean."""
        *scale, shift, mean, variance = self._take(name, 3, 4)
        self.arrays[f"{key}.weight"] = scale[0] if scale else np.ones_like(shift)
        self.arrays[f"{key}.bias"] = shift
        self.arrays[f"{key}.running_mean"] = mean if bias is None else mean - bias
        self.arrays[f"{key}.running_var"] = variance

    def block(self, name: str, norm: str, key: str, *, depthwise: bool = False) -> None:
        """Take a convolution and the batch norm after it, which are 0 and 1 of a sequence."""
        self.norm(norm, f"{key}.1", self.conv(name, f"{key}.0", depthwise=depthwise))

    def dense(self, name: str, key: str, image: tuple[int, int, int] | None = None) -> None:
        """Take a linear layer (in, out); `image` is the height, width and channels of a flattened input."""
        kernel, bias = self._take(name, 2)
        if image is not None:
            kernel = kernel.reshape(*image, -1).transpose(2, 0, 1, 3)
        self.arrays[f"{key}.weight"] = kernel.reshape(-1, kernel.shape[-1]).T
        self.arrays[f"{key}.bias"] = bias

    def finished(self, *unused: str) -> dict[str, NDArray[Any]]:
        """Return the arrays; raise a ValueError if any layers but the unused ones are left."""
        if left := sorted(self._layers.keys() - set(unused)):
            raise ValueError(f"layer {shown(left[0])} is unexpected")
        return self.arrays


def with_head(state: State, key: str, *unused: str) -> dict[str, NDArray[Any]]:
    """Return the arrays, with those of the last linear layer if the file has one."""
    if "predictions" in state:
        state.dense("predictions", key)
    return state.finished(*unused)


def numbered(layers: Layers, kind: str) -> list[str]:
    """Return the layers that Keras has named after their type, with a number."""
    return [name for name in layers if re.fullmatch(rf"{kind}(_\d+)?", name)]
