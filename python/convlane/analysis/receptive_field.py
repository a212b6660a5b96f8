"""Receptive fields: which pixels of the input a number in a network can depend on.

Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill, 2019. Instead of their
closed formulas, the first and last row and column that each position sees is followed through the network, which also
holds for branches that are aligned differently, windows of unequal size and padding on one side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane._table import sizes, table
from convlane.analysis.layers import anatomy, checked_shape, unknown
from convlane.functional._arguments import Pair, as_window
from convlane.functional._op import ACTIVATIONS, Shape
from convlane.graph.trace import INPUT, Node, Value

Box = tuple[int, int, int, int]
"""First and last row, first and last column."""


@dataclass(frozen=True)
class Field:
    """What the positions of one layer's result see, as pairs (rows, columns), in pixels of the input."""

    name: str
    kind: str
    output_shape: Shape
    size: Pair
    """Of the largest; what padding adds to the picture counts."""
    stride: tuple[int | None, int | None]
    """From one position to the next; None where it is not always the same, or branches disagree."""
    padding: Pair
    """By how much the first position's field begins outside of the picture, above and left."""
    center: tuple[float, float]
    """Of the first position's field."""
    rows: NDArray[np.int64]
    """(positions, 2): the first and the last row of each; one position where the result has no rows."""
    columns: NDArray[np.int64]
    picture: Pair

    def box(self, row: int, column: int) -> Box:
        """Return what the position sees of the picture: its first and last row, its first and last column.

        Raises
        ------
        IndexError
            There is no such position.
        """
        (top, bottom), (left, right) = self.rows[row].tolist(), self.columns[column].tolist()
        height, width = self.picture
        return max(top, 0), min(bottom, height - 1), max(left, 0), min(right, width - 1)


