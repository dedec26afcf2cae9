"""Who may compute: one queue for fine-tuning, one for everything else, which goes first.

Two threads, because a view must not wait for a step of training: it starts at once, and the
fine-tuning waits before its next step. Knows threads; no torch and no job's meaning.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

_LOOK_SECONDS = 0.02


class Lane:
    """Calls that are made one after the other, on one thread for all.

    The pool of threads that a library of the CPU makes for each thread that calls it is made
    once then. (An executor would do, but it keeps an interpreter from ending that is told to.)

    Parameters
    ----------
    name : str
        Of the thread, which starts with the first call.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def do(self, call: Callable[[], None]) -> None:
        """Make a call when those before it are over, and wait until it is over too.

        Raises
        ------
        MemoryError
            If there is no memory for the thread; the call was not made.
        """
        done = threading.Event()

        def then() -> None:
            try:
                call()
            finally:
                done.set()

        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise MemoryError(f"no thread could be started ({error})") from error
                self._thread = thread
            self._calls.put(then)
        done.wait()

    def _loop(self) -> None:
        while True:
            self._calls.get()()


class RightOfWay:
    """Lets one side wait while the other one has something to do."""

    def __init__(self) -> None:
        self._taken = 0
        self._change = threading.Condition()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the right of way meanwhile."""
        with self._change:
            self._taken += 1
        try:
            yield
        finally:
            with self._change:
                self._taken -= 1
                self._change.notify_all()

    def wait(self, enough: Callable[[], bool]) -> None:
        """Wait until nobody has the right of way, or it is enough."""
        with self._change:
            while self._taken and not enough():
                self._change.wait(_LOOK_SECONDS)
