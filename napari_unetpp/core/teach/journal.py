"""The file of one painted layer: what changed is appended, and written anew when it got long.

A journal is written by one process at a time, which holds its lock. What is in it is whole at
any moment: an append that was cut short is passed over when it is read, and a new file takes
the place of the old one at once. Knows files and records; neither layers nor threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from napari_unetpp.core.data.io.hidden import hidden_beside, remove, remove_abandoned
from napari_unetpp.core.errors import FileError
from napari_unetpp.core.teach.lock import Busy, Lock
from napari_unetpp.core.teach.records import FILE_MAGIC, encode

SUFFIX = ".journal"
LOCK_SUFFIX = ".lock"

HEADER = b"H"
"""Record: shape, dtype and what the layer is; JSON. The first one of a file."""

INFO = b"I"
"""Record: what the layer is by now; JSON."""

VALUES = b"V"
"""Record: the new values in a box."""

SAVED = b"S"
"""Record: all before it was saved elsewhere; JSON with the place."""


class Journal:
    """A journal that is open for writing.

    Parameters
    ----------
    path : Path
        The file; it need not exist before `rewrite`.
    lock : Lock
        Of this file; released by `close`.
    """

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path = path
        self._lock = lock
        self._stream: Any = None
        self._size = 0

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Begin a new journal in a folder, which is made; the file comes with `rewrite`.

        Raises
        ------
        FileError
            If the folder cannot be written to.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return cls(path, Lock(lock_path(path), patience=0.5))
        except OSError as error:
            raise _unwritable(path, error) from error

    @classmethod
    def claim(cls, path: Path) -> Self:
        """Take over the journal that an ended process left.

        Raises
        ------
        FileError
            If it is gone, or somebody else has it open.
        """
        try:
            lock = Lock(lock_path(path), patience=0.5)
        except Busy as error:
            raise FileError(
                f"the paint kept in {path.name} is open in another window of the viewer; "
                "go on there, or close it first."
            ) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        if not path.exists():
            lock.release()
            raise FileError(
                f"the paint kept in {path.name} is not there any more; it was restored or "
                "discarded in another window."
            )
        return cls(path, lock)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    @property
    def intact(self) -> bool:
        """Whether the file is the one that was written; False where somebody removed it."""
        if self._stream is None:
            return False
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        here = os.fstat(self._stream.fileno())
        return os.path.samestat(found, here) and found.st_size == self._size

    def rewrite(self, header: Mapping[str, Any], records: Iterable[bytes] = ()) -> None:
        """Write a whole new file; the old one stays until it is complete.

        Parameters
        ----------
        header : mapping
            Of the layer, plain JSON values.
        records : iterable of bytes
            Encoded.

        Raises
        ------
        FileError
            If it cannot be written; the old file is as it was.
        """
        staged = hidden_beside(self.path, SUFFIX)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with staged.open("wb") as stream:
                stream.write(FILE_MAGIC + encode(HEADER, _json(header)))
                stream.writelines(records)
                stream.flush()
                os.fsync(stream.fileno())
            self._shut()  # an open file cannot be replaced everywhere
            os.replace(staged, self.path)
            self._stream = self.path.open("ab")
            self._size = os.fstat(self._stream.fileno()).st_size
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            remove(staged)
        _sync_folder(self.path.parent)

    def append(self, records: Iterable[bytes]) -> None:
        """Add records; they are on the disk when this returns.

        Raises
        ------
        FileError
            If they cannot be written; then none of them is in the file.
        """
        if self._stream is None:
            raise FileError(f"{self.path} is not open; write it anew.")
        try:
            self._stream.writelines(records)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._size = self._stream.tell()
        except OSError as error:
            self._back()
            raise _unwritable(self.path, error) from error

    def close(self, *, delete: bool = False) -> None:
        """Let go of the file, for others to find, or remove it."""
        self._shut()
        if delete:
            remove(self.path)
            remove_abandoned(self.path)
        self._lock.release()

    def _back(self) -> None:
        """Cut off what was written in part; what cannot be cut off is passed over in reading."""
        stream, self._stream = self._stream, None
        with contextlib.suppress(OSError):
            stream.close()  # it may have bytes left that do not fit either
        with contextlib.suppress(OSError):
            os.truncate(self.path, self._size)
            self._stream = self.path.open("ab")
            self._stream.seek(0, os.SEEK_END)

    def _shut(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def info_record(info: Mapping[str, Any]) -> bytes:
    """Return the record that says what the layer is by now."""
    return encode(INFO, _json(info))


def saved_record(place: str) -> bytes:
    """Return the record that says that all before it was saved."""
    return encode(SAVED, _json({"place": place}))


def lock_path(path: Path) -> Path:
    """Return where the lock of a journal lies."""
    return path.with_name(path.name + LOCK_SUFFIX)


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError(
        f"paint cannot be kept in {path.parent} ({error.strerror or error}); painting goes on, "
        "but save the layer yourself, or free some space there."
    )


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too, where the system can be told so."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
