"""Which job is next, and what becomes of it and of the worker.

One thread owns all state and handles one thing after the other: a new job, a message of the
worker, a wish to cancel, a look at the clock. One compute job is with the worker at a time,
and beside it one fine-tuning, which leaves it the right of way; the others wait here. Knows
jobs and the worker process; no pixels, no torch.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from napari_unetpp.engine.feed import Feed
from napari_unetpp.engine.job import Dispatcher, Job
from napari_unetpp.engine.lane import Lane
from napari_unetpp.engine.process import Launch, WorkerProcess, cause_of_death
from napari_unetpp.engine.protocol import Code, EngineError, EngineState
from napari_unetpp.engine.wire import Message, to_error
from napari_unetpp.engine.work import Work

_LOG = logging.getLogger("napari_unetpp")
_START_SECONDS = 180.0
_CLOSE_SECONDS = 1.0
_BUSY_SHARE = 0.05


@dataclass(frozen=True)
class Patience:
    """How long a cancelled job, and a silent worker, are waited for; in seconds.

    A fine-tuning that is cancelled finishes its step, and measures what it has; and for its
    sake a job beside it that does not stop is waited for as long.
    """

    cancel: float
    hang: float
    tune: float = 60.0


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
        self._front, self._tuning = Lane(), Lane()
        self._lanes = (self._front, self._tuning)
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
        for lane in self._lanes:
            if lane.active is not None and lane.active.deadline is not None:
                rest = min(rest, lane.active.deadline - time.monotonic())
        return max(0.001, rest)

    def _take(self, work: Work) -> None:
        if work.job.finished:
            return
        if work.job.kind == "view":
            for old in self._front:
                if old.job.kind == "view":
                    self._cancel(old.job, patient=True)
        (self._tuning if work.tunes else self._front).waiting.append(work)

    def _cancel(self, job: Job, patient: bool) -> None:
        if any(lane.drop(job) for lane in self._lanes):
            return
        active = next((w for lane in self._lanes for w in lane if w.job is job), None)
        if active is None or active.deadline is not None:
            return
        if self._worker is not None and active.task is not None and not job.finished:
            self._worker.cancel(active.task)
        if patient:
            active.finish("cancelled")  # told at once; the worker follows when it can
        elif not job.finished:
            patience = self._patience.cancel
            if active.tunes:
                patience = max(patience, self._patience.tune)
            active.deadline = time.monotonic() + patience

    def _advance(self) -> None:
        for lane in self._lanes:
            if lane.waiting and lane.active is None:
                self._ensure_worker()
                worker = self._worker
                if worker is not None and worker.ready and (work := lane.next()) is not None:
                    self._send(worker, work)
        self._tell()

    def _send(self, worker: WorkerProcess, work: Work) -> None:
        work.feed = feed = Feed(work.job, work.sources, work.sink, worker.answer)
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
        elif kind == "outcome":
            self._inbox.put(lambda: self._outcome(work, info))
        else:
            work.emit(info)

    def _outcome(self, work: Work, info: Message) -> None:
        lane = next((lane for lane in self._lanes if lane.active is work), None)
        if lane is None:
            return
        lane.active = None
        # A fine-tuning that is cancelled ends with what it has.
        stopped = work.deadline is not None and not work.tunes
        if info["state"] == "cancelled" or stopped:
            work.finish("cancelled")
        elif info["state"] == "failed":
            error = to_error(info["error"])
            if error.details:
                _LOG.error("%s\n%s", error.message, error.details)
            work.finish("failed", error=error)
        else:
            work.finish("done", work.result(info["result"]))

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
            # A library that finds no room for itself says so in the second way.
            full = "MemoryError" in what or "failed to map segment" in what
            cure = (
                "there is too little memory for it: close other programs"
                if full
                else "install napari-unetpp with PyTorch into this Python again"
            )
            self._lose(
                "start",
                f"the worker could not load what it computes with ({what}); {cure}.",
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
        hopeless = code in ("start", "bug")
        lost = [lane.lose(error, all_of_them=hopeless) for lane in self._lanes]
        self._tell(EngineState("failed", message))
        if any(lost) and not hopeless:
            self._ensure_worker()

    def _look(self) -> None:
        """Look at the clock: a job that does not stop, a worker that hangs."""
        now, worker = time.monotonic(), self._worker
        slept, self._looked = now - self._looked, now
        if worker is None:
            return
        for lane in self._lanes:
            if lane.active is not None and lane.active.late:
                self._give_up(worker, lane, lane.active)
                return
        if slept > max(2.0, self._patience.hang):  # it was we who slept: the lid was closed
            worker.heard = now
            return
        hang = self._patience.hang
        patience = hang if worker.ready else max(_START_SECONDS, hang)
        if now - worker.heard > patience and not worker.computes(_BUSY_SHARE):
            worker.kill("hung")

    def _give_up(self, worker: WorkerProcess, lane: Lane, late: Work) -> None:
        """End the worker for a cancelled job that does not stop, unless a fine-tuning needs it."""
        if lane is self._front and self._tuning.active is not None and not late.told:
            late.told = True
            late.finish("cancelled")
            late.deadline = time.monotonic() + self._patience.tune
            return
        lane.lose(None)
        self._replace(
            worker,
            EngineError(
                "the worker was ended, because a job beside this one was cancelled and did not "
                "stop; it is started again by itself, so try once more.",
                "killed",
            ),
        )

    def _replace(self, worker: WorkerProcess, why: EngineError | None) -> None:
        """End a worker and start the next one at once; what it did is cancelled, or failed."""
        self._worker = None
        worker.kill("replaced")
        self._leaving.append(worker)
        for lane in self._lanes:
            lane.lose(why)
        self._ensure_worker()

    def _restart(self) -> None:
        if self._worker is None:
            self._ensure_worker()
        else:
            self._replace(self._worker, None)

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
        idle = all(lane.active is None for lane in self._lanes)
        return EngineState("ready" if idle else "busy")

    def _end(self) -> None:
        while not self._inbox.empty():  # a job that came just before the end must end too
            with contextlib.suppress(Exception):
                self._inbox.get_nowait()()
        for lane in self._lanes:
            for work in lane:
                work.finish("cancelled")
            lane.waiting.clear()
            lane.active = None
        worker, self._worker = self._worker, None
        for one in (*self._leaving, *([] if worker is None else [worker])):
            one.close(_CLOSE_SECONDS)
        self._tell(EngineState("stopped"))
        self._dispatcher.stop(0.2)
