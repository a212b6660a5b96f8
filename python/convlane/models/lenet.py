"""LeNet-5: LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition, 1998.

lenet5 is the version taught today: the same sizes with ReLU, max pooling, full connections and a linear classifier.
lenet5_1998 is the paper's version: sub-sampling layers with a coefficient and a bias per map, a scaled hyperbolic
tangent, partial connections in C3, and an output of distances to drawn characters.
"""

from __future__ import annotations

from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import nn
from convlane.functional import add, cat, conv2d, cross_entropy, flatten, linear, mul, tanh
from convlane.functional._arguments import Array
from convlane.models.blocks import head, scale_and_shift
from convlane.models.registry import register

# Maps of C1 and C3 (5x5 kernels, each followed by 2x2 pooling), units in C5 and F6.
WIDTHS = (6, 16, 120, 84)
# Which maps of S2 each map of C3 sees. Table I of the paper.
CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)
# The scaled tangent A tanh(S x), which maps 1 to 1 and -1 to -1. Appendix A of the paper.
AMPLITUDE, SLOPE = 1.7159, 2 / 3
# The ten digits, 7 pixels wide and 12 high, as many pixels as F6 has units, in the style of figure 3 of the paper.
DIGITS = (
    "..###.. ...#... .#####. .#####. .....#. ####### ..####. ####### .#####. .#####.",
    ".#...#. ..##... #.....# #.....# ....##. #...... .#..... ......# #.....# #.....#",
    "#.....# .###... #.....# ......# ...#.#. #...... #...... ......# #.....# #.....#",
    "#.....# ...#... ......# ......# ..#..#. #...... #...... .....#. #.....# #.....#",
    "#.....# ...#... ......# ......# .#...#. #.####. #...... .....#. #.....# #.....#",
    "#.....# ...#... .....#. ..####. #....#. ##....# #.####. ....#.. .#####. #....##",
    "#.....# ...#... ....#.. ......# ####### ......# ##....# ....#.. #.....# .####.#",
    "#.....# ...#... ...#... ......# .....#. ......# #.....# ...#... #.....# ......#",
    "#.....# ...#... ..#.... ......# .....#. ......# #.....# ...#... #.....# ......#",
    "#.....# ...#... .#..... ......# .....#. ......# #.....# ..#.... #.....# ......#",
    ".#...#. ...#... #...... #.....# .....#. #.....# #.....# ..#.... #.....# .....#.",
    "..###.. .#####. ####### .#####. .....#. .#####. .#####. ..#.... .#####. .####..",
)


