"""A training set in a folder: images, what was painted on them, and how strokes were split.

The folder is plain files (``docs/projects.md``), for every program that reads JSON and TIFF.
Everything is written at once or not at all, the list of pairs last. Knows images and files; no
viewer, no network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image
from napari_unetpp.core.data.io.hidden import remove
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.model.cards import SUFFIX as MODEL_SUFFIX
from napari_unetpp.core.teach.lock import Busy, Lock
from napari_unetpp.core.teach.pair import Pair
from napari_unetpp.core.teach.pixels import IMAGE_SUFFIX, in_file, shaped, write_image, write_labels
from napari_unetpp.core.teach.projectfile import (
    FILE,
    ProjectData,
    Row,
    file_stem,
    read_project,
    tell_place,
    unused,
    write_project,
)
from napari_unetpp.core.tune.strokes import Split, load_split, save_split, split_path

__all__ = ["Pair", "Project"]

PAINTED, IMAGES = "painted", "images"
_LOCK = ".project.lock"
_PATIENCE = 5.0


class Project:
    """A folder with pairs of images and painted labels.

    Use `create` or `open`.

    Attributes
    ----------
    folder : Path
        Absolute.
    """

    def __init__(self, folder: Path, data: ProjectData) -> None:
        self.folder = folder
        self._data = data

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] = "",
        classes: Sequence[ClassInfo] = (),
    ) -> Self:
        """Make a project in a folder, which is made.

        Raises
        ------
        InputError
            If there is a project in it already.
        FileError
            If it cannot be written to.
        """
        place = Path(os.path.abspath(folder))
        if (place / FILE).exists():
            raise InputError(f"{place} is a project already; open it, or choose another folder.")
        made = cls(place, ProjectData(classes=tuple(classes)))
        made._data = replace(made._data, base=made._base_text(base))
        write_project(place, made._data)
        return made

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open the project of a folder; its ``project.json`` may be named as well.

        Raises
        ------
        FileError
            If there is none, or it is not understood.
        """
        place = Path(os.path.abspath(folder))
        if place.name == FILE and not place.is_dir():
            place = place.parent
        return cls(place, read_project(place))

    @property
    def base(self) -> str:
        """Name or absolute path of the base model; ``scratch``; empty if none is chosen."""
        text = self._data.base
        return str(self._absolute(text)) if text.endswith(MODEL_SUFFIX) else text

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Classes of the painted values 2, 3, ..."""
        return self._data.classes

    def set_base(self, base: str | os.PathLike[str]) -> None:
        """Name the base model: a bundled one, ``scratch``, or the path of a model file."""
        text = self._base_text(base)
        self._change(lambda data: replace(data, base=text))

    def set_classes(self, classes: Sequence[ClassInfo]) -> None:
        """Name the classes of the painted values 2, 3, ..."""
        self._change(lambda data: replace(data, classes=tuple(classes)))

    def pairs(self) -> tuple[Pair, ...]:
        """Return the pairs in the order in which they were added."""
        return tuple(self._pair(row) for row in self._data.rows)

    def pair(self, name: str) -> Pair:
        """Return a pair by its name.

        Raises
        ------
        InputError
            If there is none of that name.
        """
        return self._pair(self._row(name))

    def add(
        self,
        image: Image | str | os.PathLike[str],
        painted: Any,
        *,
        painted_axes: str | None = None,
        name: str | None = None,
        channel: int | None = None,
        split: Split | None = None,
    ) -> Pair:
        """Add a pair, and write what is painted.

        Parameters
        ----------
        image : Image or path
            An image that has no file, or whose file holds something else (one channel of
            several, say), is written into the folder as OME-TIFF; a file stays where it is.
        painted : array-like or Image
            Whole numbers: 0 unlabelled, 1 background, 2 and more the classes; of the image's
            shape without channels.
        painted_axes : str, optional
            Of an array; the image's without channels if None.
        name : str, optional
            The image's if None; a number is added where it is taken.
        channel : int, optional
            Of the image.
        split : Split, optional
            Of its strokes, if it was tuned on before: parts of `name` are kept, under the pair's
            name.

        Returns
        -------
        Pair
            With the name that it got.

        Raises
        ------
        InputError
            If the shapes do not fit, or something else than labels is painted.
        FileError
            If it cannot be written.
        """
        source = image if isinstance(image, Image) else read_image(image)
        labels = _labels_of(painted, painted_axes, source)
        _check_shapes(source, labels)
        with self._changing() as data:
            title = unused(name or source.name or "image", [row.name for row in data.rows])
            stem = file_stem(title, [_stem(row.painted) for row in data.rows] + self._stems())
            try:
                part = _part_of(split or Split(), name or source.name, title)
                row = self._add(data, source, labels, title, stem, channel, part)
            except Exception:
                self._drop(stem)
                raise
        return self._pair(row)

    def update(self, name: str, painted: Any, *, painted_axes: str | None = None) -> Pair:
        """Write what is painted on the image of a pair by now; its split of strokes stays.

        Takes and raises what :meth:`add` does.
        """
        row = self._row(name)
        letters = painted_axes or row.painted_axes
        labels = painted if isinstance(painted, Image) else Image.from_array(painted, letters)
        sizes = dict(zip(row.painted_axes, row.painted_shape, strict=True))
        if labels.sizes != sizes:
            raise InputError(
                f"the painted labels of {name!r} must have shape {_text(sizes)}, got "
                f"{_text(labels.sizes)}; paint on a layer made for this image."
            )
        write_labels(self.folder / row.painted, labels, row.spacing, row.unit)
        return self._pair(row)

    def relink(self, name: str, path: str | os.PathLike[str]) -> Pair:
        """Say where the image of a pair is now.

        Raises
        ------
        InputError
            If what is there has another shape.
        FileError
            If it cannot be read.
        """
        row = self._row(name)
        shaped(read_image(path), row.axes, row.shape, name)
        relative, absolute = tell_place(Path(path), self.folder)
        moved = replace(row, image=relative, absolute=absolute)
        self._change(
            lambda data: replace(
                data, rows=tuple(moved if r.name == name else r for r in data.rows)
            )
        )
        return self._pair(moved)

    def remove(self, name: str) -> None:
        """Take a pair out of the list; all of its files stay, for paint cannot be made again.

        Raises
        ------
        InputError
            If there is none of that name.
        """
        self._row(name)
        self._change(lambda data: replace(data, rows=tuple(r for r in data.rows if r.name != name)))

    def split(self, seed: int = 0) -> Split:
        """Return how the strokes of all pairs were split the last time."""
        whole = Split(seed)
        for pair in self.pairs():
            if not pair.split_path.exists():
                continue
            part = load_split(pair.split_path, seed)
            whole.seed = part.seed
            for name in part.shapes:
                # The command line, given the labels alone, knows no pair.
                own = name if "#" in name else f"{pair.name}#{name}"
                whole.shapes[own], whole.sides[own] = part.shapes[name], part.sides[name]
        return whole

    def save_split(self, split: Split) -> None:
        """Keep how strokes were split, each pair's beside its painted labels."""
        for pair in self.pairs():
            part = _part_of(split, pair.name, pair.name)
            if part.shapes:
                save_split(pair.split_path, part)

    def _add(
        self, data: ProjectData, image: Image, labels: Image, title: str, stem: str,
        channel: int | None, split: Split,
    ) -> Row:  # fmt: skip
        place = self.folder / PAINTED / f"{stem}.tif"
        axes, shape, relative, absolute = self._keep_image(image, stem)
        painted_axes, painted_shape = write_labels(place, labels, image.spacing, image.unit)
        remove(split_path(place))  # of labels that someone deleted
        row = Row(
            title, relative, absolute, f"{PAINTED}/{stem}.tif", axes, painted_axes, shape,
            painted_shape, channel, image.spacing, image.unit, _rows_of(image.affine),
        )  # fmt: skip
        if split.shapes:
            save_split(split_path(place), split)
        self._write(replace(data, rows=(*data.rows, row)))
        return row

    def _drop(self, stem: str) -> None:
        """Remove what was written of a pair that could not be added: no other has its stem."""
        painted = self.folder / PAINTED / f"{stem}.tif"
        for path in (painted, split_path(painted), self.folder / IMAGES / f"{stem}{IMAGE_SUFFIX}"):
            remove(path)

    def _stems(self) -> list[str]:
        """Return the stems of files that are there, those of pairs that were taken out too."""
        found = [p.name.removesuffix(".tif") for p in (self.folder / PAINTED).glob("*.tif")]
        images = (self.folder / IMAGES).glob(f"*{IMAGE_SUFFIX}")
        return found + [p.name.removesuffix(IMAGE_SUFFIX) for p in images]

    def _keep_image(self, image: Image, stem: str) -> tuple[str, tuple[int, ...], str, str]:
        """Return axes, shape, relative and absolute place of an image, which has a file then."""
        if image.path is not None and in_file(image):
            return (image.axes, image.shape, *tell_place(image.path, self.folder))
        relative = f"{IMAGES}/{stem}{IMAGE_SUFFIX}"
        axes, shape = write_image(self.folder / relative, image)
        return axes, shape, relative, ""

    def _base_text(self, base: str | os.PathLike[str]) -> str:
        text = os.fspath(base)
        return tell_place(Path(text), self.folder)[0] if text.endswith(MODEL_SUFFIX) else text

    def _absolute(self, text: str, second: str = "") -> Path:
        first = Path(os.path.normpath(self.folder / text))
        return Path(second) if second and not first.exists() and Path(second).exists() else first

    def _row(self, name: str) -> Row:
        for row in self._data.rows:
            if row.name == name:
                return row
        known = ", ".join(row.name for row in self._data.rows) or "none"
        raise InputError(f"the project has no pair named {name!r}; there are: {known}.")

    def _pair(self, row: Row) -> Pair:
        return Pair(
            row.name, self._absolute(row.image, row.absolute), self.folder / row.painted,
            row.axes, row.channel, row.spacing, row.unit, row,
        )  # fmt: skip

    def _change(self, change: Callable[[ProjectData], ProjectData]) -> None:
        with self._changing() as data:
            self._write(change(data))

    def _write(self, data: ProjectData) -> None:
        write_project(self.folder, data)
        self._data = data

    @contextmanager
    def _changing(self) -> Iterator[ProjectData]:
        """Give what the file says now; nobody else changes it meanwhile."""
        try:
            lock = Lock(self.folder / _LOCK, _PATIENCE)
        except Busy as error:
            raise FileError(
                f"the project {self.folder} is being changed by another program; try again."
            ) from error
        except OSError as error:
            raise FileError(
                f"the project {self.folder} cannot be changed ({error.strerror or error}); check "
                "that its folder may be written to."
            ) from error
        try:
            self._data = read_project(self.folder)
            yield self._data
        finally:
            lock.release()


