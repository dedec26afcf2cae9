"""What a TIFF's tags say about its axes and geometry, and what is written there.

Three dialects: ImageJ's description, OME-XML, and bare resolution tags. This module must
not read or write pixels.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile

from napari_unetpp.core.axes import LETTERS, guess_axes, spatial
from napari_unetpp.core.data.image import Image, known_unit, millimetres

# What ImageJ says that is as true of a result as of its image; the display range is not.
_IMAGEJ_KEPT = (
    "unit", "yunit", "zunit", "finterval", "tunit", "fps", "loop", "xorigin", "yorigin",
    "zorigin", "Info",
)  # fmt: skip
_OME_KEPT = ("TimeIncrement", "TimeIncrementUnit")
_OME_OF_PLANES = tuple(f"Position{letter}{end}" for letter in "XYZ" for end in ("", "Unit"))
_ALPHAS = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)


@dataclass(frozen=True)
class Tags:
    """What the tags say: spacing in the order Z, Y, X, its unit, and what to keep."""

    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def alpha_axis(series: Any) -> int | None:
    """Return which axis holds a gray value and its opacity, or None if no axis does."""
    keyframe = series.keyframe
    if tuple(keyframe.extrasamples) not in [(alpha,) for alpha in _ALPHAS] or (
        keyframe.samplesperpixel != 2 or "S" not in series.axes
    ):
        return None
    return int(series.axes.index("S"))


def image_axes(series: Any) -> tuple[str, tuple[int, ...]]:
    """Return our axis letters for a series, and the order of its axes that gives them.

    Letters that only tifffile uses (I and Q for "some sequence") become Z, then T, C, P;
    samples that are no colours become C. An axis of gray and opacity is left out.
    """
    alpha = alpha_axis(series)
    letters = [a for k, a in enumerate(series.axes.upper()) if k != alpha]
    sizes = [n for k, n in enumerate(series.shape) if k != alpha]
    order = list(range(len(letters)))
    keyframe = series.keyframe
    colours = keyframe.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
    if "S" in letters:
        at = letters.index("S")
        if not (colours and sizes[at] in (3, 4) and "C" not in letters):
            letters[at] = next(a for a in "CPT" if a not in letters)
        else:
            letters.append(letters.pop(at))
            order.append(order.pop(at))
    known = set(LETTERS)
    shape = [sizes[k] for k in order]
    if sum(a not in known for a in letters) > 1 and set(letters) & known <= set("YXS"):
        return guess_axes(shape, rgb=letters[-1] == "S"), tuple(order)
    free = [a for a in "ZTCP" if a not in letters]
    return "".join(a if a in known else free.pop(0) for a in letters), tuple(order)


def read_tags(tif: tifffile.TiffFile, axes: str) -> Tags:
    """Return what the tags of a file say about an image with `axes`."""
    if tif.is_ome and tif.ome_metadata:
        return _from_ome(tif.ome_metadata, axes)
    if tif.is_imagej:
        return _from_imagej(tif, axes)
    page = tif.pages.first
    metadata: dict[str, Any] = {"format": "tiff", "style": "plain"}
    resolution = _resolution(page)
    unit = page.tags.valueof("ResolutionUnit", 1)
    if resolution is None:
        return Tags(metadata=metadata)
    metadata["resolution"] = (resolution, int(unit))
    # Inches are what drawing programs write without having measured anything (72 dpi).
    if int(unit) != 3 or "Z" in axes:
        return Tags(metadata=metadata)
    return Tags((1e4 / resolution[1], 1e4 / resolution[0]), "µm", metadata)


def _resolution(page: Any) -> tuple[float, float] | None:
    """Return pixels per unit along X and Y, or None."""
    found = []
    for tag in ("XResolution", "YResolution"):
        value = page.tags.valueof(tag)
        if not isinstance(value, tuple) or len(value) != 2 or min(value) <= 0:
            return None
        found.append(value[0] / value[1])
    return found[0], found[1]


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _from_imagej(tif: tifffile.TiffFile, axes: str) -> Tags:
    said: dict[str, Any] = tif.imagej_metadata or {}
    kept = {key: said[key] for key in _IMAGEJ_KEPT if key in said}
    metadata: dict[str, Any] = {"format": "tiff", "style": "imagej", "imagej": kept}
    labels = said.get("Labels")
    if "C" in axes and labels and len(labels) == tif.series[0].shape[axes.index("C")]:
        metadata["channel_names"] = tuple(str(label) for label in labels)
    unit = known_unit(str(said.get("unit", "")))
    x, y = _resolution(tif.pages.first) or (1.0, 1.0)
    size = {"Z": _number(said.get("spacing")) or 1.0, "Y": 1 / y, "X": 1 / x}
    spacing = tuple(size[a] for a in spatial(axes))
    if unit is None and all(s == 1.0 for s in spacing):
        return Tags(None, None, metadata)
    return Tags(spacing, unit, metadata)


def _from_ome(text: str, axes: str) -> Tags:
    metadata: dict[str, Any] = {"format": "tiff", "style": "ome"}
    try:
        root = ElementTree.fromstring(re.sub(r"<\?xml[^>]*\?>", "", text))
    except ElementTree.ParseError:
        return Tags(metadata=metadata)
    images = _named(root, "Image")
    pixels = next((p for e in images for p in _named(e, "Pixels")), None)
    if pixels is None:
        return Tags(metadata=metadata)
    metadata["ome"] = {k: pixels.attrib[k] for k in _OME_KEPT if k in pixels.attrib}
    metadata["ome_images"] = tuple(_ome_image(e) for e in images)
    metadata["ome_units"] = {
        a: unit
        for a in spatial(axes)
        if (unit := known_unit(pixels.attrib.get(f"PhysicalSize{a}Unit", "µm"))) is not None
    }
    channels = _named(pixels, "Channel")
    names = tuple(e.attrib.get("Name", f"channel {k}") for k, e in enumerate(channels))
    if any("Name" in e.attrib for e in channels):
        metadata["channel_names"] = names
    size: dict[str, float] = {}
    for letter in spatial(axes):
        value = _number(pixels.attrib.get(f"PhysicalSize{letter}"))
        factor = millimetres(pixels.attrib.get(f"PhysicalSize{letter}Unit", "µm"))
        if value is not None and factor is not None:
            size[letter] = value * factor
    if "X" not in size:
        return Tags(metadata=metadata)
    unit = known_unit(pixels.attrib.get("PhysicalSizeXUnit", "µm")) or "µm"
    one = millimetres(unit) or 1.0
    size = {"Y": size["X"], **size}
    if "Z" in axes and "Z" not in size:
        return Tags(metadata=metadata)
    # Rounded, because mm and back turns 0.65 into 0.6500000000000001.
    spacing = tuple(float(f"{size[a] / one:.12g}") for a in spatial(axes))
    return Tags(spacing, unit, metadata)


def _named(parent: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Return the children of a name, in whatever namespace."""
    return [e for e in parent if e.tag.rpartition("}")[2] == name]


