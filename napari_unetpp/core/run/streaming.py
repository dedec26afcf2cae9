"""Tiles through a runner, in batches, with less memory each time that memory runs out.

Knows a runner and a function that loads a tile's input. Knows no axes, no files and
nothing of what is done with the probabilities.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.errors import InputError, OutOfMemory
from napari_unetpp.core.events import Note
from napari_unetpp.core.run import memory
from napari_unetpp.core.run.adaptive import Adaptive
from napari_unetpp.core.run.overlap import Ahead, Batch, Load, Loaded
from napari_unetpp.core.run.precision import DTYPES
from napari_unetpp.core.run.runtime import Level, Runner
from napari_unetpp.core.run.tilesize import default_core
from napari_unetpp.core.run.tiling import (
    Region,
    Tile,
    TilePlan,
    aligned,
    padded_size,
)

# Pixels (voxels) of a batch: enough to fill the device when planes are small.
BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**22, "mps": 2**21}

# Share of what a pass may take up to which it is the fastest: backends keep so much memory for
# the next pass. Where it is also the viewer's and everybody else's, a gigabyte is enough.
_EASY_SHARE = 0.25
_EASY_BYTES = 2**30


@dataclass(frozen=True)
class Block:
    """The result of one tile.

    Attributes
    ----------
    plane : int
        Number of the plane or volume.
    tile : Tile
        What was computed; `probabilities` are of its core.
    probabilities : ndarray of float32, shape (channels, *core)
        All channels of the network.
    non_finite : int
        Pixels of the core that were NaN or infinite.
    done, total : int
        Tiles finished and tiles in all.
    level : int or "ensemble"
        What it was run at; of "auto" the one that the tile came to.
    batch : int
        Number of the pass that it came from.
    """

    plane: int
    tile: Tile
    probabilities: NDArray[np.float32]
    non_finite: int
    done: int
    total: int
    level: Level = "ensemble"
    batch: int = 0


def plan_tiles(
    runner: Runner,
    level: Level,
    shape: tuple[int, ...],
    tile: int | None = None,
    region: Region | None = None,
) -> TilePlan:
    """Plan the tiles of a plane or volume for a runner.

    Parameters
    ----------
    runner : Runner
        Its network and device say what fits into memory.
    level : int or "ensemble"
        Level to run.
    shape : tuple of int
        Spatial shape.
    tile : int, optional
        Largest core of a tile along every axis, at least 2^level; the window that the
        network sees is larger by the halo on every side. Chosen by level and memory if
        None.
    region : tuple of slice, optional
        Part of the plane or volume that is wanted; all of it if None.

    Returns
    -------
    TilePlan
        The plan.

    Raises
    ------
    InputError
        If `tile` is too small or no whole number.
    """
    stage = runner.stage_of(level)
    if tile is not None:
        if isinstance(tile, bool) or not isinstance(tile, int | np.integer):
            raise InputError(f"a tile size must be a whole number of pixels, got {tile!r}.")
        return TilePlan(shape, stage, int(tile), region)
    kind = runner.device.kind
    per_pixel = _bytes_per_pixel(runner, level)
    budget = memory.budget_bytes(kind)
    easy = _EASY_SHARE * budget if kind == "cuda" else min(_EASY_SHARE * budget, _EASY_BYTES)
    most = min(2.0, 1.0 / memory.SHARE[kind]) * budget  # never more than there is
    core = default_core(shape, stage, per_pixel, budget, easy=easy, most=most, region=region)
    return TilePlan(shape, stage, core, region)


def _bytes_per_pixel(runner: Runner, level: Level) -> float:
    network, itemsize = runner.card.network, DTYPES[runner.precision_of(level)].itemsize
    needed = memory.bytes_per_pixel(network, runner.stage_of(level), itemsize)
    # A GPU has memory of its own; what waits lies in the host's.
    waiting = 0.0 if runner.device.kind == "cuda" else memory.waiting_bytes_per_pixel(network)
    return needed + waiting


class _Queue:
    """The tiles that are left; batches of one shape, split to the cap of the moment."""

    def __init__(self, plan: TilePlan, planes: int) -> None:
        self.plan = plan
        self.total = planes * len(plan)
        self.cap = plan.core
        self._front: deque[tuple[int, Tile]] = deque()
        self._rest = ((plane, tile) for plane in range(planes) for tile in plan)

    def _next(self) -> tuple[int, Tile] | None:
        if not self._front:
            item = next(self._rest, None)
            if item is None:
                return None
            self._front.append(item)
        plane, tile = self._front.popleft()
        pieces = self.plan.split(tile, self.cap)
        self.total += len(pieces) - 1
        self._front.extendleft((plane, piece) for piece in reversed(pieces[1:]))
        return plane, pieces[0]

    def take(self, limit: Callable[[Tile], int]) -> Batch:
        """Take the next tiles whose windows and cores are of one shape."""
        first = self._next()
        if first is None:
            return []
        batch = [first]
        most = limit(first[1])
        while len(batch) < most:
            item = self._next()
            if item is None:
                break
            same = item[1].window_shape == first[1].window_shape
            if not same or item[1].inner != first[1].inner:
                self._front.appendleft(item)
                break
            batch.append(item)
        return batch

    def put_back(self, batch: Batch) -> None:
        """Put a batch back to the front."""
        self._front.extendleft(reversed(batch))

    def halve(self, tile: Tile) -> bool:
        """Halve the cap below the size of `tile`; False if it is the smallest already."""
        step = 2**self.plan.level
        sizes = [c.stop - c.start for c in aligned(tile.core, self.plan.level)]
        if all(size <= step for size in sizes):
            return False
        now = [min(c, s) for c, s in zip(self.cap, sizes, strict=True)]
        self.cap = tuple(max(step, padded_size(n // 2, self.plan.level)) for n in now)
        return True


def stream(
    runner: Runner, level: Level, load: Load, plan: TilePlan, planes: int, *, ahead: bool = False
) -> Generator[Block | Note, None, None]:
    """Run every tile of every plane or volume, in order.

    When memory runs out, what is cached is freed and smaller batches, then halved tiles
    are tried, then the CPU; a Note says so each time.

    Parameters
    ----------
    runner : Runner
        The network on its device.
    level : int or "ensemble"
        Level to run.
    load : callable
        ``load(plane, tile)`` returns the normalised window, (C, *window) float32, and how
        many pixels of the core were not finite.
    plan : TilePlan
        Tiles of each plane.
    planes : int
        Number of planes or volumes, all of the plan's shape.
    ahead : bool
        Load the next batch on a thread of its own while one is computed, until memory runs
        out for the first time. `load` is never called by two threads at once. Closing the
        generator ends the thread.

    Yields
    ------
    Block or Note
        Results in raster order, plane by plane.

    Raises
    ------
    OutOfMemory
        If the smallest tile does not fit on any device, or `load` raises it.
    """
    queue = _Queue(plan, planes)
    adaptive = Adaptive(runner) if level == "auto" else None
    most = math.inf
    done = number = 0
    told = len(runner.notes)

    def limit(tile: Tile) -> int:
        pixels = math.prod(tile.window_shape)
        kind = runner.device.kind
        room = BATCH_PIXELS[kind] / pixels
        if room >= 2:
            needed = pixels * _bytes_per_pixel(runner, level)
            room = min(room, memory.budget_bytes(kind) / needed)
        return max(1, int(min(room, most)))

    with Ahead(load) as loads:
        batch = queue.take(limit)
        while batch:
            following = queue.take(limit) if ahead else []
            results, bad, reached = _attempt(
                runner, level, loads, batch, following, adaptive, plan.shape
            )
            yield from runner.notes[told:]
            told = len(runner.notes)
            if results is None:
                loads.drop()
                memory.free_memory(runner.device.kind)
                queue.put_back(following)
                queue.put_back(batch)
                ahead = ahead and runner.device.kind == "cuda"  # which lacks memory of its own
                if len(batch) > 1:
                    most = len(batch) // 2
                    yield Note(
                        f"memory ran out: batches were cut to {most:.0f} tile(s).",
                        "smaller-batches",
                    )
                elif queue.halve(batch[0][1]):
                    size = "x".join(str(n) for n in queue.cap)
                    yield Note(f"memory ran out: tiles were halved to {size}.", "smaller-tiles")
                elif runner.device.kind != "cpu":
                    runner.to_cpu("the smallest tile does not fit into the GPU's memory")
                    queue.cap, most = plan.core, math.inf
                else:
                    raise OutOfMemory(
                        "the smallest tile "
                        f"({'x'.join(map(str, batch[0][1].window_shape))} with its halo) does not "
                        "fit into memory; close other programs or take a lower level."
                    )
                batch = queue.take(limit)
                continue
            for (plane, tile), result, count, at in zip(batch, results, bad, reached, strict=True):
                done += 1
                yield Block(plane, tile, result, count, done, queue.total, at, number)
            number += 1
            batch = following or queue.take(limit)


def _ends(tile: Tile, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return where the image ends, counted from the start of a tile's window."""
    return tuple(n - w.start for w, n in zip(tile.window, shape, strict=True))


