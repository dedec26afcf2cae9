"""Project folders: the training set that napari opens, too.

A folder holds pairs of an image and what is painted on it. Here they become a volume and a
segmentation with painted segments, and the other way round. Knows MRML and the project's
folder; no engine, no widget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import slicer

from UNetPPLib import Painted, Volumes

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.core.teach.project import Project


@dataclass(frozen=True, eq=False)
class OpenedPair:
    """A pair of a project in the scene.

    Attributes
    ----------
    volume, segmentation : vtkMRMLNode
        Image and painted segments.
    classes : mapping of str to str
        Segment id to class name, or "background".
    """

    volume: Any
    segmentation: Any
    classes: Mapping[str, str]


def save(
    folder: str | os.PathLike[str],
    volume: Any,
    segmentation: Any,
    classes: Mapping[str, str],
    model: str,
    split: Mapping[str, Any] | None = None,
) -> Project:
    """Put a pair into a project folder, which is made if it is not there.

    Parameters
    ----------
    folder : path
        Of the project.
    volume, segmentation : vtkMRMLNode
        Image and painted segments.
    classes : mapping of str to str
        Segment id to class name, or "background".
    model : str
        The base model.
    split : mapping, optional
        Of its strokes, from a fine-tuning.

    Returns
    -------
    Project
        With the pair in it; one that was there under its name is brought up to date.

    Raises
    ------
    UNetPPError
        If nothing is painted, or the folder cannot be written.
    """
    from napari_unetpp.core.config import ClassInfo
    from napari_unetpp.core.data.image import Image
    from napari_unetpp.core.errors import FileError
    from napari_unetpp.core.model.cards import read_card
    from napari_unetpp.core.teach.project import Project
    from napari_unetpp.core.tune.strokes import Split

    card = read_card(model)
    try:
        project = Project.open(folder)
    except FileError:
        project = Project.create(folder, base=model, classes=card.classes)
    known = list(project.classes) or list(card.classes)
    names = Painted.class_names(classes, [c.name for c in known])
    infos = known + [
        ClassInfo(name, _colour(segmentation, classes, name)) for name in names[len(known) :]
    ]
    labels, _ = Painted.labels_of(segmentation, volume, classes, names)
    read = Volumes.read(volume)
    image = Image.from_array(
        read.array, read.axes, read.spacing, unit="mm", affine=read.affine, name=volume.GetName()
    )
    project.set_classes(infos)
    name = Painted.pair_name(segmentation, volume)
    kept = Split.from_json(split) if split else None
    place = str(project.folder)
    mine = Painted.is_pair_of(segmentation, place)
    if mine and any(pair.name == name for pair in project.pairs()):
        project.update(name, labels, painted_axes="ZYX")
        if kept is not None:
            project.save_split(kept)
    else:
        pair = project.add(image, labels, painted_axes="ZYX", name=name, split=kept)
        Painted.set_pair(segmentation, pair.name, place)
    return project


def load(folder: str | os.PathLike[str]) -> tuple[Project, list[OpenedPair]]:
    """Open a project and bring its pairs into the scene.

    Returns
    -------
    Project
        Its base model and classes.
    list of OpenedPair
        A volume and a segmentation for each pair.

    Raises
    ------
    UNetPPError
        If it cannot be read, or an image has axes that a volume has not.
    """
    from napari_unetpp.core.teach.project import Project

    project = Project.open(folder)
    read = [(pair, pair.image(), pair.painted()) for pair in project.pairs()]
    for pair, image, _ in read:
        if image.axes not in ("ZYX", "YX"):
            raise Volumes.refusal(
                f"the image of {pair.name!r} has the axes {image.axes}, and a volume has Z, Y and "
                "X; open the project in napari, or take the pair out."
            )
    found = []
    for pair, image, painted in read:
        volume = _volume(image, pair.name)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{pair.name} painted")
        names = [c.name for c in project.classes]
        labels = _three(painted.data)
        most = int(labels.max(initial=0)) - 1
        names += [f"class {k}" for k in range(len(names) + 1, most + 1)]
        colours = [c.color for c in project.classes]
        colours += ["#3fb27f"] * (len(names) - len(colours))
        classes = Painted.add_segments(node, volume, labels, names, colours)
        Painted.set_pair(node, pair.name, str(project.folder))
        found.append(OpenedPair(volume, node, classes))
    return project, found


def _volume(image: Any, name: str) -> Any:
    """Add a volume of an image."""
    import numpy as np

    from napari_unetpp.core.data.geometry import DEFAULT_ORIENTATION, Grid
    from napari_unetpp.core.data.image import millimetres

    array = _three(image.data)
    if image.affine is not None:
        affine = np.array(image.affine)
    else:
        factor = millimetres(image.unit) or 1.0
        spacing = (1.0,) * 3 if image.spacing is None else image.spacing
        spacing = (1.0,) * (3 - len(spacing)) + tuple(s * factor for s in spacing)
        affine = Grid.from_spacing(array.shape, spacing, DEFAULT_ORIENTATION).affine
    if (array.dtype.kind in "iu" and array.dtype.itemsize == 8) or array.dtype == np.float16:
        array = array.astype(np.float32)  # Slicer does not show these
    return slicer.util.addVolumeFromArray(array, affine[:, [2, 1, 0, 3]], name)


def _three(data: Any) -> NDArray[np.generic]:
    import numpy as np

    array = np.ascontiguousarray(data[...])
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return array.reshape((1,) * (3 - array.ndim) + array.shape)


def _colour(segmentation: Any, classes: Mapping[str, str], name: str) -> str:
    """Return the colour of the segment that is a class, as #rrggbb."""
    for segment_id, found in classes.items():
        segment = segmentation.GetSegmentation().GetSegment(segment_id)
        if found == name and segment is not None:
            return "#" + "".join(f"{round(c * 255):02x}" for c in segment.GetColor())
    return "#3fb27f"
