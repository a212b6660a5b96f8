"""Learning-rate schedules: functions from the number of completed steps to the learning rate, for an optimiser's `lr`.

They have no state, so interrupted training resumes with the right rate.

>>> from convlane.training import schedule
>>> rate = schedule.warm_up(schedule.cosine(0.1, steps=100), steps=10)
>>> [round(rate(step), 4) for step in (0, 5, 10, 60, 110)]
[0.01, 0.06, 0.1, 0.05, 0.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["cosine", "multi_step", "one_cycle", "step", "warm_up"]

Schedule = Callable[[int], float]


def step(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """Multiply the rate by `factor` after every `every` steps."""
    _check("step", every=every)
    return lambda done: lr * factor ** (done // every)


def multi_step(lr: float, at: Sequence[int], factor: float = 0.1) -> Schedule:
    """Multiply the rate by `factor` at each number of steps in `at`."""
    return lambda done: lr * factor ** sum(done >= milestone for milestone in at)


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """Decrease to `final` along half a cosine, and stay there (Loshchilov and Hutter, "SGDR", ICLR 2017)."""
    _check("cosine", steps=steps)
    return lambda done: _between(lr, final, min(done / steps, 1.0))


def warm_up(after: float | Schedule, steps: int) -> Schedule:
    """Increase linearly to the first rate of `after` within `steps`, then follow `after` (Goyal et al. 2017)."""
    _check("warm_up", steps=steps)
    follow = after if callable(after) else lambda done: after
    return lambda done: follow(0) * (done + 1) / steps if done < steps else follow(done - steps)


def one_cycle(
    lr: float, steps: int, *, rise: float = 0.3, start_divisor: float = 25.0, end_divisor: float = 1e4
) -> Schedule:
    """Increase to `lr` and decrease to almost 0, both along half a cosine (Smith and Topin 2018).

    Parameters
    ----------
    lr
        The highest rate. The first is ``lr / start_divisor``, the last ``lr / start_divisor / end_divisor``.
    steps
        The length of the whole cycle.
    rise
        The fraction of the steps in which the rate increases.
    start_divisor, end_divisor
        As in `lr`.
    """
    _check("one_cycle", steps=steps)
    first, top = lr / start_divisor, rise * steps - 1

    def rate(done: int) -> float:
        if done <= top:
            return _between(first, lr, done / top if top > 0 else 1.0)
        return _between(lr, first / end_divisor, min((done - top) / max(steps - 1 - top, 1), 1.0))

    return rate


def _between(start: float, end: float, part: float) -> float:
    """Interpolate from start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def _check(name: str, **counts: int) -> None:
    for argument, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: {argument} must be at least 1, got {value}")
