"""What a level costs and is worth, as the texts of a small table.

Pure text: no Qt, so that the wording is tested without a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from napari_unetpp.widget.level_words import level_name

Unit = Literal["megapixel", "megavoxel"]

UNKNOWN = "–"
_SHORT = {"megapixel": "Mpx", "megavoxel": "Mvox"}


@dataclass(frozen=True)
class LevelFigures:
    """Score and time of a level.

    Attributes
    ----------
    score : float, optional
        Held-out score; None where the card has none.
    score_name : str
        What the score is: "IoU", "Dice".
    seconds : float, optional
        Seconds for a megapixel or megavoxel; None where nobody measured them.
    measured : bool
        The time was measured on this machine; otherwise it is the card's.
    unit : {"megapixel", "megavoxel"}
        What the time is for.
    strokes : bool
        The score is of strokes that were held out, and not of whole images.
    calibrated : bool
        Of "auto": its tolerance was calibrated on held-out images, and is no guess.
    """

    score: float | None = None
    score_name: str = "score"
    seconds: float | None = None
    measured: bool = False
    unit: Unit = "megapixel"
    strokes: bool = False
    calibrated: bool = True


@dataclass(frozen=True)
class Cell:
    """A figure: its text, the sentence that explains it, and whether it is of less weight."""

    text: str
    tooltip: str
    muted: bool = False


@dataclass(frozen=True)
class Row:
    """A line of the table: header, a cell for each level, and a note at its end."""

    header: str
    cells: tuple[Cell, ...]
    note: str
    note_tooltip: str
    note_muted: bool = True


def seconds_text(seconds: float) -> str:
    """Return a time in four characters or fewer: 0.05, 2.4, 17, 240."""
    if seconds < 0.005:
        return "<.01"
    if seconds < 0.995:
        return f"{seconds:.2f}"
    return f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:.0f}"


def _score_cell(name: str, figures: LevelFigures | None, trained: bool) -> Cell:
    if not trained:
        return Cell("", f"{name} was not trained in this model.", True)
    if figures is None or figures.score is None:
        return Cell(UNKNOWN, f"The model's card gives no score for {name}.", True)
    what = "your strokes" if figures.strokes else "images"
    return Cell(
        f"{figures.score:.2f}",
        f"{name}: {figures.score_name} {figures.score:.3f} on {what} that were held out.",
    )


def _time_cell(name: str, figures: LevelFigures | None, trained: bool) -> Cell:
    if not trained:
        return Cell("", f"{name} was not trained in this model.", True)
    if figures is None or figures.seconds is None:
        return Cell(UNKNOWN, f"Nobody measured yet how long {name} takes.", True)
    where = (
        "measured on this machine"
        if figures.measured
        else "from the model's card, measured on another machine"
    )
    return Cell(
        seconds_text(figures.seconds),
        f"{name}: {figures.seconds:.3g} seconds for a {figures.unit}, {where}.",
        not figures.measured,
    )


def _where(known: Sequence[LevelFigures]) -> tuple[str, str, bool]:
    """Return the note of the times: what it says, why, and whether it is of less weight."""
    measured = [figures.measured for figures in known if figures.seconds is not None]
    if not measured:
        return "", "", True
    if all(measured):
        return "here", "Measured on this machine with this model.", False
    if any(measured):
        return "partly here", "The faint times are from the model's card.", True
    return "elsewhere", "From the model's card; measured here with the first run.", True


def table(
    levels: Sequence[int | str],
    trained: Sequence[int | str],
    figures: Mapping[int | str, LevelFigures],
) -> tuple[Row, Row]:
    """Return the row of the scores and the row of the times.

    Parameters
    ----------
    levels : sequence of int or "auto"
        The stops of the slider.
    trained : sequence of int or "auto"
        Those that the model has.
    figures : mapping of int, "ensemble" or "auto" to LevelFigures
        What is known.
    """
    known = [figures[level] for level in levels if level in figures and level in trained]
    name = next((f.score_name for f in known if f.score is not None), "score")
    unit: Unit = next((f.unit for f in known), "megapixel")
    scored = any(f.score is not None for f in known)
    scores = tuple(_score_cell(level_name(k), figures.get(k), k in trained) for k in levels)
    times = tuple(_time_cell(level_name(k), figures.get(k), k in trained) for k in levels)
    held_out = ("held out", "On images that the model never saw in training.")
    if any(f.strokes for f in known):
        held_out = ("strokes", "On those of your strokes that were held out.")
    held_out = held_out if scored else ("", "")
    return (
        Row(name, scores, *held_out),
        Row(f"s/{_SHORT[unit]}", times, *_where(known)),
    )


def ensemble_text(figures: LevelFigures | None) -> Cell:
    """Return the figures of the ensemble as one line."""
    if figures is None:
        return Cell("", "")
    score = _score_cell("The ensemble", figures, True)
    seconds = _time_cell("The ensemble", figures, True)
    parts: list[str] = []
    if figures.score is not None:
        parts.append(f"{figures.score_name} {score.text}")
    if figures.seconds is not None:
        parts.append(f"{seconds.text} s/{_SHORT[figures.unit]}")
    return Cell(" · ".join(parts), f"{score.tooltip} {seconds.tooltip}", True)
