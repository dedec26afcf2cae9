"""How large tiles are: as little thrown away as the memory allows.

A tile computes its halo for nothing, so that larger ones are cheaper, until memory becomes the
price. Every mixture of sizes along the axes is costed by the pixels that its windows hold
(exactly, with the windows that the image's borders cut short), and the one with the smallest
windows is taken of those that cost hardly more than the cheapest. Arithmetic on sizes only:
knows no torch and no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.run.tiling import Region, aligned, aligned_halo, balanced, padded_size

# Edges that are tried, beside the whole axis and its first few equal parts.
_EDGES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_PARTS = 6

# A pass of less memory is worth the last percents of time, but where it needs little anyway.
_HARDLY = 1.05
_LITTLE = 2**27

# Where the budget makes it so much dearer than twice the budget would, that is taken: what a
# halo of 96 voxels costs in a small 3D tile is beyond all measure.
_FAR_DEARER = 2.0

# Time of a pixel in a pass that needs more than `easy` bytes, relative to one that does not:
# its memory is fetched from the system again and again (benchmarks/tiles.py).
_STRAINED = 1.3

# What a pass costs beside its pixels, as so many pixels.
_START = 4000


@dataclass(frozen=True)
class _Axis:
    """Ways to cut one axis: cores, pixels of all windows together, the largest, how many."""

    core: NDArray[np.int64]
    computed: NDArray[np.float64]
    window: NDArray[np.float64]
    count: NDArray[np.float64]


def default_core(
    shape: Sequence[int],
    level: int,
    bytes_per_pixel: float = 0.0,
    budget: float = math.inf,
    *,
    easy: float = math.inf,
    most: float | None = None,
    region: Region | None = None,
) -> tuple[int, ...]:
    """Choose a core for each axis: cheap, and within a budget of memory.

    Parameters
    ----------
    shape : sequence of int
        Size of the image along each of its 2 or 3 spatial axes.
    level : int
        Level to run.
    bytes_per_pixel : float
        Estimated memory of a pass, for each pixel of the window.
    budget : float
        Bytes that a pass should need at most. The smallest window may exceed it.
    easy : float
        Bytes up to which a pass runs at full speed.
    most : float, optional
        Bytes that a pass may need where the budget makes it far dearer; twice the budget if None.
    region : tuple of slice, optional
        Part of the image that is wanted; all of it if None.

    Returns
    -------
    tuple of int
        Core along each axis, multiples of 2^level.
    """
    spans = aligned(region or tuple(slice(0, n) for n in shape), level)
    axes = [
        _ways(span.start, span.stop, padded_size(n, level), level)
        for span, n in zip(spans, shape, strict=True)
    ]
    window = _product([axis.window for axis in axes])
    needed = window * bytes_per_pixel
    cost = _product([axis.computed for axis in axes])
    cost = cost + _START * _product([axis.count for axis in axes])
    cost = cost * np.where(needed > easy, _STRAINED, 1.0)
    fits = needed <= max(budget, float(needed.min()))
    more = needed <= (2 * budget if most is None else most)
    if cost[fits].min() > _FAR_DEARER * cost[more].min(initial=math.inf):
        fits = more
    good = fits & (cost <= _HARDLY * cost[fits].min())
    best = np.lexsort((cost[good], np.maximum(needed, _LITTLE)[good]))[0]
    place = np.argwhere(good)[best]
    return tuple(int(axis.core[k]) for axis, k in zip(axes, place, strict=True))


def _ways(start: int, stop: int, padded: int, level: int) -> _Axis:
    """Return the ways to cut an axis of `padded` pixels from `start` to `stop`."""
    step, reach, length = 2**level, aligned_halo(level), stop - start
    tried = [edge for edge in _EDGES if edge >= step] or [step]
    tried += [max(length // parts, step) for parts in range(1, _PARTS + 1)]
    cores = sorted({balanced(length, edge, step) for edge in tried})
    computed, largest, count = [], [], []
    for core in cores:
        first = np.arange(start, stop, core, dtype=np.int64)
        last = np.minimum(first + core, stop)
        windows = np.minimum(last + reach, padded) - np.maximum(first - reach, 0)
        computed.append(windows.sum())
        largest.append(windows.max())
        count.append(len(windows))
    return _Axis(
        np.array(cores),
        np.array(computed, np.float64),
        np.array(largest, np.float64),
        np.array(count, np.float64),
    )


def _product(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the product for every mixture of the axes' ways, one array axis for each."""
    result = np.ones(())
    for axis in values:
        result = np.multiply.outer(result, axis)
    return result
