"""A region of the image's grid from probabilities on the model's grid.

The same numbers as :meth:`GridMap.to_input` and a crop, without making the whole: one slice
of a CT would otherwise cost the volume. Knows grids and arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.data import geometry
from napari_unetpp.core.data.geometry import Grid, GridMap, grid_of
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.tiling import Region

_TRUNCATE = 4.0  # standard deviations, as scipy's filter has it


def restorer(
    source: Source,
) -> Callable[[NDArray[np.float32], Region], NDArray[np.float32]]:
    """Return a function that cuts a region of the image from a level on the model's grid.

    Parameters
    ----------
    source : Source
        Image and card.

    Returns
    -------
    callable
        Takes (channels, *the model's grid) and one slice for each axis of the model;
        returns (channels, *region).
    """
    card = source.card
    grid, _ = grid_of(source.image, card)
    if len(card.axes) == 2:
        grid = Grid((1, *grid.shape[1:]), grid.affine)
    grid_map = GridMap.for_card(grid, card)

    def cut(found: NDArray[np.float32], region: Region) -> NDArray[np.float32]:
        volumes = found.reshape(-1, *grid_map.model_shape)
        whole = (slice(0, 1),) * (3 - len(region)) + tuple(region)
        shape = tuple(r.stop - r.start for r in region)
        return np.stack([restore(v, grid_map, whole).reshape(shape) for v in volumes])

    return cut


def restore(
    volume: NDArray[np.float32], grid_map: GridMap, region: tuple[slice, ...]
) -> NDArray[np.float32]:
    """Return a region of the input's grid.

    Parameters
    ----------
    volume : ndarray of float32
        (Z, Y, X) in the model's grid.
    grid_map : GridMap
        From the input's grid to the model's.
    region : tuple of slice
        Start and stop along Z, Y, X of the input's grid.

    Returns
    -------
    ndarray of float32
        (Z, Y, X) of the region.
    """
    for axis in range(3):
        mine = grid_map.order[axis]
        length, part = grid_map.input_grid.shape[mine], region[mine]
        start, stop = part.start, part.stop
        if grid_map.flips[axis]:
            start, stop = length - part.stop, length - part.start
        volume = _along(volume, axis, length, 1 / grid_map.steps[axis], start, stop)
    flips = tuple(slice(None, None, -1 if f else None) for f in grid_map.flips)
    turned = volume[flips].transpose(np.argsort(grid_map.order))
    return np.ascontiguousarray(turned, dtype=np.float32)


def _along(
    volume: NDArray[Any], axis: int, length: int, step: float, start: int, stop: int
) -> NDArray[Any]:
    """Resample positions `start` to `stop` of `length` along one axis."""
    if abs(step - 1) <= 1e-6:
        return volume[(slice(None),) * axis + (slice(start, stop),)]
    have = volume.shape[axis]
    sigma = (step - 1) / 2 if step > geometry._ANTIALIAS_FROM else 0.0
    places = geometry._places(have, length, step)[start:stop]
    reach = int(np.ceil(_TRUNCATE * sigma)) + 2
    first, last = max(0, int(places[0]) - reach), min(have, int(places[-1]) + reach + 2)
    volume = volume[(slice(None),) * axis + (slice(first, last),)]
    if sigma:
        volume = ndimage.gaussian_filter1d(volume, sigma, axis, mode="nearest")
    # As in the core: low + w (high - low), and the last voxel goes on.
    below = np.minimum(places.astype(int), max(have - 2, 0))
    above = np.minimum(below + 1, have - 1)
    weight = (places - below).astype(np.float32)
    weight = weight.reshape([-1 if k == axis else 1 for k in range(3)])
    result: NDArray[Any] = volume.take(above - first, axis)
    low = volume.take(below - first, axis)
    result -= low
    result *= weight
    result += low
    return result