@dataclass(frozen=True)
class ReceptiveFields:
    """The fields of a network's layers, in the order in which they run; the text is a table."""

    fields: tuple[Field, ...]

    def __getitem__(self, name: str) -> Field:
        """Return a layer's field by its name.

        Raises
        ------
        KeyError
            There is no such layer; the message names the nearest.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(unknown("layer", name, [field.name for field in self.fields]))

    def __str__(self) -> str:
        rows = [["name", "kind", "output", "field", "stride", "padding", "centre"]]
        for field in self.fields:
            stride = ["?" if step is None else str(step) for step in field.stride]
            center = [f"{position:g}" for position in field.center]
            pairs = (map(str, field.size), stride, map(str, field.padding), center)
            rows.append([field.name, field.kind, sizes(field.output_shape), *(_pair(list(pair)) for pair in pairs)])
        return "\n".join(table(rows, {"field", "stride", "padding", "centre"}))

    __repr__ = __str__


def receptive_field(model: Callable[[Any], Any], input_shape: Sequence[int] | None = None) -> ReceptiveFields:
    """Tell for each layer which pixels of the input its positions can depend on, without running the network.

    Where branches meet, a field is the smallest box that holds those of all branches. What every position sees of all
    the picture, as a squeeze-and-excitation block lets it, makes the field that large. Channels do not matter.

    Parameters
    ----------
    model
        A network, or any function of one array that is made of operations of `convlane.functional`.
    input_shape
        (N, C, H, W). By default one image of the size that the network is made for, if `convlane.models.create` has
        built it.

    Returns
    -------
    ReceptiveFields
        Print it, or look a layer up by the name that `summary` shows.

    Raises
    ------
    TypeError
        The network uses an operation for which there is no rule; the message names it.
    ValueError
        An operation refuses the shape that reaches it, or the input is not images.

    Examples
    --------
    >>> from convlane import analysis, nn
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, dilation=2))
    >>> fields = analysis.receptive_field(network, (1, 3, 16, 16))
    >>> print(fields)
    name  kind       output     field  stride  padding  centre
    0     Conv2d     1x8x16x16      3       1        1       0
    1     MaxPool2d  1x8x8x8        4       2        1     0.5
    2     Conv2d     1x8x4x4       12       2        1     4.5
    >>> fields["2"].box(0, 1)  # rows 0 to 10 and columns 1 to 12 are in the picture
    (0, 10, 1, 12)
    """
    network = anatomy(model, checked_shape(model, input_shape, "receptive_field"))
    shape = network.nodes[INPUT].shape
    if len(shape) != 4:
        raise ValueError(f"receptive_field: the input must be images (N, C, H, W), got shape {shape}")
    found: dict[Value, Plane] = {}
    for value, node in network.nodes.items():
        found[value] = _plane(node, network.nodes, found)
    picture = shape[2], shape[3]
    return ReceptiveFields(
        tuple(
            _field(layer.name, layer.kind, network.nodes[layer.values[-1]].shape, found[layer.values[-1]], picture)
            for layer in network.layers
        )
    )


@dataclass(frozen=True)
class Axis:
    """What the positions along the rows, or along the columns, see."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    stride: int | None

    def windows(self, kernel: int, stride: int, before: int, dilation: int, count: int) -> Axis:
        """Return what windows over these positions see; those in padding lie as far out as a stride tells."""
        taps = np.arange(count)[:, None] * stride + dilation * np.arange(kernel) - before
        step = None if self.stride is None else self.stride * stride
        return Axis(self._at(self.low, taps).min(1), self._at(self.high, taps).max(1), step)

    def _at(self, seen: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        inside = positions.clip(0, len(seen) - 1)
        moves = self.stride is not None and (len(seen) == 1 or seen[0] != seen[-1])  # not where all see everything
        beyond = (positions - inside) * (self.stride or 0) * moves
        return np.asarray(seen[inside] + beyond, np.int64)

    def whole(self, count: int = 1) -> Axis:
        """Return positions that all see what any of these does."""
        low, high = np.full(count, self.low.min()), np.full(count, self.high.max())
        return Axis(low, high, None if self.stride is None else self.stride * len(self.low))

    def part(self, positions: slice) -> Axis:
        """Return some of these positions."""
        return Axis(self.low[positions], self.high[positions], self.stride)

    def adaptive(self, count: int) -> Axis:
        """Return what the windows of adaptive pooling see."""
        size = len(self.low)
        starts = np.arange(count) * size // count
        ends = -(-(np.arange(1, count + 1) * size) // count)
        step = self.stride * size // count if self.stride is not None and size % count == 0 else None
        return Axis(self.low[starts], self.high[ends - 1], step)


Plane = tuple[Axis, Axis]


def _plane(node: Node, nodes: Mapping[Value, Node], found: Mapping[Value, Plane]) -> Plane:
    """Return what the positions of a node's result see."""
    if node.op == "input":
        return _pixels(node.shape[2]), _pixels(node.shape[3])
    sources = [(nodes[value].shape, found[value]) for value in node.inputs.values()]
    shape, plane = sources[0]
    if node.op in _WINDOWS:
        windows = zip(plane, *_WINDOWS[node.op](shape, node.attributes, nodes, node), node.shape[-2:], strict=True)
        moved = [axis.windows(*window) for axis, *window in windows]
        added = [found[value] for name, value in node.inputs.items() if name == "residual"]
        return _together([(moved[0], moved[1]), *added])
    if node.op.startswith("adaptive"):
        return plane[0].adaptive(node.shape[-2]), plane[1].adaptive(node.shape[-1])
    if node.op in _POINTWISE:
        return _together([each for _, each in sources])
    if node.op in _ACROSS:
        across = _ACROSS[node.op](len(shape), node.attributes) if len(shape) > 2 else ()
        whole = [
            axis.whole(len(axis.low)) if dim in across else axis for dim, axis in zip((-2, -1), plane, strict=True)
        ]
        return whole[0], whole[1]
    if node.op == "narrow":
        dim, first = node.attributes["dim"] % len(shape) - len(shape), node.attributes["start"]
        run = slice(first, first + node.attributes["length"])
        cut = [
            axis.part(run) if each == dim and len(shape) > 2 else axis
            for each, axis in zip((-2, -1), plane, strict=True)
        ]
        return cut[0], cut[1]
    if node.op == "cat":
        dim = node.attributes["dim"] % len(shape) - len(shape)
        if len(shape) > 2 and dim in (-2, -1):
            ends = [_joined([each[i] for _, each in sources]) if dim == i - 2 else plane[i] for i in range(2)]
            return ends[0], ends[1]
        return _together([each for _, each in sources])
    if node.op == "pad":
        left, _, top, _ = node.attributes["pad"]
        height, width = node.shape[-2:]
        return plane[0].windows(1, 1, top, 1, height), plane[1].windows(1, 1, left, 1, width)
    if node.op in _GLOBAL or (node.op in ("mean", "sum") and len(node.shape) < 3):
        return (plane[0].whole(), plane[1].whole()) if len(shape) > 2 else plane
    raise TypeError(f"receptive_field: there is no rule for {node.op}")


def _conv(shape: Shape, given: Mapping[str, Any], nodes: Any, node: Node) -> Any:
    weight = given["weight"].shape if "weight" in given else nodes[node.inputs["weight"]].shape
    kernel, stride, sides, dilation = as_window(
        node.op, (shape[-2], shape[-1]), tuple(weight[2:]), given["stride"], given["padding"], given["dilation"]
    )
    return kernel, stride, (sides[0], sides[2]), dilation


def _pool(shape: Shape, given: Mapping[str, Any], nodes: Any, node: Node) -> Any:
    kernel, stride, sides, dilation = as_window(
        node.op,
        (shape[-2], shape[-1]),
        given["kernel_size"],
        given["stride"],
        given.get("padding", 0),
        given.get("dilation", 1),
    )
    return kernel, stride, (sides[0], sides[2]), dilation


_WINDOWS: dict[str, Callable[[Shape, Mapping[str, Any], Any, Node], Any]] = {
    "conv2d": _conv,
    **dict.fromkeys(("avg_pool2d", "lp_pool2d", "max_pool2d"), _pool),
}
_POINTWISE = ACTIVATIONS | {
    *("abs", "add", "affine", "batch_norm", "channel_norm", "channels_last", "div", "dropout", "exp", "interleave"),
    *("local_response_norm", "log", "mul", "nchw", "scale", "square"),
}
# What mixes all positions along some dimensions, counted from the end.
_ACROSS: dict[str, Callable[[int, Mapping[str, Any]], Collection[int]]] = {
    "layer_norm": lambda ndim, given: range(-len(given["normalized_shape"]), 0),
    **dict.fromkeys(("softmax", "log_softmax"), lambda ndim, given: (given["dim"] % ndim - ndim,)),
}
_GLOBAL = frozenset({"flatten", "global_avg_pool2d", "global_max_pool2d", "linear"})


def _pixels(size: int) -> Axis:
    return Axis(np.arange(size), np.arange(size), 1)


def _together(planes: Sequence[Plane]) -> Plane:
    """Return what positions see that are computed from those at the same place in several results."""

    def both(axes: Sequence[Axis]) -> Axis:
        count = max(len(axis.low) for axis in axes)
        strides = {axis.stride for axis in axes if len(axis.low) == count}  # a single number goes to all positions
        low, high = (
            np.broadcast_arrays(np.zeros(count, np.int64), *each)[1:]
            for each in ([axis.low for axis in axes], [axis.high for axis in axes])
        )
        return Axis(np.min(low, 0), np.max(high, 0), strides.pop() if len(strides) == 1 else None)

    return both([rows for rows, _ in planes]), both([columns for _, columns in planes])


def _joined(axes: Sequence[Axis]) -> Axis:
    return Axis(np.concatenate([axis.low for axis in axes]), np.concatenate([axis.high for axis in axes]), None)


def _field(name: str, kind: str, shape: Shape, plane: Plane, picture: Pair) -> Field:
    rows, columns = (np.stack([axis.low, axis.high], 1) for axis in plane)
    largest = [int((seen[:, 1] - seen[:, 0]).max()) + 1 for seen in (rows, columns)]
    padding = [-int(seen[0, 0]) for seen in (rows, columns)]
    center = [float(seen[0].mean()) for seen in (rows, columns)]
    return Field(
        name,
        kind,
        shape,
        (largest[0], largest[1]),
        (plane[0].stride, plane[1].stride),
        (padding[0], padding[1]),
        (center[0], center[1]),
        rows,
        columns,
        picture,
    )


def _pair(texts: list[str]) -> str:
    return texts[0] if texts[0] == texts[1] else "x".join(texts)
