"""Where to paint next: the view moved to the next place, and a map of how unsure the model is.

Asks the engine for places in the slice that is shown (in a very large one, in what is on
screen), and for the map of what is on screen. Knows the form, the viewer and the engine's client;
computes nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer

from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import Finished, LayerSource, Suggestion, SuggestRequest
from napari_unetpp.widget.painting import Painting
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.screen import (
    Bounds,
    OnScreen,
    camera_of,
    on_screen,
    slice_region,
    unit_scale,
    without_channels,
)
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.teach_form import TeachForm
from napari_unetpp.widget.uncertainty_layer import UncertaintyLayer

if TYPE_CHECKING:
    import napari

MOST_PIXELS = 2**22
"""Of a slice that is searched; of a larger one, what is on screen is."""

SETTLE_MILLISECONDS = 250
COUNT = 5


class Suggesting:
    """The button Next place to paint, and the check Uncertainty.

    Parameters
    ----------
    viewer, form, selection, painting, engine, relay
        The dock's parts.
    most_pixels : callable
        Returns how many pixels of what is on screen may be looked at.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        form: TeachForm,
        selection: Selection,
        painting: Painting,
        engine: Engine,
        relay: Relay,
        most_pixels: Callable[[], int],
    ) -> None:
        self.viewer, self.form, self.selection = viewer, form, selection
        self.painting, self.engine, self.relay = painting, engine, relay
        self._most_pixels = most_pixels
        self.places: list[tuple[OnScreen, Suggestion]] = []
        self._asked: tuple[Any, ...] = ()
        self._number = 0
        self._job: Job | None = None
        self._map_job: Job | None = None
        self._map_key: tuple[Any, ...] = ()
        self.map = UncertaintyLayer(viewer)
        self._timer = QTimer(relay)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MILLISECONDS)
        self._timer.timeout.connect(self.update_map)
        form.next_clicked.connect(self.next_place)
        form.uncertainty_changed.connect(self._switched)
        camera = camera_of(viewer).events
        dims = viewer.dims.events
        self._emitters = [
            camera.zoom, camera.center, dims.current_step, dims.order, dims.ndisplay,
        ]  # fmt: skip
        for emitter in self._emitters:
            emitter.connect(self._moved)
        selection.listen(self._selected)

    def close(self) -> None:
        """Stop following the viewer."""
        for emitter in self._emitters:
            emitter.disconnect(self._moved)
        self._timer.stop()
        for job in (self._job, self._map_job):
            if job is not None:
                job.drop()
        self._job = self._map_job = None

    def problem(self) -> str:
        """Return why there are no suggestions; empty if there are."""
        selection = self.selection
        if selection.layer is None:
            return "There is no image: open one, or a sample."
        if selection.card is None:
            return "There is no model: choose one."
        if len(selection.card.levels_trained) < 2:
            return "This model has one level, so nothing can differ: choose another one."
        return ""

    # The next place

    def next_place(self) -> None:
        """Move the view to the next place; ask for places where none are left."""
        if problem := self.problem():
            self.form.set_status(problem, "warning")
            return
        where = self._where()
        if isinstance(where, str):
            self.form.set_status(where, "warning")
            return
        counts = self.painting.counts
        asked = (
            where.source.key, where.region, self.selection.identity, self.selection.channel,
            None if counts is None else tuple(sorted(counts.items())),
        )  # fmt: skip
        # What is on screen is not asked anew because a suggestion moved it.
        whole = where.region == self._slice_region()
        same = asked == self._asked or (not whole and asked[2:] == self._asked[2:])
        if same and self._number < len(self.places):
            self._go()
            return
        self._asked = asked
        if self._job is not None:
            self._job.drop()
        self.form.set_status("looking for places where the levels are unsure …", "busy")
        request = SuggestRequest(self.selection.model, where.region, self.selection.channel, COUNT)
        self._job = job = self.engine.suggest(where.source, request, self._painted(where), None)

        def heard(event: Any) -> None:
            if not isinstance(event, Finished) or job is not self._job:
                return
            self._job = None
            if event.state == "done":
                self.places, self._number = [(where, place) for place in event.result], 0
                self._go()
            elif event.state == "failed":
                self.form.set_status(f"no suggestions: {event.error}", "error")

        self.relay.follow(job, heard)

    def _where(self) -> OnScreen | str:
        """Return the slice that is shown, or what is on screen of a very large one."""
        selection, layer = self.selection, self.selection.layer
        card = selection.card
        assert card is not None
        region = self._slice_region()
        if isinstance(region, str):
            return region
        if math.prod(stop - start for start, stop in region) <= MOST_PIXELS:
            source = selection.source()
            return OnScreen(source, region, (1.0,) * len(region))
        return on_screen(
            self.viewer, layer, selection.axes, model_axes=card.axes, max_pixels=MOST_PIXELS
        )

    def _slice_region(self) -> Bounds | str:
        selection = self.selection
        card = selection.card
        assert card is not None
        axes = without_channels(selection.axes)
        return slice_region(self.viewer, selection.layer, selection.axes, axes, card.axes)

    def _painted(self, where: OnScreen) -> LayerSource | None:
        """Return the paint, so that its places are left out; not at a coarser level."""
        if self.painting.layer is None or max(where.downsampling) > 1:
            return None
        try:
            return self.painting.source()
        except UNetPPError:
            return None

    def _go(self) -> None:
        if self._number >= len(self.places):
            self.form.set_status(
                "the levels agree everywhere that is not painted: there is nothing to suggest.",
                "info",
            )
            return
        where, place = self.places[self._number]
        self._number += 1
        self._show(where, place)
        self.form.set_status(
            f"place {self._number} of {len(self.places)}: the middle of the view is where the "
            "levels are least sure; paint there what is right.",
            "info",
        )

    def _show(self, where: OnScreen, place: Suggestion) -> None:
        """Move camera and sliders so that a place is in the middle of the view."""
        layer, axes = self.selection.layer, where.source.axes
        if layer not in self.viewer.layers:
            return
        index = np.zeros(layer.ndim)
        sides = []
        for letter, (start, stop), step in zip(
            where.axes, place.box, where.downsampling, strict=True
        ):
            if letter in "YX":
                index[axes.index(letter)] = (start + stop - 1) / 2 * step + (step - 1) / 2
                sides.append((stop - start) * step)
            else:
                index[axes.index(letter)] = (start + stop - 1) // 2 * step
        units = unit_scale(self.viewer, layer)
        world = np.asarray(layer.data_to_world(index), dtype=float) / units
        offset = self.viewer.dims.ndim - layer.ndim
        shown = set(self.viewer.dims.displayed)
        for k, value in enumerate(world):
            if k + offset not in shown and axes[k : k + 1] != "C":
                self.viewer.dims.set_point(k + offset, float(value))
        camera = camera_of(self.viewer)
        center = list(camera.center)
        for position, axis in enumerate(self.viewer.dims.displayed):
            center[len(center) - len(shown) + position] = float(world[axis - offset])
        camera.center = tuple(center)
        scale = float(np.abs(np.asarray(layer.scale)[-1]) / units[-1])
        canvas = getattr(self.viewer, "canvas", None)
        size = min(
            self.viewer._canvas_size if canvas is None else canvas.viewbox_size(self.viewer.layers)
        )
        # The place fills a third of the view; someone who is closer stays there.
        camera.zoom = max(camera.zoom, size / (3 * max(sides) * scale)) if sides else camera.zoom

    # The map

    def _switched(self, on: bool) -> None:
        if on:
            self._map_key = ()
            self.update_map()
        else:
            self._hide_map()

    def _moved(self, event: Any = None) -> None:
        if self.form.uncertainty:
            self._timer.start()

    def _selected(self, what: str) -> None:
        if what in ("image", "model", "state"):
            self.places, self._asked = [], ()
        if what == "image" and self._job is not None:
            # Its places are on another image, or on other axes.
            job, self._job = self._job, None
            job.drop()
            self.form.set_status("", "none")
        self._moved()

    def _drop_map(self) -> None:
        if self._map_job is not None:
            self._map_job.drop()
        self._map_job = None

    def _hide_map(self) -> None:
        self._drop_map()
        self._map_key = ()  # so that it is asked for again, where it was shown before
        self.map.hide()

    def update_map(self) -> None:
        """Ask for the map of what is on screen, if it is another one."""
        selection = self.selection
        if not self.form.uncertainty or self.problem():
            self._hide_map()
            return
        card, layer = selection.card, selection.layer
        assert card is not None
        screen = on_screen(
            self.viewer, layer, selection.axes, model_axes=card.axes,
            max_pixels=self._most_pixels(),
        )  # fmt: skip
        if isinstance(screen, str):
            self._hide_map()
            return
        key = (screen.source.key, screen.region, selection.identity, selection.channel)
        if key == self._map_key:
            return
        self._drop_map()
        self._map_key = key
        sink = np.zeros([stop - start for start, stop in screen.region], np.float32)
        request = SuggestRequest(selection.model, screen.region, selection.channel, 1)
        self._map_job = job = self.engine.suggest(screen.source, request, None, sink)

        def heard(event: Any) -> None:
            if not isinstance(event, Finished) or job is not self._map_job:
                return
            self._map_job = None
            if event.state == "done" and layer is selection.layer and layer in self.viewer.layers:
                self.map.show(layer, screen, sink)
            elif event.state == "failed":
                self._map_key = ()
                self.form.set_status(f"no map of uncertainty: {event.error}", "error")

        self.relay.follow(job, heard)