class LeNet5(nn.Module):
    """Two convolutions, each followed by max pooling, then three linear layers on a 5x5 map."""

    def __init__(self, num_classes: int = 10) -> None:
        c1, c3, c5, f6 = WIDTHS
        self.features = nn.Sequential(
            *(nn.Conv2d(1, c1, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(c1, c3, 5), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Linear(c3 * 5 * 5, c5), nn.ReLU()),
            *(nn.Linear(c5, f6), nn.ReLU()),
            head(f6, num_classes),
        )

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes) for images (N, 1, 32, 32)."""
        return self.classifier(flatten(self.features(input)))  # type: ignore[no-any-return]


class LeNet5Of1998(nn.Module):
    """Convolutions C1, C3 and C5, sub-sampling S2 and S4 between them, the layer F6 and the distances to characters.

    The squashing function follows S2, S4, C5 and F6, but not C1 and C3, which S2 and S4 sum first. The 60,000
    parameters are those of the paper; the characters are not learned.
    """

    def __init__(self, num_classes: int = 10) -> None:
        c1, c3, c5, f6 = WIDTHS
        self.c1 = nn.Conv2d(1, c1, 5)
        self.s2 = sub_sampling(c1)
        self.c3 = partly_connected(c1)
        self.s4 = sub_sampling(c3)
        self.c5 = nn.Sequential(nn.Conv2d(c3, c5, 5), ScaledTanh())
        self.f6 = nn.Sequential(nn.Linear(c5, f6), ScaledTanh())
        self.output = head(f6, num_classes, lambda _, classes: Distances(classes))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                bound = 2.4 / module.weight[0].size
                module.weight = nn.init.uniform(module.weight.shape, -bound, bound)
                module.bias = nn.init.uniform(module.weight.shape[:1], -bound, bound)

    def forward(self, input: Array) -> Array:
        """Return penalties (N, num_classes), lowest for the best class, for images (N, 1, 32, 32).

        `map_criterion` is the loss for them. The paper's pixels are -0.1 for white and 1.175 for black.
        """
        maps = self.c5(self.s4(self.c3(self.s2(self.c1(input)))))
        return self.output(self.f6(flatten(maps)))  # type: ignore[no-any-return]


class ScaledTanh(nn.Module):
    """``1.7159 tanh(2 x / 3)``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of images or vectors."""
        slopes, amplitudes = (np.full(input.shape[1], value, np.float32) for value in (SLOPE, AMPLITUDE))
        return scale_and_shift(tanh(scale_and_shift(input, slopes)), amplitudes)


class Distances(nn.Module):
    """Euclidean radial basis functions: squared distances to one vector of -1 and 1 for each class.

    The vectors are drawn digits, but random for classes beyond the tenth, as the paper suggests for other codes.
    """

    centers: Array

    def __init__(self, num_classes: int) -> None:
        drawn = [
            [pixel for row in digit for pixel in row] for digit in zip(*(row.split() for row in DIGITS), strict=True)
        ]
        signs = nn.init.uniform((num_classes, WIDTHS[-1]), -1, 1) < 0
        signs[: len(drawn)] = np.array(drawn[:num_classes]) == "#"
        self.register_buffer("centers", np.where(signs, 1, -1).astype(np.float32))

    def forward(self, input: Array) -> Array:
        """Return ``sum((x - center)^2)``, expanded, as (N, num_classes) for vectors (N, C)."""
        centers = self.centers
        ones = np.ones_like(centers)
        return add(linear(mul(input, input), ones), linear(input, -2 * centers, (centers**2).sum(1)))


def map_criterion(penalties: Array, targets: NDArray[np.integer[Any]], rubbish: float = 1.0) -> Array:
    """Return the paper's loss (9), maximum a posteriori, for the penalties that `LeNet5Of1998` returns.

    It is the penalty of the right class plus ``log(exp(-rubbish) + sum(exp(-penalties)))``, averaged: the right penalty
    is pulled down, and the others are pushed up unless they are far above that of the rubbish class, which represents
    pictures of no class.

    Parameters
    ----------
    penalties
        float32, (N, classes).
    targets
        Integers, (N,).
    rubbish
        The penalty of the rubbish class; the paper calls it ``j`` and does not give its value.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.models.lenet import map_criterion
    >>> round(float(map_criterion(np.array([[0, 50]], np.float32), np.array([0]), rubbish=50)), 4)
    0.0
    """
    rest = np.full((penalties.shape[0], 1), -rubbish, np.float32)
    return cross_entropy(cat([-penalties, rest], dim=1), targets)


def sub_sampling(channels: int) -> nn.Sequential:
    """Return a layer: the sum over 2x2 pixels, times a coefficient and plus a bias for each map, squashed."""
    return nn.Sequential(
        nn.AvgPool2d(2, divisor_override=1), nn.Conv2d(channels, channels, 1, groups=channels), ScaledTanh()
    )


class Selected(nn.Module):
    """Maps in another order, some of them repeated: a convolution with zeros and ones."""

    def __init__(self, maps: tuple[int, ...], channels: int) -> None:
        self.maps, self.channels = maps, channels

    def forward(self, input: Array) -> Array:
        """Return the maps (N, len(maps), H, W)."""
        weight = np.eye(self.channels, dtype=np.float32)[list(self.maps), :, None, None]
        return conv2d(input, weight)


def partly_connected(channels: int) -> nn.Concat:
    """Return the convolutions of C3; maps with equally many inputs form the groups of one convolution."""
    branches = []
    for _, rows in groupby(CONNECTIONS, len):
        seen = list(rows)
        maps = tuple(chain.from_iterable(seen))
        convolution = nn.Conv2d(len(maps), len(seen), 5, groups=len(seen))
        branches.append(nn.Sequential(Selected(maps, channels), convolution))
    return nn.Concat(*branches)


@register(input_shape=(1, 32, 32))
def lenet5(num_classes: int = 10) -> LeNet5:
    """Build the network as it is taught today."""
    return LeNet5(num_classes)


@register(input_shape=(1, 32, 32))
def lenet5_1998(num_classes: int = 10) -> LeNet5Of1998:
    """Build the network of the paper."""
    return LeNet5Of1998(num_classes)
