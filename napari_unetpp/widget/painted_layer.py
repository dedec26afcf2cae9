"""A painted layer: made on an image's grid, named and coloured, and read as the engine wants it.

Its values are 0 unlabelled, 1 background, 2 and more the classes. What its classes are called
beyond the model's lies in its metadata, so that it goes with the layer. Knows layers and cards;
no viewer's panel and no engine process. The pixels are only read here, never written.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import arrange
from napari_unetpp.core.config import ModelCard, class_colour
from napari_unetpp.core.errors import InputError
from napari_unetpp.engine.protocol import LayerSource
from napari_unetpp.widget.appearance import GRAY, TRANSPARENT, rgba
from napari_unetpp.widget.class_table import ClassRow
from napari_unetpp.widget.frame import Frame
from napari_unetpp.widget.layer_image import layer_shape, level_data
from napari_unetpp.widget.provenance import KEY

PAINTED = "napari_unetpp_painted"
"""Key in the metadata of a painted layer."""

BACKGROUND = "#9a7fe0"
"""Violet: seen on gray images, and none of the colours of classes."""

MEMORY_LIMIT = 2 * 10**9
"""Bytes above which a new painted layer is a sparse file instead of zeros in memory."""


def grid_shape(image: Any, axes: str) -> tuple[int, ...]:
    """Return the shape of a painted layer for an image: its own, without the channels."""
    frame = Frame(image, axes)
    sizes = dict(zip(axes, layer_shape(image), strict=True)) | {"C": 1}
    return tuple(sizes[a] for a in frame.letters)


def empty_paint(shape: Sequence[int], limit: float = MEMORY_LIMIT) -> NDArray[np.uint8]:
    """Return zeros to paint on that take no memory before they are painted.

    ``numpy.zeros`` asks the system for pages that exist once they are written, so a volume of a
    gigabyte costs what its strokes touch. Above the limit the system might refuse the address
    space; there it is a memory-mapped, sparse file in the temporary folder. Both are numpy
    arrays, which napari paints and undoes in place; zarr and tensorstore it copies by chunks.
    """
    shape = tuple(int(n) for n in shape)
    if math.prod(shape) <= limit:
        return np.zeros(shape, np.uint8)
    folder = Path(tempfile.mkdtemp(prefix="napari-unetpp-paint-"))
    array: NDArray[np.uint8] = np.lib.format.open_memmap(
        folder / "paint.npy", mode="w+", dtype=np.uint8, shape=shape
    )
    weakref.finalize(array, shutil.rmtree, folder, ignore_errors=True)
    return array


def is_candidate(layer: Any) -> bool:
    """Whether a layer may hold strokes: labels that are no result of ours."""
    from napari.layers import Labels

    return isinstance(layer, Labels) and KEY not in layer.metadata and layer.ndim >= 2


def is_own(layer: Any) -> bool:
    """Whether a layer was made to be painted on."""
    return PAINTED in layer.metadata


def make_painted(image: Any, axes: str, card: ModelCard, name: str) -> Any:
    """Return a new layer that lies exactly on an image, with the brush in hand.

    Parameters
    ----------
    image : napari Image layer
        What will be painted.
    axes : str
        A letter for each axis of its array.
    card : ModelCard
        Its classes are those to paint.
    name : str
        Of the layer.
    """
    layer = _on_image(image, axes, empty_paint(grid_shape(image, axes)), name)
    write_classes(layer, [c.name for c in card.classes])
    return layer


def paint_on(image: Any, axes: str, strokes: NDArray[Any], letters: str, name: str) -> Any:
    """Return a layer with strokes that are there already, to paint on.

    Parameters
    ----------
    image, axes, name
        See :func:`make_painted`.
    strokes : ndarray of int
        It becomes the layer's own.
    letters : str
        Its axes.
    """
    return _on_image(image, axes, arrange(strokes, letters, Frame(image, axes).letters), name)


def _on_image(image: Any, axes: str, data: Any, name: str) -> Any:
    from napari.layers import Labels

    frame = Frame(image, axes)
    metadata = {PAINTED: {"image": str(image.name)}}
    # Opaque: a stroke has the colour of its class, as the prediction below it has.
    layer = Labels(data, name=name, metadata=metadata, opacity=1.0, **frame.placed())
    layer.selected_label = 2
    plane = [n for n, a in zip(data.shape, frame.letters, strict=True) if a in "YX"]
    layer.brush_size = int(np.clip(round(min(plane) / 100), 2, 12))
    return layer


def class_rows(
    layer: Any, card: ModelCard | None, painted: Sequence[int] = (), *, scratch: bool = False
) -> list[ClassRow]:
    """Return what each value of a painted layer means.

    Parameters
    ----------
    layer : napari Labels layer, optional
        Its own classes come after the model's; None for the model's alone.
    card : ModelCard, optional
        The model's, which cannot be renamed.
    painted : sequence of int
        Values that are painted; those that no class has come last.
    scratch : bool
        A new network: every class is the layer's own.
    """
    known = [] if card is None or scratch else [(c.name, c.color) for c in card.classes]
    told = own_classes(layer)
    if scratch and not told and card is not None:
        told = [c.name for c in card.classes]
    rows = [ClassRow(1, "background", BACKGROUND)]
    rows += [ClassRow(k, name, colour) for k, (name, colour) in enumerate(known, start=2)]
    for k, name in list(enumerate(told))[len(known) :]:
        rows.append(ClassRow(k + 2, name, class_colour(k), own=True))
    top = rows[-1].value
    rows += [ClassRow(v, "no class", "#999999", known=False) for v in sorted(painted) if v > top]
    return rows


def own_classes(layer: Any) -> list[str]:
    """Return the classes that a layer's metadata names, the model's of then among them."""
    told = layer.metadata.get(PAINTED) if layer is not None else None
    names = told.get("classes", ()) if isinstance(told, dict) else ()
    return [str(name) for name in names]


def write_classes(layer: Any, names: Sequence[str]) -> None:
    """Keep the names of the classes with the layer."""
    _write(layer, classes=list(names))


def pair_name(layer: Any) -> str:
    """Return the name by which the split of a layer's strokes is kept; empty if it has none."""
    told = layer.metadata.get(PAINTED)
    return str(told.get("pair", "")) if isinstance(told, dict) else ""


