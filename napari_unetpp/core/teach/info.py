"""What a painted layer is: its name, its image, its place, its classes and its looks.

Plain values that go through JSON, so that a layer can be made again by another process, or by
another viewer. Knows no viewer and no file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.errors import InputError


@dataclass(frozen=True)
class LayerInfo:
    """Everything about a painted layer but its pixels.

    Attributes
    ----------
    name : str
        Of the layer.
    axes : str
        A letter for each axis, without channels; empty if it is not known.
    image : str
        Name of the image that is painted on; empty if it is not known.
    image_path : str, optional
        Where that image was read from.
    channel : int, optional
        Channel of the image that the model sees.
    classes : tuple of ClassInfo
        Names and colours of the values 2, 3, ...
    geometry : mapping
        Where it lies: ``scale``, ``translate``, ``rotate``, ``shear``, ``affine``, ``units``,
        ``axis_labels``, as plain lists.
    looks : mapping
        How it is shown: colours, opacity, features and the like, plain values.
    """

    name: str
    axes: str = ""
    image: str = ""
    image_path: str | None = None
    channel: int | None = None
    classes: tuple[ClassInfo, ...] = ()
    geometry: Mapping[str, Any] = field(default_factory=dict)
    looks: Mapping[str, Any] = field(default_factory=dict)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["classes"] = [{"name": c.name, "color": c.color} for c in self.classes]
        values["geometry"] = plain(self.geometry)
        values["looks"] = plain(self.looks)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave; what is missing has its default.

        Raises
        ------
        InputError
            If it is something else.
        """
        try:
            path, channel = values.get("image_path"), values.get("channel")
            return cls(
                name=str(values["name"]),
                axes=str(values.get("axes", "")),
                image=str(values.get("image", "")),
                image_path=None if path is None else str(path),
                channel=None if channel is None else int(channel),
                classes=read_classes(values.get("classes", ())),
                geometry=dict(values.get("geometry", {})),
                looks=dict(values.get("looks", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"what is told of a painted layer is not understood ({error}); it is from "
                "another version or damaged."
            ) from error


def read_classes(rows: Any) -> tuple[ClassInfo, ...]:
    """Return classes from JSON values: a list of ``{"name": ..., "color": "#rrggbb"}``."""
    return tuple(
        ClassInfo(str(row["name"]), *([str(row["color"])] if "color" in row else []))
        for row in rows
    )


def plain(value: Any) -> Any:
    """Return a value as JSON holds it; what JSON cannot hold is left out.

    Arrays become lists, numbers of numpy become Python's.
    """
    if isinstance(value, Mapping):
        pairs = ((str(k), plain(v)) for k, v in value.items())
        return {k: v for k, v in pairs if v is not None}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return value
