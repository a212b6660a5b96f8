"""Receptive fields: which pixels of the input an element of a layer's result can depend on.

Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill, 2019. Instead of
using their closed formulas, the first and last row and column that each position sees are propagated through the
network, which also covers branches that are not aligned, windows of unequal size and padding on one side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane._table import sizes, table
from convlane.analysis.layers import anatomy, checked_shape, unknown
from convlane.functional._op import Shape, operations, rules
from convlane.functional._receptive import Axis
from convlane.graph.interpret import arguments
from convlane.graph.trace import INPUT, InputShape, Node, Value

Box = tuple[int, ...]
"""The first and last index along each axis: for images, first and last row, then first and last column."""


@dataclass(frozen=True)
class Field:
    """The receptive fields of one layer's positions, along each axis of the input: for images, rows and columns."""

    name: str
    kind: str
    output_shape: Shape
    size: tuple[int, ...]
    """The size of the largest field, including padding."""
    stride: tuple[int | None, ...]
    """The distance from one position's field to the next; None if it is not constant, or branches differ."""
    padding: tuple[int, ...]
    """How far outside the picture the first position's field begins, at the top and on the left."""
    center: tuple[float, ...]
    """The centre of the first position's field."""
    axes: tuple[NDArray[np.int64], ...]
    """(positions, 2) for each axis: the first and the last index of each position; one position if the result has no
    such axis."""
    picture: tuple[int, ...]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of images, or of volumes, that positions see."""
        return self.axes[-2]

    @property
    def columns(self) -> NDArray[np.int64]:
        """The columns, or the indices of signals, that positions see."""
        return self.axes[-1]

    def box(self, *position: int) -> Box:
        """Return the part of the picture that a position sees: first and last row, first and last column.

        For signals and volumes there are as many pairs as axes.

        Raises
        ------
        IndexError
            If there is no such position.
        TypeError
            If there are more or fewer axes.
        """
        if len(position) != len(self.axes):
            raise TypeError(f"box: a position must have {len(self.axes)} numbers, got {len(position)}")
        bounds: list[int] = []
        for axis, at, size in zip(self.axes, position, self.picture, strict=True):
            first, last = axis[at].tolist()
            bounds += [max(first, 0), min(last, size - 1)]
        return tuple(bounds)


@dataclass(frozen=True)
class ReceptiveFields:
    """The fields of a network's layers, in the order in which they run, printed as a table."""

    fields: tuple[Field, ...]

    def __getitem__(self, name: str) -> Field:
        """Return a layer's field by its name.

        Raises
        ------
        KeyError
            If there is no such layer; the message suggests similar names.
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
            rows.append([field.name, field.kind, sizes(field.output_shape), *(_each(list(pair)) for pair in pairs)])
        return "\n".join(table(rows, {"field", "stride", "padding", "centre"}))

    __repr__ = __str__


def receptive_field(model: Callable[..., Any], input_shape: InputShape | None = None) -> ReceptiveFields:
    """Return for each layer which pixels of the input its positions can depend on, without running the network.

    Where branches meet, a field is the smallest box that contains those of all branches. If every position depends on
    the whole picture, as after squeeze-and-excitation, the field is the whole picture. Channels do not matter.

    Parameters
    ----------
    model
        A network, or any function of arrays that is made of operations of `convlane.functional`.
    input_shape
        The shape of the input, (N, C, H, W), for signals (N, C, L), for volumes (N, C, D, H, W); for several arrays as
        in `summary`, with the pixels in the first one. By default one image of the size that the network is made for,
        if `convlane.models.create` has built it.

    Returns
    -------
    ReceptiveFields
        Print it, or look up a layer by the name that `summary` shows.

    Raises
    ------
    TypeError
        If the network uses an operation for which there is no rule; the message names it.
    ValueError
        If an operation rejects the shape that reaches it, or the input is none of these.

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
    if len(shape) not in (3, 4, 5):
        raise ValueError(
            "receptive_field: the (first) input must be images (N, C, H, W), signals (N, C, L) or volumes "
            f"(N, C, D, H, W), got shape {shape}"
        )
    picture = shape[2:]
    found: dict[Value, Seen] = {INPUT: tuple(_pixels(size, i - len(picture)) for i, size in enumerate(picture))}
    for value, node in network.nodes.items():
        if not found.keys().isdisjoint(node.inputs.values()):  # the other nodes do not depend on the picture
            found[value] = _seen(node, network.nodes, found)
    return ReceptiveFields(
        tuple(
            _field(layer.name, layer.kind, network.nodes[layer.values[-1]].shape, found[layer.values[-1]], picture)
            for layer in network.layers
            if layer.values[-1] in found
        )
    )


Seen = tuple[Axis, ...]
"""The rows and the columns (one item for each axis of the picture) that the positions of a result see."""


def _seen(node: Node, nodes: Mapping[Value, Node], found: Mapping[Value, Seen]) -> Seen:
    """Return what the positions of a node's result see; at least one of its arguments depends on the picture."""
    if node.op == "item":
        return found[node.inputs["input"]]
    operation = operations()[node.op]
    rule = rules(operation).receptive
    if rule is None or isinstance(rule, str):
        raise TypeError(f"receptive_field: there is no rule for {node.op}{f': {rule}' if rule else ''}")
    given = arguments(node, nodes.__getitem__)
    seen = [
        [rule(axis, name, **given) for axis in found[value]] for name, value in node.inputs.items() if value in found
    ]
    return tuple(_together(axes) for axes in zip(*seen, strict=True))


def _pixels(size: int, dim: int) -> Axis:
    return Axis(np.arange(size), np.arange(size), 1, dim)


def _together(axes: Sequence[Axis]) -> Axis:
    """Return what positions see that are computed from the corresponding positions of several results."""
    dims = {axis.dim for axis in axes if axis.dim is not None}
    if len(dims) > 1:  # along different dimensions
        axes = [axis.everywhere() for axis in axes]
    count = max(len(axis.low) for axis in axes)
    strides = {axis.stride for axis in axes if len(axis.low) == count}  # a single element is broadcast to all positions
    low = np.min([np.broadcast_to(axis.low, count) for axis in axes], 0)
    high = np.max([np.broadcast_to(axis.high, count) for axis in axes], 0)
    return Axis(low, high, strides.pop() if len(strides) == 1 else None, dims.pop() if len(dims) == 1 else None)


def _field(name: str, kind: str, shape: Shape, seen: Seen, picture: tuple[int, ...]) -> Field:
    axes = tuple(np.stack([axis.low, axis.high], 1) for axis in seen)
    return Field(
        name,
        kind,
        shape,
        size=tuple(int((bounds[:, 1] - bounds[:, 0]).max()) + 1 for bounds in axes),
        stride=tuple(axis.stride for axis in seen),
        padding=tuple(-int(bounds[0, 0]) for bounds in axes),
        center=tuple(float(bounds[0].mean()) for bounds in axes),
        axes=axes,
        picture=picture,
    )


def _each(texts: list[str]) -> str:
    """Join the texts of the axes; one text if they are all the same."""
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)
