"""A painted layer in plain values and back: its place, colours and names; what a stroke touched.

Knows napari's Labels layer; no journal, no viewer, no engine. Pixels are only read.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.teach.blocks import Box
from napari_unetpp.core.teach.info import LayerInfo, plain
from napari_unetpp.widget.placing import shear_matrix

MEMORY_LIMIT = 2 * 10**9
"""Bytes above which a layer is made in a sparse file instead of memory."""

_LOOKS = ("opacity", "blending", "contour", "selected_label", "brush_size", "n_edit_dimensions")
# What somebody keeps in a layer's metadata may be large; it goes into each journal.
_MOST_METADATA = 2**16

INFO_EVENTS = (
    "name", "scale", "translate", "rotate", "shear", "affine", "units", "axis_labels",
    "colormap", "features", "opacity", "blending", "metadata",
)  # fmt: skip
"""Events of a layer after which `describe` tells something else."""


def describe(layer: Any, known: LayerInfo) -> LayerInfo:
    """Return what a layer is by now.

    Parameters
    ----------
    layer : napari Labels layer
        Its name, place and looks are read.
    known : LayerInfo
        The rest: its image and classes.
    """
    geometry = {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": shear_matrix(layer.shear, layer.ndim),
        "affine": layer.affine.affine_matrix,
        "units": [str(unit) for unit in layer.units],
        "axis_labels": list(layer.axis_labels),
    }
    looks: dict[str, Any] = {name: getattr(layer, name, None) for name in _LOOKS}
    colours = getattr(layer.colormap, "color_dict", None)
    if colours is not None:
        looks["colours"] = {str(value): np.asarray(c) for value, c in dict(colours).items()}
    columns = {str(name): layer.features[name].tolist() for name in layer.features}
    looks["features"] = columns
    metadata = plain(dict(layer.metadata))
    if len(json.dumps(metadata)) <= _MOST_METADATA:
        looks["metadata"] = metadata
    looks["blending"] = str(layer.blending)
    return known.replace(name=str(layer.name), geometry=plain(geometry), looks=plain(looks))


def make_layer(array: Any, info: LayerInfo) -> Any:
    """Return a Labels layer as it was described.

    What this version of napari does not take is left out, the place last of all.

    Parameters
    ----------
    array : array-like
        Its labels.
    info : LayerInfo
        From `describe`.
    """
    from napari.layers import Labels

    looks = dict(info.looks)
    whole = {
        **info.geometry,
        "opacity": looks.get("opacity", 0.7),
        "blending": looks.get("blending", "translucent"),
        "metadata": looks.get("metadata", {}),
    }
    try:
        layer = Labels(array, name=info.name, **whole)
    except Exception:  # another version of napari, or a unit that it does not know
        place = {k: v for k, v in info.geometry.items() if k in ("scale", "translate")}
        layer = Labels(array, name=info.name, metadata=whole["metadata"], **place)
    for name, value in (
        ("colormap", _colormap(looks.get("colours"))),
        ("features", looks.get("features") or None),
        *((name, looks.get(name)) for name in ("contour", "brush_size", "n_edit_dimensions")),
        ("selected_label", looks.get("selected_label")),
    ):
        if value is not None:
            try:
                setattr(layer, name, value)
            except Exception:  # only its looks
                continue
    return layer


def empty_labels(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros that take no memory before they are painted; a sparse file if they are large."""
    if math.prod(shape) * np.dtype(dtype).itemsize <= MEMORY_LIMIT:
        return np.zeros(shape, dtype)
    folder = Path(tempfile.mkdtemp(prefix="napari-unetpp-paint-"))
    array: NDArray[Any] = np.lib.format.open_memmap(
        folder / "paint.npy", mode="w+", dtype=np.dtype(dtype), shape=shape
    )
    weakref.finalize(array, shutil.rmtree, folder, ignore_errors=True)
    return array


def boxes_of(item: Iterable[Any]) -> list[Box]:
    """Return where an item of napari's history of strokes changed something.

    Parameters
    ----------
    item : iterable
        Value of the layer's ``paint`` event: parts with a box and a mask (napari 0.7 and
        later), or tuples of indices, old and new values.
    """
    found: list[Box] = []
    for atom in item:
        key = getattr(atom, "slice_key", None)
        if key is not None:
            found.append(box_of(key))
            continue
        indices = [np.asarray(axis) for axis in atom[0]]
        if indices and indices[0].size:
            found.append(tuple((int(a.min()), int(a.max()) + 1) for a in indices))
    return found


def box_of(key: Iterable[slice]) -> Box:
    """Return plain slices as a box; an open end is as far as any array goes."""
    return tuple((int(s.start or 0), 2**62 if s.stop is None else int(s.stop)) for s in key)


def _colormap(colours: Any) -> Any:
    if not isinstance(colours, Mapping) or not colours:
        return None
    from napari.utils.colormaps import DirectLabelColormap

    return DirectLabelColormap(
        color_dict={None if k == "None" else int(k): np.array(c) for k, c in colours.items()}
    )
