"""What `peers.py` has measured: runs, kept in a file, and figures within their rounds.

This module must not know who is measured, nor how it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measure import Spread

from napari_unetpp.core.errors import FileError, InputError

_SAME = ("device", "precision", "threads", "cores", "torch")


@dataclass(frozen=True)
class Run:
    """Rounds in which some rows of one size were timed in turn.

    Attributes
    ----------
    size : str
        Such as "512x512".
    base : str
        The row that all others are compared with, in the same round.
    seconds : mapping of str to list of float
        By row, one for each round.
    rates : list of float
        Multiply-accumulates a second of large matrix products, one for each round.
    macs : mapping of str to float
        Multiply-accumulates of ours by level ("1" to "4").
    work : mapping of str to float
        Work of each row relative to ours at the deepest level.
    backend, precision : str
        What ours ran by, and in.
    others : float
        Share of the processors that other processes took meanwhile.
    date : str
        Day of the run.
    """

    size: str
    base: str
    seconds: Mapping[str, list[float]]
    rates: list[float]
    macs: Mapping[str, float]
    work: Mapping[str, float]
    backend: str
    precision: str
    others: float
    date: str

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.rates)

    def relative(self, row: str, to: str | None = None) -> Spread:
        """Return a row's time relative to another's in the same rounds; to the base if None."""
        pairs = zip(self.seconds[row], self.seconds[to or self.base], strict=True)
        return Spread.of([a / b for a, b in pairs])

    def floor(self, level: str, to: str | None = None) -> Spread:
        """Return the time that the matrix rate allows, relative to a row in the same rounds."""
        pairs = zip(self.rates, self.seconds[to or self.base], strict=True)
        return Spread.of([self.macs[level] / rate / b for rate, b in pairs])


@dataclass
class Kept:
    """Runs on one machine.

    Attributes
    ----------
    machine : dict
        What :func:`measure.machine` says.
    runs : list of Run
        In the order in which they were made.
    absent : list of str
        Who could not take part, and why.
    """

    machine: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, machine: Mapping[str, Any]) -> Kept:
        """Read a file, or begin anew if there is none.

        Raises
        ------
        FileError
            If the file is no such file.
        InputError
            If it holds runs of another machine.
        """
        if not path.exists():
            return cls(dict(machine))
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            runs = [Run(**one) for one in found["runs"]]
            before = found["machine"]
        except (ValueError, TypeError, KeyError) as error:
            raise FileError(
                f"{path} is expected to hold what this benchmark measured, but does not ({error}); "
                "name another file."
            ) from error
        if any(before.get(key) != machine.get(key) for key in _SAME):
            raise InputError(
                f"{path} holds figures of another machine or setting ({before.get('device')}, "
                f"{before.get('threads')} threads, torch {before.get('torch')}); name another file."
            )
        return cls(before, runs)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        runs = [asdict(one) for one in self.runs]
        return {"machine": self.machine, "absent": self.absent, "runs": runs}

    def write(self, path: Path) -> None:
        """Write the file; what was there before stays until all of it is."""
        hidden = path.with_name(f".{path.name}.part")
        hidden.write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")
        hidden.replace(path)

    @property
    def sizes(self) -> list[str]:
        """Sizes: planes before volumes, small before large."""
        return sorted({one.size for one in self.runs}, key=lambda s: (s.count("x"), _edge(s)))

    def rows(self, size: str) -> set[str]:
        """Return the rows that were measured at a size."""
        return {row for one in self.runs if one.size == size for row in one.seconds}

    def with_rows(self, size: str, rows: Iterable[str]) -> Run | None:
        """Return the latest run of a size that holds all of some rows."""
        wanted = set(rows)
        for one in reversed(self.runs):
            if one.size == size and wanted <= set(one.seconds):
                return one
        return None


def _edge(size: str) -> int:
    return int(size.split("x")[0])
