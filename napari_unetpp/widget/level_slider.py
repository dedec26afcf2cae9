"""The level slider: four stops with their names, scores and times under each other.

A view: it shows what it is told and says what a person chose. It knows no model and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QMouseEvent, QResizeEvent
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QWidget

from napari_unetpp.widget.figures_table import LevelFigures, Row, table
from napari_unetpp.widget.labels import TextLabel, tip
from napari_unetpp.widget.stop_slider import LEVELS, StopSlider

_SLIDER_TIP = (
    "How deep the network goes: L1 is there at once, L4 is best. "
    "A level that is already computed is shown without computing."
)


class _Track(QWidget):
    """Holds the slider so that its stops lie under the middles of four equal columns."""

    def __init__(self, slider: StopSlider) -> None:
        super().__init__()
        self._slider = slider
        slider.setParent(self)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(160, self._slider.sizeHint().height())

    def minimumSizeHint(self) -> QSize:
        return QSize(96, self._slider.sizeHint().height())

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        column = self.width() / len(LEVELS)
        handle = self._slider.handle_width()
        left = round(column / 2 - handle / 2)
        width = round((len(LEVELS) - 1) * column + handle)
        self._slider.setGeometry(left, 0, width, self.height())


class _StopName(TextLabel):
    """The name of a stop; a click goes there."""

    clicked = Signal()

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        if event is not None and event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit()


class LevelSlider(QWidget):
    """Four stops with their names, and under each its score and its time.

    Attributes
    ----------
    slider : StopSlider
        The slider itself, values 1 to 4, objectName ``level_slider``.
    """

    level_changed = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._quiet = False
        self.slider = StopSlider()
        self.slider.setObjectName("level_slider")
        self.slider.setAccessibleName("Level")
        self.slider.settled.connect(self._settled)
        self._names = {level: _StopName(f"L{level}") for level in LEVELS}
        self._rows = [self._make_row() for _ in range(2)]
        self._build()
        self.set_levels(LEVELS, {})

    @property
    def level(self) -> int:
        """The level that is chosen, 1 to 4."""
        return self.slider.value()

    def set_level(self, level: int) -> None:
        """Choose a level without a signal; one that was not trained becomes the nearest."""
        self._quiet = True
        try:
            self.slider.setValue(self.slider.nearest(level))
        finally:
            self._quiet = False

    def set_levels(
        self, trained: tuple[int, ...], figures: Mapping[int | str, LevelFigures]
    ) -> None:
        """Show which levels there are, and what they are worth and cost; no signal."""
        self._quiet = True
        try:
            self.slider.set_trained(trained)
        finally:
            self._quiet = False
        for level, name in self._names.items():
            there = level in self.slider.trained
            name.setEnabled(there)
            text = f"Go to L{level}." if there else f"L{level} was not trained in this model."
            name.show_text(f"L{level}", text)
        for labels, row in zip(
            self._rows, table(LEVELS, self.slider.trained, figures), strict=True
        ):
            self._show_row(labels, row)
        self._mark()

    def set_available(self, available: bool, reason: str = "") -> None:
        """Allow choosing a level, or say why there is nothing to choose."""
        self.slider.setEnabled(available)
        self.slider.setToolTip(tip(_SLIDER_TIP if available else reason))
        self._mark()

    def _build(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(2)
        grid.setVerticalSpacing(1)
        middle = Qt.AlignmentFlag.AlignCenter
        for column, level in enumerate(LEVELS, start=1):
            grid.setColumnStretch(column, 1)
            name = self._names[level]
            name.setAlignment(middle)
            name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            name.clicked.connect(lambda level=level: self._clicked(level))
            grid.addWidget(name, 0, column)
        ends = TextLabel("fast", muted=True), TextLabel("best", muted=True)
        grid.addWidget(ends[0], 1, 0)
        grid.addWidget(_Track(self.slider), 1, 1, 1, len(LEVELS))
        grid.addWidget(ends[1], 1, 5)
        for line, labels in enumerate(self._rows, start=2):
            for column, label in enumerate(labels):
                if 0 < column < len(labels) - 1:
                    label.setAlignment(middle)
                    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
                grid.addWidget(label, line, column)
        self.slider.setToolTip(tip(_SLIDER_TIP))

    @staticmethod
    def _make_row() -> list[TextLabel]:
        return [TextLabel() for _ in range(len(LEVELS) + 2)]

    @staticmethod
    def _show_row(labels: list[TextLabel], row: Row) -> None:
        labels[0].show_text(row.header)
        for label, cell in zip(labels[1:-1], row.cells, strict=True):
            label.show_text(cell.text, cell.tooltip)
            label.setAccessibleName(cell.tooltip)
            label.set_muted(cell.muted)
        labels[-1].show_text(row.note, row.note_tooltip)
        labels[-1].set_muted(row.note_muted)

    def _clicked(self, level: int) -> None:
        if self.slider.isEnabled() and level in self.slider.trained:
            self.slider.setFocus(Qt.FocusReason.MouseFocusReason)
            self.slider.setValue(level)

    def _settled(self, level: int) -> None:
        self._mark()
        if not self._quiet:
            self.level_changed.emit(level)

    def _mark(self) -> None:
        """Set the chosen stop's column in bold."""
        self.slider.setAccessibleDescription(f"L{self.level}")
        for column, (level, name) in enumerate(self._names.items(), start=1):
            chosen = level == self.level and self.slider.isEnabled()
            for label in (name, *(row[column] for row in self._rows)):
                font = label.font()
                font.setBold(chosen)
                label.setFont(font)
