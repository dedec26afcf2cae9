"""Blocks of shared memory, in which pixels travel between client and worker.

One rule for both directions: the worker makes a block and tells its name, the client
attaches, reads or fills it, and unlinks it at once; the worker closes it when it has its
answer. So whichever side dies, the other one knows what is left. Names are a prefix and a
number that counts up, which lets the client remove blocks that it was never told of.
Knows arrays and memory; no job, no process.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import math
import os
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
from appose import SharedMemory
from numpy.typing import NDArray

from napari_unetpp.core.axes import Index

MAX_BLOCK = 32 * 2**20
Description = dict[str, Any]


class Block:
    """An array in shared memory.

    Parameters
    ----------
    name : str
        Name of the block.
    shape, dtype
        Of the array.
    create : bool
        Make it (the worker), or attach to it (the client).

    Raises
    ------
    MemoryError
        If there is no shared memory left.
    FileNotFoundError
        If a block to attach to is gone.
    """

    def __init__(self, name: str, shape: Sequence[int], dtype: str, *, create: bool) -> None:
        self.name, self.shape, self.dtype = name, tuple(shape), np.dtype(dtype)
        size = max(1, math.prod(self.shape) * self.dtype.itemsize)
        try:
            self._memory = SharedMemory(name=name, create=create, rsize=size)
        except OSError as error:
            if create:
                raise _no_room(size, error) from error
            raise
        if create:
            self._reserve(size)

    def _reserve(self, size: int) -> None:
        """Take the pages now: touching one that is not there would end the process."""
        descriptor = getattr(self._memory, "_fd", -1)
        if descriptor < 0 or not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            self._memory.close()
            remove(self.name)
            raise _no_room(size, error) from error

    @classmethod
    def attach(cls, described: Description) -> Block:
        """Attach to a block that was described."""
        return cls(described["name"], described["shape"], described["dtype"], create=False)

    def describe(self) -> Description:
        """Return what the other side needs to attach."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype.str}

    def put(self, values: Any) -> None:
        """Fill the block with values of its shape."""
        self._array()[...] = values

    def get(self) -> NDArray[Any]:
        """Return a copy of what is in it."""
        return self._array().copy()

    def get_into(self, target: NDArray[Any]) -> None:
        """Copy what is in it into `target`."""
        target[...] = self._array()

    def _array(self) -> NDArray[Any]:
        # Never kept: memory that an array looks at cannot be closed.
        return np.ndarray(self.shape, self.dtype, buffer=self._memory.buf)

    def close(self) -> None:
        """Let go of this side's mapping."""
        self._memory.close()

    def dispose(self) -> None:
        """Close, and remove the name; for the client."""
        self._memory.close()
        try:
            self._memory.unlink()
        except FileNotFoundError:
            # Attaching had registered it with this process's tracker, which would complain.
            with contextlib.suppress(Exception):
                resource_tracker.unregister(self._memory._name, "shared_memory")


def _no_room(size: int, error: OSError) -> MemoryError:
    full = error.errno == errno.ENOMEM
    where = "the process's memory" if full else "shared memory; enlarge /dev/shm"
    return MemoryError(f"a block of {size / 2**20:.0f} MiB found no room in {where}")


def remove(name: str) -> None:
    """Remove a block by its name without any tracker; nothing happens where it is gone."""
    try:
        unlink = importlib.import_module("_posixshmem").shm_unlink
    except ImportError:  # Windows: a block goes with its last handle
        return
    with contextlib.suppress(OSError):
        unlink(name if name.startswith("/") else "/" + name)


def lengths_of(index: Index) -> tuple[int, ...]:
    """Return the shape of what an index with spelled-out slices selects."""
    return tuple(len(range(i.start, i.stop, i.step)) for i in index if isinstance(i, slice))


def pieces(
    index: Index, itemsize: int, limit: int = MAX_BLOCK
) -> Iterator[tuple[Index, tuple[slice, ...]]]:
    """Split an index into parts that fit into a block.

    Parameters
    ----------
    index : tuple of int or slice
        Slices have start, stop and a positive step.
    itemsize : int
        Bytes of an element.
    limit : int
        Bytes of a part; one row may be larger.

    Yields
    ------
    tuple of int or slice
        Index of the part.
    tuple of slice
        Where it lies in what the whole index selects.
    """
    shape = lengths_of(index)
    yield from _pieces(index, tuple(slice(0, n) for n in shape), itemsize, limit)


def _pieces(
    index: Index, place: tuple[slice, ...], itemsize: int, limit: int
) -> Iterator[tuple[Index, tuple[slice, ...]]]:
    shape = lengths_of(index)
    long = next((k for k, n in enumerate(shape) if n > 1), None)
    if math.prod(shape) * itemsize <= limit or long is None:
        yield index, place
        return
    axis = [k for k, i in enumerate(index) if isinstance(i, slice)][long]
    whole = index[axis]
    assert isinstance(whole, slice)
    half = shape[long] // 2
    middle = whole.start + half * whole.step
    at = place[long].start + half
    ends = (slice(whole.start, middle, whole.step), slice(middle, whole.stop, whole.step))
    places = (slice(place[long].start, at), slice(at, place[long].stop))
    for part, where in zip(ends, places, strict=True):
        inner = (*index[:axis], part, *index[axis + 1 :])
        yield from _pieces(inner, (*place[:long], where, *place[long + 1 :]), itemsize, limit)
