"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from convlane.functional._arguments import as_positive
from convlane.nn import Module

B = TypeVar("B", bound="Callable[..., Module]")

_BUILDERS: dict[str, Callable[..., Module]] = {}


def register(builder: B) -> B:
    """Make a function ``builder(num_classes=1000, **config)`` a network under its own name."""
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"a model named {name!r} is registered already")
    _BUILDERS[name] = builder
    return builder


def create(name: str, num_classes: int = 1000, **config: Any) -> Module:
    """Build a network with random weights, ready to run: in eval mode. Train it after ``.train()``.

    Parameters
    ----------
    name
        One of `convlane.models.list`.
    num_classes
        Number of outputs.
    config
        What the family offers beyond, for example ``dropout``; see its file.

    Raises
    ------
    TypeError
        `num_classes` is not an integer, or the family does not know an argument of `config`.
    ValueError
        There is no such network, or `num_classes` is less than 1.

    Examples
    --------
    >>> from convlane import models
    >>> models.create("mobilenet_v2").num_parameters()
    3504872
    """
    if name not in _BUILDERS:
        near = get_close_matches(str(name), _BUILDERS) or sorted(_BUILDERS)
        raise ValueError(f"create: there is no model {name!r}; did you mean {' or '.join(near)}?")
    return _BUILDERS[name](as_positive(num_classes, "create", "num_classes"), **config).eval()


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all networks that match a shell pattern, sorted."""
    return sorted(name for name in _BUILDERS if fnmatchcase(name, pattern))
