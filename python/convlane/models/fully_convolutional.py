"""Classifiers applied to larger pictures: fully connected layers become convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from convlane.functional._arguments import Array
from convlane.functional._op import Shape, operations, rules
from convlane.functional._receptive import pointwise
from convlane.graph.interpret import interpret
from convlane.graph.trace import Graph, Node, Value, trace
from convlane.models import registry
from convlane.nn import Module

_POOLS = {
    "adaptive_avg_pool2d": "avg_pool2d",
    "adaptive_max_pool2d": "max_pool2d",
    "global_avg_pool2d": "avg_pool2d",
    "global_max_pool2d": "max_pool2d",
}


def to_fully_convolutional(model: Module, input_shape: tuple[int, int, int] | None = None) -> FullyConvolutional:
    """Turn a classifier into a network that returns a map of logits for pictures larger than the classifier's own size.

    A fully connected layer that reads a flattened map becomes a convolution whose kernel is as large as the map; those
    after it become 1x1 convolutions. Pooling to a fixed size becomes pooling with the windows that it has at the
    classifier's own size. The features of a large picture are thus computed once for all positions, instead of
    separately for each crop (Sermanet et al., OverFeat, 2013; Long et al., 2015).

    Parameters
    ----------
    model
        A classifier from images to (N, classes); it is not changed.
    input_shape
        Channels, height and width of the images that it is made for; may be left out for networks from
        `convlane.models.create`.

    Returns
    -------
    FullyConvolutional
        A network in eval mode, from images (N, C, H, W) to (N, classes, Y, X), which is (N, classes, 1, 1) for the
        classifier's own size. The distance between neighbouring positions, in pixels, is the product of all strides.

    Raises
    ------
    ValueError
        If the size is not known, or does not fit the network.
    TypeError
        If the network has an operation that is not the same at every position, such as squeeze-and-excitation.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import models
    >>> classifier = models.create("lenet5")
    >>> sliding = models.to_fully_convolutional(classifier)
    >>> picture = np.random.default_rng(0).random((1, 1, 40, 48)).astype(np.float32)
    >>> maps = sliding(picture)
    >>> maps.shape
    (1, 10, 3, 5)
    >>> bool(np.allclose(maps[0, :, 2, 1], classifier(picture[:, :, 8:40, 4:36]), atol=1e-5))
    True

    Notes
    -----
    Where convolutions pad, a crop sees zeros beyond its edge, but the map sees the rest of the picture, so the two
    differ; from the first fully connected layer on, the computation is the same.
    """
    if input_shape is None:
        architecture = registry.architecture(model)
        if architecture is None:
            raise ValueError(
                "to_fully_convolutional: convlane.models.create has not made this network, so the size of its images "
                "is not known; pass input_shape=(C, H, W)"
            )
        input_shape = registry.input_shape(architecture.name)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        graph = trace(model, (1, *input_shape))
    finally:
        for module, training in modes.items():
            module.training = training
    return FullyConvolutional(graph, {id(array): name for name, array in model.named_parameters()})


class FullyConvolutional(Module):
    """The result of `to_fully_convolutional`: a network's operations, and its parameters, with ``_`` for dots."""

    def __init__(self, graph: Graph, names: Mapping[int, str]) -> None:
        self._nodes: dict[Value, Node] = {}
        self._owned: dict[Value, Mapping[str, str]] = {}  # arguments that are parameters, with the parameters' names
        self._output = graph.output
        same: dict[Value, Value] = {}  # results that are replaced by those of other nodes
        maps: dict[Value, Shape] = {}  # (C, H, W) of maps that the classifier flattens
        for value, node in graph.nodes.items():
            flat = next((maps[source] for source in node.inputs.values() if source in maps), None)
            shapes = {name: graph.nodes[source].shape for name, source in node.inputs.items()}
            if flat is not None and any(graph.nodes[source].op == "constant" for source in node.inputs.values()):
                raise TypeError(f"to_fully_convolutional: {node.op} of flattened maps and a constant has no positions")
            sliding = _converted(node, shapes, flat)
            if node.op == "flatten":
                maps[value] = flat or shapes["input"][1:]
            elif flat:
                maps[value] = (node.shape[1], 1, 1) if node.op in ("cat", "linear") else flat
            if sliding is None:
                source = node.inputs["input"]
                same[value] = same.get(source, source)
                continue
            inputs = {name: same.get(source, source) for name, source in node.inputs.items()}
            self._owned[value] = self._register_parameters(sliding, node, names)
            self._nodes[value] = replace(sliding, inputs=inputs)
        self._output = same.get(graph.output, graph.output)
        self.eval()

    def forward(self, input: Any) -> Any:
        """Return maps of logits (N, classes, Y, X)."""
        nodes = {
            value: replace(
                node,
                attributes={**node.attributes, **{name: vars(self)[own] for name, own in self._owned[value].items()}},
            )
            for value, node in self._nodes.items()
        }
        ((_, result),) = interpret(nodes, [self._output], input)
        return result

    def _register_parameters(self, sliding: Node, node: Node, names: Mapping[int, str]) -> dict[str, str]:
        """Register those of an operation's arguments that are the classifier's parameters; return their names."""
        owned = {}
        for argument, array in node.attributes.items():
            if id(array) in names and argument in sliding.attributes:
                name = owned[argument] = names[id(array)].replace(".", "_")
                if name not in self._parameter_names:
                    self.register_parameter(name, _own(sliding.attributes[argument]))
        return owned


