"""A checked request to segment an image: everything that can be wrong is found here.

Knows the image, the model and the plan of tiles; reads no pixel and computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note
from napari_unetpp.core.run.adaptive import TOLERANCE
from napari_unetpp.core.run.results import Kind, check_kind, output_axes
from napari_unetpp.core.run.runtime import Level, Runner
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.spaces import Space, space_for
from napari_unetpp.core.run.streaming import plan_tiles
from napari_unetpp.core.run.tiling import Region


class Request:
    """A checked request; the arguments are those of `inference.predict`.

    Raises
    ------
    InputError
        If one of them or the image does not fit.
    """

    def __init__(
        self,
        image: Image,
        runner: Runner,
        level: Level,
        kind: str,
        threshold: float | None,
        channel: int | None,
        tile: int | None,
        min_size: int | None,
        normalisers: Sequence[Normaliser] | None,
        region: Sequence[slice] | None,
    ) -> None:
        self.card: ModelCard = runner.card
        self.runner = runner
        self.level = level
        self.stage = runner.stage_of(level)
        self.kind: Kind = check_kind(kind)
        self.threshold = self.card.threshold if threshold is None else float(threshold)
        if not 0.0 < self.threshold < 1.0:
            raise InputError(
                f"threshold must lie between 0 and 1, got {self.threshold:g}; 0.5 is usual."
            )
        self.softmax_labels = kind == "labels" and self.card.network.activation == "softmax"
        self.threshold_unused = threshold is not None and (
            self.softmax_labels or kind == "probabilities"
        )
        self.min_size = min_size
        self.source = Source(image, self.card, channel)
        self.axes, self.shape, self.dtype = output_axes(image, self.card, kind)
        self.parts, self.region = self.source.select(region)
        self.normalisers: list[Normaliser] | None = None
        if normalisers is not None:
            self.normalisers = self.source.check_normalisers(normalisers)
        self.space: Space = space_for(self.source)
        # Where the grids differ, a pixel's value depends on more than a region and its halo.
        planned = self.region if self.space.direct else None
        self.plan = plan_tiles(runner, level, self.space.shape, tile, planned)

    @property
    def whole(self) -> bool:
        """Whether a plane or volume must be complete before it can be written."""
        return self.kind == "instances" or not self.space.direct

    def check_sink(self, sink: Any) -> None:
        """Refuse a sink of another shape than the result's.

        Raises
        ------
        InputError
            If it has one.
        """
        shape = getattr(sink, "shape", None)
        if shape is not None and tuple(shape) != self.shape:
            raise InputError(
                f"the result has shape {self.shape} ({self.axes}), got a sink of {tuple(shape)}; "
                "ask output_axes what it must hold."
            )

    def warnings(self) -> Iterator[Note]:
        """Yield what the user should know before anything is read."""
        if self.level == "auto" and self.card.auto_tolerance is None:
            yield Note(
                f"the model's card has no tolerance for auto, so {TOLERANCE:g} is used; it was not "
                "calibrated on images of this kind.",
                "auto-uncalibrated",
            )
        if self.threshold_unused:
            yield Note("the threshold has no influence on this kind of result.", "threshold-unused")
        alone = len(self.plan) == 1 and shape_of(self.plan.region) == self.plan.shape
        if self.card.network.norm == "instance" and not alone:
            yield Note(
                "the network normalises each tile by itself, so the result depends on the tile "
                "size; larger tiles come nearer to the whole image.",
                "tile-dependent",
            )


def shape_of(region: Region) -> tuple[int, ...]:
    """Return the lengths of a region."""
    return tuple(r.stop - r.start for r in region)
