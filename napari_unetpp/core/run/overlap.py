"""Work beside the network: what it reads next is loaded, and what it found is written.

Each on one thread, and never more than one batch ahead or behind, so that memory stays bounded
and an image or a sink is never used by two threads at once. Knows calls and tiles; no network,
no image, no sink.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.run.tiling import Tile

T = TypeVar("T")
Load = Callable[[int, Tile], tuple[NDArray[np.float32], int]]
Batch = list[tuple[int, Tile]]


class Aside:
    """Context manager with one thread beside the caller's, for calls one after the other.

    The thread starts with the first call. Leaving waits for the call under way, begins none of
    those that wait, and ends the thread.

    Parameters
    ----------
    name : str
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        own: set[int] = set()
        self._own = own
        self._pool = ThreadPoolExecutor(1, name, initializer=lambda: own.add(threading.get_ident()))

    def begin(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Make a call when those before it are over; its future has what it returns or raises."""
        # What the caller has set for its own thread (NumPy's errors, say) holds there too.
        return self._pool.submit(contextvars.copy_context().run, call, *args)

    def __enter__(self) -> Aside:
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the thread."""
        # A generator that nobody closed may be finalised by its own thread (the garbage collector
        # runs anywhere), which cannot wait for itself.
        elsewhere = threading.get_ident() not in self._own
        self._pool.shutdown(wait=elsewhere, cancel_futures=True)


@dataclass(frozen=True)
class Loaded:
    """The input of a batch.

    Attributes
    ----------
    x : ndarray of float32, shape (N, C, *window)
        Normalised windows.
    non_finite : list of int
        Pixels of each core that were NaN or infinite.
    """

    x: NDArray[np.float32]
    non_finite: list[int]


class Ahead:
    """Context manager that loads batches, the next one while the last one is computed.

    Parameters
    ----------
    load : callable
        ``load(plane, tile)`` returns the window, (C, *window) float32, and how many pixels of
        its core were not finite. Called by one thread at a time.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._aside = Aside("unetpp-read")
        self._begun: Future[Loaded] | None = None
        self._unwanted = threading.Event()

    def begin(self, batch: Batch) -> None:
        """Begin to load a batch, which must be the next one that is asked for."""
        if batch:
            self._begun = self._aside.begin(self._batch, batch)

    def get(self, batch: Batch) -> Loaded:
        """Return a batch: the one that was begun, else loaded here and now.

        What `load` raises comes out unchanged, wherever it was raised.
        """
        if self._begun is None:
            return self._batch(batch)
        begun, self._begun = self._begun, None
        return begun.result()

    def drop(self) -> None:
        """Let go of what was begun, and return when nothing is being read."""
        if self._begun is not None:
            self._unwanted.set()
            wait([self._begun])
            self._unwanted.clear()
            self._begun = None

    def _batch(self, batch: Sequence[tuple[int, Tile]]) -> Loaded:
        x: NDArray[np.float32] | None = None
        non_finite = []
        for number, (plane, tile) in enumerate(batch):
            if self._unwanted.is_set():
                raise CancelledError
            window, bad = self._load(plane, tile)
            if x is None:
                x = np.empty((len(batch), *window.shape), np.float32)  # (N, C, *space)
            x[number] = window
            non_finite.append(bad)
        assert x is not None
        return Loaded(x, non_finite)

    def __enter__(self) -> Ahead:
        """Return it."""
        return self

    def __exit__(self, *failed: Any) -> None:
        """Stop before the next window, and end the thread."""
        self._unwanted.set()  # also where what was begun is being waited for
        self._begun = None
        self._aside.__exit__(None, None, None)
