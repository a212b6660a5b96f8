"""Inception v3: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2015; as in torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from convlane import nn
from convlane.functional import adaptive_avg_pool2d, avg_pool2d, cat, flatten
from convlane.functional._arguments import Array
from convlane.models.blocks import from_imagenet, head, named_conv
from convlane.models.keras import EPSILON, KerasVariant, State, count_pixels_alone, epsilon, numbered, with_head
from convlane.models.preparation import BOTH_SIGNS
from convlane.models.registry import register
from convlane.weights.keras_file import Layers, names_for


def _c(width: int) -> dict[str, Any]:
    row, column = (1, 7), (7, 1)
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(width, 1), (width, row), (192, column)],
        "branch7x7dbl": [(width, 1), (width, column), (width, row), (width, column), (192, row)],
        "branch_pool": [(192, 1)],
    }


def _a(pooled: int) -> dict[str, Any]:
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
        "branch_pool": [(pooled, 1)],
    }


_ENDS = [(384, (1, 3)), (384, (3, 1))]
_E = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), _ENDS],
    "branch3x3dbl": [(448, 1), (384, 3), _ENDS],
    "branch_pool": [(192, 1)],
}
# Input channels and branches of the blocks. A convolution is given by its output channels, its kernel and, if it is 2,
# its stride; a list stands for several in parallel. Blocks without "branch_pool" halve the size. Figures 5 to 7 of
# the paper.
BLOCKS: dict[str, tuple[int, dict[str, Any]]] = {
    "Mixed_5b": (192, _a(32)),
    "Mixed_5c": (256, _a(64)),
    "Mixed_5d": (288, _a(64)),
    "Mixed_6a": (288, {"branch3x3": [(384, 3, 2)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)]}),
    "Mixed_6b": (768, _c(128)),
    "Mixed_6c": (768, _c(160)),
    "Mixed_6d": (768, _c(160)),
    "Mixed_6e": (768, _c(192)),
    "Mixed_7a": (
        768,
        {"branch3x3": [(192, 1), (320, 3, 2)], "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)]},
    ),
    "Mixed_7b": (1280, _E),
    "Mixed_7c": (2048, _E),
}
AUXILIARY_AFTER = "Mixed_6e"


class InceptionOutputs(NamedTuple):
    """Logits in training mode: of the network and of its auxiliary classifier."""

    logits: Array
    aux_logits: Array


class Mixed(nn.Module):
    """Parallel branches of convolutions, and a pooling, with their maps concatenated."""

    def __init__(self, in_channels: int, branches: Mapping[str, Any]) -> None:
        self.branches = []
        for name, steps in branches.items():
            channels, names = in_channels, []
            for i, step in enumerate(steps, 1):
                one = f"{name}_{i}" if len(steps) > 1 else name
                parallel = (
                    {one: step} if isinstance(step, tuple) else {f"{one}{'ab'[j]}": s for j, s in enumerate(step)}
                )
                for key, convolution in parallel.items():
                    setattr(self, key, _convolution(channels, *convolution))
                    out_channels = convolution[0]
                channels = out_channels
                names.append(tuple(parallel))
            self.branches.append(names)
        self.halves = "branch_pool" not in branches
        self.pool = nn.MaxPool2d(3, 2) if self.halves else nn.AvgPool2d(3, 1, 1)

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        outputs = []
        for i, steps in enumerate(self.branches):
            is_pooled = not self.halves and i == len(self.branches) - 1
            maps = [self.pool(input) if is_pooled else input]
            for names in steps:
                maps = [getattr(self, name)(maps[0]) for name in names]
            outputs += maps
        return cat([*outputs, self.pool(input)] if self.halves else outputs, 1)


class InceptionAux(nn.Module):
    """A classifier on maps from the middle of the network, which sends gradients into its first part."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        self.conv0 = named_conv(in_channels, 128, 1)
        self.conv1 = named_conv(128, 768, 5, padding=0)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for maps (N, C, H, W), H and W at least 17."""
        maps = self.conv1(self.conv0(avg_pool2d(input, 5, 3)))
        return self.fc(flatten(adaptive_avg_pool2d(maps, 1)))  # type: ignore[no-any-return]


class InceptionV3(nn.Module):
    """A stem of five convolutions, eleven blocks of branches, the mean over each map, and one linear layer.

    `aux_logits` adds an auxiliary classifier, which runs in training mode only. `transform_input` is as in GoogLeNet.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.5,
    ) -> None:
        self.transform_input = transform_input
        self.AuxLogits: nn.Module | None = None
        self.Conv2d_1a_3x3 = named_conv(3, 32, 3, 2, 0)
        self.Conv2d_2a_3x3 = named_conv(32, 32, 3, padding=0)
        self.Conv2d_2b_3x3 = named_conv(32, 64, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = named_conv(64, 80, 1)
        self.Conv2d_4a_3x3 = named_conv(80, 192, 3, padding=0)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.blocks = tuple(BLOCKS)
        for name, (in_channels, branches) in BLOCKS.items():
            setattr(self, name, Mixed(in_channels, branches))
            if name == AUXILIARY_AFTER and aux_logits and num_classes:
                self.AuxLogits = InceptionAux(768, num_classes)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = head(2048, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # torchvision truncates this at 20 standard deviations, which has no effect.
                module.weight = nn.init.normal(module.weight.shape, std=0.1)
        if self.AuxLogits is not None:
            self.AuxLogits.fc.weight = nn.init.normal(self.AuxLogits.fc.weight.shape, std=0.001)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        heads = {"AuxLogits", "avgpool", "dropout", "fc"}
        return {name: layer for name, layer in self.named_children() if name not in heads}

    def forward(self, input: Array) -> Array | InceptionOutputs:
        """Return logits (N, num_classes) for images (N, 3, H, W), H and W at least 75.

        In training mode with the auxiliary classifier, return `InceptionOutputs`; H and W must then be at least 299.
        """
        maps = self.Conv2d_1a_3x3(from_imagenet(input) if self.transform_input else input)
        maps = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(maps)))
        maps = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(maps)))
        early = maps
        for name in self.blocks:
            maps = getattr(self, name)(maps)
            if name == AUXILIARY_AFTER:
                early = maps
        logits: Array = self.fc(flatten(self.dropout(self.avgpool(maps))))
        if self.training and self.AuxLogits is not None:
            return InceptionOutputs(logits, self.AuxLogits(early))
        return logits


