"""Workers on one machine: the memory of plans that they share, and their throughput.

    python benchmarks/scale.py memory --model vgg16 --workers 8
    python benchmarks/scale.py batches --model mobilenet_v2
    python benchmarks/scale.py engines --model mobilenet_v2 --engine ray --pictures 500

`memory` starts processes that load a plan, run an image and wait; it prints their proportional set size (Pss), in which
a page that n processes share counts 1/n for each. `batches` prints a process's pictures per second by the number of
pictures per call. `engines` compares two workers of one thread with one process of two threads, after all have started
and loaded the network.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import convlane
from convlane import models, nn
from convlane.data import preprocessing
from convlane.scale import BatchPredictor, BestClass

WORKER = """
import sys
import numpy as np, convlane
plan = convlane.load_plan(sys.argv[1], mmap=sys.argv[2] == "shared")
plan(np.zeros((1, *plan.input_shape[1:]), np.float32))
print("ready", flush=True)
sys.stdin.read()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "batches", "engines"))
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--engine", choices=("ray", "dask"), default="dask")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        nn.init.seed(1)
        network = models.create(args.model).eval()
        plan = Path(folder) / "network.plan"
        convlane.compile(network, (None, *models.input_shape(args.model))).save(plan, packed=True)
        del network
        if args.what == "memory":
            print(f"file: {plan.stat().st_size / 1e6:.0f} MB")
            for how in ("shared", "own"):
                for count in dict.fromkeys((1, args.workers)):
                    print(f"{how}, {count} workers: {memory(plan, how, count):.0f} MB together", flush=True)
            return
        pictures = write_pictures(Path(folder), args.pictures)
        if args.what == "batches":
            batches(plan, args.model, pictures, args.rounds)
        else:
            engines(plan, args, pictures)


def memory(plan: Path, how: str, count: int) -> float:
    """Return the total Pss of `count` workers, in MB."""
    command = [sys.executable, "-c", WORKER, str(plan), how]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        rollups = [Path(f"/proc/{worker.pid}/smaps_rollup").read_text() for worker in workers]
        return sum(int(re.search(r"^Pss: *(\d+) kB", text, re.MULTILINE)[1]) for text in rollups) * 1024 / 1e6
    finally:
        for worker in workers:
            worker.communicate("")


def write_pictures(folder: Path, count: int) -> list[str]:
    """Write JPEG files of 320 x 240 pixels, smooth as photographs are."""
    from PIL import Image

    rng, paths = np.random.default_rng(1), []
    for i in range(count):
        coarse = rng.integers(0, 256, (15, 20, 3), np.uint8)
        paths.append(str(folder / f"{i:04}.jpg"))
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(paths[-1], quality=85)
    return paths


def batches(plan: Path, model: str, pictures: list[str], rounds: int) -> None:
    """Print pictures per second by the number per call, with one thread and with two; best of some rounds."""
    sizes = (1, 2, 4, 8, 16, 32, 64)
    best: dict[tuple[int, int], float] = {}
    for _ in range(rounds):
        for threads in (1, 2):
            predictor = BatchPredictor(plan, preprocessing(model), BestClass(), threads=threads)
            for size in sizes:
                given = pictures[: max(size, 16)]
                predictor(given[:size])
                begin = time.perf_counter()
                for first in range(0, len(given), size):
                    predictor(given[first : first + size])
                rate = len(given) / (time.perf_counter() - begin)
                best[threads, size] = max(best.get((threads, size), 0.0), rate)
    for size in sizes:
        print(
            f"{size:3} per call: {best[1, size]:6.1f} /s with one thread, {best[2, size]:6.1f} /s with two", flush=True
        )


def engines(plan: Path, args: argparse.Namespace, pictures: list[str]) -> None:
    """Print the pictures per second of two workers and of one process, measured in alternation."""
    one = BatchPredictor(plan, preprocessing(args.model), BestClass(), threads=2)
    run, stop = {"ray": ray_workers, "dask": dask_workers}[args.engine](plan, args)
    ratios = []

    def seconds(function) -> float:
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin

    def alone() -> None:
        for first in range(0, len(pictures), args.batch):
            one(pictures[first : first + args.batch])

    run(pictures[: 4 * args.batch])
    one(pictures[:8])
    for _ in range(args.rounds):
        together, single = seconds(lambda: run(pictures)), seconds(alone)
        ratios.append(single / together)
        workers, process = len(pictures) / together, len(pictures) / single
        print(f"two workers {workers:.1f} /s, one process {process:.1f} /s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"best {max(ratios):.3f}, median {np.median(ratios):.3f}")
    stop()


def dask_workers(plan: Path, args: argparse.Namespace):
    import dask.bag
    from dask.distributed import LocalCluster

    client = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None).get_client()
    predictor = BatchPredictor(plan, preprocessing(args.model), BestClass())

    def run(paths: list[str]) -> None:
        rows = dask.bag.from_sequence(paths, partition_size=args.batch).map_partitions(predictor).compute()
        assert len(rows) == len(paths)

    return run, lambda: client.cluster.close()


def ray_workers(plan: Path, args: argparse.Namespace):
    """Start two actors that stay, as those of Ray Data do during a run; each gets the next batch when it is ready."""
    import ray
    from ray.util import ActorPool

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    actor = ray.remote(num_cpus=1)(BatchPredictor)
    pool = ActorPool([actor.remote(plan, preprocessing(args.model), BestClass()) for _ in range(2)])

    def run(paths: list[str]) -> None:
        parts = [paths[first : first + args.batch] for first in range(0, len(paths), args.batch)]
        rows = pool.map(lambda worker, part: worker.__call__.remote(part), parts)
        assert sum(map(len, rows)) == len(paths)

    return run, ray.shutdown


if __name__ == "__main__":
    main()
