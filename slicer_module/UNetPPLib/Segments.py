"""Segments as arrays, and whose they are.

A segment of ours carries tags: model, class, level and what its voxels were when they were
written. One that the user has changed since, or is painting in, is the user's. Knows MRML and
arrays; no engine, no window.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import slicer

from UNetPPLib.Volumes import image_array, oriented_image, refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLASS, MODEL, PRINT = "UNetPP.class", "UNetPP.model", "UNetPP.fingerprint"


def problem_of(segmentation: Any, volume: Any) -> str:
    """Return why a segmentation cannot take a prediction of a volume; empty if it can."""
    if segmentation is None:
        return "There is no segmentation: choose one, or create one."
    if not segmentation.IsA("vtkMRMLSegmentationNode"):
        return f"{segmentation.GetName()} is no segmentation; choose or create one."
    inside = segmentation.GetSegmentation()
    if inside.GetNumberOfSegments() == 0:
        return ""
    if not inside.IsSourceRepresentationImageData():
        return (
            f"{segmentation.GetName()} is made of surfaces; make the binary labelmap its source "
            "in the Segmentations module, or choose another segmentation."
        )
    if segmentation.GetTransformNodeID() != volume.GetTransformNodeID():
        return (
            f"{segmentation.GetName()} and {volume.GetName()} are under different transforms, and "
            "the segments would lie beside the image; put both under the same one in the Data "
            "module, or choose a new segmentation."
        )
    return ""


def make_ready(segmentation: Any, volume: Any) -> None:
    """Give a segmentation display nodes and, while it is empty, the volume's grid and place."""
    segmentation.CreateDefaultDisplayNodes()
    if segmentation.GetSegmentation().GetNumberOfSegments() == 0:
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segmentation.SetAndObserveTransformNodeID(volume.GetTransformNodeID())


def colour_of(info: Any) -> tuple[float, float, float]:
    """Return the colour of a class as VTK has colours, 0 to 1."""
    digits = info.color.lstrip("#")
    red, green, blue = (int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4))
    return red, green, blue


def ids_of(segmentation: Any) -> list[str]:
    """Return the ids of all segments, in order."""
    inside = segmentation.GetSegmentation()
    return [inside.GetNthSegmentID(n) for n in range(inside.GetNumberOfSegments())]


def tag_of(segmentation: Any, segment_id: str, key: str) -> str:
    """Return a tag of a segment; empty if it has none."""
    import vtk

    # The type of the argument that takes the answer differs between versions of VTK.
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None or not segment.HasTag(key):
        return ""
    text = vtk.reference("")
    segment.GetTag(key, text)
    return str(text.get())


def is_prediction(segmentation: Any, segment_id: str) -> bool:
    """Return whether a segment is a prediction that nobody has changed since."""
    written = tag_of(segmentation, segment_id, PRINT)
    return bool(written) and written == fingerprint(segmentation, segment_id)


def being_painted(segmentation: Any, segment_id: str) -> bool:
    """Return whether a segment is chosen in a segment editor with an effect at work."""
    scene = segmentation.GetScene()
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode")):
        editor = scene.GetNthNodeByClass(n, "vtkMRMLSegmentEditorNode")
        if (
            editor.GetSegmentationNode() is segmentation
            and editor.GetSelectedSegmentID() == segment_id
            and editor.GetActiveEffectName() not in (None, "", "None")
        ):
            return True
    return False


