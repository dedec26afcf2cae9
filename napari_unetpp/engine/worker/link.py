"""A job's way to the client: events, and pixels on request.

Knows arrays, blocks and appose's task; no torch and no model.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.axes import Index
from napari_unetpp.core.data.lazy import LazyArray, full_index
from napari_unetpp.core.events import Note
from napari_unetpp.engine.blocks import MAX_BLOCK, Block, lengths_of, pieces, remove
from napari_unetpp.engine.protocol import EngineError, Level
from napari_unetpp.engine.wire import Message, from_index, to_error
from napari_unetpp.engine.worker import boot

MAX_OUTSTANDING = 4
_LOOK_SECONDS = 0.02
_PROGRESS_SECONDS = 0.05

_numbers = itertools.count()
_replies: dict[int, _Reply] = {}


class Cancelled(Exception):
    """The client wants this job no longer."""


class _Reply:
    """A request that the client has not answered yet."""

    def __init__(self, block: Block) -> None:
        self.number = next(_numbers)
        self.block = block
        self.error: EngineError | None = None
        self.answered = threading.Event()


def answer(number: int, error: Message | None) -> None:
    """Deliver an answer; one that nobody waits for is dropped."""
    reply = _replies.get(number)
    if reply is not None:
        reply.error = None if error is None else to_error(error)
        reply.answered.set()


class Link:
    """The way of one job to the client.

    Parameters
    ----------
    task : appose task
        Carries updates and the wish to cancel.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        self._waiting: deque[_Reply] = deque()
        self._told = 0.0

    def check(self) -> None:
        """Raise Cancelled if the client wants this job no longer."""
        if self._task.cancel_requested:
            raise Cancelled

    @property
    def unwanted(self) -> bool:
        """Whether the client wants this job no longer."""
        return bool(self._task.cancel_requested)

    def tell(self, event: str, **values: Any) -> None:
        """Tell the client's listeners something."""
        self._task.update(info={"event": event, **values})

    def note(self, note: Note) -> None:
        """Tell the user something."""
        self._task.update(info={"event": "note", "message": note.message, "code": note.code})

    def progress(self, done: int, total: int, level: Level) -> None:
        """Tell how far it is: not more often than a person sees, and the end always."""
        now = time.monotonic()
        if done < total and now - self._told < _PROGRESS_SECONDS:
            return
        self._told = now
        self._task.update(info={"event": "progress", "done": done, "total": total, "level": level})

    def read(self, source: int, index: Index, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return pixels of one of the client's sources at an index with spelled-out slices."""
        out: NDArray[Any] = np.empty(lengths_of(index), dtype)
        for part, place in pieces(index, dtype.itemsize):
            self.check()
            block = self._block(lengths_of(part), dtype)
            reply = self._request("read", part, block, source=source)
            try:
                self._wait(reply)
                reply.block.get_into(out[place])
            finally:
                self._forget(reply)
        return out

    def give(self, event: str, region: Index, values: NDArray[Any], **more: Any) -> None:
        """Hand values to the client, without waiting until it has used them.

        Parameters
        ----------
        event : str
            "write" or "level".
        region : tuple of slice
            Where they belong, one for each axis of `values`.
        values : ndarray
            What is there.
        more
            Sent along; with ``last`` for the last block.
        """
        parts = list(pieces(region, values.dtype.itemsize))
        for part, place in parts:
            while len(self._waiting) >= MAX_OUTSTANDING:
                self._settle()
            self.check()
            block = self._block(lengths_of(part), values.dtype)
            try:
                block.put(values[place])
            except BaseException:
                self._discard(block)
                raise
            self._waiting.append(
                self._request(event, part, block, last=part is parts[-1][0], **more)
            )

    def flush(self) -> None:
        """Wait until everything that was given is used; raise what went wrong with it."""
        while self._waiting:
            self._settle()

    def close(self) -> None:
        """Let go of what is still under way."""
        while self._waiting:
            self._forget(self._waiting.popleft())

    def _settle(self) -> None:
        reply = self._waiting[0]
        self._wait(reply)
        self._forget(self._waiting.popleft())

    def _block(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Block:
        # The name is known before the block is: whoever ends now, it is removed.
        name = f"{boot.prefix}{next(_names)}"
        boot.outstanding.add(name)
        try:
            return Block(name, shape, dtype.str, create=True)
        except BaseException:
            boot.outstanding.discard(name)
            raise

    @staticmethod
    def _discard(block: Block) -> None:
        """Remove a block that the client was never told of."""
        block.close()
        remove(block.name)
        boot.outstanding.discard(block.name)

    def _request(self, event: str, index: Index, block: Block, **more: Any) -> _Reply:
        reply = _Reply(block)
        _replies[reply.number] = reply
        self._task.update(
            info={
                "event": event,
                "number": reply.number,
                "index": from_index(index),
                "block": block.describe(),
                **more,
            }
        )
        return reply

    def _wait(self, reply: _Reply) -> None:
        while not reply.answered.wait(_LOOK_SECONDS):
            self.check()
        if reply.error is not None:
            raise reply.error

    def _forget(self, reply: _Reply) -> None:
        _replies.pop(reply.number, None)
        reply.block.close()
        boot.outstanding.discard(reply.block.name)


_names = itertools.count()


class RemoteArray(LazyArray):
    """Pixels of the client.

    Parameters
    ----------
    link : Link
        Asks for them.
    shape, dtype
        As the client says.
    number : int
        Which of the job's sources it is.
    """

    def __init__(
        self, link: Link, shape: tuple[int, ...], dtype: DTypeLike, number: int = 0
    ) -> None:
        super().__init__(shape, dtype)
        self._link, self._number = link, number

    def _read(self, index: Index) -> NDArray[Any]:
        return self._link.read(self._number, _spelled(index, self.shape), self.dtype)


class RemoteSink:
    """What regions are assigned to, on the client.

    Parameters
    ----------
    link : Link
        Hands them over.
    shape : tuple of int
        Of the client's array.
    """

    def __init__(self, link: Link, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._link = link

    def __setitem__(self, index: Any, values: Any) -> None:
        region = tuple(
            i if isinstance(i, slice) else slice(i, i + 1, 1)
            for i in _spelled(full_index(index, self.shape), self.shape)
        )
        block = np.asarray(values)
        self._link.give("write", region, np.broadcast_to(block, lengths_of(region)))


def _spelled(index: Index, shape: tuple[int, ...]) -> Index:
    spelled: list[int | slice] = []
    for item, length in zip(index, shape, strict=True):
        if isinstance(item, slice):
            start, stop, step = item.indices(length)
            if step < 1:
                raise IndexError("slices of a client's array must go forward")
            item = slice(start, max(start, stop), step)
        spelled.append(item)
    return tuple(spelled)


__all__ = ["MAX_BLOCK", "Cancelled", "Link", "RemoteArray", "RemoteSink", "answer"]
