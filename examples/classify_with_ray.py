"""Classify a folder of pictures in several workers of Ray; the classes go into Parquet files.

Each worker holds the network once and gets the paths of a few pictures at a time. A file that is not a picture, or a
damaged one, becomes a row with the reason. If a worker dies, its work is done by another.

    pip install 'convlane[ray]'
    python -c 'import convlane; from convlane import models
    convlane.compile(models.create("mobilenet_v2").eval(), (None, 3, 224, 224)).save("network.plan", packed=True)'
    python examples/classify_with_ray.py pictures --plan network.plan --model mobilenet_v2 --out classes

In a cluster (``ray start``), pictures and plan must have the same paths on all machines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas
import ray

from convlane.data import imagenet_categories, preprocessing
from convlane.scale import BatchPredictor, BestClass


def classify(
    pictures: Path,
    plan: Path,
    out: Path,
    prepare: Callable,
    *,
    names: tuple = (),
    workers: int,
    threads: int,
    batch: int,
) -> None:
    """Write the results for all files in a folder: path, class_index, probability, category and error."""
    files = ray.data.from_items([{"path": str(file)} for file in sorted(pictures.rglob("*")) if file.is_file()])
    classes = files.map_batches(
        BatchPredictor,
        fn_constructor_args=(plan, prepare, BestClass(names or None)),
        batch_size=batch,
        num_cpus=threads,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    classes.write_parquet(str(out))


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--plan", type=Path, required=True, help="a file written by Plan.save, for any batch size")
    parser.add_argument("--model", required=True, help="the network's name, which determines how pictures are prepared")
    parser.add_argument("--out", type=Path, default=Path("classes"), help="a new folder for Parquet files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()

    sizes = {"workers": args.workers, "threads": args.threads, "batch": args.batch}
    classify(args.pictures, args.plan, args.out, preprocessing(args.model), names=imagenet_categories(), **sizes)
    table = pandas.read_parquet(args.out)
    print(f"{len(table)} files, {(table['error'] != '').sum()} of them with an error; see {args.out}")


if __name__ == "__main__":
    main()
