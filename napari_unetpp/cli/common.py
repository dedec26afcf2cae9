"""What the commands share: a parser that fails in one line, progress, tables and JSON.

Standard output carries results alone; progress, notes and errors go to standard error. This
module imports nothing heavy at its top, so that ``--help`` is quick, and must not know what
any command does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Note, StepDone, TileDone, drain

if TYPE_CHECKING:
    from napari_unetpp.core.run.runtime import Runner

T = TypeVar("T")

PROGRAM = "napari-unetpp"

Position = tuple[int, int, str]
"""How far a job is: done, total, and a few words."""


class UsageError(InputError):
    """The command line itself is not what was expected."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and go the way of all errors of the package."""

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`UsageError` instead of printing the usage and leaving.

        Raises
        ------
        UsageError
            Always; the hint where to read on is part of the line.
        """
        if message.endswith("expected one argument"):
            name = message.partition(": ")[0].removeprefix("argument ").rpartition("/")[2]
            message += f" (write {name}=VALUE if it begins with a minus)"
        if not message.endswith("."):
            message += f"; see {self.prog} --help."
        raise UsageError(message)


def one_line(error: object) -> str:
    """Return the text of an error without line breaks."""
    return " ".join(str(error).split("\n"))


def tell(text: str) -> None:
    """Write one line for people to standard error, above a progress bar if there is one."""
    if sys.stderr is None:  # nobody listens; tqdm would take standard output for it
        return
    from tqdm import tqdm

    tqdm.write(one_line(text), file=sys.stderr)


def print_json(document: object) -> None:
    """Write a JSON document to standard output, as strict JSON: no NaN, ASCII only."""
    print(json.dumps(document, indent=2, allow_nan=False))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a text table.

    Parameters
    ----------
    header : sequence of str
        Column titles.
    rows : iterable of sequence of str
        Cells, as many as titles.
    left : int
        Columns that are aligned to the left; figures come after them.

    Returns
    -------
    str
        Lines without a final line break.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def figure_of(value: float | None, digits: int = 3) -> str:
    """Return a number for a table, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def position_of(event: Event) -> Position | None:
    """Return how far a job is, from events that the core itself defines."""
    if isinstance(event, TileDone):
        return event.done, event.total, f"L{event.level}"
    if isinstance(event, StepDone):
        return event.step, event.total, f"loss {event.loss:.3f}"
    return None


class Progress:
    """A listener that shows a bar on a terminal, and notes as lines.

    Parameters
    ----------
    label : str
        What is worked on.
    quiet : bool
        Neither bar nor lines: the notes belong into the JSON document.
    position : callable
        Says from an event how far the job is, or None.
    unit : str
        What is counted.

    Attributes
    ----------
    notes : list of Note
        Those that came, each message once.
    """

    def __init__(
        self,
        label: str,
        *,
        quiet: bool = False,
        position: Callable[[Event], Position | None] = position_of,
        unit: str = "tile",
    ) -> None:
        self._label = label
        self._quiet = quiet
        self._position = position
        self._unit = unit
        self._bar: Any = None
        self.notes: list[Note] = []

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Note):
            self._note(event)
            return
        place = self._position(event)
        if place is None or self._quiet:
            return
        done, total, words = place
        if self._bar is None:
            self._bar = self._open(total)
        self._bar.total = total  # smaller tiles make more of them
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(done - self._bar.n)

    def _note(self, note: Note) -> None:
        if note in self.notes:
            return
        self.notes.append(note)
        if not self._quiet:
            tell(f"{self._label}: {note.message}" if self._label else note.message)

    def _open(self, total: int) -> Any:
        from tqdm import tqdm

        # disable=None: no bar where standard error is a file or a pipe.
        return tqdm(
            total=total, desc=self._label, unit=self._unit, file=sys.stderr, disable=None,
            leave=False, dynamic_ncols=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def drive(
    events: Generator[Event, None, T],
    *,
    label: str = "",
    quiet: bool = False,
    position: Callable[[Event], Position | None] = position_of,
    unit: str = "tile",
) -> T:
    """Run a job of the core to its end and show how far it is.

    Parameters
    ----------
    events : generator of Event
        The job. It is closed whatever happens, Ctrl-C included.
    label, quiet, position, unit
        See :class:`Progress`.

    Returns
    -------
    object
        What the generator returned.
    """
    with Progress(label, quiet=quiet, position=position, unit=unit) as progress:
        return drain(events, progress)


def load_runner(model: str, device: str, precision: str, backend: str | None = None) -> Runner:
    """Load a model onto a device; the device is checked first, which costs nothing.

    Parameters
    ----------
    model : str
        Name of a bundled model, or a file.
    device, precision : str
        As on the command line.
    backend : str, optional
        As on the command line; what the environment says, else "auto", if None.

    Returns
    -------
    Runner
        Ready to run.

    Raises
    ------
    UNetPPError
        A DeviceError, FileError, InputError or ModelFileError with the reason.
    """
    from napari_unetpp.core.model.modelfile import load_model
    from napari_unetpp.core.run.runtime import Runner, choose_device

    chosen = choose_device(device, precision)
    return Runner(load_model(model), chosen, backend)
