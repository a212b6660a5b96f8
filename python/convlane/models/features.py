"""Networks without their heads, as backbones for detection and segmentation: a pyramid of feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convlane import nn
from convlane.functional._arguments import Array
from convlane.graph.trace import record
from convlane.models.blocks import FromImageNet

_TRANSFORM = "transform"  # the layer that only scales the image


class FeaturePyramid(nn.Module):
    """The layers of a network before its head, which return the last maps of every size.

    Its state dict has the network's keys. `convlane.models.create` builds it.

    Attributes
    ----------
    channels, reductions
        For each map, from the largest on: its number of channels, and how many times smaller than the image it is.

    Parameters
    ----------
    layers
        The layers in order, by their names in the network, which may contain one dot.
    input_shape
        Channels, height and width of the images, which determine where layers reduce the size.
    """

    def __init__(self, layers: Mapping[str, nn.Module], input_shape: tuple[int, int, int]) -> None:
        sequences: dict[str, dict[str, nn.Module]] = {}
        for name, layer in layers.items():
            first, _, rest = name.partition(".")
            if rest:
                sequences.setdefault(first, {})[rest] = layer
            else:
                setattr(self, name, layer)
        for name, members in sequences.items():
            setattr(self, name, nn.Sequential(members))
        self.levels, self.channels, self.reductions = _levels(layers, input_shape)

    def forward(self, input: Array) -> tuple[Array, ...]:
        """Return the maps of images (N, C, H, W), from the largest to the smallest."""
        maps, pyramid = input, []
        for names in self.levels:
            for name in names:
                first, _, rest = name.partition(".")
                layer = getattr(self, first)
                maps = (getattr(layer, rest) if rest else layer)(maps)
            pyramid.append(maps)
        return tuple(pyramid)

    def extra_repr(self) -> str:
        """Return the sizes of the pyramid."""
        return f"channels={self.channels}, reductions={self.reductions}"


def feature_pyramid(network: nn.Module, name: str, input_shape: tuple[int, int, int]) -> FeaturePyramid:
    """Return the feature pyramid of a network.

    Raises
    ------
    ValueError
        If its layers do not run in sequence.
    """
    if not hasattr(network, "feature_layers"):
        raise ValueError(f"create: {name} has no pyramid of feature maps, so features_only cannot be true")
    layers = dict(network.feature_layers())
    if getattr(network, "transform_input", False):
        layers = {_TRANSFORM: FromImageNet(), **layers}
    return FeaturePyramid(layers, input_shape).eval()


def _levels(
    layers: Mapping[str, nn.Module], input_shape: tuple[int, int, int]
) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...], tuple[int, ...]]:
    """Split the layers where maps shrink to half or less; return the parts, the channels and the reductions."""
    shapes: list[Any] = []

    def run(maps: Any) -> Any:
        for layer in layers.values():
            maps = layer(maps)
            shapes.append(maps.shape)
        return maps

    record(run, (1, *input_shape))
    levels: list[tuple[str, ...]] = []
    level: list[str] = []
    channels, reductions = [], []
    before, reduction = input_shape[1], 1
    for name, shape, after in zip(layers, shapes, [*shapes[1:], None], strict=True):
        if 2 * shape[2] <= before + 1:
            reduction *= round(before / shape[2])
        before = shape[2]
        level.append(name)
        if name != _TRANSFORM and (after is None or 2 * after[2] <= before + 1):
            levels.append(tuple(level))
            level = []
            channels.append(shape[1])
            reductions.append(reduction)
    return tuple(levels), tuple(channels), tuple(reductions)
