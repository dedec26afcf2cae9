"""The engine, as a viewer sees it: jobs in, events out, a worker that is always there again.

One thread (the manager) owns all state and handles one thing after the other: a new job, a
message of the worker, a wish to cancel, a look at the clock. One compute job is with the
worker at a time, the others wait here, where dropping them costs nothing. No method but
``close`` waits. Knows no torch, no Qt and no viewer.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from appose.service import Task
from numpy.typing import NDArray

from napari_unetpp.engine.feed import Feed
from napari_unetpp.engine.job import Dispatcher, Job
from napari_unetpp.engine.process import Launch, WorkerProcess, cause_of_death, default_python
from napari_unetpp.engine.protocol import (
    EngineError,
    EngineState,
    LayerSource,
    ModelReady,
    ModelRequest,
    Noted,
    Progress,
    RunRequest,
    ViewRequest,
)
from napari_unetpp.engine.wire import Message, from_request, from_source, to_error

_LOG = logging.getLogger("napari_unetpp")
_START_SECONDS = 180.0
_CLOSE_SECONDS = 1.0


@dataclass(eq=False)
class _Work:
    """A job and what it needs."""

    job: Job
    message: Message
    source: Any
    sink: Any
    task: Task | None = None
    feed: Feed | None = None
    deadline: float | None = None  # when the worker is ended because it does not stop


class Engine:
    """A worker process with the core, and jobs for it.

    Parameters
    ----------
    python : str, optional
        Interpreter of the worker; the one of this process if None. In 3D Slicer it must be
        PythonSlicer.
    env : mapping of str to str, optional
        Added to the worker's environment.
    memory_limit : int, optional
        Bytes of address space that the worker may take (POSIX).
    cancel_seconds : float
        So long a cancelled job may take to stop before the worker is ended.
    hang_seconds : float
        A worker that neither gives a sign of life nor computes for so long is ended.
    beat_seconds : float
        Between two signs of life.

    Attributes
    ----------
    jobs_started : int
        Compute jobs that were sent to the worker.
    """

    def __init__(
        self,
        *,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        memory_limit: int | None = None,
        cancel_seconds: float = 0.2,
        hang_seconds: float = 20.0,
        beat_seconds: float = 1.0,
    ) -> None:
        self._launch = Launch(
            python or default_python(), dict(env or {}), memory_limit, beat_seconds
        )
        self._cancel_seconds, self._hang_seconds = cancel_seconds, hang_seconds
        self.jobs_started = 0
        self._numbers = itertools.count(1)
        self._dispatcher = Dispatcher()
        self._listeners: list[Callable[[EngineState], None]] = []
        self._state = EngineState("stopped")
        self._worker: WorkerProcess | None = None
        self._waiting: deque[_Work] = deque()
        self._active: _Work | None = None
        self._looked = time.monotonic()
        self._cpu: tuple[float, float | None] = (0.0, None)
        self._closed = threading.Event()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._manager = threading.Thread(target=self._loop, name="unetpp-engine", daemon=True)
        self._manager.start()
        _ENGINES.add(self)

    # What a viewer calls.

    @property
    def state(self) -> EngineState:
        """What the engine is doing now."""
        return self._state

    @property
    def worker_pid(self) -> int | None:
        """Number of the worker process; None while there is none."""
        worker = self._worker
        return None if worker is None else worker.pid

    def listen(self, callback: Callable[[EngineState], None]) -> None:
        """Call `callback` with every state to come, on a background thread."""
        self._listeners.append(callback)

    def start(self) -> None:
        """Start the worker in the background, so that the first job finds it ready."""
        self._inbox.put(self._ensure_worker)

    def load(self, model: ModelRequest) -> Job:
        """Load a model, so that the next job finds it warm; the result is ModelReady."""
        return self._submit("load", model, None, None)

    def view(self, source: LayerSource, request: ViewRequest) -> Job:
        """Predict what is on screen, level after level.

        Events are LevelReady and Noted, the result is the tuple of levels that the client
        has then. Older views that are not finished end "cancelled"; the worker lives on.
        """
        return self._submit("view", request, source, None)

    def run(self, source: LayerSource, request: RunRequest, sink: Any) -> Job:
        """Run over an image.

        Events are Progress, Written and Noted, the result is ``Prediction.to_json()``.

        Parameters
        ----------
        source : LayerSource
            The image; read on a thread of the engine.
        request : RunRequest
            What to do.
        sink : array-like
            Regions are assigned to it, on a thread of the engine. Its axes, shape and type
            are those of :func:`napari_unetpp.core.run.results.output_axes`.
        """
        return self._submit("run", request, source, sink)

    def objects(
        self,
        probabilities: NDArray[np.float32],
        request: ModelRequest,
        threshold: float | None = None,
        min_size: int | None = None,
    ) -> Job:
        """Find objects in the probabilities of one plane or volume.

        Parameters
        ----------
        probabilities : ndarray of float32, shape (channels, *space)
            As LevelReady gave; axes of length 1 between are left out.
        request : ModelRequest
            The model that made them.
        threshold, min_size
            The card's if None.

        Returns
        -------
        Job
            The result is an int32 array of the shape of one channel of `probabilities`.
        """
        sink = np.zeros(probabilities.shape[1:], np.int32)
        source = LayerSource(probabilities, "", name="probabilities")
        more = {"threshold": threshold, "min_size": min_size}
        return self._submit("objects", request, source, sink, more)

    def stats(self) -> Job:
        """Ask the worker what it has done: ``nodes`` computed, levels ``kept``; for tests."""
        return self._submit("stats", None, None, None)

    def restart(self) -> None:
        """End the worker, whatever it does, and start another one."""
        self._inbox.put(self._restart)

    def close(self) -> None:
        """End the worker and all jobs; within two seconds, and again does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._inbox.put(lambda: None)
        if threading.current_thread() is not self._manager:
            self._manager.join(2 * _CLOSE_SECONDS)
        _ENGINES.discard(self)

    # What the manager does.

    def _submit(
        self,
        kind: str,
        request: ModelRequest | RunRequest | ViewRequest | None,
        source: LayerSource | None,
        sink: Any,
        more: Message | None = None,
    ) -> Job:
        number = next(self._numbers)
        job = Job(number, kind, self._dispatcher, self._ask_to_cancel, self._ask_to_drop)
        if self._closed.is_set():
            job.finish("failed", error=EngineError("the engine is closed.", "start"))
            return job
        try:
            message: Message = dict(more or {})
            if request is not None:
                message["request"] = from_request(request)
            if source is not None:
                message["source"] = from_source(source)
            shape = getattr(sink, "shape", None)
            message["sink"] = None if shape is None else [int(n) for n in shape]
        except EngineError as error:
            job.finish("failed", error=error)
            return job
        data = None if source is None else source.data
        work = _Work(job, message, data, sink)
        self._inbox.put(lambda: self._take(work))
        return job

    def _ask_to_cancel(self, job: Job) -> None:
        self._inbox.put(lambda: self._cancel(job))

    def _ask_to_drop(self, job: Job) -> None:
        self._inbox.put(lambda: self._drop(job))

    def _loop(self) -> None:
        while not self._closed.is_set():
            try:
                call = self._inbox.get(timeout=self._patience())
            except queue.Empty:
                call = self._look
            try:
                call()
                self._look()
                self._advance()
            except Exception:  # a defect here must not leave every job waiting for ever
                _LOG.exception("the engine's manager failed")
                self._lose("bug", "something unexpected went wrong in the engine: this is a "
                           "defect, please report it.")  # fmt: skip
        self._end()

    def _patience(self) -> float | None:
        """Return how long nothing needs to be done; the clock is looked at then."""
        if self._worker is None:
            return None
        if self._active is not None and self._active.deadline is not None:
            return max(0.001, self._active.deadline - time.monotonic())
        return min(1.0, self._hang_seconds / 4)

    def _take(self, work: _Work) -> None:
        if work.job.kind == "view":
            for old in [w for w in self._waiting if w.job.kind == "view"]:
                self._waiting.remove(old)
                self._finish(old, "cancelled")
            active = self._active
            if active is not None and active.job.kind == "view":
                self._drop(active.job)
        self._waiting.append(work)

    def _drop(self, job: Job) -> None:
        for work in [w for w in self._waiting if w.job is job]:
            self._waiting.remove(work)
            self._finish(work, "cancelled")
        active = self._active
        if active is not None and active.job is job and not job.finished:
            self._stop(active)
            self._finish(active, "cancelled")  # told at once; the worker follows

    def _cancel(self, job: Job) -> None:
        for work in self._waiting:
            if work.job is job:
                self._waiting.remove(work)
                self._finish(work, "cancelled")
                return
        active = self._active
        if active is not None and active.job is job and active.deadline is None:
            self._stop(active)
            active.deadline = time.monotonic() + self._cancel_seconds

    def _stop(self, work: _Work) -> None:
        if self._worker is not None and work.task is not None:
            self._worker.cancel(work.task)

    def _advance(self) -> None:
        if self._closed.is_set():
            return
        if self._waiting and self._active is None:
            self._ensure_worker()
            worker = self._worker
            if worker is not None and worker.ready:
                self._send(worker, self._waiting.popleft())
        self._tell()

    def _send(self, worker: WorkerProcess, work: _Work) -> None:
        self._active = work
        work.feed = feed = Feed(work.job, work.source, work.sink, worker.answer)
        if work.job.kind != "stats":
            self.jobs_started += 1
        work.job.begin()
        work.task = worker.work(
            work.job.kind, work.message, lambda info: self._receive(work, feed, info)
        )

    def _receive(self, work: _Work, feed: Feed, info: Message) -> None:
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

    def _outcome(self, work: _Work, info: Message) -> None:
        if self._active is not work:
            return
        self._active = None
        if info["state"] == "cancelled" or work.deadline is not None:
            self._finish(work, "cancelled")
        elif info["state"] == "failed":
            error = to_error(info["error"])
            if error.details:
                _LOG.error("%s\n%s", error.message, error.details)
            self._finish(work, "failed", error=error)
        else:
            self._finish(work, "done", self._result(work, info["result"]))

    @staticmethod
    def _result(work: _Work, result: Message) -> Any:
        if work.job.kind == "load":
            result["levels_trained"] = tuple(result["levels_trained"])
            return ModelReady(**result)
        if work.job.kind == "view":
            return tuple(result["levels"])
        return work.sink if work.job.kind == "objects" else result

    @staticmethod
    def _finish(
        work: _Work, state: Any, result: Any = None, error: EngineError | None = None
    ) -> None:
        if work.feed is not None:
            work.feed.close()
        work.job.finish(state, result, error)

    # The worker's life.

    def _ensure_worker(self) -> None:
        if self._worker is not None or self._closed.is_set():
            return
        worker = WorkerProcess(
            self._launch, lambda w, info: self._inbox.put(lambda: self._heard(w, info))
        )
        self._looked = time.monotonic()
        try:
            worker.start()
        except OSError as error:
            self._lose(
                "start",
                f"the worker could not be started with {self._launch.python} ({error}); check "
                "that this Python exists and may be run.",
            )
            return
        self._worker = worker

    def _heard(self, worker: WorkerProcess, info: Message) -> None:
        kind = info["event"]
        if worker is not self._worker:
            if kind == "gone":
                worker.clean()
            return
        if kind == "ready":
            worker.ready = True
        elif kind == "failed" and not worker.ready:
            worker.problem = info
            worker.kill("start")
        elif kind == "gone":
            # What it said before it went may still be on its way through the pipe.
            worker.clean()
            self._inbox.put(lambda: self._gone(worker))

    def _gone(self, worker: WorkerProcess) -> None:
        if worker is not self._worker:
            return
        self._worker = None
        words = worker.last_words()
        if worker.problem is not None:
            what = worker.problem["message"]
            self._lose(
                "start",
                f"the worker could not load what it computes with ({what}); install "
                "napari-unetpp and PyTorch into this Python again.",
                worker.problem["details"],
            )
        elif worker.ending == "hung":
            self._lose("hung", "the worker gave no sign of life any more and was ended; it is "
                       "started again with the next job.", words)  # fmt: skip
        elif not worker.ready:
            last = words.strip().splitlines()[-1:] or ["it said nothing"]
            self._lose(
                "start",
                f"the worker ended before it was ready, {cause_of_death(worker.exit_code)} "
                f"({last[0]}); check that {self._launch.python} has napari-unetpp installed.",
                words,
            )
        else:
            self._lose(
                "killed",
                f"the worker was ended {cause_of_death(worker.exit_code)}; it is started again "
                "with the next job.",
                words,
            )

    def _lose(self, code: Any, message: str, details: str = "") -> None:
        """The worker is gone: what it was doing fails; what it could not even begin too."""
        _LOG.error("%s%s", message, f"\n{details}" if details else "")
        error = EngineError(message, code, details)
        lost, self._active = self._active, None
        if lost is not None:
            if lost.deadline is not None:
                self._finish(lost, "cancelled")
            else:
                self._finish(lost, "failed", error=error)
        if code in ("start", "bug"):
            while self._waiting:
                self._finish(self._waiting.popleft(), "failed", error=error)
        self._tell(EngineState("failed", message))

    def _look(self) -> None:
        """Look at the clock: a job that does not stop, a worker that hangs."""
        now, worker = time.monotonic(), self._worker
        slept, self._looked = now - self._looked, now
        if worker is None:
            return
        active = self._active
        if active is not None and active.deadline is not None and now >= active.deadline:
            self._replace(worker, "the job did not stop in time")
            return
        if slept > max(2.0, self._hang_seconds):  # it was we who slept: the lid was closed
            worker.heard = now
            return
        patience = self._hang_seconds if worker.ready else max(_START_SECONDS, self._hang_seconds)
        if now - worker.heard > patience and not self._computes(worker, now):
            worker.kill("hung")

    def _computes(self, worker: WorkerProcess, now: float) -> bool:
        """Return whether a silent worker computes: long work may hold the interpreter."""
        then, before = self._cpu
        used = worker.cpu_seconds()
        self._cpu = (now, used)
        if before is None or used is None or now <= then or now - then > 2 * self._hang_seconds:
            return used is not None and before is None
        return used - before > 0.05 * (now - then)

    def _replace(self, worker: WorkerProcess, why: str) -> None:
        """End a worker and start the next one at once; what it did is cancelled."""
        lost, self._active, self._worker = self._active, None, None
        worker.kill(why)
        if lost is not None:
            self._finish(lost, "cancelled")
        self._ensure_worker()

    def _restart(self) -> None:
        if self._worker is None:
            self._ensure_worker()
        else:
            self._replace(self._worker, "restart")

    def _tell(self, state: EngineState | None = None) -> None:
        if state is None:
            if self._worker is None:
                kind: Any = "failed" if self._state.kind == "failed" else "stopped"
            elif not self._worker.ready:
                kind = "starting"
            else:
                kind = "ready" if self._active is None else "busy"
            state = EngineState(kind, self._state.message if kind == "failed" else "")
        if state != self._state:
            self._state = state
            for callback in list(self._listeners):
                self._dispatcher.post(lambda c=callback: c(state))  # type: ignore[misc]

    def _end(self) -> None:
        if self._active is not None:
            self._finish(self._active, "cancelled")
        for work in self._waiting:
            self._finish(work, "cancelled")
        worker, self._worker, self._active = self._worker, None, None
        self._waiting.clear()
        if worker is not None:
            worker.close(_CLOSE_SECONDS)
        self._tell(EngineState("stopped"))
        self._dispatcher.stop(0.2)


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_ENGINES):
        engine.close()
