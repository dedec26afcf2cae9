"""Images with exact ground truth, made by code: nuclei, a time series, a head-and-neck CT.

Labels come from the same analytic shapes as the intensities, so they are exact to the pixel.
Everything follows from a seed. Photon counts are rounded before the noise is drawn, so that
the last bit of a float, which differs between processors, cannot change the noise. This module
knows numpy and scipy, no torch, no file and no viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.data.phantom_ct import CT_CLASSES, head_and_neck
from napari_unetpp.core.data.phantom_nuclei import (
    acquire,
    divide,
    fluorescence,
    move,
    place_cells,
    render,
)
from napari_unetpp.core.errors import InputError

__all__ = [
    "CT_CLASSES",
    "Phantom",
    "ct_phantom",
    "nuclei_2d",
    "nuclei_3d",
    "nuclei_timelapse",
    "painted_strokes",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Phantom:
    """An image, its exact labels, and where it lies in space.

    Attributes
    ----------
    image : ndarray
        Intensities, axes as in `axes`; uint16 counts or int16 HU.
    labels : ndarray of uint8 or uint16
        Same shape. Instance labels from 1 for nuclei, class values for the CT; 0 elsewhere.
    axes : str
        Letters of ``TZYX``, one for each axis.
    spacing : tuple of float
        Size of a pixel or voxel along the spatial axes, in ZYX order.
    unit : str
        Unit of `spacing`: ``"µm"`` or ``"mm"``.
    affine : ndarray of float64 or None
        4 by 4, array index (z, y, x, 1) to RAS in mm; None where there is no patient.
    name : str
        A short name, fit for a file.
    """

    image: NDArray[Any]
    labels: NDArray[Any]
    axes: str
    spacing: tuple[float, ...]
    unit: str
    affine: Floats | None
    name: str


def _positive(**sizes: tuple[float, ...]) -> None:
    for name, values in sizes.items():
        if not values or not all(v > 0 for v in values):
            raise InputError(f"{name} must be positive numbers, got {values}; correct them.")


def nuclei_2d(
    shape: tuple[int, int] = (384, 512),
    *,
    count: int = 70,
    spacing: tuple[float, float] = (0.35, 0.35),
    seed: int = 0,
) -> Phantom:
    """Make a fluorescence image of nuclei, many of them touching.

    Parameters
    ----------
    shape : tuple of int
        Height and width in pixels.
    count : int
        Nuclei to place; fewer if there is no room for them.
    spacing : tuple of float
        Pixel size (Y, X) in µm; nuclei are about 9 µm across.
    seed : int
        Same seed, same image.

    Returns
    -------
    Phantom
        ``YX``, uint16 image, uint16 instance labels.

    Raises
    ------
    InputError
        If a size is not positive.
    """
    _positive(shape=shape, spacing=spacing, count=(count,))
    rng = np.random.default_rng([seed, 2])
    extent = np.multiply(shape, spacing)
    cells = place_cells(rng, extent, count, radius=4.6)
    labels, clean = render(cells, shape, spacing)
    light = fluorescence(rng, clean, spacing)
    image = acquire(rng, light, spacing, psf=(0.3, 0.3), photons=190.0)
    return Phantom(image, labels, "YX", tuple(spacing), "µm", None, "nuclei_2d")


def nuclei_3d(
    shape: tuple[int, int, int] = (28, 128, 128),
    *,
    count: int = 55,
    spacing: tuple[float, float, float] = (2.0, 0.5, 0.5),
    seed: int = 0,
) -> Phantom:
    """Make an anisotropic stack of nuclei, blurred more along Z, dimmer with depth.

    Parameters
    ----------
    shape : tuple of int
        Planes, height and width in voxels.
    count : int
        Nuclei to place; fewer if there is no room for them.
    spacing : tuple of float
        Voxel size (Z, Y, X) in µm; nuclei are about 10 µm across.
    seed : int
        Same seed, same stack.

    Returns
    -------
    Phantom
        ``ZYX``, uint16 image, uint16 instance labels.

    Raises
    ------
    InputError
        If a size is not positive.
    """
    _positive(shape=shape, spacing=spacing, count=(count,))
    rng = np.random.default_rng([seed, 3])
    extent = np.multiply(shape, spacing)
    cells = place_cells(rng, extent, count, radius=5.2)
    labels, clean = render(cells, shape, spacing)
    light = fluorescence(rng, clean, spacing)
    light *= np.exp(-0.5 * np.linspace(0, 1, shape[0]))[:, None, None]  # (Z, 1, 1)
    image = acquire(rng, light, spacing, psf=(1.6, 0.4, 0.4), photons=140.0)
    return Phantom(image, labels, "ZYX", tuple(spacing), "µm", None, "nuclei_3d")


def nuclei_timelapse(
    frames: int = 10,
    shape: tuple[int, int] = (160, 160),
    *,
    count: int = 16,
    spacing: tuple[float, float] = (0.5, 0.5),
    seed: int = 0,
) -> Phantom:
    """Make a time series: nuclei wander, two of them divide, the dye bleaches.

    Parameters
    ----------
    frames : int
        Number of time points.
    shape : tuple of int
        Height and width in pixels.
    count : int
        Nuclei of the first frame.
    spacing : tuple of float
        Pixel size (Y, X) in µm.
    seed : int
        Same seed, same series.

    Returns
    -------
    Phantom
        ``TYX``, uint16 image, uint16 labels. A nucleus keeps its label over time; the two
        daughters of a division get new ones.

    Raises
    ------
    InputError
        If a size is not positive.
    """
    _positive(shape=shape, spacing=spacing, count=(count,), frames=(frames,))
    rng = np.random.default_rng([seed, 4])
    extent = np.multiply(shape, spacing)
    cells = place_cells(rng, extent, count, radius=5.0)
    image = np.empty((frames, *shape), np.uint16)
    labels = np.empty((frames, *shape), np.uint16)
    divisions = {frames // 3, (2 * frames) // 3} - {0}
    for frame in range(frames):
        if frame in divisions:
            cells = divide(rng, cells, extent)
        labels[frame], clean = render(cells, shape, spacing)
        # Lamp and background stay as they are from frame to frame.
        light = fluorescence(np.random.default_rng([seed, 5]), clean, spacing)
        light *= np.exp(-0.06 * frame)
        image[frame] = acquire(rng, light, spacing, psf=(0.4, 0.4), photons=160.0)
        cells = move(rng, cells, extent)
    return Phantom(image, labels, "TYX", tuple(spacing), "µm", None, "nuclei_timelapse")


def ct_phantom(
    shape: tuple[int, int, int] = (92, 104, 104),
    *,
    spacing: tuple[float, float, float] = (3.0, 2.5, 2.5),
    seed: int = 0,
) -> Phantom:
    """Make a head-and-neck CT with seven labelled organs.

    Parameters
    ----------
    shape : tuple of int
        Voxels along Z, Y and X. The patient fills about 276 by 260 by 260 mm.
    spacing : tuple of float
        Voxel size (Z, Y, X) in mm.
    seed : int
        Same seed, same noise, texture and patient.

    Returns
    -------
    Phantom
        ``ZYX``, int16 HU, uint8 labels with the values of :data:`CT_CLASSES` from 1. The array
        axes run to superior, posterior and left, which `affine` says in RAS.

    Raises
    ------
    InputError
        If a size is not positive.
    """
    _positive(shape=shape, spacing=spacing)
    rng = np.random.default_rng([seed, 6])
    # Index to RAS: z up, y to the back (so -A), x to the left (so -R); origin in the middle.
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing[0], -spacing[1], -spacing[2]
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    affine[3, 3] = 1.0
    hu, labels = head_and_neck(shape, spacing, seed)
    blurred = ndimage.gaussian_filter(hu, [0.9 / s for s in spacing], mode="nearest")
    grain = ndimage.gaussian_filter(rng.standard_normal(shape), (0.3, 0.6, 0.6))
    # Shoulders take the most X-rays: the noise grows to the feet.
    sigma = np.linspace(26.0, 12.0, shape[0])[:, None, None]  # (Z, 1, 1)
    noisy = blurred + sigma * grain / max(float(grain.std()), 1e-9)
    image = np.clip(np.rint(noisy), -1024, 3071).astype(np.int16)
    return Phantom(image, labels, "ZYX", tuple(spacing), "mm", affine, "ct_head_neck")


def painted_strokes(
    labels: NDArray[Any],
    seed: int = 0,
    *,
    instances: bool = True,
    strokes: int = 5,
    length: int = 28,
) -> NDArray[np.uint8]:
    """Paint as a person would: a few thin strokes on each class, true wherever they are.

    Parameters
    ----------
    labels : ndarray of int
        ``YX`` or ``ZYX`` labels, 0 = background.
    seed : int
        Same seed, same strokes.
    instances : bool
        True: all objects are one class. False: each value is a class.
    strokes : int
        Strokes for each class and for the background.
    length : int
        Longest stroke in pixels.

    Returns
    -------
    ndarray of uint8
        Same shape: 0 unlabelled, 1 background, 2, 3, ... the classes in order.

    Raises
    ------
    InputError
        If `labels` is not 2D or 3D, not integer, or has a value above 253.
    """
    if labels.ndim not in (2, 3) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"strokes need YX or ZYX integer labels, got {labels.ndim} axes of {labels.dtype}; "
            "pass one time point or channel."
        )
    classes = (labels > 0).astype(np.int64) if instances else labels.astype(np.int64)
    if classes.size and (classes.max() > 253 or classes.min() < 0):
        raise InputError(
            f"strokes hold classes 0 to 253, got {classes.min()} to {classes.max()}; "
            "for instance labels pass instances=True."
        )
    rng = np.random.default_rng([seed, 7])
    stack = classes.reshape((-1, *classes.shape[-2:]))  # (Z, Y, X)
    paint = np.zeros(stack.shape, np.uint8)
    for value in np.unique(classes):
        planes = np.flatnonzero((stack == value).any(axis=(1, 2)))
        for _ in range(strokes):
            plane = int(rng.choice(planes))
            region = stack[plane] == value
            paint[plane][_stroke(rng, region, length)] = value + 1
    return paint.reshape(labels.shape)


def _stroke(rng: np.random.Generator, region: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Return a mask (Y, X): a wandering line three pixels thick that stays in `region`."""
    inside = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    starts = np.argwhere(inside >= min(2.0, float(inside.max())))
    point = starts[rng.integers(len(starts))].astype(np.float64)
    heading = rng.uniform(0, 2 * np.pi)
    line = np.zeros(region.shape, bool)
    for _ in range(length):
        y, x = np.rint(point).astype(int)
        if not (0 <= y < region.shape[0] and 0 <= x < region.shape[1] and region[y, x]):
            break
        line[y, x] = True
        heading += rng.normal(0, 0.25)
        point += (np.sin(heading), np.cos(heading))
    thick: NDArray[np.bool_] = ndimage.binary_dilation(line) & region
    return thick
