"""What lower floors of the package call of higher ones, which they do not import: `convlane/__init__.py` fills it."""

from collections.abc import Callable
from typing import Any

handed_down: dict[str, Callable[..., Any]] = {}
"""``save`` and ``summary`` for `nn.Module`; ``import_families``, which tell `weights` the names of Keras's layers."""
