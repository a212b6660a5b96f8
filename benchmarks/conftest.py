"""Options, timing and the summary of the benchmarks.

``pytest benchmarks --benchmark-only`` times every layer with one thread; ``--threads``, ``--isa`` and ``--smoke``
change that. Each figure is stated against the FMA peak that `convlane.machine` measures in the same run.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import pytest

import convlane
from convlane import _core, machine

_ROUNDS = 30
_WARMUP_ROUNDS = 3
# Several calls faster than this are timed together, because clock and loop cost some 0.1 us. The rates are guesses.
_ROUND_SECONDS = 1e-3
_LIKELY_FLOPS, _LIKELY_BYTES = 1e11, 5e10


def pytest_addoption(parser):
    group = parser.getgroup("convlane")
    group.addoption("--threads", type=int, default=1, help="threads per operation (default 1)")
    group.addoption("--isa", choices=_core.supported_isas(), default=_core.active_isa(), help="instruction set")
    group.addoption("--smoke", action="store_true", help="two rounds of one call each, to check that everything runs")


@dataclass(frozen=True)
class Row:
    """One line of the summary. A `family` is a set of layers that is also summarised as a whole."""

    group: str
    label: str
    best: float
    median: float
    multiply_adds: int
    moved_bytes: int
    peak: float
    family: str | None

    def figures(self):
        """Return the reported figures; each array's bytes count once, however often they are read from a cache."""
        flops = 2 * self.multiply_adds
        figures = {}
        if flops:
            figures["GFLOP/s best"] = flops / self.best / 1e9
            figures["GFLOP/s median"] = flops / self.median / 1e9
            figures["% of peak best"] = 100 * flops / self.best / self.peak
            figures["% of peak median"] = 100 * flops / self.median / self.peak
        if self.moved_bytes:
            figures["GB/s best"] = self.moved_bytes / self.best / 1e9
            figures["GB/s median"] = self.moved_bytes / self.median / 1e9
        return figures


_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(autouse=True)
def _setting(request):
    """Use the instruction set and the number of threads given on the command line."""
    before = _core.active_isa()
    _core.set_active_isa(request.config.getoption("isa"))
    with convlane.num_threads(request.config.getoption("threads")):
        yield
    _core.set_active_isa(before)


@pytest.fixture
def report(request, benchmark):
    """Time a call and add it to the summary."""
    config = request.config
    smoke = config.getoption("smoke")

    def run(call, label, *, multiply_adds=0, moved_bytes=0, family=None):
        likely_seconds = 2 * multiply_adds / _LIKELY_FLOPS + moved_bytes / _LIKELY_BYTES
        benchmark.pedantic(
            call,
            rounds=2 if smoke else _ROUNDS,
            iterations=1 if smoke else max(1, round(_ROUND_SECONDS / likely_seconds)),
            warmup_rounds=1 if smoke else _WARMUP_ROUNDS,
        )
        group = request.path.stem.removeprefix("test_")
        times = benchmark.stats.stats
        row = Row(group, label, times.min, times.median, multiply_adds, moved_bytes, machine.fma_peak(), family)
        benchmark.extra_info.update({name: round(figure, 1) for name, figure in row.figures().items()})
        config.stash.setdefault(_ROWS, []).append(row)

    return run


@pytest.fixture
def random():
    """Return a function that draws float32 arrays; images are channels last in memory, as between two layers."""
    generator = np.random.default_rng(0)

    def draw(*shape):
        if len(shape) != 4:
            return generator.standard_normal(shape, np.float32)
        n, c, h, w = shape
        return generator.standard_normal((n, h, w, c), np.float32).transpose(0, 3, 1, 2)

    return draw


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(_ROWS, [])
    if not rows:
        return
    write = terminalreporter.write_line
    for group in dict.fromkeys(row.group for row in rows):
        terminalreporter.section(group)
        _write_table(write, [row for row in rows if row.group == group])
    terminalreporter.section("per cent of the FMA peak")
    for family in dict.fromkeys(row.family for row in rows if row.family):
        shares = [row.figures()["% of peak median"] for row in rows if row.family == family]
        middle, least = statistics.median(shares), min(shares)
        write(f"{family}: median {middle:.1f}, minimum {least:.1f}, {len(shares)} layers")
    isa, threads = config.getoption("isa"), config.getoption("threads")
    write(f"FMA peak: {rows[0].peak / 1e9:.1f} GFLOP/s with {isa} and {threads} thread(s) of {machine.cpu_name()}")


def _write_table(write, rows):
    names = list(rows[0].figures())
    write(" " * 38 + f"{'ms best':>10}" + "".join(f"{name:>18}" for name in names))
    for row in rows:
        cells = "".join(f"{figure:>18.1f}" for figure in row.figures().values())
        write(f"{row.label:<38}{row.best * 1e3:>10.3f}{cells}")
