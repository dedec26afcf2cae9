"""What a fine-tuning brought: per level before and after, time, and the cheapest good level.

The sentences are honest: where too little is painted there is no number but the reason why.
Knows results and runners; no files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.tune.result import TuneResult

CLOSE = 0.01
WORSE = 0.05
"""A level whose score fell by more is named: a short budget may leave the deepest ones behind."""
"""A level that is at most this much below the best one is as good."""

SIDE = {2: 256, 3: 64}
FEW_HELD_OUT = 50
"""Held-out pixels of a class below which a score says little."""

METRIC = "IoU on held-out strokes, mean over background and classes"


@dataclass(frozen=True)
class LevelReport:
    """One level.

    Attributes
    ----------
    level : int
        The level.
    before, after : float, optional
        Score of the base and of the result; None where nothing is held out.
    seconds_per_megapixel : float
        Measured here (megavoxel in 3D).
    """

    level: int
    before: float | None
    after: float | None
    seconds_per_megapixel: float


@dataclass(frozen=True)
class TuneReport:
    """What a fine-tuning brought.

    Attributes
    ----------
    levels : tuple of LevelReport
        Shallow first.
    cheapest : int, optional
        The cheapest level within 0.01 of the best; None where nothing is held out.
    base_kept : bool
        Nothing was better than the base, so it stays.
    steps, best_step : int
        Steps done, and that of the state that was kept.
    seconds : float
        Time spent.
    teacher, scope : str
        Who taught the unpainted rest, and what was trained.
    painted : mapping of int to tuple of int
        Painted pixels by value: for training, held out.
    sentences : tuple of str
        For people; what the numbers cannot say.
    """

    levels: tuple[LevelReport, ...]
    cheapest: int | None
    base_kept: bool
    steps: int
    best_step: int
    seconds: float
    teacher: str
    scope: str
    painted: Mapping[int, tuple[int, int]]
    sentences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = dict(vars(self), metric=METRIC, sentences=list(self.sentences))
        values["levels"] = {str(row.level): _without(vars(row), "level") for row in self.levels}
        values["painted"] = {
            str(value): {"training": row[0], "held_out": row[1]}
            for value, row in self.painted.items()
        }
        return values


def _without(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != key}


def cheapest_level(scores: Mapping[int, float], close: float = CLOSE) -> int | None:
    """Return the shallowest level whose score is at most `close` below the best."""
    if not scores:
        return None
    best = max(scores.values())
    return min(level for level, score in scores.items() if score >= best - close - 1e-9)


def seconds_per_megapixel(
    model: Model, image: NDArray[np.float32], device: str = "cpu", precision: str = "auto"
) -> dict[int, float]:
    """Measure every level's time on a piece of an image, each run by itself.

    Parameters
    ----------
    model : Model
        As it will be used.
    image : ndarray of float32
        (C, *space), normalised; at most 256² or 64³ of it are run.
    device, precision : str
        See `choose_device`.
    """
    runner = Runner(model, choose_device(device, precision))
    multiple = 2**model.card.network.levels
    side = SIDE[image.ndim - 1]
    piece = image[(slice(None), *(slice(0, min(n, side)) for n in image.shape[1:]))]
    past = [(0, -n % multiple) for n in piece.shape[1:]]
    x = np.pad(piece, [(0, 0), *past], mode="edge")[None]
    size = float(np.prod(x.shape[2:])) / 1e6
    found = {}
    for level in sorted(model.card.levels_trained):
        runner.probabilities(x, level)  # chooses kernels and checks the precision
        start = time.perf_counter()
        runner.probabilities(x, level)
        found[level] = (time.perf_counter() - start) / size
    return found


def make_report(
    result: TuneResult, card: ModelCard, image: NDArray[np.float32], *, device: str = "cpu"
) -> TuneReport:
    """Measure the times and say what a fine-tuning brought.

    Parameters
    ----------
    result : TuneResult
        Of `FineTuning`.
    card : ModelCard
        Of the result.
    image : ndarray of float32
        (C, *space), normalised; times are measured on a piece of it.
    device : str
        Where times are measured.
    """
    times = seconds_per_megapixel(Model(card, result.network, Path(card.name), ""), image, device)
    before = {} if result.before is None else result.before.iou
    after = {} if result.after is None else result.after.iou
    rows = tuple(
        LevelReport(level, before.get(level), after.get(level), seconds)
        for level, seconds in times.items()
    )
    return TuneReport(
        rows,
        cheapest_level(after),
        result.base_kept,
        result.steps,
        result.best_step,
        result.seconds,
        result.teacher.name,
        result.scope,
        result.painted,
        sentences(result, card),
    )


def sentences(result: TuneResult, card: ModelCard) -> tuple[str, ...]:
    """Say in words what a fine-tuning brought and what its numbers are worth."""
    found = list(result.notes)
    names = ["background", *(c.name for c in card.classes)]
    if result.steps == 0:
        found.append("It was stopped before the first step, so nothing has changed.")
    elif result.after is None and any(row[1] for row in result.painted.values()):
        found.append("It was stopped before its first score, so there is none.")
    elif result.after is None:
        found.append(
            "Too little is painted to hold anything out, so there is no score; paint a second "
            f"stroke of {_listed(_unscored(result, names))}."
        )
    elif result.base_kept:
        found.append(
            "Nothing was better than the base on the held-out strokes, so the base stays; paint "
            "more where it is wrong."
        )
    if result.after is None:
        return tuple(found)
    if words := _fallen(result):
        found.append(words)
    if missing := _unscored(result, names):
        found.append(
            f"No stroke of {_listed(missing)} is held out, so the score says nothing about it; "
            "paint a second one."
        )
    few = [names[value - 1] for value, row in result.painted.items() if 0 < row[1] < FEW_HELD_OUT]
    if few:
        found.append(
            f"Fewer than {FEW_HELD_OUT} pixels of {_listed(few)} are held out: the score is a hint."
        )
    if result.steps:
        found.append("The held-out strokes also chose the state, so the score flatters a little.")
    return tuple(found)


def _fallen(result: TuneResult) -> str:
    """Name the levels that are worse than before; empty if none is."""
    before = {} if result.before is None else result.before.iou
    after = {} if result.after is None else result.after.iou
    fell = [
        f"L{k} ({after[k]:.2f}, before {before[k]:.2f})"
        for k in sorted(after)
        if k in before and after[k] < before[k] - WORSE
    ]
    if not fell:
        return ""
    return (
        f"Worse than before on the held-out strokes: {', '.join(fell)}; use "
        f"L{cheapest_level(after)}, or fine-tune again for longer."
    )


def _unscored(result: TuneResult, names: Sequence[str]) -> list[str]:
    return [names[value - 1] for value, row in result.painted.items() if not row[1]]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "each class"
