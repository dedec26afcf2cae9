"""One painted array and its journal: what may have changed, and what of that is to be written.

Noting a change takes no time and may be done on any thread; `write` belongs to the recorder's.
What the journal says is kept here too, compressed block by block, so that only differences are
written and a journal that got long, or was removed, can be written anew. Knows arrays and
journals; no viewer.
"""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.teach.blocks import (
    Box,
    Grid,
    Key,
    changed_box,
    encode_values,
    pack,
    slices,
)
from napari_unetpp.core.teach.info import LayerInfo
from napari_unetpp.core.teach.journal import VALUES, Journal, info_record, saved_record
from napari_unetpp.core.teach.records import encode

SNAPSHOT_LIMIT = 2**30
"""Bytes of an array up to which all of it is read when it is first followed."""

SWEEP_LIMIT = 2**26
"""Bytes that are looked through from time to time for changes that nobody told."""

_BATCH = 2**24  # bytes that are read before they are written
_LEAST = 2**16  # a journal is not too long below this
_TIMES = 4  # nor below so many times what a new one would have

FindBoxes = Callable[[], Iterable[Box]]


@dataclass
class _Noted:
    """What the painter's thread noted."""

    boxes: list[Box] = field(default_factory=list)
    finders: list[FindBoxes] = field(default_factory=list)
    touched: bool = False  # look at all blocks that were ever touched
    everything: bool = False  # look at all blocks, where the array is small enough
    array: Any = None
    info: LayerInfo | None = None
    saved: str = ""

    def __bool__(self) -> bool:
        return bool(
            self.boxes or self.finders or self.touched or self.everything
            or self.array is not None or self.info or self.saved
        )  # fmt: skip


