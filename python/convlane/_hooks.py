"""Functions of higher layers that lower ones call without importing them; `convlane/__init__.py` sets them."""

from collections.abc import Callable
from typing import Any

hooks: dict[str, Callable[..., Any]] = {}
"""``save`` and ``summary`` for `nn.Module`, and ``import_families``, which registers the names of Keras's layers."""
