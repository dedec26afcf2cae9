"""Hidden names beside a target: made, removed, and removed for those who could not.

This module must not know what is written under them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import time
import uuid
import zlib
from pathlib import Path

import psutil

# Ends the name of a folder that stepped aside for a new one: until that is there, the only copy.
ASIDE = ".old"
# Times that a folder is removed again because somebody still wrote into it, and seconds between.
_TRIES = 6
_PAUSE = 0.05
# 40 characters of the name are enough for people; some file systems allow 255 bytes.
_SHOWN = 40


def _host() -> str:
    """Return a mark of this computer: numbers of processes mean nothing on another one."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def final_place(path: Path) -> Path:
    """Return what a target replaces: the path itself, or what it leads to if it is a link."""
    return path.resolve() if path.is_symlink() else path


def hidden_beside(path: Path, suffix: str = "") -> Path:
    """Return an unused hidden name in the folder of `path` that says whose it is.

    The suffix of the name is kept, because some writers go by it.
    """
    owner = f"{os.getpid()}-{_host()}-{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.name[:_SHOWN]}.{owner}{suffix}")


def remove(path: Path) -> None:
    """Remove a file or folder if it is there; never raises for one that cannot be removed."""
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        for _ in range(_TRIES):
            # A thread that was not done when it was told to stop may write one more file.
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                return
            time.sleep(_PAUSE)


def remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed left beside `path`; never raises.

    A folder that stepped aside is removed only where its successor is in place.
    """
    ours = re.compile(rf"\.{re.escape(path.name[:_SHOWN])}\.(\d+)-{_host()}-[0-9a-f]{{8}}(\..*)?")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            found = ours.fullmatch(name)
            if found is None or psutil.pid_exists(int(found[1])):
                continue
            if found[2] == ASIDE and (len(path.name) > _SHOWN or not path.exists()):
                continue
            remove(path.parent / name)