def _attempt(
    runner: Runner,
    level: Level,
    loads: Ahead,
    batch: Batch,
    following: Batch,
    adaptive: Adaptive | None,
    shape: tuple[int, ...],
) -> tuple[Sequence[NDArray[np.float32]] | None, list[int], list[Level]]:
    """Run a batch while the one after it is loaded; None if memory ran out.

    The error is dropped here, because its traceback would keep the tensors alive that have
    to be freed before the next attempt.
    """
    try:
        loaded = loads.get(batch)
        loads.begin(following)
        return _computed(runner, level, loaded, batch, adaptive, shape)
    except OutOfMemory:  # already judged: what ran out is no tile
        raise
    except (MemoryError, RuntimeError) as error:
        if not memory.is_out_of_memory(error):
            raise
    return None, [], []


def _computed(
    runner: Runner,
    level: Level,
    loaded: Loaded,
    batch: Batch,
    adaptive: Adaptive | None,
    shape: tuple[int, ...],
) -> tuple[Sequence[NDArray[np.float32]], list[int], list[Level]]:
    """Return probabilities, pixels that were not finite, and levels, tile by tile."""
    if adaptive is None:
        found = runner.probabilities(loaded.x, level, crop=batch[0][1].inner)
        return list(found), loaded.non_finite, [level] * len(batch)
    each = [
        adaptive.run(window, tile.inner, _ends(tile, shape))
        for window, (_, tile) in zip(loaded.x, batch, strict=True)
    ]
    return [one.probabilities for one in each], loaded.non_finite, [one.level for one in each]
