"""From two folders to a model file: prepare, train, score as shipped, write with its card.

The one path that the command line, scripts and the bundled models take. It joins
`core.train.prepare`, `training`, `evaluation` and `modelfile`, and knows nothing of its own.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_unetpp import __version__
from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.io.atomic import replacing, writing
from napari_unetpp.core.data.io.hidden import hidden_beside
from napari_unetpp.core.data.labels import LabelRule
from napari_unetpp.core.data.pairs import Pair
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.events import Event, Validated
from napari_unetpp.core.model.modelfile import SUFFIX, Model, load_model, save_model
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.score.evaluation import evaluate
from napari_unetpp.core.score.scores import Evaluation
from napari_unetpp.core.train.curve import draw_curve
from napari_unetpp.core.train.history import read_history
from napari_unetpp.core.train.prepare import TableRow, prepare
from napari_unetpp.core.train.settings import TrainConfig
from napari_unetpp.core.train.training import train


@dataclass(frozen=True)
class FitJob:
    """What to train on, and where the model goes.

    Attributes
    ----------
    pairs : sequence of Pair
        Images and labels, see `find_pairs`.
    card : ModelCard
        Everything but scores, timings and the tolerance of "auto", which are measured.
    rule : LabelRule
        How label values are meant.
    config : TrainConfig
        How to train.
    out : Path
        The model file, ``*.safetensors``; written at the end and at once.
    folder : Path
        Cache, checkpoint, ``history.csv`` and ``curve.png``; a run that was killed goes on
        from here.
    table : mapping of str to TableRow
        Fixed sides of the split, annotated classes, weights.
    held_out : float
        Share of images to hold out where the table does not say.
    channel : int, optional
        Channel of the images.
    base : Model, optional
        Start from its weights; its network must be the card's. The card names it as parent.
    """

    pairs: Sequence[Pair]
    card: ModelCard
    rule: LabelRule
    config: TrainConfig
    out: Path
    folder: Path
    table: Mapping[str, TableRow] = field(default_factory=dict)
    held_out: float = 0.2
    channel: int | None = None
    base: Model | None = None

    def __post_init__(self) -> None:
        if self.out.suffix != SUFFIX:
            raise InputError(
                f"a model file must end in {SUFFIX}, got {self.out.name!r}; rename it."
            )
        self.config.check(self.card)
        if self.out.is_dir():
            raise FileError(f"{self.out} is a folder, expected a file name; give one in it.")
        if not self.out.parent.is_dir():
            raise FileError(
                f"the folder {self.out.parent} for the model does not exist; make it first."
            )

    def check_places(self) -> None:
        """Write and remove a file in both folders: better now than after the training.

        Raises
        ------
        FileError
            If one of them cannot be written to.
        """
        for folder in (self.out.parent, self.folder):
            probe = hidden_beside(folder / "probe")
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                probe.touch()
                probe.unlink()


@dataclass(frozen=True)
class FitReport:
    """What a fit ends with.

    Attributes
    ----------
    out : Path
        The model file.
    steps, best_step : int
        Steps done, and the step whose weights were kept.
    seconds : float
        Time of training, over all resumed runs.
    reason : str
        Why it ended: ``"steps"``, ``"time"`` or ``"patience"``.
    n_training, n_held_out : int
        Images on each side.
    evaluation : Evaluation, optional
        Held-out scores of the file as written; None where nothing was held out.
    """

    out: Path
    steps: int
    best_step: int
    seconds: float
    reason: str
    n_training: int
    n_held_out: int
    evaluation: Evaluation | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = dict(vars(self), out=str(self.out))
        values["evaluation"] = None if self.evaluation is None else self.evaluation.to_json()
        return values


def describe_split(held_out: Sequence[Pair], n_training: int) -> str:
    """Return the card's sentence about the split, with the names that were held out."""
    if not held_out:
        return f"{n_training} images for training, none held out."
    names = ", ".join(p.name for p in held_out)
    return f"{n_training} images for training, {len(held_out)} held out: {names}."


def describe_parent(base: Model) -> str:
    """Return the card's words for the model whose weights a training began with."""
    return f"{base.card.name} {base.sha256[:16]}"


def fit(job: FitJob) -> Generator[Event, None, FitReport]:
    """Train a model from files and write it.

    Parameters
    ----------
    job : FitJob
        What, how and where.

    Yields
    ------
    Event
        Of preparation, training and evaluation. Closing the generator leaves a checkpoint
        in ``job.folder`` and nothing under ``job.out``.

    Returns
    -------
    FitReport
        With the scores.

    Raises
    ------
    UNetPPError
        If a file or setting cannot be used; the message names it.
    """
    job.check_places()
    samples = yield from prepare(
        job.pairs,
        job.card,
        job.rule,
        job.folder / "cache",
        table=job.table,
        share=job.held_out,
        seed=job.config.seed,
        channel=job.channel,
    )
    training = train(
        samples.training,
        samples.held_out,
        job.card,
        job.config,
        job.folder,
        data=samples.digest,
        base=job.base,
    )
    try:
        while True:
            try:
                event = next(training)
            except StopIteration as stop:
                result = stop.value
                break
            if isinstance(event, Validated):
                history = read_history(job.folder)
                draw_curve(history, job.folder / "curve.png", job.card.name)
            yield event
    finally:
        training.close()
    held = {p.name for p in samples.held_out_pairs}
    n_training = len([p for p in job.pairs if p.name not in held])
    card = job.card.replace(
        levels_trained=job.card.network.head_levels,
        version=__version__,
        parent=job.card.parent if job.base is None else describe_parent(job.base),
        split=job.card.split or describe_split(samples.held_out_pairs, n_training),
        auto_tolerance=None,  # of the base's weights, if there is one; these are not calibrated
    )
    # First without scores: what was trained is not lost, whatever happens to the scoring.
    out = save_model(job.out, result.network, card)
    evaluation = None
    if samples.held_out_pairs:
        # The figures are those of the file as it ships: weights rounded, norms folded.
        runner = Runner(load_model(out), choose_device(job.config.device))
        evaluation = yield from evaluate(
            runner, samples.held_out_pairs, channel=job.channel, painted=not job.rule.dense
        )
        out = save_model(job.out, result.network, card.replace(**evaluation.for_card()))
    report = FitReport(
        out,
        result.step,
        result.best_step,
        result.seconds,
        result.reason,
        n_training,
        len(held),
        evaluation,
    )
    with replacing(job.folder / "report.json") as staged:
        staged.write_text(json.dumps(report.to_json(), indent=2), encoding="utf-8")
    return report
