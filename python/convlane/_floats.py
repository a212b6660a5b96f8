"""Floating-point errors in NumPy are ignored: they neither raise nor warn, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def quiet(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function under its own ``np.errstate``, so that the caller's neither raises nor warns within it.

    An ``np.errstate`` cannot be used as a decorator for this, because two threads cannot enter the same one.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return run
