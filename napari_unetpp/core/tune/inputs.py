"""From images and painted labels to windows around the paint, on the model's grid.

The pixels take the path that inference takes (`core.run.source`, `core.run.spaces`). Only
windows around the paint are held, so memory does not grow with the image. Knows images and
cards; no network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.spaces import Space, space_for
from napari_unetpp.core.run.tiling import Region, Tile
from napari_unetpp.core.train.prepare import to_model_grid
from napari_unetpp.core.tune.strokes import Split

WINDOW = {2: 512, 3: 96}
"""Size of a window along each axis; an image that is hardly larger is one window. In windows of 64
voxels a 3D base lost what it knew by its surroundings (larynx in CT: IoU 0.11 for 0.55)."""

LIMIT = {2: 16, 3: 12}
"""Windows with paint that are held, over all images."""

FREE = {2: 8, 3: 2}
"""Windows without paint that are held, so that the rest of a stack or volume is learned too."""

PIXELS = {2: 3 * 2**22, 3: 3 * 2**21}
"""Pixels (voxels) of all windows together, which bounds the memory; the first is always held."""


@dataclass(frozen=True, eq=False)
class Painted:
    """An image and its painted labels.

    Attributes
    ----------
    name : str
        Stays the same from one fine-tuning to the next: the split is kept by it.
    image : Image
        Any axes.
    labels : Image
        0 unlabelled, 1 background, 2 and more the classes; of the image's shape.
    channel : int, optional
        Channel of the image, see `Source`.
    dense : bool
        The labels are complete: 0 is background and k the k-th class.
    split : Path, optional
        Where the sides of its strokes are kept; not kept if None.
    """

    name: str
    image: Image
    labels: Image
    channel: int | None = None
    dense: bool = False
    split: Path | None = None


@dataclass(frozen=True, eq=False)
class Window:
    """A part of an image around paint, in memory.

    Attributes
    ----------
    name : str
        The image's.
    image : ndarray of float32
        (C, *space), normalised.
    labels : ndarray of uint8
        (*space): 0 background, k the card's k-th class, 255 unlabelled.
    sides : ndarray of uint8
        (*space): `TRAINING` or `HELD_OUT` where there is paint.
    """

    name: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    sides: NDArray[np.uint8]

    @property
    def space(self) -> tuple[int, ...]:
        """Spatial shape, (Y, X) or (Z, Y, X)."""
        return tuple(int(n) for n in self.labels.shape)


def painted_parts(pair: Painted, card: ModelCard) -> tuple[Source, Source, dict[str, NDArray[Any]]]:
    """Read the painted labels of every plane or volume.

    Returns
    -------
    source, labels_source : Source
        Of the image and of its labels.
    dict of str to ndarray of int
        Painted labels by part, those with paint; the names are the split's.

    Raises
    ------
    InputError
        If the shapes differ, or a value is no label.
    """
    source = Source(pair.image, card, pair.channel)
    network = card.to_json()["network"] | {"in_channels": 1}
    plain = ModelCard.from_json(
        card.to_json() | {"network": network, "input_channels": ("labels",)}
    )
    labels = Source(pair.labels, plain)
    if source.sizes != labels.sizes:
        raise InputError(
            f"the painted labels of {pair.name} must have the image's shape {_size(source)}, got "
            f"{_size(labels)}; paint on a layer made for this image."
        )
    whole = tuple(slice(0, n) for n in labels.shape)
    found: dict[str, NDArray[Any]] = {}
    for number, part in enumerate(labels.parts):
        values = labels.read(part, whole)[0]
        if values.dtype.kind not in "uib":
            raise InputError(
                f"painted labels must be whole numbers, got {values.dtype} for {pair.name}; give "
                "a labels layer."
            )
        if values.size and values.min() < 0:
            raise InputError(
                f"painted labels must be 0 or more, got {values.min()} in {pair.name}; repaint it."
            )
        if pair.dense:
            values = values.astype(np.int64) + 1
        if values.any():
            found[part_name(pair, card, number)] = values
    return source, labels, found


def part_name(pair: Painted, card: ModelCard, number: int) -> str:
    """Return the name by which a split knows a plane, or a volume, of an image.

    A network in 2D and one in 3D may learn from the same paint: plane 0 is not volume 0.
    """
    return f"{pair.name}#{'' if card.network.ndim == 2 else 'v'}{number}"


def values_of(labels: NDArray[Any]) -> list[int]:
    """Return the painted values, without 0; quick where little is painted."""
    return [int(v) for v in np.unique(labels[labels != 0])]


def painted_values(pair: Painted) -> list[int]:
    """Return the painted values of an image's labels, without 0; read plane by plane."""
    data, found = pair.labels.data, set()
    lead = data.shape[: max(len(data.shape) - 2, 0)]
    for index in np.ndindex(*lead):
        plane = np.asarray(data[(*(slice(k, k + 1) for k in index), slice(None), slice(None))])
        found |= {*values_of(plane)}
        if pair.dense and (plane == 0).any():
            found.add(0)
    return sorted(v + 1 for v in found) if pair.dense else sorted(found)


