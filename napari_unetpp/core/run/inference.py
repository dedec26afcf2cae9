"""An image through a model: tile by tile into a sink, with progress and cancel.

Planes or volumes are streamed: memory depends on the tile, not on the image, unless
objects are asked for (a plane's probabilities are kept) or the model wants another grid (a
volume is kept, see :mod:`napari_unetpp.core.run.spaces`). Knows no file format and no
viewer; a sink is anything that regions can be assigned to.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.errors import OutOfMemory
from napari_unetpp.core.events import Event, Note, TileDone
from napari_unetpp.core.run.memory import is_out_of_memory
from napari_unetpp.core.run.overlap import Aside
from napari_unetpp.core.run.preview import fit_normalisers, predict_levels
from napari_unetpp.core.run.request import Request, shape_of
from napari_unetpp.core.run.results import Kind, output_axes
from napari_unetpp.core.run.runtime import Level, Runner
from napari_unetpp.core.run.streaming import Block, stream
from napari_unetpp.core.run.tiling import Region, Tile
from napari_unetpp.core.run.writing import Writer

__all__ = ["Level", "Prediction", "fit_normalisers", "output_axes", "predict", "predict_levels"]


@dataclass(frozen=True)
class Prediction:
    """What a finished run did.

    Attributes
    ----------
    level : int or "ensemble"
        Level that was run.
    kind : str
        "labels", "probabilities" or "instances".
    axes : str
        Axes of the result.
    shape : tuple of int
        Its shape; of the whole also where only a region was run.
    device, precision, backend : str
        Where, in what and on what it ran in the end.
    n_tiles : int
        Tiles that were run.
    seconds : float
        Time from the first read to the last write.
    pixels : int
        Pixels (voxels) of the image that were segmented.
    notes : tuple of Note
        Everything that the user was told, in order.
    tiles_by_level : mapping of int to int
        With "auto": how many tiles came to each level; empty otherwise.
    """

    level: Level
    kind: Kind
    axes: str
    shape: tuple[int, ...]
    device: str
    precision: str
    n_tiles: int
    seconds: float
    pixels: int
    notes: tuple[Note, ...] = ()
    backend: str = "torch"
    tiles_by_level: Mapping[int, int] = field(default_factory=dict)

    @property
    def megapixels(self) -> float:
        """Pixels (voxels) in millions."""
        return self.pixels / 1e6

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "level": self.level,
            "kind": self.kind,
            "axes": self.axes,
            "shape": list(self.shape),
            "device": self.device,
            "precision": self.precision,
            "backend": self.backend,
            **(
                {"tiles_by_level": {str(k): n for k, n in self.tiles_by_level.items()}}
                if self.tiles_by_level
                else {}
            ),
            "n_tiles": self.n_tiles,
            "seconds": self.seconds,
            "megapixels": self.megapixels,
            "notes": [{"code": n.code, "message": n.message} for n in self.notes],
        }


def predict(
    image: Image,
    runner: Runner,
    sink: Any,
    *,
    level: Level,
    kind: str = "labels",
    threshold: float | None = None,
    channel: int | None = None,
    tile: int | None = None,
    min_size: int | None = None,
    normalisers: Sequence[Normaliser] | None = None,
    region: Sequence[slice] | None = None,
) -> Generator[Event, None, Prediction]:
    """Segment an image.

    A 2D network runs over every P, T and Z, a 3D one over every P and T. A region gets what a
    run over everything would give it: intensities are those of the whole image, and the
    image around it is read as far as the network sees. It costs what it covers and that
    margin, except where the model has a spacing or orientation of its own: then whole planes
    or volumes are computed. Objects are the exception too: they are found in the region alone.

    Parameters
    ----------
    image : Image
        May be lazy; only what a tile needs is read. The next tile is read while one is
        computed: by one thread at a time, which is not always the caller's.
    runner : Runner
        The model on its device.
    sink : array-like
        Regions are assigned to it; axes, shape and type are those of :func:`output_axes`, of
        the whole image also where only a region is run: the rest stays as it is then. It is
        written by one thread at a time, beside the reading and the next tile. It is never
        committed here, and closing the generator leaves it as it is.
    level : int, "ensemble" or "auto"
        A trained level, the mean of all trained ones, or for each tile the one that it needs
        (see :mod:`napari_unetpp.core.run.adaptive`).
    kind : {"labels", "probabilities", "instances"}
        Class labels, probabilities of classes and auxiliary channels, or one number for
        each object, counted from 1 in every plane or volume; then the float32
        probabilities of one plane or volume are kept in memory.
    threshold : float, optional
        In (0, 1); the card's if None. A softmax model's labels do not depend on it.
    channel : int, optional
        Channel for a model that takes one; needed if the image has several.
    tile : int, optional
        Largest core of a tile, at least 2^level; chosen by level and memory if None.
    min_size : int, optional
        Least size of an object for instances; the card's if None.
    normalisers : sequence of Normaliser, optional
        From :func:`fit_normalisers` of the image, so that nothing has to be fitted (and no
        note about intensities is repeated).
    region : sequence of slice, optional
        Part of the image to segment: start and stop (no step) along each axis of the
        result but C, in the order of :func:`output_axes`. Everything if None.

    Yields
    ------
    TileDone or Note
        TileDone names the region of the result that is finished with it; it is empty while
        a plane or volume has to be completed first.

    Returns
    -------
    Prediction
        Summary.

    Raises
    ------
    InputError
        At once, before anything is read, if an argument or the image does not fit.
    OutOfMemory
        While running, if nothing is small enough.
    """
    job = Request(
        image, runner, level, kind, threshold, channel, tile, min_size, normalisers, region
    )
    job.check_sink(sink)
    return _guarded(job, sink)


def _guarded(job: Request, sink: Any) -> Generator[Event, None, Prediction]:
    try:
        return (yield from _predict(job, sink))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"a whole {'volume' if len(job.card.axes) == 3 else 'plane'} has to be held for "
            f"{job.kind} of {job.source.image.name} and does not fit into memory; crop the image."
        ) from error


def _predict(job: Request, sink: Any) -> Generator[Event, None, Prediction]:
    start = time.perf_counter()
    notes: list[Note] = []
    parts, runner = job.parts, job.runner
    normalisers, found = (job.normalisers, []) if job.normalisers else job.source.fit()
    for note in [*found, *job.space.notes, *job.warnings()]:
        notes.append(note)
        yield note
    non_finite = done = 0
    by_level: dict[int, int] = {}

    def load(plane: int, tile: Tile) -> tuple[NDArray[np.float32], int]:
        return job.space.load(parts[plane], tile, normalisers)

    # A resampled volume is large: the next one must not be made while this one is in use.
    items = stream(runner, job.level, load, job.plan, len(parts), ahead=job.space.direct)
    with Aside("unetpp-write") as aside, contextlib.closing(items):
        writer = Writer(job, sink, aside)
        for item in items:
            if isinstance(item, Note):
                notes.append(item)
                yield item
                continue
            non_finite += item.non_finite
            if job.level == "auto" and isinstance(item.level, int):
                by_level[item.level] = by_level.get(item.level, 0) + 1
            done = item.done
            for block, region in writer.put(item):
                yield _event(job, block, region)
        for block, region in writer.flush():
            yield _event(job, block, region)
    if non_finite:
        note = Note(
            f"{non_finite} pixel(s) were NaN or infinite; NaN was read as background, infinity "
            "as the darkest or brightest value.",
            "non-finite",
        )
        notes.append(note)
        yield note
    return Prediction(
        level=job.level,
        kind=job.kind,
        axes=job.axes,
        shape=job.shape,
        device=runner.device.kind,
        precision=runner.precision_of(job.level),
        n_tiles=done,
        seconds=time.perf_counter() - start,
        pixels=len(parts) * math.prod(shape_of(job.region)),
        notes=tuple(notes),
        backend=runner.backend_of(job.level),
        tiles_by_level=dict(sorted(by_level.items())),
    )


def _event(job: Request, item: Block, region: Region) -> TileDone:
    level = item.level if isinstance(item.level, int) else job.stage
    return TileDone(item.done, item.total, level, region)
