"""A volume through a model, into a segmentation.

The scene is changed once, at the end and on the main thread; until then nothing of it is
touched, so a run that is cancelled or fails leaves it as it was. Knows MRML and the engine;
no widget.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from UNetPPLib import Predictions, Segments, Volumes
from UNetPPLib.Tasks import Task

if TYPE_CHECKING:
    from UNetPPLib.History import History
    from UNetPPLib.Regions import Region
    from UNetPPLib.Session import Session

Level = int | str


@dataclass(frozen=True)
class SegmentOptions:
    """How a volume is segmented.

    Attributes
    ----------
    model : str
        Name of a bundled model, or path of a model file.
    level : int, "ensemble" or "auto"
        1 to 4, the mean of all, or for each tile the one that it needs.
    threshold : float, optional
        The model's own if None.
    region : tuple of (int, int), optional
        (start, stop) for Z, Y and X; everything if None.
    protect : bool
        Leave voxels of other segments to them.
    channel : int, optional
        Component of a vector volume, for a model of one channel.
    device : str
        "auto", "cpu", "cuda" or "mps".
    """

    model: str = "ct-head-neck"
    level: Level = 4
    threshold: float | None = None
    region: Region | None = None
    protect: bool = True
    channel: int | None = None
    device: str = "auto"


class SegmentTask(Task):
    """A run; its result is a dict, see :meth:`UNetPPLib.Logic.UNetPPLogic.segment`."""

    def __init__(
        self,
        session: Session,
        volume: Any,
        segmentation: Any,
        options: SegmentOptions,
        history: History,
    ) -> None:
        import numpy as np

        from napari_unetpp.core.model.cards import read_card, read_identity
        from napari_unetpp.core.run.results import label_dtype
        from napari_unetpp.engine.protocol import ModelRequest, RunRequest

        self.image = Volumes.read(volume)
        problem = Segments.problem_of(segmentation, volume)
        if problem:
            raise Volumes.refusal(problem)
        self.card = read_card(options.model)
        identity = read_identity(options.model)
        super().__init__(session, (volume, segmentation))
        self.volume, self.segmentation, self.options = volume, segmentation, options
        self.notes += self.image.notes
        self._identity, self._history = identity, history
        self._began = time.monotonic()
        self._labels = np.zeros(self.image.shape, label_dtype(self.card))
        request = RunRequest(
            ModelRequest(options.model, options.device),
            options.level,
            "labels",
            options.threshold,
            options.channel,
            region=options.region,
        )
        self.begin(session.engine.run(self.image.source(), request, self._labels))

    def event(self, event: Any) -> None:
        """Take progress."""
        from napari_unetpp.engine.protocol import Progress

        if isinstance(event, Progress):
            self.done, self.total = event.done, event.total
            spent = time.monotonic() - self._began
            left = spent / event.done * (event.total - event.done) if event.done else 0.0
            self.status = (
                f"tile {event.done} of {event.total}, {level_name(event.level)}, "
                f"{in_words(left)} left"
            )

    def finish(self, result: Any) -> str:
        """Write the segments."""
        from napari_unetpp import __version__

        now = Volumes.problem_of(self.volume)
        if now:
            raise Volumes.refusal(now)
        if Volumes.read(self.volume).shape != self.image.shape:
            raise Volumes.refusal(
                f"{self.image.name} got another size while it was segmented; press Apply again."
            )
        threshold = self.options.threshold
        tags = {
            "UNetPP.sha256": self._identity,
            "UNetPP.level": str(result["level"]),
            "UNetPP.threshold": f"{self.card.threshold if threshold is None else threshold:g}",
            "UNetPP.version": __version__,
            "UNetPP.file": os.path.basename(self.options.model),
        }
        saved = False

        def before() -> None:
            nonlocal saved
            self._history.save(self.segmentation)
            saved = True

        try:
            written = Predictions.write(
                self.segmentation,
                self.volume,
                self._labels,
                self.card,
                region=self.options.region,
                protect=self.options.protect,
                tags=tags,
                before=before,
            )
        except BaseException:
            if saved:  # no half of a prediction
                self._history.undo(self.segmentation)
            raise
        self.notes += written.notes
        self.result = dict(
            result,
            segments=dict(written.segments),
            voxels=dict(written.voxels),
            notes=list(self.notes),
        )
        found = sum(1 for n in written.voxels.values() if n)
        return (
            f"done: {found} of {len(written.voxels)} classes found at "
            f"{level_name(result['level'])}{reached(result)} in {in_words(result['seconds'])} on "
            f"{result['device']} ({result['precision']})."
        )


def level_name(level: Level) -> str:
    """Return "L2", "ensemble" or "auto"."""
    return f"L{level}" if isinstance(level, int) else str(level)


def reached(result: Mapping[str, Any]) -> str:
    """Return which levels the tiles of a run at "auto" came to; empty for other runs."""
    counts = sorted((int(k), n) for k, n in result.get("tiles_by_level", {}).items())
    if not counts:
        return ""
    told = ", ".join(f"{n} at {level_name(k)}" for k, n in counts)
    return f" ({told} of {result['n_tiles']} tiles)"


def in_words(seconds: float) -> str:
    """Return a time for people."""
    from napari_unetpp.widget.figures import in_words as words

    return words(seconds)
