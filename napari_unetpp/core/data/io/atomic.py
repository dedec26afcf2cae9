"""Targets that come into being at once or not at all.

A sink collects blocks in a hidden file beside its final name; only :meth:`Sink.commit`
gives it that name. This module must not know any format; formats give it a function that
writes a whole array.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.axes import parse_axes
from napari_unetpp.core.data.io.hidden import (
    final_place,
    hidden_beside,
    remove,
    remove_abandoned,
)
from napari_unetpp.core.data.lazy import Pages, release
from napari_unetpp.core.errors import FileError, InputError, UNetPPError

# Bytes written through a memory map before its pages are given back.
_RELEASE_AFTER = 2**27


@runtime_checkable
class Sink(Protocol):
    """Context manager and array-like target of region writes; nothing exists until commit."""

    path: Path
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __setitem__(self, region: Any, block: Any) -> None: ...
    def __getitem__(self, region: Any) -> NDArray[Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def commit(self) -> Path:
        """Give the target its final name; only now does it exist there."""
        ...

    def abort(self) -> None:
        """Remove what was written; the final name stays as it was."""
        ...


def reserve(path: Path, nbytes: int) -> None:
    """Make sure that a file has its `nbytes` on the disk.

    Without it a full disk would end the process (SIGBUS) at a write through the memory map.

    Raises
    ------
    FileError
        If the disk has not enough room.
    """
    free = shutil.disk_usage(path.parent).free
    if free < nbytes:
        raise FileError(
            f"writing into {path.parent} needs {_size(nbytes)}, but only {_size(free)} are free; "
            "free some space or choose another --out."
        )
    if hasattr(os, "posix_fallocate") and nbytes > 0:
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, nbytes)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into a :class:`FileError` that names the target."""
    try:
        yield
    except UNetPPError:
        raise
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror or error}); check that the folder exists, "
            "that it may be written to and that the disk is not full."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden name to write to; it gets the final name when the block ends well.

    Parameters
    ----------
    path : Path
        The final name. Missing folders are made; a link stays, what it leads to is replaced.

    Yields
    ------
    Path
        In the same folder and with the same ending.

    Raises
    ------
    FileError
        If it cannot be written; then the final name is as it was and nothing is left behind.
    """
    place = final_place(path)
    staged = hidden_beside(place, place.suffix)
    try:
        with writing(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            yield staged
            os.replace(staged, place)
    finally:
        remove(staged)


class StagedSink:
    """Base of the sinks: a staged file or folder, then one rename.

    Parameters
    ----------
    path : Path
        The final name. A link stays, and what it leads to is replaced.
    axes : str
        Axes of the target as its user writes to it.
    shape : sequence of int
        Its shape.
    dtype : dtype
        Its type.

    Notes
    -----
    A subclass makes ``self._target`` (array-like, in `axes`) in :meth:`_open` and completes
    ``self._staged`` in :meth:`_finish`.
    """

    def __init__(self, path: Path, axes: str, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.path = Path(path)
        self.shape: tuple[int, ...] = tuple(int(n) for n in shape)
        self.axes = parse_axes(axes, self.shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._target: Any = None
        self._pages: Pages | None = None
        self._closed = ""
        self._place = final_place(self.path)
        self._staged = hidden_beside(self._place, self._staged_suffix())
        self._scratch: list[Path] = []
        try:
            with writing(self.path):
                self._check_place()
                remove_abandoned(self._place)
                self._open()
                self._pages = Pages(self._target, _RELEASE_AFTER)
        except BaseException:
            self.abort()
            raise

    def __setitem__(self, region: Any, block: Any) -> None:
        self._check_open()
        with writing(self.path):
            values = np.asarray(block)
            self._target[region] = values
            if self._pages is not None:
                self._pages.touch(values)

    def __getitem__(self, region: Any) -> NDArray[Any]:
        self._check_open()
        return np.asarray(self._target[region])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def commit(self) -> Path:
        """Complete the staged file and give it its final name.

        Returns
        -------
        Path
            The final name.

        Raises
        ------
        FileError
            If it cannot be written; then nothing is left behind.
        """
        self._check_open()
        try:
            with writing(self.path):
                self._finish()
                self._let_go()
                self._replace()
        except BaseException:
            self.abort()
            raise
        self._closed = "committed"
        self._clean()
        return self.path

    def abort(self) -> None:
        """Remove what was written; does nothing after a commit."""
        if not self._closed:
            self._closed = "aborted"
            self._clean()

    def _let_go(self) -> None:
        """Close what is mapped: a mapped file cannot be replaced everywhere."""
        self._target = self._pages = None

    def _clean(self) -> None:
        self._let_go()
        for path in (self._staged, *self._scratch):
            remove(path)

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(f"the output {self.path} was {self._closed}; open a new one.")

    def _check_place(self) -> None:
        folder = self._place.parent
        if not folder.is_dir():
            raise FileError(
                f"{self.path} needs the folder {folder}, which does not exist; make it first."
            )
        if self.path.is_dir():
            raise FileError(
                f"{self.path} is a folder, expected the name of a file; give a file name in it."
            )
        if not os.access(folder, os.W_OK):
            raise FileError(
                f"{self.path} cannot be written: the folder {folder} is not writable; "
                "choose another --out."
            )

    def _buffer(self) -> NDArray[Any]:
        """Return an array of zeros on disk, in a hidden file that goes with the sink."""
        raw = hidden_beside(self._place, ".raw")
        self._scratch.append(raw)
        raw.touch(exist_ok=False)
        reserve(raw, math.prod(self.shape) * self.dtype.itemsize)
        # "w+" where nothing could be reserved: it makes the file as long as it must be.
        mode: Literal["r+", "w+"] = "r+" if raw.stat().st_size else "w+"
        return np.memmap(raw, self.dtype, mode, 0, self.shape)

    def _replace(self) -> None:
        os.replace(self._staged, self._place)

    def _staged_suffix(self) -> str:
        return ".part"

    def _open(self) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


Writer = Callable[[NDArray[Any], Path], None]


class BufferSink(StagedSink):
    """A sink for formats that are written whole.

    Blocks go to a memory map on disk, so memory stays bounded until commit, when `write`
    gets the array.

    Parameters
    ----------
    path, axes, shape, dtype
        See :class:`StagedSink`.
    write : callable
        ``write(array, path)`` writes the whole array to `path`; axes and type are those of
        the sink.
    suffix : str
        What the name that `write` gets ends with.
    """

    def __init__(
        self,
        path: Path,
        axes: str,
        shape: Sequence[int],
        dtype: DTypeLike,
        write: Writer,
        suffix: str,
    ) -> None:
        self._write = write
        self._suffix = suffix
        super().__init__(path, axes, shape, dtype)

    def _staged_suffix(self) -> str:
        return self._suffix

    def _open(self) -> None:
        self._target = self._buffer()

    def _finish(self) -> None:
        self._write(np.asarray(self._target), self._staged)


def bands(
    shape: Sequence[int], itemsize: int, limit: int = 2**26
) -> Iterator[tuple[int | slice, ...]]:
    """Walk over an array in bands of rows of at most about `limit` bytes.

    Parameters
    ----------
    shape : sequence of int
        At least two axes.
    itemsize : int
        Bytes of an element.
    limit : int
        Bytes of a band.

    Yields
    ------
    tuple of int or slice
        The index of a band.
    """
    rows = max(1, limit // (shape[-1] * itemsize))
    for place in np.ndindex(*shape[:-2]):
        for top in range(0, shape[-2], rows):
            yield (*place, slice(top, top + rows))


def narrow_labels(array: NDArray[Any]) -> np.dtype[Any]:
    """Return the smaller of uint16 and uint32 that holds the labels (uint8 stays).

    The array may be a memory map; it is read band by band.

    Raises
    ------
    InputError
        If a label is negative or beyond uint32.
    """
    low, high = 0, 0
    for band in bands(array.shape, array.dtype.itemsize):
        block = array[band]
        low, high = min(low, int(block.min())), max(high, int(block.max()))
        release(array)
    if low < 0 or high > np.iinfo(np.uint32).max:
        raise InputError(f"labels must lie in 0 to 4294967295, got {low} to {high}; renumber them.")
    if array.dtype.itemsize == 1:
        return np.dtype(np.uint8)
    return np.dtype(np.uint16 if high <= 65535 else np.uint32)
