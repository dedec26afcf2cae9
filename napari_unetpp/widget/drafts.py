"""Fine-tuned models that were not saved yet: they lie in a folder of the user's, and stay.

A fine-tuning writes every improvement there at once, so that neither a crash nor a closed window
loses it; Save model as… copies one to where the user wants it. Knows files; no widget.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Set
from pathlib import Path

from napari_unetpp.core.data.io.atomic import replacing
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.model.cards import SUFFIX, read_card
from napari_unetpp.core.teach.places import data_folder

MOST = 40
"""Drafts that are kept; with more, the oldest go."""

ENDING = "-tuned"


def drafts_folder() -> Path:
    """Return the folder of the drafts; it need not exist.

    Raises
    ------
    FileError
        If the user has no home folder.
    """
    return data_folder() / "fine-tuned"


def is_draft(value: str) -> bool:
    """Whether the value of a model is a file among the drafts."""
    try:
        return bool(value) and Path(value).parent == drafts_folder()
    except FileError:  # nowhere to keep one
        return False


def new_draft(base: str, *needed: str) -> Path:
    """Return the path of a new draft, in a folder that is there.

    Parameters
    ----------
    base : str
        Name of the model that is fine-tuned.
    *needed : str
        Drafts that are in use: they stay, however old they are.

    Raises
    ------
    FileError
        If the folder cannot be made.
    """
    folder = drafts_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder, {Path(value) for value in needed})
    except OSError as error:
        raise FileError(
            f"the folder {folder} for fine-tuned models cannot be made ({error}); make it, or "
            "set NAPARI_UNETPP_DATA to another one."
        ) from error
    name = re.sub(r"[^\w-]+", "-", tuned_name(base)).strip("-") or "model"
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    path, number = folder / f"{name}-{stamp}{SUFFIX}", 2
    while path.exists():
        path, number = folder / f"{name}-{stamp}-{number}{SUFFIX}", number + 1
    return path


def tuned_name(base: str) -> str:
    """Return the name of a model fine-tuned from one of that name."""
    return base if base.endswith(ENDING) else base + ENDING


def draft_label(value: str) -> str:
    """Return what the list of models calls a draft."""
    stem = Path(value).stem
    name = re.sub(r"-\d{4}-\d\d-\d\d-\d{6}(-\d+)?$", "", stem)
    return f"{name.removesuffix(ENDING)} (fine-tuned)"


def save_copy(draft: str, target: str) -> Path:
    """Copy a draft to a file of the user's, whole or not at all.

    Parameters
    ----------
    draft : str
        The file.
    target : str
        Where to; the ending of model files is added where it is missing.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    InputError
        If the target is in the folder of the drafts.
    FileError
        If it cannot be read or written.
    """
    path = Path(target).absolute()
    if path.suffix.lower() != SUFFIX:
        path = path.with_name(path.name + SUFFIX)
    if path.parent == drafts_folder():
        raise InputError(
            f"{path.parent} keeps unsaved models and is tidied up; save the model elsewhere."
        )
    read_card(draft)  # says what is wrong with it before anything is written
    try:
        with replacing(path) as staged:
            shutil.copyfile(draft, staged)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"the model cannot be saved as {path} ({error}); try another.") from error
    return path


def forget_draft(value: str) -> None:
    """Delete a draft that was saved elsewhere."""
    if is_draft(value):
        with contextlib.suppress(OSError):
            Path(value).unlink()


def _prune(folder: Path, needed: Set[Path]) -> None:
    old = sorted(folder.glob(f"*{SUFFIX}"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in (path for path in old[MOST:] if path not in needed):
        with contextlib.suppress(OSError):
            path.unlink()
