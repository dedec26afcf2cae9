"""The models that the dock offers: bundled ones, files used lately, files chosen now.

Knows names, files and cards; no weights, no widget and no engine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.cards import SUFFIX, bundled_models, read_card
from napari_unetpp.widget.drafts import draft_label, is_draft
from napari_unetpp.widget.settings import MOST_RECENT, read_recent, write_recent

Group = Literal["bundled", "file", "recent"]

#: What most people who open the dock look at.
FIRST = "nuclei"


@dataclass(frozen=True)
class ModelEntry:
    """A model to choose.

    Attributes
    ----------
    label : str
        What is shown.
    value : str
        What it is: the name of a bundled model, or an absolute path.
    group : {"bundled", "file", "recent"}
        Where it comes from; "file" was chosen since the dock was opened.
    tooltip : str
        What it finds, or where it lies.
    """

    label: str
    value: str
    group: Group
    tooltip: str


class LevelFigure(NamedTuple):
    """What a card says of a level.

    Attributes
    ----------
    score : float or None
        Held-out score, 0 to 1.
    score_name : {"IoU", "Dice"}
        What it is.
    seconds : float or None
        For a megapixel or megavoxel, on the machine that the card names.
    unit : {"megapixel", "megavoxel"}
        Which of them.
    strokes : bool
        The score is of held-out strokes and not of whole images.
    """

    score: float | None
    score_name: str
    seconds: float | None
    unit: Literal["megapixel", "megavoxel"]
    strokes: bool = False


class ModelList:
    """The models that can be chosen, in order."""

    def __init__(self) -> None:
        self._files: list[str] = []  # chosen since the dock was opened, the latest first
        self._recent = read_recent()
        self._cards: dict[tuple[str, int, int], ModelCard] = {}

    def entries(self) -> list[ModelEntry]:
        """Return what can be chosen; a file of earlier that is gone is left out.

        Returns
        -------
        list of ModelEntry
            Bundled models, then files chosen now, then those used lately. A file chosen now
            stays when it vanishes and says that it is missing.
        """
        found = [
            ModelEntry(name, name, "bundled", self._about(name))
            for name in sorted(bundled_models(), key=lambda n: (n != FIRST, n))
        ]
        there = {value: os.path.isfile(value) for value in (*self._files, *self._recent)}
        values = [(v, "file") for v in self._files]
        values += [(v, "recent") for v in self._recent if there[v] and not _in(v, self._files)]
        labels = _labels([v for v, _ in values])
        for (value, group), label in zip(values, labels, strict=True):
            missing = "" if there[value] else " (missing)"
            tooltip = self._about(value) if there[value] else f"There is no file {value} any more."
            chosen: Group = "file" if group == "file" else "recent"
            found.append(ModelEntry(label + missing, value, chosen, tooltip))
        return found

    def card(self, value: str) -> ModelCard:
        """Return the card of a model; it is read again only when the file has changed.

        Raises
        ------
        InputError
            If a name is not bundled.
        FileError
            If the file is gone or cannot be read.
        ModelFileError
            If it is no model of this package.
        """
        path = bundled_models().get(value, Path(value))
        try:
            about = path.stat()
        except OSError:
            return read_card(value)  # says what is wrong
        key = (value, about.st_mtime_ns, about.st_size)
        if key not in self._cards:
            self._cards[key] = read_card(value)
        return self._cards[key]

    def add_file(self, path: str | os.PathLike[str]) -> ModelCard:
        """Offer a model file that the user chose or dropped.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        ModelCard
            What it says.

        Raises
        ------
        InputError
            If the name does not end as a model's does.
        FileError
            If there is no such file, or it cannot be read.
        ModelFileError
            If it is no model of this package, or is damaged.
        """
        value = _absolute(path)
        if not value.lower().endswith(SUFFIX) and os.path.isfile(value):
            name = os.path.basename(value)
            raise InputError(
                f"expected a model file that ends in {SUFFIX}, got {name}; open images with "
                "File > Open."
            )
        card = self.card(value)
        self._files = [value, *(v for v in self._files if not _same(v, value))]
        self.remember(value)
        return card

    def remember(self, value: str | os.PathLike[str]) -> None:
        """Put a model file at the top of those used lately; bundled ones need no memory."""
        text = os.fspath(value)
        if text in bundled_models():
            return
        text = _absolute(text)
        # Other windows write the list too, so it is read anew.
        recent = [text, *(v for v in read_recent() if not _same(v, text))][:MOST_RECENT]
        if recent != self._recent or recent != read_recent():
            self._recent = recent
            write_recent(recent)

    def label(self, value: str) -> str:
        """Return what the list calls a model; its file's name where it is not in the list."""
        names = {entry.value: entry.label for entry in self.entries()}
        return names.get(value, Path(value).stem)

    def forget(self, value: str) -> None:
        """Offer a file no longer."""
        self._files = [v for v in self._files if not _same(v, value)]
        self._recent = [v for v in read_recent() if not _same(v, value)]
        write_recent(self._recent)

    def _about(self, value: str) -> str:
        """Return the tooltip of a model; for a file that cannot be read, why."""
        try:
            card = self.card(value)
        except (ValueError, OSError) as error:
            return str(error)
        classes = ", ".join(c.name for c in card.classes)
        lines = [f"{card.name}: {len(card.axes)}D, {classes}"]
        lines += [card.description] if card.description else []
        lines += [value] if value not in bundled_models() else []
        lines += ["Not saved yet: Save model as… keeps it."] if is_draft(value) else []
        return "\n".join(lines)


def figures(card: ModelCard) -> dict[int | str, LevelFigure]:
    """Return what a card says of each of its levels.

    Parameters
    ----------
    card : ModelCard
        With scores (the mean over images is taken, or that of all pixels) and times.

    Returns
    -------
    dict of int or "ensemble" to LevelFigure
        IoU for one class in 2D, Dice for volumes and for several classes. A level without
        score or time has None there.
    """
    flat = card.axes == "YX"
    name = "IoU" if flat and len(card.classes) == 1 else "Dice"
    found: dict[int | str, LevelFigure] = {}
    levels: list[int | str] = [*card.levels_trained]
    if "ensemble" in card.scores or "ensemble" in card.timings:
        levels.append("ensemble")
    for level in levels:
        scores = card.scores.get(str(level), {})
        seconds = card.timings.get(str(level), {}).get("seconds_per_megapixel")
        unit: Literal["megapixel", "megavoxel"] = "megapixel" if flat else "megavoxel"
        if "iou_strokes" in scores:
            found[level] = LevelFigure(scores["iou_strokes"], "IoU", seconds, unit, True)
            continue
        score = scores.get(f"{name.lower()}_per_image", scores.get(f"{name.lower()}_pooled"))
        found[level] = LevelFigure(score, name, seconds, unit)
    return found


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return an absolute path; one that is already stays letter by letter."""
    text = os.fspath(path)
    return text if os.path.isabs(text) else os.path.abspath(text)


def _same(one: str, other: str) -> bool:
    return os.path.normcase(os.path.normpath(one)) == os.path.normcase(os.path.normpath(other))


def _in(value: str, values: list[str]) -> bool:
    return any(_same(value, other) for other in values)


def _labels(values: list[str]) -> list[str]:
    """Return the names of files, with the folder where two have one name."""
    names = [draft_label(v) if is_draft(v) else Path(v).stem for v in values]
    return [
        f"{name} ({Path(value).parent.name})"
        if names.count(name) > 1 and not is_draft(value)
        else name
        for name, value in zip(names, values, strict=True)
    ]
