"""From images and painted labels to windows around the paint, on the model's grid.

The pixels take the path that inference takes (`core.run.source`, `core.run.spaces`). Only
windows around the paint are held, so memory does not grow with the image. Knows images and
cards; no network.
"""

from __future__ import annotations

import itertools
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

WINDOW = {2: 512, 3: 64}
"""Size of a window along each axis; an image that is hardly larger is one window."""

LIMIT = {2: 16, 3: 12}
"""Windows that are held, those with the most paint."""


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
            found[f"{pair.name}#{number}"] = values
    return source, labels, found


def values_of(labels: NDArray[Any]) -> list[int]:
    """Return the painted values, without 0; quick where little is painted."""
    return [int(v) for v in np.unique(labels[labels != 0])]


def painted_values(pair: Painted) -> list[int]:
    """Return the painted values of an image's labels, without 0; read in one piece."""
    labels = np.asarray(pair.labels.data)
    if pair.dense:
        return [v + 1 for v in ([0] if (labels == 0).any() else []) + values_of(labels)]
    return values_of(labels)


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


def windows(
    pair: Painted, card: ModelCard, split: Split, read: tuple[Source, Source, dict[str, Any]]
) -> list[Window]:
    """Cut the windows of an image that hold paint.

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

    Returns
    -------
    list of Window
        Those with the most paint, at most `LIMIT`.
    """
    source, _, by_part = read
    normalisers, _ = source.fit()
    space = space_for(source)
    found: list[tuple[int, Window]] = []
    for number, part in enumerate(source.parts):
        name = f"{pair.name}#{number}"
        if name not in by_part:
            continue
        values = to_model_grid(by_part[name], pair.image, card)
        sides = to_model_grid(split.side_of(name, by_part[name].shape), pair.image, card)
        labels = np.where(values > 0, values - 1, UNLABELLED).astype(np.uint8)
        sides = np.where(labels == UNLABELLED, 0, sides).astype(np.uint8)
        for region in _regions(labels != UNLABELLED, space):
            x, _ = space.load(part, Tile(region, region), normalisers)
            window = Window(pair.name, x, labels[region].copy(), sides[region].copy())
            found.append((int((window.labels != UNLABELLED).sum()), window))
    found.sort(key=lambda row: -row[0])
    return [window for _, window in found[: LIMIT[len(card.axes)]]]


def _regions(paint: NDArray[np.bool_], space: Space) -> list[Region]:
    """Return the windows that hold paint, those with the most first."""
    ndim = paint.ndim
    size = WINDOW[ndim]
    spans = []
    for n in space.shape:
        pieces = max(1, round(n / size)) if n > 1.5 * size else 1
        edges = np.linspace(0, n, pieces + 1).astype(int)
        spans.append(list(itertools.pairwise(edges.tolist())))
    rows = []
    for corner in itertools.product(*spans):
        region = tuple(slice(a, b) for a, b in corner)
        if amount := int(paint[region].sum()):
            rows.append((amount, region))
    rows.sort(key=lambda row: -row[0])
    return [region for _, region in rows[: LIMIT[ndim]]]


def _size(source: Source) -> str:
    return " x ".join(f"{a}={n}" for a, n in source.sizes.items())
