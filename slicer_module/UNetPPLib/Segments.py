"""Predictions as segments: one class a segment, and nobody else's voxels touched.

A segment of ours carries tags: model, class, level and what its voxels were when they were
written. One that the user has changed since, or is painting in, is the user's, and the next
prediction goes beside it. Knows MRML and arrays; no engine, no window.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import slicer

from UNetPPLib import Terminology
from UNetPPLib.Volumes import image_array, oriented_image, refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.core.config import ModelCard
    from UNetPPLib.Regions import Region

CLASS, MODEL, PRINT = "UNetPP.class", "UNetPP.model", "UNetPP.fingerprint"
_SURFACE = "Closed surface"


@dataclass(frozen=True)
class Written:
    """What a prediction changed.

    Attributes
    ----------
    segments : mapping of str to str
        Class name to segment id.
    voxels : mapping of str to int
        Class name to voxels of the segment.
    notes : tuple of str
        Sentences that the user should read.
    """

    segments: Mapping[str, str]
    voxels: Mapping[str, int]
    notes: tuple[str, ...] = ()


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


def write(
    segmentation: Any,
    volume: Any,
    labels: NDArray[Any],
    card: ModelCard,
    *,
    region: Region | None = None,
    protect: bool = True,
    tags: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Written:
    """Write labels into a segmentation, one segment a class.

    Parameters
    ----------
    segmentation : vtkMRMLSegmentationNode
        Gets the segments.
    volume : vtkMRMLVolumeNode
        Whose grid the labels are on.
    labels : ndarray of int, (Z, Y, X)
        Of the whole volume: 0 background, k the card's k-th class.
    card : ModelCard
        Names, colours and the model's name.
    region : tuple of (int, int), optional
        What was predicted; segments of ours stay as they are outside of it.
    protect : bool
        Voxels of other segments stay theirs alone. Otherwise the prediction takes them away,
        but from a segment that is being painted.
    tags : mapping of str to str, optional
        Provenance, kept with each segment.
    before : callable, optional
        Called once before the first change, for an undo step.

    Returns
    -------
    Written
        What it became.

    Raises
    ------
    InputError
        If the segmentation cannot take it.
    """
    import numpy as np

    problem = problem_of(segmentation, volume)
    if problem:
        raise refusal(problem)
    inside = segmentation.GetSegmentation()
    if before is not None:
        before()
    make_ready(segmentation, volume)
    spot = tuple(slice(*span) for span in region) if region else (slice(None),) * 3
    names = [c.name for c in card.classes]
    targets = {name: _target(segmentation, name) for name in names}
    ours = {i for i in targets.values() if i}
    others = [i for i in ids_of(segmentation) if i not in ours]
    notes: list[str] = []
    part = np.asarray(labels[spot])
    if protect:
        held = _union(segmentation, others, volume)
        if held is not None:
            taken = (part > 0) & held[spot]
            if taken.any():
                part = np.where(taken, 0, part)
                notes.append(
                    f"{int(taken.sum())} voxels belong to other segments and were left to them"
                )
    segments: dict[str, str] = {}
    voxels: dict[str, int] = {}
    with _surfaces_kept(segmentation):
        for value, info in enumerate(card.classes, start=1):
            mask = part == value
            if region is not None:
                old = targets[info.name]
                whole = (
                    segment_array(segmentation, old, volume)
                    if old
                    else np.zeros(labels.shape, bool)
                )
                whole[spot] = mask
                mask = whole
            found = targets[info.name] or _new_segment(segmentation, info, notes)
            _put(segmentation, found, volume, mask)
            for key, text in {CLASS: info.name, MODEL: card.name, **(tags or {})}.items():
                inside.GetSegment(found).SetTag(key, text)
            segments[info.name], voxels[info.name] = found, int(np.count_nonzero(mask))
        if not protect:
            notes += _take_away(segmentation, volume, part > 0, spot, others)
        for found in segments.values():
            inside.GetSegment(found).SetTag(PRINT, fingerprint(segmentation, found))
    return Written(segments, voxels, tuple(notes))


def put_labels(
    segmentation: Any, volume: Any, labels: NDArray[Any], start: tuple[int, ...], card: ModelCard
) -> None:
    """Show a block of labels in a segmentation that holds nothing else.

    Parameters
    ----------
    segmentation : vtkMRMLSegmentationNode
        Its segments' ids are the class names.
    volume : vtkMRMLVolumeNode
        Whose grid the block lies on.
    labels : ndarray of int, (Z, Y, X)
        0 background, k the card's k-th class.
    start : tuple of int
        Where the block begins in the volume, (Z, Y, X).
    card : ModelCard
        Names and colours.
    """
    inside = segmentation.GetSegmentation()
    names = [c.name for c in card.classes]
    modified = segmentation.StartModify()
    try:
        for found in ids_of(segmentation):
            if found not in names:
                inside.RemoveSegment(found)
        for value, info in enumerate(card.classes, start=1):
            if inside.GetSegment(info.name) is None:
                inside.AddEmptySegment(info.name, info.name)
                inside.GetSegment(info.name).SetColor(*colour_of(info))
            _put(segmentation, info.name, volume, labels == value, start)
    finally:
        segmentation.EndModify(modified)


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


def add_segment(
    segmentation: Any, volume: Any, name: str, colour: str, mask: NDArray[np.bool_]
) -> str:
    """Add a segment that is not a prediction; return its id."""
    from napari_unetpp.core.config import ClassInfo

    inside = segmentation.GetSegmentation()
    found = str(inside.AddEmptySegment("", name))
    inside.GetSegment(found).SetColor(*colour_of(ClassInfo(name, colour)))
    _put(segmentation, found, volume, mask)
    return found


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


def _target(segmentation: Any, name: str) -> str:
    """Return the segment of ours that holds a class and may be written; empty if there is none."""
    for found in ids_of(segmentation):
        if tag_of(segmentation, found, CLASS) != name or being_painted(segmentation, found):
            continue
        if tag_of(segmentation, found, PRINT) == fingerprint(segmentation, found):
            return found
    return ""


def _new_segment(segmentation: Any, info: Any, notes: list[str]) -> str:
    """Add a segment for a class, under its name unless the user has one of that name."""
    inside = segmentation.GetSegmentation()
    taken = {inside.GetSegment(i).GetName() for i in ids_of(segmentation)}
    name, number = info.name, 2
    while name in taken:
        name, number = f"{info.name} ({number})", number + 1
    if name != info.name:
        notes.append(f"segment {info.name} is yours, so the prediction went into {name}")
    found = inside.AddEmptySegment("", name)
    segment = inside.GetSegment(found)
    segment.SetColor(*colour_of(info))
    segment.SetTag(segment.GetTerminologyEntryTagName(), Terminology.entry(info.name))
    return str(found)


def _put(
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


def _union(segmentation: Any, ids: Sequence[str], volume: Any) -> NDArray[np.bool_] | None:
    """Return where any of the segments lies; None if there are none."""
    union: NDArray[np.bool_] | None = None
    for found in ids:
        voxels = segment_array(segmentation, found, volume)
        union = voxels if union is None else union | voxels
    return union


def _take_away(
    segmentation: Any,
    volume: Any,
    predicted: NDArray[np.bool_],
    spot: tuple[slice, ...],
    others: Sequence[str],
) -> list[str]:
    """Take predicted voxels from other segments; return notes."""
    notes = []
    inside = segmentation.GetSegmentation()
    for found in others:
        voxels = segment_array(segmentation, found, volume)
        if not (voxels[spot] & predicted).any():
            continue
        if being_painted(segmentation, found):
            notes.append(
                f"{inside.GetSegment(found).GetName()} is being painted and was left alone"
            )
            continue
        voxels[spot] &= ~predicted
        _put(segmentation, found, volume, voxels)
    return notes


@contextmanager
def _surfaces_kept(segmentation: Any) -> Iterator[None]:
    """Change segments as one change, and make the 3D surface again if it was there."""
    inside = segmentation.GetSegmentation()
    shown = inside.ContainsRepresentation(_SURFACE)
    modified = segmentation.StartModify()
    try:
        yield
    finally:
        segmentation.EndModify(modified)
        if shown:
            segmentation.CreateClosedSurfaceRepresentation()


class History:
    """Undo for what is written into segmentations, a step for each prediction.

    The steps are also told to the application's Segment Editor where it shows the same
    segmentation, so that its own Undo button takes them back.
    """

    def __init__(self) -> None:
        self._histories: dict[str, Any] = {}

    def save(self, segmentation: Any) -> None:
        """Keep the segments as they are now."""
        history = self._histories.get(segmentation.GetID())
        if history is None:
            history = slicer.vtkSegmentationHistory()
            history.SetSegmentation(segmentation.GetSegmentation())
            self._histories[segmentation.GetID()] = history
        history.SaveState()
        editor = _application_editor()
        if editor is not None and editor.segmentationNode() is segmentation:
            editor.saveStateForUndo()

    def can_undo(self, segmentation: Any) -> bool:
        """Return whether there is a step to take back."""
        history = None if segmentation is None else self._histories.get(segmentation.GetID())
        return history is not None and bool(history.IsRestorePreviousStateAvailable())

    def undo(self, segmentation: Any) -> bool:
        """Take the last step back; return whether there was one."""
        if not self.can_undo(segmentation):
            return False
        with _surfaces_kept(segmentation):
            return bool(self._histories[segmentation.GetID()].RestorePreviousState())

    def forget(self) -> None:
        """Drop all steps: their scene is gone."""
        for history in self._histories.values():
            history.RemoveAllStates()
            history.SetSegmentation(None)
        self._histories.clear()


def _application_editor() -> Any:
    """Return the widget of the Segment Editor module, None outside of the application."""
    module: Any = getattr(getattr(slicer, "modules", None), "segmenteditor", None)
    try:
        editor = module.widgetRepresentation().self().editor
    except AttributeError:
        return None
    return editor if hasattr(editor, "saveStateForUndo") else None
