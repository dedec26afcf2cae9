"""What stands in ``project.json``: read with care, written as it is documented.

See ``docs/projects.md``. Knows JSON and paths; no pixels.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.data.io.atomic import replacing
from napari_unetpp.core.errors import FileError
from napari_unetpp.core.teach.info import read_classes

FILE = "project.json"
FORMAT = "napari-unetpp project"
VERSION = 1

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 100  # bytes; endings are added, and some file systems allow 255


@dataclass(frozen=True)
class Row:
    """One pair, as the file has it.

    Attributes
    ----------
    name : str
        Stays the same for good: the split of strokes is kept by it.
    image : str
        Relative to the folder with ``/``, or absolute.
    absolute : str
        Where the image was when it was added, if it lies outside of the folder.
    painted : str
        Relative to the folder.
    axes, painted_axes : str
        A letter for each axis of the image, and of the painted labels.
    shape, painted_shape : tuple of int
        Of both.
    channel : int, optional
        Of the image.
    spacing : tuple of float, optional
        In the order Z, Y, X.
    unit : str, optional
        Of the spacing.
    affine : tuple of tuple of float, optional
        4 x 4, array index (z, y, x, 1) to RAS in mm, of an image whose file does not say it.
    """

    name: str
    image: str
    absolute: str
    painted: str
    axes: str
    painted_axes: str
    shape: tuple[int, ...]
    painted_shape: tuple[int, ...]
    channel: int | None = None
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    affine: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave; raises KeyError, TypeError or ValueError if it is not."""
        painted = PurePosixPath(str(values["painted"]))
        if painted.is_absolute() or ".." in painted.parts or "\\" in str(painted):
            raise ValueError(f"{painted} lies outside of the folder")
        spacing, channel, unit = (values.get(key) for key in ("spacing", "channel", "unit"))
        affine = values.get("affine")
        return cls(
            name=str(values["name"]),
            image=str(values["image"]),
            absolute=str(values.get("image_absolute", "")),
            painted=str(painted),
            axes=str(values["axes"]),
            painted_axes=str(values["painted_axes"]),
            shape=tuple(int(n) for n in values["shape"]),
            painted_shape=tuple(int(n) for n in values["painted_shape"]),
            channel=None if channel is None else int(channel),
            spacing=None if spacing is None else tuple(float(s) for s in spacing),
            unit=None if unit is None else str(unit),
            affine=None if affine is None else tuple(tuple(float(v) for v in r) for r in affine),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what is not known is left out."""
        values = dataclasses.asdict(self)
        absolute = values.pop("absolute")
        if absolute:
            values["image_absolute"] = absolute
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class ProjectData:
    """All of the file.

    Attributes
    ----------
    base : str
        Name of a bundled model, ``scratch``, or the path of a model file; empty if none is
        chosen.
    classes : tuple of ClassInfo
        Of the painted values 2, 3, ...
    rows : tuple of Row
        The pairs, in the order in which they were added.
    """

    base: str = ""
    classes: tuple[ClassInfo, ...] = ()
    rows: tuple[Row, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        classes = [
            {"value": k, "name": c.name, "color": c.color} for k, c in enumerate(self.classes, 2)
        ]
        return {
            "format": FORMAT,
            "version": VERSION,
            "base": self.base,
            "classes": classes,
            "pairs": [row.to_json() for row in self.rows],
        }


def read_project(folder: Path) -> ProjectData:
    """Read the file of a folder.

    Raises
    ------
    FileError
        If there is none, or it is not understood.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileError(
            f"{folder} is no project: there is no {FILE} in it; choose the folder of a project, "
            "or save one there."
        ) from error
    except (OSError, ValueError) as error:
        raise FileError(
            f"the project {path} cannot be read ({error}); get it from a backup, or make a new one."
        ) from error
    try:
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']!r}")
        version = int(values["version"])
        if version > VERSION:
            raise FileError(
                f"the project {path} is of version {version}, this program knows {VERSION}; "
                "update it."
            )
        rows = tuple(Row.from_json(row) for row in values["pairs"])
        if len({row.name for row in rows}) != len(rows):
            raise ValueError("two pairs have the same name")
        return ProjectData(str(values["base"]), read_classes(values["classes"]), rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"the project {path} is not understood ({error}); it is damaged or foreign."
        ) from error


def write_project(folder: Path, data: ProjectData) -> None:
    """Write the file of a folder; the old one stays until the new one is complete.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    text = json.dumps(data.to_json(), ensure_ascii=False, indent=2) + "\n"
    with replacing(folder / FILE) as staged, staged.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def tell_place(path: Path, folder: Path) -> tuple[str, str]:
    """Return how a file is named in the project of a folder: relative, and absolute or empty.

    The absolute name is kept for files outside of the folder, which may be moved without them;
    it is the only one where no relative one exists (another drive).
    """
    whole = Path(os.path.abspath(path))
    home = Path(os.path.abspath(folder))
    if whole.is_relative_to(home):
        return whole.relative_to(home).as_posix(), ""
    try:
        return Path(os.path.relpath(whole, home)).as_posix(), str(whole)
    except ValueError:
        return str(whole), str(whole)


def file_stem(name: str, taken: Collection[str]) -> str:
    """Return a file name without ending for a name, on any system, that is not taken.

    Parameters
    ----------
    name : str
        Any; letters of all scripts and spaces stay.
    taken : collection of str
        Stems that exist; upper and lower case are the same on some systems.
    """
    stem = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name)).strip(" .")
    stem = stem.encode()[:_LONGEST].decode(errors="ignore").strip(" .")
    if not stem or _RESERVED.fullmatch(stem):
        stem = f"{stem or 'image'}_"
    return unused(stem, taken)


def unused(name: str, taken: Collection[str]) -> str:
    """Return a name, or the first of ``name (2)``, ``name (3)``, ... that is not taken."""
    known = {t.casefold() for t in taken}
    number, found = 1, name
    while found.casefold() in known:
        number += 1
        found = f"{name} ({number})"
    return found
