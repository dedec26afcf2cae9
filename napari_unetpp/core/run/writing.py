"""Probabilities of a request's tiles and planes, as what was asked for, into its sink.

Knows the request and arrays; no network and no file format.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import Part
from napari_unetpp.core.data.lazy import release
from napari_unetpp.core.run.instances import label_instances
from napari_unetpp.core.run.overlap import Aside
from napari_unetpp.core.run.request import Request, shape_of
from napari_unetpp.core.run.results import (
    deciding_channels,
    labels_of,
    place_block,
    result_channels,
)
from napari_unetpp.core.run.streaming import Block
from napari_unetpp.core.run.tiling import Region

# Share of a pass that may be spent to wait for its tiles to be written: then they are told at
# once, and not after the next pass. Where writing takes longer than that, it is worth hiding.
_PATIENCE = 0.02


class Writer:
    """Takes blocks as they are computed, and tells which are written.

    Tiles are written beside the computation of the next batch; those that are not written by
    then are told after it, so that at most one batch waits. A plane or volume that must be
    complete first is written at once when it is.

    Parameters
    ----------
    job : Request
        What was asked for.
    sink : array-like
        Regions are assigned to it, by one thread at a time.
    aside : Aside
        Whose thread writes.
    """

    def __init__(self, job: Request, sink: Any, aside: Aside) -> None:
        self._job, self._sink, self._aside = job, sink, aside
        self._waiting: deque[tuple[Block, Future[Region]]] = deque()
        self._kept: NDArray[np.float32] | None = None
        self._missing = 0
        self._since = time.monotonic()

    def put(self, block: Block) -> Iterator[tuple[Block, Region]]:
        """Take a block; yield those that are finished, in order, and the regions written."""
        if self._job.whole:
            yield block, self._complete(block)
            return
        spent = time.monotonic() - self._since
        if self._waiting and self._waiting[0][0].batch != block.batch:
            yield from self.flush()
        written = self._aside.begin(self._tile, block)
        self._waiting.append((block, written))
        wait([written], _PATIENCE * spent)
        while self._waiting and self._waiting[0][1].done():
            yield self._told()
        self._since = time.monotonic()

    def flush(self) -> Iterator[tuple[Block, Region]]:
        """Yield all that were not yet told, each when it is written."""
        while self._waiting:
            yield self._told()

    def _told(self) -> tuple[Block, Region]:
        block, written = self._waiting.popleft()
        return block, written.result()

    def _tile(self, block: Block) -> Region:
        part = self._job.parts[block.plane]
        region = _write_tile(self._job, self._sink, part, block.tile.core, block.probabilities)
        release(self._sink)
        return region

    def _complete(self, block: Block) -> Region:
        """Keep a block; write its plane or volume if it was the last one of it."""
        planned = self._job.plan.region
        if self._kept is None:
            shape = (block.probabilities.shape[0], *shape_of(planned))
            self._kept = np.empty(shape, np.float32)
            self._missing = math.prod(shape[1:])
        self._kept[(slice(None), *_within(block.tile.core, planned))] = block.probabilities
        self._missing -= math.prod(block.probabilities.shape[1:])
        if self._missing:
            return ()
        region = _write_whole(self._job, self._sink, self._job.parts[block.plane], self._kept)
        self._kept = None
        release(self._sink)
        return region


def _within(inner: Region, outer: Region) -> Region:
    """Return a region counted from the start of another."""
    return tuple(
        slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)
    )


def _write_tile(
    job: Request, sink: Any, part: Part, region: Region, probabilities: NDArray[np.float32]
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


def _write_whole(job: Request, sink: Any, part: Part, kept: NDArray[np.float32]) -> Region:
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
    job: Request,
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