def segment_array(segmentation: Any, segment_id: str, volume: Any) -> NDArray[np.bool_]:
    """Return a segment on the grid of a volume that is under the same transform.

    Returns
    -------
    ndarray of bool, (Z, Y, X)
        A copy. A segment on another grid is resampled, nearest voxel.
    """
    import numpy as np

    shape = image_array(volume.GetImageData()).shape[:3]
    found = np.zeros(shape, bool)
    image = slicer.vtkOrientedImageData()
    if not segmentation.GetBinaryLabelmapRepresentation(segment_id, image) or image.IsEmpty():
        return found
    reference = _grid(volume)
    resample = slicer.vtkOrientedImageDataResample
    if not resample.DoGeometriesMatchIgnoreOrigin(image, reference) or not _aligned(
        image, reference
    ):
        moved = slicer.vtkOrientedImageData()
        reference.SetExtent(0, shape[2] - 1, 0, shape[1] - 1, 0, shape[0] - 1)
        if not resample.ResampleOrientedImageToReferenceOrientedImage(
            image, reference, moved, False, False
        ):
            raise refusal(f"segment {segment_id} cannot be brought onto {volume.GetName()}'s grid.")
        image = moved
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    voxels = image_array(image) > 0
    z, y, x = (
        (max(a, 0), min(b + 1, n))
        for (a, b), n in zip(((k0, k1), (j0, j1), (i0, i1)), shape, strict=True)
    )
    if z[0] < z[1] and y[0] < y[1] and x[0] < x[1]:
        found[z[0] : z[1], y[0] : y[1], x[0] : x[1]] = voxels[
            z[0] - k0 : z[1] - k0, y[0] - j0 : y[1] - j0, x[0] - i0 : x[1] - i0
        ]
    return found


def add_segment(
    segmentation: Any, volume: Any, name: str, colour: str, mask: NDArray[np.bool_]
) -> str:
    """Add a segment that is not a prediction; return its id."""
    from napari_unetpp.core.config import ClassInfo

    inside = segmentation.GetSegmentation()
    found = str(inside.AddEmptySegment("", name))
    inside.GetSegment(found).SetColor(*colour_of(ClassInfo(name, colour)))
    put(segmentation, found, volume, mask)
    return found


def put(
    segmentation: Any,
    segment_id: str,
    volume: Any,
    mask: NDArray[np.bool_],
    start: tuple[int, ...] = (0, 0, 0),
) -> None:
    """Replace the voxels of one segment, whoever else lies in its layer."""
    import numpy as np

    spans = bounding_box(mask)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if spans is None:
        image = oriented_image(volume, np.zeros((1, 1, 1), np.uint8))
    else:
        z, y, x = (span.start + first for span, first in zip(spans, start, strict=True))
        image = oriented_image(volume, mask[spans], (z, y, x))
    if not logic.SetBinaryLabelmapToSegment(image, segmentation, segment_id, logic.MODE_REPLACE):
        raise refusal(f"Slicer refused the voxels of segment {segment_id}; see its error log.")


def fingerprint(segmentation: Any, segment_id: str) -> str:
    """Return a short text that changes with a segment's voxels, not with the memory around."""
    import numpy as np

    image = slicer.vtkOrientedImageData()
    if not segmentation.GetBinaryLabelmapRepresentation(segment_id, image) or image.IsEmpty():
        return "0"
    voxels = image_array(image) > 0
    spans = bounding_box(voxels)
    if spans is None:
        return "0"
    crop = voxels[spans]
    total = zlib.crc32(np.packbits(crop).tobytes())
    return f"{int(crop.sum())}-{'x'.join(map(str, crop.shape))}-{total:08x}"


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """Return the smallest block that holds all of a mask, None for an empty one."""
    import numpy as np

    spans = []
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        there = np.flatnonzero(mask.any(axis=others))
        if len(there) == 0:
            return None
        spans.append(slice(int(there[0]), int(there[-1]) + 1))
    z, y, x = spans
    return z, y, x


def _grid(volume: Any) -> Any:
    """Return an image of the volume's geometry; without voxels, for it is only compared."""
    import vtk

    reference = slicer.vtkOrientedImageData()
    reference.SetExtent(volume.GetImageData().GetExtent())
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    reference.SetImageToWorldMatrix(matrix)
    return reference


def _aligned(image: Any, reference: Any) -> bool:
    """Return whether two images of equal axes have the very same origin, too."""
    import numpy as np

    return bool(np.allclose(image.GetOrigin(), reference.GetOrigin(), atol=1e-4))
