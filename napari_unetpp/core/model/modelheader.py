"""The header of a model file: a table of tensors, the card, and a hash of everything.

Layout of a file: 8 bytes with the length of the header, the header as JSON, then the tensors'
bytes; this is safetensors, so any reader of that format opens it. It is read here byte by
byte, because a file that is foreign, cut short, changed or hostile must end in one sentence
before anything large is allocated. This module knows numpy's types and the card, and no
network.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import ModelFileError
from napari_unetpp.core.model.cardcheck import parse_card

FORMAT_VERSION = 1
FORMAT_KEY, CARD_KEY, HASH_KEY = (f"napari_unetpp.{key}" for key in ("format", "card", "sha256"))

_MAX_HEADER = 16 * 2**20  # a card and the table of some hundred tensors stay far below
_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of the header's table.

    Attributes
    ----------
    dtype : dtype
        Of the stored numbers.
    shape : tuple of int
        Shape.
    start, stop : int
        Where its bytes lie, counted from the first byte of data.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What the header of a model file says.

    Attributes
    ----------
    table : dict of str to Entry
        The tensors by name.
    card : ModelCard
        The card.
    sha256 : str
        Hash of `hashed` and the data, as the file states it.
    hashed : bytes
        The header in canonical form, without the hash itself.
    data_at : int
        Where the data begins in the file.
    """

    table: dict[str, Entry]
    card: ModelCard
    sha256: str
    hashed: bytes
    data_at: int


def read_header(stream: BinaryIO, size: int, path: Path) -> Header:
    """Read and check everything but the weights.

    Parameters
    ----------
    stream : binary file
        At its beginning; left at the first byte of data.
    size : int
        Of the whole file, in bytes.
    path : Path
        For the message.

    Returns
    -------
    Header
        Whose table fills the rest of the file exactly.

    Raises
    ------
    ModelFileError
        If the file is of another kind, program or version, or is damaged.
    """
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
        raise ModelFileError(f"{path} is not a model file: {_guess(start)}; expected .safetensors.")
    try:
        raw = json.loads(stream.read(length).decode("utf-8"))
        meta = raw.pop("__metadata__", {})
        table = {name: _entry(value) for name, value in raw.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is not a model file: its header cannot be read ({error or 'damaged'}); "
            f"expected .safetensors."
        ) from error
    if not isinstance(meta, dict) or FORMAT_KEY not in meta:
        raise ModelFileError(
            f"{path} is a safetensors file of another program, expected one with a model card; "
            "train or choose a model of napari-unetpp."
        )
    version, text, digest = (meta.get(key) for key in (FORMAT_KEY, CARD_KEY, HASH_KEY))
    if version != str(FORMAT_VERSION):
        raise ModelFileError(
            f"{path} has format version {version!r}, this package reads {FORMAT_VERSION}; "
            "update napari-unetpp."
        )
    if not isinstance(text, str) or not isinstance(digest, str):
        raise ModelFileError(f"{path} lacks its card or its hash; get the file again.")
    _check_extent(table, size - 8 - length, path)
    return Header(table, parse_card(text, path), digest, _hashed(raw, text), 8 + length)


def _entry(value: Mapping[str, Any]) -> Entry:
    """Read one row of the header's table; raises what `read_header` catches."""
    shape, (start, stop) = value["shape"], value["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise ValueError("a shape or an offset is not a whole number")
    dtype = _DTYPES[value["dtype"]]
    if math.prod(shape) * dtype.itemsize != stop - start:
        raise ValueError("a tensor's shape does not fit its bytes")
    return Entry(dtype, tuple(shape), start, stop)


def _check_extent(table: Mapping[str, Entry], available: int, path: Path) -> None:
    """Compare the table with the file: tensors follow one another and fill it."""
    at = 0
    for entry in sorted(table.values(), key=lambda e: (e.start, e.stop)):
        if entry.start != at:
            raise ModelFileError(f"{path} is damaged: its tensors overlap; get the file again.")
        at = entry.stop
    if at != available:
        what = "is cut short" if at > available else "has extra bytes"
        raise ModelFileError(
            f"{path} {what}: expected {at} bytes of weights, got {available}; get it again."
        )


def encode(arrays: Mapping[str, NDArray[Any]], card: str) -> bytes:
    """Return the bytes of a file; the same input always gives the same bytes.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Little-endian float16, float32 or int64.
    card : str
        The card as JSON.

    Returns
    -------
    bytes
        Header and data.
    """
    # Wider types first keeps every tensor aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    table: dict[str, Any] = {}
    at = 0
    for name in order:
        array = arrays[name]
        stop = at + array.nbytes
        table[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, stop],
        }
        at = stop
    data = b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in order)
    digest = hashlib.sha256(_hashed(table, card) + data).hexdigest()
    meta = {FORMAT_KEY: str(FORMAT_VERSION), CARD_KEY: card, HASH_KEY: digest}
    text = json.dumps({"__metadata__": meta, **table}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _hashed(table: Mapping[str, Any], card: str) -> bytes:
    """Return the canonical form of the header that goes into the hash."""
    values = [FORMAT_VERSION, card, table]
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\0"


def _guess(start: bytes) -> str:
    """Say what a file seems to be by its first bytes."""
    if not start:
        return "it is empty"
    if start.startswith(b"PK"):
        return "it is a zip archive, perhaps a PyTorch file, which could run code"
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "it is a pickle, which could run code"
    if start.isascii() and start.decode("ascii").isprintable():
        return "it is text"
    return "it is of another kind or was cut short"
