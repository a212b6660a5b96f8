"""Classify a folder of pictures in several workers of Dask; the classes go into Parquet files.

Each worker holds the network once and gets the paths of a few pictures at a time. A file that is not a picture, or a
damaged one, becomes a row with the reason. If a worker dies, its work is done by another.

    pip install 'convlane[dask]'
    python -c 'import convlane; from convlane import models
    convlane.compile(models.create("mobilenet_v2").eval(), (None, 3, 224, 224)).save("network.plan", packed=True)'
    python examples/classify_with_dask.py pictures --plan network.plan --model mobilenet_v2 --out classes

With ``--scheduler tcp://...`` it uses an existing cluster; pictures and plan must then have the same paths on all
machines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import dask.dataframe
import pandas
from dask.distributed import Client, LocalCluster

from convlane.data import imagenet_categories, preprocessing
from convlane.scale import BatchPredictor, BestClass

COLUMNS = {"path": "str", "class_index": "int64", "probability": "float32", "category": "str", "error": "str"}


def classify(pictures: Path, plan: Path, out: Path, prepare: Callable, *, names: tuple, batch: int) -> None:
    """Write the results for all files in a folder: path, class_index, probability, category and error."""
    files = pandas.DataFrame({"path": [str(file) for file in sorted(pictures.rglob("*")) if file.is_file()]})
    classes = dask.dataframe.from_pandas(files, chunksize=batch).map_partitions(
        BatchPredictor(plan, prepare, BestClass(names)), meta=COLUMNS
    )
    classes.to_parquet(out)


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
    parser.add_argument("--scheduler", help="address of a cluster's scheduler (default: start workers on this machine)")
    args = parser.parse_args()

    local = {"n_workers": args.workers, "threads_per_worker": args.threads, "dashboard_address": None}
    with Client(args.scheduler) if args.scheduler else LocalCluster(**local).get_client():
        names = imagenet_categories()
        classify(args.pictures, args.plan, args.out, preprocessing(args.model), names=names, batch=args.batch)
    table = pandas.read_parquet(args.out)
    print(f"{len(table)} files, {(table['error'] != '').sum()} of them with an error; see {args.out}")


if __name__ == "__main__":
    main()
