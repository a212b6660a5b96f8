"""Compare convlane with other CPU runtimes on the same networks: ``python benchmarks/peers.py --help``.

Each measurement is one process of benchmarks/peer_worker.py, and no two of them exist at the same time, because
spinning threads of one runtime would slow down the others. The runtimes alternate over several rounds. The method is
described in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from itertools import product
from pathlib import Path

import convlane
from convlane import machine, models, runtime
from convlane.cli._common import model_name, positive, thread_count
from convlane.models.registry import preparations

# The packages that each runtime needs; torch exports the graphs that the others import.
_TORCH = ("torch", "torchvision")
_ONNX = (*_TORCH, "onnx", "onnxscript")
PACKAGES = {
    "convlane": (),
    "ncnn": (*_TORCH, "ncnn", "pnnx"),
    "onnxruntime": (*_ONNX, "onnxruntime"),
    "opencv": (*_ONNX, "opencv-python-headless"),
    "openvino": (*_ONNX, "openvino"),
    "torch": _TORCH,
}
NETWORKS = ("alexnet", "vgg16", "resnet18", "resnet50", "googlenet", "mobilenet_v2", "efficientnet_b0")
ALL = "torchvision"
"""Stands for all classification networks of torchvision that convlane has."""
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
BESIDE = "number of other processes that each keep a core busy meanwhile, as on a shared machine; default 0"
WORKER = Path(__file__).with_name("peer_worker.py")
_TIMEOUT = 900  # seconds; a worker takes a few
_WIDTH = 20  # of a column


@dataclass
class Row:
    """One network in one setting: the milliseconds of every call by runtime, or the reason why a runtime has none."""

    model: str
    threads: int
    batch: int
    ms: dict[str, list[float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def figure(self, name, statistic):
        """Return a runtime's time in ms, or None if it has none."""
        return statistic(self.ms[name]) if self.ms.get(name) and name not in self.problems else None

    def ratio(self, statistic):
        """Return the best peer's time divided by convlane's; above 1, convlane is the fastest."""
        ours = self.figure("convlane", statistic)
        peers = [self.figure(name, statistic) for name in self.ms if name != "convlane"]
        peers = [time for time in peers if time is not None]
        return min(peers) / ours if ours and peers else None


def main(argv=None):
    args = parse(argv)
    missing = {name: [p for p in PACKAGES[name] if not _is_installed(p)] for name in args.runtimes}
    runtimes = [name for name in args.runtimes if not missing[name]]
    for name in args.runtimes:
        if missing[name]:
            print(f"{name} is left out: {', '.join(missing[name])} not installed", file=sys.stderr)
    rows, report = timed(compare, args, runtimes, PACKAGES)
    report["size"] = args.size
    text = "\n".join([*summary(report), "", *table(rows, runtimes)])
    publish(args, "peers", report, text, *_markers(args.section))
    chart(rows, runtimes, args.out / "peers.png")
    return exit_status(rows)


def publish(args, name, report, text, begin, end):
    """Print the text, write the report into the folder, and insert the text in the document, if there is one."""
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(with_section(args.markdown.read_text(), text, begin, end))


def exit_status(rows):
    """Return 1 if anything went wrong in a row, else 0."""
    return 1 if any(row.problems for row in rows) else 0


def timed(compare, args, runtimes, packages_of):
    """Measure the rows; return them and a description of the run. Ctrl-C ends the program as shells expect it."""
    load = os.getloadavg()[0]
    try:
        rows = compare(args, runtimes)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    packages = sorted({package for name in runtimes for package in packages_of[name]})
    return rows, describe(args, packages, rows, load)


def parse(argv):
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(prog="peers", description="Compare convlane with other CPU runtimes.")
    known = [name for name in NETWORKS if name in models.list()]
    cpus = sorted({1, len(os.sched_getaffinity(0))})
    help_models = f"default: %(default)s; {ALL} stands for all of its networks"
    parser.add_argument("--models", type=_networks, default=known, help=help_models)
    parser.add_argument("--runtimes", type=list_of(runtime_of(PACKAGES)), default=list(PACKAGES), help="default: all")
    parser.add_argument("--threads", type=list_of(thread_count), default=cpus, help="default: one and all")
    parser.add_argument("--batch", type=list_of(positive), default=[1, 8], help="images per call, default 1,8")
    parser.add_argument("--size", type=positive, default=224, help="height and width of an image, default 224")
    parser.add_argument("--beside", type=busy_count, default=0, help=BESIDE)
    parser.add_argument("--rounds", type=positive, default=5, help="processes per runtime and row, default 5")
    parser.add_argument("--seconds", type=seconds, default=1.0, help="timed calls per process, default 1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and images, default 0")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of peers.json and peers.png")
    parser.add_argument("--markdown", type=Path, help="also rewrite the results in this file, between its markers")
    parser.add_argument("--section", default="peers", help="which markers, default: %(default)s")
    args = parser.parse_args(argv)
    if "convlane" not in args.runtimes:
        parser.error("argument --runtimes: convlane must be among them")
    if args.seed < 0:
        parser.error(f"argument --seed: must be at least 0, got {args.seed}")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --out: {error}")
    if args.markdown:
        try:
            with_section(args.markdown.read_text(), "", *_markers(args.section))
        except (OSError, ValueError) as error:
            parser.error(f"argument --markdown: {error}")
    return args


