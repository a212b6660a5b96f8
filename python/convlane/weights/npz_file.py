"""Arrays of NumPy's ``.npz`` files: plain numbers only; headers are matched, not evaluated."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane.safetensors_file import shown
from convlane.weights.archive import Archive, Entry, loaded_bytes

SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4}  # versions of the format, and how many bytes hold the header's length
_MOST_HEADER = 10_000  # bytes, as in NumPy
_HEADER = re.compile(
    rb"\{'descr': '(?P<type>[^']*)', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[0-9, ]*)\),? ?\}\s*"
)
_TYPES = re.compile(r"[<>|]([fiu][1248]|b1)")
_MOST_DIMENSIONS = 32  # NumPy 1's limit


def read_npz(archive: Archive) -> dict[str, NDArray[Any]]:
    """Return the arrays of an archive whose entries all end in ``.npy``; a ValueError says what is wrong."""
    arrays = {}
    total = largest = 0
    for name, entry in archive.entries.items():
        with archive.open(name) as stream:
            array = _read_array(stream, entry.file_size)
        arrays[name.removesuffix(SUFFIX)] = array
        total, largest = total + loaded_bytes(array.size, array.dtype), max(largest, array.nbytes)
        archive.check_total(total + largest)  # arrays become float32 one at a time
    return arrays


def _read_array(stream: Entry, size: int) -> NDArray[Any]:
    start = stream.read_some(len(_MAGIC) + 2)
    version = start[len(_MAGIC) :]
    if not start.startswith(_MAGIC) or version not in _LENGTH_BYTES:
        raise ValueError(f"it is not an array of NumPy's format 1.0 or 2.0: it begins with {start!r}")
    length_bytes = stream.read_some(_LENGTH_BYTES[version])
    length = int.from_bytes(length_bytes, "little")
    if length > _MOST_HEADER:
        raise ValueError(f"its header would take {length} bytes; at most {_MOST_HEADER} are allowed")
    header = stream.read_some(length)
    match = _HEADER.fullmatch(header)
    if not match:
        raise ValueError(f"its header must give the type, order and shape of plain numbers, got {shown(header)}")
    kind = match["type"].decode("latin1")
    if not _TYPES.fullmatch(kind):
        raise ValueError(f"it holds {shown(kind)}, which are not plain numbers; nothing that needs pickle is read")
    try:
        dtype = np.dtype(kind)
    except TypeError:
        raise ValueError(f"it has the unknown type {shown(kind)}") from None
    shape = _shape(match["shape"].decode("latin1"))
    begin = len(start) + len(length_bytes) + len(header)
    if math.prod(shape) * dtype.itemsize != size - begin:
        raise ValueError(f"an array of shape {shown(shape)} and type {dtype} cannot have {size - begin} bytes")
    if math.prod(max(side, 1) for side in shape) * dtype.itemsize > 2**63 - 1:
        raise ValueError(f"it has the shape {shown(shape)}, whose product overflows")
    array = np.empty(shape[::-1] if match["fortran"] == b"True" else shape, dtype)
    stream.read_into(array)
    if dtype.kind == "b":
        array = array.view(np.uint8) != 0  # the file may hold any byte
    return array.T if match["fortran"] == b"True" else array


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not sizes[-1].strip():  # after the last comma, or in the empty tuple
        sizes.pop()
    if len(sizes) > _MOST_DIMENSIONS or not all(re.fullmatch(r" ?[0-9]{1,19}", size) for size in sizes):
        raise ValueError(f"it has the shape {shown(text)}; it must be up to {_MOST_DIMENSIONS} sizes")
    return tuple(int(size) for size in sizes)
