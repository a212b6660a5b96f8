"""How NumPy treats overflow, underflow and invalid numbers: as results like others, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def quiet(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function under an ``np.errstate`` of its own: the caller's neither raises nor warns within it.

    An ``np.errstate`` itself is no decorator for this, because two threads cannot be in one at a time.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return run
