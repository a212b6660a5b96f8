"""The head of a network from a file: the last convolution or matrix product, which makes scores of features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convlane.functional._arguments import Array
from convlane.nn import Conv2d, Linear, Module
from convlane.onnx._package import require_onnx
from convlane.onnx.file import Node
from convlane.onnx.network import Network, reads


@dataclass(frozen=True)
class Head:
    """Which initialisers the number of classes decides."""

    node: Node
    weight: str
    axis: int
    """Along which dimension of the weight the classes lie."""
    bias: str | None
    kernel: tuple[int, ...] | None
    """Of a convolution; None of a matrix product."""


_LEAVE_CLASSES = frozenset(
    {
        *("Softmax", "LogSoftmax", "Sigmoid", "Relu", "Identity", "Cast", "Dropout"),
        *("Flatten", "Squeeze", "GlobalAveragePool", "AveragePool", "ReduceMean"),
    }
)
"""Operators that may stand behind the head, and know nothing of the number of classes."""


def find_head(network: Network, name: str | None, caller: str) -> Head:
    """Return the head of a network: the node of this name, or what stands last before its only output.

    Raises
    ------
    ValueError
        There is none whose number of outputs could be another one.
    """
    graph = network.file.graph
    producers = {output: node for node in graph.nodes for output in node.outputs}
    if name is not None:
        found = [node for node in graph.nodes if node.name == name]
        if not found:
            raise ValueError(f"{caller}: no node has the name {name!r}")
        return _head_at(network, found[0], producers, caller)
    if len(graph.outputs) != 1:
        raise ValueError(f"{caller}: the network has {len(graph.outputs)} outputs; name the node that is the head")
    node = producers.get(graph.outputs[0].name)
    while node is not None and node.op in _LEAVE_CLASSES:
        node = producers.get(node.inputs[0])
    if node is None:
        raise ValueError(f"{caller}: no convolution or matrix product makes the output")
    return _head_at(network, node, producers, caller)


def _head_at(network: Network, node: Node, producers: dict[str, Node], caller: str) -> Head:
    places = network.places
    weights = [name for name in node.inputs if name in places]
    if node.op == "Add" and weights:
        product = producers.get(next(name for name in node.inputs if name != weights[0]))
        if product is not None and product.op == "MatMul" and product.inputs[1] in places:
            return _single(network, Head(product, product.inputs[1], 1, weights[0], None), caller)
    if node.op == "MatMul" and node.inputs[1] in places:
        return _single(network, Head(node, node.inputs[1], 1, None, None), caller)
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else None
    if len(node.inputs) > 1 and weights[:1] == [node.inputs[1]] and (bias is None or bias in places):
        if node.op == "Gemm":
            axis = 0 if node.attributes.get("transB", 0) else 1
            return _single(network, Head(node, node.inputs[1], axis, bias, None), caller)
        kernel = tuple(network.parameter(node.inputs[1]).shape[2:])
        if node.op == "Conv" and node.attributes.get("group", 1) == 1 and len(kernel) == 2:
            return _single(network, Head(node, node.inputs[1], 0, bias, kernel), caller)
    raise ValueError(
        f"{caller}: {node} is no Gemm, MatMul with Add or Conv with weights of the file, so it cannot be made for "
        "another number of classes; name the node that is the head"
    )


def _single(network: Network, head: Head, caller: str) -> Head:
    for name in filter(None, (head.weight, head.bias)):
        if sum(name in reads(node) for node in network.file.graph.nodes) > 1:
            raise ValueError(f"{caller}: {head.node} shares {name!r} with other nodes")
    return head


def replace_head(network: Network, num_classes: int, name: str | None = None) -> None:
    """Draw a new head for another number of classes; it learns, whatever is frozen."""
    head = find_head(network, name, "replace_head")
    old = network.parameter(head.weight)
    if head.kernel is None:
        features, classes = old.shape[1 - head.axis], old.shape[head.axis]
        layer: Module = Linear(features, num_classes, head.bias is not None)
    else:
        features, classes = old.shape[1], old.shape[0]
        layer = Conv2d(features, num_classes, head.kernel, bias=head.bias is not None)
    drawn: dict[str, Array] = {head.weight: layer.weight.T if head.axis == 1 else layer.weight}  # type: ignore[attr-defined]
    if head.bias is not None:
        drawn[head.bias] = layer.bias.reshape(*network.parameter(head.bias).shape[:-1], -1)  # type: ignore[attr-defined]
    _put(network, drawn)
    _tell(network, classes, num_classes)


def _put(network: Network, drawn: dict[str, Array]) -> None:
    """Put arrays into the modules of the old ones, or into one of their own where others stand there too."""
    homes = {id(network.places[name][0]): network.places[name][0] for name in drawn}
    (home, *others) = homes.values()
    alone = not others and home is not network and len(home._parameter_names + home._buffer_names) == len(drawn)
    if not alone:
        path = "head"
        while hasattr(network, path):
            path += "_"
        home = Module()
        setattr(network, path, home)
    for i, (name, array) in enumerate(drawn.items()):
        module, attribute = network.places[name]
        delattr(module, attribute)
        attribute = attribute if alone else ("weight", "bias")[i]
        home.register_parameter(attribute, np.ascontiguousarray(array))
        network.places[name] = (home, attribute)
    home.frozen, home.training = False, network.training


def _tell(network: Network, old: int, new: int) -> None:
    """Write the number of classes into what is told of the outputs, and forget what was told between."""
    graph = network.file.graph
    outputs = tuple(
        replace(info, shape=info.shape and tuple(new if dim == old else dim for dim in info.shape))
        for info in graph.outputs
    )
    model: Any = require_onnx().ModelProto()
    model.ParseFromString(network.file.skeleton)
    del model.graph.value_info[:]
    for info in model.graph.output:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value == old:
                dim.dim_value = new
    network.file = replace(network.file, graph=replace(graph, outputs=outputs), skeleton=model.SerializeToString())
