"""An image layer as the pixels of a run: its axes, spacing, channels and identity.

Knows layers and axis strings; no viewer, no Qt, no engine process, no torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import SAMPLES, guess_axes, parse_axes, spatial
from napari_unetpp.core.data.image import known_unit, millimetres
from napari_unetpp.core.errors import InputError
from napari_unetpp.engine.protocol import LayerSource
from napari_unetpp.widget.placing import data_to_world

_WORDS = {
    "P": ("p", "pos", "position", "positions", "scene", "scenes", "series", "stage"),
    "T": ("t", "time", "times", "frame", "frames", "timepoint", "timepoints"),
    "C": ("c", "ch", "channel", "channels", "wavelength", "colour", "color"),
    "Z": ("z", "depth", "plane", "planes", "slice", "slices", "stack"),
    "Y": ("y", "row", "rows", "height"),
    "X": ("x", "column", "columns", "col", "cols", "width"),
}
_LETTER_OF = {word: letter for letter, words in _WORDS.items() for word in words}
_CHOICES = {
    2: ("YX",),
    3: ("ZYX", "TYX", "CYX", "PYX"),
    4: ("TZYX", "CZYX", "ZCYX", "TCYX", "PZYX", "PCYX", "PTYX"),
    5: ("TCZYX", "TZCYX", "CTZYX", "PTZYX", "PTCYX", "PCZYX"),
    6: ("PTCZYX", "PTZCYX"),
}


def level_data(layer: Any, level: int = 0) -> Any:
    """Return the array of a layer, of one level where it is multiscale."""
    return layer.data[level] if layer.multiscale else layer.data


def layer_shape(layer: Any) -> tuple[int, ...]:
    """Return the shape of the full resolution, samples of an RGB layer included."""
    return tuple(int(n) for n in level_data(layer).shape)


def layer_axes(layer: Any) -> str:
    """Name the axes of a layer's array.

    Parameters
    ----------
    layer : napari Image layer
        Its axis labels count where they mean something ("z", "time", "channel"); the rest,
        and napari's own default labels ("-2", "-1"), are guessed from the shape.

    Returns
    -------
    str
        A letter of PTCZYXS for each axis of the array; S for the samples of an RGB layer.

    Raises
    ------
    InputError
        If the array has fewer than 2 or more than 6 axes.
    """
    shape = layer_shape(layer)
    rgb = bool(getattr(layer, "rgb", False))
    guess = guess_axes(shape, rgb=rgb)
    told = [_LETTER_OF.get(_plain(label)) for label in layer.axis_labels]
    told += [SAMPLES] * rgb
    named = [letter for letter in told if letter]
    if len(told) != len(shape) or len(set(named)) != len(named):
        return guess
    # What is not labelled keeps its guess where that letter is free, or takes a free one.
    axes = [
        letter or (hint if hint not in named else "")
        for letter, hint in zip(told, guess, strict=True)
    ]
    free = [a for a in "YXZTCP" if a not in axes and not (rgb and a == "C")]
    filled = "".join(letter or free.pop(0) for letter in axes)
    try:
        return parse_axes(filled, shape)
    except InputError:
        return guess


def axes_choices(layer: Any) -> list[str]:
    """Return sensible ways to name the axes of a layer, the likeliest first."""
    first = layer_axes(layer)
    rgb = bool(getattr(layer, "rgb", False))
    known = _CHOICES.get(len(layer_shape(layer)) - rgb, ())
    if rgb:
        known = tuple(axes + SAMPLES for axes in known if "C" not in axes)
    return list(dict.fromkeys((first, *known)))


def layer_channels(layer: Any, axes: str) -> list[str]:
    """Return a name for each channel of a layer; empty where there is none to choose.

    Names come from ``layer.metadata["channel_names"]`` where there are as many. The samples of
    an RGB layer are no channels: what a model sees of a picture, its card says.
    """
    if "C" not in axes:
        return []
    count = layer_shape(layer)[axes.index("C")]
    names = layer.metadata.get("channel_names") or ()
    if isinstance(names, Sequence) and not isinstance(names, str) and len(names) == count:
        return [str(name) for name in names]
    return [f"channel {k}" for k in range(count)]


def layer_source(layer: Any, axes: str, level: int = 0) -> LayerSource:
    """Return the pixels of a layer with their meaning.

    Parameters
    ----------
    layer : napari Image layer
        Any number of axes, plain or multiscale; nothing is read here.
    axes : str
        A letter for each axis of its array, as from :func:`layer_axes`.
    level : int
        Of a multiscale layer; 0 is the full resolution.

    Returns
    -------
    LayerSource
        With the spacing of that level. Its key changes when the layer's data is replaced, or
        edited in place and refreshed.
    """
    data = level_data(layer, level)
    axes = parse_axes(axes, tuple(data.shape))
    factors = level_factors(layer, axes, level)
    spacing, unit = _spacing(layer, axes)
    if spacing is not None:
        steps = (factors[axes.index(a)] for a in spatial(axes))
        spacing = tuple(s * f for s, f in zip(spacing, steps, strict=True))
    # A spacing is part of what a model sees, where it has one of its own.
    key = f"{_watch(layer).key}-L{level}-{axes}-{spacing}-{unit}"
    affine = _affine(layer, axes, factors)
    return LayerSource(data, axes, spacing, unit, affine, str(layer.name), key)


def level_factors(layer: Any, axes: str, level: int) -> tuple[float, ...]:
    """Return how many pixels of full resolution one of a level covers, for each axis."""
    if not level:
        return (1.0,) * len(axes)
    factors = tuple(float(f) for f in layer.downsample_factors[level])
    return factors + (1.0,) * (len(axes) - len(factors))


def _plain(label: Any) -> str:
    """Return "time" for "Time", "time [s]", "time (frames)"."""
    return re.split(r"[\s(\[/:_]", str(label).strip().lower(), maxsplit=1)[0]


@lru_cache(maxsize=256)
def _unit_name(unit: Any) -> str | None:
    return known_unit(f"{unit:D}" if hasattr(unit, "dimensionality") else str(unit))


def _spacing(layer: Any, axes: str) -> tuple[tuple[float, ...] | None, str | None]:
    """Return the size of a pixel in Z, Y, X order and its unit.

    The length of a step along each axis in the world: it is the scale, unless a shear or an
    affine changes lengths as well (readers of medical formats put all geometry into that).
    A layer without a unit whose steps are all 1 is one of which nothing is known.
    """
    matrix = data_to_world(layer)
    at = [axes.index(a) for a in spatial(axes)]
    exact = np.abs(np.asarray(layer.scale, dtype=np.float64))
    lengths = np.linalg.norm(matrix[:-1, :-1], axis=0)
    steps = np.where(np.isclose(lengths, exact, rtol=1e-9, atol=0), exact, lengths)[at]
    units = [_unit_name(layer.units[k]) for k in at]
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        return None, None
    if None in units:
        return (None if np.allclose(steps, 1, rtol=1e-9) else _floats(steps)), None
    in_mm = [millimetres(unit) or 1.0 for unit in units]
    ratios = [
        1.0 if unit == units[-1] else mm / in_mm[-1] for unit, mm in zip(units, in_mm, strict=True)
    ]
    return _floats(steps * ratios), units[-1]


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _affine(layer: Any, axes: str, factors: Sequence[float]) -> NDArray[np.float64] | None:
    """Return array index (z, y, x, 1) -> RAS in mm, from the layer's metadata."""
    told = layer.metadata.get("affine_index_to_ras")
    if told is None:
        return None
    matrix = np.array(told, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return None
    steps = np.array([factors[axes.index(a)] if a in axes else 1.0 for a in "ZYX"])
    step = np.eye(4)
    step[:3, :3] = np.diag(steps)
    step[:3, 3] = (steps - 1) / 2
    return matrix @ step


class _Watch:
    """Tells when the pixels of a layer became others, without looking at them."""

    _numbers = itertools.count(1)

    def __init__(self, layer: Any) -> None:
        self._number = next(self._numbers)
        self._edits = 0
        self._shown = self._view(layer)
        layer.events.data.connect(self._replaced)
        layer.events.set_data.connect(self._drawn)
        layer.events.visible.connect(self._hidden)

    @property
    def key(self) -> str:
        return f"layer{self._number}-{self._edits}"

    def _replaced(self, event: Any) -> None:
        self._edits += 1
        self._shown = self._view(event.source)

    def _drawn(self, event: Any) -> None:
        """Count a drawing of the same view as an edit: someone wrote and called refresh().

        The event comes with every step of a slider too, which changes no pixel.
        """
        view = self._view(event.source)
        if view is not None and view == self._shown:
            self._edits += 1
        self._shown = view

    def _hidden(self, event: Any) -> None:
        # Showing it again draws the same view.
        if not event.source.visible:
            self._shown = None

    @staticmethod
    def _view(layer: Any) -> tuple[Any, ...] | None:
        place = getattr(layer, "_slice_input", None)
        if place is None:
            return None
        return (
            place,
            getattr(layer, "data_level", 0),
            layer.corner_pixels.tobytes(),
            data_to_world(layer).tobytes(),
            tuple(layer.units),
            getattr(layer, "projection_mode", ""),
        )


_WATCHES: WeakKeyDictionary[Any, _Watch] = WeakKeyDictionary()


def _watch(layer: Any) -> _Watch:
    found = _WATCHES.get(layer)
    if found is None:
        found = _WATCHES[layer] = _Watch(layer)
    return found
