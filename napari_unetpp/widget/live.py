"""Live: what is on screen, level after level, as soon as the view holds still.

Keeps the probabilities of each level of the view that is shown, so that a move of the slider to
one of them, and every move of the threshold, needs no new work. Knows the panel, the engine's
client and the output layers; computes nothing itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from napari_unetpp import __version__
from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.nn.variants import kept_values
from napari_unetpp.core.run.results import deciding_channels, labels_of, result_channels
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import Finished, Level, LevelReady, Noted, ViewRequest
from napari_unetpp.widget.figures import Figures
from napari_unetpp.widget.level_words import level_name
from napari_unetpp.widget.output import OutputLayers, Provenance
from napari_unetpp.widget.panel import Panel
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.screen import OnScreen, camera_of, on_screen
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.stop_slider import level_at

if TYPE_CHECKING:
    import napari

SETTLE_MILLISECONDS = 30
"""So long a view must hold still: a pan sends an event with every move of the mouse."""

REMOVED_MILLISECONDS = 100
"""So long a live layer outlives its image: napari's drawing crashes (segmentation fault) if a
second layer goes before it has drawn without the first."""


@dataclass
class _View:
    """A view and what was computed of it."""

    key: tuple[Any, ...]
    screen: OnScreen
    layer: Any
    card: ModelCard
    levels: dict[Level, NDArray[np.float32]] = field(default_factory=dict)
    tiles: str = ""  # how many came to which level, at "auto"
    objects: dict[tuple[Any, ...], NDArray[np.int32]] = field(default_factory=dict)
    shown: tuple[Any, ...] = ()

    @property
    def megapixels(self) -> float:
        return math.prod(stop - start for start, stop in self.screen.region) / 1e6


class Live:
    """Keeps the live layer of the chosen image up to date.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose camera and slices are followed.
    panel, selection, engine, outputs, figures, relay
        The dock's parts.
    megabytes : int
        Memory for kept nodes; a view that needs more is predicted in its middle.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        panel: Panel,
        selection: Selection,
        engine: Engine,
        outputs: OutputLayers,
        figures: Figures,
        relay: Relay,
        megabytes: int,
    ) -> None:
        self.viewer, self.panel, self.selection, self.engine = viewer, panel, selection, engine
        self.outputs, self.figures, self.relay = outputs, figures, relay
        self.megabytes = megabytes
        self.view: _View | None = None
        self.job: Job | None = None
        self._object_job: Job | None = None
        self._paused = False
        self._failed: tuple[Any, ...] | None = None  # a view that failed is not tried for ever
        self._timer = QTimer(relay)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MILLISECONDS)
        self._timer.timeout.connect(self.update)
        camera = camera_of(viewer).events
        self._emitters = [
            camera.zoom,
            camera.center,
            camera.angles,
            viewer.dims.events.current_step,
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
        ]
        for emitter in self._emitters:
            emitter.connect(self._moved)
        selection.listen(self._selected)
        panel.live_changed.connect(self._switched)
        panel.level_changed.connect(self._level_moved)
        panel.ensemble_changed.connect(self._level_moved)
        panel.threshold_changed.connect(lambda _: self._show())
        panel.output_changed.connect(lambda _: self._output_changed())
        panel.min_size_changed.connect(lambda _: self._show())

    def close(self) -> None:
        """Stop following the viewer."""
        for emitter in self._emitters:
            emitter.disconnect(self._moved)
        self._timer.stop()
        self._drop_jobs()

    # What asks for an update

    def _moved(self, event: Any = None) -> None:
        if self.panel.live and not self._paused:
            self._timer.start()

    def _selected(self, what: str) -> None:
        self._failed = None
        if self.view is not None and what in ("place", "image"):
            self.view.shown = ()  # where it lies may be another place now
        if self.view is not None and self.view.layer is not self.selection.layer:
            old = self.view.layer
            if old in self.viewer.layers:
                self.forget()
            else:  # nothing is left that it could show
                self._drop_jobs()
                self.view = None
                QTimer.singleShot(
                    REMOVED_MILLISECONDS,
                    lambda: self.relay.post(lambda: self.outputs.drop_view(old)),
                )
        self._moved()

    def _switched(self, on: bool) -> None:
        self._failed = None
        if on:
            self.update()
        else:
            self.forget()
            self.panel.set_status("live is off", "info")

    def _level_moved(self, _: Any = None) -> None:
        """Show a level that is known at once; ask for one that is not."""
        self._show()
        if self.panel.live and not self._paused:
            self.update()

    def _output_changed(self) -> None:
        if self.view is not None:
            self.outputs.hide_view(self.view.layer)
            self.view.shown = ()
        self._show()

    def pause(self) -> None:
        """Leave the worker to a run, and the screen to its result."""
        self._paused = True
        self._timer.stop()
        self.forget()

    def resume(self) -> None:
        """Go on after a run, with the next move: what it gave is not to be covered at once."""
        self._paused = False

    def forget(self) -> None:
        """Drop the view and its jobs, and hide its layer: to remove it takes napari long."""
        self._drop_jobs()
        if self.view is not None:
            self.outputs.hide_view(self.view.layer)
        self.view = None

    def _drop_jobs(self) -> None:
        for job in (self.job, self._object_job):
            if job is not None:
                job.drop()
        self.job = self._object_job = None

    # Asking

    @property
    def target(self) -> Level:
        """The level to go to."""
        return "ensemble" if self.panel.ensemble else level_at(self.panel.level)

    def update(self) -> None:
        """Ask for what is on screen, as far as it is not known."""
        selection = self.selection
        layer, card = selection.layer, selection.card
        if not self.panel.live or self._paused or layer is None or card is None:
            return
        most = self.most_pixels()
        screen = on_screen(
            self.viewer, layer, selection.axes, model_axes=card.axes, max_pixels=most
        )
        if isinstance(screen, str):
            self.forget()
            self.panel.set_status(f"live: {screen}", "info")
            return
        model = selection.model
        key = (
            screen.source.key, screen.source.axes, screen.region, model, selection.identity,
            selection.channel,
        )  # fmt: skip
        if key == self._failed:
            return
        view = self.view
        if view is None or view.key != key:
            self._drop_jobs()
            view = self.view = _View(key, screen, layer, card)
        view.screen = screen
        wanted = self._wanted(view)
        if not wanted:
            if self.job is not None:  # deeper than the slider stands: not needed any more
                self.job.drop()
                self.job = None
            self._show()
            return
        if self.job is not None:
            self.job.drop()
        request = ViewRequest(
            model, self.target, screen.region, selection.channel, tuple(_whole(view.levels))
        )
        self.job = job = self.engine.view(screen.source, request)
        self.panel.set_status("live: looking …", "busy")
        self.relay.follow(job, lambda event: self._heard(job, view, event))

    def most_pixels(self) -> int:
        """Return how many pixels of a view are predicted at most."""
        card = self.selection.card
        return pixels_for(card, self.megabytes) if card is not None else 1

    def _wanted(self, view: _View) -> list[Level]:
        """Return the levels that are still to be computed for the slider's stop."""
        trained = sorted(view.card.levels_trained)
        if self.target == "ensemble":
            wanted: list[Level] = [*trained, "ensemble"]
        elif self.target == "auto":
            wanted = [trained[0], "auto"]
        else:
            wanted = [k for k in trained if k <= int(self.target)]
        return [k for k in wanted if k not in view.levels]

    # Hearing

    def _heard(self, job: Job, view: _View, event: Any) -> None:
        if job is not self.job or view is not self.view:
            return  # of a view that is gone
        if isinstance(event, LevelReady):
            view.levels[event.level] = event.probabilities
            self._average(view)
            self.figures.measured(event.level, event.seconds, view.megapixels)
            self._show()
        elif isinstance(event, Noted) and event.code == "auto-tiles":
            view.tiles = event.message
        elif isinstance(event, Noted):
            self.panel.set_status(event.message, "info")
        elif isinstance(event, Finished):
            self.job = None
            if event.state == "failed":
                self._failed = view.key
                self.panel.set_status(f"live: {event.error}", "error")
            elif self._wanted(view):
                self._moved()

    def _average(self, view: _View) -> None:
        """Make the ensemble from the heads, which are all here with the last of them."""
        trained = view.card.levels_trained
        if "ensemble" not in view.levels and all(k in view.levels for k in trained):
            total = sum(view.levels[k] for k in trained[1:]) + view.levels[trained[0]]
            view.levels["ensemble"] = total / np.float32(len(trained))

    # Showing

    def best(self) -> Level | None:
        """Return the level to show: the slider's stop, or the deepest known before it."""
        view = self.view
        if view is None:
            return None
        if self.target in view.levels:
            return self.target
        limit = self.target if isinstance(self.target, int) else math.inf
        known = [k for k in _whole(view.levels) if k <= limit]
        return max(known, default=None)

    def _show(self) -> None:
        """Show the best level that is known, at the threshold as it is."""
        view, level = self.view, self.best()
        if view is None or level is None:
            return
        panel = self.panel
        kind, threshold = panel.output, panel.threshold
        state = (level, kind, threshold, panel.min_size if kind == "instances" else 0)
        if state == view.shown:
            return
        probabilities = view.levels[level]
        data: NDArray[Any]
        if kind == "labels":
            channels = (probabilities[k] for k in deciding_channels(view.card))
            data = labels_of(channels, view.card, threshold)
        elif kind == "probabilities":
            data = probabilities[list(result_channels(view.card))]
        else:
            found = view.objects.get(state)
            if found is None:
                self._find_objects(view, state, probabilities)
                return
            data = found
        view.shown = state
        provenance = Provenance(
            model=view.card.name,
            model_sha=self.selection.identity,
            level=level,
            threshold=threshold,
            kind=kind,
            version=__version__,
            live=True,
        )
        self.outputs.show_view(view.layer, view.screen, kind, data, view.card, provenance)
        self._say(level)

    def _say(self, level: Level) -> None:
        view = self.view
        if view is None:
            return
        parts = [f"live: {level_name(level)}"]
        if level == "auto":
            parts[0] += f" ({view.tiles})"
        if self._wanted(view) and self.job is not None:
            parts.append(f"on the way to {level_name(self.target)}")
        if max(view.screen.downsampling, default=1.0) > 1.01:
            parts.append(f"at 1/{max(view.screen.downsampling):.3g} of full resolution")
        if view.screen.clipped:
            parts.append("the middle of the view alone; zoom in, or press Run")
        going_on = self.job is not None and bool(self._wanted(view))
        self.panel.set_status(", ".join(parts), "busy" if going_on else "info")

    def _find_objects(
        self, view: _View, state: tuple[Any, ...], probabilities: NDArray[np.float32]
    ) -> None:
        """Have the worker separate objects; the newest wish counts."""
        if self._object_job is not None:
            self._object_job.drop()
        job = self.engine.objects(probabilities, self.selection.model, state[2], state[3])
        self._object_job = job

        def heard(event: Any) -> None:
            if not isinstance(event, Finished) or job is not self._object_job:
                return
            self._object_job = None
            if event.state == "done" and view is self.view:
                view.objects = {state: event.result}
                self._show()
            elif event.state == "failed":
                self.panel.set_status(f"live: {event.error}", "error")

        self.relay.follow(job, heard)


def pixels_for(card: ModelCard, megabytes: int) -> int:
    """Return how many pixels a view may have whose nodes are all kept in float32."""
    return max(1, int(megabytes * 1e6 / (4 * kept_values(card.network, max(card.levels_trained)))))


def _whole(levels: dict[Level, Any]) -> list[int]:
    return sorted(k for k in levels if isinstance(k, int))
