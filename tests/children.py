"""Child processes whose SIGINT handler is set by the test, not inherited from pytest's shell, and their workers."""

import os
import sys
from pathlib import Path

INTERRUPTS = ("SIG_DFL", "SIG_IGN")  # in the foreground, and after `&` in a shell without job control
_LAUNCHER = """
import os, signal, sys
signal.signal(signal.SIGINT, getattr(signal, sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def python(interrupts, *arguments):
    """Return a command that runs Python with these arguments and with SIGINT set to one of `INTERRUPTS`."""
    return [sys.executable, "-c", _LAUNCHER, interrupts, sys.executable, *arguments]


def workers(folder):
    """Return the workers of benchmarks whose environment names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # it has just ended, or belongs to another user
            continue
        if b"_worker.py" in arguments and os.fsencode(folder) in environment:
            found.append(process.name)
    return found
