"""Which models there are, and what their cards say, without a network.

The viewer's process reads names and cards here and never loads torch; weights are the
business of :mod:`core.model.modelfile`. Knows files and cards; must not know torch, images
or front ends.
"""

from __future__ import annotations

import difflib
import importlib.resources
import os
from pathlib import Path
from typing import BinaryIO

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.model.modelheader import read_header

SUFFIX = ".safetensors"


def bundled_models() -> dict[str, Path]:
    """Return the models that come with the package, by name."""
    folder = Path(str(importlib.resources.files("napari_unetpp"))) / "models"
    return {path.stem: path for path in sorted(folder.glob(f"[!.]*{SUFFIX}"))}


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the path of a model; a bundled name goes before a file of that name.

    Parameters
    ----------
    name_or_path : str or path
        A name from :func:`bundled_models`, or the path of a file.

    Returns
    -------
    Path
        Where it lies; whether a path that was given exists is not looked at.

    Raises
    ------
    InputError
        If a name is not bundled.
    """
    text = os.fspath(name_or_path)
    bundled = bundled_models()
    if isinstance(name_or_path, str):
        if text in bundled:
            return bundled[text]
        path = Path(text)
        if not (path.suffix or os.sep in text or "/" in text or os.path.isfile(text)):
            close = difflib.get_close_matches(text, bundled, n=1)
            hint = f"did you mean {close[0]}?" if close else "give one of them or a file."
            known = ", ".join(bundled) or "none"
            raise InputError(f"there is no model named {text!r}; bundled are: {known}; {hint}")
    return Path(text)


def read_card(name_or_path: str | os.PathLike[str]) -> ModelCard:
    """Read the card of a model without its weights, whose hash is not checked then.

    Parameters
    ----------
    name_or_path : str or path
        A name from :func:`bundled_models`, or the path of a file.

    Returns
    -------
    ModelCard
        The card.

    Raises
    ------
    InputError
        If a name is not bundled.
    FileError
        If there is no such file or it cannot be read.
    ModelFileError
        If the file is not a model of this package, is cut short or of a newer format.
    """
    path = resolve(name_or_path)
    with opened(path) as stream:
        return read_header(stream, os.fstat(stream.fileno()).st_size, path).card


def read_identity(name_or_path: str | os.PathLike[str]) -> str:
    """Return the hash that a model file says it has, 64 hexadecimal digits, unchecked.

    Takes and raises what :func:`read_card` does.
    """
    path = resolve(name_or_path)
    with opened(path) as stream:
        return read_header(stream, os.fstat(stream.fileno()).st_size, path).sha256


def opened(path: Path) -> BinaryIO:
    """Open a model file for reading, or say what stands in the way."""
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that is too long
        raise FileError(f"expected a model file, got the folder {path}; name a file in it.")
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        known = ", ".join(bundled_models()) or "none"
        raise FileError(
            f"there is no model file {path}; check the path or name a bundled model ({known})."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"the model file {path} cannot be read ({error}); check it.") from error
