"""How results look: names, colours and limits of their layers, from the model's card.

- labels: one Labels layer in the classes' colours; the status bar names the class.
- objects: one Labels layer in napari's own cycle of colours.
- probabilities: one Image layer for each class, additive, from black to the class's colour,
  limits 0 to 1; auxiliary channels ("centre") follow in gray, hidden at first.
"""

from __future__ import annotations

from typing import Any

from napari.utils.colormaps import Colormap, DirectLabelColormap

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.run.results import result_names

_WORDS = {"labels": "labels", "instances": "objects"}
TRANSPARENT = (0.0, 0.0, 0.0, 0.0)
_BLACK = (0.0, 0.0, 0.0, 1.0)
GRAY = (0.6, 0.6, 0.6, 1.0)


def layer_names(image_name: str, card: ModelCard, kind: str, *, live: bool) -> list[str]:
    """Return the name of each layer of a result."""
    prefix = f"{image_name}: {'live ' if live else ''}"
    if kind != "probabilities":
        return [prefix + _WORDS[kind]]
    return [f"{prefix}probability of {name}" for name in result_names(card)]


def layer_looks(card: ModelCard, kind: str) -> list[dict[str, Any]]:
    """Return napari's keyword arguments for each layer of a result."""
    if kind == "instances":
        return [{}]
    if kind == "labels":
        return [{"colormap": class_colormap(card), "features": class_features(card)}]
    colours = [c.color for c in card.classes]
    looks = []
    for k in range(len(result_names(card))):
        auxiliary = k >= len(colours)
        colour = "#ffffff" if auxiliary else colours[k]
        looks.append(
            {
                "colormap": Colormap([_BLACK, rgba(colour)], name=f"to {colour}"),
                "contrast_limits": (0.0, 1.0),
                "blending": "additive",
                "visible": not auxiliary,
            }
        )
    return looks


def class_colormap(card: ModelCard) -> DirectLabelColormap:
    """Return the colours of the classes' label values; what is painted beyond them is gray."""
    colours: dict[int | None, Any] = {0: TRANSPARENT, None: GRAY}
    colours |= {k: rgba(c.color) for k, c in enumerate(card.classes, start=1)}
    return DirectLabelColormap(color_dict=colours)


def class_features(card: ModelCard) -> dict[str, list[Any]]:
    """Return the table by which napari's status bar names the class under the cursor."""
    names = ["background", *(c.name for c in card.classes)]
    return {"index": list(range(len(names))), "class": names}


def rgba(colour: str) -> tuple[float, float, float, float]:
    """Return a colour like ``#3fb27f`` as napari wants it, opaque."""
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return (red, green, blue, 1.0)
