"""The section Teach as a person sees it: paint, fine-tune, what it brought, where to go on.

A view: signals out, setters in; it knows no layer, no engine and no file. A control that is off
says why in its tooltip, and the line above the buttons says what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QAbstractButton, QCheckBox, QVBoxLayout, QWidget

from napari_unetpp.widget.class_table import ClassRow, ClassTable
from napari_unetpp.widget.controls import make_button, make_label, make_row, name_control
from napari_unetpp.widget.curve_plot import CurvePlot
from napari_unetpp.widget.forms import Choice
from napari_unetpp.widget.labels import Kind, Rule, StateDot, TextLabel, tip
from napari_unetpp.widget.report_table import ReportTable, verdict
from napari_unetpp.widget.training_set_form import TrainingSetForm

BUDGETS = (("10 s", 10.0), ("30 s", 30.0), ("1 min", 60.0), ("2 min", 120.0), ("5 min", 300.0))
NO_PAINT = ""
"""Stands for "no painted layer" among the choices."""

_PAINTED = "The layer with your strokes: 0 is not labelled, 1 background, 2 and more the classes."
_NEW = "Make a painted layer that lies on this image, with the model's classes, and take the brush."
_ADD = "Add a class that the model does not know yet; it is learned from your strokes."
_FINETUNE = "Learn from the strokes. Painting, panning and running go on meanwhile."
_FINETUNE_BUSY = "A fine-tuning goes on: wait for its end, or stop it."
_BUDGET = "How long a fine-tuning may take; Stop ends it earlier and keeps the best so far."
_STOP = "End the fine-tuning now and keep the best so far."
_STOP_OFF = "No fine-tuning goes on that could be stopped."
_COPY = "Copy the command line that fine-tunes like this, for a script or another computer."
_NEXT = "Move the view to where the levels of the model are least sure, away from your strokes."
_UNCERTAINTY = "Show how unsure the levels of the model are about what is on screen."


class TeachForm(QWidget):
    """Everything inside the section."""

    painted_changed = Signal(object)
    new_painted_clicked = Signal()
    class_chosen = Signal(int)
    class_renamed = Signal(int, str)
    add_class_clicked = Signal()
    finetune_clicked = Signal()
    stop_clicked = Signal()
    revert_clicked = Signal()
    save_clicked = Signal()
    copy_clicked = Signal()
    next_clicked = Signal()
    uncertainty_changed = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("teach_form")
        self._running = False
        self._reason = ""
        self._make_painting()
        self._make_tuning()
        self._make_after()
        self.training = TrainingSetForm()
        self._lay_out()
        self.set_running(False)
        self.set_status("", "info")
        self.show_report(None)
        self.show_curve(False)

    @property
    def focus_order(self) -> list[QWidget]:
        """The controls as the keyboard visits them."""
        paint = [self.painted.native, self._new, self.classes, self._add]
        tune = [
            self._finetune,
            self.budget.native,
            self._stop,
            self._revert,
            self._save,
            self._copy,
        ]
        return [*paint, *tune, self._next, self._uncertainty, *self.training.focus_order]

    @property
    def seconds(self) -> float:
        """The budget that is chosen."""
        return float(self.budget.value)

    @property
    def uncertainty(self) -> bool:
        """Whether the map of what is on screen is wanted."""
        return self._uncertainty.isChecked()

    # Painting

    def set_painted(self, choices: Sequence[tuple[str, Any]], current: Any) -> None:
        """Offer painted layers as (name, layer); None if there is none for this image."""
        rows: list[tuple[str, Any]] = list(choices)
        if current is None:
            rows.insert(0, ("none yet: press New", NO_PAINT))
        self.painted.set_choices(rows, NO_PAINT if current is None else current)

    def set_new_allowed(self, reason: str) -> None:
        """Allow a new painted layer, or say why there can be none."""
        _allow(self._new, reason, _NEW)

    def show_classes(self, rows: Sequence[ClassRow], reason: str = "") -> None:
        """Show the classes; a reason says why none can be added."""
        self.classes.show_rows(rows)
        _allow(self._add, reason, _ADD)

    def edit_class(self, value: int) -> None:
        """Let the person write the name of a class."""
        for line, row in enumerate(self.classes.rows):
            item = self.classes.item(line, 1)
            if row.value == value and row.own and item is not None:
                self.classes.editItem(item)

    # Fine-tuning

    def set_can_finetune(self, reason: str) -> None:
        """Allow a fine-tuning, or say why there is nothing to learn from."""
        self._reason = reason
        self._update_buttons()

    def set_running(self, running: bool) -> None:
        """Say whether a fine-tuning goes on."""
        self._running = running
        self._update_buttons()

    def set_hint(self, text: str) -> None:
        """Say what to do next."""
        self._hint.setVisible(bool(text))
        self._hint.show_text(text)

    def set_status(self, text: str, kind: Kind) -> None:
        """Say what happens or went wrong."""
        self._dot.set_kind(kind)
        self._dot.setVisible(kind not in ("none", "info"))
        self._status.setVisible(bool(text))
        self._status.show_text(text)
        self._status.setAccessibleName(f"{kind}: {text}" if text else "no message")

    def show_curve(self, shown: bool) -> None:
        """Show the curve; before the first fine-tuning there is none."""
        self.curve.setVisible(shown)

    # After it

    def show_report(self, report: Mapping[str, Any] | None, unit: str = "Mpx") -> None:
        """Show what a fine-tuning brought; None for nothing yet."""
        scored = report is not None and any(
            row["after"] is not None for row in report["levels"].values()
        )
        self.report.show_report(report, unit)
        self.report.setVisible(scored)
        texts = [] if report is None else list(report["sentences"])
        if report is not None and (scored or not texts) and not report["base_kept"]:
            texts.insert(0, verdict(report))  # else the sentences say it themselves
        self._words.show_text("\n".join(dict.fromkeys(text for text in texts if text)))
        self._words.setVisible(bool(texts))

    def set_revert(self, text: str, tooltip: str, reason: str) -> None:
        """Name what the button goes back to, or say why there is nothing to go back to."""
        self._revert.setText(text)
        self._revert.setAccessibleName(text)
        _allow(self._revert, reason, tooltip)

    def set_save(self, reason: str) -> None:
        """Allow saving, or say why there is nothing to save."""
        _allow(self._save, reason, "Keep the fine-tuned model in a file of yours.")

    def set_can_copy(self, reason: str) -> None:
        """Allow copying the command, or say why there is none."""
        _allow(self._copy, reason, _COPY)

    def set_suggestions(self, reason: str) -> None:
        """Allow suggestions, or say why there are none."""
        _allow(self._next, reason, _NEXT)
        _allow(self._uncertainty, "" if self.uncertainty else reason, _UNCERTAINTY)

    def set_uncertainty(self, on: bool) -> None:
        """Switch the map on or off, without a signal."""
        with QSignalBlocker(self._uncertainty):
            self._uncertainty.setChecked(on)

    # Building

    def _make_painting(self) -> None:
        self.painted = Choice("painted_combo", "Painted layer", _PAINTED, self._painted_chosen)
        self._new = make_button("New", "new_painted_button", _NEW, self.new_painted_clicked.emit)
        self.classes = ClassTable()
        self.classes.chosen.connect(self.class_chosen)
        self.classes.renamed.connect(self.class_renamed)
        self._add = make_button("Add class", "add_class_button", _ADD, self.add_class_clicked.emit)

    def _make_tuning(self) -> None:
        self._hint = TextLabel(wrap=True, muted=True)
        self._hint.setObjectName("teach_hint")
        self._finetune = make_button(
            "Fine-tune", "finetune_button", _FINETUNE, self.finetune_clicked.emit
        )
        font = self._finetune.font()
        font.setBold(True)
        self._finetune.setFont(font)
        self._finetune.setMinimumWidth(96)
        self.budget = Choice("budget_combo", "Budget of the fine-tuning", _BUDGET, lambda _: None)
        self.budget.set_choices(BUDGETS, 30.0)
        self._stop = make_button("Stop", "stop_button", _STOP, self.stop_clicked.emit)
        self._dot = StateDot("none")
        self._status = TextLabel(wrap=True)
        self._status.setObjectName("teach_status")
        self.curve = CurvePlot()

    def _make_after(self) -> None:
        self.report = ReportTable()
        self._words = TextLabel(wrap=True, muted=True)
        self._words.setObjectName("report_words")
        self._revert = make_button("Revert to base", "revert_button", "", self.revert_clicked.emit)
        self._save = make_button("Save model as…", "save_model_button", "", self.save_clicked.emit)
        self._copy = make_button(
            "Copy as command", "copy_finetune_button", _COPY, self.copy_clicked.emit
        )
        self._copy.setAccessibleName("Copy as command, the fine-tuning")
        self._next = make_button(
            "Next place to paint", "next_region_button", _NEXT, self.next_clicked.emit
        )
        self._uncertainty = QCheckBox("Uncertainty")
        name_control(self._uncertainty, "uncertainty_check", "Uncertainty", _UNCERTAINTY)
        self._uncertainty.toggled.connect(self.uncertainty_changed)

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 2, 0, 0)
        column.setSpacing(5)
        label = make_label("Paint", self.painted.native)
        label.setMinimumWidth(50)
        column.addLayout(make_row(label, self.painted.native, self._new, stretch=1))
        column.addWidget(self.classes)
        below = make_row(self._add, self._hint, stretch=1)
        below.setAlignment(self._add, Qt.AlignmentFlag.AlignTop)
        below.setAlignment(self._hint, Qt.AlignmentFlag.AlignTop)
        below.addStretch(0)
        column.addLayout(below)
        column.addLayout(make_row(self._finetune, self.budget.native, self._stop, stretch=1))
        status = make_row(self._dot, self._status, stretch=1)
        status.setAlignment(self._dot, Qt.AlignmentFlag.AlignTop)
        column.addLayout(status)
        for part in (self.curve, self.report, self._words):
            column.addWidget(part)
        column.addLayout(make_row(self._revert, self._save))
        copy = make_row(self._copy, stretch=-1)
        copy.addStretch(1)
        column.addLayout(copy)
        column.addWidget(Rule())
        column.addLayout(make_row(self._next, self._uncertainty, stretch=0))
        column.addWidget(self.training)

    def _painted_chosen(self, value: Any) -> None:
        no_layer = isinstance(value, str) and value == NO_PAINT
        self.painted_changed.emit(None if no_layer else value)

    def _update_buttons(self) -> None:
        _allow(self._finetune, _FINETUNE_BUSY if self._running else self._reason, _FINETUNE)
        _allow(self._stop, "" if self._running else _STOP_OFF, _STOP)
        self.budget.set_available(not self._running, _FINETUNE_BUSY)


def _allow(button: QAbstractButton, reason: str, tooltip: str) -> None:
    """Switch a control on, or off with the reason as its tooltip."""
    button.setEnabled(not reason)
    button.setToolTip(tip(reason or tooltip))
