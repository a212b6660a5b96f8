"""Show the build, the CPU, and the peak performance of this machine."""

from __future__ import annotations

import argparse
import json

from convlane import machine, runtime

# One size for each level of a typical memory hierarchy: L1, L2, L3, DRAM.
_BUFFERS = {"16 KB": 16 << 10, "512 KB": 512 << 10, "8 MB": 8 << 20, "256 MB": 256 << 20}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    threads = runtime.get_num_threads()
    counts = sorted({1, threads})
    peaks = {_threads(count): round(machine.fma_peak(count) / 1e9, 1) for count in counts}
    bandwidths = {
        name: {_threads(count): _bandwidth(size, count) for count in counts} for name, size in _BUFFERS.items()
    }
    if args.json:
        measured = {"caches": machine.caches()._asdict(), "FMA peak GFLOP/s": peaks, "read GB/s": bandwidths}
        print(json.dumps({**runtime.config(), "CPU": machine.cpu_name(), **measured}))
        return
    runtime.show_config()
    lines = {"CPU": machine.cpu_name(), "caches": _caches(), "FMA peak": _list(peaks, "GFLOP/s")}
    lines |= {f"reading {name}": _list(speeds, "GB/s") for name, speeds in bandwidths.items()}
    print("\n".join(f"{name:>20}: {value}" for name, value in lines.items()))


def _bandwidth(size: int, threads: int) -> float:
    """Measure GB/s with a buffer for each thread (up to 1 GB in total), so that all measure the same level."""
    return round(machine.read_bandwidth(min(size * threads, 1 << 30), threads) / 1e9, 1)


def _caches() -> str:
    first, second, third = (f"{size >> 10} KB" for size in machine.caches())
    return f"{first} and {second} for each core, {third} shared"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _list(figures: dict[str, float], unit: str) -> str:
    return ", ".join(f"{figure} {unit} with {name}" for name, figure in figures.items())
