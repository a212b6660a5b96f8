"""EfficientNet: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019.

The paper's eight networks, others of any width and depth, and the search for the largest that fits a budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import nn
from convlane.functional import add, flatten
from convlane.functional._arguments import Array, as_float, as_positive
from convlane.graph import compile, trace
from convlane.models.blocks import conv_norm, divisible, head, layers_of
from convlane.models.keras import EPSILON, KerasVariant, State, epsilon, numbered, pad_as_tensorflow, with_head
from convlane.models.preparation import WHOLE, Preparations
from convlane.models.registry import build, register
from convlane.weights.keras_file import Layers, names_for

STEM_CHANNELS = 32
# Expansion, kernel, stride of the first block, output channels, number of blocks. Table 1 of the paper.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# Factors of the number of channels and of the number of blocks, and the dropout before the classifier.
# The authors' code, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet.
VARIANTS = (
    (1.0, 1.0, 0.2),
    (1.0, 1.1, 0.2),
    (1.1, 1.2, 0.3),
    (1.2, 1.4, 0.3),
    (1.4, 1.8, 0.4),
    (1.6, 2.2, 0.4),
    (1.8, 2.6, 0.5),
    (2.0, 3.1, 0.5),
)


# The factors by which one step of compound scaling multiplies depth, width and resolution; multiply-adds about double.
# Section 3.3 of the paper.
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
RESOLUTION = 224
# The range that `efficientnet_for` searches: compound coefficients in eighths from the baseline; B7 has about 7.
_EIGHTHS = range(-64, 57)


class MBConv(nn.Module):
    """An inverted residual: 1x1 that widens, depthwise, squeeze-and-excitation, 1x1 that narrows, and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        expansion: int,
        drop: float,
        norm: Callable[[int], nn.Module],
    ) -> None:
        width = in_channels * expansion
        widen = [] if expansion == 1 else [conv_norm(in_channels, width, 1, norm=norm, activation=nn.SiLU)]
        self.block = nn.Sequential(
            *widen,
            conv_norm(width, width, kernel, stride, groups=width, norm=norm, activation=nn.SiLU),
            nn.SqueezeExcitation(width, max(1, in_channels // 4), activation=nn.SiLU),
            conv_norm(width, out_channels, 1, norm=norm),
        )
        self.use_res_connect = stride == 1 and in_channels == out_channels
        self.stochastic_depth = nn.StochasticDepth(drop)

    def forward(self, input: Array) -> Array:
        """Return the block's maps."""
        maps: Array = self.block(input)
        return add(self.stochastic_depth(maps), input) if self.use_res_connect else maps


class Classifier(nn.Module):
    """The base class of the EfficientNets: features, the mean over each map, dropout and one linear layer."""

    def __init__(self, features: Sequence[nn.Module], channels: int, num_classes: int, dropout: float) -> None:
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), head(channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape, mode="fan_out")
                if module.bias is not None:
                    module.bias = nn.init.constant((module.out_channels,), 0)
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.out_features)
                module.weight = nn.init.uniform(module.weight.shape, -bound, bound)
                module.bias = nn.init.constant((module.out_features,), 0)

    def feature_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the head, in order."""
        layers = layers_of(self, "features.*")
        layers.popitem()  # the convolution before the classifier
        return layers

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 3, H, W)."""
        return self.classifier(flatten(self.avgpool(self.features(input))))  # type: ignore[no-any-return]


