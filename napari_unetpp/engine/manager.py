"""Which job is next, and what becomes of it and of the worker.

One thread owns all state and handles one thing after the other: a new job, a message of the
worker, a wish to cancel, a look at the clock. One compute job is with the worker at a time;
the others wait here, where dropping them costs nothing. Knows jobs and the worker process;
no pixels, no torch.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appose.service import Task

from napari_unetpp.engine.feed import Feed
from napari_unetpp.engine.job import Dispatcher, Job
from napari_unetpp.engine.process import Launch, WorkerProcess, cause_of_death
from napari_unetpp.engine.protocol import (
    Code,
    EngineError,
    EngineState,
    JobState,
    ModelReady,
    Noted,
    Progress,
)
from napari_unetpp.engine.wire import Message, to_error

_LOG = logging.getLogger("napari_unetpp")
_START_SECONDS = 180.0
_CLOSE_SECONDS = 1.0
_BUSY_SHARE = 0.05


@dataclass(frozen=True)
class Patience:
    """How long a cancelled job, and a silent worker, are waited for; in seconds."""

    cancel: float
    hang: float


@dataclass(eq=False)
class Work:
    """A job and what it needs.

    Attributes
    ----------
    job : Job
        What the client's user holds.
    message : dict
        What the worker gets.
    source, sink : array-like, optional
        What is read and written on this side.
    task, feed
        Once it is with the worker.
    deadline : float, optional
        When the worker is ended because the cancelled job does not stop.
    """

    job: Job
    message: Message
    source: Any
    sink: Any
    task: Task | None = None
    feed: Feed | None = None
    deadline: float | None = None

    def finish(self, state: JobState, result: Any = None, error: EngineError | None = None) -> None:
        """End the job; nothing is read or written for it any more."""
        if self.feed is not None:
            self.feed.close()
        self.job.finish(state, result, error)


class Manager:
    """Runs the engine.

    Parameters
    ----------
    launch : Launch
        How workers are started.
    patience : Patience
        How long things may take.
    dispatcher : Dispatcher
        Calls listeners.
    """

    def __init__(self, launch: Launch, patience: Patience, dispatcher: Dispatcher) -> None:
        self._launch, self._patience, self._dispatcher = launch, patience, dispatcher
        self.jobs_started = 0
        self.state = EngineState("stopped")
        self._listeners: list[Callable[[EngineState], None]] = []
        self._worker: WorkerProcess | None = None
        self._leaving: list[WorkerProcess] = []  # replaced, and not yet known to be gone
        self._waiting: deque[Work] = deque()
        self._active: Work | None = None
        self._looked = time.monotonic()
        self._closed = threading.Event()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="unetpp-engine", daemon=True)
        self._thread.start()

    # From other threads

    @property
    def worker_pid(self) -> int | None:
        """Number of the worker process."""
        worker = self._worker
        return None if worker is None else worker.pid

    def listen(self, callback: Callable[[EngineState], None]) -> None:
        """Call `callback` with every state to come."""
        self._listeners.append(callback)

    def start(self) -> None:
        """Start a worker if there is none."""
        self._inbox.put(self._ensure_worker)

    def restart(self) -> None:
        """End the worker and start another one."""
        self._inbox.put(self._restart)

    def submit(self, work: Work) -> None:
        """Take a job."""
        if self._closed.is_set():
            work.finish("failed", error=EngineError("the engine is closed.", "start"))
        self._inbox.put(lambda: self._take(work))

    def cancel(self, job: Job, patient: bool) -> None:
        """End a job; a patient one leaves the worker the time that it takes."""
        self._inbox.put(lambda: self._cancel(job, patient))

    def close(self) -> None:
        """End everything, and wait for it."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._inbox.put(lambda: None)
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * _CLOSE_SECONDS)

    # The loop

    def _loop(self) -> None:
        while not self._closed.is_set():
            try:
                call = self._inbox.get(timeout=self._rest())
            except queue.Empty:
                call = self._look
            try:
                if not self._closed.is_set():
                    call()
                    self._look()
                    self._advance()
            except Exception:  # a defect here must not leave every job waiting for ever
                _LOG.exception("the engine's manager failed")
                self._lose(
                    "bug",
                    "something unexpected went wrong in the engine: this is a defect, please "
                    "report it.",
                )
        self._end()

    def _rest(self) -> float | None:
        """Return how long nothing needs to be done unless something comes."""
        if self._worker is None:
            return None
        rest = min(1.0, self._patience.hang / 4)
        if self._active is not None and self._active.deadline is not None:
            rest = min(rest, self._active.deadline - time.monotonic())
        return max(0.001, rest)

    def _take(self, work: Work) -> None:
        if work.job.finished:
            return
        if work.job.kind == "view":
            for old in [w for w in (*self._waiting, self._active) if w is not None]:
                if old.job.kind == "view":
                    self._cancel(old.job, patient=True)
        self._waiting.append(work)

    def _cancel(self, job: Job, patient: bool) -> None:
        for work in self._waiting:
            if work.job is job:
                self._waiting.remove(work)
                work.finish("cancelled")
                return
        active = self._active
        if active is None or active.job is not job or active.deadline is not None:
            return
        if self._worker is not None and active.task is not None and not job.finished:
            self._worker.cancel(active.task)
        if patient:
            active.finish("cancelled")  # told at once; the worker follows when it can
        elif not job.finished:
            active.deadline = time.monotonic() + self._patience.cancel

    def _advance(self) -> None:
        if self._waiting and self._active is None:
            self._ensure_worker()
            worker = self._worker
            if worker is not None and worker.ready:
                self._send(worker, self._waiting.popleft())
        self._tell()

    def _send(self, worker: WorkerProcess, work: Work) -> None:
        self._active = work
        work.feed = feed = Feed(work.job, work.source, work.sink, worker.answer)
        if work.job.kind != "stats":
            self.jobs_started += 1
        work.job.begin()
        work.task = worker.work(
            work.job.kind, work.message, lambda info: self._receive(work, feed, info)
        )

    def _receive(self, work: Work, feed: Feed, info: Message) -> None:
        """Take a message of a job, on appose's thread: pass it on, never wait."""
        kind = info["event"]
        if kind in ("read", "write", "level"):
            feed.put(info)
        elif kind == "progress":
            work.job.emit(Progress(info["done"], info["total"], info["level"]))
        elif kind == "note":
            work.job.emit(Noted(info["message"], info["code"]))
        else:
            self._inbox.put(lambda: self._outcome(work, info))

    def _outcome(self, work: Work, info: Message) -> None:
        if self._active is not work:
            return
        self._active = None
        if info["state"] == "cancelled" or work.deadline is not None:
            work.finish("cancelled")
        elif info["state"] == "failed":
            error = to_error(info["error"])
            if error.details:
                _LOG.error("%s\n%s", error.message, error.details)
            work.finish("failed", error=error)
        else:
            work.finish("done", _result(work, info["result"]))

    # The worker's life

    def _ensure_worker(self) -> None:
        if self._worker is not None:
            return
        worker = WorkerProcess(
            self._launch, lambda w, info: self._inbox.put(lambda: self._heard(w, info))
        )
        self._looked = time.monotonic()
        try:
            worker.start()
        except (OSError, ValueError) as error:
            worker.clean()
            self._lose(
                "start",
                f"the worker could not be started with {self._launch.python!r} ({error}); check "
                "that this Python exists and may be run.",
            )
            return
        self._worker = worker

    def _heard(self, worker: WorkerProcess, info: Message) -> None:
        kind = info["event"]
        if kind == "gone":
            worker.clean()
            if worker in self._leaving:
                self._leaving.remove(worker)
            # What it said before it went may lie in the inbox behind this.
            self._inbox.put(lambda: self._gone(worker))
        elif worker is not self._worker:
            return
        elif kind == "ready":
            worker.ready = True
        elif kind == "failed" and not worker.ready:
            worker.problem = info
            worker.kill("start")

    def _gone(self, worker: WorkerProcess) -> None:
        if worker is not self._worker:
            return
        self._worker = None
        words = worker.last_words()
        death = cause_of_death(worker.exit_code)
        again = "it is started again by itself, so try once more."
        if worker.problem is not None:
            what = worker.problem["message"]
            self._lose(
                "start",
                f"the worker could not load what it computes with ({what}); install "
                "napari-unetpp with PyTorch into this Python again.",
                worker.problem["details"],
            )
        elif worker.ending == "hung":
            self._lose("hung", f"the worker gave no sign of life and was ended; {again}", words)
        elif not worker.ready:
            last = words.strip().splitlines()[-1:] or ["it said nothing"]
            self._lose(
                "start",
                f"the worker ended before it was ready, {death} ({last[0]}); check that "
                f"{self._launch.python} has napari-unetpp installed.",
                words,
            )
        else:
            self._lose("killed", f"the worker was ended {death}; {again}", words)

    def _lose(self, code: Code, message: str, details: str = "") -> None:
        """Tell that the worker is gone: what it did fails, and all if none can be started."""
        _LOG.error("%s%s", message, f"\n{details}" if details else "")
        error = EngineError(message, code, details)
        lost, self._active = self._active, None
        if lost is not None:
            if lost.deadline is not None:
                lost.finish("cancelled")
            else:
                lost.finish("failed", error=error)
        self._tell(EngineState("failed", message))
        if code in ("start", "bug"):
            while self._waiting:
                self._waiting.popleft().finish("failed", error=error)
        elif lost is not None:
            self._ensure_worker()

    def _look(self) -> None:
        """Look at the clock: a job that does not stop, a worker that hangs."""
        now, worker = time.monotonic(), self._worker
        slept, self._looked = now - self._looked, now
        if worker is None:
            return
        active = self._active
        if active is not None and active.deadline is not None and now >= active.deadline:
            self._replace(worker)
            return
        if slept > max(2.0, self._patience.hang):  # it was we who slept: the lid was closed
            worker.heard = now
            return
        hang = self._patience.hang
        patience = hang if worker.ready else max(_START_SECONDS, hang)
        if now - worker.heard > patience and not worker.computes(_BUSY_SHARE):
            worker.kill("hung")

    def _replace(self, worker: WorkerProcess) -> None:
        """End a worker and start the next one at once; what it did is cancelled."""
        lost, self._active, self._worker = self._active, None, None
        worker.kill("replaced")
        self._leaving.append(worker)
        if lost is not None:
            lost.finish("cancelled")
        self._ensure_worker()

    def _restart(self) -> None:
        if self._worker is None:
            self._ensure_worker()
        else:
            self._replace(self._worker)

    def _tell(self, state: EngineState | None = None) -> None:
        if state is None:
            state = self._found()
        if state != self.state:
            self.state = state
            for callback in list(self._listeners):
                self._dispatcher.post(lambda c=callback: c(state))  # type: ignore[misc]

    def _found(self) -> EngineState:
        if self._worker is None:
            return self.state if self.state.kind == "failed" else EngineState("stopped")
        if not self._worker.ready:
            return EngineState("starting")
        return EngineState("ready" if self._active is None else "busy")

    def _end(self) -> None:
        while not self._inbox.empty():  # a job that came just before the end must end too
            with contextlib.suppress(Exception):
                self._inbox.get_nowait()()
        for work in (*self._waiting, self._active):
            if work is not None:
                work.finish("cancelled")
        worker, self._worker, self._active = self._worker, None, None
        self._waiting.clear()
        for one in (*self._leaving, *([] if worker is None else [worker])):
            one.close(_CLOSE_SECONDS)
        self._tell(EngineState("stopped"))
        self._dispatcher.stop(0.2)


def _result(work: Work, result: Message) -> Any:
    """Return a job's result as its owner gets it."""
    kind = work.job.kind
    if kind == "load":
        ready = ModelReady(**{**result, "levels_trained": tuple(result["levels_trained"])})
        work.job.emit(ready)
        return ready
    if kind == "view":
        return tuple(result["levels"])
    return work.sink if kind == "objects" else result
