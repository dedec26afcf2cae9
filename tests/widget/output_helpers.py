"""Results in result layers, and the ways in which a person may touch one."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")


from napari_unetpp.core.config import ClassInfo, InstanceRule, ModelCard, NetworkConfig
from napari_unetpp.widget.output import Provenance
from napari_unetpp.widget.screen import on_screen


def card_of(classes=2, axes="YX", auxiliary=(), name="toy"):
    colours = ["#ff0000", "#00ff00", "#0000ff"]
    return ModelCard(
        name=name,
        network=NetworkConfig(
            ndim=len(axes), out_channels=classes + len(auxiliary), filters=(2, 4)
        ),
        classes=tuple(ClassInfo(f"class {k}", colours[k]) for k in range(classes)),
        auxiliary=auxiliary,
        axes=axes,
        instances=InstanceRule() if auxiliary else None,
        levels_trained=(1,),
    )


CARD = card_of()


def how(kind="labels", **changes):
    values = {
        "model": "toy",
        "model_sha": "abc",
        "level": 1,
        "threshold": 0.5,
        "kind": kind,
        "version": "1.0",
        **changes,
    }
    return Provenance(**values)


def run(outputs, image, value=1, kind="labels", axes="YX", card=CARD, **changes):
    layer, sink = outputs.start(image, axes, card, kind, how(kind, **changes))
    sink[tuple(slice(None) for _ in sink.shape)] = value
    outputs.finish(layer, {})
    return layer


def touch_brush(layer):
    layer.paint((2, 2), 1)


def touch_fill(layer):
    layer.fill((2, 2), 2)


def touch_erase(layer):
    layer.mode = "erase"
    layer.paint((2, 2), 0)


def touch_polygon(layer):
    layer.paint_polygon([(1, 1), (1, 4), (4, 4)], 2)


def touch_undo(layer):
    layer.paint((2, 2), 2)
    layer.undo()


def touch_items(layer):
    layer.data_setitem((np.array([2]), np.array([2])), 2)


def touch_replace(layer):
    layer.data = np.full(layer.data.shape, 2, layer.data.dtype)


TOUCHES = [touch_fill, touch_erase, touch_polygon, touch_undo, touch_items, touch_replace]


def show(viewer, outputs, image, value, kind="labels", card=CARD, axes="YX"):
    shown = on_screen(viewer, image, axes, model_axes="YX", max_pixels=10**7)
    shape = [stop - start for start, stop in shown.region]
    if kind == "probabilities":
        data = np.full([len(card.channel_names), *shape], value, np.float32)
    else:
        data = np.full(shape, value, np.uint8 if kind == "labels" else np.int32)
    return outputs.show_view(image, shown, kind, data, card, how(kind, live=True))