def _convolution(in_channels: int, out_channels: int, kernel: Any, stride: int = 1) -> nn.Sequential:
    return named_conv(in_channels, out_channels, kernel, stride, None if stride == 1 else 0)


@register(
    input_shape=(3, 299, 299),
    preprocessing={"torchvision": {"crop": 299, "resize": 342}, "keras": {**BOTH_SIGNS, "crop": 299}},
    keras=KerasVariant((epsilon(EPSILON), count_pixels_alone), {"aux_logits": False}),
)
def inception_v3(
    num_classes: int = 1000, *, aux_logits: bool = True, transform_input: bool = False, dropout: float = 0.5
) -> InceptionV3:
    """Build the network of the paper."""
    return InceptionV3(num_classes, aux_logits, transform_input, dropout)


@names_for("InceptionV3", r"conv2d(_\d+)?")
def _names_of_keras(layers: Layers) -> dict[str, NDArray[Any]]:
    state = State(layers)
    with nn.init.skip():
        network = InceptionV3(0)
    keys = [path.removesuffix(".conv") for path, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    convs, norms = (sorted(numbered(layers, kind), key=_number) for kind in ("conv2d", "batch_normalization"))
    if not len(convs) == len(norms) == len(keys):
        raise ValueError(f"it has {len(convs)} convolutions and {len(norms)} batch norms, not {len(keys)} of each")
    for conv, norm, key in zip(convs, norms, keys, strict=True):
        state.norm(norm, f"{key}.bn", state.conv(conv, f"{key}.conv"))
    return with_head(state, "fc")


def _number(name: str) -> int:
    number = name.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0
