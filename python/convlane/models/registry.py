"""Networks by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

from convlane.functional._arguments import as_positive
from convlane.nn import Module, init
from convlane.safetensors_file import Path
from convlane.weights.files import load_weights

B = TypeVar("B", bound="Callable[..., Module]")

_ARCHITECTURE = "_architecture"  # the attribute of a network
_BUILDERS: dict[str, Callable[..., Module]] = {}


def register(builder: B) -> B:
    """Make a function ``builder(num_classes=1000, **config)`` a network under its own name."""
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"a model named {name!r} is registered already")
    _BUILDERS[name] = builder
    return builder


def create(name: str, num_classes: int = 1000, weights: Path | None = None, **config: Any) -> Module:
    """Build a network, ready to run: in eval mode. Train it after ``.train()``.

    Parameters
    ----------
    name
        One of `convlane.models.list`.
    num_classes
        Number of outputs.
    weights
        A file that `convlane.load_weights` reads; None for random weights.
    config
        What the family offers beyond, for example ``dropout``; see its file.

    Raises
    ------
    OSError
        The file cannot be opened or read.
    TypeError
        `num_classes` is not an integer, or the family does not know an argument of `config`.
    ValueError
        There is no such network, `num_classes` is less than 1, or the file is damaged or does not fit the network.

    Examples
    --------
    >>> from convlane import models
    >>> models.create("mobilenet_v2").num_parameters()
    3504872
    """
    if weights is None:
        return build(name, num_classes, config)
    with init.skip():
        model = build(name, num_classes, config)
    arrays = load_weights(weights)
    try:
        model.load_state_dict(arrays)
    except ValueError as error:
        raise ValueError(f"{os.fspath(weights)}: {error}") from error
    return model


class Architecture(NamedTuple):
    """What `create` was called with, but for weights."""

    name: str
    num_classes: int
    config: dict[str, Any]


def build(name: str, num_classes: int, config: Mapping[str, Any]) -> Module:
    """Build a network as `create` does, from arguments that may come from a file, so none of them names another."""
    if name not in _BUILDERS:
        near = get_close_matches(str(name), _BUILDERS) or sorted(_BUILDERS)
        raise ValueError(f"create: there is no model {name!r}; did you mean {' or '.join(near)}?")
    num_classes = as_positive(num_classes, "create", "num_classes")
    model = _BUILDERS[name](num_classes, **config).eval()
    vars(model)[_ARCHITECTURE] = Architecture(name, num_classes, dict(config))
    return model


def architecture(model: Module) -> Architecture | None:
    """Return what `create` was called with to make this network, None for any other."""
    return vars(model).get(_ARCHITECTURE)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all networks that match a shell pattern, sorted."""
    return sorted(name for name in _BUILDERS if fnmatchcase(name, pattern))