def check_values(values: Sequence[int], card: ModelCard, *, scratch: bool) -> list[str]:
    """Check which values are painted; return sentences about what is missing.

    Parameters
    ----------
    values : sequence of int
        Painted values, without 0.
    card : ModelCard
        Of the model that is to come.
    scratch : bool
        There is no base that knows the classes.

    Raises
    ------
    InputError
        If nothing is painted, a value is beyond the classes, or one value is all there is
        and no base knows the other.
    """
    if not values:
        raise InputError(
            "nothing is painted (every label is 0); paint a stroke of background (1) and one of "
            "a class (2 or more)."
        )
    count, names = len(card.classes), ", ".join(c.name for c in card.classes)
    top = max(values)
    if top > count + 1:
        raise InputError(
            f"label {top} is painted, but the classes end with {count + 1} ({names}); name a "
            "class for it, or repaint it."
        )
    if scratch and len(values) < 2:
        what = "background" if values[0] == 1 else card.classes[values[0] - 2].name
        raise InputError(
            f"only {what} is painted, and one value has nothing to differ from; paint a stroke "
            f"of {'a class (2 or more)' if values[0] == 1 else 'background (1)'} too."
        )
    notes = []
    missing = [c.name for k, c in enumerate(card.classes) if k + 2 not in values]
    if missing:
        notes.append(f"No stroke shows {', '.join(missing)}, so nothing new is learned about it.")
    if 1 not in values:
        notes.append(
            "No background (1) is painted, so what is outside the classes rests on the base alone."
            if not scratch
            else "No background (1) is painted, so everything becomes one of the classes."
        )
    return notes


@dataclass(frozen=True, eq=False)
class _Place:
    """A region of a plane or volume that may become a window; `paint` is how much lies in it."""

    part: int
    region: Region
    paint: int

    @property
    def size(self) -> int:
        """Pixels (voxels)."""
        return math.prod(r.stop - r.start for r in self.region)


