"""Initial values of parameters, random and constant, with torch's names and formulas.

Each function returns a new read-only array of the given shape, ready to be assigned:
``layer.weight = init.kaiming_normal(layer.weight.shape)``. All of them draw from one random sequence, see `seed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from convlane._floats import quiet
from convlane.functional._arguments import Array
from convlane.runtime import get_num_threads

__all__ = [
    "constant",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "seed",
    "skip",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
]

_CHUNK = 2**20  # numbers per generator; the values depend on this, but not on the number of threads
_seeds: np.random.SeedSequence | None = None  # made on first use: importing numpy.random takes 12 ms
_skipping: ContextVar[float | None] = ContextVar("_skipping", default=None)  # the largest size of an array


def seed(value: int) -> None:
    """Restart the random sequence, so that networks built afterwards are the same in every run.

    Examples
    --------
    >>> from convlane.nn import init
    >>> init.seed(1)
    >>> first = init.normal((2, 2))
    >>> init.seed(1)
    >>> bool((first == init.normal((2, 2))).all())
    True
    """
    global _seeds
    _seeds = np.random.SeedSequence(value)


@contextmanager
def skip(at_most: float = math.inf) -> Iterator[None]:
    """Within the block, return zeros instead of random numbers, for layers whose weights are loaded afterwards.

    An array of more than `at_most` elements (for example, as many as the file contains) raises a ValueError.

    Examples
    --------
    >>> from convlane import nn
    >>> with nn.init.skip():
    ...     layer = nn.Linear(25088, 4096)
    >>> bool(layer.weight.any())
    False
    """
    token = _skipping.set(at_most)
    try:
        yield
    finally:
        _skipping.reset(token)


@quiet
def constant(shape: Sequence[int], value: float) -> Array:
    """Return an array full of `value`."""
    return _read_only(np.full(shape, value, np.float32))


def uniform(shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Array:
    """Draw uniformly from [low, high)."""

    @quiet
    def fill(generator: np.random.Generator, part: Array) -> None:
        generator.random(dtype=np.float32, out=part)
        part *= np.float32(high - low)
        part += np.float32(low)

    return _draw(shape, fill)


def normal(shape: Sequence[int], mean: float = 0.0, std: float = 1.0) -> Array:
    """Draw from a normal distribution."""

    @quiet
    def fill(generator: np.random.Generator, part: Array) -> None:
        generator.standard_normal(dtype=np.float32, out=part)
        part *= np.float32(std)
        part += np.float32(mean)

    return _draw(shape, fill)


def xavier_uniform(shape: Sequence[int], gain: float = 1.0) -> Array:
    """Draw uniformly with the variance of Glorot and Bengio (2010), ``gain**2 * 2 / (fan_in + fan_out)``."""
    bound = gain * math.sqrt(6 / sum(_fans(shape)))
    return uniform(shape, -bound, bound)


def xavier_normal(shape: Sequence[int], gain: float = 1.0) -> Array:
    """Draw normally with the variance of Glorot and Bengio (2010), ``gain**2 * 2 / (fan_in + fan_out)``."""
    return normal(shape, 0.0, gain * math.sqrt(2 / sum(_fans(shape))))


def kaiming_uniform(
    shape: Sequence[int], a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Array:
    """Draw uniformly with the variance of He et al. (2015), ``gain**2 / fan``.

    Parameters
    ----------
    shape
        (O, I) or (O, I, KH, KW).
    a
        The negative slope of a leaky ReLU after the layer.
    mode
        ``"fan_in"`` keeps the variance in the forward pass, ``"fan_out"`` in the backward pass.
    nonlinearity
        The activation after the layer: ``leaky_relu``, ``relu``, ``tanh``, ``sigmoid``, ``selu`` or ``linear``.
    """
    bound = math.sqrt(3) * _kaiming_std(shape, a, mode, nonlinearity)
    return uniform(shape, -bound, bound)


def kaiming_normal(
    shape: Sequence[int], a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Array:
    """Draw normally with the variance of He et al. (2015), ``gain**2 / fan``; arguments as in `kaiming_uniform`."""
    return normal(shape, 0.0, _kaiming_std(shape, a, mode, nonlinearity))


def default_weight_and_bias(shape: Sequence[int], bias: bool, outputs: int | None = None) -> tuple[Array, Array | None]:
    """Return the defaults of torch's convolutions and Linear: both uniform with the bound ``1 / sqrt(fan_in)``.

    The bias has `outputs` elements, by default as many as the weight's first dimension.
    """
    fan_in, _ = _fans(shape)
    bound = 1 / math.sqrt(fan_in)
    sizes = shape[:1] if outputs is None else (outputs,)
    return kaiming_uniform(shape, math.sqrt(5)), uniform(sizes, -bound, bound) if bias else None


def _kaiming_std(shape: Sequence[int], a: float, mode: str, nonlinearity: str) -> float:
    fans = dict(zip(("fan_in", "fan_out"), _fans(shape), strict=True))
    if mode not in fans:
        raise ValueError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    # torch.nn.init.calculate_gain
    gains = {
        "leaky_relu": math.sqrt(2 / (1 + a * a)),
        "linear": 1.0,
        "relu": math.sqrt(2),
        "selu": 3 / 4,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
    }
    if nonlinearity not in gains:
        raise ValueError(f"init: nonlinearity must be one of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity] / math.sqrt(fans[mode])


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return fan_in and fan_out: how many inputs an output sums, and how many outputs an input contributes to."""
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(
            f"init: fans are defined for weights (O, I, ...) without empty sizes, got shape {tuple(shape)}"
        )
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def _draw(shape: Sequence[int], fill: Callable[[np.random.Generator, Array], None]) -> Array:
    """Fill an array chunk by chunk with several threads, each chunk from its own generator."""
    from concurrent.futures import ThreadPoolExecutor  # takes 6 ms, which a process that only loads a plan is spared

    global _seeds
    at_most = _skipping.get()
    if at_most is not None:
        if math.prod(shape) > at_most:
            raise ValueError(f"an array of shape {tuple(shape)} has more than {at_most} elements")
        return _read_only(np.zeros(shape, np.float32))
    array = np.empty(shape, np.float32)
    flat = array.reshape(-1)
    parts = [flat[i : i + _CHUNK] for i in range(0, flat.size, _CHUNK)]
    _seeds = _seeds or np.random.SeedSequence()
    generators = [np.random.Generator(np.random.SFC64(seed)) for seed in _seeds.spawn(len(parts))]
    if len(parts) == 1:
        fill(generators[0], parts[0])
    else:
        with ThreadPoolExecutor(get_num_threads()) as pool:
            list(pool.map(fill, generators, parts))
    return _read_only(array)


def _read_only(array: Array) -> Array:
    array.flags.writeable = False  # so that a parameter takes it without a copy
    return array
