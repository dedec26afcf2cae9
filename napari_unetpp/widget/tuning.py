"""Fine-tuning from the dock: started, followed, stopped; the base and what came of it.

One fine-tuning at a time, beside which everything else goes on. Every improvement becomes the
chosen model at once, unless the person chose another one meanwhile. Knows the form, the
selection and the engine's client; computes nothing itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import (
    SCRATCH,
    Finished,
    Noted,
    PaintedSource,
    TuneOutcome,
    TuneRequest,
    TuneScored,
    TuneSplit,
    TuneStep,
    TuneTeacher,
)
from napari_unetpp.widget.drafts import new_draft, tuned_name
from napari_unetpp.widget.figures import in_words
from napari_unetpp.widget.notify import report_error
from napari_unetpp.widget.panel import Panel
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.report_table import verdict
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.teach_form import TeachForm
from napari_unetpp.widget.training_set_form import CHOSEN

TELL_SECONDS = 0.15
"""Between two drawings of the curve."""

TEACHERS = {
    "forest": "a forest on your strokes",
    "walker": "a random walk from your strokes",
    "base": "the base",
    "none": "the strokes alone",
}


class Tuning:
    """The buttons Fine-tune, Stop and Revert.

    Parameters
    ----------
    form, panel : TeachForm, Panel
        Where it is shown.
    selection : Selection
        The model; another state of it is chosen with every improvement.
    engine : Engine
        What computes.
    relay : Relay
        To the GUI thread.
    problem : callable
        Returns why there is nothing to learn from, or an empty string.
    pairs : callable
        Returns the images and their paint, and a sentence for each that is left out.
    class_names : callable
        Returns the names of all classes.
    split : callable
        Returns which strokes were held out before, or None.
    learned : callable
        Called with which strokes are held out now.

    Attributes
    ----------
    base : str
        The model from before the fine-tuning; empty before the first one.
    tuned : str
        The fine-tuned model; empty where there is none.
    listeners : list of callable
        Called when a fine-tuning began or ended, and when base or tuned changed.
    """

    def __init__(
        self,
        form: TeachForm,
        panel: Panel,
        selection: Selection,
        engine: Engine,
        relay: Relay,
        problem: Callable[[], str],
        pairs: Callable[[], tuple[Sequence[PaintedSource], Sequence[str]]],
        class_names: Callable[[], tuple[str, ...]],
        split: Callable[[], dict[str, Any] | None],
        learned: Callable[[dict[str, Any]], None],
    ) -> None:
        self.form, self.panel, self.selection = form, panel, selection
        self.engine, self.relay = engine, relay
        self._problem, self._pairs, self._class_names = problem, pairs, class_names
        self.split, self._learned = split, learned
        self.job: Job | None = None
        self.base = self.tuned = ""
        self.listeners: list[Callable[[], None]] = []
        self._follows = True
        self._own_choice = False
        self._adopted = False  # whether the fine-tuning that goes on improved
        self._seconds = self._told = 0.0
        self._budget = 30.0
        self._scores: Mapping[int, float] = {}
        self._notes: list[str] = []
        form.finetune_clicked.connect(self.start)
        form.stop_clicked.connect(self.stop)
        form.revert_clicked.connect(self.revert)
        selection.listen(self._selected)

    def close(self) -> None:
        """End a fine-tuning; what it wrote so far stays among the drafts."""
        if self.job is not None:
            self.job.drop()
            self.job = None

    @property
    def running(self) -> bool:
        """Whether a fine-tuning goes on."""
        return self.job is not None

    def start(self) -> None:
        """Fine-tune the chosen model on what is painted."""
        form, selection = self.form, self.selection
        if self.running:
            return
        if problem := self._problem():
            form.set_status(problem, "warning")
            return
        card = selection.card
        assert card is not None
        scratch = form.training.scratch
        try:
            used = (selection.model_value, self.base, self.tuned)
            out = str(new_draft(SCRATCH if scratch else card.name, *used))
            pairs, notes = self._pairs()
        except UNetPPError as error:
            self._fail(str(error))
            return
        model = selection.model
        if selection.model_value != self.tuned:
            self.base = selection.model_value
        if scratch:
            model = type(model)(SCRATCH, model.device, model.precision, model.threads)
        self._budget = form.seconds
        request = TuneRequest(
            model,
            out,
            self._class_names(),
            SCRATCH if scratch else tuned_name(card.name),
            self._budget,
            axes=card.axes,
            split=self.split(),
        )
        self._follows, self._notes, self._scores = True, list(notes), {}
        self._seconds = self._told = 0.0
        self._adopted = False
        form.curve.start(self._budget)
        form.show_curve(True)
        form.show_report(None)
        form.set_running(True)
        form.set_status("reading the paint …", "busy")
        self.job = job = self.engine.tune(pairs, request)
        self._tell()
        self.relay.follow(job, lambda event: self._heard(job, event))

    def stop(self) -> None:
        """End the fine-tuning early; the best so far is kept."""
        if self.job is not None:
            self.form.set_status("stopping; the best so far is kept …", "busy")
            self.job.cancel()

    def note(self, text: str) -> None:
        """Say something with the end of the fine-tuning that goes on."""
        if self.running:
            self._notes.append(text)

    # Base and fine-tuned

    @property
    def reverts(self) -> bool:
        """Whether the fine-tuned model is the chosen one, so that there is a way back."""
        return bool(self.tuned) and self.selection.model_value == self.tuned

    def revert(self) -> None:
        """Go back to the base; from there, to the fine-tuned model again."""
        if not self.tuned:
            return
        back = self.reverts
        self._follows = not back
        if self._choose(self.base if back else self.tuned):
            name = self.selection.card.name if self.selection.card is not None else ""
            self.form.set_status(f"{'back to the base' if back else 'fine-tuned'}: {name}", "info")

    def saved(self, draft: str, path: str) -> None:
        """Go on with the saved file in place of the draft, whichever part the draft has here."""
        if self.tuned == draft:
            self.tuned = path
        if self.base == draft:
            self.base = path
        if self.selection.model_value == draft:
            self._choose(path)
            return
        with contextlib.suppress(UNetPPError):
            self.selection.models.add_file(path)
        self._tell()

    def _choose(self, value: str) -> bool:
        self._own_choice = True
        try:
            self.selection.choose_state(value)
        except UNetPPError as error:
            self._fail(str(error))
            return False
        finally:
            self._own_choice = False
        self._tell()
        return True

    def _selected(self, what: str) -> None:
        if what == "model" and not self._own_choice:
            # Someone chose a model in the list: that is not taken out of their hands.
            self._follows = self.selection.model_value in (self.tuned, self.base)
        if what in ("model", "state"):
            self._tell()

    def _adopt(self, path: str) -> None:
        """Take an improvement: it becomes the chosen model, if its base was."""
        self._adopted = True
        if self._follows:
            self.tuned = path
            self._choose(path)
        else:
            with contextlib.suppress(UNetPPError):
                self.selection.models.add_file(path)
                self.selection.refresh_models()
            self.tuned = path
            self._tell()

    # Hearing

    def _heard(self, job: Job, event: Any) -> None:
        if job is not self.job:
            return
        if isinstance(event, TuneStep):
            self._step(event)
        elif isinstance(event, TuneScored):
            self._scored(event)
        elif isinstance(event, TuneSplit):
            self._learned(event.split)  # whatever becomes of it, held out stays held out
        elif isinstance(event, TuneTeacher):
            self.form.set_status(f"learning: {taught_by(event.name)}", "busy")
        elif isinstance(event, Noted):
            self._notes.append(event.message)
        elif isinstance(event, Finished):
            self._finished(event)

    def _step(self, event: TuneStep) -> None:
        self._seconds = event.seconds
        now = time.monotonic()
        if now - self._told < TELL_SECONDS:
            return
        self._told = now
        self.form.curve.add_loss(event.seconds, event.loss)
        left = max(0.0, self._budget - event.seconds)
        parts = [f"step {event.step}, {in_words(left)} left"]
        if self._scores:
            level, score = max(self._scores.items(), key=lambda item: item[1])
            parts.append(f"best so far L{level} {score:.2f}")
        self.form.set_status(", ".join(parts), "busy")

    def _scored(self, event: TuneScored) -> None:
        self.form.curve.add_scores(self._seconds, event.scores, event.best)
        if event.best:
            self._scores = dict(event.scores)
        if event.best and event.path:
            self._adopt(event.path)

    def _finished(self, event: Finished) -> None:
        self.job = None
        form, notes = self.form, "".join(f" {_sentence(note)}" for note in self._notes)
        form.set_running(False)
        if event.state == "done" and isinstance(event.result, TuneOutcome):
            outcome = event.result
            self._learned(outcome.split)
            if outcome.path is not None:
                # The next one goes on from here.
                form.training.start.set_value(CHOSEN)
                self._adopt(outcome.path)
            card = self.selection.card
            flat = card is None or card.axes == "YX"
            form.show_report(outcome.report, "Mpx" if flat else "Mvox")
            form.set_status(f"{_done(outcome.report)}{self._told_notes(outcome)}", "info")
        elif event.state == "failed":
            kept = " What it reached before stays chosen." if self.reverts and self._scores else ""
            self._fail(f"{event.error}{kept}{notes}")
        else:
            form.set_status(f"{self._stopped()}{notes}", "info")
        self._tell()

    def _stopped(self) -> str:
        """Return what became of a fine-tuning that was cancelled."""
        if not self._adopted:
            return "stopped before anything was learned; nothing changed."
        if self.reverts:
            return "stopped; the best so far stays chosen."
        return "stopped; Back to fine-tuned takes the best so far."

    def _told_notes(self, outcome: TuneOutcome) -> str:
        """Return what was noted and does not stand in the report's sentences already."""
        said = outcome.report.get("sentences", ())
        return "".join(f" {_sentence(note)}" for note in self._notes if note not in said)

    def _fail(self, message: str) -> None:
        self.form.set_status(message, "error")
        report_error(self.panel, message)

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()


def _done(report: Mapping[str, Any]) -> str:
    """Return what became of a fine-tuning, in a line."""
    steps = "1 step" if report["steps"] == 1 else f"{report['steps']} steps"
    begin = f"done: {steps} in {in_words(report['seconds'])}."
    after = {int(k): row for k, row in report["levels"].items() if row["after"] is not None}
    if report["base_kept"] or not after:
        return f"{begin} {verdict(report)}"
    level = max(after, key=lambda k: (after[k]["after"], -k))
    before = after[level]["before"]
    rise = f"L{level} {before:.2f} → " if before is not None else f"L{level} "
    return f"{begin} {rise}{after[level]['after']:.2f} on held-out strokes."


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:].rstrip('.')}."


def taught_by(name: str) -> str:
    """Return who teaches in words, from names joined by "and"."""
    told = [TEACHERS.get(one, one) for one in name.split(" and ")]
    if name == "none":
        return f"{told[0]} teach"
    if len(told) == 1:
        return f"{told[0]} teaches the rest"
    several = f"{', '.join(told[:-1])} and {told[-1]}"
    return f"{several} teach the rest, each the classes that it knows best"