class Reader:
    """Cuts windows out of an image and its painted labels.

    Parameters
    ----------
    pair : Painted
        Image and labels.
    card : ModelCard
        Grid, intensities and classes.
    split : Split
        Already updated with these labels.
    read : tuple
        What `painted_parts` returned.
    """

    def __init__(
        self,
        pair: Painted,
        card: ModelCard,
        split: Split,
        read: tuple[Source, Source, dict[str, NDArray[Any]]],
    ) -> None:
        self._pair, self._card, self._split = pair, card, split
        self._source, _, self._by_part = read
        self._space: Space = space_for(self._source)
        self._normalisers, _ = self._source.fit()

    def _labels(self, part: int) -> NDArray[np.uint8] | None:
        """Return a part's labels on the model's grid, 255 unlabelled; None without paint."""
        values = self._by_part.get(part_name(self._pair, self._card, part))
        if values is None:
            return None
        found = to_model_grid(values, self._pair.image, self._card)
        return np.where(found > 0, found - 1, UNLABELLED).astype(np.uint8)

    def painted(self) -> list[_Place]:
        """Return the regions that hold paint, those with the most first."""
        rows = []
        for part in range(len(self._source.parts)):
            labels = self._labels(part)
            if labels is None:
                continue
            amounts = [
                (r, int((labels[r] != UNLABELLED).sum())) for r in _regions(self._space.shape)
            ]
            rows += [_Place(part, region, amount) for region, amount in amounts if amount]
        return sorted(rows, key=lambda row: -row.paint)

    def free(self, count: int) -> list[_Place]:
        """Return regions without paint, evenly spaced over the image."""
        if not self._by_part:
            return []
        painted = {(p.part, str(p.region)) for p in self.painted()}
        rows = [
            _Place(part, region, 0)
            for part in range(len(self._source.parts))
            for region in _regions(self._space.shape)
            if (part, str(region)) not in painted
        ]
        chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
        return [rows[k] for k in chosen]

    def window(self, place: _Place) -> Window:
        """Read a region."""
        part = self._source.parts[place.part]
        x, _ = self._space.load(part, Tile(place.region, place.region), self._normalisers)
        labels = self._labels(place.part) if place.paint else None
        if labels is None:
            blank = np.zeros(x.shape[1:], np.uint8)
            return Window(self._pair.name, x, blank + np.uint8(UNLABELLED), blank)
        name = part_name(self._pair, self._card, place.part)
        side = self._split.side_of(name, self._by_part[name].shape)
        sides = to_model_grid(side, self._pair.image, self._card)[place.region]
        cut = labels[place.region].copy()
        return Window(
            self._pair.name, x, cut, np.where(cut == UNLABELLED, 0, sides).astype(np.uint8)
        )


def windows(readers: Sequence[Reader], ndim: int) -> list[Window]:
    """Cut windows around the paint of all images, and some without paint.

    Parameters
    ----------
    readers : sequence of Reader
        One for each image.
    ndim : {2, 3}
        Of the network.

    Returns
    -------
    list of Window
        With paint at most `LIMIT`, every image's best before any image's second, then by the
        amount; after them at most `FREE` without paint, which a teacher fills. Together at most
        `PIXELS`.
    """
    rows: list[tuple[int, int, Reader, _Place]] = []
    for reader in readers:
        for rank, place in enumerate(reader.painted()):
            rows.append((rank, -place.paint, reader, place))
    rows.sort(key=lambda row: row[:2])
    room = PIXELS[ndim]
    chosen: list[tuple[int, int, Reader, _Place]] = []
    for row in rows[: LIMIT[ndim]]:
        room -= row[3].size
        if chosen and room < 0:
            break
        chosen.append(row)
    chosen.sort(key=lambda row: row[1])
    found = [reader.window(place) for _, _, reader, place in chosen]
    each = -(-FREE[ndim] // max(len(readers), 1))
    free = [(reader, place) for reader in readers for place in reader.free(each)]
    for reader, place in free[: FREE[ndim]]:
        room -= place.size
        if room < 0:
            break
        found.append(reader.window(place))
    return found


def _regions(shape: Sequence[int]) -> list[Region]:
    """Return the regions that a plane or volume is cut into."""
    size = WINDOW[len(shape)]
    spans = []
    for n in shape:
        pieces = max(1, round(n / size)) if n > 1.5 * size else 1
        edges = np.linspace(0, n, pieces + 1).astype(int)
        spans.append(list(itertools.pairwise(edges.tolist())))
    return [tuple(slice(a, b) for a, b in corner) for corner in itertools.product(*spans)]


def _size(source: Source) -> str:
    return " x ".join(f"{a}={n}" for a, n in source.sizes.items())
