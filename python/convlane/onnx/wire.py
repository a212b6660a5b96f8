"""Locates the data of a file's initialisers, so that protobuf need not hold it a second time.

The format is protobuf's: a message is a sequence of fields, each a key (field number and wire type) and, for some
types, a length, as varints of seven bits a byte (https://protobuf.dev/programming-guides/encoding). Only the nesting of
lengths is checked here; anything unusual is left to protobuf, which refuses or understands it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # of ModelProto, GraphProto and TensorProto, in onnx.proto
_LARGE = 1 << 12  # bytes; smaller ones are left in the message
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class ByteRange(NamedTuple):
    """A range of bytes in a file."""

    start: int
    size: int


class _Field(NamedTuple):
    number: int
    kind: int
    at: int
    """Offset of its key."""
    start: int
    """Offset of its contents."""
    end: int


class _Odd(Exception):
    """Something encoded in an unusual way."""


def without_numbers(stream: BinaryIO, size: int) -> tuple[bytes, dict[int, ByteRange]]:
    """Read a file without the bytes of large initialisers; return it without them, and where they are.

    Returns
    -------
    message : bytes
        A file in which these initialisers have no `raw_data`.
    ranges : dict
        The range of each, by the initialiser's index.
    """
    try:
        return _without_numbers(stream, size)
    except _Odd:
        stream.seek(0)
        return stream.read(), {}


def _without_numbers(stream: BinaryIO, size: int) -> tuple[bytes, dict[int, ByteRange]]:
    ranges: dict[int, ByteRange] = {}
    model: list[bytes] = []
    count = 0
    for field in _fields(stream, 0, size):
        if field.number != _GRAPH or field.kind != _LENGTH:
            model.append(_bytes(stream, field.at, field.end))
            continue
        graph: list[bytes] = []
        begun = field.start  # of what has not been copied yet
        for each in _fields(stream, field.start, field.end):
            if each.number != _INITIALIZER or each.kind != _LENGTH:
                continue
            raw = [part for part in _fields(stream, each.start, each.end) if part.number == _RAW_DATA]
            if len(raw) == 1 and raw[0].kind == _LENGTH and raw[0].end - raw[0].start >= _LARGE:
                (cut,) = raw
                ranges[count] = ByteRange(cut.start, cut.end - cut.start)
                rest = _bytes(stream, each.start, cut.at) + _bytes(stream, cut.end, each.end)
                graph += [_bytes(stream, begun, each.at), _message(_INITIALIZER, rest)]
                begun = each.end
            count += 1
        graph.append(_bytes(stream, begun, field.end))
        model.append(_message(_GRAPH, b"".join(graph)))
    return b"".join(model), ranges


def _fields(stream: BinaryIO, at: int, end: int) -> Iterator[_Field]:
    while at < end:
        stream.seek(at)
        head = stream.read(20)  # a key and a length of ten bytes at most
        key, used = _integer(head, 0)
        number, kind = key >> 3, key & 7
        if kind == _LENGTH:
            length, used = _integer(head, used)
            after = at + used + length
        elif kind == _VARINT:
            after = at + _integer(head, used)[1]
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            after = at + used + (8 if kind == _EIGHT_BYTES else 4)
        else:
            raise _Odd
        if after > end:
            raise _Odd
        yield _Field(number, kind, at, at + used, after)
        at = after


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """Return an integer and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Odd
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Odd


def _message(number: int, contents: bytes) -> bytes:
    head = bytearray([number << 3 | _LENGTH])
    length = len(contents)
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + contents


def _bytes(stream: BinaryIO, start: int, end: int) -> bytes:
    stream.seek(start)
    return stream.read(end - start)