def _converted(node: Node, shapes: Mapping[str, Shape], flat: Shape | None) -> Node | None:
    """Return the replacement for an operation on maps of these shapes or on flattened maps; None removes it."""
    attributes = dict(node.attributes)
    shape = next(iter(shapes.values()), ())
    if node.op == "flatten":
        if flat is None and (len(shape) != 4 or len(node.shape) != 2):
            raise TypeError(f"to_fully_convolutional: flatten from {shape} to {node.shape} does not keep positions")
        return None
    if node.op == "linear":
        if flat is None or "weight" in node.inputs:
            raise TypeError("to_fully_convolutional: linear must have a weight of its own and read flattened maps")
        weight = attributes["weight"].reshape(-1, *flat)
        options = {name: attributes[name] for name in ("bias", "activation", "negative_slope")}
        return replace(node, op="conv2d", attributes={"weight": weight, **options})
    if flat is not None:
        if not _is_same_everywhere(node):
            raise TypeError(f"to_fully_convolutional: {node.op} on flattened maps is not the same at every position")
        return replace(node, attributes={**attributes, "dim": 1}) if "dim" in attributes else node
    if node.op == "scale" and "scale" in node.inputs:
        raise TypeError("to_fully_convolutional: scale by factors that depend on the whole picture has no positions")
    if node.op in _POOLS:
        kernel = tuple(size // out for size, out in zip(shape[2:], node.shape[2:], strict=True))
        if any(size % out for size, out in zip(shape[2:], node.shape[2:], strict=True)):
            raise TypeError(f"to_fully_convolutional: {node.op} from {shape} to {node.shape} has uneven windows")
        if kernel == (1, 1):
            return None
        stride = tuple(1 if out == 1 else size for size, out in zip(kernel, node.shape[2:], strict=True))
        return replace(node, op=_POOLS[node.op], attributes={"kernel_size": kernel, "stride": stride})
    return node


def _is_same_everywhere(node: Node) -> bool:
    """Return whether an operation on flattened maps (N, C) does the same at each position of larger ones."""
    along_channels = node.attributes.get("dim") in (1, -1) and len(node.shape) == 2
    return along_channels or rules(operations()[node.op]).receptive is pointwise


def _own(array: Array) -> Array:
    return array if array.flags.owndata else np.array(array)
