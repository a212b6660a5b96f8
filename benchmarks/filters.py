"""Compare convlane.filters with OpenCV and SciPy on one picture: ``python benchmarks/filters.py --help``.

It prints the table of docs/filters.md. The libraries alternate, call by call, with a pause before each call, so that
none is slowed down by spinning threads of another; the best call of each counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from functools import partial

import numpy as np

from convlane import filters, machine, runtime

KERNELS = {"3x3": 3, "7x7": 7, "17x17": 17, "9x9, all equal": 9, "Gaussian, sigma 2": None}
PICTURES = {
    **{
        f"{dtype.__name__}{', RGB' * (channels == 3)}": (dtype, channels)
        for dtype in (np.uint8, np.float32)
        for channels in (1, 3)
    },
    "float64": (np.float64, 1),
}
_SIGMA = 2
_ROUNDS, _SECONDS = 9, 1.0  # the maximum number of calls, and the time after which a library makes no more calls
_PAUSE = 0.01  # seconds; longer than the libraries' threads spin


def main(argv=None):
    parser = argparse.ArgumentParser(prog="filters", description="Compare convlane.filters with OpenCV and SciPy.")
    parser.add_argument("--size", type=int, nargs=2, default=(2000, 3000), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--pictures", nargs="+", choices=PICTURES, default=list(PICTURES))
    parser.add_argument("--smoke", action="store_true", help="one call each on a small picture")
    args = parser.parse_args(argv)
    size, rounds = ((20, 30), 1) if args.smoke else (args.size, _ROUNDS)
    libraries = {"convlane": ours}
    libraries |= {name: f for name, (module, f) in PEERS.items() if importlib.util.find_spec(module)}
    print(f"Milliseconds for {size[0]}x{size[1]} pixels, {runtime.get_num_threads()} threads, {machine.cpu_name()}\n")
    print(f"| kernel | picture | {' | '.join(libraries)} |\n|---|---|{'--:|' * len(libraries)}")
    for kernel in args.kernels:
        for picture in args.pictures:
            best = compare(libraries, kernel, *PICTURES[picture], size, rounds)
            cells = [f"{1e3 * seconds:.3g}" for seconds in best.values()]
            print(f"| {kernel} | {picture} | {' | '.join(cells)} |", flush=True)


def compare(libraries, kernel, dtype, channels, size, rounds):
    """Return the seconds of the best call of each library."""
    random = np.random.default_rng(0)
    image = (255 * random.random((*size, channels)[: 2 if channels == 1 else 3])).astype(dtype)
    length = KERNELS[kernel]
    if length is None:
        weights = None
    elif "equal" in kernel:
        weights = np.full((length, length), 1 / length**2)
    else:
        weights = random.random((length, length)) / length**2
    calls = {name: library(image, weights) for name, library in libraries.items()}
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if sum(seconds[name]) < _SECONDS:
                time.sleep(_PAUSE)
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return {name: min(each) for name, each in seconds.items()}


def ours(image, weights):
    """Return convlane's filter: a Gaussian if there are no weights."""
    return partial(filters.gaussian, image, _SIGMA) if weights is None else partial(filters.correlate, image, weights)


def opencv(image, weights):
    """Return OpenCV's filter; its GaussianBlur has the same length as SciPy's."""
    import cv2

    cv2.setNumThreads(runtime.get_num_threads())
    if weights is None:
        length = 2 * int(4 * _SIGMA + 0.5) + 1
        return partial(cv2.GaussianBlur, image, (length, length), _SIGMA, borderType=cv2.BORDER_REFLECT)
    return partial(cv2.filter2D, image, -1, weights, borderType=cv2.BORDER_REFLECT)


def scipy(image, weights):
    """Return SciPy's filter, which does not mix the channels."""
    from scipy import ndimage

    if weights is None:
        return partial(ndimage.gaussian_filter, image, (_SIGMA, _SIGMA, 0)[: image.ndim])
    return partial(ndimage.correlate, image, weights[(..., *[None] * (image.ndim - 2))])


PEERS = {"OpenCV": ("cv2", opencv), "SciPy": ("scipy", scipy)}


if __name__ == "__main__":
    main()
