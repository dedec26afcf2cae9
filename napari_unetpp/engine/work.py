"""A job and what it needs on this side: its messages become events, its outcome a result.

Knows jobs, messages and arrays; no worker process and no other job.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from appose.service import Task

from napari_unetpp.engine.feed import Feed
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import (
    EngineError,
    Event,
    JobState,
    ModelReady,
    Noted,
    Progress,
    Suggestion,
    TuneOutcome,
    TuneScored,
    TuneSplit,
    TuneStep,
    TuneTeacher,
)
from napari_unetpp.engine.wire import Message


@dataclass(eq=False)
class Work:
    """A job and what it needs.

    Attributes
    ----------
    job : Job
        What the client's user holds.
    message : dict
        What the worker gets.
    sources : sequence of array-like
        What is read on this side; requests name them by their place.
    sink : array-like, optional
        What is written on this side.
    task, feed
        Once it is with the worker.
    deadline : float, optional
        When the worker is ended because the cancelled job does not stop.
    told : bool
        It has ended for its owner, and the worker has not stopped yet.
    written : str
        Of a fine-tuning: the model file, once something was written to it.
    """

    job: Job
    message: Message
    sources: Sequence[Any] = ()
    sink: Any = None
    task: Task | None = None
    feed: Feed | None = None
    deadline: float | None = None
    told: bool = False
    written: str = ""

    @property
    def tunes(self) -> bool:
        """Whether it is a fine-tuning, which goes on beside other jobs and ends gently."""
        return self.job.kind == "tune"

    @property
    def late(self) -> bool:
        """Whether it was cancelled and has not stopped in time."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def finish(self, state: JobState, result: Any = None, error: EngineError | None = None) -> None:
        """End the job; nothing is read or written for it any more."""
        if self.feed is not None:
            self.feed.close()
        self.job.finish(state, result, error)

    def lose(self, error: EngineError) -> None:
        """End the job because its worker is gone."""
        if self.deadline is not None or self.told:
            self.finish("cancelled")
            return
        if self.tunes:
            rest = (
                f"The best model so far stays in {self.written}."
                if self.written
                else "No better model had been written yet."
            )
            error = EngineError(f"{error.message} {rest}", error.code, error.details)
        self.finish("failed", error=error)

    def emit(self, info: Message) -> None:
        """Tell the job's listeners what the worker tells."""
        event = _event(info)
        if isinstance(event, TuneScored) and event.path is not None:
            self.written = event.path
        self.job.emit(event)

    def result(self, result: Message) -> Any:
        """Return the job's result as its owner gets it."""
        kind = self.job.kind
        if kind == "load":
            ready = ModelReady(**{**result, "levels_trained": tuple(result["levels_trained"])})
            self.job.emit(ready)
            return ready
        if kind == "view":
            return tuple(result["levels"])
        if kind == "suggest":
            return tuple(
                Suggestion(tuple((int(a), int(b)) for a, b in one["box"]), float(one["score"]))
                for one in result["places"]
            )
        if kind == "tune":
            return TuneOutcome(**result)
        return self.sink if kind == "objects" else result


def _event(info: Message) -> Event:
    """Return the event that a message stands for."""
    kind = info["event"]
    if kind == "progress":
        return Progress(info["done"], info["total"], info["level"])
    if kind == "note":
        return Noted(info["message"], info["code"])
    if kind == "teacher":
        return TuneTeacher(info["name"], dict(info["scores"]))
    if kind == "split":
        return TuneSplit(info["split"])
    if kind == "step":
        return TuneStep(info["step"], info["total"], info["loss"], info["seconds"])
    scores = {int(level): float(value) for level, value in info["scores"].items()}
    return TuneScored(info["step"], scores, info["best"], info["path"])
