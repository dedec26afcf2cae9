"""Pairs of a project as they were read from their files, and what is made of them.

For a fine-tuning, which needs no layer, and for the viewer. Knows images and the engine's
data; no widget and no layer but its file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.teach.project import Project
from napari_unetpp.engine.protocol import LayerSource, PaintedSource


@dataclass(frozen=True, eq=False)
class Member:
    """A pair of the project as it was read: its image and paint, or why there is none."""

    name: str
    image: Image | None
    painted: Image | None
    channel: int | None
    problem: str = ""

    def source(self) -> PaintedSource | None:
        """Return the pair as the engine wants it; None if it cannot be used."""
        if self.image is None or self.painted is None:
            return None
        return PaintedSource(self.name, _source(self.image), _source(self.painted), self.channel)


Read = tuple[Project, list[Member], dict[str, Any] | None]
"""A project, its pairs, and which of their strokes are held out."""


def read_members(project: Project) -> Read:
    """Read the heads of a project's files; one that is missing says so."""
    members = []
    for pair in project.pairs():
        try:
            members.append(Member(pair.name, pair.image(), pair.painted(), pair.channel))
        except UNetPPError as error:
            members.append(Member(pair.name, None, None, pair.channel, str(error)))
    split = project.split()
    return project, members, split.to_json() if split.shapes else None


def _source(image: Image) -> LayerSource:
    return LayerSource(
        image.data, image.axes, image.spacing, image.unit, image.affine, image.name or "image"
    )


def file_of(layer: Any) -> Path | None:
    """Return the file that a layer came from, if it is on this computer and there."""
    path = getattr(layer.source, "path", None)
    return Path(path) if path and "://" not in str(path) and os.path.exists(path) else None


def count_of(members: list[Member]) -> str:
    """Return in words how many images there are, and how many of them are missing."""
    missing = sum(m.image is None for m in members)
    words = "1 image" if len(members) == 1 else f"{len(members)} images"
    return f"{words}, {missing} of them missing" if missing else words


def looks_of(image: Image, name: str) -> dict[str, Any]:
    """Return napari's keyword arguments for an image that was read from a file."""
    letters = image.axes.replace("S", "")
    space = [a for a in "ZYX" if a in letters]
    steps = dict(zip(space, image.spacing or (), strict=False))
    unit = image.unit or "pixel"
    told: dict[str, Any] = {
        "name": name,
        "rgb": image.axes.endswith("S"),
        "scale": tuple(steps.get(a, 1.0) for a in letters),
        "units": tuple(unit if a in steps else "pixel" for a in letters),
        "axis_labels": tuple(letters.lower()),
    }
    if image.affine is not None:
        told["metadata"] = {"affine_index_to_ras": image.affine}
    return told
