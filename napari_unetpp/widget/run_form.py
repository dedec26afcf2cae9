"""The lower part of the panel: what a run covers and makes, run and cancel, what happens.

A view: it knows no engine. Its setters emit nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from magicgui.widgets import SpinBox
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QGridLayout, QProgressBar, QVBoxLayout, QWidget

from napari_unetpp.widget.controls import make_button, make_label, make_row, name_control
from napari_unetpp.widget.fold import Fold
from napari_unetpp.widget.forms import Choice
from napari_unetpp.widget.labels import Kind, StateDot, TextLabel, tip

_REGIONS = (("this view", "view"), ("this slice", "slice"), ("everything", "all"))
_REGION_TIPS = (
    "What is on screen.",
    "The whole slice, frame or volume that is shown.",
    "All slices, frames and positions.",
)
_OUTPUTS = (("labels", "labels"), ("probabilities", "probabilities"), ("objects", "instances"))
_MIN_SIZE = "Objects of fewer pixels are left out."
_MIN_SIZE_OFF = "The least size acts on objects: choose the output “objects” first."
_RUN = "Predict the chosen region and keep the result as a layer (Alt+R)."
_RUN_EMPTY = "There is no image to run on: open one first."
_RUN_BUSY = "A run goes on: wait for its end or cancel it."
_CANCEL = "End the run; what is done so far stays (Alt+X)."
_CANCEL_OFF = "Nothing runs that could be cancelled."


class RunForm(QWidget):
    """Region, output, run and cancel, progress and status, and what few need."""

    region_changed = Signal(str)
    output_changed = Signal(str)
    axes_changed = Signal(str)
    min_size_changed = Signal(int)
    run_clicked = Signal()
    cancel_clicked = Signal()
    copy_clicked = Signal()
    toggle_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._quiet = False
        self._running = False
        self._empty = False
        self._can_run, self._reason = True, ""
        self._make_choices()
        self._make_actions()
        self._lay_out()
        self._update_min_size()
        self.set_running(False)
        self.set_status("", "info")

    @property
    def focus_order(self) -> list[QWidget]:
        """The controls as the keyboard visits them."""
        actions = [self._run, self._cancel, self._toggle, self._copy, self._more.toggleButton()]
        choices = [self.region.native, self.output.native]
        return [*choices, *actions, self.axes.native, self._min_size]

    @property
    def min_size(self) -> int:
        """The least size of an object in pixels."""
        return int(self._min_size_form.value)

    def set_output(self, output: str) -> None:
        """Choose what a run makes."""
        self.output.set_value(output)
        self._update_min_size()

    def set_outputs(self, allowed: Sequence[str], reason: str) -> None:
        """Gray out the outputs that the model does not give."""
        self.output.set_allowed(allowed, reason)
        self._update_min_size()

    def set_min_size(self, size: int) -> None:
        """Choose the least size of an object."""
        self._quiet = True
        try:
            self._min_size_form.value = size
        finally:
            self._quiet = False

    def set_estimate(self, text: str) -> None:
        """Say how long a run would take."""
        self._estimate.show_text(text)

    def set_status(self, text: str, kind: Kind) -> None:
        """Say what happens or went wrong."""
        self._dot.set_kind(kind)
        self._dot.setVisible(kind not in ("none", "info"))
        self._status.show_text(text)
        self._status.setAccessibleName(f"{kind}: {text}" if text else "no message")

    def set_progress(self, done: int, total: int) -> None:
        """Show how far a run is; a total of 0 is one that nobody knows."""
        if self._progress.maximum() != max(0, total):
            self._progress.setRange(0, max(0, total))
        self._progress.setFormat(f"tile {done} of {total}" if total > 0 else "")
        self._progress.setValue(done)
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

    def set_can_run(self, can_run: bool, reason: str) -> None:
        """Allow a run, or say why there is nothing to run on."""
        self._can_run, self._reason = can_run, reason
        self._update_run()

    def set_empty(self, empty: bool) -> None:
        """Say whether there is no image at all."""
        self._empty = empty
        self._update_run()

    def _make_choices(self) -> None:
        self.region = Choice(
            "region_combo", "Region", "What a run covers.", self.region_changed.emit
        )
        self.region.set_choices(_REGIONS, "all", _REGION_TIPS)
        self.output = Choice(
            "output_combo",
            "Output",
            "What a run makes: a class for each pixel, probabilities, or separate objects.",
            self._output_chosen,
        )
        self.output.set_choices(_OUTPUTS, "labels")
        self.axes = Choice(
            "axes_combo",
            "Axes of the image",
            "What each axis of the image is: P position, T time, C channel, Z Y X space, S colour.",
            self.axes_changed.emit,
        )
        self._min_size_form = SpinBox(min=0, max=1_000_000, value=0)
        self._min_size: QWidget = self._min_size_form.native
        name_control(self._min_size, "min_size_spin", "Least size of an object", _MIN_SIZE)
        self._min_size_form.changed.connect(self._min_size_chosen)

    def _make_actions(self) -> None:
        self._run = make_button("Run", "run_button", _RUN, self.run_clicked.emit)
        font = self._run.font()
        font.setBold(True)
        self._run.setFont(font)
        self._run.setMinimumWidth(96)
        self._cancel = make_button("Cancel", "cancel_button", _CANCEL, self.cancel_clicked.emit)
        self._estimate = TextLabel(muted=True)
        self._estimate.setObjectName("estimate_label")
        self._progress = QProgressBar()
        name_control(self._progress, "progress_bar", "Progress of the run", "Tiles that are done.")
        self._progress.hide()
        self._dot = StateDot("none")
        self._status = TextLabel(wrap=True)
        self._status.setObjectName("status_label")
        self._toggle = make_button(
            "Show or hide result",
            "toggle_button",
            "Show or hide what was made of this image (Alt+U).",
            self.toggle_clicked.emit,
        )
        self._copy = make_button(
            "Copy as command",
            "copy_button",
            "Copy the command that does this run on a folder of images without a viewer.",
            self.copy_clicked.emit,
        )

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(5)
        both = QGridLayout()
        both.setHorizontalSpacing(6)
        both.setVerticalSpacing(1)
        for place, (name, choice) in enumerate((("Region", self.region), ("Output", self.output))):
            both.setColumnStretch(place, 1)
            both.addWidget(make_label(name, choice.native), 0, place)
            both.addWidget(choice.native, 1, place)
        column.addLayout(both)
        column.addLayout(make_row(self._run, self._cancel, self._estimate, stretch=2))
        column.addWidget(self._progress)
        status = make_row(self._dot, self._status, stretch=1)
        status.setAlignment(self._dot, Qt.AlignmentFlag.AlignTop)
        column.addLayout(status)
        column.addLayout(make_row(self._toggle, self._copy))
        self._more = self._make_more()
        column.addWidget(self._more)

    def _make_more(self) -> Fold:
        """Return what few need, folded away."""
        content = QWidget()
        form = QGridLayout(content)
        form.setContentsMargins(0, 0, 0, 0)
        form.setColumnStretch(1, 1)
        form.addWidget(make_label("Axes", self.axes.native), 0, 0)
        form.addWidget(self.axes.native, 0, 1)
        form.addWidget(make_label("Least size", self._min_size), 1, 0)
        form.addWidget(self._min_size, 1, 1)
        more = Fold("More", "Axes of the image, least size of objects.")
        more.setObjectName("more_group")
        more.addWidget(content)
        return more

    def _output_chosen(self, output: str) -> None:
        self._update_min_size()
        self.output_changed.emit(output)

    def _min_size_chosen(self, size: int) -> None:
        if not self._quiet:
            self.min_size_changed.emit(size)

    def _update_min_size(self) -> None:
        objects = self.output.value == "instances"
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
