"""Zip files of unknown origin: unique names of entries, verified checksums, and no zip bombs."""

from __future__ import annotations

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from convlane.safetensors_file import shown

_MOST_GROWTH = 20  # how many times the file's size its content may take; trained weights hardly compress
_ALWAYS_ALLOWED = 2**26  # bytes
_ENCRYPTED = 1  # the bit of the flags
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OverflowError)


def loaded_bytes(count: int, dtype: np.dtype[Any]) -> int:
    """Return the bytes that so many numbers take once loaded: half precision (a record of bits) becomes float32."""
    return count * (4 if dtype.kind in "fV" else dtype.itemsize)


def check_growth(nbytes: int, size: int) -> None:
    """Refuse to load too many bytes for a file of this size, which must have been made to exhaust the memory."""
    most = max(_ALWAYS_ALLOWED, _MOST_GROWTH * size)
    if nbytes > most:
        raise ValueError(f"its {size} bytes describe {nbytes} bytes of content; at most {most} are allowed")


class Archive:
    """An open zip file without encryption and without two entries of the same name."""

    entries: Mapping[str, zipfile.ZipInfo]
    size: int
    """The size of the file, in bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.size = os.fstat(stream.fileno()).st_size
        with _damage():
            self._zip = zipfile.ZipFile(stream)
        self.entries = {entry.filename: entry for entry in self._zip.infolist()}
        if len(self.entries) != len(self._zip.infolist()):
            names = sorted(self._zip.namelist())
            twice = next(name for name, following in pairwise(names) if name == following)
            raise ValueError(f"the entry {shown(twice)} occurs twice")
        for name, entry in self.entries.items():
            if entry.flag_bits & _ENCRYPTED:
                raise ValueError(f"the entry {shown(name)} is encrypted")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"the entry {shown(name)} is compressed by the unknown method {entry.compress_type}")
        self.check_total(sum(entry.file_size for entry in self.entries.values()))

    def check_total(self, nbytes: int) -> None:
        """Refuse to unpack too many bytes for a file of this size."""
        check_growth(nbytes, self.size)

    def read(self, name: str, most: int) -> bytes:
        """Return a whole entry of at most so many bytes, after verifying its checksum."""
        if self.entries[name].file_size > most:
            raise ValueError(f"the entry {shown(name)} has {self.entries[name].file_size} bytes, more than {most}")
        with self.open(name) as stream:
            return stream.read_all(self.entries[name].file_size)

    @contextmanager
    def open(self, name: str) -> Iterator[Entry]:
        """Open an entry; if anything is wrong with it, a ValueError names it."""
        with _damage(f"the entry {shown(name)}: "), self._zip.open(self.entries[name]) as stream:
            yield Entry(stream)


class Entry:
    """An open entry of an archive."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read_some(self, count: int) -> bytes:
        """Return so many bytes, fewer only at the end."""
        data: bytes = self._stream.read(count)
        return data

    def read_all(self, count: int) -> bytes:
        """Return the rest, which must have so many bytes."""
        data: bytes = self._stream.read(count)
        self._check_end(len(data), count)
        return data

    def read_into(self, array: NDArray[Any]) -> None:
        """Fill a contiguous array with the rest, which must have its size."""
        memory, done = array.reshape(-1).view(np.uint8).data, 0
        while done < len(memory) and (count := self._stream.readinto(memory[done : done + 2**20])):
            done += count
        self._check_end(done, len(memory))

    def _check_end(self, got: int, expected: int) -> None:
        if got != expected or self._stream.read(1):  # the checksum is verified by reading past the end
            raise ValueError(f"it does not have the {expected} bytes that it should")


@contextmanager
def _damage(what: str = "") -> Iterator[None]:
    """Turn everything that a damaged zip file can raise into a ValueError."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(f"{what}{error}") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # it seeks to a nonsensical position
            raise
        raise ValueError(f"{what}{error}") from error
    except ValueError as error:
        raise ValueError(f"{what}{error}") from error
