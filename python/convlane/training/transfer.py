"""Transfer learning: freezing layers by name, replacing heads, precomputing the features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from convlane.functional._arguments import Array, as_positive
from convlane.models import registry
from convlane.nn import Conv2d, Identity, Linear, Module, init
from convlane.onnx import head as head_of_file
from convlane.onnx.network import Network
from convlane.training.batches import Data, batches, check_data

__all__ = ["freeze", "freeze_all_but", "head_names", "precompute_features", "replace_head", "split_head"]

_BATCH = 64  # the number of images run together if the data is two arrays

M = TypeVar("M", bound=Module)


def freeze(model: M, *names: str, frozen: bool = True) -> M:
    """Freeze the layers of these names and everything below them; return the network.

    Parameters
    ----------
    model
        The network.
    names
        Names of modules (``"features"``, ``"layer1.0"``), or patterns with ``*`` and ``?`` (``"*.bn?"``).
    frozen
        False makes them trainable again.

    Raises
    ------
    ValueError
        If no module has one of the names. Nothing has been changed then.

    Examples
    --------
    >>> from convlane import models
    >>> from convlane.training import freeze
    >>> network = freeze(models.create("lenet5"), "features", "classifier.0")
    >>> [name for name, _ in network.named_parameters(trainable=True)]
    ['classifier.2.weight', 'classifier.2.bias', 'classifier.4.weight', 'classifier.4.bias']
    """
    for module in _named(model, names, "freeze"):
        _set_frozen(module, frozen, model.training)
    return model


def freeze_all_but(model: M, *names: str) -> M:
    """Freeze everything but the layers of these names, which stay trainable; return the network.

    Parameters
    ----------
    model
        The network.
    names
        As for `freeze`. By default, the head stays trainable; dropout before it is frozen with everything else, so it
        drops nothing.

    Raises
    ------
    ValueError
        If no module has one of the names, or the network's head is not known. Nothing has been changed then.

    Examples
    --------
    >>> from convlane import models
    >>> from convlane.training import freeze_all_but
    >>> network = freeze_all_but(models.create("resnet18"))
    >>> [name for name, _ in network.named_parameters(trainable=True)]
    ['fc.weight', 'fc.bias']
    """
    training = model.training
    learning = _named(model, names or tuple(head_names(model)), "freeze_all_but")
    model.freeze()
    for module in learning:
        _set_frozen(module, False, training)
    return model


def head_names(model: Module) -> list[str]:
    """Return the names of the layers that depend on the number of classes: the head, and those of side branches.

    Raises
    ------
    ValueError
        If `convlane.models.create` has not made the network, or its layers have changed since.

    Examples
    --------
    >>> from convlane import models
    >>> from convlane.training.transfer import head_names
    >>> head_names(models.create("googlenet"))
    ['aux1.fc2', 'aux2.fc2', 'fc']
    """
    return list(_heads(model, 2, "head_names"))


def replace_head(model: M, num_classes: int, head: str | None = None) -> M:
    """Give a network a new head with random weights, for other classes; return the network.

    Parameters
    ----------
    model
        The network. Frozen layers stay frozen; the new head is trainable.
    num_classes
        The number of classes.
    head
        The name of the layer to replace, a `Linear` or `Conv2d`. It may be left out for networks that
        `convlane.models.create` has made, even those without a head (``num_classes=0``); side branches then also
        get new heads. In networks from `convlane.load_onnx`, it is the name of a node (Gemm, MatMul before Add, Conv),
        and may be left out if that is the last node before the only output.

    Raises
    ------
    ValueError
        If there is no such layer, or it is not known which one is the head. Nothing has been changed then.
    TypeError
        If the head is of another kind.

    Examples
    --------
    >>> from convlane import models
    >>> from convlane.training import replace_head
    >>> replace_head(models.create("mobilenet_v2"), 5).classifier
    Sequential(
      (0): Dropout(p=0.2)
      (1): Linear(in_features=1280, out_features=5, bias=True)
    )
    """
    num_classes = as_positive(num_classes, "replace_head", "num_classes")
    if isinstance(model, Network):
        head_of_file.replace_head(model, num_classes, head)
        return model
    old = _heads(model, num_classes, "replace_head") if head is None else {head: _module(model, head, "replace_head")}
    new = {name: _reinitialised(layer, name, num_classes) for name, layer in old.items()}
    for name, layer in new.items():
        _replace(model, name, layer.train(model.training))
    if head is None:
        registry.set_num_classes(model, num_classes)
    return model


def split_head(model: Module, head: str | None = None) -> tuple[Module, Module]:
    """Return a network without its head, and the head, for training the head on precomputed features.

    Parameters
    ----------
    model
        The network.
    head
        The name of the head; may be left out as for `replace_head`.

    Returns
    -------
    trunk : Module
        A copy of the network, frozen and in eval mode, with an identity instead of the head. It shares its parameters
        with the network as long as these are not changed.
    head : Module
        The network's own head, so that training it trains the network.

    Raises
    ------
    ValueError
        If there is no such layer, or it is not known which one is the head.
    TypeError
        If the network comes from `convlane.load_onnx`, which runs the nodes of its file.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import models
    >>> from convlane.training.transfer import split_head
    >>> network = models.create("lenet5")
    >>> trunk, head = split_head(network)
    >>> images = np.ones((2, 1, 32, 32), np.float32)
    >>> bool((head(trunk(images)) == network(images)).all())
    True
    """
    if isinstance(model, Network):
        raise TypeError("split_head: a network from load_onnx runs the nodes of its file, so none can be left out")
    name = head_names(model)[-1] if head is None else head
    layer = _module(model, name, "split_head")
    trunk = deepcopy(model, {id(array): array for array in model.parameters()})  # parameters are never written to
    _replace(trunk, name, Identity())
    return trunk.eval().freeze(), layer


def precompute_features(trunk: Callable[[Array], Any], data: Data, *, epochs: int = 1) -> tuple[Array, NDArray[Any]]:
    """Run a frozen backbone once over all data; train the layers that follow it on the features.

    Parameters
    ----------
    trunk
        A function from images (N, C, H, W) to features, (N, C) or (N, C, H, W): a network in eval mode, for example one
        made with ``num_classes=0`` or by `split_head`, or a compiled plan of such a network.
    data
        As for `convlane.training.fit`.
    epochs
        The number of passes over the data, each with different augmentations.

    Returns
    -------
    features : numpy.ndarray
        float32, in the order of the data.
    targets : numpy.ndarray
        In the same order. `convlane.data.Loader` takes both.

    Raises
    ------
    ValueError
        If the network is in training mode, in which features depend on their batch, or there is no data.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import models
    >>> from convlane.data import Loader
    >>> from convlane.training import precompute_features
    >>> data = Loader((np.zeros((6, 1, 32, 32), np.float32), np.arange(6)), batch_size=4)
    >>> features, classes = precompute_features(models.create("lenet5", num_classes=0), data)
    >>> features.shape
    (6, 84)
    """
    if isinstance(trunk, Module) and any(module.training for module in trunk.modules()):
        raise ValueError("precompute_features: trunk is in training mode; call its eval() first")
    epochs = as_positive(epochs, "precompute_features", "epochs")
    features, targets = [], []
    check_data(data, _BATCH, "precompute_features")
    for _ in range(epochs):
        for ((images, classes),) in batches(data, _BATCH, "precompute_features"):
            features.append(np.ascontiguousarray(trunk(images)))
            targets.append(np.asarray(classes))
    if not features:
        raise ValueError("precompute_features: there is no data")
    return np.concatenate(features), np.concatenate(targets)


def _set_frozen(module: Module, frozen: bool, training: bool) -> None:
    module.freeze(frozen)
    if not frozen:
        module.train(training)


def _named(model: Module, names: tuple[str, ...], caller: str) -> list[Module]:
    """Return the modules that match one of the names or patterns."""
    paths = {path: module for path, module in model._walk("") if path}
    found: dict[str, Module] = {}
    for name in names:
        fitting = {path: module for path, module in paths.items() if fnmatchcase(path, name)}
        if not fitting:
            raise ValueError(f"{caller}: {_unknown(name, paths)}")
        found.update(fitting)
    return list(found.values())


def _module(model: Module, name: str, caller: str) -> Module:
    paths = {path: module for path, module in model._walk("") if path}
    if name not in paths:
        raise ValueError(f"{caller}: {_unknown(name, paths)}")
    return paths[name]


def _unknown(name: str, paths: Iterable[str]) -> str:
    top = sorted({path.split(".")[0] for path in paths})
    return f"no module has the name {name!r}; the modules are {', '.join(top)} and those below them"


def _replace(model: Module, name: str, module: Module) -> None:
    """Replace the module of this name."""
    *above, last = name.split(".")
    parent = _module(model, ".".join(above), "replace_head") if above else model
    setattr(parent, last, module)


def _heads(model: Module, num_classes: int, caller: str) -> dict[str, Module]:
    """Return the layers whose parameters depend on the number of classes, as built for this number."""
    if isinstance(model, Network):
        return {path: module for path, module in model.named_modules() if module in _modules_of_head(model, caller)}
    architecture = registry.architecture(model)
    if architecture is None:
        raise ValueError(
            f"{caller}: convlane.models.create has not made this {type(model).__name__}, so it is not known which "
            "layer is its head; name the head"
        )
    name, _, config = architecture
    with init.skip():
        network, other = (registry.build(name, count, config) for count in (num_classes, num_classes + 1))
    sizes = {path: [vars(module)[array].shape for array in _arrays(module)] for path, module in other.named_modules()}
    heads = {
        path: module
        for path, module in network.named_modules()
        if [vars(module)[array].shape for array in _arrays(module)] != sizes[path]
    }
    own = {path for path, _ in model._walk("")}
    heads = {path: module for path, module in heads.items() if path in own}
    if not heads:
        raise ValueError(f"{caller}: this {name} no longer has its head where `create` made it; name the head")
    return heads


def _modules_of_head(network: Network, caller: str) -> list[Module]:
    head = head_of_file.find_head(network, None, caller)
    modules = [network.places[name][0] for name in (head.weight, head.bias) if name is not None]
    if any(module is network for module in modules):
        raise ValueError(f"{caller}: the weights of {head.node} are stored among others; call replace_head first")
    return modules


def _arrays(module: Module) -> list[str]:
    return [name for name in module._parameter_names + module._buffer_names if vars(module)[name] is not None]


def _reinitialised(layer: Module, name: str, num_classes: int) -> Module:
    """Return a layer like this one with new random weights."""
    if isinstance(layer, Linear):
        return Linear(layer.in_features, num_classes, layer.bias is not None)
    if isinstance(layer, Conv2d):
        return Conv2d(
            layer.in_channels,
            num_classes,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
        )
    raise TypeError(
        f"replace_head: {name} is a {type(layer).__name__}, and only Linear and Conv2d can be made for another number "
        "of classes; assign a layer of your own"
    )
