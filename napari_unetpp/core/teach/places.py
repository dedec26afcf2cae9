"""Where things of the user's are kept that must outlive a session.

Knows the system's habits; not what is kept.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

_NAME = "napari-unetpp"


def data_folder() -> Path:
    """Return the folder for the user's data; it need not exist.

    ``NAPARI_UNETPP_DATA`` goes before the system's own place.

    Raises
    ------
    RuntimeError
        If the user has no home folder.
    """
    given = os.environ.get("NAPARI_UNETPP_DATA")
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / _NAME


def journal_folder() -> Path:
    """Return the folder of journals, and make it.

    Where the user has no home folder, or one that cannot be written to, it is in the system's
    temporary folder, which outlives a crash, if not always a restart of the computer.
    """
    with contextlib.suppress(OSError, RuntimeError):
        folder = data_folder() / "journal"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    user = os.getuid() if hasattr(os, "getuid") else 0
    shared = Path(tempfile.gettempdir()) / f"{_NAME}-{user}"
    with contextlib.suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        # Somebody else may have been there first.
        if not shared.is_symlink() and (not hasattr(os, "getuid") or shared.stat().st_uid == user):
            return shared
    return Path(tempfile.mkdtemp(prefix=f"{_NAME}-"))
