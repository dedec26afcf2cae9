"""The dock widget of napari: puts panel, selection, live and run together for one viewer.

Nothing is decided here; each part lives in a module of its own name.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox, QVBoxLayout, QWidget

from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.model.cards import SUFFIX
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import EngineState, Finished, ModelReady
from napari_unetpp.widget.column import Column
from napari_unetpp.widget.command import segment_command
from napari_unetpp.widget.figures import LEAST_FOR_AUTO, Figures
from napari_unetpp.widget.live import Live
from napari_unetpp.widget.models import ModelList
from napari_unetpp.widget.notify import report_error
from napari_unetpp.widget.output import OutputLayers
from napari_unetpp.widget.panel import Panel
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.run import Run
from napari_unetpp.widget.screen import camera_of
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.settings import Preferences, read_preferences, watch_preferences
from napari_unetpp.widget.stop_slider import AUTO
from napari_unetpp.widget.teach_section import TeachSection

if TYPE_CHECKING:
    import napari.viewer

KEYS = {
    "Alt-R": "run",
    "Alt-X": "cancel",
    "Alt-Right": "level_up",
    "Alt-Left": "level_down",
    "Alt-U": "toggle",
}
"""Free in napari, and no letters of its menus; desktops keep Ctrl+Alt for themselves."""


class UNetPPWidget(QWidget):
    """UNet++ on the open image.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer that it is docked in.
    engine : Engine, optional
        One that runs already, which whoever made it closes; an own one if None.

    Attributes
    ----------
    panel, teach, selection, live, runner, outputs, figures, engine
        Its parts.
    """

    _docked = False

    def __init__(self, viewer: napari.viewer.Viewer, *, engine: Engine | None = None) -> None:
        super().__init__()
        self.setObjectName("unetpp_dock")
        self.setWindowTitle("UNet++")
        self.setAccessibleName("UNet++")
        # napari hands plug-ins a proxy, which wraps anew what is asked of it: its active layer
        # would be none of its layers.
        viewer = getattr(viewer, "__wrapped__", viewer)
        self.viewer = viewer
        preferences = read_preferences()
        self.panel = panel = Panel(self)
        self.relay = Relay(self)
        self._own_engine = engine is None
        self.engine = engine = engine or Engine()
        self.outputs = OutputLayers(viewer)
        self.selection = Selection(viewer, panel, ModelList(), preferences)
        self.figures = Figures(panel)
        self.live = Live(
            viewer,
            panel,
            self.selection,
            self.engine,
            self.outputs,
            self.figures,
            self.relay,
            preferences.live_megabytes,
        )
        self.runner = Run(
            viewer,
            panel,
            self.selection,
            self.engine,
            self.outputs,
            self.figures,
            self.relay,
        )
        self.teach = TeachSection(
            viewer, panel, self.selection, self.engine, self.relay, self.live.most_pixels
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(Column(panel, self.teach))
        self.runner.before.append(self.live.pause)
        self.runner.after.append(self.live.resume)
        self.runner.after.append(self._review)
        self._device = ""
        self._ready: ModelReady | None = None
        self._closed = False
        # What a run would take is asked once for many changes, as a pan makes them.
        self._reviewing = QTimer(self)
        self._reviewing.setSingleShot(True)
        self._reviewing.setInterval(120)
        self._reviewing.timeout.connect(self._review)
        self.figures.listeners.append(self._reviewing.start)
        panel.set_live(preferences.live)
        self._connect()
        self._unwatch = watch_preferences(self._preferred)
        self.selection.start()
        self.teach.start()
        app = QApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(self.shut)
        # The engine's processes must not outlive the window, however that goes.
        if self._own_engine:
            self.destroyed.connect(lambda: engine.close())

    def _connect(self) -> None:
        panel = self.panel
        self.engine.listen(lambda state: self.relay.post(lambda: self._state(state)))
        self.selection.listen(self._selected)
        panel.model_dropped.connect(self.selection.add_model)
        panel.browse_model.connect(self._browse)
        panel.copy_clicked.connect(self.copy_command)
        panel.sample_clicked.connect(self._open_sample)
        panel.device_clicked.connect(self._explain_device)
        panel.toggle_clicked.connect(self.toggle)
        for signal in (
            panel.level_changed,
            panel.ensemble_changed,
            panel.region_changed,
            panel.output_changed,
        ):
            signal.connect(lambda _: self._reviewing.start())
        dims = self.viewer.dims.events
        for emitter in (dims.current_step, dims.order, dims.ndisplay):
            emitter.connect(self._later)
        camera = camera_of(self.viewer).events
        camera.zoom.connect(self._later)
        camera.center.connect(self._later)
        for key, name in KEYS.items():
            action = getattr(self, name)
            with contextlib.suppress(ValueError):
                self.viewer.bind_key(key, _calling(action), overwrite=True)

    # Keyboard and buttons

    def run(self) -> None:
        """Run what the panel says."""
        self.runner.start()

    def cancel(self) -> None:
        """Cancel the run."""
        self.runner.cancel()

    def level_up(self) -> None:
        """Move the slider to the next deeper level, or from the deepest to "auto"."""
        self._move(1)

    def level_down(self) -> None:
        """Move the slider to the next shallower level."""
        self._move(-1)

    def _move(self, by: int) -> None:
        card = self.selection.card
        levels = sorted(card.levels_trained) if card is not None else [1, 2, 3, 4]
        stops = [*levels, AUTO] if len(levels) >= LEAST_FOR_AUTO else levels
        beyond = [k for k in stops if (k - self.panel.level) * by > 0]
        if beyond:
            stop = min(beyond, key=lambda k: abs(k - self.panel.level))
            self.panel.set_level(stop)
            self.panel.level_changed.emit(stop)

    def toggle(self) -> None:
        """Show or hide the results of the image."""
        if self.selection.layer is not None:
            self.outputs.toggle(self.selection.layer)

    def copy_command(self) -> None:
        """Copy the command line that does the same, for a folder or a cluster."""
        selection, panel = self.selection, self.panel
        if selection.layer is None or selection.card is None:
            panel.set_status(self.runner.problem(), "warning")
            return
        own, source = selection.preferences, selection.source()
        try:
            text = segment_command(
                selection.layer.source.path,
                selection.model_value,
                selection.card,
                level=self.runner.level,
                kind=panel.output,
                axes=selection.axes,
                channel=selection.channel,
                threshold=panel.threshold,
                min_size=panel.min_size,
                spacing=source.spacing,
                unit=source.unit,
                device=own.device,
                precision=own.precision,
            )
        except UNetPPError as error:
            panel.set_status(str(error), "warning")
            return
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(text)
        panel.set_status(f"copied: {text}", "info")

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Open a UNet++ model", "", f"UNet++ models (*{SUFFIX})"
        )
        if path:
            self.selection.add_model(path)

    def _open_sample(self) -> None:
        self.viewer.open_sample("napari-unetpp", "nuclei_2d")

    def _explain_device(self) -> None:
        QMessageBox.information(self, "UNet++: where it runs", self._device or "not known yet")

    # What changes

    def _selected(self, what: str) -> None:
        selection, card = self.selection, self.selection.card
        if what == "model" and card is not None:
            self.figures.choose(card, selection.model)
            if self.panel.level not in (*card.levels_trained, AUTO):  # AUTO if it has that
                self.panel.set_level(max(card.levels_trained))
            self.panel.set_threshold(card.threshold)
            soft = card.network.activation == "softmax"
            self.panel.set_threshold_enabled(
                not soft, "The classes of this model compete: there is no threshold." * soft
            )
            self.panel.set_min_size(0 if card.instances is None else card.instances.min_size)
            self._load()
        elif what == "state" and card is not None:
            self.figures.choose(card, selection.model)
            self._load()
        self._review()

    def _load(self) -> None:
        """Have the worker load the model, so that the first run finds it warm."""
        if self.runner.running:
            self.panel.set_device("after the run …", "The run in progress has the engine.", True)
        else:
            self.panel.set_device("starting …", "The engine starts in the background.", True)
        self.relay.follow(self.engine.load(self.selection.model), self._loaded)

    def _loaded(self, event: Any) -> None:
        if isinstance(event, ModelReady):
            self._show_device(event)
        elif isinstance(event, Finished):
            if event.state == "done" and isinstance(event.result, ModelReady):
                self._show_device(event.result)
            elif event.state == "failed":
                self._ready = None
                self.panel.set_device("not working", str(event.error), False)
                report_error(self.panel, str(event.error))

    def _show_device(self, ready: ModelReady) -> None:
        self._ready, self._device = ready, ready.reason
        text = (
            ready.device
            if ready.precision in ready.device
            else (f"{ready.device}, {ready.precision}")
        )
        self.panel.set_device(text, ready.reason, True)

    def _state(self, state: EngineState) -> None:
        if state.kind == "failed":
            self.panel.set_device("not working", state.message, False)
            # The job that met it brings the notification.
            self.panel.set_status(state.message, "error")
        elif state.kind == "starting" and self._ready is not None:
            # Not into the status: there stands why it had to start again.
            self.panel.set_device("starting again …", "The engine starts in the background.", True)
        elif state.kind in ("ready", "busy") and self._ready is not None:
            self._show_device(self._ready)

    def _preferred(self, preferences: Preferences) -> None:
        """Take over what was changed in napari's preferences; live on or off is for the start."""
        before, self.selection.preferences = self.selection.preferences, preferences
        self.live.megabytes = preferences.live_megabytes
        same = replace(before, live=preferences.live, live_megabytes=preferences.live_megabytes)
        if same != preferences and self.selection.card is not None:
            self.figures.choose(self.selection.card, self.selection.model)
            self._load()
        self.live.update()

    def _later(self, event: Any = None) -> None:
        if self.panel.region != "all":
            self._reviewing.start()

    def _review(self) -> None:
        """Say whether something can be run, and about how long it takes."""
        if self._closed or self.runner.running:
            return
        problem = self.runner.problem()
        self.panel.set_can_run(not problem, problem)
        estimate = ""
        if not problem:
            estimate = self.figures.estimate(self.runner.level, self.runner.pixels())
        self.panel.set_estimate(estimate)

    # The end

    def shut(self) -> None:
        """End the engine and let go of the viewer; harmless when it is called again."""
        if self._closed:
            return
        self._closed = True
        self._reviewing.stop()
        self._unwatch()
        self.relay.close()
        dims, camera = self.viewer.dims.events, camera_of(self.viewer).events
        for emitter in (
            dims.current_step, dims.order, dims.ndisplay, camera.zoom, camera.center,
        ):  # fmt: skip
            with contextlib.suppress(ValueError):
                emitter.disconnect(self._later)
        self.teach.close_parts()
        self.live.close()
        self.runner.close()
        self.selection.close()
        self.outputs.close()
        for key in KEYS:
            with contextlib.suppress(KeyError, ValueError):
                self.viewer.bind_key(key, None, overwrite=True)
        if self._own_engine:
            self.engine.close()

    def event(self, event: QEvent | None) -> bool:
        """Shut down when the dock is thrown away, which napari does without closing it.

        With the window it is deleted later; by the x of the dock it is taken out, and left.
        """
        kind = event.type() if event is not None else None
        if kind == QEvent.Type.DeferredDelete:
            self.shut()
        elif kind == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._docked = True
            elif self._docked:
                QTimer.singleShot(0, self._undocked)  # it may be on its way to another dock
        return super().event(event)

    def _undocked(self) -> None:
        if self.parent() is None:
            self.shut()
            self.deleteLater()

    def closeEvent(self, event: Any) -> None:
        """Shut down with the window."""
        self.shut()
        super().closeEvent(event)


def _calling(action: Any) -> Any:
    """Return a function as napari's key bindings want it: the viewer as its argument."""

    def pressed(viewer: Any) -> None:
        action()

    pressed.__doc__ = action.__doc__
    return pressed
