"""Predictions as segments: one class a segment, and nobody else's voxels touched.

A segment that the user has changed or is painting in stays as it is, and the next prediction
goes beside it. Knows MRML and arrays; no engine, no window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from UNetPPLib import Terminology
from UNetPPLib.History import surfaces_kept
from UNetPPLib.Segments import (
    CLASS,
    MODEL,
    PRINT,
    being_painted,
    colour_of,
    fingerprint,
    ids_of,
    make_ready,
    problem_of,
    put,
    segment_array,
    tag_of,
)
from UNetPPLib.Volumes import refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.core.config import ModelCard
    from UNetPPLib.Regions import Region


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
    with surfaces_kept(segmentation):
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
            put(segmentation, found, volume, mask)
            for key, text in {
                CLASS: info.name,
                MODEL: card.name,
                **(tags or {}),
            }.items():
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
            put(segmentation, info.name, volume, labels == value, start)
    finally:
        segmentation.EndModify(modified)


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
        put(segmentation, found, volume, voxels)
    return notes
