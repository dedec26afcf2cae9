"""The panel that a person sees: signals out, setters in.

A view and nothing else, put together from three forms. It knows no viewer, no engine and no
model; it keeps no state but what its controls show. Signals fire at once on what a person does,
and never from a setter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from napari_unetpp.widget.figures_table import LevelFigures
from napari_unetpp.widget.focus_ring import FocusRing
from napari_unetpp.widget.forms import ModelItem
from napari_unetpp.widget.image_form import ImageForm
from napari_unetpp.widget.labels import Kind, Rule
from napari_unetpp.widget.level_form import LevelForm
from napari_unetpp.widget.run_form import RunForm

__all__ = ["LevelFigures", "ModelItem", "Panel"]

_SUFFIX = ".safetensors"
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

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("unetpp_panel")
        self.setAcceptDrops(True)
        self._images = ImageForm()
        self._levels = LevelForm()
        self._runs = RunForm()
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 6, 8, 6)
        column.setSpacing(5)
        for part in (self._images, Rule(), self._levels, Rule(), self._runs):
            column.addWidget(part)
        column.addStretch(1)
        self._connect()
        self._order_focus()

    # What is chosen ------------------------------------------------------------------------

    @property
    def image(self) -> Any:
        """The image that is chosen, as it was given to ``set_images``, or None."""
        return self._images.image.value

    @property
    def axes(self) -> str:
        """The axes of the image, a letter for each."""
        return str(self._runs.axes.value or "")

    @property
    def channel(self) -> int | None:
        """The index of the channel, None where there is nothing to choose."""
        value: int | None = self._images.channel.value
        return None if value is None else int(value)

    @property
    def model(self) -> str:
        """The value of the model that is chosen."""
        return str(self._images.model.value or "")

    @property
    def level(self) -> int:
        """The level that is chosen, 1 to 4."""
        return self._levels.levels.level

    @property
    def ensemble(self) -> bool:
        """Whether the mean of all levels is wanted."""
        return self._levels.ensemble

    @property
    def live(self) -> bool:
        """Whether what is on screen is predicted without being asked."""
        return self._levels.live

    @property
    def threshold(self) -> float:
        """The probability from which a pixel belongs to a class."""
        return self._levels.threshold

    @property
    def region(self) -> str:
        """What a run covers: "view", "slice" or "all"."""
        return str(self._runs.region.value)

    @property
    def output(self) -> str:
        """What a run makes: "labels", "probabilities" or "instances"."""
        return str(self._runs.output.value)

    @property
    def min_size(self) -> int:
        """The least size of an object in pixels."""
        return self._runs.min_size

    # Images and models ---------------------------------------------------------------------

    def set_images(self, images: list[tuple[str, object]], current: object | None) -> None:
        """Offer images as (name, what it stands for)."""
        self._images.image.set_choices(images, current)

    def set_axes(self, current: str, choices: list[str]) -> None:
        """Offer ways to read the axes of the image."""
        self._runs.axes.set_choices([(axes, axes) for axes in choices], current)

    def set_channels(self, names: list[str], current: int | None) -> None:
        """Offer channels; the row is there only if there are several."""
        self._images.set_channels(names, current)

    def set_models(self, models: Sequence[ModelItem], current: str) -> None:
        """Offer models; a line separates one group from the next."""
        self._images.set_models(models, current)

    def set_device(self, text: str, reason: str, good: bool) -> None:
        """Say where the network runs, and why there."""
        self._images.set_device(text, reason, good)

    def set_empty(self, empty: bool) -> None:
        """Offer a sample instead of images: nothing is open."""
        self._images.set_empty(empty)
        self._runs.set_empty(empty)

    # The level -----------------------------------------------------------------------------

    def set_levels(
        self, trained: tuple[int, ...], figures: Mapping[int | str, LevelFigures]
    ) -> None:
        """Show which levels there are, what each is worth and what it costs."""
        self._levels.set_levels(tuple(trained), figures)

    def set_level(self, level: int) -> None:
        """Choose a level; one that was not trained becomes the nearest."""
        self._levels.levels.set_level(level)

    def set_ensemble(self, ensemble: bool) -> None:
        """Choose the mean of all levels, or one of them."""
        self._levels.set_ensemble(ensemble)

    def set_live(self, live: bool, reason: str = "") -> None:
        """Switch live on or off; a reason says why it cannot be switched."""
        self._levels.set_live(live, reason)

    def set_threshold(self, threshold: float) -> None:
        """Choose a threshold, 0 to 1."""
        self._levels.set_threshold(threshold)

    def set_threshold_enabled(self, enabled: bool, reason: str = "") -> None:
        """Allow a threshold, or say why there is none."""
        self._levels.set_threshold_enabled(enabled, reason)

    # What a run makes ----------------------------------------------------------------------

    def set_region(self, region: str) -> None:
        """Choose what a run covers: "view", "slice" or "all"."""
        self._runs.region.set_value(region)

    def set_output(self, output: str) -> None:
        """Choose what a run makes: "labels", "probabilities" or "instances"."""
        self._runs.set_output(output)

    def set_outputs(self, allowed: Sequence[str], reason: str = _NO_OUTPUT) -> None:
        """Say which outputs the model gives; the others are grayed with the reason."""
        self._runs.set_outputs(allowed, reason)

    def set_min_size(self, size: int) -> None:
        """Choose the least size of an object."""
        self._runs.set_min_size(size)

    def set_estimate(self, text: str) -> None:
        """Say how long a run would take."""
        self._runs.set_estimate(text)

    # What happens --------------------------------------------------------------------------

    def set_status(self, text: str, kind: Kind = "info") -> None:
        """Say what happens or went wrong: "info", "busy", "warning" or "error"."""
        self._runs.set_status(text, kind)

    def set_progress(self, done: int, total: int) -> None:
        """Show how far a run is; a total of 0 is one that nobody knows."""
        self._runs.set_progress(done, total)

    def clear_progress(self) -> None:
        """Show no progress."""
        self._runs.clear_progress()

    def set_running(self, running: bool) -> None:
        """Say whether a run goes on."""
        self._runs.set_running(running)

    def set_can_run(self, can_run: bool, reason: str = "") -> None:
        """Allow a run, or say why there is nothing to run on."""
        self._runs.set_can_run(can_run, reason)

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

    def _connect(self) -> None:
        images, levels, runs = self._images, self._levels, self._runs
        for inner, outer in (
            (images.image_changed, self.image_changed),
            (images.channel_changed, self.channel_changed),
            (images.model_changed, self.model_changed),
            (images.browse_model, self.browse_model),
            (images.sample_clicked, self.sample_clicked),
            (images.device_clicked, self.device_clicked),
            (levels.level_changed, self.level_changed),
            (levels.ensemble_changed, self.ensemble_changed),
            (levels.live_changed, self.live_changed),
            (levels.threshold_changed, self.threshold_changed),
            (runs.region_changed, self.region_changed),
            (runs.output_changed, self.output_changed),
            (runs.axes_changed, self.axes_changed),
            (runs.min_size_changed, self.min_size_changed),
            (runs.run_clicked, self.run_clicked),
            (runs.cancel_clicked, self.cancel_clicked),
            (runs.copy_clicked, self.copy_clicked),
            (runs.toggle_clicked, self.toggle_clicked),
        ):
            inner.connect(outer)

    def _order_focus(self) -> None:
        for field in self.findChildren(QLineEdit):
            field.setAcceptDrops(False)  # a path dropped there would be typed, not opened
            field.setAccessibleName(field.accessibleName() or "Number")
        parts = (self._images, self._levels, self._runs)
        order = [control for part in parts for control in part.focus_order]
        for first, second in pairwise(order):
            QWidget.setTabOrder(first, second)
        self._ring = FocusRing(self, order)
