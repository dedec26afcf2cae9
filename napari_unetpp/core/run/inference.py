"""An image through a model: tile by tile into a sink, with progress and cancel.

Planes or volumes are streamed: memory depends on the tile, not on the image, unless
objects are asked for (a plane's probabilities are kept) or the model wants another grid (a
volume is kept, see :mod:`napari_unetpp.core.run.spaces`). Knows no file format and no
viewer; a sink is anything that regions can be assigned to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import Part
from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.errors import InputError, OutOfMemory
from napari_unetpp.core.events import Event, Note, TileDone
from napari_unetpp.core.run.adaptive import TOLERANCE
from napari_unetpp.core.run.instances import label_instances
from napari_unetpp.core.run.memory import is_out_of_memory, release_pages
from napari_unetpp.core.run.preview import fit_normalisers, predict_levels
from napari_unetpp.core.run.results import (
    Kind,
    check_kind,
    deciding_channels,
    labels_of,
    output_axes,
    place_block,
    result_channels,
)
from napari_unetpp.core.run.runtime import Level, Runner
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.spaces import Space, space_for
from napari_unetpp.core.run.streaming import Block, plan_tiles, stream
from napari_unetpp.core.run.tiling import Region, Tile

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
        May be lazy; only what a tile needs is read.
    runner : Runner
        The model on its device.
    sink : array-like
        Regions are assigned to it; axes, shape and type are those of :func:`output_axes`, of
        the whole image also where only a region is run: the rest stays as it is then. It is
        never committed here, and closing the generator leaves it as it is.
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
    job = _Job(image, runner, level, kind, threshold, channel, tile, min_size, normalisers, region)
    _check_sink(sink, job)
    return _guarded(job, sink)


class _Job:
    """A checked request."""

    def __init__(
        self,
        image: Image,
        runner: Runner,
        level: Level,
        kind: str,
        threshold: float | None,
        channel: int | None,
        tile: int | None,
        min_size: int | None,
        normalisers: Sequence[Normaliser] | None,
        region: Sequence[slice] | None,
    ) -> None:
        self.card: ModelCard = runner.card
        self.runner = runner
        self.level = level
        self.stage = runner.stage_of(level)
        self.kind: Kind = check_kind(kind)
        self.threshold = self.card.threshold if threshold is None else float(threshold)
        if not 0.0 < self.threshold < 1.0:
            raise InputError(
                f"threshold must lie between 0 and 1, got {self.threshold:g}; 0.5 is usual."
            )
        self.softmax_labels = kind == "labels" and self.card.network.activation == "softmax"
        self.threshold_unused = threshold is not None and (
            self.softmax_labels or kind == "probabilities"
        )
        self.min_size = min_size
        self.source = Source(image, self.card, channel)
        self.axes, self.shape, self.dtype = output_axes(image, self.card, kind)
        self.parts, self.region = self.source.select(region)
        self.normalisers: list[Normaliser] | None = None
        if normalisers is not None:
            self.normalisers = self.source.check_normalisers(normalisers)
        self.space: Space = space_for(self.source)
        # Where the grids differ, a pixel's value depends on more than a region and its halo.
        planned = self.region if self.space.direct else None
        self.plan = plan_tiles(runner, level, self.space.shape, tile, planned)

    @property
    def whole(self) -> bool:
        """Whether a plane or volume must be complete before it can be written."""
        return self.kind == "instances" or not self.space.direct


def _check_sink(sink: Any, job: _Job) -> None:
    shape = getattr(sink, "shape", None)
    if shape is not None and tuple(shape) != job.shape:
        raise InputError(
            f"the result has shape {job.shape} ({job.axes}), got a sink of {tuple(shape)}; "
            "ask output_axes what it must hold."
        )


def _guarded(job: _Job, sink: Any) -> Generator[Event, None, Prediction]:
    try:
        return (yield from _predict(job, sink))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"a whole {'volume' if len(job.card.axes) == 3 else 'plane'} has to be held for "
            f"{job.kind} of {job.source.image.name} and does not fit into memory; crop the image."
        ) from error


def _predict(job: _Job, sink: Any) -> Generator[Event, None, Prediction]:
    start = time.perf_counter()
    notes: list[Note] = []
    parts, runner = job.parts, job.runner
    normalisers, found = (job.normalisers, []) if job.normalisers else job.source.fit()
    for note in [*found, *job.space.notes, *_warnings(job)]:
        notes.append(note)
        yield note
    kept: NDArray[np.float32] | None = None
    missing = 0
    non_finite = done = 0
    by_level: dict[int, int] = {}

    def load(plane: int, tile: Tile) -> tuple[NDArray[np.float32], int]:
        return job.space.load(parts[plane], tile, normalisers)

    for item in stream(runner, job.level, load, job.plan, len(parts)):
        if isinstance(item, Note):
            notes.append(item)
            yield item
            continue
        non_finite += item.non_finite
        if job.level == "auto" and isinstance(item.level, int):
            by_level[item.level] = by_level.get(item.level, 0) + 1
        done = item.done
        region: Region = ()
        if not job.whole:
            region = _write(job, sink, parts[item.plane], item.tile.core, item.probabilities)
        else:
            if kept is None:
                kept = np.empty((item.probabilities.shape[0], *_shape(job.plan.region)), np.float32)
                missing = math.prod(kept.shape[1:])
            kept[(slice(None), *_within(item.tile.core, job.plan.region))] = item.probabilities
            missing -= math.prod(item.probabilities.shape[1:])
            if missing == 0:
                region = _write_whole(job, sink, parts[item.plane], kept)
                kept = None
        release_pages(sink)
        yield _event(job, item, region)
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
        pixels=len(parts) * math.prod(_shape(job.region)),
        notes=tuple(notes),
        backend=runner.backend_of(job.level),
        tiles_by_level=dict(sorted(by_level.items())),
    )


def _shape(region: Region) -> tuple[int, ...]:
    return tuple(r.stop - r.start for r in region)


def _within(inner: Region, outer: Region) -> Region:
    """Return a region counted from the start of another."""
    return tuple(
        slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)
    )


def _warnings(job: _Job) -> Iterator[Note]:
    if job.level == "auto" and job.card.auto_tolerance is None:
        yield Note(
            f"the model's card has no tolerance for auto, so {TOLERANCE:g} is used; it was not "
            "calibrated on images of this kind.",
            "auto-uncalibrated",
        )
    if job.threshold_unused:
        yield Note("the threshold has no influence on this kind of result.", "threshold-unused")
    alone = len(job.plan) == 1 and _shape(job.plan.region) == job.plan.shape
    if job.card.network.norm == "instance" and not alone:
        yield Note(
            "the network normalises each tile by itself, so the result depends on the tile "
            "size; larger tiles come nearer to the whole image.",
            "tile-dependent",
        )


def _event(job: _Job, item: Block, region: Region) -> TileDone:
    level = item.level if isinstance(item.level, int) else job.stage
    return TileDone(item.done, item.total, level, region)


def _write(
    job: _Job, sink: Any, part: Part, region: Region, probabilities: NDArray[np.float32]
) -> Region:
    """Write one finished region of a plane or volume; (channels, *region)."""
    card = job.card
    if job.kind == "labels":
        channels = (probabilities[k] for k in deciding_channels(card))
        return _assign(job, sink, part, region, labels_of(channels, card, job.threshold))
    wanted = result_channels(card)
    if len(wanted) == 1:
        return _assign(job, sink, part, region, probabilities[wanted[0]])
    block = probabilities[wanted[0] :]
    return _assign(job, sink, part, region, block)


def _write_whole(job: _Job, sink: Any, part: Part, kept: NDArray[np.float32]) -> Region:
    """Write the region of a complete plane or volume; (channels, *the plan's region)."""
    card, region = job.card, job.region

    def restore(channel: NDArray[np.float32]) -> NDArray[np.float32]:
        return channel if job.space.direct else job.space.restore(channel)[region]

    if job.kind == "instances":
        everything = kept if job.space.direct else np.stack([restore(c) for c in kept])
        objects = label_instances(everything, card, threshold=job.threshold, min_size=job.min_size)
        return _assign(job, sink, part, region, objects)
    if job.kind == "labels":
        # One channel at a time: on a fine input grid each one is large.
        channels = (restore(kept[k]) for k in deciding_channels(card))
        return _assign(job, sink, part, region, labels_of(channels, card, job.threshold))
    wanted = result_channels(card)
    if len(wanted) == 1:
        return _assign(job, sink, part, region, restore(kept[wanted[0]]))
    target: Region = ()
    for place, k in enumerate(wanted):
        target = _assign(job, sink, part, region, restore(kept[k])[None], channel=place)
    axis = job.axes.index("C")
    return (*target[:axis], slice(0, len(wanted)), *target[axis + 1 :])


def _assign(
    job: _Job,
    sink: Any,
    part: Part,
    region: Region,
    block: NDArray[Any],
    channel: int | None = None,
) -> Region:
    space = job.card.axes
    axes = space if block.ndim == len(space) else "C" + space
    position = dict(part.position)
    if channel is not None:
        position["C"] = channel
    elif "C" in job.axes:
        position.pop("C", None)
    target, values = place_block(block, axes, job.axes, position, region, space)
    target = tuple(
        slice(0, n) if s == slice(None) else s for s, n in zip(target, job.shape, strict=True)
    )
    sink[target] = values.astype(job.dtype, copy=False)
    return target
