"""The napari layers of a result: made, and brought up to date with its arrays.

Knows layers and arrays; not which results there are, nor when they change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.widget.appearance import layer_looks
from napari_unetpp.widget.frame import one_refresh, place_layer, tell
from napari_unetpp.widget.provenance import KEY

# What someone does to a layer that makes it theirs.
_EVENTS = ("data", "paint", "labels_update")


def new_layers(
    kind: str,
    arrays: Sequence[NDArray[Any]],
    names: Sequence[str],
    card: ModelCard,
    placing: dict[str, Any],
    told: dict[str, Any],
) -> list[Any]:
    """Return new layers of a result, an array and a name each; they are in no viewer yet."""
    from napari.layers import Image, Labels

    make = Image if kind == "probabilities" else Labels
    looks = layer_looks(card, kind)
    return [
        make(array, name=name, metadata={KEY: dict(told)}, **placing, **look)
        for array, name, look in zip(arrays, names, looks, strict=True)
    ]


def update_layer(
    layer: Any,
    array: NDArray[Any],
    placing: dict[str, Any],
    told: dict[str, Any],
    look: dict[str, Any],
) -> None:
    """Give a layer another array, place, origin and look; whether it is shown stays."""
    with one_refresh(layer):
        if layer.data is not array:
            layer.data = array
        place_layer(layer, placing)
        for name, value in look.items():
            if name != "visible":
                setattr(layer, name, value)
    tell(layer, told)


def watch(layer: Any, touched: Callable[[Any], None]) -> None:
    """Hear of it when someone paints a layer or gives it other data."""
    for event in _EVENTS:
        if event in layer.events.emitters:
            layer.events.emitters[event].connect(touched)


def unwatch(layer: Any, touched: Callable[[Any], None]) -> None:
    """Hear of it no longer."""
    for event in _EVENTS:
        if event in layer.events.emitters:
            layer.events.emitters[event].disconnect(touched)
