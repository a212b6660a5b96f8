"""The command ``convlane``. Each subcommand is one file with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import convlane
from convlane.cli import bench, demo, explain, info, predict, summary
from convlane.cli._common import CommandError

_COMMANDS = {"bench": bench, "demo": demo, "explain": explain, "info": info, "predict": predict, "summary": summary}
_INTERRUPTED = 128 + 2  # what a shell reports for SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 130 for Ctrl-C.

    Wrong usage leaves through ``SystemExit`` with code 2, as usual with argparse.
    """
    args = _parser().parse_args(argv)
    try:
        _COMMANDS[args.command].run(args)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (CommandError, MemoryError, OSError) as error:
        print(f"convlane {args.command}: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convlane", description="A fast CPU backend for convolutional networks.")
    parser.add_argument("--version", action="version", version=f"convlane {convlane.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        summary = (command.__doc__ or "").partition("\n")[0]
        command.add_arguments(subparsers.add_parser(name, help=summary, description=summary))
    return parser
