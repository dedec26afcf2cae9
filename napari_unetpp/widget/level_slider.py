"""The level slider: four stops with their names, scores and times under each other.

A view: it shows what it is told and says what a person chose. It knows no model and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import QPoint, QRect, QSize, Qt, Signal
from qtpy.QtGui import QMouseEvent, QPainter, QPaintEvent, QPalette, QPen, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractSlider,
    QGridLayout,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionSlider,
    QWidget,
)

from napari_unetpp.widget.figures_table import LevelFigures, Row, table
from napari_unetpp.widget.labels import TextLabel, fade_when_off, tip

LEVELS = (1, 2, 3, 4)

_SLIDER_TIP = (
    "How deep the network goes: L1 is there at once, L4 is best. "
    "A level that is already computed is shown without computing."
)
_Action = QAbstractSlider.SliderAction
_BACKWARDS: tuple[Any, ...] = (_Action.SliderSingleStepSub.value, _Action.SliderPageStepSub.value)
_FORWARDS: tuple[Any, ...] = (_Action.SliderSingleStepAdd.value, _Action.SliderPageStepAdd.value)


class StopSlider(QSlider):
    """A slider with the stops 1 to 4 that rests on trained levels only.

    A click goes to the nearest stop. A value that was not trained becomes the nearest one that
    was, wherever it came from, and ``settled`` fires once for each level that it comes to rest on.
    """

    settled = Signal(int)

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self._trained: tuple[int, ...] = LEVELS
        self._resting = LEVELS[-1]
        self.setRange(LEVELS[0], LEVELS[-1])
        self.setSingleStep(1)
        self.setPageStep(1)
        self.setTickInterval(1)
        self.setValue(self._resting)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumHeight(28)
        fade_when_off(self)
        self.actionTriggered.connect(self._adjust)
        self.valueChanged.connect(self._settle)

    @property
    def trained(self) -> tuple[int, ...]:
        """The levels that it may rest on."""
        return self._trained

    def set_trained(self, trained: tuple[int, ...]) -> None:
        """Say which stops there are; the value moves to the nearest of them."""
        self._trained = tuple(sorted(trained)) or LEVELS
        self.setValue(self.nearest(self.value()))
        self.update()

    def nearest(self, value: int) -> int:
        """Return the trained level that is nearest; the cheaper one of two."""
        return min(self._trained, key=lambda level: (abs(level - value), level))

    def stop_x(self, level: int) -> float:
        """Return where the middle of the handle is at a level."""
        option = QStyleOptionSlider()
        self.initStyleOption(option)
        option.sliderPosition = level
        handle = self._sub_rect(option)
        return handle.x() + handle.width() / 2

    def handle_width(self) -> int:
        """Return the width of the handle in the style of the moment."""
        option = QStyleOptionSlider()
        self.initStyleOption(option)
        return self._sub_rect(option).width()

    def sizeHint(self) -> QSize:
        """Return a size with room for the ticks below the groove."""
        return QSize(120, self.minimumHeight())

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Go to the stop that was clicked."""
        if event is None or event.button() != Qt.MouseButton.LeftButton:
            super().mousePressEvent(event)
            return
        self.setSliderDown(True)
        self._go(event.pos())

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Follow a drag from stop to stop."""
        if event is not None and self.isSliderDown():
            self._go(event.pos())

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:
        """End a drag."""
        if self.isSliderDown():
            self.setSliderDown(False)
        else:
            super().mouseReleaseEvent(event)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the slider in the style of the moment, and a tick under each trained stop."""
        super().paintEvent(event)
        painter = QPainter(self)
        colour = self.palette().color(QPalette.ColorRole.WindowText)
        bottom = self.height() - 1
        for level in LEVELS:
            painter.setOpacity(0.7 if level in self._trained else 0.25)
            painter.setPen(QPen(colour, 1))
            x = round(self.stop_x(level))
            painter.drawLine(x, bottom - 4, x, bottom)

    def _sub_rect(self, option: QStyleOptionSlider) -> QRect:
        style = self.style()
        assert style is not None
        return style.subControlRect(
            QStyle.ComplexControl.CC_Slider, option, QStyle.SubControl.SC_SliderHandle, self
        )

    def _go(self, position: QPoint) -> None:
        first, last = self.stop_x(LEVELS[0]), self.stop_x(LEVELS[-1])
        share = (position.x() - first) / max(1.0, last - first)
        stop = LEVELS[0] + round(share * (LEVELS[-1] - LEVELS[0]))
        self.setValue(self.nearest(stop))

    def _adjust(self, action: int) -> None:
        """Let a step of the keyboard jump over stops that were not trained."""
        value = self.value()
        if action in _FORWARDS:
            self.setSliderPosition(min((t for t in self._trained if t > value), default=value))
        elif action in _BACKWARDS:
            self.setSliderPosition(max((t for t in self._trained if t < value), default=value))
        elif self.sliderPosition() not in self._trained:
            self.setSliderPosition(self.nearest(self.sliderPosition()))

    def _settle(self, value: int) -> None:
        if value not in self._trained:
            self.setValue(self.nearest(value))
        elif value != self._resting:
            self._resting = value
            self.settled.emit(value)


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
