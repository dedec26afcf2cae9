"""What a network that separates objects learns beside the classes: how central a pixel is.

:func:`centre_target` is the truth of the channel from which :mod:`core.run.instances` takes
its seeds. This module knows arrays only: no network, no model card, no file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.errors import InputError

_DENSE_IDS = 65_536  # above this largest id, ids are renumbered before find_objects lists them


def centre_target(
    instances: NDArray[np.generic], spacing: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Return each object's distance to its border, divided by the object's largest one.

    The border of an object is where the background or another object begins; the edge of
    the image is none, because an object that is cut there goes on outside. Touching objects
    are therefore separated, and every object reaches 1 at its innermost pixel, whatever its
    size. An object that fills the whole image is 1 everywhere.

    Parameters
    ----------
    instances : ndarray of int or bool, shape (Y, X) or (Z, Y, X)
        0 is background; every other value is an object.
    spacing : sequence of float, optional
        Size of a pixel along each axis of `instances`; only the ratios matter. Ones if None.

    Returns
    -------
    ndarray of float32, shape of `instances`
        In (0, 1] inside objects, 0 elsewhere.

    Raises
    ------
    InputError
        If `instances` is not of 2 or 3 axes of whole numbers from 0, or `spacing` does not
        fit it.
    """
    labels = _checked(instances)
    sampling = _checked_spacing(spacing, labels.ndim)
    target = np.zeros(labels.shape, np.float32)
    if labels.size == 0:
        return target
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        # One more pixel on every side, where there is one: it shows what lies outside.
        wide = tuple(
            slice(max(s.start - 1, 0), min(s.stop + 1, n))
            for s, n in zip(box, labels.shape, strict=True)
        )
        inside = labels[wide] == number
        if inside.all():
            target[wide] = 1.0
            continue
        distance = ndimage.distance_transform_edt(inside, sampling=sampling)
        np.copyto(target[wide], distance / distance.max(), where=inside, casting="same_kind")
    return target


def _checked(instances: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the labels as whole numbers that are small enough to be listed."""
    labels = np.asarray(instances)
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "bui":
        raise InputError(
            "instance labels must be whole numbers with axes YX or ZYX, got "
            f"{labels.dtype} of shape {labels.shape}; give one integer image or volume."
        )
    if labels.size == 0:
        return labels.astype(np.int64)
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise InputError(
            f"instance labels must not be negative, got {labels.min()}; use 0 for background."
        )
    if labels.max() > _DENSE_IDS:
        values, inverse = np.unique(labels, return_inverse=True)
        labels = inverse.reshape(labels.shape) + (0 if values[0] == 0 else 1)
    return labels.astype(np.int64, copy=False)


def _checked_spacing(spacing: Sequence[float] | None, ndim: int) -> tuple[float, ...]:
    """Return one positive number for each axis."""
    if spacing is None:
        return (1.0,) * ndim
    given = tuple(float(s) for s in spacing)
    if len(given) != ndim or not all(np.isfinite(s) and s > 0 for s in given):
        raise InputError(
            f"spacing must be {ndim} positive numbers, one for each axis, got {given}."
        )
    return given
