"""Planes through a volume as radiologists look at it; knows grids, no images and no models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.data.geometry import Grid

# The letter that an axis of the picture runs to: down the rows, along the columns.
_LAYOUTS = {"axial": ("P", "L"), "coronal": ("I", "L"), "sagittal": ("I", "P")}
_MARGIN = 0.35  # of the size of what is to be seen, kept around it
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True)
class View:
    """A plane of a volume.

    Attributes
    ----------
    name : str
        "axial", "coronal" or "sagittal".
    axis : int
        Array axis that is cut.
    index : int
        Where it is cut.
    order : tuple of int
        Array axes of the picture's rows and columns.
    flips : tuple of bool
        Whether rows and columns are reversed.
    crop : tuple of slice
        Part of the picture that is shown: rows, columns.
    aspect : float
        Height of a pixel over its width.
    """

    name: str
    axis: int
    index: int
    order: tuple[int, int]
    flips: tuple[bool, bool]
    crop: tuple[slice, slice]
    aspect: float

    def __call__(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return the plane of a volume (Z, Y, X) as a picture (rows, columns)."""
        return self.whole(volume)[self.crop]

    def whole(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return the plane without cropping."""
        plane: NDArray[Any] = np.take(volume, self.index, axis=self.axis)
        if self.order[0] > self.order[1]:
            plane = plane.T
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        picture: NDArray[Any] = plane[rows, columns]
        return picture


def ct_views(grid: Grid, labels: NDArray[np.integer], count: int = 2) -> list[View]:
    """Choose the planes of different directions on which most is to be seen.

    Parameters
    ----------
    grid : Grid
        Of the volume.
    labels : ndarray of int, (Z, Y, X)
        What is to be seen; the middle of the volume is taken where there is nothing.
    count : int
        Planes, at most 3.

    Returns
    -------
    list of View
        Head up, patient's left at the right; the face is up (axial) or at the left (sagittal).
    """
    found = [_view(name, grid, labels) for name in _LAYOUTS]
    chosen = sorted(range(len(found)), key=lambda k: -found[k][1])[:count]
    return [found[k][0] for k in sorted(chosen)]


def _view(name: str, grid: Grid, labels: NDArray[np.integer]) -> tuple[View, float]:
    """Return the best plane of a direction, and how much is to be seen on it."""
    directions = grid.orientation
    order, flips = [], []
    for letter in _LAYOUTS[name]:
        axis = next(k for k, d in enumerate(directions) if d in (letter, _OPPOSITE[letter]))
        order.append(axis)
        flips.append(directions[axis] != letter)
    cut = ({0, 1, 2} - set(order)).pop()
    index, score = _richest(labels, cut)
    aspect = float(grid.spacing[order[0]] / grid.spacing[order[1]])
    everything = (slice(None), slice(None))
    view = View(name, cut, index, (order[0], order[1]), (flips[0], flips[1]), everything, aspect)
    # Cropped to all of the volume's labels, not to the plane's: the surroundings help.
    seen = (labels > 0).any(axis=cut)
    picture = view.whole(np.broadcast_to(np.expand_dims(seen, cut), labels.shape))
    return replace(view, crop=_around(picture, aspect)), score


def _around(seen: NDArray[np.bool_], aspect: float) -> tuple[slice, slice]:
    """Return the rows and columns around what is seen, with a margin equal on all sides."""
    if not seen.any():
        return slice(None), slice(None)
    spans = [np.flatnonzero(seen.any(axis=1 - k)) for k in (0, 1)]
    sides = [int(s[-1] - s[0]) + 1 for s in spans]
    width = _MARGIN * max(sides[0] * aspect, sides[1])  # in columns
    margins = (round(width / aspect), round(width))
    crop = [
        slice(max(0, int(s[0]) - m), int(s[-1]) + 1 + m)
        for s, m in zip(spans, margins, strict=True)
    ]
    return crop[0], crop[1]


def _richest(labels: NDArray[np.integer], axis: int) -> tuple[int, float]:
    """Return the plane with most classes, and how much is seen there."""
    planes = np.moveaxis(labels, axis, 0)
    values = [v for v in np.unique(labels) if v > 0]
    if not values:
        return len(planes) // 2, 0.0
    areas = np.stack([(planes == v).sum(axis=(1, 2)) for v in values])  # (class, plane)
    share = areas / areas.max(axis=1, keepdims=True)
    # A class that is only just touched is hardly seen, so its share counts, softened.
    score = np.sqrt(share).sum(axis=0)
    return int(score.argmax()), float(score.max())
