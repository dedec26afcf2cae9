"""The middle part of the panel: level, ensemble, live and threshold.

A view: it knows no model. Its setters emit nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magicgui.widgets import CheckBox
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_unetpp.widget.controls import make_label, make_row, name_control
from napari_unetpp.widget.figures_table import LevelFigures, ensemble_text
from napari_unetpp.widget.labels import TextLabel, fade_when_off, tip
from napari_unetpp.widget.level_slider import LevelSlider
from napari_unetpp.widget.threshold_slider import ThresholdSlider

_LIVE = "Predict what is on screen, L1 first, whenever you pan, zoom or change something."
_THRESHOLD = "A pixel belongs to a class from this probability on. It acts at once."
_ENSEMBLE = "The mean of all levels: it takes as long as the last one."
_ENSEMBLE_ON = "The ensemble takes all levels: switch it off to choose one."


class LevelForm(QWidget):
    """Level, ensemble, live and threshold."""

    level_changed = Signal(int)
    ensemble_changed = Signal(bool)
    live_changed = Signal(bool)
    threshold_changed = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self._quiet = False
        self.levels = LevelSlider()
        self.levels.level_changed.connect(self.level_changed)
        self._ensemble_form = CheckBox(text="Ensemble", value=False)
        self._ensemble: QCheckBox = self._ensemble_form.native
        name_control(self._ensemble, "ensemble_check", "Ensemble of all levels", _ENSEMBLE)
        self._ensemble.toggled.connect(self._ensemble_chosen)
        self._ensemble_figures = TextLabel(muted=True)
        self._live_form = CheckBox(text="Live", value=False)
        self._live: QCheckBox = self._live_form.native
        name_control(self._live, "live_check", "Live: predict what is on screen", _LIVE)
        self._live.toggled.connect(self._live_chosen)
        self._threshold = ThresholdSlider("Threshold")
        fade_when_off(self._threshold)
        name_control(self._threshold, "threshold_slider", "Threshold", _THRESHOLD)
        self._threshold.valueChanged.connect(self._threshold_chosen)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(5)
        column.addWidget(self.levels)
        column.addLayout(make_row(self._ensemble, self._ensemble_figures, stretch=1))
        label = make_label("Threshold", self._threshold)
        column.addLayout(make_row(self._live, label, self._threshold, stretch=2))

    @property
    def focus_order(self) -> list[QWidget]:
        """The controls as the keyboard visits them."""
        return [self.levels.slider, self._ensemble, self._live, self._threshold]

    @property
    def ensemble(self) -> bool:
        """Whether the mean of all levels is wanted."""
        return self._ensemble.isChecked()

    @property
    def live(self) -> bool:
        """Whether what is on screen is predicted without being asked."""
        return self._live.isChecked()

    @property
    def threshold(self) -> float:
        """The probability from which a pixel belongs to a class."""
        return round(float(self._threshold.value()), 2)

    def set_levels(
        self, trained: tuple[int, ...], figures: Mapping[int | str, LevelFigures]
    ) -> None:
        """Show which levels there are, what each is worth and what it costs."""
        self.levels.set_levels(trained, figures)
        cell = ensemble_text(figures.get("ensemble"))
        self._ensemble_figures.show_text(cell.text, cell.tooltip)

    def set_ensemble(self, ensemble: bool) -> None:
        """Choose the mean of all levels, or one of them."""
        self._silently(self._ensemble.setChecked, ensemble)

    def set_live(self, live: bool, reason: str) -> None:
        """Switch live on or off; a reason says why it cannot be switched."""
        self._silently(self._live.setChecked, live)
        self._live.setEnabled(not reason)
        self._live.setToolTip(tip(reason or _LIVE))

    def set_threshold(self, threshold: float) -> None:
        """Choose a threshold."""
        self._silently(self._threshold.setValue, threshold)

    def set_threshold_enabled(self, enabled: bool, reason: str) -> None:
        """Allow a threshold, or say why there is none."""
        self._threshold.setEnabled(enabled)
        self._threshold.setToolTip(tip(_THRESHOLD if enabled else reason))

    def _silently(self, setter: Any, value: Any) -> None:
        self._quiet = True
        try:
            setter(value)
        finally:
            self._quiet = False

    def _ensemble_chosen(self, ensemble: bool) -> None:
        self._ensemble_figures.set_muted(not ensemble)
        self.levels.set_available(not ensemble, _ENSEMBLE_ON)
        if not self._quiet:
            self.ensemble_changed.emit(ensemble)

    def _live_chosen(self, live: bool) -> None:
        if not self._quiet:
            self.live_changed.emit(live)

    def _threshold_chosen(self, _: float) -> None:
        if not self._quiet:
            self.threshold_changed.emit(self.threshold)
