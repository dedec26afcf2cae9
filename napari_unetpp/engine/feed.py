"""Serves the pixels of a job: reads its source, writes its sink, puts levels together.

Runs on a thread of its own for each job, because a lazy array may take seconds for a block
and must hold up neither the worker's messages nor another job. Knows arrays and blocks; no
process.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.engine.blocks import Block
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import EngineError, LevelReady, Written
from napari_unetpp.engine.wire import Message, from_error, to_index

Answer = Callable[[int, Message | None], None]


class Feed:
    """Serves one job.

    Parameters
    ----------
    job : Job
        Gets LevelReady and Written.
    sources : sequence of array-like
        What is read; a request names one by its place.
    sink : array-like, optional
        What regions are assigned to.
    answer : callable
        Called with the number of a request and an error, or None if it was served.
    """

    def __init__(self, job: Job, sources: Sequence[Any], sink: Any, answer: Answer) -> None:
        self._job, self._sink, self._answer = job, sink, answer
        self._sources = tuple(sources)
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = True
        self._thread: threading.Thread | None = None
        self._levels: dict[Any, NDArray[np.float32]] = {}

    def put(self, request: Message) -> None:
        """Serve a request on the feed's thread; never blocks."""
        with self._lock:
            if self._open:
                self._requests.put(request)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._loop, name=f"unetpp-feed-{self._job.id}", daemon=True
                    )
                    self._thread.start()
                return
        _dispose(request)

    def close(self) -> None:
        """Serve nothing any more; a read or write that goes on is not waited for."""
        with self._lock:
            self._open = False
            self._requests.put(None)

    def _loop(self) -> None:
        while (request := self._requests.get()) is not None:
            if not self._open:
                _dispose(request)
                continue
            error: Message | None = None
            try:
                self._serve(request)
            except FileNotFoundError:
                continue  # the worker and its block are gone, nobody waits
            except _Reported as reported:
                error = from_error(reported.error)
            if self._open:
                self._answer(request["number"], error)
        self._sources, self._sink = (), None  # may be large, and the owner may keep the job
        self._levels.clear()

    def _serve(self, request: Message) -> None:
        block = Block.attach(request["block"])
        try:
            if request["event"] == "read":
                self._read(block, request)
            elif request["event"] == "write":
                self._write(block, request)
            else:
                self._level(block, request)
        finally:
            block.dispose()

    def _read(self, block: Block, request: Message) -> None:
        index = to_index(request["index"])
        try:
            pixels = np.asarray(self._sources[request["source"]][index])
            if pixels.shape != block.shape:
                raise ValueError(f"expected shape {block.shape}, got {pixels.shape}")
            block.put(pixels)
        except Exception as error:
            raise _Reported(_in_words(error, "the image", "read", index)) from error

    def _write(self, block: Block, request: Message) -> None:
        region = tuple(i if isinstance(i, slice) else slice(i, i + 1) for i in to_index(
            request["index"]
        ))  # fmt: skip
        region = tuple(slice(r.start, r.stop) for r in region)
        try:
            self._sink[region] = block.get()
        except Exception as error:
            raise _Reported(_in_words(error, "the result", "written", region)) from error
        self._job.emit(Written(region))

    def _level(self, block: Block, request: Message) -> None:
        level = request["level"]
        try:
            whole = self._levels.get(level)
            if whole is None:
                whole = self._levels[level] = np.empty(request["shape"], np.float32)
        except MemoryError as error:
            raise _Reported(_in_words(error, "the view", "held", ())) from error
        block.get_into(whole[to_index(request["index"])])
        if request["last"]:
            del self._levels[level]
            self._job.emit(LevelReady(level, whole, request["seconds"]))


class _Reported(Exception):
    """Carries what the worker is told."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(error.message)
        self.error = error


def _in_words(error: Exception, what: str, verb: str, index: Any) -> EngineError:
    """Return what a source or sink raised, in one sentence."""
    if isinstance(error, UNetPPError):
        return EngineError(str(error), "file")
    first = " ".join(str(error).split())[:200] or "no reason given"
    if isinstance(error, MemoryError):
        return EngineError(
            f"memory ran out while {what} was {verb} ({first}); close other programs or take a "
            "smaller region.",
            "memory",
        )
    place = ", ".join(f"{i.start}:{i.stop}" if isinstance(i, slice) else str(i) for i in index)
    return EngineError(
        f"{what} could not be {verb} at [{place}] ({type(error).__name__}: {first}); check its "
        "file or how it is computed, and try again.",
        "file",
    )


def _dispose(request: Message) -> None:
    try:
        Block.attach(request["block"]).dispose()
    except OSError:
        return
