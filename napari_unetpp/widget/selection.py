"""What the dock works on: image layer, axes, channel and model.

Follows the viewer's layers and the panel's choices, and says when something changed. Knows
layers and cards; no engine, no result.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.model.cards import bundled_models, read_identity
from napari_unetpp.engine.protocol import LayerSource, ModelRequest
from napari_unetpp.widget.layer_image import axes_choices, layer_axes, layer_channels, layer_source
from napari_unetpp.widget.models import ModelList
from napari_unetpp.widget.notify import report_error
from napari_unetpp.widget.panel import ModelItem, Panel
from napari_unetpp.widget.provenance import KEY
from napari_unetpp.widget.settings import Preferences

if TYPE_CHECKING:
    import napari


PLACING = ("translate", "rotate", "shear", "affine")
WATCHED = ("data", "name", "axis_labels", "scale", "units", *PLACING)
MOST_AXES = 6
"""Position, time, channel, Z, Y and X."""


class Selection:
    """The choices above the slider.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers are offered.
    panel : Panel
        Where they are chosen.
    models : ModelList
        Models that are offered.
    preferences : Preferences
        Device, precision and threads.
    """

    def __init__(
        self, viewer: napari.Viewer, panel: Panel, models: ModelList, preferences: Preferences
    ) -> None:
        self.viewer, self.panel, self.models = viewer, panel, models
        self.preferences = preferences
        self.layer: Any = None
        self.card: ModelCard | None = None
        self.identity = ""  # hash of the model's file
        self._axes: dict[int, str] = {}  # what the user said of a layer's axes
        self._model = ""
        self._listeners: list[Callable[[str], None]] = []
        layers = viewer.layers
        for emitter in (layers.events.inserted, layers.events.removed, layers.events.reordered):
            emitter.connect(self._layers_changed)
        layers.selection.events.active.connect(self._active_changed)
        panel.image_changed.connect(self.choose_layer)
        panel.axes_changed.connect(self.choose_axes)
        panel.channel_changed.connect(lambda _: self._tell("image"))
        panel.model_changed.connect(self.choose_model)

    def listen(self, callback: Callable[[str], None]) -> None:
        """Be told of changes.

        ``"image"`` (layer, axes, channel), ``"place"``, ``"model"``, or ``"state"``, which is
        another state of the same model.
        """
        self._listeners.append(callback)

    def close(self) -> None:
        """Stop following the viewer."""
        layers = self.viewer.layers
        for emitter in (layers.events.inserted, layers.events.removed, layers.events.reordered):
            emitter.disconnect(self._layers_changed)
        layers.selection.events.active.disconnect(self._active_changed)
        self._watch(None)
        self._listeners.clear()

    def start(self) -> None:
        """Fill the panel with what is there."""
        self.refresh_models()
        self._layers_changed()
        self._active_changed()

    # Layers

    def images(self) -> list[Any]:
        """Return the layers that can be segmented: images that are no results of ours."""
        from napari.layers import Image

        return [
            x
            for x in self.viewer.layers
            if isinstance(x, Image) and KEY not in x.metadata and 2 <= x.ndim <= MOST_AXES
        ]

    def choose_layer(self, layer: Any) -> None:
        """Work on a layer; None for none."""
        if layer is self.layer:
            return
        self._watch(layer)
        self.layer = layer
        self._show_layer()
        self._tell("image")

    def _layers_changed(self, event: Any = None) -> None:
        images = self.images()
        layer = self.layer
        if all(x is not layer for x in images):
            active = self.viewer.layers.selection.active
            layer = next((x for x in images if x is active), images[-1] if images else None)
        changed = layer is not self.layer
        self._watch(layer)
        self.layer = layer
        known = {id(x) for x in images}
        self._axes = {key: axes for key, axes in self._axes.items() if key in known}
        self._show_layer()
        if changed:
            self._tell("image")

    def _active_changed(self, event: Any = None) -> None:
        active = self.viewer.layers.selection.active
        if any(x is active for x in self.images()):
            self.choose_layer(active)

    def _watch(self, layer: Any) -> None:
        """Follow the chosen layer's data, and that of no other."""
        if layer is self.layer:
            return
        for old, connect in ((self.layer, False), (layer, True)):
            for name in WATCHED:
                emitter = getattr(old.events, name, None) if old is not None else None
                if emitter is not None and connect:
                    emitter.connect(self._layer_edited)
                elif emitter is not None:
                    emitter.disconnect(self._layer_edited)

    def _layer_edited(self, event: Any = None) -> None:
        kind = getattr(event, "type", "")
        if kind in PLACING:
            self._tell("place")
            return
        self._show_layer()
        if kind != "name":
            self._tell("image")

    def _show_layer(self) -> None:
        images = self.images()
        self.panel.set_empty(not images)
        self.panel.set_images([(x.name, x) for x in images], self.layer)
        if self.layer is None:
            self.panel.set_channels([], None)
            return
        axes = self.axes
        self.panel.set_axes(axes, axes_choices(self.layer))
        names = layer_channels(self.layer, axes)
        current = self.panel.channel or 0
        self.panel.set_channels(names, min(current, len(names) - 1) if names else None)

    # Axes and channel

    @property
    def axes(self) -> str:
        """Axes of the layer: what the user said, or what the layer says."""
        guess = layer_axes(self.layer)
        chosen = self._axes.get(id(self.layer), "")
        # The data may have been replaced since.
        return chosen if len(chosen) == len(guess) else guess

    def choose_axes(self, text: str) -> None:
        """Read the axes of the layer as these letters."""
        if self.layer is None:
            return
        self._axes[id(self.layer)] = text
        self._show_layer()
        self._tell("image")

    @property
    def channel(self) -> int | None:
        """The channel for a model that takes one; None where the image has but one."""
        if self.layer is None or self.card is None or self.card.network.in_channels != 1:
            return None
        names = layer_channels(self.layer, self.axes)
        return (self.panel.channel or 0) if len(names) > 1 else None

    def source(self) -> LayerSource:
        """Return the layer's pixels as the engine wants them."""
        return layer_source(self.layer, self.axes)

    # Models

    def refresh_models(self) -> None:
        """Show the models that there are now."""
        entries = self.models.entries()
        items = [ModelItem(e.label, e.value, e.group, e.tooltip) for e in entries]
        values = [e.value for e in entries]
        wanted = self._model if self._model in values else (values[0] if values else "")
        self.panel.set_models(items, wanted)
        if wanted and (wanted != self._model or self.card is None):
            self.choose_model(wanted)

    def choose_model(self, value: str) -> None:
        """Work with a model; one that cannot be read leaves the one before."""
        try:
            card, identity = self.models.card(value), read_identity(value)
        except UNetPPError as error:
            report_error(self.panel, str(error))
            if self._model:
                self.refresh_models()
            return
        self._model, self.card, self.identity = value, card, identity
        self.models.remember(value)
        self._show_layer()
        self._tell("model")

    def add_model(self, path: str) -> None:
        """Offer a model file and choose it."""
        try:
            self.models.add_file(path)
        except UNetPPError as error:
            report_error(self.panel, str(error))
            return
        self.choose_model(os.path.abspath(path))
        self.refresh_models()

    def choose_state(self, value: str) -> None:
        """Work with another state of the model: fine-tuned, or as it was before.

        What was set by hand, the threshold for one, stays. The file may be one that was chosen
        before and whose content is new.

        Raises
        ------
        UNetPPError
            If it cannot be read; nothing changes then.
        """
        if value not in bundled_models():
            self.models.add_file(value)
        self.card, self.identity = self.models.card(value), read_identity(value)
        self._model = value
        self.refresh_models()
        self._tell("state")

    @property
    def model(self) -> ModelRequest:
        """The model, and where it runs."""
        own = self.preferences
        return ModelRequest(self._model, own.device, own.precision, own.threads or None)

    @property
    def model_value(self) -> str:
        """Name or path of the model."""
        return self._model

    def _tell(self, what: str) -> None:
        for listener in list(self._listeners):
            listener(what)
