"""Draws layers that are being written: not too often, and the last time for certain.

Knows layers that can refresh and Qt's timer; nothing of what is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QTimer


class Redraw:
    """Calls a function for each thing that is due, at most every so many seconds.

    Parameters
    ----------
    draw : callable
        Draws one thing.
    seconds : float
        Least time between two rounds; more where a round takes long.
    """

    def __init__(self, draw: Callable[[Any], None], seconds: float) -> None:
        self._draw = draw
        self._seconds = seconds
        self._due: list[Any] = []
        self._next = 0.0
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._round)

    def ask(self, thing: Any) -> None:
        """Draw a thing now if there is time, else with the next round."""
        if thing not in self._due:
            self._due.append(thing)
        wait = self._next - time.monotonic()
        if wait <= 0:
            self._round()
        elif not self._timer.isActive():
            self._timer.start(max(1, round(wait * 1000)))

    def forget(self, thing: Any) -> None:
        """Do not draw a thing any more."""
        if thing in self._due:
            self._due.remove(thing)

    def stop(self) -> None:
        """Draw nothing more."""
        self._timer.stop()
        self._due.clear()

    def _round(self) -> None:
        due, self._due = self._due, []
        self._timer.stop()
        began = time.monotonic()
        for thing in due:
            self._draw(thing)
        now = time.monotonic()
        self._next = now + max(self._seconds, 5 * (now - began))
