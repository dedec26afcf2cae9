"""From painted images to a model file: fine-tune, report, write with its parent named.

The one path that the command line, scripts and a worker take. Every improvement is written
at once under the final name, so a run that is closed or killed leaves the best so far. That name
may be the base's own: the base was read before, and gives way to what is better alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from napari_unetpp import __version__
from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.events import Event, Validated
from napari_unetpp.core.model.modelfile import SUFFIX, Model, save_model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.train.fit import describe_parent
from napari_unetpp.core.tune.inputs import Painted, painted_values
from napari_unetpp.core.tune.report import TuneReport, make_report
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.start import bundled_body, class_names, grown_card, scratch_card
from napari_unetpp.core.tune.strokes import Split, load_split, save_split
from napari_unetpp.core.tune.tune import FineTuning


@dataclass(frozen=True)
class TuneJob:
    """What to fine-tune on, and where the model goes.

    Attributes
    ----------
    pairs : sequence of Painted
        Images and painted labels.
    out : Path
        The model file, ``*.safetensors``. It may be the base's, to go on with a model: nothing
        is written then unless something is better.
    base : Model, optional
        What to start from; None from scratch.
    config : TuneConfig
        How.
    classes : tuple of str
        Names of the classes, the base's first; counted from the paint if empty.
    name : str
        Of the new model; that of the file if empty.
    axes : {"YX", "ZYX"}
        From scratch: of the network.
    """

    pairs: Sequence[Painted]
    out: Path
    base: Model | None = None
    config: TuneConfig = field(default_factory=TuneConfig)
    classes: tuple[str, ...] = ()
    name: str = ""
    axes: str = "YX"

    def __post_init__(self) -> None:
        if not self.pairs:
            raise InputError("fine-tuning needs an image with painted labels, got none; add one.")
        names = [pair.name for pair in self.pairs]
        if len(set(names)) < len(names):
            raise InputError(f"the images need different names, got {', '.join(names)}.")
        if self.out.suffix != SUFFIX:
            raise InputError(
                f"a model file must end in {SUFFIX}, got {self.out.name!r}; rename it."
            )
        if self.out.is_dir():
            raise FileError(f"{self.out} is a folder, expected a file name; give one in it.")
        if not self.out.parent.is_dir():
            raise FileError(
                f"the folder {self.out.parent} for the model does not exist; make it first."
            )

    @property
    def in_place(self) -> bool:
        """Whether the model goes where its base lies."""
        return self.base is not None and same_file(self.base.path, self.out)

    def card(self) -> ModelCard:
        """Return the card of the new model, without figures.

        Raises
        ------
        InputError
            If the classes do not fit the base or the paint.
        """
        base = None if self.base is None else self.base.card
        values = sorted({v for pair in self.pairs for v in painted_values(pair)})
        names = class_names(base, values, self.classes)
        if not names:
            raise InputError(
                "no class is painted (paint is 0 unlabelled, 1 background, 2 and more classes); "
                "paint a stroke of a class."
                if values
                else "nothing is painted (every label is 0); paint a stroke of background (1) "
                "and one of a class (2 or more)."
            )
        name = self.name or self.out.stem
        if self.base is None:
            card = scratch_card(name, names, self.axes, 1).replace(version=__version__)
            body = bundled_body(card) if self.config.body == "bundled" else None
            # Its weights are learned from the body's, so the body is its parent.
            return card if body is None else card.replace(parent=describe_parent(body))
        return grown_card(self.base.card, names).replace(
            name=name,
            version=__version__,
            parent=describe_parent(self.base),
            split="Fine-tuned on painted strokes; scores are of held-out strokes.",
        )


def finetune(job: TuneJob) -> Generator[Event, None, TuneReport]:
    """Fine-tune a model from painted images and write it.

    Parameters
    ----------
    job : TuneJob
        What, how and where.

    Yields
    ------
    Event
        Of `FineTuning`. Closing the generator leaves the best model so far under
        ``job.out`` (nothing if there was no improvement yet).

    Returns
    -------
    TuneReport
        Before and after.

    Raises
    ------
    UNetPPError
        If a file, the paint or a setting cannot be used.
    """
    card = job.card()
    split = read_splits(job.pairs, job.config.seed)
    tuning = FineTuning(job.pairs, card, job.base, split, job.config)
    events = tuning.run()
    kept = False
    try:
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                result = stop.value
                break
            if not kept:
                # With the first event the paint is split: from now on sides are fixed.
                write_splits(job.pairs, split)
                kept = True
            improved = isinstance(event, Validated) and event.best and event.step > 0
            # A file to go on with gives way to what is known to be better alone.
            if isinstance(event, Validated) and improved and (event.scores or not job.in_place):
                save_model(job.out, tuning.best(), scored(card, event.scores))
            yield event
    finally:
        events.close()
    report = make_report(result, card, tuning.windows[0].image, device=job.config.device)
    if job.in_place and result.after is None:
        stays = (
            f"Nothing is held out, so nobody knows whether it is better and {job.out.name} stays "
            "as it was; write to another file to keep what was learned."
        )
        return dataclasses.replace(report, sentences=(*report.sentences, stays))
    if not (result.base_kept and job.in_place):
        save_tuned(job.out, result.network, card, report)
    return report


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths are of one file, however they are written."""
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return False


def read_splits(pairs: Sequence[Painted], seed: int) -> Split:
    """Join the splits that are kept beside the labels.

    Files of a project name the pair before the part (``cells 1#0``), others the part alone.

    Raises
    ------
    FileError
        If one of them cannot be read.
    """
    joined = Split(seed)
    for pair in pairs:
        if pair.split is None:
            continue
        own = load_split(pair.split, seed)
        for part in sorted(own.shapes, key=lambda p: "#" in p):
            name = f"{pair.name}#{part.rpartition('#')[2]}"
            joined.shapes[name], joined.sides[name] = own.shapes[part], own.sides[part]
    return joined


def write_splits(pairs: Sequence[Painted], joined: Split) -> None:
    """Keep the sides of every image's strokes beside its labels, under the names they had."""
    for pair in pairs:
        if pair.split is None:
            continue
        own, lead = Split(joined.seed), f"{pair.name}#"
        before = _lead(pair.split)
        for part in (p for p in joined.shapes if p.startswith(lead)):
            name = before + part.removeprefix(lead)
            own.shapes[name], own.sides[name] = joined.shapes[part], joined.sides.get(part, {})
        save_split(pair.split, own)


def _lead(path: Path) -> str:
    """Return what stands before the parts' numbers in a file of a split; empty if nothing does."""
    leads = {f"{name}#" for name, mark, _ in (p.rpartition("#") for p in load_split(path).shapes)
             if mark}  # fmt: skip
    return min(leads, default="")


def scored(card: ModelCard, scores: Mapping[int, Mapping[str, float]]) -> ModelCard:
    """Return a card with held-out scores by level."""
    return card.replace(scores={str(level): dict(row) for level, row in scores.items()})


def save_tuned(path: Path, network: NestedUNet, card: ModelCard, report: TuneReport) -> Path:
    """Write a fine-tuned model with its scores and times."""
    after = {
        row.level: {"iou_strokes": row.after} for row in report.levels if row.after is not None
    }
    times = {
        str(row.level): {"seconds_per_megapixel": row.seconds_per_megapixel}
        for row in report.levels
    }
    return save_model(path, network, scored(card, after).replace(timings=times))
