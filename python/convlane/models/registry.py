"""The registry of networks by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar, overload

from convlane.functional._arguments import as_int
from convlane.models.features import feature_pyramid
from convlane.models.keras import KerasVariant
from convlane.models.preparation import Preparation, Preparations
from convlane.nn import Module, init
from convlane.safetensors_file import Path
from convlane.weights.files import is_hdf5, load_weights

B = TypeVar("B", bound="Callable[..., Module]")

_ARCHITECTURE = "_architecture"  # the attribute that networks store it in


class _Entry(NamedTuple):
    """What is known about a network before it is built."""

    builder: Callable[..., Module]
    input_shape: tuple[int, int, int]
    preprocessing: Preparations
    keras: KerasVariant | None


_NETWORKS: dict[str, _Entry] = {}


@overload
def register(builder: B) -> B: ...
@overload
def register(
    *, input_shape: tuple[int, int, int] = ..., preprocessing: Preparations = ..., keras: KerasVariant | None = ...
) -> Callable[[B], B]: ...
def register(
    builder: B | None = None,
    *,
    input_shape: tuple[int, int, int] = (3, 224, 224),
    preprocessing: Preparations | None = None,
    keras: KerasVariant | None = None,
) -> Any:
    """Register a function ``builder(num_classes=1000, **config)`` as a network under the function's name.

    The function builds the last layer with `blocks.head`, so that `num_classes` may be 0.

    Parameters
    ----------
    builder
        The function; without it, `register` returns a decorator.
    input_shape
        Channels, height and width of the images that the network is designed for.
    preprocessing
        How pictures are prepared for published weights, by the source of the weights (``"torchvision"``,
        ``"torchvision_v2"``, ``"keras"`` or another name): what differs from the defaults of
        `convlane.data.Preprocessing`.
    keras
        The changes that make the network compute what that of Keras computes with the same weights; None if Keras does
        not have this network.

    Raises
    ------
    ValueError
        If there is a network of this name already.
    """

    def add(builder: B) -> B:
        name = builder.__name__
        if name in _NETWORKS:
            raise ValueError(f"a model named {name!r} is already registered")
        _NETWORKS[name] = _Entry(builder, input_shape, preprocessing or {}, keras)
        return builder

    return add if builder is None else add(builder)


def create(
    name: str,
    num_classes: int | None = None,
    weights: Path | None = None,
    *,
    features_only: bool = False,
    keras: bool | None = None,
    **config: Any,
) -> Module:
    """Build a network in eval mode, ready to run; call ``.train()`` before training it.

    Parameters
    ----------
    name
        One of `convlane.models.list`.
    num_classes
        The number of outputs; the network's own by default, 1000 for networks for ImageNet and 10 for those for small
        pictures. 0 drops the head: the network then returns the features before its last classifier, (N, C).
    weights
        A file that `convlane.load_weights` reads; None for random weights.
    features_only
        Whether to build a network that returns its feature maps: a tuple of arrays, the last of each size, from the
        largest to the smallest. Its attributes `channels` and `reductions` describe the maps. The head is dropped,
        whatever `num_classes` is; a weights file may contain it.
    keras
        Whether to compute what Keras's network of this name computes with the same weights, see the Notes of
        `convlane.load_weights`. By default, this depends on whether `weights` is a Keras file.
    config
        Further arguments of the network, for example ``dropout``; see the file of its family.

    Raises
    ------
    OSError
        If the file cannot be opened or read.
    TypeError
        If `num_classes` is not an integer, or the family does not know an argument of `config`.
    ValueError
        If there is no such network, `num_classes` is negative, `features_only` is given for a network whose layers do
        not run in sequence or `keras` for one that Keras does not have, or the file is damaged or does not fit the
        network.

    Examples
    --------
    >>> from convlane import models
    >>> models.create("mobilenet_v2").num_parameters()
    3504872
    >>> models.create("resnet18", features_only=True).channels
    (64, 64, 128, 256, 512)
    """
    _check_name(name, "create")
    if keras is None:
        keras = weights is not None and is_hdf5(weights)
    config |= {option: True for option, given in (("features_only", features_only), ("keras", keras)) if given}
    if weights is None:
        return build(name, num_classes, config)
    with init.skip():
        model = build(name, num_classes, config)
    arrays = load_weights(weights)
    try:
        if features_only:  # the head of the file is not needed
            own = model.state_dict().keys()
            arrays = {key: array for key, array in arrays.items() if key in own}
        model.load_state_dict(arrays)
    except ValueError as error:
        raise ValueError(f"{os.fspath(weights)}: {error}") from error
    return model


class Architecture(NamedTuple):
    """The arguments of `create` without weights, and with the default number of classes filled in."""

    name: str
    num_classes: int
    config: dict[str, Any]


def build(name: str, num_classes: int | None, config: Mapping[str, Any]) -> Module:
    """Build a network as `create` does, from arguments that may come from a file, so none of them names a file."""
    _check_name(name, "create")
    if num_classes is None:
        num_classes = inspect.signature(_NETWORKS[name].builder).parameters["num_classes"].default
    num_classes = as_int(num_classes, "create", "num_classes")
    if num_classes < 0:
        raise ValueError(f"create: num_classes must not be negative, got {num_classes}")
    model = _assembled(name, num_classes, dict(config)).eval()
    vars(model)[_ARCHITECTURE] = Architecture(name, num_classes, dict(config))
    return model


def _assembled(name: str, num_classes: int, config: dict[str, Any]) -> Module:
    """Build a network and apply the arguments that all families share."""
    features_only, keras = (config.pop(option, False) for option in ("features_only", "keras"))
    entry, variant = _NETWORKS[name], _keras_variant(name) if keras else KerasVariant()
    model = entry.builder(0 if features_only else num_classes, **{**variant.config, **config})
    for change in variant.changes:
        model.apply(change)
    return feature_pyramid(model, name, entry.input_shape) if features_only else model


def _keras_variant(name: str) -> KerasVariant:
    variant = _NETWORKS[name].keras
    if variant is None:
        having = ", ".join(other for other, entry in _NETWORKS.items() if entry.keras is not None)
        raise ValueError(f"create: {name} has no variant for Keras, only these have one: {having}")
    return variant


def architecture(model: Module) -> Architecture | None:
    """Return the arguments of `create` that made this network, or None for any other network."""
    return vars(model).get(_ARCHITECTURE)


def set_num_classes(model: Module, num_classes: int) -> None:
    """Record that a network made by `create` now has a head for another number of classes."""
    vars(model)[_ARCHITECTURE] = vars(model)[_ARCHITECTURE]._replace(num_classes=num_classes)


def input_shape(name: str) -> tuple[int, int, int]:
    """Return the channels, height and width of the images that a network was designed for.

    Raises
    ------
    ValueError
        If there is no such network.

    Examples
    --------
    >>> from convlane import models
    >>> models.input_shape("resnet50")
    (3, 224, 224)
    """
    _check_name(name, "input_shape")
    return _NETWORKS[name].input_shape


def preparations() -> dict[str, dict[str, Preparation]]:
    """Return how pictures are prepared: by the source of the weights, then by the network's name."""
    table: dict[str, dict[str, Preparation]] = {}
    for name, entry in _NETWORKS.items():
        for source, preparation in entry.preprocessing.items():
            table.setdefault(source, {})[name] = preparation
    return table


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all networks that match a shell pattern, sorted."""
    return sorted(name for name in _NETWORKS if fnmatchcase(name, pattern))


def _check_name(name: str, caller: str) -> None:
    if name not in _NETWORKS:
        near = get_close_matches(str(name), _NETWORKS) or sorted(_NETWORKS)
        raise ValueError(f"{caller}: there is no model {name!r}; did you mean {' or '.join(near)}?")
