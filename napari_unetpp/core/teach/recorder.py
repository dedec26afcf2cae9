"""A thread that keeps painted arrays in their journals, within a second or so.

The thread of the painter only notes which boxes changed; copies, comparisons and writing
happen here. What cannot be written is told once and tried again. Knows arrays and journals; no
viewer, no Qt.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.teach.blocks import Box
from napari_unetpp.core.teach.info import LayerInfo
from napari_unetpp.core.teach.journal import Journal
from napari_unetpp.core.teach.track import Track

DELAY = 0.4
"""Seconds from a stroke to its writing, in which others may join it."""

SWEEP = 2.0
"""Seconds between two looks for changes that nobody told."""

_RETRY = 2.0
# A look for changes may take this share of a processor.
_SHARE = 0.02
_log = logging.getLogger("napari_unetpp")


class Recorder:
    """Keeps any number of painted arrays; one thread.

    Parameters
    ----------
    folder : Path
        Of the journals; made with the first stroke.
    on_problem : callable, optional
        Called on the recorder's thread with a sentence when paint cannot be kept, and with an
        empty string when it can be again.
    delay, sweep : float
        See `DELAY` and `SWEEP`.
    """

    def __init__(
        self,
        folder: Path,
        on_problem: Callable[[str], None] | None = None,
        *,
        delay: float = DELAY,
        sweep: float = SWEEP,
    ) -> None:
        self.folder = folder
        self._on_problem = on_problem or (lambda sentence: None)
        self._delay, self._sweep = delay, sweep
        self._wake = threading.Condition()
        self._tracks: list[Track] = []
        self._thread: threading.Thread | None = None
        self._closing = False
        self._asked = 0  # flushes asked for
        self._done = 0  # the last of them that was served
        self._problem = ""
        self._retry_at = 0.0
        self._sweep_at = 0.0
        # What was painted in the last moment before the interpreter ends.
        self._at_exit = _closer(weakref.ref(self))
        atexit.register(self._at_exit)

    @property
    def problem(self) -> str:
        """Why paint cannot be kept at the moment; empty if it can."""
        return self._problem

    def follow(
        self,
        array: Any,
        info: LayerInfo,
        *,
        empty: bool = False,
        touched: Iterable[Box] = (),
        journal: Journal | None = None,
    ) -> Track:
        """Keep an array from now on.

        Parameters
        ----------
        array : array-like
            Whole numbers; it is read block by block, on the recorder's thread.
        info : LayerInfo
            What it is.
        empty : bool
            It is all zeros outside of `touched`, so the rest need not be read at the start.
        touched : iterable of Box
            See `empty`.
        journal : Journal, optional
            Go on in this one, which was claimed; its contents are replaced by the array's.

        Returns
        -------
        Track
            Is told what changes; :meth:`changed` after that.

        Raises
        ------
        InputError
            If the array holds no labels.
        """
        track = Track(array, info, self.folder, empty=empty, touched=touched, journal=journal)
        with self._wake:
            self._tracks.append(track)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="napari-unetpp journal", daemon=True
                )
                self._thread.start()
        self.changed()
        return track

    def changed(self) -> None:
        """Have what was noted in a track written soon; takes no time."""
        with self._wake:
            self._wake.notify()

    def flush(self, timeout: float = 10.0) -> bool:
        """Write everything now; return whether all of it is on the disk."""
        with self._wake:
            if self._thread is None:
                return True
            self._asked += 1
            mine = self._asked
            self._wake.notify()
            self._wake.wait_for(lambda: self._done >= mine or self._thread is None, timeout)
            served = self._done >= mine
        return served and not any(track.waiting for track in list(self._tracks))

    def forget(self, track: Track, *, delete: bool = False, timeout: float = 10.0) -> None:
        """Follow an array no longer; its journal stays, or is deleted.

        Its journal is deleted too if nothing is painted, or it was saved after the last stroke.
        """
        if not delete:
            track.sweep(everything=True)
            self.flush(timeout)
        with self._wake:
            if track in self._tracks:
                self._tracks.remove(track)
        track.close(delete=delete)

    def close(self, timeout: float = 10.0) -> None:
        """Write what is left and end the thread; the journals stay."""
        atexit.unregister(self._at_exit)
        for track in list(self._tracks):
            track.sweep(everything=True)
        if self._tracks:
            self.flush(timeout)
        with self._wake:
            self._closing = True
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        while self._tracks:
            self._tracks.pop().close()

    # The thread

    def _work(self) -> None:
        while True:
            with self._wake:
                if self._closing:
                    self._thread = None
                    self._wake.notify_all()
                    return
                now = time.monotonic()
                due = self._due(now)
                if due > now and self._asked == self._done:
                    self._wake.wait(due - now)
                    continue
                asked = self._asked
                tracks = list(self._tracks)
            sweeping = now >= self._sweep_at
            # What a look costs is seen where there is nothing else to do.
            idle = not any(track.waiting for track in tracks)
            for track in tracks:
                if sweeping:
                    track.sweep()
                self._write(track)
            if sweeping:
                ended = time.monotonic()
                self._sweep_at = ended + max(self._sweep, idle * (ended - now) / _SHARE)
            self._tell(tracks)
            with self._wake:
                self._done = asked
                self._wake.notify_all()

    def _due(self, now: float) -> float:
        """Return when there is something to do."""
        times = [
            max(track.since + self._delay, self._retry_at if track.problem else 0.0)
            for track in self._tracks
            if track.waiting
        ]
        swept = [self._sweep_at] if self._tracks else []
        return min([*times, *swept, now + 60.0])

    def _write(self, track: Track) -> None:
        try:
            track.write()
        except UNetPPError as error:
            track.problem = str(error)
        except Exception as error:  # an array may fail in any way; painting goes on
            if not track.problem:
                _log.exception("the paint of %s cannot be kept", track.info.name)
            track.problem = (
                f"the paint of {track.info.name} cannot be read for keeping ({error}); painting "
                "goes on, but save the layer yourself."
            )

    def _tell(self, tracks: list[Track]) -> None:
        problem = next((t.problem for t in tracks if t.problem), "")
        if problem:
            self._retry_at = time.monotonic() + _RETRY
        if bool(problem) == bool(self._problem):
            self._problem = problem
            return
        self._problem = problem
        try:
            self._on_problem(problem)
        except Exception:
            _log.exception("the listener for problems of the journal failed")


def _closer(reference: weakref.ref[Recorder]) -> Callable[[], None]:
    def close() -> None:
        recorder = reference()
        if recorder is not None:
            recorder.close(2.0)

    return close
