"""Progress bars on terminals, if tqdm is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(iterable: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
    """Show a bar on a terminal's stderr once the loop has taken a second, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return iterable
    bar: Iterable[T] = tqdm(iterable, label, total, file=sys.stderr, disable=None, delay=1, leave=False)
    return bar
