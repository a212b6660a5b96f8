"""Compare convlane's training steps with torch's: ``python benchmarks/training_peers.py --help``.

Each measurement is one process of benchmarks/training_worker.py; the runtimes alternate over several rounds. The method
is described in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import peers
from peers import Row, WorkerError, run_worker

from convlane.cli._common import model_name, positive, thread_count

RUNTIMES = {"convlane": (), "torch": ("torch", "torchvision")}
NETWORKS = {"lenet5": 64, "resnet18": 16, "resnet50": 8, "mobilenet_v2": 16, "vgg16": 4, "unet": 2}  # images in a batch
TOLERANCE = 1e-2  # between the losses of the first steps; rounding in these makes later losses differ more
BEGIN, END = "<!-- training: begin -->", "<!-- training: end -->"
_WORKER = Path(__file__).with_name("training_worker.py")


@dataclass
class TrainingRow(Row):
    """One network in one setting, with the losses and the memory of each runtime."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)


def main(argv=None):
    args = parse(argv)
    runtimes = [name for name in RUNTIMES if all(importlib.util.find_spec(package) for package in RUNTIMES[name])]
    rows, report = peers.timed(compare, args, runtimes, RUNTIMES)
    for entry, row in zip(report["rows"], rows, strict=True):
        entry |= {"losses": row.losses, "megabytes": row.megabytes}
    text = "\n".join([*peers.summary(report), "", *peers.table(rows, runtimes), "", *memory_table(rows, runtimes)])
    peers.publish(args, "training_peers", report, text, BEGIN, END)
    peers.chart(rows, runtimes, args.out / "training_peers.png")
    return peers.exit_status(rows)


def parse(argv):
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(prog="training_peers", description="Compare convlane's training with torch's.")
    cpus = sorted({1, len(os.sched_getaffinity(0))})
    add = parser.add_argument
    add("--models", type=peers.list_of(model_name), default=list(NETWORKS), help="default: %(default)s")
    add("--threads", type=peers.list_of(thread_count), default=cpus, help="default: one and all")
    add("--batch", type=positive, help="images in a batch, default: the usual number for the network")
    add("--beside", type=peers.busy_count, default=0, help=peers.BESIDE)
    add("--rounds", type=positive, default=3, help="processes per runtime and row, default 3")
    add("--seconds", type=peers.seconds, default=2.0, help="timed steps per process, default 2")
    add("--seed", type=int, default=0, help="seed of the weights and images, default 0")
    add("--out", type=Path, default=Path("results"), help="folder of training_peers.json and training_peers.png")
    add("--markdown", type=Path, help="also rewrite the results in this file, between its markers")
    return parser.parse_args(argv)


def compare(args, runtimes):
    """Measure every row."""
    rows = []
    for model, threads in product(args.models, args.threads):
        batch = args.batch or NETWORKS.get(model, 8)
        row = TrainingRow(model, threads, batch, {name: [] for name in runtimes})
        with peers.beside(args.beside):
            peers.take_turns(row, args.rounds, partial(measure, row, args=args))
        rows.append(row)
    return rows


def measure(row, name, args):
    """Add one process's times to the row, or the reason why there are none."""
    task = {"model": row.model, "runtime": name, "threads": row.threads, "batch": row.batch}
    try:
        answer = run_worker(_WORKER, **task, seed=args.seed, seconds=args.seconds)
    except WorkerError as error:
        row.problems[name] = str(error)
        return
    row.losses[name] = answer["losses"]
    row.megabytes[name] = max(answer["megabytes"], row.megabytes.get(name, 0.0))
    expected = row.losses["convlane"] if "convlane" in row.losses else answer["losses"]
    if all(abs(a - b) <= TOLERANCE * abs(b) for a, b in zip(answer["losses"], expected, strict=True)):
        row.ms[name] += answer["ms"]
    else:
        row.problems[name] = f"the losses differ from convlane's: {answer['losses']}, {expected}"


def memory_table(rows, runtimes):
    """Return a Markdown table of the memory that a step takes beyond that of the network and the optimiser."""
    lines = [f"| MB at the peak | batch | {' | '.join(runtimes)} |", "|---|--:|" + "--:|" * len(runtimes)]
    for model in dict.fromkeys(row.model for row in rows):
        row = next(row for row in rows if row.model == model)
        cells = [f"{row.megabytes[name]:.0f}" if name in row.megabytes else "-" for name in runtimes]
        lines.append(f"| {model} | {row.batch} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    peers.handle_signals()
    sys.exit(main())