def _ome_image(image: ElementTree.Element) -> dict[str, Any]:
    """Return name and description of an image, and where its planes lie, by T and Z."""
    kept: dict[str, Any] = {"Name": image.attrib["Name"]} if image.attrib.get("Name") else {}
    for element in _named(image, "Description"):
        if element.text:
            kept["Description"] = element.text
    planes: dict[tuple[str, str], dict[str, str]] = {}
    for plane in (e for pixels in _named(image, "Pixels") for e in _named(pixels, "Plane")):
        said = {k: plane.attrib[k] for k in _OME_OF_PLANES if k in plane.attrib}
        if said:
            place = (plane.attrib.get("TheT", "0"), plane.attrib.get("TheZ", "0"))
            planes.setdefault(place, said)
    kept["planes"] = planes
    return kept


def ome_write_metadata(
    like: Image,
    axes: str,
    shape: Sequence[int],
    spacing: Mapping[str, float],
    names: Sequence[str],
    position: int = 0,
) -> dict[str, Any]:
    """Return tifffile's metadata for an OME-TIFF with the geometry of `like`.

    Parameters
    ----------
    like : Image
        Gives units, what the file said of its image, and where its planes lie.
    axes : str
        Letters of TCZYX in the order of the file.
    shape : sequence of int
        Its shape.
    spacing : mapping of str to float
        Size of a pixel by letter, in the unit of `like`.
    names : sequence of str
        Names of the channels.
    position : int
        Which of the image's positions is written.
    """
    metadata: dict[str, Any] = {"axes": axes, **like.metadata.get("ome", {})}
    images = like.metadata.get("ome_images", ())
    said = dict(images[position]) if position < len(images) else {}
    planes = said.pop("planes", {})
    metadata.update(said)
    numbers = np.ndindex(*(n for a, n in zip(axes, shape, strict=True) if a not in "YX"))
    letters = [a for a in axes if a not in "YX"]
    written = []
    for number in numbers:
        at = dict(zip(letters, number, strict=True))
        written.append(planes.get((str(at.get("T", 0)), str(at.get("Z", 0))), {}))
    for key in _OME_OF_PLANES:
        if planes and all(key in plane for plane in written):
            metadata.setdefault("Plane", {})[key] = [plane[key] for plane in written]
    for letter, size in spacing.items():
        unit = like.metadata.get("ome_units", {}).get(letter)
        ours, theirs = millimetres(like.unit), millimetres(unit)
        if ours is None or theirs is None:
            unit, ours, theirs = like.unit or "pixel", 1.0, 1.0
        metadata[f"PhysicalSize{letter}"] = float(f"{size * ours / theirs:.12g}")
        metadata[f"PhysicalSize{letter}Unit"] = unit
    if "C" in axes and names:
        metadata["Channel"] = {"Name": list(names)}
    return metadata


def imagej_write_metadata(
    like: Image, axes: str, spacing: Mapping[str, float], kind: str
) -> dict[str, Any]:
    """Return tifffile's metadata for an ImageJ TIFF with the geometry of `like`."""
    metadata: dict[str, Any] = {"axes": axes, **like.metadata.get("imagej", {})}
    if "unit" not in metadata and like.unit is not None:
        metadata["unit"] = "\\u00B5m" if like.unit == "µm" else like.unit
    if "Z" in spacing:
        metadata["spacing"] = spacing["Z"]
    if kind == "probabilities":
        metadata.update(min=0.0, max=1.0)
    if "C" in axes:
        metadata["mode"] = "grayscale"
    return metadata
