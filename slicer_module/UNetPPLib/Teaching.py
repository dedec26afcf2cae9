"""From painted segments to a better model, and to the next place to paint.

Painting goes on while the engine works: what is painted is read at the start. Every better
state is written to the model file at once, so nothing is lost whatever happens to the scene.
Knows MRML and the engine; no widget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from UNetPPLib import Painted, Volumes
from UNetPPLib.Segmenting import in_words
from UNetPPLib.Tasks import Task

if TYPE_CHECKING:
    from napari_unetpp.core.data.image import Image
    from napari_unetpp.engine.protocol import LayerSource, PaintedSource
    from UNetPPLib.Session import Session


@dataclass(frozen=True)
class TuneOptions:
    """How a model is fine-tuned.

    Attributes
    ----------
    model : str
        What to start from: name or file.
    classes : mapping of str to str
        Segment id to class name, or "background".
    out : str
        Model file to write; a draft in the user's folder if empty.
    seconds : float
        Budget.
    seed : int
        Of the split and of patches.
    split : mapping, optional
        Of an earlier fine-tuning.
    device : str
        Where to compute.
    """

    model: str
    classes: Mapping[str, str]
    out: str = ""
    seconds: float = 30.0
    seed: int = 0
    split: Mapping[str, Any] | None = None
    device: str = "auto"


class TuneTask(Task):
    """A fine-tuning; its result is a TuneOutcome.

    Attributes
    ----------
    path : str
        The model file with the best so far; empty while the base is the best.
    scores : dict of int to float
        Held-out score of the best so far, by level.
    base_scores : dict of int to float
        That of the base.
    split : mapping
        Which strokes are held out, as soon as it is known.
    """

    def __init__(
        self,
        session: Session,
        volume: Any,
        segmentation: Any,
        options: TuneOptions,
        more: Sequence[PaintedSource] = (),
    ) -> None:
        from napari_unetpp.core.model.cards import read_card
        from napari_unetpp.engine.protocol import ModelRequest, PaintedSource, TuneRequest
        from napari_unetpp.widget.drafts import new_draft, tuned_name

        image = Volumes.read(volume)
        card = read_card(options.model)
        names = Painted.class_names(options.classes, [c.name for c in card.classes])
        labels, notes = Painted.labels_of(segmentation, volume, options.classes, names)
        super().__init__(session, (volume, segmentation))
        self.volume, self.segmentation, self.options = volume, segmentation, options
        self.notes += [*image.notes, *notes]
        self.card = card
        self.path = ""
        self.split: Mapping[str, Any] = {}
        self.scores: dict[int, float] = {}
        self.base_scores: dict[int, float] = {}
        self._seconds = options.seconds
        out = options.out or str(new_draft(card.name))
        source = image.source()
        name = Painted.pair_name(segmentation, volume)
        pair = PaintedSource(name, source, _labels_source(labels, source))
        request = TuneRequest(
            ModelRequest(options.model, options.device),
            out,
            names,
            tuned_name(card.name),
            options.seconds,
            options.seed,
            split=options.split or None,
        )
        self.begin(session.engine.tune([pair, *more], request))

    def cancel(self) -> None:
        """Stop with the best so far."""
        if self.running and self.job is not None:
            self.status = "stopping with the best so far …"
            self.job.cancel()
            self.tell()

    def stop(self, reason: str) -> None:
        """End at once; the best so far stays in its file."""
        if not self.running:
            return
        if self.job is not None:
            self.job.drop()
        kept = f" The best model so far is in {self.path}." if self.path else ""
        self.end("cancelled", f"stopped, because {reason}.{kept}")

    def event(self, event: Any) -> None:
        """Take steps and scores."""
        from napari_unetpp.engine.protocol import (
            TuneScored,
            TuneSplit,
            TuneStep,
            TuneTeacher,
        )

        if isinstance(event, TuneSplit):
            self.split = event.split
        elif isinstance(event, TuneTeacher):
            self.status = f"the unpainted rest is taught by {event.name}"
        elif isinstance(event, TuneStep):
            self.done, self.total = min(int(event.seconds), int(self._seconds)), int(self._seconds)
            left = max(self._seconds - event.seconds, 0.0)
            best = max(self.scores.values(), default=None)
            score = "" if best is None else f", held-out IoU {best:.2f}"
            self.status = f"step {event.step}, loss {event.loss:.2f}{score}, {in_words(left)} left"
        elif isinstance(event, TuneScored):
            if event.step == 0:
                self.base_scores = dict(event.scores)
            if event.best:
                self.scores = dict(event.scores)
                self.path = event.path or self.path

    def finish(self, result: Any) -> str:
        """Take the outcome."""
        self.path = result.path or ""
        self.split = result.split
        report = result.report
        words = verdict(report)
        self.notes = [*dict.fromkeys([*self.notes, *report.get("sentences", ())])]
        return f"fine-tuned in {in_words(report['seconds'])}. {words}"


class SuggestTask(Task):
    """Where to paint next; its result is a tuple of Suggestion, boxes in Z, Y, X."""

    def __init__(
        self,
        session: Session,
        volume: Any,
        segmentation: Any,
        model: str,
        classes: Mapping[str, str],
        device: str = "auto",
        count: int = 5,
    ) -> None:
        from napari_unetpp.core.model.cards import read_card
        from napari_unetpp.engine.protocol import ModelRequest, SuggestRequest

        image = Volumes.read(volume)
        card = read_card(model)
        painted = None
        if segmentation is not None and classes:
            names = Painted.class_names(classes, [c.name for c in card.classes])
            try:
                labels, _ = Painted.labels_of(segmentation, volume, classes, names)
            except ValueError:  # nothing is painted yet: every place is new
                labels = None
            if labels is not None:
                painted = _labels_source(labels, image.source())
        super().__init__(session, (volume,))
        self.volume = volume
        self.status = "looking for the next place to paint …"
        region = tuple((0, n) for n in image.shape)
        request = SuggestRequest(ModelRequest(model, device), region, count=count)
        self.begin(session.engine.suggest(image.source(), request, painted))

    def finish(self, result: Any) -> str:
        """Take the places."""
        if not result:
            return (
                "there is no further place worth painting: the levels agree, or you painted near "
                "every doubtful place."
            )
        return f"{len(result)} places are worth painting, the least certain first."


def verdict(report: Mapping[str, Any]) -> str:
    """Return in one sentence what the figures of a report say."""
    rows = report["levels"]
    if all(row["after"] is None for row in rows.values()):
        return "Too little is painted to hold anything out, so there is no score."
    if report["base_kept"]:
        return "The base was better on the held-out strokes, so it stays."
    level = report["cheapest"]
    if level is None:
        return ""
    after = rows[str(level)]["after"]
    return f"The cheapest level within 0.01 of the best is L{level} ({after:.2f})."


def report_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (level, before, after, seconds for a megavoxel) as texts."""
    from napari_unetpp.widget.figures_table import UNKNOWN, seconds_text

    def score(value: float | None) -> str:
        return UNKNOWN if value is None else f"{value:.2f}"

    return [
        (
            f"L{level}",
            score(row["before"]),
            score(row["after"]),
            seconds_text(row["seconds_per_megapixel"]),
        )
        for level, row in sorted(report["levels"].items(), key=lambda item: int(item[0]))
    ]


def source_of(image: Image, key: str = "") -> LayerSource:
    """Return an image of a file as the engine takes it."""
    from napari_unetpp.engine.protocol import LayerSource

    return LayerSource(
        image.data, image.axes, image.spacing, image.unit, image.affine, image.name, key
    )


def _labels_source(labels: Any, image: LayerSource) -> LayerSource:
    from napari_unetpp.engine.protocol import LayerSource

    return LayerSource(labels, "ZYX", image.spacing, image.unit, image.affine, "painted labels")