class Track:
    """A painted array that is kept.

    Parameters
    ----------
    array, info, empty, journal
        See :meth:`Recorder.follow`.
    folder : Path
        Of journals.
    touched : iterable of Box
        Where the array is not empty, where `empty` says that the rest is.

    Attributes
    ----------
    info : LayerInfo
        What it is by now.
    problem : str
        Why it could not be written the last time; empty if it was.
    since : float
        When the first thing was noted that is not written yet (`time.monotonic`).
    """

    def __init__(
        self,
        array: Any,
        info: LayerInfo,
        folder: Path,
        *,
        empty: bool = False,
        journal: Journal | None = None,
        touched: Iterable[Box] = (),
    ) -> None:
        self.info = info
        self.problem = ""
        self.since = time.monotonic()
        self._folder = folder
        self._grid = Grid(array.shape, array.dtype)
        self._array = array
        self._journal = journal
        self._noting = threading.Lock()
        self._writing = threading.Lock()
        self._noted = _Noted()
        self._closed = False
        self._dirty: set[Key] = set()  # to be compared, not yet written
        self._known: dict[Key, int] = {}  # checksum of each block that was ever touched
        self._packed: dict[Key, bytes] = {}  # what the journal says; blocks of zeros are left out
        self._stale = True  # the journal is to be written anew
        self._count = 0
        self._saved = ""
        self._saving = ""  # where it was saved, not yet written
        self._told = False  # what it is, is not yet written
        self._complete = empty or self._grid.nbytes <= SNAPSHOT_LIMIT
        if not empty and self._complete:
            self._dirty.update(self._grid.blocks())
        for box in touched:
            self._dirty.update(self._grid.touching(box))

    # Noting; any thread

    def touch(self, box: Box) -> None:
        """Note that something in a box may have changed."""
        with self._note() as noted:
            noted.boxes.append(box)
            noted.saved = ""
            self._count += 1

    def touch_later(self, find: FindBoxes) -> None:
        """Note a change whose boxes a function knows; it is called on the recorder's thread."""
        with self._note() as noted:
            noted.finders.append(find)
            noted.saved = ""
            self._count += 1

    def check(self) -> None:
        """Note that something may have changed where something was painted before."""
        with self._note() as noted:
            noted.touched = True

    def set_array(self, array: Any) -> None:
        """Note that another array took the place; its shape and type may be others.

        Raises
        ------
        InputError
            If it holds no labels.
        """
        Grid(array.shape, array.dtype)
        with self._note() as noted:
            noted.array = array
            noted.saved = ""
            self._count += 1

    def set_info(self, info: LayerInfo) -> None:
        """Note what the layer is by now."""
        with self._note() as noted:
            noted.info = info

    @property
    def mark(self) -> int:
        """A number that another stroke changes; see `saved`."""
        return self._count

    def saved(self, place: str, mark: int | None = None) -> None:
        """Note that what is painted was saved by the user's own act.

        Parameters
        ----------
        place : str
            Where it was saved.
        mark : int, optional
            `mark` from before the labels were read for saving: where there was a stroke since,
            not all of it is saved, and nothing is noted. None: all up to now.
        """
        with self._note() as noted:
            if mark is None or mark == self._count:
                noted.touched = True
                noted.saved = place or "elsewhere"

    def sweep(self, *, everything: bool = False) -> None:
        """Look for changes that nobody told, where that is cheap.

        Parameters
        ----------
        everything : bool
            Look at what was ever painted even where it is not cheap.
        """
        in_memory = isinstance(self._array, np.ndarray) and not isinstance(self._array, np.memmap)
        small = in_memory and self._grid.nbytes <= SWEEP_LIMIT
        block = int(np.prod(self._grid.block)) * self._grid.dtype.itemsize
        if small or everything or len(self._known) * block <= SWEEP_LIMIT:
            with self._note() as noted:
                noted.touched = True
                noted.everything = noted.everything or small

    @property
    def waiting(self) -> bool:
        """Whether there is something to write or to look at."""
        unwritten = (self._stale and bool(self._packed)) or self._told or bool(self._saving)
        return bool(self._noted) or bool(self._dirty) or unwritten

    @property
    def path(self) -> Path | None:
        """The journal; None before the first stroke."""
        return None if self._journal is None else self._journal.path

    # Writing; the recorder's thread

    def write(self) -> None:
        """Write what changed.

        Raises
        ------
        FileError
            If it cannot be written; it is tried again the next time.
        """
        with self._writing:
            if self._closed:
                return
            self._take()
            for batch in self._batches():
                records, found = self._compare(batch)
                if found:
                    self._saved = ""
                if found and self._appendable():
                    self._append(records)
                elif found:
                    self._stale = True
                for key, (packed, check) in found.items():
                    self._known[key] = check
                    self._packed.pop(key, None)
                    if packed:
                        self._packed[key] = packed
                self._dirty.difference_update(batch)
            self._finish()
            self.problem = ""

    def close(self, *, delete: bool = False) -> None:
        """Let go of the journal; it is deleted if that is asked for, or it is of no use."""
        with self._writing:
            self._closed = True
            journal, self._journal = self._journal, None
            useless = not self.problem and not self.waiting and (self._saved or not self._packed)
            if journal is not None:
                journal.close(delete=bool(delete or useless))
            self._packed.clear()
            self._array = None

    def _take(self) -> None:
        """Turn what was noted into blocks to look at."""
        with self._noting:
            noted, self._noted = self._noted, _Noted()
        if noted.info is not None and noted.info != self.info:
            self.info, self._told = noted.info, True
        self._saving = noted.saved or self._saving
        if noted.array is not None:
            self._exchange(noted.array)
        boxes = itertools.chain(noted.boxes, *(find() for find in noted.finders))
        for box in boxes:
            self._dirty.update(self._grid.touching(box))
        if noted.everything and self._grid.nbytes <= SWEEP_LIMIT:
            self._dirty.update(self._differing(self._grid.blocks()))
        elif noted.touched:
            self._dirty.update(self._differing(list(self._known)))

    def _exchange(self, array: Any) -> None:
        grid = Grid(array.shape, array.dtype)
        same = grid.shape == self._grid.shape and grid.dtype == self._grid.dtype
        self._array = array
        if not same:
            self._grid = grid
            self._known, self._packed, self._dirty = {}, {}, set()
            self._stale = True
        if grid.nbytes <= SNAPSHOT_LIMIT:
            self._complete = True
            self._dirty.update(grid.blocks())
        else:
            self._complete = self._complete and same
            self._dirty.update(self._known)

    def _differing(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Walk over the blocks that are not as they were, by their checksums."""
        for key in keys:
            block = np.asarray(self._array[slices(self._grid.box(key))])
            known = self._known.get(key)
            if (known is None and block.any()) or (known is not None and _check(block) != known):
                yield key

    def _batches(self) -> Iterator[list[Key]]:
        size = int(np.prod(self._grid.block)) * self._grid.dtype.itemsize
        keys = sorted(self._dirty)
        step = max(1, _BATCH // size)
        for first in range(0, len(keys), step):
            yield keys[first : first + step]

    def _compare(self, keys: list[Key]) -> tuple[list[bytes], dict[Key, tuple[bytes, int]]]:
        """Return records of what changed in blocks, and those blocks packed, by key."""
        records: list[bytes] = []
        found: dict[Key, tuple[bytes, int]] = {}
        for key in keys:
            new = self._grid.read(self._array, key)
            box = changed_box(self._grid.unpack(key, self._packed.get(key)), new)
            if box is None:
                self._known.setdefault(key, _check(new))
                continue
            start = [a for a, _ in self._grid.box(key)]
            place = tuple((a + s, b + s) for (a, b), s in zip(box, start, strict=True))
            records.append(encode(VALUES, encode_values(place, pack(new[slices(box)]))))
            found[key] = (pack(new) if new.any() else b"", _check(new))
        return records, found

    def _appendable(self) -> bool:
        return not self._stale and self._journal is not None and self._journal.intact

    def _append(self, records: list[bytes]) -> None:
        if self._journal is not None:
            self._journal.append(records)

    def _finish(self) -> None:
        """Write the rest: a new file where one is due, what the layer is, that it was saved."""
        if self._journal is not None or self._packed:
            saving, self._saved = bool(self._saving), self._saving or self._saved
            if not self._appendable() or self._too_long():
                self._rewrite()
            else:
                records = [info_record(self.info.to_json())] if self._told else []
                records += [saved_record(self._saved)] if saving else []
                if records:
                    self._append(records)
        self._told, self._saving = False, ""

    def _too_long(self) -> bool:
        size = self._journal.size if self._journal is not None else 0
        if size <= _LEAST:
            return False
        return size > _TIMES * (sum(len(p) + 64 for p in self._packed.values()) + 1024)

    def _rewrite(self) -> None:
        self._stale = True
        if self._journal is None:
            self._journal = Journal.create(self._folder)
        header = {
            "info": self.info.to_json(),
            "shape": list(self._grid.shape),
            "dtype": self._grid.dtype.str,
            "complete": self._complete,
        }
        records = (
            encode(VALUES, encode_values(self._grid.box(key), packed))
            for key, packed in self._packed.items()
        )
        ending = [saved_record(self._saved)] if self._saved else []
        self._journal.rewrite(header, itertools.chain(records, ending))
        self._stale = False

    def _note(self) -> _Noting:
        return _Noting(self)


class _Noting:
    """Holds the lock while something is noted, and remembers when that began."""

    def __init__(self, track: Track) -> None:
        self._track = track

    def __enter__(self) -> _Noted:
        self._track._noting.acquire()
        if not self._track.waiting:
            self._track.since = time.monotonic()
        return self._track._noted

    def __exit__(self, *error: object) -> None:
        self._track._noting.release()


def _check(block: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(block).tobytes())
