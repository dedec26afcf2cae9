"""Which part of a volume: all of it, a region of interest, or the slab around a slice.

Regions are (start, stop) for Z, Y and X of the volume's array; None means everything. Knows
MRML and arrays; no engine, no window.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import vtk

from UNetPPLib.Volumes import VolumeImage, local_affine, matrix_array, refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Region = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def roi_region(volume: Any, image: VolumeImage, roi: Any) -> Region:
    """Return the voxels of a volume that a region of interest touches.

    Parameters
    ----------
    volume : vtkMRMLVolumeNode
        The volume.
    image : VolumeImage
        What was read of it.
    roi : vtkMRMLMarkupsROINode
        May be turned, and both may be under transforms.

    Raises
    ------
    InputError
        If there is no such region, or it lies beside the volume.
    """
    import numpy as np

    if roi is None:
        raise refusal("There is no region of interest: make one in the Markups module.")
    size = tuple(roi.GetSize())
    if not all(s > 0 for s in size):
        raise refusal(f"{roi.GetName()} has no size; place it in a slice view first.")
    to_world = matrix_array(roi.GetObjectToWorldMatrix())
    corners = np.array([(*(s * n / 2 for s, n in zip(signs, size, strict=True)), 1.0)
                        for signs in itertools.product((-1, 1), repeat=3)])  # fmt: skip
    points = to_indices(volume, (corners @ to_world.T)[:, :3])
    return _within(points.min(0), points.max(0), image, roi.GetName())


def slab_region(volume: Any, image: VolumeImage, slice_node: Any, thickness: float) -> Region:
    """Return the voxels of a volume within half a thickness of a slice.

    Parameters
    ----------
    volume : vtkMRMLVolumeNode
        The volume.
    image : VolumeImage
        What was read of it.
    slice_node : vtkMRMLSliceNode
        Of the slice view.
    thickness : float
        In mm. One voxel at least is taken.

    Raises
    ------
    InputError
        If the slice does not cut the volume.
    """
    import numpy as np

    if slice_node is None:
        raise refusal("There is no slice view: choose a layout that has one.")
    to_ras = matrix_array(slice_node.GetSliceToRAS())
    # The plane as seen in the volume's array: value @ (z, y, x) + offset is the distance in mm.
    ends = to_indices(volume, np.stack([to_ras[:3, 3], to_ras[:3, 3] + to_ras[:3, 2]]))
    normal = (to_ras[:3, 2] @ image.affine[:3, :3]).astype(float)
    distance = -float(normal @ ends[0])
    shape = np.asarray(image.shape)
    axis = int(np.abs(normal / np.asarray(image.spacing)).argmax())
    # Where the plane runs along this axis, at the corners of the two other axes.
    others = [k for k in range(3) if k != axis]
    cuts = [
        -(distance + sum(normal[k] * (shape[k] - 1) * c for k, c in zip(others, at, strict=True)))
        / normal[axis]
        for at in itertools.product((0, 1), repeat=2)
    ]
    half = max(thickness / 2 / abs(normal[axis]), 0.5) - 1e-6
    low, high = np.zeros(3), shape - 1.0
    low[axis], high[axis] = min(cuts) - half, max(cuts) + half
    region = _within(low, high, image, f"the {slice_node.GetName()} slice")
    return region


def to_indices(volume: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points in RAS, (N, 3), as array indices (z, y, x) of a volume, (N, 3)."""
    import numpy as np

    general = vtk.vtkGeneralTransform()
    parent = volume.GetParentTransformNode()
    if parent is not None:
        parent.GetTransformFromWorld(general)
    local = np.array([general.TransformPoint(*map(float, p)) for p in points])
    inverse = np.linalg.inv(local_affine(volume))
    indices: NDArray[np.float64] = local @ inverse[:3, :3].T + inverse[:3, 3]
    return indices


def to_ras(volume: Any, point: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return an array index (z, y, x) of a volume as a point in RAS."""
    import numpy as np

    affine = local_affine(volume)
    local = affine[:3, :3] @ np.asarray(point, float) + affine[:3, 3]
    general = vtk.vtkGeneralTransform()
    parent = volume.GetParentTransformNode()
    if parent is not None:
        parent.GetTransformToWorld(general)
    r, a, s = general.TransformPoint(*map(float, local))
    return r, a, s


def _within(low: Any, high: Any, image: VolumeImage, name: str) -> Region:
    """Return the voxels whose cells lie between two places, clipped to the volume."""
    import numpy as np

    # A voxel reaches half its size to each side; one that is only touched is left out.
    start = np.floor(np.asarray(low) + 0.5 + 1e-4).astype(int)
    stop = np.ceil(np.asarray(high) + 0.5 - 1e-4).astype(int)
    stop = np.maximum(stop, start + 1)
    spans = [
        (max(int(a), 0), min(int(b), n)) for a, b, n in zip(start, stop, image.shape, strict=True)
    ]
    if any(a >= b for a, b in spans):
        raise refusal(f"{name} lies outside of {image.name}; move it into the volume.")
    z, y, x = spans
    return z, y, x
