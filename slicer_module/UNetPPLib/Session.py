"""The engine for one Slicer, and its events on the main thread.

Events of jobs come on threads; MRML may be touched on the main thread alone. They wait in a
queue until somebody there polls: a QTimer of the panel, or the loop of a batch. Knows the
engine's client; no MRML node, no widget.
"""

from __future__ import annotations

import os
import queue
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unetpp.engine.client import Engine
    from napari_unetpp.engine.job import Job

_PAUSE_SECONDS = 0.01
_shared: Session | None = None


def slicer_python() -> str:
    """Return the interpreter that the worker runs on: PythonSlicer inside of Slicer."""
    import slicer

    app = getattr(slicer, "app", None)
    home = str(getattr(app, "slicerHome", "") or "")
    name = "PythonSlicer" + (".exe" if os.name == "nt" else "")
    for candidate in (os.path.join(home, "bin", name) if home else "", shutil.which(name) or ""):
        if candidate and os.path.isfile(candidate):
            return candidate
    return sys.executable


class Session:
    """Jobs for one worker process, heard on the thread that polls.

    Parameters
    ----------
    make_engine : callable, optional
        Gives the engine, at its first use; one on :func:`slicer_python` if None.
    """

    def __init__(self, make_engine: Callable[[], Engine] | None = None) -> None:
        self._make = make_engine or _default_engine
        self._engine: Engine | None = None
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closed = False

    @property
    def engine(self) -> Engine:
        """The engine; its worker starts with the first job."""
        if self._engine is None:
            self._engine = self._make()
            self._closed = False
        return self._engine

    @property
    def started(self) -> bool:
        """Whether there is an engine."""
        return self._engine is not None

    def follow(self, job: Job, heard: Callable[[Any], None]) -> None:
        """Have a job's events told by :meth:`poll`, the last one being ``Finished``."""
        job.listen(lambda event: self._events.put(lambda: heard(event)))

    def poll(self) -> int:
        """Tell what happened since the last time; return how many events there were."""
        told = 0
        while not self._closed:
            try:
                call = self._events.get_nowait()
            except queue.Empty:
                break
            call()
            told += 1
        return told

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Poll until something is so; return whether it became so in time."""
        import slicer

        process_events = getattr(getattr(slicer, "app", None), "processEvents", None)
        end = None if timeout is None else time.monotonic() + timeout
        while not until():
            if self.poll() == 0:
                if end is not None and time.monotonic() > end:
                    return until()
                time.sleep(_PAUSE_SECONDS)
            if process_events is not None:
                process_events()
        return True

    def close(self) -> None:
        """End the worker and drop what is still on its way; a later job starts anew."""
        self._closed = True
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        while not self._events.empty():
            self._events.get_nowait()


def shared_session() -> Session:
    """Return the session that the panel and batches share, so that there is one worker."""
    global _shared
    if _shared is None:
        _shared = Session()
    return _shared


def _default_engine() -> Engine:
    from napari_unetpp.engine.client import Engine

    return Engine(python=slicer_python(), env={"PYTHONUTF8": "1"})
