"""From the engine's threads to the GUI thread.

A job's events come on background threads; whoever touches a widget must be called on the GUI
thread. This is the one place where the two meet. It knows jobs and Qt's signals, no viewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal

from napari_unetpp.engine.job import Job


class Relay(QObject):
    """Calls functions on the thread that made the relay, in the order they were posted."""

    _posted = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._closed = False
        # Queued even on the same thread: a listener never runs inside the call that adds it.
        self._posted.connect(self._call, Qt.ConnectionType.QueuedConnection)

    def post(self, function: Callable[[], None]) -> None:
        """Call a function on the relay's thread, soon; from any thread."""
        if not self._closed:
            try:
                self._posted.emit(function)
            except RuntimeError:  # the window went while a thread was at work
                self._closed = True

    def follow(self, job: Job, listener: Callable[[Any], None]) -> None:
        """Have a job's events told on the relay's thread.

        Parameters
        ----------
        job : Job
            A job of the engine.
        listener : callable
            Called with each event, a final ``Finished`` among them.
        """
        job.listen(lambda event: self.post(lambda: listener(event)))

    def close(self) -> None:
        """Drop what is still on its way."""
        self._closed = True

    def _call(self, function: Callable[[], None]) -> None:
        if not self._closed:
            function()
