"""Arrays that read only what is asked for.

Thin wrappers around anything that slices: another axis order, another type, several arrays
as one. This module must not know files or formats.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.axes import Index
from napari_unetpp.core.errors import FileError


def full_index(index: Any, shape: Sequence[int]) -> Index:
    """Spell out a basic index: one int (not negative) or slice for each axis.

    Raises
    ------
    IndexError
        If there are too many indices, one is out of bounds, or one is neither an int, a
        slice nor an ellipsis.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    holes = [k for k, item in enumerate(items) if item is Ellipsis]
    if len(holes) > 1:
        raise IndexError("an index may contain one ellipsis")
    missing = len(shape) - (len(items) - len(holes))
    if missing < 0:
        raise IndexError(f"too many indices: {len(shape)} axes, {len(items)} indices")
    at = holes[0] if holes else len(items)
    items[at : at + len(holes)] = [slice(None)] * missing
    whole: list[int | slice] = []
    for item, length in zip(items, shape, strict=True):
        if isinstance(item, slice):
            whole.append(item)
            continue
        number = int(item.__index__()) if hasattr(item, "__index__") else None
        if number is None:
            raise IndexError(f"only ints and slices can be used as an index, got {item!r}")
        if not -length <= number < length:
            raise IndexError(f"index {number} is out of bounds for an axis of {length}")
        whole.append(number % length)
    return tuple(whole)


