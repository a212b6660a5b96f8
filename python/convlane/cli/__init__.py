"""The command ``convlane``; each subcommand is one file with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from convlane._version import __version__
from convlane.cli import bench, convert, demo, explain, info, predict, run, summary
from convlane.cli._common import CommandError

_COMMANDS = {
    **{"bench": bench, "convert": convert, "demo": demo, "explain": explain, "info": info},
    **{"predict": predict, "run": run, "summary": summary},
}
_INTERRUPTED = 128 + 2  # what a shell reports for SIGINT
_UNREAD = 128 + 13  # and for SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 130 for Ctrl-C, 141 for a closed pipe.

    Ctrl-C works even if the process was started with it ignored, as by shells without job control for ``&``; a handler
    that the caller has installed is not replaced. Wrong usage raises ``SystemExit`` with code 2, as usual with
    argparse.
    """
    command = ""
    try:
        with _interruptible(), _output():
            args = _parser().parse_args(argv)
            command = f" {args.command}"
            _COMMANDS[args.command].run(args)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # as in ``convlane ... | head``
        return _UNREAD
    except (CommandError, MemoryError, OSError) as error:
        print(f"convlane{command}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` if it was ignored."""
    in_main = threading.current_thread() is threading.main_thread()  # other threads cannot install handlers
    ignored = in_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _output() -> Iterator[None]:
    """Escape file names that are not text, and flush the output, so that its errors are caught here."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with suppress(OSError), open(os.devnull, "wb") as nowhere:  # Python flushes once more at exit
                os.dup2(nowhere.fileno(), stream.fileno())
            raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convlane", description="A fast CPU backend for convolutional networks.")
    parser.add_argument("--version", action="version", version=f"convlane {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        summary = (command.__doc__ or "").partition("\n")[0]
        command.add_arguments(subparsers.add_parser(name, help=summary, description=summary))
    return parser
