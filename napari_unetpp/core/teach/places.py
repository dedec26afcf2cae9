"""Where things of the user's are kept that must outlive a session.

Knows the system's habits; not what is kept.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import platformdirs

from napari_unetpp.core.errors import FileError

_NAME = "napari-unetpp"


def data_folder() -> Path:
    """Return the folder for the user's data; it need not exist.

    ``NAPARI_UNETPP_DATA`` goes before the system's own place.

    Raises
    ------
    FileError
        If the user has no home folder.
    """
    given = os.environ.get("NAPARI_UNETPP_DATA")
    return Path(given) if given else _absolute(platformdirs.user_data_dir(_NAME, appauthor=False))


def config_folder() -> Path:
    """Return the folder for small files of the user's; it need not exist.

    ``NAPARI_UNETPP_CONFIG`` goes before the system's own place. Raises what `data_folder` does.
    """
    given = os.environ.get("NAPARI_UNETPP_CONFIG")
    if given:
        return Path(given)
    return _absolute(platformdirs.user_config_dir(_NAME, appauthor=False, roaming=True))


def _absolute(path: str) -> Path:
    """Return a folder of the system's; what is left of one without a home is none."""
    if not os.path.isabs(path):
        raise FileError(
            f"there is no home folder to keep things in (got {path}); set NAPARI_UNETPP_DATA and "
            "NAPARI_UNETPP_CONFIG to folders of yours."
        )
    return Path(path)


def journal_folder() -> Path:
    """Return the folder of journals, and make it.

    Where the user has no home folder, or one that cannot be written to, it is in the system's
    temporary folder, which outlives a crash, if not always a restart of the computer.
    """
    with contextlib.suppress(OSError):
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
