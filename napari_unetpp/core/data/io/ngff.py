"""The metadata of OME-Zarr: axes, scales, units, names; read from 0.1 to 0.5, written anew.

Plain dictionaries in and out, by the specification at ngff.openmicroscopy.org. This module
must not know zarr or files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_unetpp.core.axes import spatial
from napari_unetpp.core.data.image import Image, known_unit, millimetres
from napari_unetpp.core.errors import FileError, InputError

_UNIT_NAMES = {
    "m": "meter", "cm": "centimeter", "mm": "millimeter", "µm": "micrometer",
    "nm": "nanometer", "Å": "angstrom", "inch": "inch",
}  # fmt: skip
_KINDS = {"time": "T", "channel": "C"}


@dataclass(frozen=True)
class Multiscales:
    """What the metadata say about the finest level."""

    dataset: str
    axes: str
    spacing: tuple[float, ...] | None
    unit: str | None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_multiscales(attributes: Mapping[str, Any], path: Path) -> Multiscales:
    """Read the attributes of an image group.

    Raises
    ------
    FileError
        If there is no multiscale image in them.
    KeyError, TypeError, ValueError, IndexError
        If they are malformed.
    """
    said = attributes.get("ome", attributes)
    if not said.get("multiscales"):
        raise FileError(
            f"{path} is a zarr group without a multiscale image, expected an OME-Zarr; give the "
            "path of the image or of the array in it."
        )
    image = said["multiscales"][0]
    first = image["datasets"][0]
    version = str(said.get("version") or image.get("version") or "0.4")
    listed = image.get("axes") or ["t", "c", "z", "y", "x"]
    entries = [{"name": a} if isinstance(a, str) else dict(a) for a in listed]
    axes = _letters(entries)
    scale, shift = [1.0] * len(axes), [0.0] * len(axes)
    steps = [
        *first.get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ]
    for step in steps:
        if step["type"] == "scale":
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
            shift = [a * float(b) for a, b in zip(shift, step["scale"], strict=True)]
        elif step["type"] == "translation":
            shift = [a + float(b) for a, b in zip(shift, step["translation"], strict=True)]
    units = {a: entry.get("unit") for a, entry in zip(axes, entries, strict=True)}
    metadata: dict[str, Any] = {
        "format": "zarr",
        "ngff_version": version,
        "ngff_scale": dict(zip(axes, scale, strict=True)),
        "ngff_translation": dict(zip(axes, shift, strict=True)),
        "ngff_units": units,
    }
    names = [c.get("label") for c in (said.get("omero") or {}).get("channels", ())]
    if names and all(names):
        metadata["channel_names"] = tuple(str(n) for n in names)
    spacing, unit = _spacing(axes, dict(zip(axes, scale, strict=True)), units)
    one = millimetres(unit) or 1.0
    for letter in spatial(axes):  # written back in the unit of X, as the spacing is
        factor = (millimetres(units[letter]) or one) / one
        if factor != 1.0:
            moved = metadata["ngff_translation"][letter] * factor
            metadata["ngff_translation"][letter] = float(f"{moved:.12g}")
    if not steps:
        spacing = None
    return Multiscales(str(first["path"]), axes, spacing, unit, metadata)


def _letters(entries: Sequence[Mapping[str, Any]]) -> str:
    letters = []
    for entry in entries:
        name = str(entry["name"]).upper()
        kind = _KINDS.get(str(entry.get("type")))
        if kind is not None:
            letters.append(kind)
        else:
            letters.append(name if name in tuple("TCZYX") else "P")
    return "".join(letters)


def _spacing(
    axes: str, scale: Mapping[str, float], units: Mapping[str, str | None]
) -> tuple[tuple[float, ...] | None, str | None]:
    """Return the spacing in the unit of X."""
    space = spatial(axes)
    unit = known_unit(units["X"])
    one = millimetres(unit) or 1.0
    values = []
    for letter in space:
        factor = (millimetres(units[letter]) or one) / one
        value = scale[letter] * factor
        values.append(value if factor == 1.0 else float(f"{value:.12g}"))
    if not all(math.isfinite(v) and v > 0 for v in values):
        return None, unit
    return tuple(values), unit


def stored_axes(axes: str) -> str:
    """Return the axes in the order that OME-Zarr asks for: time, other, space.

    Raises
    ------
    InputError
        If the specification has no place for them.
    """
    if "P" in axes and "C" in axes:
        raise InputError(
            f"an OME-Zarr holds positions or channels, not both, got axes {axes}; choose TIFF or "
            "write each position by itself."
        )
    return "".join(a for a in "TPCZYX" if a in axes)


def write_attributes(
    axes: str,
    levels: int,
    version: str,
    like: Image,
    kind: str,
    channel_names: Sequence[str],
    name: str,
) -> dict[str, Any]:
    """Return the attributes of an image group.

    Parameters
    ----------
    axes : str
        Axes as stored.
    levels : int
        Levels of the pyramid, each half as wide and high as the one before.
    version : {"0.4", "0.5"}
        Version of the specification.
    like : Image
        Gives spacing, unit and translation.
    kind : str
        ``labels`` and ``instances`` are marked as label images.
    channel_names : sequence of str
        Names along C.
    name : str
        Name of the image.
    """
    spacing = dict(zip(spatial(like.axes), like.spacing or (), strict=False))
    scale = {**like.metadata.get("ngff_scale", {}), **spacing}
    shift = like.metadata.get("ngff_translation", {})
    datasets = []
    for level in range(levels):
        zoom = [2.0**level if a in "YX" else 1.0 for a in axes]
        steps: list[dict[str, Any]] = [
            {
                "type": "scale",
                "scale": [scale.get(a, 1.0) * z for a, z in zip(axes, zoom, strict=True)],
            }
        ]
        if any(shift.get(a) for a in axes):
            steps.append({"type": "translation", "translation": [shift.get(a, 0.0) for a in axes]})
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    image = {"name": name, "axes": _axes_entries(axes, like), "datasets": datasets}
    attributes: dict[str, Any] = {"multiscales": [image]}
    if kind != "probabilities":
        attributes["image-label"] = {"version": version}
    elif "C" in axes and channel_names:
        window = {"start": 0.0, "end": 1.0, "min": 0.0, "max": 1.0}
        attributes["omero"] = {
            "channels": [
                {"label": n, "color": "FFFFFF", "active": True, "window": window}
                for n in channel_names
            ]
        }
    if version == "0.4":
        image["version"] = version
        return attributes
    return {"ome": {"version": version, **attributes}}


def _axes_entries(axes: str, like: Image) -> list[dict[str, str]]:
    """Return name, type and unit of each axis."""
    kinds = {"T": "time", "C": "channel", "P": "position"}
    units = like.metadata.get("ngff_units", {})
    entries = []
    for letter in axes:
        entry = {"name": letter.lower(), "type": kinds.get(letter, "space")}
        unit = _UNIT_NAMES.get(like.unit or "") if letter in "ZYX" else units.get(letter)
        if unit:
            entry["unit"] = unit
        entries.append(entry)
    return entries
