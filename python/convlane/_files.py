"""Opening files whose paths come from users."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO


def open_regular(path: str | bytes | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading.

    Raises
    ------
    OSError
        If it cannot be opened.
    ValueError
        If it is a pipe, a device or the like: reading these may block or never end.
    """
    stream = open(path, "rb", opener=_nonblocking)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise ValueError(f"{os.fsdecode(path)}: it is not a regular file")
    return stream


def _nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would otherwise wait for a writer
