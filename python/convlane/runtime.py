"""Threads, instruction set and build of the kernels."""

from __future__ import annotations

import operator
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from convlane import _core
from convlane._version import __version__

_MAX_THREADS = 1024
_MAX_SPIN = 1_000_000


def get_num_threads() -> int:
    """Return the number of threads that an operation may use now.

    It is determined by the innermost `num_threads` context, else by `set_num_threads`, else by the environment variable
    ``CONVLANE_NUM_THREADS`` at import, else by the CPU affinity, the container's CPU quota (rounded up) and OpenMP
    (``OMP_NUM_THREADS``); on CPUs with two kinds of cores, only the fast ones are counted. In a child of ``fork`` it is
    1, because OpenMP's threads do not survive a fork.
    """
    return _core.num_threads()


def set_num_threads(count: int) -> None:
    """Set the number of threads for the whole process.

    Parameters
    ----------
    count
        The number of threads, at least 1.

    Raises
    ------
    TypeError
        If `count` is not an integer.
    ValueError
        If `count` is out of range.
    """
    _core.set_num_threads(checked_threads(count))


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Use `count` threads for operations that this Python thread runs inside the ``with`` block.

    Examples
    --------
    >>> import convlane
    >>> with convlane.num_threads(1):
    ...     convlane.get_num_threads()
    1
    """
    before = _core.exchange_thread_override(checked_threads(count))
    try:
        yield
    finally:
        _core.exchange_thread_override(before)


def show_config() -> None:
    """Print the version, compiler, OpenMP, threads, and the compiled, detected and active instruction sets."""
    for name, value in config().items():
        print(f"{name:>20}: {value}")


def config() -> dict[str, str]:
    """Return what `show_config` prints, as a dictionary of strings."""
    import numpy

    return {
        "convlane": __version__,
        "numpy": numpy.__version__,
        "compiler": _core.compiler,
        "OpenMP": str(_core.openmp) if _core.openmp else "not compiled in",
        "threads": str(get_num_threads()),
        "available CPUs": str(_core.available_cpus()),
        "compiled for": ", ".join(_core.compiled_isas()),
        "this CPU runs": ", ".join(_core.supported_isas()),
        "active": _core.active_isa(),
    }


def environment_threads() -> int:
    """Return the value of ``CONVLANE_NUM_THREADS``, or 0 if it is not set or not valid."""
    return _from_environment("CONVLANE_NUM_THREADS", checked_threads, 0)


def environment_spin() -> int:
    """Return for how many microseconds idle threads spin: ``CONVLANE_SPIN_US``, or the default."""
    return _from_environment("CONVLANE_SPIN_US", _checked_spin, _core.spin_microseconds())


def _from_environment(name: str, checked: Callable[[int], int], default: int) -> int:
    """Return the integer in an environment variable, or the default if it is not set or not valid."""
    text = os.environ.get(name, "").strip()
    try:
        return checked(int(text)) if text else default
    except ValueError as error:
        warnings.warn(f"{name}={text} is ignored: {error}", RuntimeWarning, stacklevel=3)
        return default


def _checked_spin(time: int) -> int:
    if not 0 <= time <= _MAX_SPIN:
        raise ValueError(f"the time must be between 0 and {_MAX_SPIN} microseconds, got {time}")
    return time


def environment_caches() -> tuple[int, int, int] | None:
    """Return the sizes of the caches from ``CONVLANE_CACHES`` (``32K,512K,4M``), in bytes, level by level."""
    text = os.environ.get("CONVLANE_CACHES", "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+)([KM]),(\d+)([KM]),(\d+)([KM])", text)
    if match is None:
        raise ValueError(f"CONVLANE_CACHES must be like 32K,512K,4M, got {text}")
    first, second, third = (int(match[i]) << (10 if match[i + 1] == "K" else 20) for i in (1, 3, 5))
    return first, second, third


def checked_threads(count: int) -> int:
    """Return `count` if it is a valid number of threads."""
    if isinstance(count, bool):
        raise TypeError(f"the number of threads must be an integer, got {count}")
    count = operator.index(count)
    if not 1 <= count <= _MAX_THREADS:
        raise ValueError(f"the number of threads must be between 1 and {_MAX_THREADS}, got {count}")
    return count
