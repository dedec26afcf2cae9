"""What an evaluation counts for each level, and the figures that come of it.

This module knows counts and a card's classes; it must not know networks, images or files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.score.metrics import PooledCounts, PooledObjects

PIXEL_METRICS = ("iou_per_image", "iou_pooled", "dice_per_image", "dice_pooled")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    model, device : str
        The model's name; kind, name and precision of the device, with the levels that ran in
        another: "cpu (NAME, bfloat16; L4 float32)".
    n_images : int
        Images that were scored.
    levels : mapping of str to mapping of str to float or None
        By level ("1" ... "4", "ensemble"): ``iou_per_image``, ``iou_pooled``,
        ``dice_per_image``, ``dice_pooled``, ``ap50`` (over the objects of all images),
        ``score`` (the challenge's), ``seconds_per_megapixel`` and ``peak_memory_mb`` (MiB
        over the baseline). With several classes, scores are the mean over classes. None
        where there is nothing to score.
    classes : mapping of str to mapping of str to mapping of str to float or None
        By class and level: the four pixel metrics and ``n_images``, over the images whose
        truth contains the class.
    """

    model: str
    device: str
    n_images: int
    levels: Mapping[str, Mapping[str, float | None]]
    classes: Mapping[str, Mapping[str, Mapping[str, float | None]]]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model,
            "device": self.device,
            "n_images": self.n_images,
            "levels": {level: dict(row) for level, row in self.levels.items()},
            "classes": {
                name: {level: dict(row) for level, row in rows.items()}
                for name, rows in self.classes.items()
            },
        }

    def for_card(self) -> dict[str, Any]:
        """Return the fields of a :class:`ModelCard` that follow, for ``card.replace``."""
        timed = ("seconds_per_megapixel", "peak_memory_mb")
        return {
            "scores": {k: _known(row, exclude=timed) for k, row in self.levels.items()},
            "timings": {
                k: {key: value for key in timed if (value := row[key]) is not None}
                for k, row in self.levels.items()
            },
            "class_scores": {
                name: {level: _known(row) for level, row in rows.items()}
                for name, rows in self.classes.items()
            },
            "timing_device": self.device,
        }


class Tally:
    """What was counted and measured for one level.

    Parameters
    ----------
    card : ModelCard
        The classes.

    Attributes
    ----------
    objects : PooledObjects
        Filled from outside where objects can be told apart.
    seconds, megapixels, peak_mb : float
        Time spent, millions of pixels (voxels) run, and the peak of memory in MiB.
    largest : int
        Pixels of the largest image whose memory was measured.
    tiles : Counter
        Tiles by the level that they came to; of "auto" alone.
    """

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.by_class = {c.name: PooledCounts() for c in card.classes}
        self.objects = PooledObjects()
        self.seconds = 0.0
        self.megapixels = 0.0
        self.peak_mb = 0.0
        self.largest = 0
        self.tiles: Counter[int] = Counter()

    def add_pixels(self, pred: NDArray[np.integer], truth: NDArray[np.integer]) -> dict[str, float]:
        """Count one image and return the IoU of the classes that its truth contains."""
        found: dict[str, float] = {}
        single = len(self.card.classes) == 1
        for value, info in enumerate(self.card.classes, start=1):
            true = truth > 0 if single else truth == value
            if true.any():
                found[info.name] = self.by_class[info.name].add(pred == value, true).iou
        return found

    def class_row(self, name: str) -> dict[str, float | None]:
        """Return the figures of one class."""
        counts = self.by_class[name]
        return {**_pixel_row(counts), "n_images": counts.n_images}

    def row(self, objects: bool) -> dict[str, float | None]:
        """Return the figures of the level."""
        rows = [_pixel_row(counts) for counts in self.by_class.values()]
        row = {key: _mean([r[key] for r in rows]) for key in PIXEL_METRICS}
        row["ap50"] = _finite(self.objects.ap50) if objects else None
        row["score"] = _finite(self.objects.score) if objects else None
        row["seconds_per_megapixel"] = self.seconds / self.megapixels
        row["peak_memory_mb"] = self.peak_mb
        for level, count in sorted(self.tiles.items()):
            row[f"tiles_l{level}"] = count / self.tiles.total()
        return row


def _pixel_row(counts: PooledCounts) -> dict[str, float | None]:
    return {key: _finite(getattr(counts, key)) for key in PIXEL_METRICS}


def _finite(value: float) -> float | None:
    """Return None for the NaN of something that was never seen: JSON has no NaN."""
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    seen = [value for value in values if value is not None]
    return sum(seen) / len(seen) if seen else None


def _known(row: Mapping[str, float | None], exclude: Sequence[str] = ()) -> dict[str, float]:
    """Return the figures that there are, without some."""
    return {k: v for k, v in row.items() if v is not None and k not in exclude}
