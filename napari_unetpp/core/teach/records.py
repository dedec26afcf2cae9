"""Records in a file that is only ever appended to: each with its length and checksum.

A record that was cut short, because the process was killed in the midst of writing it or the
disk was full, is passed over; those before and after it are read. Knows bytes; what a record
says is for others to know.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

FILE_MAGIC = b"napari-unetpp journal 1\n"
"""What a journal begins with."""

_MAGIC = b"\xa5\x5aUP"
_HEAD = struct.Struct("<4sII")  # magic, length of what follows, its checksum


@dataclass(frozen=True)
class Record:
    """What was appended at once.

    Attributes
    ----------
    kind : bytes
        One letter: what the payload is.
    payload : bytes
        Any.
    """

    kind: bytes
    payload: bytes


def encode(kind: bytes, payload: bytes) -> bytes:
    """Return the bytes of a record.

    Parameters
    ----------
    kind : bytes
        One letter.
    payload : bytes
        Up to 4 GB.
    """
    body = kind + payload
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def decode(data: bytes, start: int = 0) -> Iterator[Record]:
    """Walk over the whole records in `data`.

    Parameters
    ----------
    data : bytes
        Contents of a journal.
    start : int
        Where the first record begins.

    Yields
    ------
    Record
        In the order of writing; damaged ones are left out.
    """
    at = start
    while (at := data.find(_MAGIC, at)) >= 0:
        if at + _HEAD.size >= len(data):
            return
        _, length, check = _HEAD.unpack_from(data, at)
        first = at + _HEAD.size
        body = data[first : first + length]
        if length < 1 or len(body) < length or zlib.crc32(body) != check:
            at += 1
            continue
        yield Record(body[:1], body[1:])
        at = first + length
