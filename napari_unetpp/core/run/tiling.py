"""Tiles of an image whose results, put side by side, equal those of the whole image.

A tile has a core, which it writes, and a window, which it reads: the core and the halo of
the level around it. Cores start at multiples of 2^level and windows end exactly where the
padded image ends, so a tile sees the same pixels and the same zeros as the whole pass does
and nothing has to be blended. Arithmetic on sizes only: knows no torch, no file, no model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.errors import InputError

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Tile:
    """One piece of work.

    Attributes
    ----------
    core : tuple of slice
        What the tile writes, in pixels of the image; the cores of a plan cover it once.
    window : tuple of slice
        What the network sees, in pixels of the padded image; multiples of 2^level.
    """

    core: Region
    window: Region

    @property
    def window_shape(self) -> tuple[int, ...]:
        """Size of the window along each axis."""
        return tuple(w.stop - w.start for w in self.window)

    @property
    def inner(self) -> Region:
        """The core, counted from the window's start."""
        return tuple(
            slice(c.start - w.start, c.stop - w.start)
            for c, w in zip(self.core, self.window, strict=True)
        )


def padded_size(length: int, level: int) -> int:
    """Return the least multiple of 2^level that is at least `length`."""
    step: int = 2**level
    return -(-length // step) * step


def aligned(region: Region, level: int) -> Region:
    """Return a region grown to multiples of 2^level on both sides."""
    step: int = 2**level
    return tuple(slice(r.start // step * step, padded_size(r.stop, level)) for r in region)


def aligned_halo(level: int) -> int:
    """Return how far a window must reach beyond a core: 8, 24, 48, 96 for L1 to L4.

    The level's halo (9, 23, 51, 107) is the reach of the worst placed pixel. The first
    pixel of a core lies at a multiple of 2^level and reaches less far: two convolutions at
    each resolution on the way down and on the way up, counted in that resolution's pixels.

    Parameters
    ----------
    level : int
        Deepest stage that runs.

    Returns
    -------
    int
        Pixels, a multiple of 2^level.
    """
    reach = 2
    for _ in range(level):
        reach = -(-reach // 2) + 2
    for _ in range(level):
        reach = 2 * reach + 2
    return padded_size(reach, level)


def _check(shape: Sequence[int], level: int, core: Sequence[int]) -> None:
    if not shape or min(shape) < 1:
        raise InputError(
            f"an image needs at least one pixel on every axis, got shape {tuple(shape)}; "
            "leave empty images out."
        )
    if len(core) != len(shape):
        raise InputError(f"expected {len(shape)} tile sizes, one an axis, got {len(core)}.")
    if min(core) < 2**level:
        raise InputError(
            f"a tile must be at least {2**level} pixels wide at level {level}, "
            f"got {min(core)}; give a larger one."
        )


class TilePlan:
    """All tiles of one plane or volume, in raster order; made one by one, never listed.

    The plan of a region has tiles of its own: they begin at the multiple of 2^level at or
    before the region's start, and their windows read the image around it. What is computed is
    the same as in the plan of the whole, because every core begins at such a multiple.

    Parameters
    ----------
    shape : sequence of int
        Size of the image along each spatial axis.
    level : int
        Deepest stage that will run: sets the alignment and the halo.
    core : int or sequence of int
        Largest core, on every axis or for each axis. It is rounded down to a multiple of
        2^level and then balanced, so that the tiles of an axis are nearly of one size.
    region : tuple of slice, optional
        Part of the image that the cores cover, inside it and not empty; all of it if None.

    Raises
    ------
    InputError
        If the image is empty or a core is smaller than 2^level.
    """

    def __init__(
        self,
        shape: Sequence[int],
        level: int,
        core: int | Sequence[int],
        region: Region | None = None,
    ) -> None:
        sizes = (core,) * len(shape) if isinstance(core, int) else tuple(core)
        _check(shape, level, sizes)
        self.shape = tuple(int(n) for n in shape)
        self.level = level
        self.region = region or tuple(slice(0, n) for n in self.shape)
        span = aligned(self.region, level)
        self._origin = tuple(s.start for s in span)
        lengths = [s.stop - s.start for s in span]
        self.core = tuple(
            balanced(n, size, 2**level) for n, size in zip(lengths, sizes, strict=True)
        )
        self._counts = tuple(-(-n // c) for n, c in zip(lengths, self.core, strict=True))

    def __len__(self) -> int:
        """Return the number of tiles."""
        return math.prod(self._counts)

    def __iter__(self) -> Iterator[Tile]:
        """Yield the tiles in raster order."""
        for place in itertools.product(*(range(k) for k in self._counts)):
            starts = [o + p * c for o, p, c in zip(self._origin, place, self.core, strict=True)]
            yield self._tile([(s, s + c) for s, c in zip(starts, self.core, strict=True)])

    def _tile(self, spans: Sequence[tuple[int, int]], within: Region | None = None) -> Tile:
        """Return the tile whose core is the part of `spans` inside the region (or `within`)."""
        core = tuple(
            slice(max(start, part.start), min(stop, part.stop))
            for (start, stop), part in zip(spans, within or self.region, strict=True)
        )
        reach = aligned_halo(self.level)
        window = tuple(
            slice(max(c.start - reach, 0), min(c.stop + reach, padded_size(n, self.level)))
            for c, n in zip(aligned(core, self.level), self.shape, strict=True)
        )
        return Tile(core, window)

    def split(self, tile: Tile, core: Sequence[int]) -> list[Tile]:
        """Return tiles that cover the core of `tile` with cores no larger than `core`.

        Parameters
        ----------
        tile : Tile
            A tile of this plan.
        core : sequence of int
            Largest core along each axis, at least 2^level.

        Returns
        -------
        list of Tile
            In raster order; one alone if the tile is small enough already.
        """
        spans = []
        for part, size in zip(aligned(tile.core, self.level), core, strict=True):
            size = balanced(part.stop - part.start, size, 2**self.level)
            spans.append([(s, s + size) for s in range(part.start, part.stop, size)])
        return [self._tile(span, tile.core) for span in itertools.product(*spans)]


def balanced(padded: int, core: int, step: int) -> int:
    """Return the core, no larger than `core`, with which the tiles of an axis are nearly equal.

    Parameters
    ----------
    padded : int
        Length of the axis, a multiple of `step`.
    core : int
        Largest core.
    step : int
        What it is a multiple of; it is at least that.
    """
    largest = min(max(core // step * step, step), padded)
    count = -(-padded // largest)
    return -(-padded // (count * step)) * step


def read_window(
    read: Callable[[Region], NDArray[Any]], window: Region, shape: Sequence[int]
) -> NDArray[Any]:
    """Read a window, repeating the image's last rows where the window lies past its end.

    Parameters
    ----------
    read : callable
        Returns the pixels of a region of the image; leading axes before the spatial ones
        are allowed.
    window : tuple of slice
        Window of a :class:`Tile`.
    shape : sequence of int
        Size of the image along each spatial axis.

    Returns
    -------
    ndarray
        The window's pixels; only those inside the image were read.
    """
    inside = tuple(slice(w.start, min(w.stop, n)) for w, n in zip(window, shape, strict=True))
    block = read(inside)
    past = [(0, max(w.stop - n, 0)) for w, n in zip(window, shape, strict=True)]
    if not any(after for _, after in past):
        return block
    leading = [(0, 0)] * (block.ndim - len(past))
    return np.pad(block, leading + past, mode="edge")
