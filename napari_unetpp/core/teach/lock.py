"""A lock that is held as long as its process lives, however that ends.

The system gives it back when the process is gone, so that no number of a process is to be
trusted. Knows files; not what is locked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path

_TRIES = 6
_PAUSE = 0.05
# What a file system says that knows no locks. There, everybody gets the lock.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Busy(OSError):
    """Somebody else holds the lock."""


class Lock:
    """A lock on a file beside what is locked; held from its making to `release`.

    Parameters
    ----------
    path : Path
        The file; made if it is not there.
    patience : float
        Seconds in which it is tried again.

    Raises
    ------
    Busy
        If somebody else holds it: another process, or another part of this one.
    OSError
        If the file cannot be made.
    """

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        self.path = path
        self._handle: int | None = None
        end = time.monotonic() + patience
        while True:
            try:
                self._handle = _take(path)
                return
            except Busy:
                if time.monotonic() >= end:
                    raise
                time.sleep(_PAUSE)

    def release(self) -> None:
        """Give the lock back and remove its file; harmless when it is called again."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if sys.platform == "win32":
            os.close(handle)
            with contextlib.suppress(OSError):  # somebody may have taken it already
                self.path.unlink(missing_ok=True)
            return
        # Removed while it is held: who opened it before sees that it is no more the file.
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path) -> int:
    for _ in range(_TRIES):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(handle)
            if _is_still(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise Busy(errno.EAGAIN, f"{path} is being taken by others")


def _lock(handle: int) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if sys.platform != "win32" and error.errno in _NO_LOCKS:
            return
        raise Busy(errno.EAGAIN, "the lock is held by somebody else") from error


def _is_still(handle: int, path: Path) -> bool:
    """Return whether the file that was locked is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
