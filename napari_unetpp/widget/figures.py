"""The figures beside the slider: scores of the card, times of the card or of this machine.

Knows cards and numbers; no widget but the panel it fills, and no Qt: 3D Slicer's panel is
filled by it too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median_low
from typing import Any, Protocol

from napari_unetpp.core.config import ModelCard
from napari_unetpp.widget.figures_table import LevelFigures
from napari_unetpp.widget.models import LevelFigure
from napari_unetpp.widget.models import figures as figures_of_card

Level = int | str

LAST = 5
"""So many measurements are looked at."""

LEAST_FOR_AUTO = 3
"""With fewer levels "auto" would have none to choose from."""


class FiguresPanel(Protocol):
    """What shows the figures."""

    def set_levels(
        self, trained: tuple[int, ...], figures: Mapping[int | str, LevelFigures]
    ) -> None:
        """Show which levels there are, and what is known of them."""


class Figures:
    """Time and score of each level, for the model that is chosen.

    Parameters
    ----------
    panel : FiguresPanel
        Where they are shown.
    """

    def __init__(self, panel: FiguresPanel) -> None:
        self.panel = panel
        self.card: ModelCard | None = None
        self._key: Any = None
        self._here: dict[Any, dict[Level, float]] = {}
        self._rates: dict[Any, deque[float]] = {}
        self.listeners: list[Callable[[], None]] = []

    def choose(self, card: ModelCard, key: Any) -> None:
        """Show the figures of another model; what was measured of it here is used again."""
        self.card, self._key = card, key
        self._fill()

    def measured(self, level: Level, seconds: float, megapixels: float, key: Any = None) -> None:
        """Take a time that was measured on this machine.

        Parameters
        ----------
        level : int, "ensemble" or "auto"
            What was run.
        seconds : float
            From the start to this level.
        megapixels : float
            Pixels (voxels) in millions; very small ones say nothing.
        key : object, optional
            Of the model that ran, as given to :meth:`choose`; the chosen one if None.
        """
        if megapixels < 0.01 or self.card is None or not seconds > 0:
            return
        key = self._key if key is None else key
        rates = self._rates.setdefault((key, level), deque(maxlen=LAST))
        rates.append(seconds / megapixels)
        # The best of the last few: the first one warms up, others meet a busy machine. What
        # "auto" takes depends on the image as well: there it is the one in the middle.
        rate = median_low(rates) if level == "auto" else min(rates)
        self._here.setdefault(key, {})[level] = rate
        self._fill()
        for listener in self.listeners:
            listener()

    def seconds_per_megapixel(self, level: Level) -> float | None:
        """Return the best known figure for a level, or None."""
        here = self._here.get(self._key, {})
        if level in here:
            return here[level]
        if self.card is None:
            return None
        found = figures_of_card(self.card).get(level)
        elsewhere = found[2] if found else None
        if elsewhere is None or not here:
            return elsewhere
        # Scaled by a level that is known on both machines.
        for other, rate in here.items():
            known = figures_of_card(self.card).get(other)
            if known and known[2]:
                return elsewhere * rate / known[2]
        return elsewhere

    def estimate(self, level: Level, pixels: int) -> str:
        """Return about how long a run takes, in words; empty if nothing is known."""
        rate, most = self.seconds_per_megapixel(level), ""
        if rate is None and level == "auto" and self.card is not None:
            # Nobody knows how many tiles will go deep; hardly more than all of them costs it.
            rate, most = self.seconds_per_megapixel(max(self.card.levels_trained)), "up to "
        if rate is None:
            return ""
        words = in_words(rate * pixels / 1e6)
        return words if words.startswith("under") else f"{most}about {words}"

    def _fill(self) -> None:
        if self.card is None:
            return
        here = self._here.get(self._key, {})
        shown: dict[Level, LevelFigures] = {}
        of_card = figures_of_card(self.card)
        levels: list[Level] = [*self.card.levels_trained, "ensemble"]
        if len(self.card.levels_trained) >= LEAST_FOR_AUTO:
            levels.append("auto")
        for level in levels:
            told = _auto_of(self.card) if level == "auto" else of_card.get(level)
            seconds = here.get(level, told.seconds if told else None)
            shown[level] = LevelFigures(
                told.score if told else None,
                told.score_name if told else "",
                seconds,
                level in here,
                told.unit if told else "megapixel",
                told.strokes if told else False,
                level != "auto" or self.card.auto_tolerance is not None,
            )
        self.panel.set_levels(self.card.levels_trained, shown)


def _auto_of(card: ModelCard) -> LevelFigure:
    """Return what a card says of "auto", which few cards do, named as it names its levels."""
    level = figures_of_card(card)[max(card.levels_trained)]
    scores, name = card.scores.get("auto", {}), level.score_name.lower()
    score = scores.get(f"{name}_per_image", scores.get(f"{name}_pooled"))
    seconds = card.timings.get("auto", {}).get("seconds_per_megapixel")
    return LevelFigure(score, level.score_name, seconds, level.unit)


def in_words(seconds: float) -> str:
    """Return a time for people: "under 1 s", "12 s", "3 min", "2.5 h"."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
