"""What the engine is asked for and what it answers: frozen data, nothing else.

Knows numpy and the package's errors; no process, no thread, no torch, no viewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.errors import UNetPPError

Level = int | str  # 1 ... 4, "ensemble" or "auto"
JobState = Literal["queued", "running", "done", "cancelled", "failed"]
StateKind = Literal["stopped", "starting", "ready", "busy", "failed"]
Code = Literal[
    "input", "file", "model", "device", "memory", "killed", "hung", "start", "bug", "cancelled"
]

# Exit codes of the worker: its parent is gone, it cannot take messages any more.
ORPHANED, DEAF = 93, 94


class EngineError(UNetPPError, OSError):
    """A job failed, or the worker did.

    Parameters
    ----------
    message : str
        One sentence for people: what happened and what to do.
    code : str
        For programs: "input", "file", "model", "device" and "memory" say what does not
        fit, "killed", "hung" and "start" what became of the worker, "bug" is a defect of
        ours; :meth:`Job.wait` of a cancelled job raises "cancelled".
    details : str
        Traceback or last lines of the worker, for a log; may be empty.
    """

    def __init__(self, message: str, code: Code = "bug", details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code: Code = code
        self.details = details

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, eq=False)
class LayerSource:
    """Pixels that the client serves on request, region by region.

    Attributes
    ----------
    data : array-like
        Has shape, dtype and basic slicing: numpy, dask, zarr. Read on a thread of the engine.
    axes : str
        A letter of PTCZYXS for each axis of `data`.
    spacing : tuple of float, optional
        Of each spatial axis, in the order Z, Y, X.
    unit : str, optional
        Of `spacing`.
    affine : ndarray, optional
        4x4, array index (z, y, x, 1) to RAS in mm.
    name : str
        For messages.
    key : str
        The same key means the same pixels: what was fitted or kept for it is used again.
        Nothing is kept for an empty one.
    """

    data: Any
    axes: str
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    affine: NDArray[np.float64] | None = None
    name: str = "image"
    key: str = ""


@dataclass(frozen=True)
class ModelRequest:
    """Which model, and where.

    Attributes
    ----------
    model : str
        Name of a bundled model, or path of a model file.
    device : str
        "auto", "cpu", "cuda" or "mps".
    precision : str
        "auto", "float32", "bfloat16" or "float16".
    threads : int, optional
        Threads of the CPU; torch's own choice if None.
    backend : str, optional
        "auto", "torch" or "openvino"; what the environment says, else "auto", if None.
    """

    model: str
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    backend: str | None = None


@dataclass(frozen=True)
class RunRequest:
    """A run over an image.

    Attributes
    ----------
    model : ModelRequest
        Which model, and where.
    level : int, "ensemble" or "auto"
        A trained level, the mean of all of them, or for each tile the one that it needs.
    kind : {"labels", "probabilities", "instances"}
        What is written.
    threshold, channel, min_size, tile
        As for :func:`napari_unetpp.core.run.inference.predict`.
    region : tuple of (int, int), optional
        (start, stop) for each axis of the result but C; everything if None.
    """

    model: ModelRequest
    level: Level
    kind: str = "labels"
    threshold: float | None = None
    channel: int | None = None
    min_size: int | None = None
    tile: int | None = None
    region: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class ViewRequest:
    """What is on screen, level after level.

    Attributes
    ----------
    model : ModelRequest
        Which model, and where.
    level : int, "ensemble" or "auto"
        Go as far as this; "ensemble" goes through all trained levels and adds their mean, "auto"
        gives L1, what a run of the region comes to, and a note "auto-tiles" with tiles by level.
    region : tuple of (int, int)
        (start, stop) for each axis of the source's data but C and S, in their order. For a
        2D model every axis but Y and X has length 1, for a 3D model P and T have.
    channel : int, optional
        Channel for a model that takes one.
    skip : tuple of int
        Levels that the client already has of this very view; they are not sent again.
    """

    model: ModelRequest
    level: Level
    region: tuple[tuple[int, int], ...]
    channel: int | None = None
    skip: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class PaintedSource:
    """An image and its painted labels, to fine-tune on.

    Attributes
    ----------
    name : str
        Stays the same from one fine-tuning to the next: the split of its strokes is kept by it.
    image, painted : LayerSource or str
        Pixels that the client serves, or the path of a file that the worker opens itself. The
        labels are whole numbers (0 unlabelled, 1 background, 2 and more the model's classes)
        of the image's shape without channels.
    channel : int, optional
        Channel of the image for a model that takes one.
    """

    name: str
    image: LayerSource | str
    painted: LayerSource | str
    channel: int | None = None


SCRATCH = "scratch"


@dataclass(frozen=True)
class TuneRequest:
    """A fine-tuning.

    Attributes
    ----------
    model : ModelRequest
        What to start from, and where to compute; its model may be "scratch".
    out : str
        Model file that every improvement is written to, at once.
    classes : tuple of str
        Names of all classes, the base's first; counted from the paint if empty.
    name : str
        Of the new model; that of the file if empty.
    max_seconds : float
        Budget.
    seed : int
        Of the split, of new weights and of patches.
    axes : {"YX", "ZYX"}
        Of the network, from scratch.
    split : mapping, optional
        `TuneOutcome.split` of an earlier fine-tuning: strokes stay on their sides.
    """

    model: ModelRequest
    out: str
    classes: tuple[str, ...] = ()
    name: str = ""
    max_seconds: float = 30.0
    seed: int = 0
    axes: str = "YX"
    split: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SuggestRequest:
    """Where to paint next.

    Attributes
    ----------
    model : ModelRequest
        Which model, and where.
    region : tuple of (int, int)
        As for ViewRequest: where to look.
    channel : int, optional
        Channel for a model that takes one.
    count : int
        At most so many places.
    """

    model: ModelRequest
    region: tuple[tuple[int, int], ...]
    channel: int | None = None
    count: int = 5


@dataclass(frozen=True)
class Suggestion:
    """A place that is worth painting.

    Attributes
    ----------
    box : tuple of (int, int)
        (start, stop) for each axis of the source's data but C and S, within the region.
    score : float
        Mean uncertainty in it, 0 to 1; what is painted counts nothing.
    """

    box: tuple[tuple[int, int], ...]
    score: float


@dataclass(frozen=True)
class TuneOutcome:
    """What a fine-tuning brought.

    Attributes
    ----------
    report : dict
        ``TuneReport.to_json()``, as ``napari-unetpp finetune --json`` prints it.
    split : dict
        Which painted pixel is on which side; for `TuneRequest.split` of the next one.
    path : str, optional
        The model file; None if nothing was better than the base, and nothing was written.
    """

    report: dict[str, Any]
    split: dict[str, Any]
    path: str | None


@dataclass(frozen=True)
class Event:
    """Base of what the listeners of a job get."""


@dataclass(frozen=True)
class ModelReady(Event):
    """A model is loaded: where it runs, in what, and why not on a better device."""

    device: str
    precision: str
    reason: str
    levels_trained: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LevelReady(Event):
    """One level of a view.

    Attributes
    ----------
    level : int, "ensemble" or "auto"
        Which one.
    probabilities : ndarray of float32, shape (channels, *region without C and S)
        All channels of the network, the client's own copy.
    seconds : float
        What computing it from nothing took, without reading and sending; levels from kept nodes
        count what those took, and levels of one pass their share of its operations.
    """

    level: Level
    probabilities: NDArray[np.float32]
    seconds: float


@dataclass(frozen=True)
class Progress(Event):
    """Tiles finished and tiles in all; not every tile is told, the last one always is."""

    done: int
    total: int
    level: Level


@dataclass(frozen=True)
class Written(Event):
    """A part of the sink is new."""

    region: tuple[slice, ...]


@dataclass(frozen=True)
class Noted(Event):
    """Something that the user should be told, in one sentence, with a word for programs."""

    message: str
    code: str


@dataclass(frozen=True, eq=False)
class TuneSplit(Event):
    """Which strokes are held out, as soon as it is known: it stays, however the job ends."""

    split: dict[str, Any]


@dataclass(frozen=True)
class TuneTeacher(Event):
    """Who teaches what is not painted, and IoU on held-out strokes of those who were asked."""

    name: str
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class TuneStep(Event):
    """A step of a fine-tuning is done; `seconds` since it began, waiting included."""

    step: int
    total: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class TuneScored(Event):
    """The held-out strokes were scored.

    Attributes
    ----------
    step : int
        Steps done; 0 is the base.
    scores : mapping of int to float
        IoU on held-out strokes by level; empty where too little is painted to hold any out.
    best : bool
        Whether it is the best so far.
    path : str, optional
        The model file, if it has just been written with this state.
    """

    step: int
    scores: Mapping[int, float]
    best: bool
    path: str | None


@dataclass(frozen=True, eq=False)
class Finished(Event):
    """The last event of every job."""

    state: JobState
    result: Any
    error: EngineError | None


@dataclass(frozen=True)
class EngineState:
    """What the engine is doing; `message` is one sentence and may be empty."""

    kind: StateKind
    message: str = ""