def compare(args, runtimes):
    """Measure every row; the files of only one network exist at a time."""
    rows = []
    for model in args.models:
        with tempfile.TemporaryDirectory(prefix="convlane-peers-") as folder:
            network = {"folder": folder, "model": model}
            options = {"batches": args.batch, "size": args.size, "seed": args.seed, "runtimes": runtimes}
            try:
                problems = run_worker(WORKER, task="prepare", **network, **options)
            except WorkerError as error:
                problems = dict.fromkeys(runtimes, str(error))
            for threads, batch in product(args.threads, args.batch):
                row = Row(model, threads, batch, {name: [] for name in runtimes}, dict(problems))
                with beside(args.beside):
                    take_turns(row, args.rounds, partial(measure, row, task={**network, "seconds": args.seconds}))
                rows.append(row)
    return rows


def take_turns(row, rounds, measure):
    """Call measure(name) in every round for all runtimes of a row that have no problem, and print the row."""
    runtimes = list(row.ms)
    for number in range(rounds):
        first = number % len(runtimes)  # each round begins with another runtime
        for name in runtimes[first:] + runtimes[:first]:
            if name not in row.problems:
                measure(name)
    print(*table([row], runtimes)[2:], sep="\n", file=sys.stderr, flush=True)


@contextlib.contextmanager
def beside(count):
    """Run some other busy processes, which end with this one in any case; yield their PIDs."""
    loop = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    pass"
    with contextlib.ExitStack() as running:
        found = []
        for _ in range(count):
            process = running.enter_context(subprocess.Popen([sys.executable, "-c", loop], stdin=subprocess.DEVNULL))
            running.callback(process.kill)
            found.append(process.pid)
        yield found


def measure(row, name, task):
    """Add one process's times to the row, or the reason why there are none."""
    try:
        answer = run_worker(WORKER, task="measure", runtime=name, threads=row.threads, batch=row.batch, **task)
    except WorkerError as error:
        row.problems[name] = str(error)
        return
    if answer["ms"]:
        row.ms[name] += answer["ms"]
    else:
        row.problems[name] = f"wrong output, off by {answer['error']:.1e} of the largest"


def handle_signals():
    """Raise exceptions on Ctrl-C and SIGTERM, which end the worker, too; a shell may have made Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class WorkerError(Exception):
    """A worker has failed; the message gives the reason in one line."""


def run_worker(worker, **task):
    """Run one task of a script in a process of its own."""
    pipe = subprocess.PIPE
    with started([sys.executable, str(worker), json.dumps(task)], stdout=pipe, stderr=pipe) as process:
        try:
            out, err = process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise WorkerError(f"no answer within {_TIMEOUT} s") from None
    if process.returncode:
        raise WorkerError((err.strip().splitlines() or [f"left with code {process.returncode}"])[-1])
    return json.loads(out)


@contextlib.contextmanager
def started(command, **options):
    """Start a process in a process group that is killed when this context is left, for whatever reason."""
    # Signals are kept back while the process starts: one that came in between would leave an orphan. Blocking them
    # would not be enough: a signal mask belongs to one thread, and a thread of a numerical library would receive the
    # signal.
    waiting = []
    handlers = {
        number: signal.signal(number, lambda number, frame: waiting.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    def restore_handlers():
        for number, handler in handlers.items():
            signal.signal(number, handler)
        while waiting:
            signal.raise_signal(waiting.pop())

    try:
        process = subprocess.Popen(command, text=True, start_new_session=True, **options)
        try:
            restore_handlers()
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
    finally:
        restore_handlers()


# report


def describe(args, packages, rows, load):
    """Return a description of the run for JSON; `packages` are those of the other runtimes."""
    statistics_of = {"best": min, "median": statistics.median}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "CPU": machine.cpu_name(),
        "load before": load,
        "FMA peak GFLOP/s": {threads: round(machine.fma_peak(threads) / 1e9, 1) for threads in args.threads},
        "DRAM read GB/s": {threads: round(_dram_bandwidth(threads), 1) for threads in args.threads},
        "instruction set": runtime.config()["active"],
        "versions": {"convlane": convlane.__version__, **{package: metadata.version(package) for package in packages}},
        "beside": vars(args).get("beside", 0),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "geometric mean": {name: geometric_mean(rows, statistic) for name, statistic in statistics_of.items()},
        "rows": [
            {
                "model": row.model,
                "threads": row.threads,
                "batch": row.batch,
                "runtimes": {
                    name: {"calls": len(times), **{s: row.figure(name, of) for s, of in statistics_of.items()}}
                    for name, times in row.ms.items()
                },
                "problems": row.problems,
                "ratio": {s: row.ratio(of) for s, of in statistics_of.items()},
            }
            for row in rows
        ],
    }


def summary(report):
    """Return the lines above the table: date, machine, versions."""
    limits = "; ".join(
        f"{_threads(threads)}: {peak} GFLOP/s, {report['DRAM read GB/s'][threads]} GB/s"
        for threads, peak in report["FMA peak GFLOP/s"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    busy = f" beside {report['beside']} busy processes," if report["beside"] else ""
    return [
        f"- {report['CPU']}, {report['instruction set']}; FMA peak and DRAM reads with {limits}",
        f"- {versions}",
        f"- {report['date']},{busy} {report['rounds']} rounds of {report['seconds']:g} s, load before the run"
        f" {report['load before']:.1f}; ms best / median",
    ]


def table(rows, runtimes):
    """Return a Markdown table of best / median ms, the ratios, their geometric mean, and a list of the problems."""
    columns = [*runtimes, "best peer / convlane"]
    header = " | ".join(f"{name:>{_WIDTH}}" for name in columns)
    lines = [f"| {'network':<16} | threads | batch | {header} |", "|---|--:|--:|" + "--:|" * len(columns)]
    for row in rows:
        cells = [_pair(row.figure(name, min), row.figure(name, statistics.median)) for name in runtimes]
        cells.append(_pair(row.ratio(min), row.ratio(statistics.median)))
        text = " | ".join(f"{cell:>{_WIDTH}}" for cell in cells)
        lines.append(f"| {row.model:<16} | {row.threads:>7} | {row.batch:>5} | {text} |")
    if len(rows) > 1:
        mean = _pair(geometric_mean(rows, min), geometric_mean(rows, statistics.median))
        text = " | ".join(f"{cell:>{_WIDTH}}" for cell in [""] * len(runtimes) + [mean])
        lines.append(f"| {'geometric mean':<16} | {'':>7} | {'':>5} | {text} |")
    problems = [(row, name, problem) for row in rows for name, problem in row.problems.items()]
    if problems:
        lines.append("")
    for row, name, problem in problems:
        lines.append(f"- {name}, {row.model}, {_threads(row.threads)}, batch {row.batch}: {problem}")
    return lines


def geometric_mean(rows, statistic):
    """Return the geometric mean of the rows' ratios, None if no row has one."""
    ratios = [ratio for row in rows if (ratio := row.ratio(statistic)) is not None]
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None


