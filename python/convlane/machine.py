"""The measured peak performance of this machine, with which speeds are compared.

The numbers hold for the moment of measurement; on a machine that other programs use, measure again.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from convlane import _core
from convlane.runtime import checked_threads, get_num_threads


def fma_peak(threads: int | None = None) -> float:
    """Measure the floating-point operations per second of a loop of multiply-adds only.

    The active instruction set is measured, with all values in registers; a multiply-add counts as two operations. The
    first call takes a tenth of a second, later calls return its result.

    Parameters
    ----------
    threads
        The number of threads that run the loop at once; by default `convlane.get_num_threads`.

    Raises
    ------
    ValueError
        If `threads` is out of range.

    Examples
    --------
    >>> from convlane import machine
    >>> machine.fma_peak(threads=1) > 1e9
    True
    """
    threads = get_num_threads() if threads is None else checked_threads(threads)
    return _fma_peak(_core.active_isa(), threads)


def read_bandwidth(size: int, threads: int | None = None) -> float:
    """Measure the bytes per second at which a buffer is read repeatedly.

    The size of the buffer determines which level of the memory hierarchy is measured.

    Parameters
    ----------
    size
        The size of the buffer in bytes, at least 4096. Each thread reads a part of it.
    threads
        The number of threads; by default `convlane.get_num_threads`.

    Raises
    ------
    MemoryError
        If there is no memory for the buffer.
    ValueError
        If `size` or `threads` is out of range.

    Examples
    --------
    >>> from convlane import machine
    >>> machine.read_bandwidth(16 * 1024, threads=1) > 1e8
    True
    """
    threads = get_num_threads() if threads is None else checked_threads(threads)
    if not _SMALLEST_BUFFER <= size < 2**62:
        raise ValueError(f"read_bandwidth: size must be at least {_SMALLEST_BUFFER} bytes, got {size}")
    return _best(lambda: _core.measure_read_bandwidth(size, threads))


class Caches(NamedTuple):
    """A core's share of the first two levels of caches, and the size of the last, shared level, in bytes."""

    first: int
    second: int
    third: int


def caches() -> Caches:
    """Return the sizes of the caches, by which work is split into parts that stay in them.

    The sizes are detected at import, or set by the environment variable ``CONVLANE_CACHES`` (``32K,512K,4M``). A level
    that several cores share counts with each core's share; the last level counts with at most 16 MB for each core, as
    virtual machines see all of their host's cache. If there is no third level, the second is returned for it.

    Examples
    --------
    >>> from convlane import machine
    >>> machine.caches().first <= machine.caches().second <= machine.caches().third
    True
    """
    return Caches(*_core.caches())


def cpu_name() -> str:
    """Return the name of the CPU, or its architecture if the name is not known."""
    return _cpu_fields().get("model name", platform.machine())


def cpu_model() -> str:
    """Return everything that identifies this model of CPU, as virtual machines often hide its name."""
    known = _cpu_fields()
    fields = ("cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU revision")
    return ", ".join([cpu_name(), *(f"{field} {known[field]}" for field in fields if field in known)])


def _cpu_fields() -> dict[str, str]:
    """Return the fields of the first CPU in /proc/cpuinfo, if it exists."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


_SMALLEST_BUFFER = 4096
_SECONDS = 0.1


def _best(measure: Callable[[], float]) -> float:
    """Measure for a while and return the best number, because other programs can only lower it."""
    end = time.monotonic() + _SECONDS
    best = measure()
    while time.monotonic() < end:
        best = max(best, measure())
    return best


@cache
def _fma_peak(isa: str, threads: int) -> float:
    """Return the peak, cached also by the instruction set, which may change between calls."""
    return _best(lambda: _core.measure_fma_peak(threads))