class LazyArray:
    """Base: shape, dtype and slicing; subclasses read a spelled-out index."""

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.shape: tuple[int, ...] = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asarray(self._read(full_index(index, self.shape)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype)

    def _read(self, index: Index) -> NDArray[Any]:
        raise NotImplementedError


def release(array: Any) -> None:
    """Give back the memory of a memory map's pages; what is in them stays in the file.

    Pages of a mapped file count as the process's memory until something else needs it, so a
    whole image read or written tile by tile would look (and be accounted) as if it were in
    memory. Does nothing for other arrays, for a private map (mode "c"), whose changes exist
    nowhere else, and where the system has no such call.

    Parameters
    ----------
    array : object
        A memory map, a view into one, or one of this module's arrays around one.
    """
    if isinstance(array, LazyArray):
        for source in getattr(array, "_sources", (getattr(array, "_source", None),)):
            release(source)
        return
    shared, base = False, array
    while isinstance(base, np.ndarray):
        shared = shared or getattr(base, "mode", "c") in ("r", "r+", "w+")
        base = base.base
    if shared and isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


# What the system maps beside a row at a touch: Linux maps 64 KiB of a file around it at once, and
# whole folios of its page cache, which may be larger.
_TOUCHED_AT_ONCE = 2**18


class Pages:
    """Counts what is touched of a memory map, and gives its pages back from time to time.

    Parameters
    ----------
    array : array-like
        Anything that :func:`release` knows; other arrays are left alone.
    limit : int
        Bytes that may be touched before pages are given back.
    """

    def __init__(self, array: Any, limit: int = 2**27) -> None:
        self._array = array
        self.limit = limit
        self._touched = 0
        self._whole = math.prod(array.shape) * np.dtype(array.dtype).itemsize

    def touched_by(self, block: Any) -> int:
        """Return how many bytes a block maps: more of each row than is wanted of it."""
        rows, row = math.prod(block.shape[:-1]), block.shape[-1] if block.ndim else 1
        # No more than there is: rows that are neighbours share what is mapped.
        return int(min(rows * (row * block.dtype.itemsize + _TOUCHED_AT_ONCE), self._whole))

    def touch(self, block: NDArray[Any]) -> None:
        """Count a block that is to be read or was written; make room for it before."""
        if self._touched > self.limit:
            self.release()
        self._touched += self.touched_by(block)

    def release(self) -> None:
        """Give them back now."""
        self._touched = 0
        release(self._array)


class DiskArray(LazyArray):
    """A memory map of a large file that gives its pages back from time to time.

    Parameters
    ----------
    source : memmap
        The map; blocks are views into it.
    limit : int
        Bytes that may be touched before pages are given back.
    """

    def __init__(self, source: np.memmap[Any, Any], limit: int = 2**27) -> None:
        super().__init__(source.shape, source.dtype)
        self._source = source
        self._pages = Pages(source, limit)

    def _read(self, index: Index) -> NDArray[Any]:
        block: NDArray[Any] = np.asarray(self._source)[index]  # a view: nothing is touched yet
        touched = self._pages.touched_by(block)
        if block.ndim < 2 or touched <= max(self._pages.limit, 4 * block.nbytes):
            self._pages.touch(block)
            return block
        thin = np.empty(block.shape, block.dtype)  # few values of many pages: not all at once
        axis = int(np.argmax(block.shape[:-1]))
        step = max(1, block.shape[axis] * self._pages.limit // touched)
        for start in range(0, block.shape[axis], step):
            band = (*(slice(None),) * axis, slice(start, start + step))
            self._pages.touch(block[band])
            thin[band] = block[band]
        return thin


class StoredArray(LazyArray):
    """Compressed blocks in a file or folder; a damaged one is told in words.

    Parameters
    ----------
    source : array-like
        A zarr array.
    path : path
        Where it lies, for the message.
    """

    def __init__(self, source: Any, path: Path) -> None:
        super().__init__(source.shape, source.dtype)
        self._source = source
        self._path = path

    def _read(self, index: Index) -> NDArray[Any]:
        try:
            return np.asarray(self._source[index])
        except MemoryError:
            raise
        # Codecs raise what they like, a bare RuntimeError among it.
        except Exception as error:
            place = ", ".join(
                f"{i.start or 0}:{n if i.stop is None else i.stop}" if isinstance(i, slice)
                else str(i)
                for i, n in zip(index, self.shape, strict=True)
            )  # fmt: skip
            raise FileError(
                f"{self._path} was expected to hold an image, but its pixels are damaged at "
                f"[{place}] ({' '.join(str(error).split())[:120]}); copy or export it again."
            ) from error


class MappedArray(LazyArray):
    """An array seen in another axis order and type.

    Parameters
    ----------
    source : array-like
        Has shape, dtype and basic slicing.
    order : sequence of int, optional
        Axis k of this array is axis ``order[k]`` of the source.
    dtype : dtype, optional
        Type that blocks are converted to.
    """

    def __init__(
        self, source: Any, order: Sequence[int] | None = None, dtype: DTypeLike | None = None
    ) -> None:
        self._source = source
        self._order = tuple(order) if order is not None else tuple(range(len(source.shape)))
        shape = [source.shape[k] for k in self._order]
        super().__init__(shape, source.dtype if dtype is None else dtype)

    def _route(self, index: Index) -> tuple[Index, list[int]]:
        """Return the source's index, and the order of the axes that are left of it."""
        inside: list[int | slice] = [slice(None)] * len(index)
        for mine, theirs in enumerate(self._order):
            inside[theirs] = index[mine]
        left = [k for k, item in enumerate(inside) if isinstance(item, slice)]
        wanted = [k for k in self._order if k in left]
        return tuple(inside), [left.index(k) for k in wanted]

    def _read(self, index: Index) -> NDArray[Any]:
        inside, order = self._route(index)
        block = np.asarray(self._source[inside])
        return block.transpose(order).astype(self.dtype, copy=False)

    def __setitem__(self, index: Any, block: Any) -> None:
        whole = full_index(index, self.shape)
        inside, order = self._route(whole)
        lengths = [
            len(range(*item.indices(n)))
            for item, n in zip(whole, self.shape, strict=True)
            if isinstance(item, slice)
        ]
        values = np.broadcast_to(np.asarray(block), lengths)
        back = np.argsort(order).tolist()
        self._source[inside] = values.transpose(back).astype(self._source.dtype, copy=False)


class ScaledArray(LazyArray):
    """Stored numbers times a slope plus an intercept, as float32.

    Parameters
    ----------
    source : array-like
        The stored numbers.
    slope, intercept : float
        What makes values of them.
    """

    def __init__(self, source: Any, slope: float, intercept: float) -> None:
        super().__init__(source.shape, np.float32)
        self._source = source
        self._slope = slope
        self._intercept = intercept

    def _read(self, index: Index) -> NDArray[Any]:
        block = np.asarray(self._source[index]).astype(np.float64)
        return (block * self._slope + self._intercept).astype(np.float32)


class StackedArray(LazyArray):
    """Arrays of one shape and type as one with a new first axis."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self._sources = list(sources)
        first = self._sources[0]
        super().__init__((len(self._sources), *first.shape), first.dtype)

    def _read(self, index: Index) -> NDArray[Any]:
        which, rest = index[0], index[1:]
        if isinstance(which, int):
            return np.asarray(self._sources[which][rest])
        return np.stack([np.asarray(source[rest]) for source in self._sources[which]])

    def __setitem__(self, index: Any, block: Any) -> None:
        which, *rest = full_index(index, self.shape)
        if isinstance(which, int):
            self._sources[which][tuple(rest)] = block
            return
        for source, part in zip(self._sources[which], block, strict=True):
            source[tuple(rest)] = part


class SampleArray(LazyArray):
    """The first entry of one axis, which is left out.

    Parameters
    ----------
    source : array-like
        Has shape, dtype and basic slicing.
    axis : int
        The axis that is left out.
    """

    def __init__(self, source: Any, axis: int) -> None:
        super().__init__([n for k, n in enumerate(source.shape) if k != axis], source.dtype)
        self._source = source
        self._axis = axis

    def _read(self, index: Index) -> NDArray[Any]:
        return np.asarray(self._source[(*index[: self._axis], 0, *index[self._axis :])])


class OpenArray(LazyArray):
    """An array that keeps a file open, which is closed with it.

    Parameters
    ----------
    source : array-like
        Reads from the open file.
    close : callable
        Closes the file; called when this array is no longer used.
    """

    def __init__(self, source: Any, close: Callable[[], None]) -> None:
        super().__init__(source.shape, source.dtype)
        self._source = source
        self._close: Callable[[], None] | None = close

    def _read(self, index: Index) -> NDArray[Any]:
        return np.asarray(self._source[index])

    def __del__(self) -> None:
        close = getattr(self, "_close", None)
        if close is not None:
            self._close = None
            close()
