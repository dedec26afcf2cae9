"""The panel that a person sees: signals out, setters in.

A view and nothing else. It knows no viewer, no engine and no model; it keeps no state but what
its controls show. Signals fire at once on what a person does, and never from a setter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from magicgui.widgets import CheckBox, SpinBox
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.widget.figures_table import LevelFigures, ensemble_text
from napari_unetpp.widget.focus_ring import FocusRing
from napari_unetpp.widget.fold import Fold
from napari_unetpp.widget.forms import Choice, ModelItem
from napari_unetpp.widget.labels import Kind, Rule, StateDot, TextLabel, fade_when_off, tip
from napari_unetpp.widget.level_slider import LevelSlider
from napari_unetpp.widget.threshold_slider import ThresholdSlider

__all__ = ["LevelFigures", "ModelItem", "Panel"]

_SUFFIX = ".safetensors"
_REGIONS = (("this view", "view"), ("this slice", "slice"), ("everything", "all"))
_REGION_TIPS = (
    "What is on screen.",
    "The whole slice, frame or volume that is shown.",
    "All slices, frames and positions.",
)
_OUTPUTS = (("labels", "labels"), ("probabilities", "probabilities"), ("objects", "instances"))
_LIVE = "Predict what is on screen, L1 first, whenever you pan, zoom or change something."
_THRESHOLD = "A pixel belongs to a class from this probability on. It acts at once."
_MIN_SIZE = "Objects of fewer pixels are left out."
_MIN_SIZE_OFF = "The least size acts on objects: choose the output “objects” first."
_ENSEMBLE = "The mean of all levels: it takes as long as the last one."
_ENSEMBLE_ON = "The ensemble takes all levels: switch it off to choose one."
_RUN = "Predict the chosen region and keep the result as a layer (Ctrl+Alt+R)."
_RUN_EMPTY = "There is no image to run on: open one first."
_RUN_BUSY = "A run goes on: wait for its end or cancel it."
_CANCEL = "End the run; what is done so far stays (Ctrl+Alt+C)."
_CANCEL_OFF = "Nothing runs that could be cancelled."
_NO_OUTPUT = "This model does not give it."


class Panel(QWidget):
    """All controls of the dock, in one column of 320 pixels or more.

    Every method named ``set_…`` shows something and emits nothing.
    """

    image_changed = Signal(object)
    axes_changed = Signal(str)
    channel_changed = Signal(int)
    model_changed = Signal(str)
    model_dropped = Signal(str)
    browse_model = Signal()
    level_changed = Signal(int)
    ensemble_changed = Signal(bool)
    live_changed = Signal(bool)
    threshold_changed = Signal(float)
    region_changed = Signal(str)
    output_changed = Signal(str)
    min_size_changed = Signal(int)
    run_clicked = Signal()
    cancel_clicked = Signal()
    copy_clicked = Signal()
    sample_clicked = Signal()
    device_clicked = Signal()
    toggle_clicked = Signal()

    _image: Choice
    _channel: Choice
    _axes: Choice
    _model: Choice
    _region: Choice
    _output: Choice

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("unetpp_panel")
        self.setAcceptDrops(True)
        self._quiet = False
        self._running = False
        self._empty = False
        self._can_run, self._reason = True, ""
        self._make_forms()
        self._make_level()
        self._make_actions()
        self._lay_out()
        self._order_focus()
        self.set_outputs([value for _, value in _OUTPUTS])
        self.set_empty(False)
        self.set_running(False)
        self.set_status("", "info")

    # What is chosen ------------------------------------------------------------------------

    @property
    def image(self) -> Any:
        """The image that is chosen, as it was given to ``set_images``, or None."""
        return self._image.value

    @property
    def axes(self) -> str:
        """The axes of the image, a letter for each."""
        return str(self._axes.value or "")

    @property
    def channel(self) -> int | None:
        """The index of the channel, None where there is nothing to choose."""
        value: int | None = self._channel.value
        return None if value is None else int(value)

    @property
    def model(self) -> str:
        """The value of the model that is chosen."""
        return str(self._model.value or "")

    @property
    def level(self) -> int:
        """The level that is chosen, 1 to 4."""
        return self._levels.level

    @property
    def ensemble(self) -> bool:
        """Whether the mean of all levels is wanted."""
        return bool(self._ensemble.isChecked())

    @property
    def live(self) -> bool:
        """Whether what is on screen is predicted without being asked."""
        return bool(self._live.isChecked())

    @property
    def threshold(self) -> float:
        """The probability from which a pixel belongs to a class."""
        return round(float(self._threshold.value()), 2)

    @property
    def region(self) -> str:
        """What a run covers: "view", "slice" or "all"."""
        return str(self._region.value)

    @property
    def output(self) -> str:
        """What a run makes: "labels", "probabilities" or "instances"."""
        return str(self._output.value)

    @property
    def min_size(self) -> int:
        """The least size of an object in pixels."""
        return int(self._min_size_form.value)

    # Images and models ---------------------------------------------------------------------

    def set_images(self, images: list[tuple[str, object]], current: object | None) -> None:
        """Offer images as (name, what it stands for)."""
        self._image.set_choices(images, current)

    def set_axes(self, current: str, choices: list[str]) -> None:
        """Offer ways to read the axes of the image."""
        self._axes.set_choices([(axes, axes) for axes in choices], current)

    def set_channels(self, names: list[str], current: int | None) -> None:
        """Offer channels; the row is there only if there are several."""
        self._channel.set_choices([(name, index) for index, name in enumerate(names)], current)
        self._channels = len(names)
        self._show_rows()

    def set_models(self, models: Sequence[ModelItem], current: str) -> None:
        """Offer models; a line separates one group from the next."""
        self._model.set_choices(
            [(item.label, item.value) for item in models],
            current,
            [item.tooltip for item in models],
            [item.group for item in models],
        )

    def set_device(self, text: str, reason: str, good: bool) -> None:
        """Say where the network runs, and why there."""
        self._device_dot.set_kind("good" if good else "plain")
        self._device.show_text(text, reason)
        self._why.setToolTip(tip(reason or "Why it runs there, and what to do."))

    def set_empty(self, empty: bool) -> None:
        """Offer a sample instead of images: nothing is open."""
        self._empty = empty
        self._show_rows()
        self._update_run()

    # The level -----------------------------------------------------------------------------

    def set_levels(
        self, trained: tuple[int, ...], figures: Mapping[int | str, LevelFigures]
    ) -> None:
        """Show which levels there are, what each is worth and what it costs."""
        self._levels.set_levels(tuple(trained), figures)
        cell = ensemble_text(figures.get("ensemble"))
        self._ensemble_figures.show_text(cell.text, cell.tooltip)

    def set_level(self, level: int) -> None:
        """Choose a level; one that was not trained becomes the nearest."""
        self._levels.set_level(level)

    def set_ensemble(self, ensemble: bool) -> None:
        """Choose the mean of all levels, or one of them."""
        with self._silently():
            self._ensemble.setChecked(ensemble)

    def set_live(self, live: bool, reason: str = "") -> None:
        """Switch live on or off; a reason says why it cannot be switched."""
        with self._silently():
            self._live.setChecked(live)
        self._live.setEnabled(not reason)
        self._live.setToolTip(tip(reason or _LIVE))

    def set_threshold(self, threshold: float) -> None:
        """Choose a threshold, 0 to 1."""
        with self._silently():
            self._threshold.setValue(threshold)

    def set_threshold_enabled(self, enabled: bool, reason: str = "") -> None:
        """Allow a threshold, or say why there is none."""
        self._threshold.setEnabled(enabled)
        self._threshold.setToolTip(tip(_THRESHOLD if enabled else reason))

    # What a run makes ----------------------------------------------------------------------

    def set_region(self, region: str) -> None:
        """Choose what a run covers: "view", "slice" or "all"."""
        self._region.set_value(region)

    def set_output(self, output: str) -> None:
        """Choose what a run makes: "labels", "probabilities" or "instances"."""
        self._output.set_value(output)
        self._update_min_size()

    def set_outputs(self, allowed: Sequence[str], reason: str = _NO_OUTPUT) -> None:
        """Say which outputs the model gives; the others are grayed with the reason."""
        self._output.set_allowed(allowed, {}, reason)
        self._update_min_size()

    def set_min_size(self, size: int) -> None:
        """Choose the least size of an object."""
        with self._silently():
            self._min_size_form.value = size

    def set_estimate(self, text: str) -> None:
        """Say how long a run would take."""
        self._estimate.show_text(text)

    # What happens --------------------------------------------------------------------------

    def set_status(self, text: str, kind: Kind = "info") -> None:
        """Say what happens or went wrong: "info", "busy", "warning" or "error"."""
        self._status_dot.set_kind(kind)
        self._status_dot.setVisible(kind not in ("none", "info"))
        self._status.show_text(text)
        self._status.setAccessibleName(f"{kind}: {text}" if text else "no message")

    def set_progress(self, done: int, total: int) -> None:
        """Show how far a run is; a total of 0 is one that nobody knows."""
        self._progress.setRange(0, max(0, total))
        self._progress.setValue(done)
        self._progress.setFormat(f"tile {done} of {total}" if total > 0 else "")
        self._progress.show()

    def clear_progress(self) -> None:
        """Show no progress."""
        self._progress.hide()
        self._progress.reset()

    def set_running(self, running: bool) -> None:
        """Say whether a run goes on."""
        self._running = running
        self._cancel.setEnabled(running)
        self._cancel.setToolTip(tip(_CANCEL if running else _CANCEL_OFF))
        self._update_run()

    def set_can_run(self, can_run: bool, reason: str = "") -> None:
        """Allow a run, or say why there is nothing to run on."""
        self._can_run, self._reason = can_run, reason
        self._update_run()

    # Drops ---------------------------------------------------------------------------------

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Take files; what they are is told when they are dropped."""
        data = event.mimeData() if event is not None else None
        if event is not None and data is not None and data.hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        """Take one model file; say of anything else what was expected."""
        data = event.mimeData() if event is not None else None
        if event is None or data is None:
            return
        files = [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
        event.acceptProposedAction()
        if len(files) == 1 and Path(files[0]).suffix.lower() == _SUFFIX:
            self.model_dropped.emit(files[0])
            return
        got = Path(files[0]).name if len(files) == 1 else f"{len(files)} files"
        self.set_status(
            f"A model is one {_SUFFIX} file, this was {got}: drop a model here, "
            "images onto the canvas.",
            "warning",
        )

    # Building ------------------------------------------------------------------------------

    def _make_forms(self) -> None:
        self._channels = 0
        self._image = Choice(
            "image_combo",
            "Image",
            "The image to segment; it follows the active layer.",
            self._relay("image_changed"),
        )
        self._channel = Choice(
            "channel_combo",
            "Channel",
            "The channel that the model looks at.",
            self._relay("channel_changed"),
        )
        self._axes = Choice(
            "axes_combo",
            "Axes of the image",
            "What each axis of the image is: P position, T time, C channel, Z Y X space, S colour.",
            self._relay("axes_changed"),
        )
        self._model = Choice(
            "model_combo",
            "Model",
            "The model to segment with; a model file may be dropped anywhere on this panel.",
            self._relay("model_changed"),
        )
        self._region = Choice(
            "region_combo", "Region", "What a run covers.", self._relay("region_changed")
        )
        self._region.set_choices(_REGIONS, "all", _REGION_TIPS)
        self._output = Choice(
            "output_combo",
            "Output",
            "What a run makes: a class for each pixel, probabilities, or separate objects.",
            self._output_chosen,
        )
        self._output.set_choices(_OUTPUTS, "labels")
        self._min_size_form = SpinBox(min=0, max=1_000_000, value=0)
        self._min_size: QWidget = self._min_size_form.native
        self._name(self._min_size, "min_size_spin", "Least size of an object", _MIN_SIZE)
        self._min_size_form.changed.connect(self._relay("min_size_changed"))
        self._browse = self._button("…", "browse_button", "Open a model file", "browse_model")
        self._device_dot = StateDot("plain")
        self._device = TextLabel()
        self._device.setObjectName("device_label")
        self._device.setAccessibleName("Device")
        self._why = self._button(
            "why?", "device_button", "Why it runs there, and what to do", "device_clicked"
        )
        self._hint = TextLabel("No image is open.")
        self._sample = self._button(
            "Open a sample", "sample_button", "Open a sample image to try it on", "sample_clicked"
        )

    def _make_level(self) -> None:
        self._levels = LevelSlider()
        self._levels.level_changed.connect(self._relay("level_changed"))
        self._ensemble_form = CheckBox(text="Ensemble", value=False)
        self._ensemble: QCheckBox = self._ensemble_form.native
        self._name(self._ensemble, "ensemble_check", "Ensemble of all levels", _ENSEMBLE)
        self._ensemble.toggled.connect(self._ensemble_chosen)
        self._ensemble_figures = TextLabel(muted=True)
        self._live_form = CheckBox(text="Live", value=False)
        self._live: QCheckBox = self._live_form.native
        self._name(self._live, "live_check", "Live: predict what is on screen", _LIVE)
        self._live.toggled.connect(self._relay("live_changed"))
        self._threshold = ThresholdSlider("Threshold")
        fade_when_off(self._threshold)
        self._name(self._threshold, "threshold_slider", "Threshold", _THRESHOLD)
        self._threshold.valueChanged.connect(self._threshold_chosen)

    def _make_actions(self) -> None:
        self._run = self._button("Run", "run_button", _RUN, "run_clicked")
        font = self._run.font()
        font.setBold(True)
        self._run.setFont(font)
        self._run.setMinimumWidth(96)
        self._cancel = self._button("Cancel", "cancel_button", _CANCEL, "cancel_clicked")
        self._estimate = TextLabel(muted=True)
        self._estimate.setObjectName("estimate_label")
        self._progress = QProgressBar()
        self._name(self._progress, "progress_bar", "Progress of the run", "Tiles that are done.")
        self._status_dot = StateDot("none")
        self._status = TextLabel(wrap=True)
        self._status.setObjectName("status_label")
        self._toggle = self._button(
            "Show or hide result",
            "toggle_button",
            "Show or hide what was made of this image (Ctrl+Alt+V).",
            "toggle_clicked",
        )
        self._copy = self._button(
            "Copy as command",
            "copy_button",
            "Copy the command that does this run on a folder of images without a viewer.",
            "copy_clicked",
        )

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 6, 8, 6)
        column.setSpacing(5)
        form = QGridLayout()
        form.setHorizontalSpacing(6)
        form.setVerticalSpacing(5)
        form.setColumnStretch(1, 1)
        form.setColumnMinimumWidth(0, 50)
        self._image_label = self._label("Image", self._image.native)
        self._channel_label = self._label("Channel", self._channel.native)
        form.addWidget(self._image_label, 0, 0)
        form.addWidget(self._image.native, 0, 1, 1, 2)
        form.addWidget(self._hint, 1, 0, 1, 2)
        form.addWidget(self._sample, 1, 2)
        form.addWidget(self._channel_label, 2, 0)
        form.addWidget(self._channel.native, 2, 1, 1, 2)
        form.addWidget(self._label("Model", self._model.native), 3, 0)
        form.addLayout(self._row(self._model.native, self._browse, stretch=0), 3, 1, 1, 2)
        column.addLayout(form)
        column.addLayout(self._row(self._device_dot, self._device, self._why, stretch=1))
        column.addWidget(Rule())
        column.addWidget(self._levels)
        column.addLayout(self._row(self._ensemble, self._ensemble_figures, stretch=1))
        threshold = self._label("Threshold", self._threshold)
        column.addLayout(self._row(self._live, threshold, self._threshold, stretch=2))
        column.addWidget(Rule())
        region = self._label("Region", self._region.native)
        output = self._label("Output", self._output.native)
        both = QGridLayout()
        both.setHorizontalSpacing(6)
        both.setVerticalSpacing(1)
        for place, label, choice in ((0, region, self._region), (1, output, self._output)):
            both.setColumnStretch(place, 1)
            both.addWidget(label, 0, place)
            both.addWidget(choice.native, 1, place)
        column.addLayout(both)
        column.addLayout(self._row(self._run, self._cancel, self._estimate, stretch=2))
        column.addWidget(self._progress)
        status = self._row(self._status_dot, self._status, stretch=1)
        status.setAlignment(self._status_dot, Qt.AlignmentFlag.AlignTop)
        column.addLayout(status)
        column.addLayout(self._row(self._toggle, self._copy))
        self._more = self._make_more()
        column.addWidget(self._more)
        column.addStretch(1)
        self._progress.hide()

    def _make_more(self) -> Fold:
        """Return what few need, folded away."""
        content = QWidget()
        form = QGridLayout(content)
        form.setContentsMargins(0, 0, 0, 0)
        form.setColumnStretch(1, 1)
        form.addWidget(self._label("Axes", self._axes.native), 0, 0)
        form.addWidget(self._axes.native, 0, 1)
        form.addWidget(self._label("Least size", self._min_size), 1, 0)
        form.addWidget(self._min_size, 1, 1)
        more = Fold("More", "Axes of the image, least size of objects.")
        more.setObjectName("more_group")
        more.addWidget(content)
        return more

    def _order_focus(self) -> None:
        for child in self.findChildren(QLineEdit):
            child.setAcceptDrops(False)  # a path dropped there would be typed, not opened
            child.setAccessibleName(child.accessibleName() or "Number")
        order: list[QWidget] = [
            self._image.native,
            self._sample,
            self._channel.native,
            self._model.native,
            self._browse,
            self._why,
            self._levels.slider,
            self._ensemble,
            self._live,
            self._threshold,
            self._region.native,
            self._output.native,
            self._run,
            self._cancel,
            self._toggle,
            self._copy,
            self._more.toggleButton(),
            self._axes.native,
            self._min_size,
        ]
        for first, second in pairwise(order):
            QWidget.setTabOrder(first, second)
        self._ring = FocusRing(self, order)

    @staticmethod
    def _label(text: str, buddy: QWidget) -> QLabel:
        label = QLabel(text)
        label.setIndent(0)
        label.setBuddy(buddy)
        return label

    @staticmethod
    def _row(*widgets: QWidget, stretch: int = -1) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(6)
        for index, widget in enumerate(widgets):
            row.addWidget(widget, int(index == stretch))
        return row

    @staticmethod
    def _name(widget: QWidget, name: str, spoken: str, tooltip: str) -> None:
        widget.setObjectName(name)
        widget.setAccessibleName(spoken)
        widget.setToolTip(tip(tooltip))

    def _button(self, text: str, name: str, tooltip: str, signal: str) -> QPushButton:
        button = QPushButton(text)
        spoken = text if text[:1].isupper() else tooltip
        self._name(button, name, spoken, tooltip)
        button.clicked.connect(lambda: getattr(self, signal).emit())
        return button

    # What a person did ---------------------------------------------------------------------

    @contextmanager
    def _silently(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _relay(self, signal: str) -> Any:
        def relay(value: Any) -> None:
            if not self._quiet:
                getattr(self, signal).emit(value)

        return relay

    def _output_chosen(self, output: str) -> None:
        self._update_min_size()
        self.output_changed.emit(output)

    def _ensemble_chosen(self, ensemble: bool) -> None:
        self._ensemble_figures.set_muted(not ensemble)
        self._levels.set_available(not ensemble, _ENSEMBLE_ON)
        if not self._quiet:
            self.ensemble_changed.emit(ensemble)

    def _threshold_chosen(self, _: float) -> None:
        if not self._quiet:
            self.threshold_changed.emit(self.threshold)

    def _update_min_size(self) -> None:
        objects = self.output == "instances"
        self._min_size.setEnabled(objects)
        self._min_size.setToolTip(tip(_MIN_SIZE if objects else _MIN_SIZE_OFF))

    def _update_run(self) -> None:
        reason = ""
        if self._running:
            reason = _RUN_BUSY
        elif self._empty:
            reason = _RUN_EMPTY
        elif not self._can_run:
            reason = self._reason or _RUN_EMPTY
        self._run.setEnabled(not reason)
        self._run.setToolTip(tip(reason or _RUN))

    def _show_rows(self) -> None:
        several = self._channels > 1
        shown: list[tuple[QWidget, bool]] = [
            (self._image_label, not self._empty),
            (self._image.native, not self._empty),
            (self._hint, self._empty),
            (self._sample, self._empty),
            (self._channel_label, several and not self._empty),
            (self._channel.native, several and not self._empty),
        ]
        for widget, visible in shown:
            widget.setVisible(visible)
