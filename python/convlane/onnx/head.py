"""The head of a network from a file: the last convolution or matrix product, which turns features into scores."""

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
    """The initialisers whose shape depends on the number of classes."""

    node: Node
    weight: str
    axis: int
    """The dimension of the weight that is the classes."""
    bias: str | None
    kernel: tuple[int, ...] | None
    """For a convolution; None for a matrix product."""


_LEAVE_CLASSES = frozenset(
    {
        *("Softmax", "LogSoftmax", "Sigmoid", "Relu", "Identity", "Cast", "Dropout"),
        *("Flatten", "Squeeze", "GlobalAveragePool", "AveragePool", "ReduceMean"),
    }
)
"""Operators that may follow the head and do not depend on the number of classes."""


def find_head(network: Network, name: str | None, caller: str) -> Head:
    """Return the head of a network: the node of this name, or the last one before its only output.

    Raises
    ------
    ValueError
        There is none whose number of outputs could be changed.
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
        f"{caller}: {node} is not a Gemm, MatMul with Add or Conv with weights in the file, so it cannot be made for "
        "another number of classes; name the node that is the head"
    )


def _single(network: Network, head: Head, caller: str) -> Head:
    for name in filter(None, (head.weight, head.bias)):
        if sum(name in reads(node) for node in network.file.graph.nodes) > 1:
            raise ValueError(f"{caller}: {head.node} shares {name!r} with other nodes")
    return head


def replace_head(network: Network, num_classes: int, name: str | None = None) -> None:
    """Draw a new head for another number of classes; it is trainable, whatever is frozen."""
    head = find_head(network, name, "replace_head")
    old = network.parameter(head.weight)
    if head.kernel is None:
        layer: Module = Linear(old.shape[1 - head.axis], num_classes, head.bias is not None)
    else:
        layer = Conv2d(old.shape[1], num_classes, head.kernel, bias=head.bias is not None)
    drawn: dict[str, Array] = {head.weight: layer.weight.T if head.axis == 1 else layer.weight}  # type: ignore[attr-defined]
    if head.bias is not None:
        drawn[head.bias] = layer.bias.reshape(*network.parameter(head.bias).shape[:-1], -1)  # type: ignore[attr-defined]
    _put(network, drawn)
    _tell(network, head)


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


_MOST_TOLD = 1 << 10  # numbers in a constant that may be a shape


def _tell(network: Network, head: Head) -> None:
    """Change the sizes of the outputs that depend on the head, and drop the shapes of what lies between.

    ONNX infers the shapes twice, with the old head and with the new one; where they differ, the size depends on the
    head. A size that cannot be inferred is left open.
    """
    onnx = require_onnx()
    model: Any = onnx.ModelProto()
    model.ParseFromString(network.file.skeleton)
    del model.graph.value_info[:]
    before = _inferred(network, model)
    for name in filter(None, (head.weight, head.bias)):
        shape = network.parameter(name).shape
        for tensor in model.graph.initializer:
            if tensor.name == name:
                tensor.dims[:] = shape
        for info in model.graph.input:  # files of old versions tell of initialisers there, too
            if info.name == name:
                for dim, size in zip(info.type.tensor_type.shape.dim, shape, strict=False):
                    dim.dim_value = size
    after = _inferred(network, model)
    outputs = []
    for declared, info in zip(network.file.graph.outputs, model.graph.output, strict=True):
        sizes = list(declared.shape or ())
        for i, size in enumerate(sizes):
            was, now = (shapes[declared.name][i] if shapes.get(declared.name) else None for shapes in (before, after))
            if not isinstance(size, int) or (was == now and was is not None):
                continue
            sizes[i] = now
            dim = info.type.tensor_type.shape.dim[i]
            dim.Clear() if now is None else setattr(dim, "dim_value", now)
        outputs.append(replace(declared, shape=declared.shape and tuple(sizes)))
    graph = replace(network.file.graph, outputs=tuple(outputs))
    network.file = replace(network.file, graph=graph, skeleton=model.SerializeToString())


def _inferred(network: Network, skeleton: Any) -> dict[str, tuple[int | str | None, ...]]:
    """Return the shapes of the outputs that ONNX infers for a file without the data of its weights."""
    onnx = require_onnx()
    model: Any = onnx.ModelProto()
    model.CopyFrom(skeleton)
    ranks = {}
    for info in model.graph.output:
        ranks[info.name] = len(info.type.tensor_type.shape.dim)
        info.type.tensor_type.ClearField("shape")
    for tensor in model.graph.initializer:  # shapes and axes matter
        known = network._constants.get(tensor.name)
        if known is not None and known.dtype.kind == "i" and known.size <= _MOST_TOLD:
            tensor.CopyFrom(onnx.numpy_helper.from_array(known, tensor.name))
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {}
    for info in inferred.graph.output:
        dims = info.type.tensor_type.shape.dim
        if len(dims) == ranks[info.name]:
            shapes[info.name] = tuple(getattr(dim, dim.WhichOneof("value") or "", None) for dim in dims)
    return shapes
