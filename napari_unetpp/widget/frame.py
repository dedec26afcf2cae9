"""How a result layer stands to its image: its axes, its place, and how napari is told.

The few dealings with napari that every result layer needs, done cheaply: each change of a
layer costs a drawing, and a new layer must not take the selection. Knows layers and axis
letters; no models and no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from napari_unetpp.widget.layer_image import layer_shape
from napari_unetpp.widget.placing import placed_on, shear_matrix
from napari_unetpp.widget.provenance import KEY
from napari_unetpp.widget.screen import OnScreen

_PLACING = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


class Frame:
    """How the axes of an image map to those of its result layers.

    The samples of a picture are no axis of a layer. A channel axis in front is dropped: napari
    aligns layers at their last axes. One between others must stay, or the axes before it
    would move: it gets length 1, stretched over all channels, so that every position of its
    slider shows the result.
    """

    def __init__(self, image: Any, axes: str) -> None:
        self.image = image
        self.axes = axes.replace("S", "")
        self.drop = (0,) if self.axes.startswith("C") else ()
        self.letters = "".join(a for k, a in enumerate(self.axes) if k not in self.drop)
        at = self.axes.find("C")
        self.stretch = layer_shape(image)[at] if at > 0 else 1

    def placed(self, shown: OnScreen | None = None) -> dict[str, Any]:
        """Return where the whole result lies, or that of what is on screen."""
        start = dict.fromkeys(self.axes, 0.0)
        step = dict.fromkeys(self.axes, 1.0)
        if "C" in self.letters:
            step["C"] = float(self.stretch)
        if shown is not None:
            for letter, (first, _), factor in zip(
                shown.axes, shown.region, shown.downsampling, strict=True
            ):
                start[letter], step[letter] = float(first), factor
        return placed_on(
            self.image,
            start=[start[a] for a in self.axes],
            factors=[step[a] for a in self.axes],
            # napari picks the slice k of a level for what lies around its first plane.
            centred=[a in "CYX" for a in self.axes],
            drop=self.drop,
        )


def add_quietly(viewer: Any, layer: Any) -> None:
    """Add a layer and leave the selection as it was, unless nothing was selected.

    The panel follows the active layer, and napari builds a layer's controls when it becomes
    active.
    """
    selection = viewer.layers.selection
    if not selection:
        viewer.add_layer(layer)
        return
    layers = viewer.layers
    active, chosen = selection.active, set(selection)
    switch = getattr(layers, "_activate_on_insert", None)
    if switch is True:
        layers._activate_on_insert = False
    try:
        viewer.add_layer(layer)
    finally:
        if switch is True:
            layers._activate_on_insert = True
    if set(selection) == chosen:
        return
    if active is not None:
        selection.active = active
    else:
        selection.intersection_update(chosen)
        selection.update(chosen)


def place_layer(layer: Any, placing: dict[str, Any]) -> None:
    """Move a layer; what is as it should be is left, for each change costs a drawing."""
    for name in _PLACING:
        value, now = placing[name], getattr(layer, name)
        if name == "affine":
            now = now.affine_matrix
        if name == "shear":
            value, now = shear_matrix(value, layer.ndim), shear_matrix(now, layer.ndim)
        same = now == value if name in ("units", "axis_labels") else np.array_equal(now, value)
        if not same:
            setattr(layer, name, value)


@contextmanager
def one_refresh(layer: Any) -> Iterator[None]:
    """Draw once, at the end, whatever changes."""
    block = getattr(layer, "_block_refresh", None)
    if block is None:
        yield
    else:
        with block():
            yield
    layer.refresh(extent=False)


def told_of(layer: Any) -> dict[str, Any]:
    """Return what a layer's metadata says of how it came about; empty where nothing."""
    told = layer.metadata.get(KEY)
    return dict(told) if isinstance(told, dict) else {}


def tell(layer: Any, told: dict[str, Any]) -> None:
    """Write into a layer's metadata how it came about."""
    if layer.metadata.get(KEY) != told:
        layer.metadata = {**layer.metadata, KEY: dict(told)}
