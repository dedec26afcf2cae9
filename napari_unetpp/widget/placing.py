"""Where the pixels of a layer lie in the world, and how to put a result exactly on them.

Linear algebra on a layer's scale, translate, rotate, shear and affine, of any number of
axes. Knows napari's order of them (affine * (rotate * shear * scale + translate)); no viewer,
no data, no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def shear_matrix(shear: Any, ndim: int) -> Matrix:
    """Return a shear as a matrix; napari gives the values above the diagonal where it can."""
    values: Matrix = np.asarray(shear, dtype=np.float64)
    if values.ndim == 1:
        matrix = np.eye(ndim)
        matrix[np.triu_indices(ndim, k=1)] = values
        return matrix
    return values


def _linear(layer: Any) -> Matrix:
    """Return rotate * shear * scale, (ndim, ndim)."""
    shear = shear_matrix(layer.shear, layer.ndim)
    linear: Matrix = np.asarray(layer.rotate) @ shear @ np.diag(np.asarray(layer.scale))
    return linear


def data_to_world(layer: Any) -> Matrix:
    """Return the matrix from data coordinates to the layer's world, (ndim + 1, ndim + 1)."""
    inner = np.eye(layer.ndim + 1)
    inner[:-1, :-1] = _linear(layer)
    inner[:-1, -1] = layer.translate
    matrix: Matrix = np.asarray(layer.affine.affine_matrix, dtype=np.float64) @ inner
    return matrix


def placed_on(
    layer: Any,
    *,
    start: Sequence[float] | None = None,
    factors: Sequence[float] | None = None,
    centred: Sequence[bool] | None = None,
    drop: Sequence[int] = (),
) -> dict[str, Any]:
    """Return what places a new layer exactly on a layer, as keyword arguments of napari.

    Parameters
    ----------
    layer : napari layer
        The image.
    start : sequence of float, optional
        For each axis of the image, the index (in units of `factors`) at which the new array
        begins.
    factors : sequence of float, optional
        Pixels of the image that one of the new array covers, for each axis.
    centred : sequence of bool, optional
        Whether a pixel of the new array lies at the centre of those that it covers
        (napari's rule for the displayed axes of a multiscale image), or at the first of them
        (its rule for picking a slice). All are centred if None.
    drop : sequence of int
        Axes of the image that the new layer does not have; it lies where their index is 0.

    Returns
    -------
    dict
        ``scale``, ``translate``, ``rotate``, ``shear``, ``affine``, ``units`` and
        ``axis_labels``.
    """
    ndim = layer.ndim
    steps = np.ones(ndim) if factors is None else np.asarray(factors, dtype=np.float64)
    middle = np.ones(ndim, bool) if centred is None else np.asarray(centred, dtype=bool)
    first = np.zeros(ndim) if start is None else np.asarray(start, dtype=np.float64)
    first = first * steps + np.where(middle, (steps - 1) / 2, 0.0)
    linear = _linear(layer)
    translate = np.asarray(layer.translate, dtype=np.float64) + linear @ first
    outer = np.asarray(layer.affine.affine_matrix, dtype=np.float64)
    keep = [k for k in range(ndim) if k not in drop]
    lost = [k for k in range(ndim) if k in drop]
    grid = np.ix_(keep, keep)
    affine = np.eye(len(keep) + 1)
    affine[:-1, :-1] = outer[grid]
    # What the lost axes shifted, they shift still.
    affine[:-1, -1] = outer[keep, -1] + outer[np.ix_(keep, lost)] @ translate[lost]
    scale = np.asarray(layer.scale, dtype=np.float64) * steps
    rotate = np.asarray(layer.rotate, dtype=np.float64)
    shear = shear_matrix(layer.shear, ndim)
    mixed = bool(np.any(linear[np.ix_(keep, lost)]) or np.any(linear[np.ix_(lost, keep)]))
    if mixed:
        # Turned into a lost axis: no rotation of what is left says that, an affine does.
        whole = np.eye(ndim + 1)
        whole[:-1, :-1] = linear
        whole[:-1, -1] = translate
        whole = outer @ whole
        affine[:-1, :-1] = whole[grid] / np.asarray(layer.scale, dtype=np.float64)[keep]
        affine[:-1, -1] = whole[keep, -1]
        translate = np.zeros(ndim)
        rotate = shear = np.eye(ndim)
    return {
        "scale": scale[keep],
        "translate": translate[keep],
        "rotate": rotate[grid],
        "shear": shear[grid],
        "affine": affine,
        "units": tuple(layer.units[k] for k in keep),
        "axis_labels": tuple(layer.axis_labels[k] for k in keep),
    }