class EfficientNet(Classifier):
    """A 3x3 stem, seven stages of inverted residuals, a 1x1 convolution, the mean over each map, and a linear layer.

    `width` multiplies the baseline's numbers of channels, which are then rounded to multiples of 8; `depth` multiplies
    its numbers of blocks, which are rounded up. `resolution` is the height and width of the images that the network is
    meant for, and is only stored.
    `stochastic_depth_prob` is the probability of dropping the last residual branch; it grows linearly from 0.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        num_classes: int = 1000,
        dropout: float = 0.2,
        stochastic_depth_prob: float = 0.2,
        *,
        resolution: int = RESOLUTION,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        if not (width > 0 and depth > 0):
            raise ValueError(f"efficientnet: width and depth must be positive, got {width} and {depth}")
        self.width, self.depth = width, depth
        self.resolution = as_positive(resolution, "efficientnet", "resolution")
        channels = divisible(STEM_CHANNELS * width)
        counts = [math.ceil(stage[-1] * depth) for stage in STAGES]
        features = [conv_norm(3, channels, 3, 2, norm=norm, activation=nn.SiLU)]
        done = 0
        for (expansion, kernel, stride, stage_channels, _), count in zip(STAGES, counts, strict=True):
            out_channels = divisible(stage_channels * width)
            blocks = []
            for i in range(count):
                drop = stochastic_depth_prob * done / sum(counts)
                blocks.append(MBConv(channels, out_channels, kernel, stride if i == 0 else 1, expansion, drop, norm))
                channels = out_channels
                done += 1
            features.append(nn.Sequential(*blocks))
        features.append(conv_norm(channels, 4 * channels, 1, norm=norm, activation=nn.SiLU))
        super().__init__(features, 4 * channels, num_classes, dropout)


def _variant(number: int, num_classes: int, dropout: float | None, stochastic_depth_prob: float) -> EfficientNet:
    width, depth, default_dropout = VARIANTS[number]
    # As in torchvision, whose larger networks use TensorFlow's defaults.
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01) if number >= 5 else nn.BatchNorm2d
    dropout = default_dropout if dropout is None else dropout
    return EfficientNet(width, depth, num_classes, dropout, stochastic_depth_prob, norm=norm)


@register
def efficientnet(
    num_classes: int = 1000,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    resolution: int = RESOLUTION,
    dropout: float = 0.2,
    stochastic_depth_prob: float = 0.2,
) -> EfficientNet:
    """Build the baseline with its channels and blocks multiplied by `width` and `depth`."""
    return EfficientNet(width, depth, num_classes, dropout, stochastic_depth_prob, resolution=resolution)


def efficientnet_for(
    *,
    budget_madds: float | None = None,
    budget_params: float | None = None,
    budget_ms: float | None = None,
    num_classes: int = 1000,
    stochastic_depth_prob: float = 0.2,
) -> EfficientNet:
    """Build the largest network of compound scaling that is within a budget.

    With the compound coefficient phi, depth is ``1.2**phi``, width ``1.1**phi`` and resolution ``224 * 1.15**phi``
    (rounded to a multiple of 8), so that multiply-adds grow by about ``2**phi``. The largest phi within the budget is
    found by bisection among the multiples of 1/8 from -8 to 7, as all costs grow with phi. Multiply-adds and parameters
    are counted. Milliseconds are measured on this machine: the median time of the compiled network for one image, with
    the current number of threads. About seven candidates are compiled and run for half a second each, so do not run
    anything else at the same time.

    Parameters
    ----------
    budget_madds
        The number of multiply-adds for one image.
    budget_params
        The number of parameters.
    budget_ms
        The time for one image on this machine, in milliseconds.
    num_classes, stochastic_depth_prob
        As in `convlane.models.create`.

    Returns
    -------
    EfficientNet
        A network with random weights, in eval mode. Its attributes `width`, `depth` and `resolution` are those chosen;
        ``create("efficientnet", width=..., depth=..., resolution=...)`` builds the network again.

    Raises
    ------
    TypeError
        If a budget is not a number.
    ValueError
        If no budget is given, or even the smallest candidate exceeds one.

    Examples
    --------
    >>> from convlane import models
    >>> network = models.efficientnet_for(budget_params=3e6)
    >>> network.resolution, network.num_parameters()
    (152, 2962692)
    """
    budgets = {
        name: as_float(budget, "efficientnet_for", name)
        for name, budget in (("budget_madds", budget_madds), ("budget_params", budget_params), ("budget_ms", budget_ms))
        if budget is not None
    }
    if not budgets:
        raise ValueError("efficientnet_for: give budget_madds, budget_params or budget_ms")
    low, high = 0, len(_EIGHTHS)  # candidates before `low` fit, those from `high` on do not
    while low < high:
        middle = (low + high) // 2
        if _excess(_scaled(_EIGHTHS[middle] / 8), num_classes, budgets):
            high = middle
        else:
            low = middle + 1
    if low == 0:
        excess = _excess(_scaled(_EIGHTHS[0] / 8), num_classes, budgets)
        raise ValueError(f"efficientnet_for: even the smallest network has {excess}")
    config = {**_scaled(_EIGHTHS[low - 1] / 8), "stochastic_depth_prob": stochastic_depth_prob}
    network = build("efficientnet", num_classes, config)
    assert isinstance(network, EfficientNet)
    return network


def _scaled(phi: float) -> dict[str, Any]:
    """Return the arguments of `efficientnet` for a compound coefficient; dropout grows from B0's to B7's."""
    return {
        "width": BETA**phi,
        "depth": ALPHA**phi,
        "resolution": max(32, 8 * round(RESOLUTION * GAMMA**phi / 8)),
        "dropout": min(max(0.2 + 0.3 * phi / 7, 0.2), 0.5),
    }


def _excess(config: Mapping[str, Any], num_classes: int, budgets: Mapping[str, float]) -> str:
    """Return by what a candidate exceeds the budgets, or an empty string. The slowest check comes last."""
    with nn.init.skip():
        network = build("efficientnet", num_classes, config)
    costs: dict[str, tuple[Callable[[], float], str]] = {
        "budget_params": (network.num_parameters, "parameters"),
        "budget_madds": (lambda: _multiply_adds(network, config["resolution"]), "multiply-adds"),
        "budget_ms": (lambda: _milliseconds(network, config["resolution"]), "milliseconds"),
    }
    for name, (cost, unit) in costs.items():
        if name in budgets and (found := cost()) > budgets[name]:
            return f"{found:,.4g} {unit}, more than {name}={budgets[name]:,.4g}"
    return ""


def _multiply_adds(network: nn.Module, resolution: int) -> int:
    graph = trace(network, (1, 3, resolution, resolution))
    return sum(node.multiply_adds for node in graph.nodes.values())


def _milliseconds(network: nn.Module, resolution: int) -> float:
    """Return the median time for one image, over half a second of runs and at least five."""
    plan = compile(network, (1, 3, resolution, resolution))
    image = np.zeros((1, 3, resolution, resolution), np.float32)
    plan(image)
    times: list[float] = []
    while len(times) < 5 or sum(times) < 0.5:
        start = time.perf_counter()
        plan(image)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def _bicubic(crop: int, resize: int) -> Preparations:
    return {"torchvision": {"crop": crop, "resize": resize, "interpolation": "bicubic"}}


@register(
    preprocessing={
        **_bicubic(224, 256),
        "keras": WHOLE,  # the network of Keras normalises with layers of its own
    },
    keras=KerasVariant((epsilon(EPSILON), pad_as_tensorflow)),
)
def efficientnet_b0(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline."""
    return _variant(0, num_classes, dropout, stochastic_depth_prob)