def told_project(layer: Any) -> str:
    """Return the folder of the project that a layer's pair is in; empty if it is in none."""
    told = layer.metadata.get(PAINTED)
    return str(told.get("project", "")) if isinstance(told, dict) else ""


def write_pair(layer: Any, name: str, project: str = "") -> None:
    """Keep the name of the pair with the layer, and the folder of the project that it is in."""
    _write(layer, pair=name, project=project)


def _write(layer: Any, **values: Any) -> None:
    told = layer.metadata.get(PAINTED)
    about = dict(told) if isinstance(told, dict) else {}
    layer.metadata = {**layer.metadata, PAINTED: {**about, **values}}


def dress(layer: Any, rows: Sequence[ClassRow]) -> None:
    """Give a painted layer the colours of its classes, and their names for the status bar."""
    from napari.utils.colormaps import DirectLabelColormap

    colours: dict[int | None, Any] = {0: TRANSPARENT, None: GRAY}
    colours |= {row.value: rgba(row.colour) for row in rows}
    now = getattr(layer.colormap, "color_dict", None)
    now = {} if now is None else dict(now)
    same = now.keys() == colours.keys()
    if not (same and all(np.allclose(now[key], colours[key]) for key in colours)):
        layer.colormap = DirectLabelColormap(color_dict=colours)
    features = {
        "index": [0, *(row.value for row in rows)],
        "class": ["unlabelled", *(row.name for row in rows)],
    }
    if list(layer.features.get("class", ())) != features["class"]:
        layer.features = features


def painted_source(layer: Any, image: Any, axes: str) -> LayerSource:
    """Return the paint of a layer as the engine wants it: the image's axes without C.

    Raises
    ------
    InputError
        If it has another shape than the image.
    """
    letters = Frame(image, axes).letters
    data = level_data(layer)
    wanted = grid_shape(image, axes)
    if tuple(data.shape) != wanted:
        raise InputError(
            f"{layer.name} has the shape {_size(data.shape)}, but {image.name} needs "
            f"{_size(wanted)}: choose another layer, or press New."
        )
    if "C" in letters:
        data = _OneChannel(data, letters.index("C"))
    return LayerSource(data, letters.replace("C", ""), name=str(layer.name))


def _size(shape: Sequence[int]) -> str:
    return " × ".join(str(int(n)) for n in shape)


class _OneChannel:
    """An array whose channel axis of length 1 is not there."""

    def __init__(self, data: Any, axis: int) -> None:
        self._data, self._axis = data, axis
        self.shape = tuple(int(n) for k, n in enumerate(data.shape) if k != axis)
        self.dtype = data.dtype
        self.ndim = len(self.shape)

    def __getitem__(self, index: Any) -> Any:
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in index:
            at = index.index(Ellipsis)
            fill = (slice(None),) * (self.ndim - len(index) + 1)
            index = index[:at] + fill + index[at + 1 :]
        index = index + (slice(None),) * (self.ndim - len(index))
        return self._data[(*index[: self._axis], 0, *index[self._axis :])]
