"""How many pixels of each value are painted: counted on a thread, soon after each stroke.

Knows a layer's events and its array; nothing of what the values mean.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer

from napari_unetpp.widget.layer_image import level_data
from napari_unetpp.widget.relay import Relay

SETTLE_MILLISECONDS = 200
CHUNK = 2**22
SMALL = 2**24
"""Pixels up to which every drawing counts anew: an undo is told by nothing else."""
LARGE = 2**30
"""Pixels above which nothing is counted."""


def count_values(data: Any, chunk: int = CHUNK) -> dict[int, int]:
    """Return how many pixels each value has, without 0; a part is in memory at a time.

    Parameters
    ----------
    data : array-like of int
        Any shape; only basic slices are taken.
    chunk : int
        Pixels of a part, about.
    """
    shape = tuple(int(n) for n in data.shape)
    found: dict[int, int] = {}
    if not shape or 0 in shape:
        return found
    step = max(1, chunk // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        part = data[start : start + step]
        if math.prod(np.shape(part)) > 2 * chunk and len(shape) > 1:
            parts = [count_values(plane, chunk) for plane in part]
        else:
            block = np.asarray(part)
            # Most of it is 0; sorting what is painted is quick.
            values, counts = np.unique(block[block != 0], return_counts=True)
            parts = [dict(zip(values.tolist(), counts.tolist(), strict=True))]
        for one in parts:
            for value, count in one.items():
                found[int(value)] = found.get(int(value), 0) + int(count)
    return found


class PaintCount:
    """Counts the painted pixels of one layer whenever they may have changed.

    Parameters
    ----------
    relay : Relay
        To the GUI thread.
    changed : callable
        Called there after each count.

    Attributes
    ----------
    counts : dict of int to int, optional
        Painted pixels by value; None where they are not known.
    """

    def __init__(self, relay: Relay, changed: Callable[[], None]) -> None:
        self._relay, self._changed = relay, changed
        self.counts: dict[int, int] | None = None
        self.layer: Any = None
        self._thread: threading.Thread | None = None
        self._again = False
        self._timer = QTimer(relay)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MILLISECONDS)
        self._timer.timeout.connect(self._count)

    def watch(self, layer: Any) -> None:
        """Count this layer from now on; None for none."""
        if layer is self.layer:
            return
        self._connect(False)
        self.layer, self.counts = layer, None
        self._connect(True)
        if layer is not None:
            self._count()

    def close(self) -> None:
        """Stop counting."""
        self._timer.stop()
        self._connect(False)
        self.layer = None

    def _connect(self, on: bool) -> None:
        if self.layer is None:
            return
        small = math.prod(level_data(self.layer).shape) <= SMALL
        for name in ("paint", "data", *(("set_data",) * small)):
            emitter = getattr(self.layer.events, name, None)
            if emitter is not None and on:
                emitter.connect(self._later)
            elif emitter is not None:
                with contextlib.suppress(ValueError):
                    emitter.disconnect(self._later)

    def _later(self, event: Any = None) -> None:
        self._timer.start()

    def _count(self) -> None:
        layer = self.layer
        if layer is None:
            return
        if self._thread is not None:
            self._again = True
            return
        data = level_data(layer)
        if math.prod(data.shape) > LARGE:
            return

        def work() -> None:
            try:
                found: dict[int, int] | None = count_values(data)
            except Exception:  # whatever a foreign array raises: then it is not known
                found = None
            self._relay.post(lambda: self._counted(layer, found))

        self._thread = threading.Thread(target=work, name="unetpp-count", daemon=True)
        self._thread.start()

    def _counted(self, layer: Any, found: dict[int, int] | None) -> None:
        self._thread = None
        again, self._again = self._again, False
        if layer is self.layer:
            changed = found != self.counts
            self.counts = found
            if changed:
                self._changed()
        else:
            again = True
        if again:
            self._count()