def _labels_of(painted: Any, axes: str | None, image: Image) -> Image:
    if isinstance(painted, Image):
        return painted
    letters = axes or "".join(a for a in image.axes if a not in "CS")
    return Image.from_array(painted, letters, name=image.name)


def _check_shapes(image: Image, labels: Image) -> None:
    expected = {a: n for a, n in image.sizes.items() if a not in "CS"}
    if labels.sizes != expected:
        raise InputError(
            f"the painted labels of {image.name!r} must have the image's shape "
            f"{_text(expected)}, got {_text(labels.sizes)}; paint on a layer made for this image."
        )


def _part_of(split: Split, name: str, title: str) -> Split:
    """Return the part of a split that is of one image, under the name that its pair has."""
    ours = {p: f"{title}#{p.rpartition('#')[2]}" for p in split.shapes if _image_of(p) == name}
    return Split(
        split.seed,
        {new: split.shapes[old] for old, new in ours.items()},
        {new: split.sides[old] for old, new in ours.items() if old in split.sides},
    )


def _image_of(part: str) -> str:
    return part.rpartition("#")[0]


def _rows_of(affine: NDArray[np.float64] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if affine is None else tuple(tuple(float(v) for v in row) for row in affine)


def _stem(painted: str) -> str:
    return Path(painted).name.removesuffix(".tif")


def _text(sizes: dict[str, int]) -> str:
    return " x ".join(f"{a}={n}" for a, n in sizes.items())
