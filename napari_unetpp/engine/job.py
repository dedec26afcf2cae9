"""A job as its owner sees it, and the thread that calls listeners.

Knows events; no process and no pixels.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from napari_unetpp.engine.protocol import EngineError, Event, Finished, JobState, Progress

_LOG = logging.getLogger("napari_unetpp")
_BACKLOG = 1024

Listener = Callable[[Event], None]


class Dispatcher:
    """Makes calls one after the other on a daemon thread, so that none delays the engine."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = self._start()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._loop, name="unetpp-events", daemon=True)
        thread.start()
        return thread

    def post(self, call: Callable[[], object]) -> None:
        """Make a call on the thread; after the end too, for who listens to an old job."""
        with self._lock:
            self._calls.put(call)
            if self._stopped:
                self._calls.put(None)
                # At the very end of an interpreter no thread can be started any more.
                with contextlib.suppress(RuntimeError):
                    self._thread = self._start()

    def stop(self, timeout: float) -> None:
        """End the thread after what was posted."""
        with self._lock:
            self._stopped = True
            self._calls.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _loop(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                _LOG.exception("a listener of the engine failed")
            del call


class Job:
    """Work that was asked of the engine.

    Attributes
    ----------
    id : int
        Counts up.
    kind : str
        "load", "view", "run", "objects", "suggest", "tune" or "stats".
    state : {"queued", "running", "done", "cancelled", "failed"}
        The last three are final.
    result : object
        What the job gave, once it is done.
    error : EngineError, optional
        Why it failed.
    """

    def __init__(
        self,
        number: int,
        kind: str,
        dispatcher: Dispatcher,
        cancel: Callable[[Job, bool], None],
    ) -> None:
        self.id = number
        self.kind = kind
        self.state: JobState = "queued"
        self.result: Any = None
        self.error: EngineError | None = None
        self._dispatcher = dispatcher
        self._cancel = cancel
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._backlog: list[Event] | None = []
        self._final: Finished | None = None
        self._over = threading.Event()

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self._final is not None

    def listen(self, callback: Listener) -> None:
        """Call `callback` with every event, in order, on a background thread.

        The first listener also gets what happened before it came, so nothing is lost
        between asking for a job and listening to it. The last event is ``Finished``; who
        comes after it gets it at once. Callbacks must be short and must not wait for jobs.
        """
        with self._lock:
            for event in self._backlog or ():
                self._dispatcher.post(lambda e=event: callback(e))  # type: ignore[misc]
            self._backlog = None
            if self._final is not None:
                final = self._final
                self._dispatcher.post(lambda: callback(final))
            else:
                self._listeners.append(callback)

    def cancel(self) -> None:
        """Ask the worker to stop at the next node or tile; returns at once.

        A worker that does not answer in time is ended and started again. The job ends
        "cancelled" either way, unless it is over already; but a fine-tuning ends "done" with
        the best so far, as soon as it has something.
        """
        if self._final is None:
            self._cancel(self, False)

    def drop(self) -> None:
        """Let go of a job that is not wanted any more; returns at once.

        It ends "cancelled" at once. The worker stops at the next node or tile and is never
        ended for it: the next job waits so long.
        """
        if self._final is None:
            self._cancel(self, True)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the end; every listener has been called then.

        Returns
        -------
        object
            The result.

        Raises
        ------
        EngineError
            If the job failed or was cancelled.
        TimeoutError
            If it is not over in time.
        """
        if not self._over.wait(timeout):
            raise TimeoutError(f"job {self.id} is still {self.state} after {timeout} s.")
        if self.error is not None:
            raise self.error
        if self.state == "cancelled":
            raise EngineError("the job was cancelled.", "cancelled")
        return self.result

    def emit(self, event: Event) -> None:
        """Tell the listeners; for the engine. Nothing is told after the end."""
        with self._lock:
            if self._final is not None:
                return
            if self._backlog is not None:
                self._remember(self._backlog, event)
            for callback in self._listeners:
                self._dispatcher.post(lambda c=callback: c(event))  # type: ignore[misc]

    @staticmethod
    def _remember(backlog: list[Event], event: Event) -> None:
        if isinstance(event, Progress) and backlog and isinstance(backlog[-1], Progress):
            backlog.pop()
        if len(backlog) < _BACKLOG:
            backlog.append(event)

    def begin(self) -> None:
        """Set the state to "running"; for the engine."""
        with self._lock:
            if self._final is None:
                self.state = "running"

    def finish(self, state: JobState, result: Any = None, error: EngineError | None = None) -> None:
        """Set the final state and tell the listeners; for the engine. The first one counts."""
        with self._lock:
            if self._final is not None:
                return
            self.state, self.result, self.error = state, result, error
            self._final = Finished(state, result, error)
            final = self._final
            for callback in self._listeners:
                self._dispatcher.post(lambda c=callback: c(final))  # type: ignore[misc]
            self._listeners.clear()
            self._dispatcher.post(self._over.set)
