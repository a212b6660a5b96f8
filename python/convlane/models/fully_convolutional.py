"""Classifiers that slide over larger pictures: fully connected layers become convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from convlane.functional._arguments import Array
from convlane.functional._op import ACTIVATIONS, operations, signature_of
from convlane.graph.trace import Graph, Node, trace
from convlane.models import registry
from convlane.nn import Module

_POINTWISE = ACTIVATIONS | {"add", "batch_norm", "cat", "dropout", "log_softmax", "mul", "softmax"}
"""What may be done to flattened maps: it does the same to each position of larger ones."""

_POOLS = {
    "adaptive_avg_pool2d": "avg_pool2d",
    "adaptive_max_pool2d": "max_pool2d",
    "global_avg_pool2d": "avg_pool2d",
    "global_max_pool2d": "max_pool2d",
}


def to_fully_convolutional(model: Module, input_shape: tuple[int, int, int] | None = None) -> FullyConvolutional:
    """Return a network that gives a map of logits for pictures larger than those that a classifier is made for.

    A fully connected layer that reads a flattened map becomes a convolution whose kernel is as large as the map, those
    behind it become convolutions of 1x1. A pooling to a fixed size becomes one with the windows that it has at the
    classifier's own size. So the features of a large picture are computed once for all positions, instead of anew for
    each crop (Sermanet and others, OverFeat, 2013; Long and others, 2015).

    Parameters
    ----------
    model
        A classifier from images to (N, classes); it stays as it is.
    input_shape
        Channels, height and width of the images that it is made for; may be left out for networks of
        `convlane.models.create`.

    Returns
    -------
    FullyConvolutional
        In eval mode; from images (N, C, H, W) to (N, classes, Y, X), for the classifier's own size (N, classes, 1, 1).
        Neighbouring positions are as many pixels apart as the product of all strides says.

    Raises
    ------
    ValueError
        The size is not known, or does not fit the network.
    TypeError
        The network does something that is not the same at every position: squeeze-and-excitation, say.

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
    Where convolutions pad, a crop sees zeros beyond its edge and the map sees the picture, so that the two differ; from
    the first fully connected layer on they are equal.
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
    """What `to_fully_convolutional` makes: the operations of a network, with its parameters under names with ``_``."""

    def __init__(self, graph: Graph, names: Mapping[int, str]) -> None:
        self._calls: list[_Call] = []
        places: dict[int, int] = {}  # from the graph's values to those of calls; 0 is the input
        maps: dict[int, tuple[int, ...]] = {}  # (C, H, W) of what is flattened in the classifier
        for value, node in graph.nodes.items():
            if node.op == "input":
                places[value] = 0
                continue
            sources = {name: places[source] for name, source in node.inputs.items()}
            flat = [maps[source] for source in node.inputs.values() if source in maps]
            shapes = [graph.nodes[source].shape for source in node.inputs.values()]
            call = _converted(node, sources, shapes[0], flat[0] if flat else None)
            if flat and node.op == "linear":
                maps[value] = (node.shape[1], 1, 1)
            elif node.op == "flatten":
                maps[value] = flat[0] if flat else shapes[0][1:]
            elif flat:
                maps[value] = flat[0] if node.op != "cat" else (node.shape[1], 1, 1)
            if call is None:
                places[value] = next(iter(sources.values()))
                continue
            self._calls.append(_with_parameters(self, call, node, names))
            places[value] = len(self._calls)
        self._output = places[graph.output]
        self.eval()

    def forward(self, input: Any) -> Any:
        """Return maps of logits (N, classes, Y, X)."""
        last = {source: i for i, call in enumerate(self._calls) for source in call.sources.values()}
        values: dict[int, Any] = {0: input}
        for i, call in enumerate(self._calls):
            given: dict[str, Any] = dict(call.attributes)
            given.update((name, vars(self)[parameter]) for name, parameter in call.parameters.items())
            for name, source in call.sources.items():
                if "[" in name:
                    given.setdefault(name.split("[")[0], []).append(values[source])
                else:
                    given[name] = values[source]
            operation = operations()[call.op]
            bound = signature_of(operation).bind_partial()
            bound.arguments.update(given)
            values[i + 1] = operation(*bound.args, **bound.kwargs)
            for source in set(call.sources.values()):
                if last[source] == i and source != self._output:
                    del values[source]
        return values[self._output]


class _Call(NamedTuple):
    """An operation, which other calls' results it takes, its parameters by their names in the module, the rest."""

    op: str
    sources: Mapping[str, int]
    attributes: Mapping[str, Any]
    parameters: Mapping[str, str]


def _converted(
    node: Node, sources: Mapping[str, int], shape: tuple[int, ...], flat: tuple[int, ...] | None
) -> _Call | None:
    """Return what becomes of an operation on maps of this shape, or of one on what was flattened; None for nothing."""
    attributes = dict(node.attributes)
    if node.op == "flatten":
        if flat is None and (len(shape) != 4 or len(node.shape) != 2):
            raise TypeError(f"to_fully_convolutional: flatten from {shape} to {node.shape} keeps no positions")
        return None
    if node.op == "linear":
        if flat is None or "weight" in node.inputs:
            raise TypeError("to_fully_convolutional: linear must have a weight of its own and read flattened maps")
        attributes["weight"] = attributes["weight"].reshape(-1, *flat)
        return _Call("conv2d", sources, attributes, {})
    if flat is not None:
        if node.op not in _POINTWISE or attributes.get("dim", 1) not in (1, -1):
            raise TypeError(f"to_fully_convolutional: {node.op} on flattened maps is not the same at every position")
        if "dim" in attributes:
            attributes["dim"] = 1
    if node.op == "scale" and "scale" in node.inputs:
        raise TypeError("to_fully_convolutional: scale by factors that depend on the whole picture has no positions")
    if node.op in _POOLS:
        kernel = tuple(size // out for size, out in zip(shape[2:], node.shape[2:], strict=True))
        if any(size % out for size, out in zip(shape[2:], node.shape[2:], strict=True)):
            raise TypeError(f"to_fully_convolutional: {node.op} from {shape} to {node.shape} has uneven windows")
        if kernel == (1, 1):
            return None
        stride = tuple(1 if out == 1 else size for size, out in zip(kernel, node.shape[2:], strict=True))
        return _Call(_POOLS[node.op], sources, {"kernel_size": kernel, "stride": stride}, {})
    return _Call(node.op, sources, attributes, {})


def _with_parameters(module: Module, call: _Call, node: Node, names: Mapping[int, str]) -> _Call:
    """Register the parameters of a call with the module."""
    attributes, parameters = dict(call.attributes), {}
    for argument, array in node.attributes.items():
        if id(array) in names and argument in attributes:
            name = names[id(array)].replace(".", "_")
            if name not in module._parameter_names:
                module.register_parameter(name, _own(attributes[argument]))
            del attributes[argument]
            parameters[argument] = name
    return call._replace(attributes=attributes, parameters=parameters)


def _own(array: Array) -> Array:
    return array if array.flags.owndata else np.array(array)
