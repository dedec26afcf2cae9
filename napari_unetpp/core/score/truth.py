"""True labels as evaluation compares them: whole numbers on the grid of a result.

This module knows label arrays, axes and the classes of a card; it must not know networks or
file formats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError

_SAME_PLACE = 0.1  # of a voxel


def prepare_truth(
    labels: Image, axes: str, shape: tuple[int, ...], card: ModelCard, name: str
) -> NDArray[np.integer]:
    """Bring true labels onto the grid of a result and check their values.

    Parameters
    ----------
    labels : Image
        As read from a file. Axes of length 1 that the result lacks are dropped; where the
        letters differ otherwise, equal shapes are taken to mean the same axes.
    axes, shape : str and tuple of int
        Of the result, from :func:`core.run.results.output_axes`.
    card : ModelCard
        With one class every value above 0 is foreground; with several, value k is the k-th.
    name : str
        The image's name, for messages.

    Returns
    -------
    ndarray of int
        Shape `shape`, 0 for the background.

    Raises
    ------
    InputError
        If the shapes differ, a value is not a whole number from 0, or is beyond the classes.
    """
    return _checked_values(_on_grid(labels, axes, shape, name), card, name)


def unpaint(labels: Image) -> tuple[Image, Image]:
    """Turn painted labels into truth and a mask of what is labelled.

    Parameters
    ----------
    labels : Image
        0 unlabelled, 1 background, 2 and more the classes (or objects).

    Returns
    -------
    truth : Image
        0 background or unlabelled, k the card's k-th class.
    labelled : Image
        1 where painted, else 0.
    """
    painted = np.asarray(labels.data)
    truth = np.where(painted > 1, painted - 1, 0).astype(painted.dtype)
    return labels.replace(data=truth), labels.replace(data=(painted > 0).astype(np.uint8))


def _on_grid(labels: Image, axes: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """Return the label array with the result's axes."""
    array = np.asarray(labels.data)
    extra = tuple(k for k, a in enumerate(labels.axes) if a not in axes and array.shape[k] == 1)
    found = "".join(a for k, a in enumerate(labels.axes) if k not in extra)
    array = np.squeeze(array, axis=extra)
    if sorted(found) == sorted(axes):
        array = array.transpose([found.index(a) for a in axes])
    if array.shape != shape:
        raise InputError(
            f"the image {name} is {_size(shape)} ({axes}) but its labels are "
            f"{_size(labels.shape)} ({labels.axes}); give labels of the same grid."
        )
    return array


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def _checked_values(array: NDArray[Any], card: ModelCard, name: str) -> NDArray[np.integer]:
    """Return whole numbers from 0 that the card knows."""
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (np.rint(array) == array) & (np.abs(array) < 2**53)
        if not whole.all():
            raise InputError(
                f"the labels of {name} must be whole numbers, got {array[~whole][0]:g}; "
                "give labels, not probabilities or intensities."
            )
        array = array.astype(np.int64)
    elif array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.min() < 0:
        raise InputError(
            f"the labels of {name} must not be negative, got {array.min()}; "
            "use 0 for the background."
        )
    count = len(card.classes)
    if count > 1 and array.max() > count:
        beyond = np.unique(array[array > count])
        values = ", ".join(str(v) for v in beyond[:5]) + (", ..." if len(beyond) > 5 else "")
        names = ", ".join(f"{k} {c.name}" for k, c in enumerate(card.classes, start=1))
        raise InputError(
            f"the labels of {name} hold {values}, but model {card.name!r} knows only {names}; "
            "renumber the labels."
        )
    return array


def object_evidence(truth: NDArray[np.integer]) -> bool | None:
    """Return whether label values tell objects apart, as far as one plane or volume shows.

    Parameters
    ----------
    truth : ndarray of int
        One plane or volume.

    Returns
    -------
    bool or None
        True: it has several values. False: one value on several separate regions, as a
        mask has. None: nothing or a single region, which both kinds look like.
    """
    present = truth > 0
    if not present.any():
        return None
    values = truth[present]
    if (values != values[0]).any():
        return True
    full = ndimage.generate_binary_structure(truth.ndim, truth.ndim)
    return None if ndimage.label(present, full)[1] == 1 else False


def turned_to(image: Image, labels: Image) -> Image:
    """Return labels as their image is stored, where both say where they lie.

    Parameters
    ----------
    image, labels : Image
        With affines, the axes of the labels may be stored in another order or direction.

    Returns
    -------
    Image
        The labels with axes permuted and flipped to the image's grid; the labels as they
        are where that does not bring every voxel onto one of the image's.
    """
    if image.affine is None or labels.affine is None:
        return labels
    if not ("Z" in image.axes and "ZYX" in labels.axes):
        return labels
    way = np.linalg.inv(image.affine) @ labels.affine  # index of the labels -> of the image
    turn = np.rint(way[:3, :3])
    order = [int(k) for k in np.abs(turn).argmax(axis=1)]  # of the labels' axes
    if np.array_equal(turn, np.eye(3)) or not np.array_equal(np.abs(turn), np.eye(3)[order]):
        return labels
    sizes = np.array(labels.spatial_shape)
    if tuple(sizes[order]) != tuple(image.spatial_shape):
        return labels
    flips = turn.sum(axis=1) < 0
    expected = np.eye(4)
    expected[:3, :3] = turn
    expected[:3, 3] = np.where(flips, sizes[order] - 1, 0)
    corners = np.array([[*((sizes - 1) * np.array(c)), 1] for c in np.ndindex(2, 2, 2)])
    if np.abs(corners @ (way - expected).T).max() > _SAME_PLACE:
        return labels
    first = labels.axes.index("Z")
    axes = list(range(len(labels.axes)))
    axes[first : first + 3] = [first + k for k in order]
    flip = [slice(None)] * len(axes)
    flip[first : first + 3] = [slice(None, None, -1 if f else 1) for f in flips]
    turned = np.asarray(labels.data).transpose(axes)[tuple(flip)]
    return labels.replace(data=turned, affine=image.affine, spacing=image.spacing)


def geometry_differs(image: Image, labels: Image) -> bool:
    """Return whether both say where they lie and it differs by over a tenth of a voxel."""
    if image.affine is None or labels.affine is None or "Z" not in image.axes:
        return False
    last = np.array([n - 1 for n in image.spatial_shape])
    corners = np.array([[*(last * np.array(c)), 1] for c in np.ndindex(2, 2, 2)], np.float64)
    away = corners @ (image.affine - labels.affine).T
    smallest = float(np.linalg.norm(image.affine[:3, :3], axis=0).min())
    return bool(np.abs(away[:, :3]).max() > _SAME_PLACE * smallest)
