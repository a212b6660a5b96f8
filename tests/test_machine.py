"""Measurements of the machine: plausible figures, and clean errors for bad arguments."""

import pytest

from convlane import _core, machine


def test_peak_is_remembered_per_instruction_set(isa):
    peak = machine.fma_peak(1)
    assert peak > 1e8
    assert machine.fma_peak(1) == peak
    if isa != "generic":
        _core.set_active_isa("generic")
        assert machine.fma_peak(1) < peak


@pytest.mark.parametrize("threads", [0, -1, 10**9])
def test_bad_thread_counts(threads):
    with pytest.raises(ValueError, match="threads"):
        machine.fma_peak(threads)
    with pytest.raises(ValueError, match="threads"):
        machine.read_bandwidth(1 << 16, threads)


@pytest.mark.parametrize("size", [0, -1, 2**63])
def test_bad_buffer_sizes(size):
    with pytest.raises(ValueError, match="size must be at least"):
        machine.read_bandwidth(size, 1)


def test_no_memory_for_the_buffer():
    with pytest.raises(MemoryError):
        machine.read_bandwidth(2**60, 1)


def test_reading_takes_any_number_of_threads(threads):
    assert machine.read_bandwidth(1 << 16, threads) > 1e7


def test_cpu_has_a_name(monkeypatch):
    assert machine.cpu_name()
    monkeypatch.setattr("pathlib.Path.read_text", lambda self: (_ for _ in ()).throw(FileNotFoundError))
    assert machine.cpu_name()


def test_caches_grow_from_level_to_level():
    caches = machine.caches()
    assert 8 << 10 <= caches.first <= caches.second <= caches.third
    assert caches == _core.caches()


@pytest.mark.parametrize("sizes", [(0, 1 << 20, 1 << 22), (1 << 16, 1 << 15, 1 << 22), (1 << 15, 1 << 20, 1 << 19)])
def test_impossible_caches(sizes):
    with pytest.raises(ValueError, match="each cache must have at least 1 KB and no less than the one before"):
        _core.set_caches(*sizes)
