"""What sessions left in their journals: found, read, made into labels again, or discarded.

A journal whose lock is held belongs to a session that goes on and is left alone. Knows
journals; no viewer, no thread.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.data.io.hidden import remove_abandoned
from napari_unetpp.core.errors import FileError, InputError, UNetPPError
from napari_unetpp.core.teach.blocks import Box, Grid, decode_values, slices
from napari_unetpp.core.teach.info import LayerInfo
from napari_unetpp.core.teach.journal import (
    HEADER,
    INFO,
    LOCK_SUFFIX,
    SAVED,
    SUFFIX,
    VALUES,
    Journal,
    lock_path,
)
from napari_unetpp.core.teach.lock import Busy, Lock
from napari_unetpp.core.teach.records import FILE_MAGIC, decode


@dataclass(frozen=True, eq=False)
class Recovered:
    """A painted layer as its journal has it.

    Attributes
    ----------
    path : Path
        The journal.
    info : LayerInfo
        What the layer was.
    grid : Grid
        Its shape, type and blocks.
    complete : bool
        Whether all that was in the layer is here; of very large layers that were not empty
        when they were first painted, only what was painted since is.
    saved : str
        Where the user saved it after the last stroke; empty if not.
    when : datetime
        Of the last stroke, local time.
    """

    path: Path
    info: LayerInfo
    grid: Grid
    complete: bool
    saved: str
    when: datetime
    _payloads: tuple[bytes, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer."""
        return self.grid.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        return self.grid.dtype.newbyteorder("=")

    def labels(self, out: Any = None) -> Any:
        """Return the painted labels.

        Parameters
        ----------
        out : array-like, optional
            Is written into, box by box, where the layer is too large for memory; zeros.

        Returns
        -------
        array
            `out`, or a new array; 0 where nothing was painted.
        """
        target = np.zeros(self.shape, self.dtype) if out is None else out
        for box, values in self._boxes():
            target[slices(box)] = values
        return target

    def boxes(self) -> list[Box]:
        """Return where something was written."""
        return [box for box, _ in self._boxes()]

    def discard(self) -> None:
        """Remove the journal for good.

        Raises
        ------
        FileError
            If another session has it open, or it cannot be removed.
        """
        Journal.claim(self.path).close(delete=True)
        if self.path.exists():
            raise FileError(
                f"{self.path} cannot be removed; check that its folder may be written to."
            )

    def _boxes(self) -> Iterator[tuple[Box, NDArray[Any]]]:
        for payload in self._payloads:
            try:
                yield decode_values(payload, self.grid)
            except InputError:
                continue


def read_journal(path: Path) -> Recovered:
    """Read a journal, whoever has it open.

    Raises
    ------
    FileError
        If it cannot be read, or is no journal of ours.
    """
    try:
        data = path.read_bytes()
        when = datetime.fromtimestamp(path.stat().st_mtime)
    except OSError as error:
        raise FileError(f"the journal {path} cannot be read ({error}); check it.") from error
    if not data.startswith(FILE_MAGIC):
        raise FileError(f"{path} is no journal of this version; leave it or remove it.")
    header: Mapping[str, Any] | None = None
    told: Mapping[str, Any] = {}
    payloads: list[bytes] = []
    saved = ""
    try:
        for record in decode(data, len(FILE_MAGIC)):
            if record.kind == HEADER:
                header = json.loads(record.payload)
                told = header["info"]
            elif record.kind == INFO:
                told = json.loads(record.payload)
            elif record.kind == VALUES:
                payloads.append(record.payload)
                saved = ""
            elif record.kind == SAVED:
                saved = str(json.loads(record.payload)["place"])
        if header is None:
            raise ValueError("its header is missing")
        grid = Grid(header["shape"], header["dtype"])
        complete = bool(header["complete"])
        info = LayerInfo.from_json(told)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"the journal {path} is damaged ({error}); nothing can be read.") from error
    return Recovered(path, info, grid, complete, saved, when, tuple(payloads))


def recover(folder: Path) -> list[Recovered]:
    """Return what ended sessions left in a folder, the latest first.

    Journals of sessions that go on are left out; so are those that cannot be read, those
    without paint, and those that were saved after their last stroke (which are removed).

    Parameters
    ----------
    folder : Path
        Of journals; it need not exist.
    """
    found: list[Recovered] = []
    _tidy(folder)
    try:
        paths = sorted(folder.glob(f"[!.]*{SUFFIX}"))
    except OSError:
        return []
    for path in paths:
        lock = _try_lock(path)
        if lock is None:
            continue
        try:
            read = read_journal(path)
            if read.saved:
                path.unlink(missing_ok=True)
            elif any(values.any() for _, values in read._boxes()):
                found.append(read)
        except (UNetPPError, OSError):
            continue
        finally:
            if isinstance(lock, Lock):
                lock.release()
    return sorted(found, key=lambda r: r.when, reverse=True)


def _tidy(folder: Path) -> None:
    """Remove what a process that was killed had begun and not given its name."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            place = folder / name[1:].partition(SUFFIX)[0]
            if name.startswith(".") and SUFFIX in name:
                remove_abandoned(place.with_name(place.name + SUFFIX))
            journal = folder / name.removesuffix(LOCK_SUFFIX)
            if name.endswith(SUFFIX + LOCK_SUFFIX) and not journal.exists():
                with contextlib.suppress(OSError):
                    Lock(folder / name).release()


def _try_lock(path: Path) -> Lock | bool | None:
    """Return the lock; True where none can be made (a read-only folder); None if it is held."""
    try:
        return Lock(lock_path(path))
    except Busy:
        return None
    except OSError:
        return True if not os.access(path.parent, os.W_OK) else None
