"""Child processes whose SIGINT is as the test says, not as the shell left it to pytest."""

import sys

INTERRUPTS = ("SIG_DFL", "SIG_IGN")  # in the foreground, and behind `&` in a shell without job control
_LAUNCHER = """
import os, signal, sys
signal.signal(signal.SIGINT, getattr(signal, sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def python(interrupts, *arguments):
    """Return a command that runs Python with these arguments and with SIGINT set to one of `INTERRUPTS`."""
    return [sys.executable, "-c", _LAUNCHER, interrupts, sys.executable, *arguments]
