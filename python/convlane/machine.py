"""What this machine reaches at best, measured: the yardstick for speeds.

The figures hold for the moment at which they are taken; on a machine that other programs use, take them again.
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
    """Measure how many floating-point operations per second a loop of nothing but multiply-adds reaches.

    The active instruction set is measured, with everything in registers; a multiply-add counts two operations. The
    first call takes a tenth of a second, later ones return its result.

    Parameters
    ----------
    threads
        How many threads run the loop at once; by default `convlane.get_num_threads`.

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
    """Measure how many bytes per second are read from a buffer that is read again and again.

    The buffer's size decides which level of the memory hierarchy answers.

    Parameters
    ----------
    size
        Bytes, at least 4096. Threads share them out between each other.
    threads
        By default `convlane.get_num_threads`.

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
    """What a core has of the first two levels of caches, and what all share of the last, in bytes."""

    first: int
    second: int
    third: int


def caches() -> Caches:
    """Return what the caches hold, by which work is cut into parts that stay in them.

    Found at import, or given by the environment variable ``CONVLANE_CACHES`` (``32K,512K,4M``). A level that several
    cores share counts with each core's part; of the last one no more than 16 MB for a core, as virtual machines see all
    of their host's. Where there is no third level the second stands for it.

    Examples
    --------
    >>> from convlane import machine
    >>> machine.caches().first <= machine.caches().second <= machine.caches().third
    True
    """
    return Caches(*_core.caches())


def cpu_name() -> str:
    """Return what the CPU calls itself, or at least its architecture."""
    return _cpu_fields().get("model name", platform.machine())


def cpu_model() -> str:
    """Return all that tells this model of CPU from others: virtual machines often hide its name."""
    known = _cpu_fields()
    fields = ("cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU revision")
    return ", ".join([cpu_name(), *(f"{field} {known[field]}" for field in fields if field in known)])


def _cpu_fields() -> dict[str, str]:
    """Return what Linux tells of the first CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


_SMALLEST_BUFFER = 4096
_SECONDS = 0.1


def _best(measure: Callable[[], float]) -> float:
    """Measure for a while and return the best figure: other programs only ever lower it."""
    end = time.monotonic() + _SECONDS
    best = measure()
    while time.monotonic() < end:
        best = max(best, measure())
    return best


@cache
def _fma_peak(isa: str, threads: int) -> float:
    """Keyed by the instruction set too, which may change between calls."""
    return _best(lambda: _core.measure_fma_peak(threads))
