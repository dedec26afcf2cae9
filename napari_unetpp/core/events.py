"""Small frozen events that long-running generators yield.

A generator yields events and returns its result; whoever drives it may stop between two
events and calls ``close()``. This module knows nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Note(Event):
    """Something that the user should be told, in one sentence.

    Attributes
    ----------
    message : str
        The sentence, for example "3 pixels were NaN and were read as background".
    code : str
        A stable word for programs, for example ``"non-finite"``.
    """

    message: str
    code: str = "note"


@dataclass(frozen=True)
class TileDone(Event):
    """One more tile of an image is finished.

    Attributes
    ----------
    done, total : int
        Tiles finished and tiles in all, over every plane or volume of the image.
    level : int
        The level that was computed (1 to 4 for the paper's networks).
    region : tuple of slice
        Where the tile's core lies in the output, in the output's axes.
    """

    done: int
    total: int
    level: int
    region: tuple[slice, ...] = ()


@dataclass(frozen=True)
class StepDone(Event):
    """One more training step is finished.

    Attributes
    ----------
    step, total : int
        Steps finished, and the number planned.
    loss : float
        Loss of this step, summed over the heads.
    seconds : float
        Time since training began, over all resumed runs.
    """

    step: int
    total: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Validated(Event):
    """The held-out images were scored.

    Attributes
    ----------
    step : int
        Training steps finished.
    scores : mapping of int to mapping of str to float
        Metrics per level, for example ``{4: {"iou_per_image": 0.86}}``.
    best : bool
        Whether this is the best state so far; it is the one that is kept.
    """

    step: int
    scores: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    best: bool = False


def drain(events: Generator[Event, None, T], listen: Callable[[Event], None] | None = None) -> T:
    """Run a generator of events to its end and return its result.

    Parameters
    ----------
    events : generator of Event
        A long-running job of the core.
    listen : callable, optional
        Called with every event. What it raises stops the job, which is closed first.

    Returns
    -------
    object
        What the generator returned.
    """
    try:
        while True:
            event = next(events)
            if listen is not None:
                listen(event)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        events.close()
