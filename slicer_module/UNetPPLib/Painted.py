"""Painted segments as painted labels, and back: 0 unlabelled, 1 background, 2 and more classes.

Which segment is which class is kept by segment id, never by name or order; the background is
a class like others. Knows MRML and arrays; no engine, no widget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from UNetPPLib import Segments
from UNetPPLib.Parameters import BACKGROUND
from UNetPPLib.Volumes import image_array, refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PAIR = "UNetPP.pair"
_PROJECT = "UNetPP.project"


def problem_of(segmentation: Any, volume: Any) -> str:
    """Return why a segmentation is no paint on a volume, in one sentence; empty if it is."""
    if segmentation is None:
        return (
            "There is nothing painted: make a segmentation in the Segment Editor, a segment for "
            "each class and one for the background, and paint a few strokes."
        )
    if not segmentation.IsA("vtkMRMLSegmentationNode"):
        return f"{segmentation.GetName()} is no segmentation; choose the one you painted in."
    if segmentation.GetTransformNodeID() != volume.GetTransformNodeID():
        return (
            f"{segmentation.GetName()} and {volume.GetName()} are under different transforms, so "
            "the strokes lie beside the image; put both under the same one in the Data module."
        )
    return ""


def default_classes(segmentation: Any, known: Sequence[str]) -> dict[str, str]:
    """Return a first guess of which segment is which class, by segment id.

    A segment that is named as a class (or "background") is that class; predictions are left
    out; any other one is a class of its own.
    """
    names = {n.casefold(): n for n in (BACKGROUND, *known)}
    found = {}
    for segment_id in Segments.ids_of(segmentation):
        if Segments.is_prediction(segmentation, segment_id):
            continue
        name = segmentation.GetSegmentation().GetSegment(segment_id).GetName().strip()
        found[segment_id] = names.get(name.casefold(), name or segment_id)
    return found


def class_names(classes: Mapping[str, str], known: Sequence[str]) -> tuple[str, ...]:
    """Return all classes, the model's first and then new ones in the order they come."""
    new = [n for n in classes.values() if n != BACKGROUND and n not in known]
    return (*known, *dict.fromkeys(new))


def labels_of(
    segmentation: Any, volume: Any, classes: Mapping[str, str], names: Sequence[str]
) -> tuple[NDArray[np.uint8], list[str]]:
    """Return painted labels on a volume's grid.

    Parameters
    ----------
    segmentation : vtkMRMLSegmentationNode
        With painted segments.
    volume : vtkMRMLVolumeNode
        Whose grid is taken.
    classes : mapping of str to str
        Segment id to class name, or "background"; what is not in it counts as unlabelled.
    names : sequence of str
        Classes in the order of their labels 2, 3, ...

    Returns
    -------
    ndarray of uint8, (Z, Y, X)
        0 unlabelled, 1 background, 2 and more the classes.
    list of str
        Sentences for the user.

    Raises
    ------
    InputError
        If the segments are not where the volume is, or nothing is painted.
    """
    import numpy as np

    problem = problem_of(segmentation, volume)
    if problem:
        raise refusal(problem)
    labels = np.zeros(image_array(volume.GetImageData()).shape[:3], np.uint8)
    twice = np.zeros(labels.shape, bool)
    values = {BACKGROUND: 1} | {name: k for k, name in enumerate(names, start=2)}
    there = set(Segments.ids_of(segmentation))
    for segment_id, name in classes.items():
        if segment_id not in there or name not in values:
            continue
        painted = Segments.segment_array(segmentation, segment_id, volume)
        twice |= painted & (labels > 0) & (labels != values[name])
        labels[painted] = values[name]
    labels[twice] = 0
    notes = []
    if twice.any():
        notes.append(
            f"{int(twice.sum())} voxels are painted as two classes and were left out; erase one "
            "of them"
        )
    if not labels.any():
        raise refusal(
            f"nothing is painted in {segmentation.GetName()}: paint a few strokes of each class "
            "and of the background, and say in the table which segment is which."
        )
    return labels, notes


def add_segments(
    segmentation: Any,
    volume: Any,
    labels: NDArray[Any],
    names: Sequence[str],
    colours: Sequence[str],
) -> dict[str, str]:
    """Make painted segments of painted labels; return which segment is which class."""
    Segments.make_ready(segmentation, volume)
    found = {}
    for value, name in enumerate((BACKGROUND, *names), start=1):
        mask = labels == value
        if not mask.any():
            continue
        colour = "#808080" if value == 1 else colours[value - 2]
        found[Segments.add_segment(segmentation, volume, name, colour, mask)] = name
    return found


def pair_name(segmentation: Any, volume: Any) -> str:
    """Return the name by which the split of the strokes is kept; renaming changes nothing."""
    name = segmentation.GetAttribute(_PAIR)
    if not name:
        name = f"{volume.GetName()} {segmentation.GetName()} {segmentation.GetID()}"
        segmentation.SetAttribute(_PAIR, name)
    return str(name)


def set_pair(segmentation: Any, name: str, project: str) -> None:
    """Keep which pair of which project a segmentation is."""
    segmentation.SetAttribute(_PAIR, name)
    segmentation.SetAttribute(_PROJECT, project)


def is_pair_of(segmentation: Any, project: str) -> bool:
    """Return whether a segmentation is a pair of a project; a name alone may be another's."""
    return bool(segmentation.GetAttribute(_PROJECT) == project)