def chart(rows, runtimes, path):
    """Draw every runtime's median time relative to convlane's, one panel per setting; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path} is left out: matplotlib not installed", file=sys.stderr)
        return
    settings = list(dict.fromkeys((row.threads, row.batch) for row in rows))
    figure = Figure(figsize=(4 + 1.2 * len(rows) / len(settings), 3 * len(settings)), layout="constrained")
    panels = figure.subplots(len(settings), squeeze=False)[:, 0]
    width = 0.8 / len(runtimes)
    for panel, (threads, batch) in zip(panels, settings, strict=True):
        shown = [row for row in rows if (row.threads, row.batch) == (threads, batch)]
        for position, name in enumerate(runtimes):
            times = [row.figure(name, statistics.median) for row in shown]
            ours = [row.figure("convlane", statistics.median) for row in shown]
            heights = [time / own if time and own else 0 for time, own in zip(times, ours, strict=True)]
            offset = (position - (len(runtimes) - 1) / 2) * width
            panel.bar([x + offset for x in range(len(shown))], heights, width, label=name)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_xticks(range(len(shown)), [row.model for row in shown])
        panel.set_ylabel("time / convlane's")
        panel.set_title(f"{_threads(threads)}, batch {batch} (median, lower is faster)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(runtimes))
    figure.savefig(path, dpi=120)


def with_section(document, text, begin=BEGIN, end=END):
    """Return the document with the text between its two markers replaced."""
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the file must contain the lines {begin} and {end}, in this order")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


# small helpers


def _is_installed(package):
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _pair(best, median):
    return "-" if best is None else f"{best:.2f} / {median:.2f}"


def _threads(count):
    return f"{count} thread{'s' if count > 1 else ''}"


def _dram_bandwidth(threads):
    return machine.read_bandwidth(1 << 28, threads) / 1e9


def list_of(convert):
    """Argument type: a list separated by commas, without duplicates."""

    def items(text):
        return list(dict.fromkeys(convert(item.strip()) for item in text.split(",")))

    return items


def _networks(text):
    """Argument type: names of networks, separated by commas."""
    if text == ALL:
        return sorted(preparations()[ALL])
    return list_of(model_name)(text)


def _markers(section):
    return BEGIN.replace("peers", section), END.replace("peers", section)


def runtime_of(names):
    """Argument type: one of these runtimes."""

    def checked(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"unknown runtime {text!r}; there are {', '.join(names)}")
        return text

    return checked


def busy_count(text):
    """Argument type: a number of processes."""
    number = int(text)
    if not 0 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1024, got {text}")
    return number


def seconds(text):
    number = float(text)
    if not 0 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"must be between 0 and 3600, got {text}")
    return number


if __name__ == "__main__":
    handle_signals()
    sys.exit(main())
