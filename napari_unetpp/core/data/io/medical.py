"""What NIfTI, NRRD and DICOM have in common: affines by axis order, and optional packages.

These formats count voxels (x, y, z); the package counts (z, y, x). World coordinates are
RAS in mm. This module must not know any of the formats.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.errors import MissingPackageError

Affine = NDArray[np.float64]
_SWAP = (2, 1, 0, 3)


def optional(package: str, what: str, extra: str = "medical") -> ModuleType:
    """Import an optional package.

    Raises
    ------
    MissingPackageError
        If it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"{what} needs the package {package}, which is not installed; run "
            f'pip install "napari-unetpp[{extra}]".'
        ) from error


def swap_affine(affine: NDArray[np.floating]) -> Affine:
    """Turn an affine of index (x, y, z) into one of (z, y, x), or back; exact."""
    return np.asarray(affine, dtype=np.float64)[:, _SWAP]


def affine_spacing(affine: Affine, axes: str) -> tuple[float, ...]:
    """Return the voxel size along the last ``len(axes)`` array axes, in the affine's unit."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # Twelve digits, because the norm of a rotated column is seldom the round number meant.
    return tuple(float(f"{v:.12g}") for v in lengths[3 - len(axes) :])
