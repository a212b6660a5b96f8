"""Time a network on random input: eager, as models.create makes it, compiled, or compiled and autotuned."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from convlane import _core, machine, models, runtime
from convlane._version import __version__
from convlane.cli._common import CommandError, positive, thread_count, time_network
from convlane.cli._networks import KNOWN, input_shape, is_file, model_or_file, read_network


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", type=model_or_file, default="resnet50", help=KNOWN)
    parser.add_argument("--batch", type=positive, default=1, help="images per call (default 1)")
    parser.add_argument("--size", type=positive, help="height and width of an image (default: the network's own)")
    parser.add_argument("--threads", type=thread_count, default=runtime.get_num_threads(), help="default: all")
    parser.add_argument("--repeat", type=positive, default=20, help="timed calls (default 20)")
    parser.add_argument("--warmup", type=positive, default=3, help="calls before the timed ones (default 3)")
    parser.add_argument("--compiled", action="store_true", help="time the network's compiled plan")
    parser.add_argument(
        "--autotune",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="time a plan whose algorithms were chosen by timing; FILE caches these times",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    model: Any
    if is_file(args.model):
        model = read_network(args.model)
        shape = input_shape(model, args.batch, args.size)
    else:
        model = models.create(args.model)
        channels, *size = models.input_shape(args.model)
        shape = (args.batch, channels, *([args.size] * 2 if args.size else size))
    compiled = args.compiled or args.autotune is not False
    try:
        image = np.random.default_rng(0).standard_normal(shape, np.float32)
        with runtime.num_threads(args.threads):
            timing = time_network(
                model, image, args.repeat, args.warmup, args.model, compiled=compiled, autotune=args.autotune
            )
    except (OverflowError, ValueError) as error:
        raise CommandError(f"{args.model} with an input of shape {shape}: {error}") from None
    result = {
        "model": args.model,
        "batch": args.batch,
        "size": shape[2],
        "compiled": compiled,
        "autotuned": args.autotune is not False,
        "best ms": round(timing.best_ms, 3),
        "median ms": round(timing.median_ms, 3),
        "p90 ms": round(timing.p90_ms, 3),
        "images/s": round(timing.images_per_second, 2),
        "GFLOP/s": round(timing.gflops, 1),
        "% of FMA peak": round(timing.percent_of_peak, 1),
        "instruction set": _core.active_isa(),
        "threads": args.threads,
        "convlane": __version__,
        "CPU": machine.cpu_name(),
    }
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:>20}: {value}" for name, value in result.items()))
