"""A window in memory, tile by tile: where its nodes cannot be kept, and for "auto".

Knows the core's tiles and arrays; no view, no image, no message.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.run.runtime import Level, Runner
from napari_unetpp.core.run.streaming import Block, plan_tiles, stream
from napari_unetpp.core.run.tiling import Region, Tile


@dataclass(frozen=True)
class ByTile:
    """What was computed.

    Attributes
    ----------
    probabilities : ndarray of float32, shape (channels, *region)
        All channels of the network.
    seconds : float
        What it took.
    tiles : dict of int to int
        How many tiles came to each level.
    """

    probabilities: NDArray[np.float32]
    seconds: float
    tiles: dict[int, int] = field(default_factory=dict)


def by_tile(
    runner: Runner,
    level: Level,
    x: NDArray[np.float32],
    start: Sequence[int],
    shape: tuple[int, ...],
    region: Region,
) -> ByTile:
    """Run a region of a plane or volume as a run over that region does.

    Parameters
    ----------
    runner : Runner
        The model.
    level : int, "ensemble" or "auto"
        What to run.
    x : ndarray of float32, shape (C, *window)
        The network's input, with the halo of the deepest level around the region.
    start : sequence of int
        Where the window starts in the plane or volume.
    shape : tuple of int
        Of the plane or volume.
    region : tuple of slice
        What is wanted of it.
    """
    began = time.perf_counter()
    found: NDArray[np.float32] | None = None
    tiles: dict[int, int] = {}

    def load(_: int, tile: Tile) -> tuple[NDArray[np.float32], int]:
        window = (slice(w.start - s, w.stop - s) for w, s in zip(tile.window, start, strict=True))
        return x[(slice(None), *window)], 0

    plan = plan_tiles(runner, level, shape, None, region)
    with closing(stream(runner, level, load, plan, 1)) as blocks:
        for item in blocks:
            if not isinstance(item, Block):
                continue  # of memory: a view is small
            if found is None:
                sizes = (r.stop - r.start for r in region)
                found = np.empty((len(item.probabilities), *sizes), np.float32)
            core = zip(item.tile.core, region, strict=True)
            inner = (slice(c.start - r.start, c.stop - r.start) for c, r in core)
            found[(slice(None), *inner)] = item.probabilities
            if isinstance(item.level, int):
                tiles[item.level] = tiles.get(item.level, 0) + 1
    assert found is not None
    return ByTile(found, time.perf_counter() - began, dict(sorted(tiles.items())))


def in_words(tiles: dict[int, int]) -> str:
    """Return how many tiles came to each level: "3 tiles at L2, 1 at L4"."""
    parts = [f"{count} at L{level}" for level, count in sorted(tiles.items())]
    first, rest = parts[0], parts[1:]
    count, _, place = first.partition(" ")
    noun = "tile" if count == "1" else "tiles"
    return ", ".join([f"{count} {noun} {place}", *rest])
