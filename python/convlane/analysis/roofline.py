"""The roofline plot as SVG: speed over arithmetic intensity, below the machine's limits.

Williams, Waterman and Patterson, Roofline: An Insightful Visual Performance Model, 2009.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from convlane import machine
from convlane.graph.plan import Step
from convlane.runtime import get_num_threads

_WIDTH, _HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 48
_CACHE = 512 << 10  # bytes per thread that fit into a typical L2 cache
_MEMORY = 256 << 20  # bytes that fit into no cache


def roofline(steps: Iterable[Step]) -> str:
    """Return a plot of the steps with multiply-adds and a time, below limits that are measured now."""
    threads = get_num_threads()
    bandwidths = {
        "memory": machine.read_bandwidth(_MEMORY) / 1e9,
        "L2 cache": machine.read_bandwidth(_CACHE * threads) / 1e9,
    }
    points = [step for step in steps if step.gflops]
    return _plot(points, machine.fma_peak() / 1e9, bandwidths)


def _plot(points: Sequence[Step], peak: float, bandwidths: dict[str, float]) -> str:
    """Draw the plot with logarithmic axes, GFLOP/s over FLOP per byte."""
    intensities = [_intensity(step) for step in points]
    bends = [peak / bandwidth for bandwidth in bandwidths.values()]
    low, high = _decades([*intensities, *bends])
    slowest, fastest = _decades([*(step.gflops or peak for step in points), peak])

    def x(intensity: float) -> float:
        return _LEFT + (math.log10(intensity) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(speed: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(speed) - slowest) / (fastest - slowest) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg class="roof" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        'aria-label="Roofline plot: speed of each step over its arithmetic intensity">'
    ]
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{10.0**power:g}</text>')
    for power in range(slowest, fastest + 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">FLOP per byte read and written</text>')
    parts.append(
        f'<text x="16" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {_HEIGHT / 2})">GFLOP/s</text>'
    )
    for name, bandwidth in bandwidths.items():
        start = max(10.0**low, 10.0**slowest / bandwidth)
        parts.append(
            f'<polyline class="roofline" points="{x(start):.1f},{y(start * bandwidth):.1f} '
            f'{x(peak / bandwidth):.1f},{y(peak):.1f} {_WIDTH - _RIGHT},{y(peak):.1f}"/>'
        )
        label = html.escape(f"{name}: {bandwidth:.0f} GB/s")
        slope = math.degrees(math.atan2(y(bandwidth) - y(10 * bandwidth), x(10) - x(1)))
        at = math.sqrt(start * peak / bandwidth)
        position = f"{x(at):.1f} {y(at * bandwidth) - 6:.1f}"
        parts.append(
            f'<text transform="translate({position}) rotate({-slope:.1f})" text-anchor="middle">{label}</text>'
        )
    label = f"multiply-add peak: {peak:.0f} GFLOP/s"
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{y(peak) - 6:.1f}" text-anchor="end">{label}</text>')
    longest = max((step.seconds or 0 for step in points), default=1.0)
    for step, intensity in zip(points, intensities, strict=True):
        speed, radius = step.gflops or peak, 3 + 9 * math.sqrt((step.seconds or 0) / longest)
        title = (
            f"step {step.number}: {step.op}, {step.algorithm}\n{1e3 * (step.seconds or 0):.3f} ms, {speed:.0f} GFLOP/s"
        )
        kind = ' class="winograd"' if step.algorithm.startswith("winograd") else ""
        parts.append(
            f'<circle{kind} data-step="{step.number}" cx="{x(intensity):.1f}" cy="{y(speed):.1f}" r="{radius:.1f}">'
            f"<title>{html.escape(title)}</title></circle>"
        )
    return "".join([*parts, "</svg>"])


def _intensity(step: Step) -> float:
    return 2 * step.multiply_adds / step.bytes


def _decades(numbers: Iterable[float]) -> tuple[int, int]:
    """Return the powers of ten around these numbers."""
    powers = [math.log10(number) for number in numbers]
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    return low, max(high, low + 1)