@register(
    input_shape=(3, 240, 240),
    preprocessing={**_bicubic(240, 256), "torchvision_v2": {"crop": 240, "resize": 255}},
)
def efficientnet_b1(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B1."""
    return _variant(1, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 260, 260), preprocessing=_bicubic(288, 288))
def efficientnet_b2(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B2."""
    return _variant(2, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 300, 300), preprocessing=_bicubic(300, 320))
def efficientnet_b3(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B3."""
    return _variant(3, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 380, 380), preprocessing=_bicubic(380, 384))
def efficientnet_b4(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B4."""
    return _variant(4, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 456, 456), preprocessing=_bicubic(456, 456))
def efficientnet_b5(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B5."""
    return _variant(5, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 528, 528), preprocessing=_bicubic(528, 528))
def efficientnet_b6(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B6."""
    return _variant(6, num_classes, dropout, stochastic_depth_prob)


@register(input_shape=(3, 600, 600), preprocessing=_bicubic(600, 600))
def efficientnet_b7(
    num_classes: int = 1000, *, dropout: float | None = None, stochastic_depth_prob: float = 0.2
) -> EfficientNet:
    """Build the baseline scaled by the coefficients of B7."""
    return _variant(7, num_classes, dropout, stochastic_depth_prob)


@names_for("EfficientNetB0", "block1a_dwconv")
def _names_of_keras(layers: Layers) -> dict[str, NDArray[Any]]:
    state = State(layers)
    state.block("stem_conv", "stem_bn", "features.0")
    for stage in range(1, 8):
        i = 0
        while (name := f"block{stage}{chr(ord('a') + i)}") + "_dwconv" in state:
            key, index = f"features.{stage}.{i}.block", 0
            if stage > 1:
                state.block(f"{name}_expand_conv", f"{name}_expand_bn", f"{key}.0")
                index = 1
            state.block(f"{name}_dwconv", f"{name}_bn", f"{key}.{index}", depthwise=True)
            state.conv_with_bias(f"{name}_se_reduce", f"{key}.{index + 1}.fc1")
            state.conv_with_bias(f"{name}_se_expand", f"{key}.{index + 1}.fc2")
            state.block(f"{name}_project_conv", f"{name}_project_bn", f"{key}.{index + 2}")
            i += 1
    state.block("top_conv", "top_bn", "features.8")
    return with_head(state, "classifier.1", *numbered(layers, "normalization"))
